"""Catching up by digests, over real links: empty regions, long absences, damage, interruptions."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from perdure.regions import repair, transport_dialing
from perdure.regions.checkpoint import Limits
from perdure.regions.links import PeerUnreachable
from perdure.regions.node import Node
from perdure.regions.ports import StorageFull
from perdure.regions.storage import SqliteStorage
from perdure.replication.admission import Draft
from perdure.replication.errors import Refusal
from perdure.replication.peers import DOWN_MS

from tests.regions.linked import Linked, linked

PAIR = {"eu": ["us"], "us": ["eu"]}
TRIO = {"eu": ["us", "ap"], "us": ["eu", "ap"], "ap": ["eu", "us"]}
# Nothing of a log is kept that is in images.
NOTHING = Limits(log_bytes_max=-1)


async def send(node: Node, session: str, id_: str = "m", text: str = "hello") -> None:
    await node.send(session, Draft("user", id=id_, text=text))


async def fill(node: Node, count: int) -> None:
    await asyncio.gather(*(send(node, f"s{number:04}") for number in range(count)))


async def lets_go(regions: Linked, name: str) -> None:
    """What the region has logged leaves the log, though nobody may have it; and its memory, by a
    restart."""
    node = regions.nodes[name]
    node.checkpoint._limits = NOTHING
    await node.checkpoint.all()
    await node.checkpoint._truncate()
    await regions.stop(name)
    await regions.start(name)
    assert regions.nodes[name].gossip.floors


async def equal(regions: Linked, *names: str) -> None:
    """All sessions have the same digests; what is under way may take its time."""
    nodes = [regions.nodes[name] for name in names or regions.nodes]
    await regions.until(
        lambda: all(one.holdings.buckets() == nodes[0].holdings.buckets() for one in nodes)
    )


def database(regions: Linked, name: str) -> Path:
    return regions.path / name / "perdure.sqlite"


def change(path: Path, statement: str) -> int:
    """Change the file behind the storage's back; how many rows."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(statement).rowcount


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for what is under way: here nothing is."""
    monkeypatch.setattr(repair, "SETTLE_S", 0)
    monkeypatch.setattr(repair, "SECOND_LOOK_S", 0)


# Empty regions


@pytest.mark.failure("C2")
async def test_an_empty_region_catches_up_from_sessions(tmp_path: Path) -> None:
    """Where no log reaches back: it serves nobody before it has everything, and then is equal."""
    async with linked(tmp_path, PAIR, start=False) as regions:
        eu = await regions.start("eu")
        await fill(eu, 300)
        epoch = await eu.open("live", Draft("assistant", id="m", producer="p", claim_id="c" * 9))
        await eu.append("live", "m", "p", epoch.epoch, 0, ["one ", "two"])
        await eu.delete("s0007")
        await eu.delete("s0008", "m")
        await eu.patch_metadata("s0009", {"k": 1})
        await lets_go(regions, "eu")
        us = await regions.start("us", bootstrap=False)
        assert us.readiness() == "catching_up"
        for ask in (lambda: us.snapshot("s0001"), lambda: us.subscribe("s0001", None)):
            with pytest.raises(Refusal, match="catching_up"):
                ask()
        with pytest.raises(Refusal, match="catching_up"):
            await send(us, "s0001", "x")
        await regions.until(lambda: us.readiness() is None)
        await equal(regions)
        eu = regions.nodes["eu"]
        assert us.message("live", "m") == eu.message("live", "m")
        assert us.metadata("s0009") == {"k": 1} and len(us.state) == 300
        with pytest.raises(Refusal, match="deleted"):
            us.snapshot("s0007")
        with pytest.raises(Refusal, match="deleted"):
            us.message("s0008", "m")
        assert us.repair.counters["repaired"] >= 300
        # And the stream goes on at either.
        ack = await us.append("live", "m", "p", epoch.epoch, 2, [" three"], "complete")
        assert ack.accepted == 3
        await regions.until(lambda: regions.nodes["eu"].message("live", "m")["length"] == 3)
        await equal(regions)


async def test_live_traffic_does_not_disturb_a_region_that_catches_up(tmp_path: Path) -> None:
    """What is written meanwhile, at either side, is in both in the end."""
    async with linked(tmp_path, PAIR, start=False) as regions:
        eu = await regions.start("eu")
        await fill(eu, 200)
        await lets_go(regions, "eu")
        eu = regions.nodes["eu"]
        us = await regions.start("us", bootstrap=False)
        written = 0
        while us.readiness() is not None:
            await send(eu, f"s{written % 200:04}", f"live{written}")
            written += 1
        await equal(regions)
        assert written and len(us.state) == 200


async def test_a_new_cluster_is_ready_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody holds anything; and a region whose peers cannot be reached waits for somebody to say
    that it is the first."""
    monkeypatch.setattr(transport_dialing, "DOWN_MS", 200)
    async with linked(tmp_path, TRIO, start=False) as regions:
        eu = await regions.start("eu", bootstrap=False)
        await regions.until(lambda: not regions.peers["eu"].untried())
        assert eu.readiness() == "catching_up"
        us = await regions.start("us", bootstrap=False)
        await regions.until(lambda: eu.readiness() is None and us.readiness() is None)
        await regions.stop("us")
        ap = await regions.start("ap", bootstrap=True)
        assert ap.readiness() is None


