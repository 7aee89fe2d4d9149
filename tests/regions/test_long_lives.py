"""Sessions that leave memory and come back, starts that do not grow, logs that end."""

import asyncio
import contextlib
import json
import sqlite3
import threading
import zlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from perdure.regions import state
from perdure.regions.checkpoint import QUIET_S, TRUNCATE_EVERY_S, Limits
from perdure.regions.clock import SystemEntropy
from perdure.regions.node import Node
from perdure.regions.ports import StorageFull
from perdure.regions.storage import SqliteStorage
from perdure.replication.admission import Draft
from perdure.replication.coding import encode
from perdure.replication.cursor import decode
from perdure.replication.errors import Refusal
from perdure.replication.ids import LaneKey, parse_epoch
from perdure.replication.lane import root_digest
from perdure.replication.limits import EVICT_IDLE_S, REPLAY_BYTES_MAX
from perdure.replication.operations import Items
from perdure.replication.records import Origin, seal
from perdure.replication.session import Session
from perdure.replication.shelf import WINDOW_ROWS

from tests.regions.conftest import ManualClock, Regions
from tests.regions.memory_storage import MemoryStorage
from tests.replication.test_work import calls

OPEN = Draft("assistant", id="m", producer="p", claim_id="claim-0001")
# What every resume says, before it is over.
BESIDE = ("metadata", "presence", "run", "document")


async def send(node: Node, session: str, number: int, text: str = "hello") -> None:
    await node.send(session, Draft("user", id=f"m{number:05}", text=text))


async def passes(node: Node, clock: ManualClock, seconds: int) -> None:
    """So much time, second by second for what happens with every second."""
    for _ in range(seconds):
        clock.pass_ms(1_000)
        node.tick()
        await node.work()


async def rests(node: Node, clock: ManualClock) -> None:
    """Until everything is stored, and what nobody uses has left memory."""
    await passes(node, clock, QUIET_S + 1)
    clock.pass_ms(EVICT_IDLE_S * 1_000)
    await passes(node, clock, 1)


def rows(disk: SqliteStorage, table: str) -> int:
    with contextlib.closing(sqlite3.connect(disk.path)) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def change(disk: SqliteStorage, statement: str) -> int:
    """Change the file behind the storage's back; how many rows."""
    with contextlib.closing(sqlite3.connect(disk.path)) as connection, connection:
        return connection.execute(statement).rowcount


# Out of memory and back


@pytest.mark.failure("L3")
async def test_an_idle_session_leaves_memory_and_comes_back_as_it_was(regions: Regions) -> None:
    """Snapshot, cursor and metadata; its producer goes on where it was, retries are duplicates, and
    another content is still found out."""
    node, _ = regions.node()
    node.start(None)
    epoch = (await node.open("s", OPEN)).epoch
    await node.append("s", "m", "p", epoch, 0, ["a", {"part": {"type": "reasoning"}}, "b"])
    await node.patch_metadata("s", {"k": 1})
    await send(node, "s", 1)
    before = node.snapshot("s")
    await rests(node, regions.clock)
    assert node.state.sessions == {}
    assert node.snapshot("s") == before
    await rests(node, regions.clock)
    ack = await node.append("s", "m", "p", epoch, 2, ["b", "c"])
    assert (ack.duplicates, ack.accepted) == (1, 4)
    await rests(node, regions.clock)
    with pytest.raises(Refusal, match="conflict"):
        await node.append("s", "m", "p", epoch, 2, ["x"])
    ended = await node.append("s", "m", "p", epoch, 4, [], "complete")
    assert (ended.ended, node.message("s", "m")["text"]) == ("accepted", "a")
    await node.stop()


