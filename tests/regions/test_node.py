"""One region: the order of effects, restarts, drains, what happens when the disk fails."""

import asyncio
from typing import Any

import pytest
from perdure.regions.node import Node
from perdure.regions.ports import StorageFailed, StorageFull
from perdure.replication import frames
from perdure.replication.admission import Draft
from perdure.replication.errors import Refusal
from perdure.replication.limits import HOLD_MS, KEEPALIVE_S, WRITE_QUEUE_ITEMS_MAX
from perdure.replication.records import Origin, seal

from tests.regions.conftest import Regions

OPEN = Draft("assistant", id="m", producer="p", claim_id="claim-0001")


async def opened(node: Node, session: str = "s") -> str:
    """The epoch of an open message ``m``."""
    node.start(None)
    return (await node.open(session, OPEN)).epoch


def append(node: Node, epoch: str, seq: int, *items: Any, end: str | None = None) -> Any:
    return node.append("s", "m", "p", epoch, seq, items, end)


# The order of effects


async def test_what_gathers_is_committed_together(regions: Regions) -> None:
    """Writes that wait while a commit runs share the next one, and each is answered by it."""
    node, disk = regions.node()
    epoch = await opened(node)
    disk.commits.clear()
    acks = await asyncio.gather(*(append(node, epoch, n, f"t{n}") for n in range(50)))
    assert [ack.accepted for ack in acks] == sorted(ack.accepted for ack in acks)
    assert len(disk.commits) <= 3 and sum(map(len, disk.commits)) == 50
    assert node.message("s", "m")["length"] == 50
    await node.stop()


async def test_nothing_is_shown_or_answered_before_it_is_on_disk(regions: Regions) -> None:
    """While the commit runs: not in the state, not told to readers, not acknowledged."""
    node, disk = regions.node()
    epoch = await opened(node)
    reader = node.subscribe("s", None)
    await reader.next()
    seen: list[int] = []
    disk.before_commit = lambda: seen.append(node.message("s", "m")["length"])
    ack = await append(node, epoch, 0, "a", "b")
    assert (seen, ack.accepted) == ([0], 2)
    events = await reader.next()
    assert events is not None and [event.name for event in events] == ["append"]
    reader.close()
    await node.stop()


@pytest.mark.failure("P7")
async def test_a_failed_commit_changes_nothing(regions: Regions) -> None:
    """All of its writes are refused; a full disk is tried again, and then all is as if nothing had
    been."""
    node, disk = regions.node()
    epoch = await opened(node)
    reader = node.subscribe("s", None)
    await reader.next()
    disk.failure = StorageFull("no room")
    writes = (append(node, epoch, 0, "a"), append(node, epoch, 1, "b"), node.create("other", {}))
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert all(isinstance(result, StorageFull | Refusal) for result in results), results
    assert node.message("s", "m")["length"] == 0
    assert node.readiness() is None, "reads go on, and room may come back"
    with pytest.raises(Refusal, match="not_found"):
        node.snapshot("other")
    disk.failure = None
    assert (await append(node, epoch, 0, "a")).accepted == 1
    events = await reader.next()
    assert events is not None and '"from":0,"to":1' in events[0].data
    reader.close()
    await node.stop()


@pytest.mark.failure("P8")
async def test_a_failed_disk_stops_writes_for_good_and_is_told(regions: Regions) -> None:
    """Not ready; writes are refused at once, also those that waited; reads go on."""
    node, disk = regions.node()
    epoch = await opened(node)
    await append(node, epoch, 0, "a")
    disk.failure = StorageFailed("I/O error")
    writes = [append(node, epoch, 1, "b"), append(node, epoch, 2, "c")]
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert all(isinstance(result, StorageFailed | Refusal) for result in results)
    assert node.readiness() == "storage_failed"
    with pytest.raises(Refusal, match="storage_failed"):
        await append(node, epoch, 1, "b")
    assert node.message("s", "m")["text"] == "a"
    await node.stop()