@pytest.mark.failure("C2")
async def test_what_a_lost_region_had_told_one_of_two_reaches_the_other(tmp_path: Path) -> None:
    """It is in no log, only in what one of them has absorbed. They compare as soon as the lost one
    is found down, or comes back with another disk."""
    async with linked(tmp_path, TRIO) as regions:
        eu, ap = regions.nodes["eu"], regions.nodes["ap"]
        await regions.until(lambda: not regions.peers["ap"].untried())
        regions.clock.shift_ms += 6_000
        await regions.until(lambda: ap.repair.counters["repair_rounds"] >= 2)
        async with linked(tmp_path / "other", {"kr": []}) as others:
            await send(others.nodes["kr"], "s")
            pieces = [piece async for piece in others.nodes["kr"].tell(["s"])]
        await eu.repair._absorb(pieces)
        assert eu.state.find("s") is not None and ap.state.find("s") is None
        await regions.stop("us")
        await regions.start("us")
        await regions.until(lambda: ap.gossip.peers["us"].connected)
        regions.clock.shift_ms += 6_000
        await regions.until(lambda: ap.state.find("s") is not None)
        assert ap.message("s", "m") == eu.message("s", "m")


@pytest.mark.failure("P7")
async def test_a_peer_with_a_full_disk_says_that_it_cannot_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stores a session before it tells of it. Who asks goes on at once, and asks again."""
    async with linked(tmp_path, PAIR) as regions:
        eu, us = regions.nodes["eu"], regions.nodes["us"]
        await send(eu, "s")
        await regions.until(lambda: us.gossip.peers["eu"].connected)

        async def full(*_: object) -> None:
            raise StorageFull("no room")

        monkeypatch.setattr(eu._storage, "save", full)

        async def pull() -> list[bytes]:
            return [piece async for piece in regions.peers["us"].pull("eu", ["s"])]

        with pytest.raises(PeerUnreachable):
            await asyncio.wait_for(pull(), 3)
        monkeypatch.undo()
        assert await pull()


@pytest.mark.failure("C2")
async def test_one_attempt_that_fails_does_not_end_the_catching_up(tmp_path: Path) -> None:
    """Two empty regions find each other, and have not reached the one that holds everything yet."""
    async with linked(tmp_path, TRIO, start=False) as regions:
        us, ap = [await regions.start(name, bootstrap=False) for name in ("us", "ap")]
        for node, other in ((us, "ap"), (ap, "us")):
            peers = regions.peers[node.region]
            await regions.until(
                lambda node=node, other=other, peers=peers: (
                    peers.counters["links_failed"] > 0 and node.gossip.peers[other].connected
                )
            )
            await node.work()
            assert node.readiness() == "catching_up"
        await fill(await regions.start("eu"), 3)
        await regions.until(lambda: us.readiness() is None and ap.readiness() is None)
        await equal(regions)


@pytest.mark.failure("C2", "P5")
async def test_an_interrupted_catching_up_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off in the middle, and started again: it is still not ready, and only what it lacks is
    fetched."""
    monkeypatch.setattr(repair, "SESSIONS_ASKED_MAX", 10)
    async with linked(tmp_path, PAIR, start=False) as regions:
        await fill(await regions.start("eu"), 120)
        await lets_go(regions, "eu")
        us = await regions.start("us", bootstrap=False)
        pull, asked = us.repair.links.pull, 0  # type: ignore[union-attr]

        async def cut(peer: str, ids: Sequence[str]) -> AsyncIterator[bytes]:
            nonlocal asked
            asked += 1
            if asked > 6:
                raise PeerUnreachable(peer)
            async for piece in pull(peer, ids):
                yield piece

        monkeypatch.setattr(regions.peers["us"], "pull", cut)
        await regions.until(lambda: asked > 6)
        await us.work()
        assert len(us.state) == 60 and us.readiness() == "catching_up"
        await regions.stop("us")
        again = await regions.start("us", bootstrap=False)
        assert again.readiness() == "catching_up" and len(again.state) == 60
        await regions.until(lambda: again.readiness() is None)
        await equal(regions)
        assert again.repair.counters["repaired"] == 60


# Absence