async def test_a_session_with_readers_stays_and_its_resting_messages_leave(
    regions: Regions,
) -> None:
    """The reader sees what happens next, and a snapshot finds the old text again."""
    node, _ = regions.node()
    node.start(None)
    await send(node, "s", 1)
    reader = node.subscribe("s", None)
    await reader.next()
    await rests(node, regions.clock)
    held = node.state.sessions["s"]
    assert held.messages.items() == []
    await send(node, "s", 2)
    events = await reader.next()
    assert events is not None and [event.name for event in events] == ["message"]
    assert [message["text"] for message in node.snapshot("s")["messages"]] == ["hello", "hello"]
    reader.close()
    await rests(node, regions.clock)
    assert node.state.sessions == {}
    await node.stop()


@pytest.mark.failure("L3")
async def test_what_comes_back_does_not_grow_with_the_session(regions: Regions) -> None:
    """A few rows and no text, however many messages there are; pages find all of them."""
    node, _ = regions.node()
    node.start(None)
    count = 3 * WINDOW_ROWS
    await asyncio.gather(*(send(node, "s", number) for number in range(count)))
    pages = [node.messages("s", None, 2 * count)["messages"]]
    await rests(node, regions.clock)
    session = node.state.find("s")
    assert session is not None and session.messages.count == count
    assert len(session.messages.order) == WINDOW_ROWS and session.messages.items() == []
    page, more = node.messages("s", None, 40), True
    while more:
        pages.append(page["messages"])
        more = page["more"]
        page = node.messages("s", page["messages"][0]["serial"], 40)
    assert [m for page in reversed(pages[1:]) for m in page] == pages[0]
    with pytest.raises(Refusal, match="conflict"):
        await send(node, "s", 0, "another text")
    await node.stop()


async def test_a_reader_returns_to_a_session_that_has_left_memory(regions: Regions) -> None:
    """It gets what it lacks and not a snapshot, also when that is more than what is at hand."""
    node, _ = regions.node()
    node.start(None)
    await send(node, "s", 0)
    cursor = node.snapshot("s")["cursor"]
    await asyncio.gather(*(send(node, "s", number) for number in range(1, 2 * WINDOW_ROWS)))
    await rests(node, regions.clock)
    reader = node.subscribe("s", cursor)
    events = await reader.next()
    assert events is not None
    names = [event.name for event in events]
    assert names == ["message"] * (2 * WINDOW_ROWS - 1) + [
        "metadata",
        "presence",
        "run",
        "document",
        "ready",
    ]
    reader.close()
    await node.stop()


async def test_a_cursor_of_a_session_that_came_back_names_a_message_that_goes_on(
    regions: Regions,
) -> None:
    """Though many newer ones are settled: its reader is told the next tokens and waits for nothing.
    Where nothing needs them, the rows are not fetched."""
    node, _ = regions.node()
    node.start(None)
    epoch = (await node.open("s", OPEN)).epoch
    await node.append("s", "m", "p", epoch, 0, ["a"])
    await asyncio.gather(*(send(node, "s", number) for number in range(2 * WINDOW_ROWS)))
    await rests(node, regions.clock)
    cursor = node.snapshot("s")["cursor"]
    await node.append("s", "m", "p", epoch, 1, ["b"])
    reader = node.subscribe("s", cursor)
    events = await reader.next()
    assert events is not None
    assert [event.name for event in events] == [
        "append",
        "metadata",
        "presence",
        "run",
        "document",
        "ready",
    ]
    reader.close()
    await node.append("s", "m", "p", epoch, 2, [], "complete")
    await rests(node, regions.clock)
    session = node.state.find("s")
    assert session is not None and len(session.messages.order) == WINDOW_ROWS
    await node.stop()


@pytest.mark.failure("C6")
async def test_heads_are_read_by_the_version_before(regions: Regions) -> None:
    """It takes seven totals, and none of its heads says how far the window reaches."""
    node, _ = regions.node()
    node.start(None)
    await send(node, "s", 1)
    session = node.state.find("s")
    assert session is not None
    head = json.loads(session.image({}).head)
    assert len(head["totals"]) == 7
    del head["window"]
    again = Session("s", None, json.dumps(head).encode())
    assert again.messages.count == 1 and not again.is_dirty
    await node.stop()