async def test_a_writer_that_dies_makes_the_region_unready(
    regions: Regions, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing can be acknowledged any more, so nothing must look as if it could; and nobody waits
    for an answer that cannot come."""
    node, _ = regions.node()
    node.start(None)
    node._writer._collect = lambda: 1 / 0  # type: ignore[assignment, method-assign]
    with pytest.raises(StorageFailed, match="the writer has died"):
        await node.create("s", {})
    assert node.readiness() == "storage_failed"
    while "the writer has died" not in caplog.text:
        await asyncio.sleep(0)
    with pytest.raises(Refusal, match="storage_failed"):
        await node.create("s", {})
    await node.stop()


@pytest.mark.failure("P10")
async def test_a_deleted_database_makes_the_region_unready(regions: Regions) -> None:
    """The file is removed under the running node: nothing more is acknowledged, also when it
    comes back; what is known is still read."""
    node, disk = regions.node()
    epoch = await opened(node)
    await append(node, epoch, 0, "a")
    gone = disk.path.rename(disk.path.with_suffix(".gone"))
    with pytest.raises(StorageFailed, match="gone"):
        await append(node, epoch, 1, "b")
    gone.rename(disk.path)
    with pytest.raises(Refusal, match="storage_failed"):
        await append(node, epoch, 1, "b")
    assert node.readiness() == "storage_failed"
    assert node.message("s", "m")["text"] == "a"
    await node.stop()


async def test_waiting_writes_are_bounded(regions: Regions) -> None:
    """Beyond the limit a write is refused with Retry-After instead of waiting."""
    node, _ = regions.node()
    node.start(None)
    node._writer._queue._count = WRITE_QUEUE_ITEMS_MAX
    with pytest.raises(Refusal, match="too_many"):
        await node.create("s", {})
    node._writer._queue._count = 0
    await node.stop()


async def test_writes_to_one_session_keep_their_order(regions: Regions) -> None:
    """One that wants the session for itself is put off, and what came after it waits behind it."""
    node, _ = regions.node()
    epoch = await opened(node)
    _, _, metadata, _, status = await asyncio.gather(
        append(node, epoch, 0, "a"),
        node.patch_metadata("s", {"n": 1}),
        node.patch_metadata("s", {"n": 2}),
        append(node, epoch, 1, "b"),
        node.cancel("s", "m"),
    )
    assert (metadata, status) == ({"n": 2}, "cancelled")
    assert node.message("s", "m")["text"] == "ab"
    await node.stop()


@pytest.mark.failure("C7")
async def test_poison_from_a_peer_is_kept_counted_and_not_applied(
    regions: Regions, caplog: pytest.LogCaptureFixture
) -> None:
    """An operation that this version cannot read is stored for one that can; one that breaks is
    left out; what comes with them counts."""
    node, _ = regions.node(peers=["us"])
    node.start(None)
    us = Origin("us", 7)
    bodies = [
        b'["of a later version","s"]',
        b"\xff\x00",
        b'["create","s",1,"us",{"a":1}]',
    ]
    await node.receive([seal(us, lsn + 1, body) for lsn, body in enumerate(bodies)])
    assert node.metadata("s") == {"a": 1}
    assert node.gossip.vector == {us: 3}
    assert node.regions()["counters"]["undecodable"] == 2
    session = node.state.sessions["s"]
    session.apply = lambda *_, **__: 1 / 0  # type: ignore[assignment, method-assign, return-value]
    await node.receive([seal(us, 4, b'["create","s",1,"us",{"b":1}]')])
    assert node.regions()["counters"]["unapplied"] == 1
    assert "us/0000000000000007/4 cannot be applied" in caplog.text
    assert (await node.create("t", {}))[0] is True
    await node.stop()


# Restarts


@pytest.mark.failure("P4")
async def test_a_restart_recovers_all_that_was_acknowledged(regions: Regions) -> None:
    """Sessions, order, metadata, text, parts, ends, cancels, deletes; and knows every retry."""
    node, _ = regions.node(peers=["us"])
    epoch = await opened(node)
    await append(node, epoch, 0, "Hel", "lo")
    await append(node, epoch, 2, {"part": {"type": "reasoning"}}, "hm", end="complete")
    await node.send("s", Draft("user", id="u", text="hi"))
    await node.send("s", Draft("user", id="gone", text="x"))
    await node.delete("s", "gone")
    await node.patch_metadata("s", {"title": "T"})
    await node.create("deleted", {})
    await node.delete("deleted")
    before, cursor = node.snapshot("s"), node.snapshot("s")["cursor"]
    incarnation = node.origin.incarnation
    await node.stop()

    node, _ = regions.node(peers=["us"])
    node.start(None)
    assert node.origin.incarnation != incarnation
    after = node.snapshot("s")
    assert after == {**before, "cursor": after["cursor"]}
    again = await node.open("s", OPEN)
    assert (again.created, again.epoch, again.next) == (False, epoch, 4)
    ack = await append(node, epoch, 0, "Hel", "lo")
    assert (ack.duplicates, ack.ended) == (2, "accepted")
    for session, message in (("s", "gone"), ("deleted", None)):
        with pytest.raises(Refusal, match="deleted"):
            await node.delete(session, message)
    reader = node.subscribe("s", cursor)
    events = await reader.next()
    assert events is not None and [event.name for event in events] == [
        "metadata",
        "presence",
        "run",
        "document",
        "ready",
    ]
    reader.close()
    await node.stop()


async def test_an_unstable_text_is_stable_only_once_another_region_has_it(
    regions: Regions,
) -> None:
    """Also after a restart: what the former process accepted is not forgotten to be alone."""
    node, _ = regions.node(peers=["us"])
    epoch = await opened(node)
    assert (await append(node, epoch, 0, "a")).stable == 0
    await node.stop()
    node, _ = regions.node(peers=["us"])
    node.start(None)
    assert (await append(node, epoch, 1, "b")).stable == 0
    node.gossip.heard("us", dict(node.gossip.vector), True, 0)
    node.peers_changed()
    assert node.acknowledged("s", "m", "p", epoch).stable == 2
    await node.stop()


async def test_what_was_settled_is_not_doubted_after_a_restart(regions: Regions) -> None:
    """A reader whose cursor says that a message is settled gets nothing of it again, before the
    peers have been heard and after."""
    node, _ = regions.node(peers=["us"])
    epoch = await opened(node)
    await append(node, epoch, 0, "a", end="complete")
    unsettled = node.snapshot("s")["cursor"]
    peer_has_all(node)
    settled = node.snapshot("s")["cursor"]
    assert len(settled) < len(unsettled), "a settled message has no entry of its own"
    await node.stop()
    node, _ = regions.node(peers=["us"])
    node.start(None)
    for _ in range(2):
        for cursor in (unsettled, settled):
            reader = node.subscribe("s", cursor)
            events = await reader.next()
            assert events is not None and [e.name for e in events] == [
                "metadata",
                "presence",
                "run",
                "document",
                "ready",
            ]
            reader.close()
        peer_has_all(node)
    assert node.snapshot("s")["cursor"] == settled
    await node.stop()


def peer_has_all(node: Node) -> None:
    """The peer says twice, with its whole vector, that it has everything on disk."""
    for _ in range(2):
        node.gossip.heard("us", dict(node.gossip.vector), True, 0)
        node.peers_changed()


# Time


@pytest.mark.failure("C5", "N8")
async def test_keep_alives_and_holds_are_by_the_monotonic_clock(regions: Regions) -> None:
    """A keep-alive every 10 s; a hold ends after 30 s, however the wall clock jumps."""
    ahead, _ = regions.node("us", peers=["eu"])
    epoch = await opened(ahead)
    await append(ahead, epoch, 0, "a", "b")
    cursor = ahead.snapshot("s")["cursor"]
    header = (await ahead.open("s", OPEN)).header
    await ahead.stop()
    node, _ = regions.node(peers=["us"])
    node.start(None)
    await node.reopen("s", header)
    reader = node.subscribe("s", cursor)
    events = await reader.next()
    assert events is not None and [e.name for e in events] == [
        "stale",
        "metadata",
        "presence",
        "run",
        "document",
        "ready",
    ]
    waiting = asyncio.create_task(reader.next())
    await asyncio.sleep(0)
    regions.clock.pass_ms(KEEPALIVE_S * 1000)
    node.tick()
    assert await waiting == []
    waiting = asyncio.create_task(reader.next())
    await asyncio.sleep(0)
    regions.clock.pass_ms(KEEPALIVE_S * 1000 // 2)
    node.tick()
    for _ in range(10):
        await asyncio.sleep(0)
    assert not waiting.done(), "no keep-alive is due"
    regions.clock.wall += 10**9
    regions.clock.monotonic = HOLD_MS - 1
    node.tick()
    assert await waiting == []
    regions.clock.monotonic = HOLD_MS
    node.tick()
    events = await reader.next()
    assert events is not None and [event.name for event in events] == ["stale", "replace"]
    reader.close()
    await node.stop()


@pytest.mark.failure("P13")
async def test_a_drain_sends_readers_elsewhere_and_takes_no_writes(regions: Regions) -> None:
    """``reconnect`` is the last event; reads of the state go on until the end."""
    node, _ = regions.node()
    epoch = await opened(node)
    reader = node.subscribe("s", None)
    await reader.next()
    await node.drain(0)
    events = await reader.next()
    assert events is not None and [event.name for event in events] == ["reconnect"]
    assert await reader.next() is None
    reader.close()
    assert node.readiness() == "draining"
    for refused in (append(node, epoch, 0, "a"), node.create("t", {})):
        with pytest.raises(Refusal, match="draining"):
            await refused
    with pytest.raises(Refusal, match="draining"):
        node.subscribe("s", None)
    assert node.snapshot("s")["id"] == "s"
    await node.stop()


async def test_a_large_append_is_logged_in_pieces_that_a_frame_holds(regions: Regions) -> None:
    """Marks grow when they are written canonically; each record still fits a frame and a slow link,
    all are committed together, and after a restart the whole is known as a retry."""
    node, disk = regions.node(peers=["us"])
    epoch = await opened(node)
    marks = [{"set": {"a": [1e15] * 13_700, "n": number}} for number in range(60)]
    tokens = ["x" * 200_000, "y" * 1_000_000, "z"]
    disk.commits.clear()
    ack = await append(node, epoch, 0, *marks, *tokens, end="complete")
    assert (ack.accepted, ack.ended, len(disk.commits)) == (63, "accepted", 1)
    sizes = [len(record.body) for record in disk.commits[0]]
    assert len(sizes) > 40 and max(sizes) < 1_100_000
    assert sum(sizes) > frames.FRAME_BYTES_MAX
    before = node.message("s", "m")
    await node.stop()
    node, _ = regions.node(peers=["us"])
    node.start(None)
    assert node.message("s", "m") == before
    again = await append(node, epoch, 0, *marks, *tokens, end="complete")
    assert (again.duplicates, again.stable) == (63, 0)
    await node.stop()