@pytest.mark.failure("C1")
async def test_a_region_that_was_away_offers_what_it_has_and_catches_up(tmp_path: Path) -> None:
    """Longer than the logs reach: what it alone had accepted comes to the others, and what they
    accepted meanwhile to it; one message at both sides, too."""
    async with linked(tmp_path, TRIO) as regions:
        eu, us = regions.nodes["eu"], regions.nodes["us"]
        opened = await eu.open("both", Draft("assistant", id="m", producer="p", claim_id="c" * 9))
        await eu.append("both", "m", "p", opened.epoch, 0, ["a"])
        await regions.until(regions.same)
        for name in ("eu", "ap"):
            await regions.stop(name)
        await send(us, "alone")
        await us.append("both", "m", "p", opened.epoch, 1, ["b"])
        await regions.stop("us")
        eu, ap = await regions.start("eu"), await regions.start("ap")
        await fill(eu, 50)
        await regions.until(lambda: regions.same("eu", "ap"))
        for name in ("eu", "ap"):
            await lets_go(regions, name)
        us = await regions.start("us")
        await regions.until(lambda: us.repair.counters["jumps"] > 0)
        await equal(regions)
        eu, ap = regions.nodes["eu"], regions.nodes["ap"]
        await regions.until(lambda: us.readiness() is None)
        for node in (eu, us, ap):
            assert len(node.state) == 52
            assert node.message("both", "m")["text"] == "ab"
            assert node.message("alone", "m")["text"] == "hello"
        await regions.until(regions.same)


# Damage


@pytest.mark.failure("P9")
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE message SET body = x'00' WHERE id = 'm'",
        "UPDATE message SET facts = x'00' WHERE id = 'm'",
        "UPDATE session SET head = x'00'",
        "DELETE FROM message",
    ],
)
async def test_a_damaged_session_is_found_and_mended(tmp_path: Path, statement: str) -> None:
    """Found when somebody reads it, or by its digest; fetched from the peer; equal again. The peer
    gets nothing of the damage."""
    async with linked(tmp_path, PAIR) as regions:
        eu = regions.nodes["eu"]
        await send(eu, "s")
        await eu.patch_metadata("s", {"k": 1})
        await regions.until(regions.same)
        await regions.until(lambda: regions.nodes["us"].message("s", "m")["text"] == "hello")
        whole = regions.nodes["us"].snapshot("s")
        await regions.stop("eu")
        assert change(database(regions, "eu"), statement) == 1
        eu = await regions.start("eu")
        with contextlib.suppress(Refusal):
            eu.snapshot("s")
        await eu.work()
        await regions.until(lambda: eu.snapshot("s")["messages"] == whole["messages"])
        await regions.until(lambda: eu.metadata("s") == {"k": 1})
        await equal(regions)
        assert regions.nodes["us"].snapshot("s")["messages"] == whole["messages"]
        await eu.checkpoint.all()
        if not statement.startswith("DELETE"):
            assert change(database(regions, "eu"), "DELETE FROM quarantine") >= 1


async def test_different_sessions_are_found_by_their_buckets(tmp_path: Path) -> None:
    """Though every vector is equal: one round brings what the peer knows otherwise."""
    async with linked(tmp_path, PAIR) as regions:
        eu, us = regions.nodes["eu"], regions.nodes["us"]
        await fill(eu, 40)
        await regions.until(regions.same)
        await equal(regions)
        # As if us had never applied some of what its log and its vector say.
        await us.checkpoint.all()
        await regions.stop("us")
        assert change(database(regions, "us"), "DELETE FROM session WHERE id > 's0029'") == 10
        assert change(database(regions, "us"), "DELETE FROM meta WHERE key = 'sums'") == 1
        path = database(regions, "us")
        storage = SqliteStorage(path.parent)
        storage.open()
        storage._damage.note("head", 0, "x")
        await storage.save([], None)
        storage.close()
        us = await regions.start("us")
        assert len(us.state) == 30
        await regions.until(lambda: us.repair.counters["repaired"] == 10)
        await equal(regions)
        assert us.message("s0035", "m") == eu.message("s0035", "m")


@pytest.mark.failure("P9")
async def test_a_record_that_cannot_be_sent_is_not_needed(tmp_path: Path) -> None:
    """A damaged record of a log goes to nobody: the peer that lacks it takes the sessions."""
    async with linked(tmp_path, PAIR, start=False) as regions:
        eu = await regions.start("eu")
        await fill(eu, 10)
        await regions.stop("eu")
        assert change(database(regions, "eu"), "UPDATE log SET body = x'00' WHERE lsn = 4") == 1
        eu = await regions.start("eu")
        us = await regions.start("us")
        await regions.until(lambda: regions.counters("eu").get("log_reads_empty", 0) > 0)
        eu.checkpoint._next_truncation_s = 0
        await eu.work()
        await eu.work()
        await regions.until(lambda: us.repair.counters["jumps"] > 0)
        await equal(regions)
        assert us.message("s0003", "m")["text"] == "hello"


async def test_a_round_that_finds_nobody_is_tried_again(tmp_path: Path) -> None:
    """A peer that is away costs nothing, and is asked when it is back."""
    async with linked(tmp_path, PAIR) as regions:
        eu = regions.nodes["eu"]
        await regions.until(lambda: eu.repair.counters["repair_rounds"] > 0)
        await regions.stop("us")
        regions.clock.shift_ms += DOWN_MS
        eu.repair.want("s")
        eu.tick()
        assert set(eu.repair.wanted) == {"s"}
        await send(await regions.start("us"), "s")
        await regions.until(lambda: not eu.repair.wanted)
        await equal(regions)
