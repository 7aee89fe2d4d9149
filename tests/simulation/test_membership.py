"""Regions that are removed for good, and others that come, on whole regions in virtual time."""

import asyncio
from random import Random

import pytest
from perdure.replication.admission import Draft
from perdure.replication.errors import Refusal
from perdure.replication.records import Origin

from tests.simulation.disk import Disk
from tests.simulation.process import Process
from tests.simulation.stage import Stage, played

EQUAL_S_MAX = 10
LONG_S = 20


async def send(stage: Stage, name: str, id_: str, session: str = "s") -> None:
    await stage.ask(name, stage.node(name).send(session, Draft("user", id=id_, text=id_)))


async def forget(stage: Stage, at: str, name: str, *, force: bool = False) -> None:
    await stage.ask(at, stage.node(at).forget_region(name, by="op", force=force))


async def down(stage: Stage, name: str) -> None:
    """Kill a region, and wait until all others know."""
    stage.kill(name)
    await asyncio.sleep(LONG_S)


def gone(stage: Stage, *names: str) -> bool:
    return all(list(stage.node(name).gossip.gone) == ["ap"] for name in names)


def settled(stage: Stage, name: str, origin: Origin) -> bool:
    """Whether the region knows that everybody has all of this origin."""
    gossip = stage.node(name).gossip
    return gossip.settled_lsn(origin) == gossip.vector.get(origin, 0) > 0


def another(stage: Stage, name: str, peers: list[str]) -> Process:
    """A region that is not one of the three, started with an empty disk."""
    stage.disks[name] = Disk(name)
    process = Process(
        stage.loop,
        stage.addresses,
        name,
        stage.disks[name],
        peers,
        Random(name),
        [0],
        stage.limits,
    )
    stage.running[name] = process
    process.start()
    return process


@pytest.mark.failure("C4")
def test_nobody_waits_for_a_region_that_is_gone() -> None:
    """Its members leave, what is deleted is erased without its word, logs end without its
    acknowledgement, and what is written settles; all of that stands still before."""

    async def scene(stage: Stage) -> None:
        await send(stage, "ap", "from-ap")
        stage.node("ap").put_member("s", "ana")
        await stage.until(lambda: bool(list(stage.node("eu").desk.values("s"))), EQUAL_S_MAX)
        await stage.until(stage.equal, EQUAL_S_MAX)
        await down(stage, "ap")
        eu = stage.node("eu")
        await send(stage, "eu", "m")
        await stage.ask("eu", eu.delete("s", "from-ap"))
        await asyncio.sleep(LONG_S)
        assert eu.is_cut_off() and not settled(stage, "eu", eu.origin)
        assert eu.erasure("s", "from-ap")["state"] == "under_way"
        await forget(stage, "us", "ap")
        await stage.until(lambda: gone(stage, "eu", "us"), EQUAL_S_MAX)
        for name in ("eu", "us"):
            node = stage.node(name)
            await stage.until(lambda name=name: settled(stage, name, eu.origin), EQUAL_S_MAX)
            erased = lambda node=node: node.erasure("s", "from-ap")["state"] == "done"  # noqa: E731
            await stage.until(erased, LONG_S)
            assert not node.is_cut_off()
            assert node.regions()["gone"] == ["ap"]
            assert [peer["region"] for peer in node.regions()["peers"]] == [
                {"eu": "us", "us": "eu"}[name]
            ]
            assert not node.desk.presence.entries_in("s", "ana")
            upto = {**node.gossip.vector}
            assert node.gossip.on_every_disk()[eu.origin] == upto[eu.origin]
            assert (await stage.ask(name, node.verify()))["equal"]

    played(scene)


@pytest.mark.failure("C4")
def test_a_region_that_is_gone_does_not_come_back() -> None:
    """Neither with its own disk nor with an empty one: it is told so at once, by everybody, ends,
    and nothing of what it says is taken; the ones that stay go on, also after a restart."""

    async def scene(stage: Stage) -> None:
        await down(stage, "ap")
        await forget(stage, "eu", "ap")
        await stage.until(lambda: gone(stage, "eu", "us"), EQUAL_S_MAX)
        for disk in (stage.disks["ap"], Disk("ap2")):
            stage.disks["ap"] = disk
            stage.boot("ap")
            node = stage.node("ap")
            await stage.until(node.membership.expelled.is_set, 5)
            for name in ("eu", "us"):
                assert node.origin not in stage.node(name).gossip.vector
                assert not any(o.region == "ap" for o in stage.node(name).desk.presence.origins())
            stage.kill("ap")
        stage.kill("us")
        stage.boot("us")
        assert gone(stage, "us") and "ap" not in stage.node("us").gossip.peers
        await send(stage, "us", "after")
        await stage.until(stage.equal, EQUAL_S_MAX)
        await stage.until(lambda: settled(stage, "us", stage.node("us").origin), EQUAL_S_MAX)

    played(scene)


