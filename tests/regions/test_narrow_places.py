"""Where two things happen at once: commits and ticks, mending and writing, links that flap."""

import asyncio
import contextlib
import shutil
import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from perdure.regions.catch_up import BEHIND_S_MAX
from perdure.regions.checkpoint import QUIET_S
from perdure.regions.clock import SystemEntropy
from perdure.regions.links import Digests
from perdure.regions.node import Node
from perdure.regions.ports import Mark, StorageError, StorageFull
from perdure.regions.repair import Repair
from perdure.regions.state import MESSAGES_HOT_MAX
from perdure.regions.storage import SqliteStorage
from perdure.replication.coding import encode
from perdure.replication.errors import Refusal
from perdure.replication.gossip import Gossip
from perdure.replication.ids import LaneKey, parse_epoch
from perdure.replication.items import chain_digest, make_items
from perdure.replication.lane import root_digest
from perdure.replication.operations import Items
from perdure.replication.peers import DOWN_MS
from perdure.replication.records import Origin, Record, seal
from perdure.replication.rows import Image
from perdure.replication.session import Session
from perdure.replication.subjects import Deletion
from sqlalchemy.exc import OperationalError

from tests.regions.conftest import ManualClock, Regions, WatchedStorage
from tests.regions.linked import linked
from tests.regions.test_long_lives import OPEN, change, passes, rests, rows, send
from tests.regions.test_repair import (
    PAIR,
    TRIO,
    database,
    equal,
    lets_go,
    no_pauses,  # noqa: F401
)
from tests.regions.test_repair import send as send_one

EU, US, AP = Origin("eu", 1), Origin("us", 1), Origin("ap", 1)


def after_a_crash(regions: Regions, name: str, peers: Sequence[str] = ()) -> Node:
    """A node on the files as they are now, not started."""
    copy = regions.path / f"{name}-crashed"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(regions.path / name, copy, ignore=shutil.ignore_patterns("lock"))
    storage = WatchedStorage(copy)
    regions.disks.append(storage)
    node = Node(
        name, storage, regions.clock, SystemEntropy(), secret=b"s" * 32, peers=peers, bootstrap=True
    )
    node.recover()
    return node


def joining(regions: Regions, peers: Sequence[str]) -> tuple[Node, SqliteStorage]:
    """A region ``us`` with an empty disk, which no operator calls the first."""
    storage = WatchedStorage(regions.path / "us")
    regions.disks.append(storage)
    node = Node("us", storage, regions.clock, SystemEntropy(), secret=b"s" * 32, peers=peers)
    node.recover()
    return node, storage


class Silent:
    """Links over which nothing comes; a peer that is asked holds what this region does."""

    def __init__(self, node: Node, *untried: str) -> None:
        self._node = node
        self._untried = set(untried)
        self.counters: dict[str, int] = {}

    def wake(self) -> None: ...

    def untried(self) -> set[str]:
        return self._untried

    def refused(self) -> str | None:
        return None

    def part(self, name: str) -> None: ...

    def wire(self, peer: str) -> int | None:
        return None

    async def ask_digests(self, *_: object) -> Digests:
        return Digests(self._node.holdings.buckets(), None)


def link(node: Node, origin: Origin, lsn: int) -> None:
    """A peer's link opens, and the peer has so much of ``eu``."""
    vector = {EU: lsn} if lsn else {}
    node.gossip.connected(origin.region, origin, vector, node._clock.monotonic_ms())
    node.linked(origin.region)
    node.peers_changed()


# The watermark


