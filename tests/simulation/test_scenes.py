"""Scenes: one failure each, on whole regions in exact virtual time."""

import asyncio
from typing import Any
from unittest import mock

import pytest
from perdure.regions.checkpoint import Limits
from perdure.regions.ports import StorageFull
from perdure.replication import gossip
from perdure.replication.admission import Draft
from perdure.replication.errors import Refusal
from perdure.replication.peers import DOWN_MS, WINDOW_BYTES_MAX

from tests.simulation.disk import Disk
from tests.simulation.faults import HOUR_MS
from tests.simulation.stage import NAMES, Following, Stage, played

# What the catalogue gives regions to be equal again after a heal, and to notice a black hole.
EQUAL_S_MAX = 10
NOTICED_S_MAX = 10
OPEN = Draft("assistant", id="m", producer="p", claim_id="claim-0001")
EU_ALONE = ("eu-us", "eu-ap")


async def open_(stage: Stage, name: str) -> tuple[str, str]:
    """Open message ``m``: its epoch and its header."""
    opened = await stage.ask(name, stage.node(name).open("s", OPEN))
    return opened.epoch, opened.header


async def append(
    stage: Stage, name: str, epoch: str, seq: int, *items: str, end: str | None = None
) -> Any:
    work = stage.node(name).append("s", "m", "p", epoch, seq, list(items), end)
    return await stage.ask(name, work)


async def send(stage: Stage, name: str, id_: str, wait_ms: int | None = None, **more: Any) -> Any:
    draft = Draft("user", id=id_, text=more.pop("text", f"text of {id_}"), **more)
    return await stage.ask(name, stage.node(name).send("s", draft, wait_ms))


def text(stage: Stage, name: str) -> str:
    return str(stage.node(name).message("s", "m")["text"])


def ids(stage: Stage, name: str) -> list[str]:
    if stage.node(name).state.find("s") is None:
        return []
    return [message["id"] for message in stage.node(name).snapshot("s")["messages"]]


async def everywhere(stage: Stage, within_s: float = EQUAL_S_MAX) -> None:
    """All regions that run hold the same, soon."""
    await stage.until(stage.equal, within_s)


# Processes and disks


@pytest.mark.failure("C2")
def test_an_empty_region_that_cannot_dial_one_peer_is_ready() -> None:
    """A firewall lets that peer out and nobody in: it is seen, and never met."""

    async def scene(stage: Stage) -> None:
        await send(stage, "eu", "c1")
        await everywhere(stage)
        stage.kill("us")
        stage.disks["us"] = Disk("us2")
        process = stage.running["us"] = stage.made("us", stage.disks["us"])
        dial = process.dial

        async def shut(name: str) -> Any:
            if name == "ap":
                raise ConnectionRefusedError("nobody gets in")
            return await dial(name)

        with mock.patch.object(process, "dial", shut):
            process.start()
            await stage.until(lambda: process.node.readiness() is None, 30)
            assert ids(stage, "us") == ["c1"]
            assert (
                process.node.gossip.peers["ap"].state(process.node._clock.monotonic_ms()) != "down"
            )

    played(scene)


@pytest.mark.failure("P4")
def test_killed_after_the_answer_and_before_gossip() -> None:
    """What was ``accepted`` is there after the start and reaches the others late, without a gap;
    what was ``stable`` was elsewhere before the answer, and never missed."""

    async def scene(stage: Stage) -> None:
        epoch, _ = await open_(stage, "eu")
        work = stage.node("eu").append("s", "m", "p", epoch, 0, ["a"], None)
        ack = await stage.ask("eu", work)
        ack = await stage.ask("eu", stage.node("eu").until_stable("s", "m", "p", epoch, ack, 5_000))
        assert ack.stable == 1
        assert "a" in [text(stage, name) for name in ("us", "ap")]
        stage.cut(*EU_ALONE)
        assert (await append(stage, "eu", epoch, 1, "b", "c")).stable == 1
        stage.kill("eu")
        await asyncio.sleep(30)
        assert text(stage, "us") == text(stage, "ap") == "a"
        stage.boot("eu")
        assert text(stage, "eu") == "abc"
        stage.heal(*EU_ALONE)
        await everywhere(stage)
        assert text(stage, "us") == text(stage, "ap") == "abc"

    played(scene)