@pytest.mark.failure("L3")
async def test_memory_has_a_limit_whatever_is_idle(
    regions: Regions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond it the longest unused leave as soon as they are stored."""
    monkeypatch.setattr(state, "SESSIONS_HOT_MAX", 10)
    node, _ = regions.node()
    node.start(None)
    await asyncio.gather(*(send(node, f"s{number:02}", 1) for number in range(50)))
    await passes(node, regions.clock, QUIET_S + 2)
    assert list(node.state.sessions) == [f"s{number:02}" for number in range(40, 50)]
    assert (len(node.state), node.regions()["counters"]["evictions"]) == (50, 40)
    await node.stop()


async def test_lists_and_digests_know_what_is_stored_and_what_is_not(regions: Regions) -> None:
    """By pages, in order, with the right cursors; deleted ones are gone; and the digests are those
    of a region that has everything in memory."""
    node, _ = regions.node()
    other, _ = regions.node("us")
    node.start(None)
    other.start(None)
    for one in (node, other):
        for name in ("a", "c", "e"):
            await one.receive([seal(Origin("xx", 1), "ace".index(name) + 1, create(name))])
    await rests(node, regions.clock)
    for one in (node, other):
        await one.receive([seal(Origin("xx", 1), 4, create("b"))])
        await one.receive([seal(Origin("xx", 1), 5, create("d"))])
        await one.receive([seal(Origin("xx", 1), 6, b'["delete","c",null]')])
    assert node.sessions(None, 10)["sessions"] == other.sessions(None, 10)["sessions"]
    assert [s["id"] for s in node.sessions(None, 10)["sessions"]] == ["a", "b", "d", "e"]
    assert [s["id"] for s in node.sessions("a", 2)["sessions"]] == ["b", "d"]
    assert node.sessions("a", 2)["next"] == "d" and node.sessions("b", 2)["next"] is None
    assert len(node.state) == len(other.state) == 4
    assert node.holdings.buckets() == other.holdings.buckets()
    assert node.holdings.in_buckets(range(4_096)) == other.holdings.in_buckets(range(4_096))
    await rests(node, regions.clock)
    assert node.holdings.buckets() == other.holdings.buckets()
    assert [s["id"] for s in node.sessions(None, 10)["sessions"]] == ["a", "b", "d", "e"]
    for listed in node.sessions(None, 10)["sessions"]:
        assert decode(listed["cursor"]) == decode(node.snapshot(listed["id"])["cursor"])
    await node.stop()
    await other.stop()


def create(session: str) -> bytes:
    return f'["create","{session}",1,"xx",{{}}]'.encode()


# Starts


@pytest.mark.failure("P12")
async def test_a_start_replays_only_what_is_not_stored(regions: Regions) -> None:
    """After a stop nothing; after a crash what came last; and no session before it is asked for."""
    node, disk = regions.node()
    node.start(None)
    await asyncio.gather(*(send(node, f"s{number}", 1) for number in range(20)))
    await node.stop()
    again, disk = regions.node()
    assert again.state.sessions == {} and len(again.state) == 20
    assert again.gossip.vector == node.gossip.vector
    again.start(None)
    await send(again, "s3", 2)
    disk.close()  # A crash: nothing more reaches the disk.
    third, _ = regions.node()
    assert list(third.state.sessions) == ["s3"]
    assert third.gossip.vector == again.gossip.vector
    assert [m["id"] for m in third.snapshot("s3")["messages"]] == ["m00001", "m00002"]
    with contextlib.suppress(Exception):
        await again.stop()


@pytest.mark.failure("P12")
async def test_a_session_that_never_rests_is_stored_all_the_same(
    regions: Regions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a start replays has a limit in bytes, also where a message streams for ever."""
    monkeypatch.setattr("perdure.regions.checkpoint.REPLAY_BYTES_MAX", 2_000)
    assert REPLAY_BYTES_MAX > 2_000
    node, disk = regions.node()
    node.start(None)
    epoch = (await node.open("s", OPEN)).epoch
    for number in range(60):
        await node.append("s", "m", "p", epoch, number, [f"token {number}"])
        await passes(node, regions.clock, 1)
    assert node.regions()["counters"]["checkpointed"] >= 2
    disk.close()
    again, replayed = regions.node()
    assert again.message("s", "m")["length"] == 60
    assert replayed.log_bytes == disk.log_bytes
    tail = sqlite3.connect(replayed.path).execute(
        "SELECT sum(length(body)) FROM log WHERE position >"
        " (SELECT json_extract(substr(CAST(value AS TEXT), 10), '$[0]') FROM meta"
        " WHERE key = 'watermark')"
    )
    assert 0 < tail.fetchone()[0] < 4_000
    with contextlib.suppress(Exception):
        await node.stop()


class Crashing:
    """A region in memory that is killed again and again, beside one that is not."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data
        self.clock = ManualClock()
        self.storage = MemoryStorage()
        self.steady = MemoryStorage()
        self.lsn = 0

    def node(self, storage: MemoryStorage) -> Node:
        node = Node("eu", storage, self.clock, SystemEntropy(), secret=b"s" * 32)
        node.recover()
        node.start(None)
        return node

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[tuple[Node, Node]]:
        yield self.node(self.storage), self.node(self.steady)

    def draw(self, strategy: st.SearchStrategy[Any]) -> Any:
        return self.data.draw(strategy)

    def record(self) -> Any:
        """An operation of one of two sessions, of one of three messages."""
        session = self.draw(st.sampled_from(["s", "t"]))
        message = self.draw(st.sampled_from(["a", "b", "c"]))
        body = self.draw(
            st.sampled_from(
                [
                    f'["create","{session}",{self.lsn + 1},"xx",{{"k":{self.lsn}}}]',
                    f'["open","{session}","{message}",{{"role":"user","author":null,"created":'
                    f'{self.lsn + 1},"producer":"p","epoch":"1-00000000000000{self.lsn + 16:02x}",'
                    f'"metadata":{{}},"replaces":null,"items":["text {self.lsn}"],'
                    f'"end":"complete"}}]',
                    f'["delete","{session}","{message}"]',
                ]
            )
        )
        self.lsn += 1
        return seal(Origin("xx", 1), self.lsn, body.encode())

    async def run(self, steps: int) -> None:
        node, steady = self.node(self.storage), self.node(self.steady)
        for _ in range(steps):
            action = self.draw(st.sampled_from(["write", "write", "store", "rest", "crash"]))
            if action == "write":
                record = self.record()
                await node.receive([record])
                await steady.receive([record])
            elif action == "store":
                await passes(node, self.clock, self.draw(st.integers(1, 3)))
            elif action == "rest":
                await rests(node, self.clock)
            else:
                await kill(node)
                node = self.node(self.storage)
            assert node.gossip.vector == steady.gossip.vector
        for name in ("s", "t"):
            assert node.holdings.of(name) == steady.holdings.of(name)
        assert node.holdings.buckets() == steady.holdings.buckets()
        assert node.sessions(None, 10) == steady.sessions(None, 10)
        await kill(node)
        await kill(steady)


async def kill(node: Node) -> None:
    """Without a last checkpoint."""
    for task in node._tasks:
        task.cancel()
    await asyncio.gather(*node._tasks, return_exceptions=True)


@pytest.mark.failure("P5")
@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 25))
def test_a_crash_at_any_time_loses_nothing(data: st.DataObject, steps: int) -> None:
    """Between writes, checkpoints and truncations: what comes back is what a region holds that was
    never killed."""
    asyncio.run(Crashing(data).run(steps))


@pytest.mark.failure("P12")
async def test_a_start_costs_the_same_however_many_sessions_there_are(regions: Regions) -> None:
    """It reads none of them: as many steps with two thousand as with twenty; twenty starts that are
    killed at once keep everything, and leave nothing behind."""

    async def filled(name: str, count: int) -> int:
        node, _ = regions.node(name)
        node.start(None)
        await asyncio.gather(*(send(node, f"s{number}", 1) for number in range(count)))
        await passes(node, regions.clock, TRUNCATE_EVERY_S + QUIET_S + 1)
        await node.stop()
        found: list[Node] = []
        steps = calls(lambda: found.append(regions.node(name)[0]))
        assert (found[0].state.loads, len(found[0].state)) == (0, count)
        await found[0].stop()
        return steps

    few, many = await filled("us", 20), await filled("eu", 2_000)
    assert many < 1.1 * few
    incarnations = set()
    for _ in range(20):
        node, disk = regions.node()
        incarnations.add(node.origin.incarnation)
        # Killed before anything else: nothing was stopped in order.
        disk.close()
    assert len(incarnations) == 20
    last, _ = regions.node()
    assert (len(last.state), last.state.loads) == (2_000, 0)
    assert len(last.gossip.vector) == 1, "only what has written has a place in the vector"
    assert len(last.snapshot("s1999")["messages"]) == 1
    await last.stop()


@pytest.mark.failure("P12")
async def test_twenty_starts_that_write_and_are_killed(regions: Regions) -> None:
    """Each goes on where the one before it was cut off: nothing is lost, and what is replayed does
    not pile up beyond what was not stored."""
    for number in range(20):
        node, disk = regions.node()
        assert len(node.state) == number
        node.start(None)
        await send(node, f"s{number}", 1)
        disk.close()
        await kill(node)
    node, _ = regions.node()
    assert len(node.state) == 20 and len(node.gossip.vector) == 20
    node.start(None)
    await passes(node, regions.clock, QUIET_S + 1)
    await node.stop()
    again, disk = regions.node()
    assert (len(again.state), again.state.sessions) == (20, {})
    await again.stop()


@pytest.mark.failure("X7")
async def test_a_repetition_a_day_later_is_a_duplicate(regions: Regions) -> None:
    """Of an open, tokens, an end, a message with an id or a key, a claim and a delete: when the
    session has left memory, the log has ended, and another process runs."""
    node, disk = regions.node()
    node.start(None)
    opened = await node.open("s", OPEN)
    epoch = opened.epoch
    claimed = await node.claim("s", "m", "q", "claim-0002", "continue")
    await node.append("s", "m", "q", claimed["epoch"], 0, ["a", "b"], "complete")
    drafts = [
        Draft("user", id="u", text="hello"),
        Draft("user", text="by key", idempotency_key="key-00001"),
    ]
    sent = [await node.send("s", draft) for draft in drafts]
    await send(node, "s", 7)
    await node.delete("s", "m00007")
    for _ in range(2):
        await passes(node, regions.clock, TRUNCATE_EVERY_S + QUIET_S + 1)
        regions.clock.pass_ms(86_400_000)
        await rests(node, regions.clock)
    assert node.state.sessions == {} and rows(disk, "log") == 0
    before = node.snapshot("s")
    await node.stop()
    again, disk = regions.node()
    again.start(None)
    reopened = await again.open("s", OPEN)
    assert (reopened.created, reopened.epoch) == (False, epoch)
    repeated = await again.claim("s", "m", "q", "claim-0002", "continue")
    assert repeated["epoch"] == claimed["epoch"]
    ack = await again.append("s", "m", "q", claimed["epoch"], 0, ["a", "b"], "complete")
    assert (ack.duplicates, ack.ended) == (2, "accepted")
    for draft, first in zip(drafts, sent, strict=True):
        second = await again.send("s", draft)
        assert (second.created, second.message["id"]) == (False, first.message["id"])
    for attempt in (send(again, "s", 7), again.delete("s", "m00007")):
        with pytest.raises(Refusal, match="deleted"):
            await attempt
    assert again.snapshot("s") == before and rows(disk, "log") == 0
    await again.stop()


# Logs


async def test_a_log_ends_when_everybody_has_it(regions: Regions) -> None:
    """A region alone keeps nothing; with a peer that lacks it, it keeps everything."""
    alone, disk = regions.node()
    alone.start(None)
    await send(alone, "s", 1)
    await passes(alone, regions.clock, TRUNCATE_EVERY_S + QUIET_S + 1)
    assert rows(disk, "log") == 0 and alone.gossip.floors == alone.gossip.vector
    await send(alone, "s", 2)
    await alone.stop()
    again, _ = regions.node()
    assert len(again.snapshot("s")["messages"]) == 2

    node, disk = regions.node("us", peers=["ap"])
    node.start(None)
    await send(node, "s", 1)
    await passes(node, regions.clock, TRUNCATE_EVERY_S + QUIET_S + 1)
    assert rows(disk, "log") == 1 and node.gossip.floors == {}
    node.gossip.heard("ap", dict(node.gossip.vector), True, 0)
    await passes(node, regions.clock, TRUNCATE_EVERY_S)
    assert rows(disk, "log") == 0
    await node.stop()


@pytest.mark.parametrize("limits", [Limits(log_bytes_max=1_000), Limits(log_age_s_max=60)])
async def test_a_log_ends_at_its_caps(regions: Regions, limits: Limits) -> None:
    """Whoever lacks it: so many bytes are kept, and for so long."""
    node, disk = regions.node(peers=["us"])
    node.checkpoint._limits = limits
    node.start(None)
    for number in range(20):
        await send(node, "s", number)
        await passes(node, regions.clock, QUIET_S + 1)
    if limits.log_age_s_max == 60:
        assert rows(disk, "log") == 20
        regions.clock.pass_ms(61_000)
    await send(node, "s", 20)
    await passes(node, regions.clock, TRUNCATE_EVERY_S + QUIET_S + 1)
    assert rows(disk, "log") < 8
    assert not node.gossip.is_below("us"), "what is in memory can still be sent"
    await node.stop()
    again, _ = regions.node(peers=["us"])
    assert again.gossip.is_below("us")
    assert len(again.snapshot("s")["messages"]) == 21


@pytest.mark.failure("P7")
async def test_a_full_disk_puts_a_checkpoint_off(regions: Regions) -> None:
    """Nothing is lost, nothing leaves memory, and later it is stored."""
    node, disk = regions.node()
    node.start(None)
    await send(node, "s", 1)
    save, failures = disk.save, []

    async def full(*arguments: Any) -> None:
        failures.append(arguments)
        raise StorageFull("no room")

    disk.save = full  # type: ignore[method-assign]
    await rests(node, regions.clock)
    assert failures and list(node.state.sessions) == ["s"] and node.readiness() is None
    await send(node, "s", 2)
    disk.save = save  # type: ignore[method-assign]
    await rests(node, regions.clock)
    assert node.state.sessions == {} and len(node.snapshot("s")["messages"]) == 2
    await node.stop()


# Damage


@pytest.mark.failure("P9")
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE message SET body = 'x' || body WHERE id = 'm00001'",
        "UPDATE message SET facts = 'x' WHERE id = 'm00001'",
        "UPDATE message SET facts_crc = facts_crc + 1 WHERE id = 'm00001'",
        "UPDATE message SET serial = serial || 'x' WHERE id = 'm00001'",
    ],
)
async def test_a_damaged_message_is_put_aside_and_not_shown(
    regions: Regions, statement: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The others are shown; it is counted, said, in quarantine, and asked for."""
    node, disk = regions.node(peers=["us"])
    node.start(None)
    for number in range(3):
        await send(node, "s", number)
    await rests(node, regions.clock)
    assert change(disk, statement) == 1
    node.snapshot("s")
    await passes(node, regions.clock, 1)
    assert [m["id"] for m in node.snapshot("s")["messages"]] == ["m00000", "m00002"]
    assert node.regions()["counters"]["damaged"] == 1
    assert set(node.repair.wanted) == {"s"} and "found damaged" in caplog.text
    await rests(node, regions.clock)
    assert (rows(disk, "quarantine"), rows(disk, "message")) == (1, 2)
    # Brought again, it is whole.
    await send(node, "s", 1)
    assert [m["id"][-1] for m in node.snapshot("s")["messages"]] == ["0", "2", "1"]
    await node.stop()


@pytest.mark.failure("P9")
async def test_a_damaged_head_is_made_anew_from_the_messages(regions: Regions) -> None:
    """The metadata is lost until a peer brings it; the messages are not."""
    node, disk = regions.node(peers=["us"])
    node.start(None)
    await send(node, "s", 1)
    await node.patch_metadata("s", {"k": 1})
    await rests(node, regions.clock)
    assert change(disk, "UPDATE session SET head = 'x'") == 1
    assert node.metadata("s") == {}
    assert [m["id"] for m in node.snapshot("s")["messages"]] == ["m00001"]
    await rests(node, regions.clock)
    assert set(node.repair.wanted) == {"s"} and rows(disk, "quarantine") >= 1
    assert len(node.state) == 1
    await node.stop()


@pytest.mark.failure("P9")
async def test_a_body_that_is_whole_and_wrong_is_found_by_its_digest(
    regions: Regions, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody changed the text and its checksum: what the producer repeats is not held to be a
    conflict, and the message is asked for at a peer."""
    node, disk = regions.node(peers=["us"])
    node.start(None)
    epoch = (await node.open("s", OPEN)).epoch
    await node.append("s", "m", "p", epoch, 0, ["hello"])
    await rests(node, regions.clock)
    with contextlib.closing(sqlite3.connect(disk.path)) as connection, connection:
        ((body,),) = connection.execute("SELECT body FROM message").fetchall()
        wrong = body.replace(b"hello", b"jello")
        crc = zlib.crc32(wrong, zlib.crc32(b"s/m/"))
        connection.execute("UPDATE message SET body = ?, body_crc = ?", (wrong, crc))
    piece = seal(Origin("xx", 1), 1, items(epoch, 0, "hello"))
    await node.receive([piece])
    await passes(node, regions.clock, 1)
    assert set(node.repair.wanted) == {"s"} and "found damaged" in caplog.text
    assert node.regions()["counters"]["unapplied"] == 0
    await node.stop()


def items(epoch: str, seq: int, *tokens: str) -> bytes:
    """The operation that appends these to message ``m``, of whose lane nothing is held."""
    lane = LaneKey("p", parse_epoch(epoch))
    before = root_digest("s", "m", lane)
    return encode(Items("s", "m", lane, seq, before, tokens))


async def test_a_checkpoint_that_is_cancelled_is_carried_out_once(regions: Regions) -> None:
    """As when a region stops in the middle of one: it is on disk all the same, and the next one
    does not count it again."""
    node, disk = regions.node()
    node.start(None)
    await send(node, "s", 1)
    may_begin = threading.Event()
    disk._write_thread.submit(may_begin.wait)
    saving = asyncio.create_task(node.checkpoint.all())
    while not node.state.saving:
        await asyncio.sleep(0)
    saving.cancel()
    await asyncio.gather(saving, return_exceptions=True)
    may_begin.set()
    await send(node, "s", 2)
    buckets = node.holdings.buckets()
    await node.stop()
    again, _ = regions.node()
    assert again.holdings.buckets() == buckets and len(again.state) == 1
    assert len(again.snapshot("s")["messages"]) == 2
