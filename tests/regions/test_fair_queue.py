"""Turns of tenants and of sessions; each session in its order."""

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st
from perdure.regions.fair_queue import FairQueue


class Item(NamedTuple):
    session: str
    number: int


def taken(queue: FairQueue[Item]) -> list[Item]:
    found = []
    while (item := queue.take()) is not None:
        found.append(item)
    return found


def test_sessions_and_tenants_take_turns():
    """One of each, however many wait."""
    queue: FairQueue[Item] = FairQueue()
    for n in range(3):
        queue.add(Item("a:s", n))
        queue.add(Item("a:t", n))
        queue.add(Item("b:s", n))
        queue.add(Item("s", n))
    order = [item.session for item in taken(queue)]
    assert order == ["a:s", "b:s", "s", "a:t", "b:s", "s", "a:s", "b:s", "s", "a:t", "a:s", "a:t"]
    assert len(queue) == 0


def test_what_is_held_stays_first():
    """Nothing of its session is taken until it is released, and then it comes first."""
    queue: FairQueue[Item] = FairQueue()
    for n in range(2):
        queue.add(Item("s", n))
        queue.add(Item("t", n))
    first = queue.take()
    assert first == Item("s", 0)
    queue.hold(first)
    assert taken(queue) == [Item("t", 0), Item("t", 1)]
    assert len(queue) == 2
    queue.add(Item("u", 0))
    queue.add(Item("s", 2))
    queue.release()
    assert taken(queue) == [Item("s", 0), Item("u", 0), Item("s", 1), Item("s", 2)]


@given(st.lists(st.tuples(st.sampled_from(["s", "t", "a:s", "a:t", "b:s"]), st.booleans())))
def test_nothing_is_lost_and_every_session_keeps_its_order(steps: list[tuple[str, bool]]):
    """Whatever is held and released meanwhile."""
    queue: FairQueue[Item] = FairQueue()
    found: dict[str, list[int]] = {}
    added: dict[str, int] = {}
    for session, holds in steps:
        queue.add(Item(session, added.setdefault(session, 0)))
        added[session] += 1
        item = queue.take()
        assert item is not None
        if holds:
            queue.hold(item)
            queue.release()
        else:
            found.setdefault(item.session, []).append(item.number)
    for item in taken(queue):
        found.setdefault(item.session, []).append(item.number)
    assert found == {session: list(range(count)) for session, count in added.items()}
