"""Work that grows with what there is, and not faster: counted in calls, never in seconds."""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from perdure.replication import admission
from perdure.replication.admission import Draft, Site
from perdure.replication.errors import Refusal
from perdure.replication.hlc import HybridClock
from perdure.replication.items import chain_digest
from perdure.replication.lane import Lane, Piece, Place
from perdure.replication.limits import APPEND_ITEMS_MAX, MESSAGE_ITEMS_MAX
from perdure.replication.operations import Operation
from perdure.replication.records import Origin
from perdure.replication.resume import resume
from perdure.replication.session import Session

from tests.replication.strategies import lane_key
from tests.replication.test_resume import NOBODY

KEY = lane_key()
MILLION = 1_000_000
# Twice as much may take a little more than twice the work.
TWICE = 2.3


def calls(work: Callable[[], Any]) -> int:
    """How many functions are called, of Python and of C."""
    count = 0

    def called(_frame: Any, event: str, _arg: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(called)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


def pieces(count: int) -> list[Piece]:
    """A lane of so many tokens, a token each."""
    running, found = Lane("s", "m", KEY).digest_at(0), []
    for seq in range(count):
        found.append(Piece(seq, running, ("x",)))
        running = chain_digest(running, "x")
    return found


ORDERS: dict[str, Callable[[list[Piece]], list[Piece]]] = {
    "in order": lambda all_: all_,
    "the first last": lambda all_: [*all_[1:], all_[0]],
    "backwards": lambda all_: all_[::-1],
    "the second half first": lambda all_: [*all_[len(all_) // 2 :], *all_[: len(all_) // 2]],
    "all twice, backwards": lambda all_: all_[::-1] + all_[::-1],
}


@pytest.mark.failure("X4")
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS.keys())
def test_pieces_in_any_order_cost_what_they_are(order: Callable[..., list[Piece]]) -> None:
    """An agent that went on in another region is heard of there first: however much of its text
    waits for the beginning, each piece is looked at a few times."""

    def work(count: int) -> int:
        lane, arriving = Lane("s", "m", KEY), order(pieces(count))

        def merge() -> None:
            for piece in arriving:
                lane.merge(piece)

        counted = calls(merge)
        assert (lane.count, lane.parked) == (count, 0)
        return counted

    assert work(1_000) < TWICE * work(500)


class Writing:
    """A session that is written to, and read."""

    def __init__(self) -> None:
        self.session = Session("s")
        self.site = Site("eu", HybridClock(), 1_800_000_000_000)
        self.lsn = 0

    def take(self, operations: list[Operation]) -> None:
        for operation in operations:
            self.lsn += 1
            self.session.apply(operation, Place(Origin("eu", 1), self.lsn), own=True)
        for _ in self.session.refresh():
            pass

    def open(self) -> Any:
        draft = Draft("assistant", id="m", producer="p", claim_id="claim-0000")
        opened = admission.admit_message(self.session, draft, self.site)
        self.take(list(opened.operations))
        return opened.lane

    def append(self, lane: Any, seq: int, items: tuple[str, ...]) -> int:
        admitted = admission.admit_append(self.session, "m", lane, seq, items, {})
        self.take(list(admitted.operations))
        return int(admitted.duplicates)

    def read(self) -> list[str]:
        """A snapshot, and what one who comes with its cursor gets."""
        value = self.session.value("-")
        first, _ = resume(self.session, None, 0, NOBODY)
        return [value["messages"][0]["text"], *(event.name for event in first)]


@pytest.mark.failure("X4")
def test_many_epochs_of_one_message() -> None:
    """One producer after another takes the message over and says a word: what each costs grows with
    those before it, and not faster; and so does a reader."""

    def work(count: int) -> tuple[int, int]:
        writing = Writing()

        def write() -> None:
            writing.open()
            for number in range(count):
                session, producer = writing.session, f"p{number}"
                claim_id = f"claim-{number:05}"
                claim = admission.admit_claim(session, "m", producer, claim_id, "continue")
                writing.take(list(claim.operations))
                writing.append(claim.lane, 0, ("x",))

        wrote, read = calls(write), calls(writing.read)
        assert writing.read()[0] == "x" * count
        return wrote, read

    (wrote, read), (wrote_twice, read_twice) = work(100), work(200)
    assert read_twice < TWICE * read
    assert wrote_twice < TWICE * TWICE * wrote


@pytest.mark.failure("X4", "X7")
def test_a_million_tokens_of_one_character() -> None:
    """Each append costs what it brings, wherever the lane has come to; a reader is given the text
    at once; and what was said first is still a duplicate, or a conflict."""
    writing = Writing()
    lane = writing.open()
    batch = ("x",) * APPEND_ITEMS_MAX
    costs = []
    for seq in range(0, MILLION, APPEND_ITEMS_MAX):
        work = partial(writing.append, lane, seq, batch)
        costs.append(calls(work) if seq % (40 * APPEND_ITEMS_MAX) == 0 else work())
    counted = costs[::40]
    assert max(counted[1:]) < 1.1 * min(counted[1:]) + 100
    assert writing.read() == ["x" * len(costs) * APPEND_ITEMS_MAX, "snapshot", "ready"]
    assert calls(writing.read) < 3_000
    assert writing.append(lane, 0, ("x",)) == 1
    assert writing.append(lane, 0, batch) == APPEND_ITEMS_MAX
    with pytest.raises(Refusal, match="conflict"):
        writing.append(lane, 0, ("y",))
    assert len(costs) * APPEND_ITEMS_MAX < MESSAGE_ITEMS_MAX
