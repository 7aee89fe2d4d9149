"""What one region holds of who is present: what is refused, taken over, renewed, and let go of."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from perdure.regions import fanout
from perdure.regions.node import Node
from perdure.regions.presence import REST_AFTER_MS, TELL_EVERY_MS
from perdure.replication.errors import Refusal
from perdure.replication.ids import beside_tag
from perdure.replication.limits import PRESENCE_GRACE_S
from perdure.replication.presence import Delta, Presence
from perdure.replication.presence_view import PUT, Key
from perdure.replication.records import Origin

from tests.regions.conftest import Regions


def ready(regions: Regions) -> Node:
    node, _ = regions.node("eu", ["us"])
    node._status = None
    return node


def refused(code: str, call: Callable[[], object]) -> None:
    with pytest.raises(Refusal) as caught:
        call()
    assert caught.value.code == code


def test_a_refused_subscription_brings_nobody(regions: Regions) -> None:
    """Neither one with a bad cursor, nor one that comes while the region drains."""
    node = ready(regions)
    refused("invalid_cursor", lambda: node.subscribe("s", "!", "ana"))
    assert len(node.desk.presence) == 0
    node.fanout.draining = True
    refused("draining", lambda: node.subscribe("s", None, "ana"))
    assert len(node.desk.presence) == 0


def test_whoever_fails_to_subscribe_is_not_here_for_ever(
    regions: Regions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong, its arrival ends with the grace."""
    node = ready(regions)

    def fail(_: str) -> None:
        raise OSError("the disk")

    monkeypatch.setattr(node.state, "session", fail)
    with pytest.raises(OSError, match="the disk"):
        node.subscribe("s", None, "ana")
    regions.clock.pass_ms(PRESENCE_GRACE_S * 1000 + 1)
    node.desk.tick()
    assert len(node.desk.presence) == 0


def test_a_lease_of_before_does_not_replace_a_newer_one(regions: Regions) -> None:
    """The member was put here before this region heard of its earlier start."""
    node = ready(regions)
    before = Presence(Origin("eu", 1))
    entry, dots = before.add(Key("s", "ana", PUT), '"old"', 1, 1, 5)
    node.put_member("s", "ana", "new", 60)
    node.desk._merged(node.desk.gossip.received("us", Delta((entry,), frozenset(dots))))
    node.desk.tick()
    regions.clock.pass_ms(PRESENCE_GRACE_S * 1000)
    node.desk.tick()
    value = node.desk.value("s", "ana")
    assert value is not None
    assert (value["data"], value["connections"]) == ("new", 1)
    regions.clock.pass_ms(10_000)
    node.desk.tick()
    assert node.desk.value("s", "ana") is not None


def test_what_is_put_again_and_again_takes_no_room(regions: Regions) -> None:
    """However often a lease changes, it is due once."""
    node = ready(regions)
    for number in range(20_000):
        node.put_member("s", "ana", number, 3_600)
    assert len(node.desk.attendance._due) < 5_000
    regions.clock.pass_ms(3_600_001)
    node.desk.tick()
    assert node.desk.value("s", "ana") is None


def test_what_is_put_last_is_shown_also_when_it_was_put_before(regions: Regions) -> None:
    """Other data came through a connection in between."""
    node = ready(regions)
    node.put_member("s", "ana", "put")
    node.subscribe("s", None, "ana", "connected")
    assert node.put_member("s", "ana", "put")["data"] == "put"


def test_thousands_who_come_at_once_cut_nobody_off(regions: Regions) -> None:
    """They are told in pieces, and all of them are told."""
    node = ready(regions)
    reader = node.subscribe("s", None)
    reader._own.clear()
    other = Presence(Origin("us", 1))
    dots = []
    for number in range(5_000):
        _, more = other.add(Key("s", f"member-{number}", PUT), f'"{"x" * 300}"', 1, 1, 60)
        dots += more
    node.desk.gossip._shown.add(other.me)
    node.desk._merged(node.desk.gossip.received("us", other.delta(dots)))
    told = 0
    while node.desk._due_ms:
        events = reader.feed.since(reader.index)
        assert events is not None, "it was cut, and had no chance"
        reader.index = reader.feed.end
        told += sum(event.data.count('"member":') for event in events)
        regions.clock.pass_ms(REST_AFTER_MS)
        node.desk._tell("s", regions.clock.monotonic_ms())
    told += sum(e.data.count('"member":') for e in reader.feed.since(reader.index) or ())
    assert told == len(reader.feed.roster) == 5_000


async def test_few_are_told_while_many_wait(regions: Regions) -> None:
    """A session with thousands is told seldom; what happens in another one does not wait for it."""
    node = ready(regions)
    readers = [node.subscribe(session, None) for session in ("big", "small")]
    desk = node.desk
    desk._due_ms["big"] = desk._clock.monotonic_ms() + 60_000
    desk._news.set()
    running = asyncio.create_task(desk.run())
    await asyncio.sleep(0)
    node.put_member("small", "ana")
    node.put_member("small", "ben")
    regions.clock.pass_ms(TELL_EVERY_MS)
    for _ in range(5):
        await asyncio.sleep(0)
    events = [event.data for event in readers[1].feed.since(readers[1].index) or ()]
    running.cancel()
    assert any("ben" in data for data in events)


def test_what_polls_were_told_is_named_once_for_all_of_them(
    regions: Regions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With thousands present it is a long text, and all who poll want its name at once."""
    named: list[str] = []

    def name(metadata: dict[str, Any], fields: str) -> str:
        named.append(fields)
        return beside_tag(metadata, fields)

    monkeypatch.setattr(fanout, "beside_tag", name)
    node = ready(regions)
    feed = node.subscribe("s", None).feed
    first = {feed.tag() for _ in range(100)}
    node.put_member("s", "ana")
    second = {feed.tag() for _ in range(100)}
    assert len(named) == len(first | second) == 2