@pytest.mark.failure("C4")
def test_a_region_that_hears_it_late_converges() -> None:
    """While one is cut off it goes on with the region that is gone; what it took of it then reaches
    the others, and nothing is settled anywhere before that."""

    async def scene(stage: Stage) -> None:
        await stage.until(stage.equal, EQUAL_S_MAX)
        stage.cut("eu-us", "eu-ap")
        await asyncio.sleep(LONG_S)
        await send(stage, "eu", "old")
        eu = stage.node("eu")
        await forget(stage, "eu", "ap")
        await send(stage, "ap", "late")
        await stage.until(lambda: "late" in ids(stage, "us"), EQUAL_S_MAX)
        ap = stage.node("ap").origin
        await asyncio.sleep(2)
        assert not settled(stage, "eu", eu.origin)
        stage.heal("eu-us", "eu-ap")
        while not settled(stage, "eu", eu.origin):
            await asyncio.sleep(0.01)
        assert eu.gossip.vector[ap] == stage.node("us").gossip.vector[ap]
        assert ids(stage, "eu") == ids(stage, "us")
        await stage.until(stage.node("ap").membership.expelled.is_set, EQUAL_S_MAX)
        stage.kill("ap")
        await stage.until(stage.equal, EQUAL_S_MAX)
        await stage.until(lambda: settled(stage, "us", ap), EQUAL_S_MAX)

    played(scene)


def ids(stage: Stage, name: str) -> list[str]:
    if stage.node(name).state.find("s") is None:
        return []
    return sorted(message["id"] for message in stage.node(name).snapshot("s")["messages"])


def test_a_region_at_work_is_removed_only_when_it_is_drained_or_by_force() -> None:
    """Else it is refused, as is a name that nobody knows, and the region's own; and nothing was
    done. The one that is drained stops by itself once it hears."""

    async def scene(stage: Stage) -> None:
        for name, code in (
            ("ap", "conflict"),
            ("eu", "conflict"),
            ("xx", "not_found"),
            ("a b", "invalid_id"),
        ):
            with pytest.raises(Refusal) as refused:
                await forget(stage, "eu", name)
            assert refused.value.code == code
        assert stage.node("eu").gossip.gone == {}
        assert await stage.ask("ap", stage.node("ap").begin_drain())
        await forget(stage, "eu", "ap")
        again = await stage.ask("eu", stage.node("eu").forget_region("ap", by="somebody else"))
        assert (again["region"], again["by"]) == ("ap", "op")
        await stage.until(stage.node("ap").membership.expelled.is_set, EQUAL_S_MAX)
        await forget(stage, "us", "ap", force=True)
        assert stage.node("us").gossip.gone.keys() == {"ap"}

    played(scene)


@pytest.mark.failure("C4")
def test_a_region_that_another_one_hears_is_not_removed_as_down() -> None:
    """Two that are cut off from each other, and are both heard by a third, do not remove each
    other; once nobody hears it, it is done."""

    async def scene(stage: Stage) -> None:
        await stage.until(stage.equal, EQUAL_S_MAX)
        stage.cut("eu-ap")
        await asyncio.sleep(LONG_S)
        for at, name in (("eu", "ap"), ("ap", "eu")):
            with pytest.raises(Refusal) as refused:
                await forget(stage, at, name)
            assert refused.value.code == "conflict"
            assert f"{name} is down for {at}, and heard by us: ask us" in str(refused.value)
        assert stage.node("eu").gossip.gone == {} == stage.node("ap").gossip.gone
        await down(stage, "ap")
        await forget(stage, "eu", "ap")
        await stage.until(lambda: gone(stage, "eu", "us"), EQUAL_S_MAX)

    played(scene)


@pytest.mark.failure("C4")
def test_a_region_that_comes_up_while_others_are_asked_is_not_removed() -> None:
    """Asking takes time: what counts is what is so after it."""

    async def scene(stage: Stage) -> None:
        await stage.until(stage.equal, EQUAL_S_MAX)
        await down(stage, "ap")
        membership = stage.node("eu").membership
        ask, asked = membership._hears, 0

        async def is_heard(other: str, name: str) -> bool:
            nonlocal asked
            asked += 1
            heard = await ask(other, name)
            stage.boot("ap")
            await stage.until(lambda: membership._state("ap") == "up", EQUAL_S_MAX)
            return heard

        membership._hears = is_heard  # type: ignore[method-assign]
        with pytest.raises(Refusal, match="region ap is up: drain it first"):
            await forget(stage, "eu", "ap")
        assert asked == 1 and stage.node("eu").gossip.gone == {}

    played(scene)