@pytest.mark.failure("P11")
def test_stopped_for_a_minute_and_resumed() -> None:
    """What was asked before is answered when it is on disk, and not sooner; the others took it for
    down and went on; it is the same incarnation, and catches up."""

    async def scene(stage: Stage) -> None:
        epoch, _ = await open_(stage, "eu")
        await everywhere(stage)
        process = stage.running["eu"]
        incarnation = process.node.origin.incarnation
        process.paused = True
        asked = asyncio.ensure_future(append(stage, "eu", epoch, 0, "a"))
        await asyncio.sleep(60)
        assert not asked.done()
        down = {p["region"]: p["state"] for p in stage.node("us").regions()["peers"]}
        assert down == {"eu": "down", "ap": "up"}
        claimed = await stage.ask(
            "us", stage.node("us").claim("s", "m", "q", "claim-0002", "continue")
        )
        mine = stage.node("us").append("s", "m", "q", claimed["epoch"], 0, ["x"], None)
        await stage.ask("us", mine)
        stage.loop.resume(process)
        ack = await asked
        assert (ack.accepted, ack.stable) == (1, 0)
        assert any(b'"a"' in body for found in stage.bodies().values() for body in found)
        assert process.node.origin.incarnation == incarnation
        await everywhere(stage)
        # What the zombie took is kept, and not shown: another had taken over meanwhile.
        assert [text(stage, name) for name in NAMES] == ["x"] * 3
        with pytest.raises(Refusal, match="fenced"):
            await append(stage, "eu", epoch, 1, "b")

    played(scene)


@pytest.mark.failure("P14", "C2")
@pytest.mark.parametrize("copy", [True, False], ids=["an old copy", "an empty disk"])
def test_started_from_an_old_copy_or_from_nothing(copy: bool) -> None:
    """It has an incarnation of its own, serves nobody before it has caught up where it has nothing,
    then holds all that the others have; and no lsn ever stands for two things."""

    async def scene(stage: Stage) -> None:
        for number in range(3):
            await send(stage, "eu", f"before{number}")
        await everywhere(stage)
        backup = stage.disks["eu"].copy("backup")
        for number in range(3):
            await send(stage, "eu", f"after{number}")
        await everywhere(stage)
        lost = stage.bodies()
        first = stage.node("eu").origin
        stage.kill("eu")
        await asyncio.sleep(60)
        stage.disks["eu"] = backup if copy else type(backup)("new")
        stage.boot("eu")
        assert stage.node("eu").origin.incarnation != first.incarnation
        if not copy:
            with pytest.raises(Refusal, match="catching_up"):
                stage.node("eu").snapshot("s")
            with pytest.raises(Refusal, match="catching_up"):
                await send(stage, "eu", "too early")
        await stage.until(lambda: stage.node("eu").readiness() is None, within_s=20)
        await send(stage, "eu", "new")
        await everywhere(stage)
        assert len(ids(stage, "eu")) == 7
        found = stage.bodies()
        for place, bodies in lost.items():
            assert len(bodies | found[place]) == 1, place
        assert all(len(bodies) == 1 for bodies in found.values())

    played(scene)


@pytest.mark.failure("P7")
def test_no_room_on_one_disk() -> None:
    """That region refuses what it cannot keep, reads, and stays; the others go on as if nothing
    were; when there is room again it has all that they have, without a restart."""

    async def scene(stage: Stage) -> None:
        await send(stage, "eu", "before")
        await everywhere(stage)
        process = stage.running["eu"]
        stage.disks["eu"].full = True
        for number in range(60):
            with pytest.raises(StorageFull):
                await send(stage, "eu", "refused")
            sent = await send(stage, "us", f"m{number:02}", 5_000)
            assert sent.stable is True
            assert ids(stage, "eu") == ["before"]
            await asyncio.sleep(0.5)
        assert process.node.readiness() is None and not process.exited.done()
        assert ids(stage, "us") == ids(stage, "ap")
        # What it cannot store it does not take, and is not sent again and again.
        assert stage.running["us"].links.counters["records_sent"] < 600
        stage.disks["eu"].full = False
        await everywhere(stage)
        assert (await send(stage, "eu", "refused")).created
        await everywhere(stage)
        assert len(ids(stage, "eu")) == 62 and stage.running["eu"] is process

    played(scene)


# The network