async def test_a_tick_between_a_commit_and_its_applying(regions: Regions) -> None:
    """The storage is ahead of the state for a moment; the watermark must not be."""
    node, disk = regions.node()
    node.start(None)
    await send(node, "s", 0)
    await passes(node, regions.clock, QUIET_S + 2)
    committed, commit = asyncio.Event(), disk.commit

    async def slow(records: Sequence[Record], deletions: Sequence[Deletion] = ()) -> None:
        await commit(records, deletions)
        committed.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    disk.commit = slow  # type: ignore[method-assign]
    writing = asyncio.create_task(send(node, "t", 1))
    await committed.wait()
    node.checkpoint.mark()
    await writing
    await node.checkpoint._store(lambda _: False)
    assert after_a_crash(regions, "eu").message("t", "m00001")["text"] == "hello"
    await node.stop()


async def test_an_operation_for_a_session_that_settles_as_it_comes_back(regions: Regions) -> None:
    """That makes it dirty too, and not from after the operation on."""
    us, _ = regions.node("us")
    us.start(None)
    await send(us, "s", 1)
    (record,) = (await us._storage.read(us.origin, 0, 10**9))[:1]
    eu, _ = regions.node("eu", ["us"])
    eu.start(None)
    await send(eu, "s", 0)
    await rests(eu, regions.clock)
    assert not eu.state.sessions
    eu.gossip.heard("us", dict(eu.gossip.vector), True, 0)
    eu.peers_changed()
    await eu.receive([record])
    regions.clock.pass_ms(1_000)
    await eu.work()
    again = after_a_crash(regions, "eu", ["us"])
    assert again.gossip.vector[us.origin] == 1
    assert {m["id"] for m in again.snapshot("s")["messages"]} == {"m00000", "m00001"}
    await eu.stop()
    await us.stop()