@pytest.mark.failure("C4")
def test_what_a_drained_region_alone_has_of_another_is_waited_for() -> None:
    """It hands on what it took of one that is lost by now: it is not removed before that is done,
    or the acknowledged word of the lost one were gone with it."""

    async def scene(stage: Stage) -> None:
        await stage.until(stage.equal, EQUAL_S_MAX)
        stage.cut("eu-ap")
        await asyncio.sleep(LONG_S)
        await send(stage, "ap", "handed-on")
        await stage.until(lambda: "handed-on" in ids(stage, "us"), EQUAL_S_MAX)
        stage.kill("ap")
        assert await stage.ask("us", stage.node("us").begin_drain())
        with pytest.raises(Refusal) as refused:
            await forget(stage, "eu", "us")
        assert refused.value.code == "conflict" and "handed-on" not in ids(stage, "eu")
        await stage.until(lambda: "handed-on" in ids(stage, "eu"), EQUAL_S_MAX)
        await forget(stage, "eu", "us")
        await stage.until(stage.node("us").membership.expelled.is_set, EQUAL_S_MAX)

    played(scene)


def test_a_region_is_added_while_the_others_run() -> None:
    """With an empty disk; the links between the others stay as they were, it is ready once it has
    everything, and from then on it is waited for. One that was removed is not taken again."""

    async def scene(stage: Stage) -> None:
        for number in range(30):
            await send(stage, "eu", f"m{number}")
        await stage.until(stage.equal, EQUAL_S_MAX)
        await down(stage, "ap")
        await forget(stage, "eu", "ap")
        await stage.until(lambda: gone(stage, "eu", "us"), EQUAL_S_MAX)
        opened = {
            name: stage.running[name].links.counters["links_opened"] for name in stage.running
        }
        sa = another(stage, "sa", ["eu", "us", "ap"])
        assert sa.node.readiness() == "catching_up"
        for name, other in (("eu", "us"), ("us", "eu")):
            peers = {other: f"sim://{other}", "sa": "sim://sa", "ap": "sim://ap"}
            stage.running[name]._context.run(stage.node(name).configure_peers, peers)
            assert stage.node(name).gossip.peers.keys() == {other, "sa"}
        await stage.until(lambda: sa.node.readiness() is None, LONG_S)
        await stage.until(stage.equal, EQUAL_S_MAX)
        assert len(ids(stage, "sa")) == 30 and sa.node.gossip.gone.keys() == {"ap"}
        await send(stage, "sa", "from-sa")
        await stage.until(stage.equal, EQUAL_S_MAX)
        await stage.until(lambda: settled(stage, "eu", sa.node.origin), EQUAL_S_MAX)
        for name in ("eu", "us"):
            assert stage.running[name].links.counters["links_opened"] == opened[name] + 1
        # And out of the configuration again, without being removed.
        stage.running["eu"]._context.run(stage.node("eu").configure_peers, {"us": "sim://us"})
        assert stage.node("eu").gossip.peers.keys() == {"us"}
        await asyncio.sleep(2)
        assert stage.running["eu"].links.counters["links_refused.foreign"] > 0
        assert not sa.node.membership.expelled.is_set()
        await send(stage, "us", "goes-on")
        await stage.until(stage.equal, LONG_S)

    played(scene)


@pytest.mark.failure("C4")
def test_one_that_was_removed_and_comes_back_is_never_ready_where_it_meets_a_peer() -> None:
    """With all of its old data it waits until it has tried its peers: the first that it meets tells
    it, and by then no probe has found it ready. Where it meets nobody it is ready, as any region
    that is alone."""

    async def scene(stage: Stage) -> None:
        await send(stage, "ap", "from-ap")
        await stage.until(stage.equal, EQUAL_S_MAX)
        await down(stage, "ap")
        await forget(stage, "eu", "ap")
        await stage.until(lambda: gone(stage, "eu", "us"), EQUAL_S_MAX)
        stage.boot("ap")
        node = stage.node("ap")
        assert node.readiness() == "catching_up"
        found = {node.readiness()}

        def is_told() -> bool:
            found.add(node.readiness())
            return node.membership.expelled.is_set()

        await stage.until(is_told, 5)
        assert None not in found
        stage.kill("ap")
        for name in ("eu", "us"):
            stage.kill(name)
        stage.boot("ap")
        await stage.until(lambda: stage.node("ap").readiness() is None, 20)

    played(scene)