@pytest.mark.failure("N1")
def test_a_region_that_is_cut_off() -> None:
    """Both sides read and accept; waiting for ``stable`` ends in time and says what is true; once
    the cut is healed all are equal within ten seconds."""

    async def scene(stage: Stage) -> None:
        await send(stage, "us", "before")
        await everywhere(stage)
        stage.cut(*EU_ALONE)
        await asyncio.sleep(30)
        began_s = stage.loop.now_s
        alone = await send(stage, "eu", "minority", 2_000)
        assert alone.stable is False and 2 <= stage.loop.now_s - began_s < 3
        most = await send(stage, "us", "majority", 2_000)
        assert most.stable is True and stage.loop.now_s - began_s < 5
        assert ids(stage, "eu") == ["before", "minority"]
        assert ids(stage, "us") == ["before", "majority"]
        stage.heal(*EU_ALONE)
        await everywhere(stage)
        assert ids(stage, "eu") == ids(stage, "us") == ids(stage, "ap")
        assert len(ids(stage, "ap")) == 3

    played(scene)


@pytest.mark.failure("N2")
def test_a_cut_in_one_direction() -> None:
    """From eu to us things arrive, the other way nothing does: what is called stable is on another
    disk, links are not dialled in a storm, and ap carries what us and eu cannot tell each other."""

    async def scene(stage: Stage) -> None:
        epoch, _ = await open_(stage, "eu")
        await everywhere(stage)
        stage.cut("us>eu")
        for number in range(120):
            name = NAMES[number % 3]
            await append(stage, name, epoch, 0, *map(str, range(number + 1)))
            acked = stage.node("eu").acknowledged("s", "m", "p", epoch)
            elsewhere = max(stage.node(n).message("s", "m")["length"] for n in ("us", "ap"))
            assert acked.stable is not None and acked.stable <= elsewhere
            await asyncio.sleep(0.5)
        await everywhere(stage)
        assert stage.node("us").message("s", "m")["length"] == 120
        for name in NAMES:
            counters = stage.running[name].links.counters
            # In a minute: once in ten seconds or so, with the back-off.
            assert counters["links_opened"] + counters["links_failed"] < 30
        assert stage.loop.steps < 200_000

    played(scene)


@pytest.mark.failure("N3")
def test_two_regions_that_cannot_reach_each_other() -> None:
    """The third carries, in seconds; nothing has to heal for that."""

    async def scene(stage: Stage) -> None:
        stage.cut("eu-us")
        await asyncio.sleep(20)
        await send(stage, "eu", "from-eu")
        await send(stage, "us", "from-us")
        await everywhere(stage, within_s=5)
        assert set(ids(stage, "eu")) == {"from-eu", "from-us"}
        assert not stage.connected("eu", "us")

    played(scene)


@pytest.mark.failure("N5")
@pytest.mark.parametrize("what", ["1 KB a second", "5 s each way"])
def test_a_slow_peer(what: str) -> None:
    """What is on the way to it stays within its window; another peer has everything at once; and it
    gets there in the end."""

    async def scene(stage: Stage) -> None:
        for way in (("eu", "us"), ("us", "eu")):
            path = stage.network.path(*way)
            if what.startswith("5 s"):
                path.delay_s = 4.5
            else:
                path.bytes_per_s = 1_000
        # The others do not carry it: what is seen is eu's own pace.
        stage.cut("ap-us")
        for number in range(40):
            await send(stage, "eu", f"m{number:02}", text="x" * 1_000)
            lag_s = await stage.until(lambda: ids(stage, "ap") == ids(stage, "eu"), within_s=1)
            assert lag_s < 1
            flying = stage.node("eu").gossip.peers["us"].in_flight_bytes
            assert flying <= WINDOW_BYTES_MAX
        await stage.until(lambda: stage.connected("eu", "us"), within_s=60)
        await stage.until(lambda: len(ids(stage, "us")) == 40, within_s=200)

    played(scene)


@pytest.mark.failure("N6")
def test_a_black_hole() -> None:
    """Nothing says that the connection is gone: both ends notice by the silence within ten seconds,
    and the rest goes on."""

    async def scene(stage: Stage) -> None:
        stage.cut("eu-us")
        await asyncio.sleep(0)
        assert stage.connected("eu", "us") and stage.connected("us", "eu")

        def noticed() -> bool:
            return not stage.connected("eu", "us") and not stage.connected("us", "eu")

        await stage.until(noticed, NOTICED_S_MAX + 0.1)
        states = {p["region"]: p["state"] for p in stage.node("eu").regions()["peers"]}
        assert states["us"] in ("suspect", "down") and states["ap"] == "up"
        await asyncio.sleep(DOWN_MS / 1_000)
        states = {p["region"]: p["state"] for p in stage.node("eu").regions()["peers"]}
        assert states == {"us": "down", "ap": "up"}

    played(scene)


