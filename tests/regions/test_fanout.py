"""Readers of one region: one shared log of events, bounded, and nobody feels a slow one."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from perdure.regions import fanout
from perdure.regions.fanout import Reader
from perdure.regions.node import Node
from perdure.replication.admission import Draft
from perdure.replication.errors import Refusal
from perdure.replication.feed import Event
from perdure.replication.limits import FEED_BYTES_MAX

from tests.regions.conftest import Regions


@pytest.fixture
async def node(regions: Regions) -> AsyncIterator[Node]:
    node, _ = regions.node()
    node.start(None)
    await node.create("s", {})
    yield node
    await node.stop()


async def send(node: Node, id_: str, size: int = 1) -> None:
    await node.send("s", Draft("user", id=id_, text="x" * size))


async def drain(reader: Reader) -> list[Event]:
    """What is there now."""
    events = await reader.next()
    assert events is not None
    return events


@pytest.mark.failure("L6")
async def test_readers_share_their_events(node: Node) -> None:
    """One object for all, so that it is encoded once; each gets it once and in order."""
    readers = [node.subscribe("s", None) for _ in range(3)]
    for reader in readers:
        assert [event.name for event in await drain(reader)] == ["snapshot", "ready"]
    await send(node, "a")
    await send(node, "b")
    batches = [await drain(reader) for reader in readers]
    assert [event.name for event in batches[0]] == ["message", "message"]
    assert all(one is other for one, other in zip(batches[0], batches[1], strict=True))
    for reader in readers:
        reader.close()


@pytest.mark.failure("C10")
async def test_snapshot_and_subscription_are_one_step(node: Node) -> None:
    """What is written between any two readers' subscriptions is in the snapshot or an event, never
    in both and never in neither."""
    readers: list[Reader] = []
    for number in range(5):
        readers.append(node.subscribe("s", None))
        await send(node, f"m{number}")
    for number, reader in enumerate(readers):
        snapshot, _ready = await drain(reader)
        events = [snapshot, *await drain(reader)]
        told = [f"m{n}" for event in events for n in range(5) if f'"id":"m{n}"' in event.data]
        assert told == [f"m{n}" for n in range(5)], number
        reader.close()


@pytest.mark.failure("L1")
async def test_a_slow_reader_is_cut_and_the_others_do_not_feel_it(node: Node) -> None:
    """Beyond 1 MiB that waits it is cut; its cursor brings it everything."""
    slow, quick = node.subscribe("s", None), node.subscribe("s", None)
    (snapshot, _), _ = await drain(slow), await drain(quick)
    size, count = 100_000, FEED_BYTES_MAX // 100_000 + 2
    received = 0
    for number in range(count):
        await send(node, f"m{number}", size)
        received += len(await drain(quick))
    assert received == count
    assert await slow.next() is None
    slow.close()
    again = node.subscribe("s", snapshot.cursor)
    events = await drain(again)
    assert [e.name for e in events] == [
        *["message"] * count,
        "metadata",
        "presence",
        "run",
        "document",
        "ready",
    ]
    again.close()
    quick.close()


async def held(node: Node, regions: Regions) -> Reader:
    """A reader of ``s`` who holds more of message ``m`` than this region, and has heard so."""
    ahead, _ = regions.node("us")
    ahead.start(None)
    draft = Draft("assistant", id="m", producer="p", claim_id="claim-0001")
    opened = await ahead.open("s", draft)
    await ahead.append("s", "m", "p", opened.epoch, 0, ["a", "b"], None)
    cursor = ahead.snapshot("s")["cursor"]
    await ahead.stop()
    await node.reopen("s", opened.header)
    reader = node.subscribe("s", cursor)
    assert "stale" in [event.name for event in await drain(reader)]
    assert reader.returning is not None
    return reader


async def test_a_reader_whose_hold_ends_misses_nothing_of_the_same_batch(
    node: Node, regions: Regions
) -> None:
    """What was committed together is told change by change: who joins the others at one of them
    gets the rest as they do."""
    ahead, disk = regions.node("us")
    ahead.start(None)
    await ahead.send("s", Draft("user", id="held", text="x"))
    cursor = ahead.snapshot("s")["cursor"]
    for id_ in ("a", "b", "c"):
        await ahead.send("s", Draft("user", id=id_, text=id_))
    records = [record for batch in disk.commits for record in batch]
    await ahead.stop()
    reader = node.subscribe("s", cursor)
    await drain(reader)
    await node.receive(records)
    events = await drain(reader)
    more = asyncio.create_task(drain(reader))
    await asyncio.sleep(0)
    node.fanout.keep_alive()
    events = [event for event in [*events, *await more] if event.name == "message"]
    assert [json.loads(event.data)["id"] for event in events] == ["a", "b", "c"]
    reader.close()


@pytest.mark.failure("L1")
async def test_a_reader_with_events_of_its_own_is_bounded_too(node: Node, regions: Regions) -> None:
    """One that keeps up is never cut, however much it is sent in all; one that does not is, and
    goes on by its cursor with everything."""
    reader = await held(node, regions)
    size, count = 100_000, FEED_BYTES_MAX // 100_000 + 2
    for number in range(0, count, 2):
        await send(node, f"k{number}", size)
        await send(node, f"k{number + 1}", size)
        _, event = await drain(reader)
        assert event.name == "message"
    for number in range(count):
        await send(node, f"s{number}", size)
    assert await reader.next() is None
    reader.close()
    again = node.subscribe("s", event.cursor)
    told = "".join(one.data for one in await drain(again) if one.name == "message")
    assert all(f'"id":"s{number}"' in told for number in range(count))
    assert '"id":"k' not in told
    again.close()


async def test_the_first_snapshot_is_not_counted(node: Node) -> None:
    """It may be larger than the bound: it is written by pull."""
    for number in range(12):
        await send(node, f"m{number}", 200_000)
    reader = node.subscribe("s", None)
    snapshot, _ = await drain(reader)
    assert len(snapshot.data) > 2 * FEED_BYTES_MAX
    await send(node, "after")
    assert [event.name for event in await drain(reader)] == ["message"]
    reader.close()


async def test_a_single_event_may_be_larger_than_the_bound(node: Node) -> None:
    """It is not what cuts a reader that is up to date."""
    reader = node.subscribe("s", None)
    await drain(reader)
    await send(node, "large", FEED_BYTES_MAX - 100)
    assert [event.name for event in await drain(reader)] == ["message"]
    reader.close()


async def test_what_everybody_has_taken_is_let_go(node: Node) -> None:
    """The shared log holds what the slowest reader lacks, and goes with the last reader."""
    one, other = node.subscribe("s", None), node.subscribe("s", None)
    await drain(one), await drain(other)
    for number in range(10):
        await send(node, f"m{number}")
    feed = one.feed
    await drain(one)
    feed.trim()
    assert len(feed._events) == 10
    await drain(other)
    feed.trim()
    assert len(feed._events) == 0
    one.close()
    assert node.fanout.get("s") is feed
    other.close()
    other.close()
    assert node.fanout.get("s") is None and node.fanout.count == 0


async def test_a_reader_that_is_cancelled_cancels_no_other(node: Node) -> None:
    """They wait for one future."""
    readers = [node.subscribe("s", None) for _ in range(2)]
    for reader in readers:
        await drain(reader)
    waiting = [asyncio.create_task(reader.next()) for reader in readers]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    await send(node, "m")
    events = await waiting[1]
    assert events is not None and [event.name for event in events] == ["message"]
    for reader in readers:
        reader.close()


async def test_readers_are_limited(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the refused one has left nothing behind."""
    monkeypatch.setattr(fanout, "READERS_MAX", 1)
    reader = node.subscribe("s", None)
    with pytest.raises(Refusal, match="too_many"):
        node.subscribe("s", None)
    reader.close()
    node.subscribe("s", None).close()


async def test_following_a_session_that_does_not_exist_does_not_make_it(node: Node) -> None:
    """Its reader waits for it; when the reader is gone nothing is left of it."""
    reader = node.subscribe("new", None)
    assert [event.name for event in await drain(reader)] == ["snapshot", "ready"]
    assert [s["id"] for s in node.sessions(None, 10)["sessions"]] == ["s"]
    await node.create("new", {"a": 1})
    assert [event.name for event in await drain(reader)] == ["metadata"]
    reader.close()
    node.subscribe("other", None).close()
    assert "other" not in node.state.sessions


async def test_a_deleted_session_ends_its_readers(node: Node) -> None:
    """``deleted`` is the last event; later readers are refused."""
    reader = node.subscribe("s", None)
    await drain(reader)
    await node.delete("s")
    assert [event.name for event in await drain(reader)] == ["deleted"]
    assert await reader.next() is None
    reader.close()
    with pytest.raises(Refusal, match="deleted"):
        node.subscribe("s", None)