async def test_a_session_that_cannot_be_stored_holds_the_watermark(
    regions: Regions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are stored, the region goes on, and a crash loses nothing."""
    node, disk = regions.node()
    node.start(None)
    await send(node, "a", 0)
    await send(node, "b", 0)
    image = Session.image

    def broken(self: Session, stable: dict[Origin, int]) -> Image:
        if self.id == "b":
            raise KeyError("m")
        return image(self, stable)

    monkeypatch.setattr(Session, "image", broken)
    await passes(node, regions.clock, QUIET_S + 3)
    assert rows(disk, "session") == 1 and list(node.state.dirty) == ["b"]
    assert node.checkpoint.failures > 0
    monkeypatch.undo()
    assert len(after_a_crash(regions, "eu").state) == 2
    await node.stop()


async def test_a_session_that_is_read_all_the_time_is_stored(regions: Regions) -> None:
    """Quiet is one to which nothing is written."""
    node, disk = regions.node()
    node.start(None)
    await send(node, "s", 1)
    for _ in range(QUIET_S + 2):
        node.snapshot("s")
        await passes(node, regions.clock, 1)
    assert not node.state.dirty and rows(disk, "session") == 1
    await node.stop()


async def test_a_session_that_is_written_to_all_the_time_is_stored_and_gets_lighter(
    regions: Regions,
) -> None:
    """Every half minute; what of it is at rest leaves memory then."""
    node, disk = regions.node()
    node.start(None)
    for number in range(3 * MESSAGES_HOT_MAX):
        await send(node, "s", number)
        await passes(node, regions.clock, 1)
    assert rows(disk, "message") > 2 * MESSAGES_HOT_MAX
    assert len(node.state.sessions["s"].messages.items()) <= MESSAGES_HOT_MAX + 40
    assert len(node.snapshot("s")["messages"]) == 3 * MESSAGES_HOT_MAX
    await node.stop()


async def test_marks_have_a_limit_where_nothing_can_be_stored(
    regions: Regions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk for hours."""
    monkeypatch.setattr("perdure.regions.checkpoint.MARKS_MAX", 16)
    node, disk = regions.node()
    node.start(None)

    async def full(images: Sequence[Image], mark: Mark | None) -> None:
        raise StorageFull("no room")

    monkeypatch.setattr(disk, "save", full)
    for number in range(60):
        await send(node, "s", number)
        await passes(node, regions.clock, 1)
    assert len(node.checkpoint._marks) <= 16
    monkeypatch.undo()
    await passes(node, regions.clock, QUIET_S + 1)
    assert not node.checkpoint._marks and len(after_a_crash(regions, "eu").state) == 1
    await node.stop()


async def test_a_step_that_waited_for_another_checkpoint_finds_no_mark_left(
    regions: Regions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written while the other one stored is dirty, and nothing of it is marked yet."""
    node, disk = regions.node()
    node.start(None)
    await send(node, "s", 0)
    save = disk.save

    async def written_meanwhile(images: Sequence[Image], mark: Mark | None) -> None:
        await save(images, mark)
        if mark is not None and len(node.snapshot("s")["messages"]) < 2:
            await send(node, "s", 1)

    monkeypatch.setattr(disk, "save", written_meanwhile)
    await asyncio.gather(node.checkpoint.all(), node.checkpoint.step(1))
    assert node.state.dirty
    await node.checkpoint.all()
    assert not node.state.dirty and len(after_a_crash(regions, "eu").snapshot("s")["messages"]) == 2
    await node.stop()


# Disks that cannot be read


async def test_what_cannot_be_read_is_not_acknowledged(
    regions: Regions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operation that is on disk and cannot be applied, for the session cannot be read: the
    region stops, and the next start applies it."""
    node, disk = regions.node()
    node.start(None)
    epoch = (await node.open("s", OPEN)).epoch
    await node.append("s", "m", "p", epoch, 0, ["a"])
    await rests(node, regions.clock)
    look = disk._look

    def fails(connection: object) -> object:
        raise OperationalError("SELECT", None, sqlite3.OperationalError("disk I/O error"))

    def broken(query: object) -> object:
        return look(fails)

    commit = disk.commit

    async def then_broken(records: Sequence[Record], deletions: Sequence[Deletion] = ()) -> None:
        await commit(records)
        node.state._drop("s")
        monkeypatch.setattr(disk, "_look", broken)

    monkeypatch.setattr(disk, "commit", then_broken)
    with pytest.raises(StorageError):
        await node.cancel("s", "m")
    await node.failed.wait()
    monkeypatch.undo()
    assert after_a_crash(regions, "eu").message("s", "m")["status"] == "cancelled"
    await node.stop()


@pytest.mark.failure("P7")
async def test_a_full_disk_while_catching_up_is_no_end(
    regions: Regions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for room, as everything else does."""
    node, disk = joining(regions, ["eu"])

    async def full(name: str, text: str) -> None:
        raise StorageFull("no room")

    node.start(Silent(node))  # type: ignore[arg-type]
    link(node, EU, 0)
    monkeypatch.setattr(disk, "note", full)
    await node.work()
    assert not node.failed.is_set() and disk.notes() == {}
    monkeypatch.undo()
    await node.work()
    assert disk.notes() == {"caught_up": "yes"}
    await node.stop()


# Damage


async def test_what_is_written_while_a_damaged_session_is_stored(regions: Regions) -> None:
    """A producer that goes on all the while keeps every token, here and after a crash."""
    node, disk = regions.node()
    node.start(None)
    await send(node, "s", 0)
    await rests(node, regions.clock)
    epoch = (await node.open("s", OPEN)).epoch
    await node.append("s", "m", "p", epoch, 0, ["a"])
    assert change(disk, "UPDATE message SET body = x'00' WHERE id = 'm00000'") == 1
    with contextlib.suppress(Refusal):
        node.message("s", "m00000")
    accepted = 1
    working = asyncio.create_task(node.work())
    while not working.done():
        accepted = (await node.append("s", "m", "p", epoch, accepted, ["b"])).accepted
    await working
    await node.work()
    assert accepted > 1 and not node.state.damaged
    assert node.message("s", "m")["length"] == accepted
    assert after_a_crash(regions, "eu").message("s", "m")["length"] == accepted
    await node.stop()


async def test_a_reader_that_comes_while_a_damaged_session_is_stored(
    regions: Regions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is sent away with the others: what it would follow is built anew."""
    node, disk = regions.node()
    node.start(None)
    await send(node, "s", 0)
    await rests(node, regions.clock)
    await send(node, "s", 1)
    assert change(disk, "UPDATE message SET body = x'00' WHERE id = 'm00000'") == 1
    with contextlib.suppress(Refusal):
        node.message("s", "m00000")
    readers, save = [], disk.save

    async def saving(images: Sequence[Image], mark: Mark | None) -> None:
        await save(images, mark)
        if images and not readers:
            readers.append(node.subscribe("s", None))

    monkeypatch.setattr(disk, "save", saving)
    await node.work()
    assert await readers[0].next() is not None
    assert await readers[0].next() is None
    readers[0].close()
    await node.stop()


async def test_what_is_intact_in_memory_is_stored_again(regions: Regions) -> None:
    """Also where no peer has it."""
    node, disk = regions.node()
    node.start(None)
    await send(node, "s", 0)
    await passes(node, regions.clock, QUIET_S + 2)
    assert change(disk, "UPDATE message SET body = x'00'") == 1
    await passes(node, regions.clock, 3)
    assert disk.damaged == 1 and not node.state.damaged
    await rests(node, regions.clock)
    assert node.message("s", "m00000")["text"] == "hello"
    await node.stop()


DAMAGES = (
    "UPDATE message SET serial = CAST(CAST(substr(serial, 1, 20) AS BLOB) || x'ff' AS TEXT)",
    "UPDATE message SET id = 'n'",
    "UPDATE message SET slot = slot + 1",
    "UPDATE message SET session = session + 1",
    "UPDATE message SET facts_crc = 'x'",
    "UPDATE session SET digest = x'00'",
    "UPDATE session SET present = 0",
    "UPDATE session SET bucket = bucket + 1",
    "UPDATE session SET summary = x'00'",
    "UPDATE session SET crc = 1",
    "UPDATE session SET id = 't'",
    "UPDATE session SET id = CAST(x'73ff' AS TEXT)",
    "DELETE FROM session",
    "UPDATE meta SET value = x'5b312c5d' WHERE key = 'sums'",
    "UPDATE meta SET value = x'00' WHERE key = 'watermark'",
)


@pytest.mark.failure("P9")
@pytest.mark.parametrize("statement", DAMAGES)
async def test_damage_of_every_kind_is_found_and_mended(tmp_path: Path, statement: str) -> None:
    """By looking at everything once and an hour's round at most; then both regions, their lists and
    their sums are equal, and stay so."""
    async with linked(tmp_path, PAIR) as regions:
        eu, us = regions.nodes["eu"], regions.nodes["us"]
        await send_one(eu, "s")
        await eu.patch_metadata("s", {"k": 1})
        await regions.until(regions.same)
        whole = us.snapshot("s")
        await regions.stop("eu")
        assert change_at(database(regions, "eu"), statement) == 1
        eu = await regions.start("eu")
        await regions.until(lambda: eu.gossip.peers["us"].connected)
        await regions.until(lambda: eu.repair.counters["repair_rounds"] > 0)
        for _ in range(3):
            await eu.work()
        regions.clock.shift_ms += 3_700_000
        eu.tick()

        def mended() -> bool:
            with contextlib.suppress(Refusal):
                held = eu.snapshot("s")
                return bool(held["messages"] == whole["messages"] and held["metadata"] == {"k": 1})
            return False

        await regions.until(mended)
        await equal(regions)
        await eu.checkpoint.all()
        await eu.work()
        await equal(regions)
        assert [s["id"] for s in eu.sessions(None, 10)["sessions"]] == ["s"] and len(eu.state) == 1
        assert (await us.verify())["equal"]


def change_at(path: Path, statement: str) -> int:
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(statement).rowcount


class Nothing:
    """A region that holds nothing."""

    def buckets(self) -> list[str]:
        return ["0"]

    def in_buckets(self, numbers: object) -> dict[str, str]:
        return {}


async def test_what_one_peer_lacks_another_is_asked_for(clock: ManualClock) -> None:
    """A damaged session is wanted of every peer, not of the first that answers."""
    gossip = Gossip(EU, ["us", "ap"])
    for origin in (US, AP):
        gossip.connected(origin.region, origin, {}, 0)
    absorbed: list[bytes] = []

    class Links:
        async def ask_digests(self, name: str, session: object, buckets: object) -> Digests:
            return Digests(["0"], {})

        async def pull(self, name: str, ids: Sequence[str]) -> AsyncIterator[bytes]:
            if name == "ap":
                yield b"piece"

    async def absorb(pieces: Sequence[bytes]) -> None:
        absorbed.extend(pieces)

    async def jump(vector: dict[Origin, int]) -> None:
        raise AssertionError("nobody is below")

    repair = Repair(gossip, Nothing(), clock, absorb, jump)  # type: ignore[arg-type]
    repair.links = Links()  # type: ignore[assignment]
    repair.want("s")
    for name in gossip.peers:
        await repair._visit(name)
    assert absorbed == [b"piece"] and not repair.wanted


# Catching up


@pytest.mark.failure("P5", "C2")
async def test_a_region_that_dies_at_once_goes_on_catching_up(regions: Regions) -> None:
    """Killed before the first second is over, with the first of many records."""
    eu, _ = regions.node("eu")
    eu.start(None)
    for number in range(5):
        await send(eu, f"s{number}", number)
    records = await eu._storage.read(eu.origin, 0, 10**9)
    us, disk = joining(regions, ["eu"])
    us.start(None)
    await us.receive(records[:1])
    await us._writer.jump({})
    us._writer.close()
    disk.close()
    again, _ = joining(regions, ["eu"])
    assert again.readiness() == "starting" and again.catch_up.is_under_way
    await eu.stop()
    await us.stop()


async def test_a_region_that_was_away_is_ready_when_it_has_what_its_peers_had(
    regions: Regions,
) -> None:
    """It serves meanwhile. One whose peers cannot be reached is ready at once when that is known,
    and one that waits for too long is ready too."""
    us, _ = joining(regions, ["eu", "ap"])
    us.start(Silent(us))  # type: ignore[arg-type]
    link(us, EU, 0)
    await us.work()
    await us.stop()

    def again(*untried: str) -> tuple[Node, Silent]:
        node, _ = joining(regions, ["eu", "ap"])
        links = Silent(node, *untried)
        node.start(links)  # type: ignore[arg-type]
        return node, links

    us, links = again("ap")
    link(us, EU, 5)
    assert us.readiness() == "catching_up"
    us._check_readable()
    links.untried().clear()
    await us.work()
    assert us.readiness() == "catching_up"
    us.gossip.vector[EU] = 5
    us.peers_changed()
    assert us.readiness() is None
    link(us, EU, 9)
    assert us.readiness() is None
    await us.stop()
    us, links = again("eu", "ap")
    await us.work()
    assert us.readiness() == "catching_up"
    links.untried().clear()
    await us.work()
    assert us.readiness() is None
    await us.stop()
    us, _ = again()
    link(us, EU, 50)
    assert us.readiness() == "catching_up"
    regions.clock.pass_ms(BEHIND_S_MAX * 1000)
    await us.work()
    assert us.readiness() is None
    await us.stop()


async def test_a_link_that_flaps_does_not_end_the_catching_up(regions: Regions) -> None:
    """The peer that has everything is waited for while it is not down; then the others count."""
    us, _ = joining(regions, ["eu", "ap"])
    us.start(Silent(us))  # type: ignore[arg-type]
    link(us, EU, 1000)
    link(us, AP, 0)
    assert us.readiness() == "catching_up"
    us.gossip.lost("eu")
    us.peers_changed()
    assert us.readiness() == "catching_up"
    link(us, EU, 1000)
    assert us.readiness() == "catching_up"
    us.gossip.lost("eu")
    regions.clock.pass_ms(DOWN_MS)
    us.gossip.heard("ap", {}, True, regions.clock.monotonic_ms())
    await us.work()
    assert us.readiness() is None
    await us.stop()


async def test_what_a_peer_has_lost_with_its_disk_is_not_waited_for(regions: Regions) -> None:
    """It comes back by the same name with less than it had; others may have it, until all of them
    have been met, or cannot be reached."""
    us, _ = joining(regions, ["eu", "ap", "sa"])
    us.start(links := Silent(us, "ap", "sa"))  # type: ignore[arg-type]
    link(us, EU, 1000)
    us.gossip.lost("eu")
    us.peers_changed()
    link(us, Origin("eu", 2), 0)
    assert us.readiness() == "catching_up"
    links.untried().clear()
    link(us, AP, 900)
    assert us.readiness() == "catching_up"
    us.gossip.lost("ap")
    us.peers_changed()
    link(us, Origin("ap", 2), 0)
    assert us.readiness() is None
    await us.stop()


async def test_a_peer_whose_link_has_just_opened_is_waited_for(regions: Regions) -> None:
    """The other one, which is empty, is not everybody."""
    us, _ = joining(regions, ["eu", "ap"])
    us.start(Silent(us))  # type: ignore[arg-type]
    us.gossip.connected("eu", EU, {EU: 1000}, regions.clock.monotonic_ms())
    us.peers_changed()
    link(us, AP, 0)
    assert us.readiness() == "catching_up"
    us.linked("eu")
    assert us.readiness() == "catching_up"
    await us.stop()


async def test_below_a_peer_that_is_gone_is_below_nobody(regions: Regions) -> None:
    """What it had, another has brought."""
    us, _ = joining(regions, ["eu", "ap"])
    us.catch_up.is_under_way = False
    us.start(Silent(us))  # type: ignore[arg-type]
    link(us, EU, 1000)
    link(us, AP, 1000)
    us.repair._again_ms["ap"] = 10**12
    us.below("ap")
    assert us.readiness() == "catching_up"
    us.gossip.lost("ap")
    regions.clock.pass_ms(DOWN_MS)
    us.gossip.heard("eu", None, False, regions.clock.monotonic_ms())
    assert us.readiness() is None
    await us.stop()


@pytest.mark.usefixtures("no_pauses")
async def test_what_waits_for_others_is_not_jumped_over(tmp_path: Path) -> None:
    """A piece that arrived before what it follows is told with the rest, and part of the digest."""
    async with linked(tmp_path, TRIO, start=False) as regions:
        eu = await regions.start("eu")
        opened = await eu.open("s", OPEN)
        us = await regions.start("us")
        await regions.until(lambda: bool(us.gossip.vector) and regions.same("eu", "us"))
        await regions.stop("us")
        lane = LaneKey("p", parse_epoch(opened.epoch))
        root = root_digest("s", "m", lane)
        first, later = tuple(make_items(["a", "b"])), tuple(make_items(["c"]))
        after = chain_digest(chain_digest(root, first[0]), first[1])
        waits = seal(Origin("kr", 5), 1, encode(Items("s", "m", lane, 2, after, later)))
        await eu.receive([waits])
        await lets_go(regions, "eu")
        eu, us = regions.nodes["eu"], await regions.start("us")
        await regions.until(lambda: us.repair.counters["jumps"] > 0 and us.readiness() is None)
        assert us.gossip.vector[Origin("kr", 5)] == 1
        brings = seal(Origin("ap", 9), 1, encode(Items("s", "m", lane, 0, root, first)))
        await eu.receive([brings])
        await us.receive([brings])
        assert eu.message("s", "m")["text"] == us.message("s", "m")["text"] == "abc"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()