@pytest.mark.failure("N7")
def test_ten_minutes_of_spoilt_gossip() -> None:
    """Frames are lost, doubled, swapped and late: all is merged once, what was deleted stays so,
    and repetitions of everything at every region change nothing."""

    async def scene(stage: Stage) -> None:
        for one in NAMES:
            for other in NAMES:
                path = stage.network.path(one, other)
                path.spoil, path.delay_s, path.jitter_s = 0.05, 0.5, 2.0
        epoch, header = await open_(stage, "eu")
        for minute in range(10):
            name = NAMES[minute % 3]
            await stage.ask(name, stage.node(name).reopen("s", header))
            await append(stage, name, epoch, 0, *(f"{n} " for n in range(minute + 1)))
            await send(stage, name, f"gone{minute}")
            await stage.ask(name, stage.node(name).delete("s", f"gone{minute}"))
            await asyncio.sleep(60)
        assert stage.network.spoiled > 20
        stage.network.heal_all()
        await everywhere(stage, within_s=60)
        for name in NAMES:
            assert ids(stage, name) == ["m"]
            assert text(stage, name) == "".join(f"{n} " for n in range(10))
            with pytest.raises(Refusal, match="deleted"):
                await send(stage, name, "gone3")

    played(scene)


# Replication


@pytest.mark.failure("C1")
def test_back_after_longer_than_the_logs_reach() -> None:
    """What it alone had comes to the others, what they have comes to it, and nothing that they have
    deleted meanwhile comes back, though it held all of it and wrote to it."""

    async def scene(stage: Stage) -> None:
        epoch, _ = await open_(stage, "eu")
        await append(stage, "eu", epoch, 0, "a")
        await send(stage, "eu", "kept")
        await stage.ask("eu", stage.node("eu").create("buried", {"a": 1}))
        await everywhere(stage)
        stage.cut(*EU_ALONE)
        await send(stage, "eu", "alone")
        await append(stage, "eu", epoch, 1, "never seen again")
        await stage.ask("eu", stage.node("eu").patch_metadata("buried", {"b": 2}))
        await stage.ask("us", stage.node("us").delete("s", "m"))
        await stage.ask("us", stage.node("us").delete("buried"))
        for number in range(30):
            await send(stage, "us", f"meanwhile{number}")
        await asyncio.sleep(60)
        assert stage.node("us").gossip.floors, "the logs have ended"
        stage.heal(*EU_ALONE)
        await everywhere(stage, within_s=60)
        assert stage.node("eu").repair.counters["jumps"] > 0
        for name in NAMES:
            assert set(ids(stage, name)) == {"alone", "kept", *(f"meanwhile{n}" for n in range(30))}
            with pytest.raises(Refusal, match="deleted"):
                stage.node(name).message("s", "m")
            with pytest.raises(Refusal, match="deleted"):
                stage.node(name).snapshot("buried")

    # Nothing of a log is kept that is in images: there is no week to wait for.
    with mock.patch.object(gossip, "RECENT_BYTES_MAX", 500):
        played(scene, Limits(log_bytes_max=-1))


@pytest.mark.failure("C3")
def test_two_live_nodes_of_one_name() -> None:
    """The newer is refused by its peers, says that it is not ready and why, takes part in nothing,
    and ends with its own code; the older goes on."""

    async def scene(stage: Stage) -> None:
        await send(stage, "eu", "before")
        await everywhere(stage)
        older = stage.running["eu"]
        twin = stage.made("eu", Disk("twin"))
        twin.start(listening=False)
        try:
            await stage.until(lambda: twin.links.refused() is not None, within_s=5)
            assert twin.node.readiness() in ("name_in_use", "catching_up")
            with pytest.raises(Refusal, match="catching_up"):
                await twin.call(twin.node.create("twins", {}))
            await send(stage, "eu", "meanwhile", 5_000)
            await stage.until(twin.exited.done, within_s=20)
            assert twin.exited.result() == 4
        finally:
            twin.kill()
        assert stage.running["eu"] is older and older.node.readiness() is None
        await send(stage, "eu", "after")
        await everywhere(stage)
        assert ids(stage, "us") == ["before", "meanwhile", "after"]

    played(scene)


@pytest.mark.failure("C5")
def test_clocks_that_jump() -> None:
    """An hour ahead, an hour late, back and forth: an answer stands after its prompt, repetitions
    are duplicates, regions are up, and all hold the same in the same order."""

    async def scene(stage: Stage) -> None:
        for number, (name, jump) in enumerate(
            zip(
                NAMES * 4, [HOUR_MS, -HOUR_MS, 0, -3 * HOUR_MS, 5_000, 2 * HOUR_MS] * 2, strict=True
            )
        ):
            stage.offsets[name][0] += jump
            # Repeated at another region, before and after that has heard of it.
            await send(stage, name, f"m{number:02}")
            await send(stage, NAMES[(number + 1) % 3], f"m{number:02}")
            await everywhere(stage)
            again = await send(stage, NAMES[(number + 2) % 3], f"m{number:02}")
            assert again.created is False
            order = ids(stage, name)
            assert order == [f"m{n:02}" for n in range(number + 1)]
            await asyncio.sleep(11)
            assert all(p["state"] == "up" for p in stage.node(name).regions()["peers"])
        assert len({tuple(ids(stage, name)) for name in NAMES}) == 1

    played(scene)


@pytest.mark.failure("C8")
def test_two_contents_for_one_place_of_a_lane() -> None:
    """A broken producer writes one thing in one region and another in a second: the same branch
    wins everywhere, whole; who was shown the other is told ``replace``; the producer is told that
    there is a conflict wherever it goes on."""

    async def scene(stage: Stage) -> None:
        epoch, _ = await open_(stage, "eu")
        await append(stage, "eu", epoch, 0, "a")
        await everywhere(stage)
        readers = {name: Following(stage.node(name)) for name in NAMES}
        stage.cut(*EU_ALONE)
        await append(stage, "eu", epoch, 1, "b", "c", "d")
        await append(stage, "us", epoch, 1, "x", "y")
        await stage.until(lambda: text(stage, "ap") == "axy", within_s=5)
        stage.heal(*EU_ALONE)
        await everywhere(stage)
        won = text(stage, "ap")
        assert won in ("abcd", "axy")
        assert [text(stage, name) for name in NAMES] == [won] * 3
        await asyncio.sleep(1)
        assert [reader.text() for reader in readers.values()] == [won] * 3
        losers = ["eu"] if won == "axy" else ["us", "ap"]
        for name, reader in readers.items():
            if name in losers:
                assert "replace conflict" in reader.reasons
            reader.leave()
            lost = "b" if won == "axy" else "x"
            for seq, token in ((1, lost), (len(won), "more")):
                with pytest.raises(Refusal, match="conflict"):
                    await append(stage, name, epoch, seq, token)

    played(scene)


@pytest.mark.failure("C9")
@pytest.mark.parametrize("what", ["end", "cancel", "delete", "delete the session"])
def test_an_end_while_others_append(what: str) -> None:
    """In separated regions, at the same place: an end there wins or loses whole, a cancel keeps
    what was taken where it was not known, a delete wins; the same in all regions."""

    async def scene(stage: Stage) -> None:
        epoch, _ = await open_(stage, "eu")
        await append(stage, "eu", epoch, 0, "a")
        await everywhere(stage)
        stage.cut(*EU_ALONE)
        eu = stage.node("eu")
        if what == "end":
            await append(stage, "eu", epoch, 1, end="complete")
        elif what == "cancel":
            await stage.ask("eu", eu.cancel("s", "m"))
        else:
            await stage.ask("eu", eu.delete("s", "m" if what == "delete" else None))
        await append(stage, "us", epoch, 1, "b")
        stage.heal(*EU_ALONE)
        await everywhere(stage)
        if what.startswith("delete"):
            for name in NAMES:
                with pytest.raises(Refusal, match="deleted"):
                    stage.node(name).message("s", "m")
                with pytest.raises(Refusal, match="deleted"):
                    await append(stage, name, epoch, 2, "c")
            return
        (shown, *others) = [stage.views()[n][0][1:] for n in range(3)]
        assert others == [shown, shown]
        if what == "cancel":
            assert shown == ("ab", "cancelled")
        else:
            assert shown in [("a", "complete"), ("ab", "streaming")]

    played(scene)
