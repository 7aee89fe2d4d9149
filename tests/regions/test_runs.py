"""Runs over real links: who sees a lease, who wins, who is told."""

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from perdure.replication.errors import Refusal
from perdure.replication.limits import LEASE_S_DEFAULT, LEASE_UNSEEN_S, PRESENCE_HIDE_MS
from perdure.replication.runs import RunDraft

from tests.regions.linked import Linked, linked
from tests.regions.test_presence import ALL, known_to_each_other

SEEN = ("ap", "eu", "us")


def status(regions: Linked, name: str, id_: str = "r") -> str:
    with contextlib.suppress(Refusal):
        return str(regions.nodes[name].run("s", id_)["status"])
    return ""


def everywhere(regions: Linked, what: str, id_: str = "r") -> bool:
    return all(status(regions, name, id_) == what for name in regions.nodes)


async def pass_time(regions: Linked, ms: int) -> None:
    """Time passes for every region; what the next second brings is done at once."""
    regions.clock.shift_ms += ms
    for node in regions.nodes.values():
        node.desk.tick()
        node.turns.tick()
        await node.note_lapses()


async def taken(regions: Linked, name: str, worker: str) -> Any:
    claimed = await regions.nodes[name].claim_run(
        "s", "r", worker, f"claim-{worker}", "continue", None
    )
    return claimed["epoch"]


async def write(regions: Linked, name: str, worker: str, epoch: str, seq: int, text: str) -> None:
    await regions.nodes[name].append("s", "r", worker, epoch, seq, [text])


async def requested(regions: Linked) -> None:
    await known_to_each_other(regions)
    await regions.nodes["eu"].request_run("s", RunDraft("bot", "r"))
    await regions.until(lambda: everywhere(regions, "requested"))


async def test_a_turn_is_seen_everywhere(tmp_path: Path) -> None:
    """Requested in one region, taken in another from its own feed, followed in a third."""
    async with linked(tmp_path, ALL) as regions:
        work = regions.nodes["us"].follow_agent("bot", "w1")
        await work.next()
        await requested(regions)
        ((name, data), *_) = await work.next() or ()
        assert (name, '"status":"requested"' in data) == ("run", True)
        epoch = await taken(regions, "us", "w1")
        await regions.until(lambda: everywhere(regions, "running"))
        with pytest.raises(Refusal, match="at work"):
            await taken(regions, "ap", "w2")
        await write(regions, "us", "w1", epoch, 0, "hi")
        await regions.nodes["us"].append("s", "r", "w1", epoch, 1, [], "complete")
        await regions.until(lambda: everywhere(regions, "complete"))
        assert [
            node.desk.presence.value("s", "bot", lambda _: False) for node in regions.nodes.values()
        ] == [None] * 3
        work.close()


async def test_turns_that_end_together(tmp_path: Path) -> None:
    """One agent's in one session: its feed is told of each, and none is left."""
    async with linked(tmp_path, ALL) as regions:
        await known_to_each_other(regions)
        node = regions.nodes["eu"]
        names = [f"r{number}" for number in range(6)]
        epochs = {}
        for id_ in names:
            await node.request_run("s", RunDraft("bot", id_))
            claimed = await node.claim_run("s", id_, "w1", f"claim-{id_}", "continue", None)
            epochs[id_] = claimed["epoch"]
        work = node.follow_agent("bot", "w1")
        await work.next()
        ends = [node.append("s", id_, "w1", epochs[id_], 0, [], "complete") for id_ in names]
        await asyncio.gather(*ends)
        told = await work.next() or []
        ended = [json.loads(data)["run"]["id"] for _, data in told if '"complete"' in data]
        assert sorted(ended) == names
        assert node.agent_runs("bot")[0] == "[]"
        work.close()


async def test_a_lease_that_lapses_is_noted_for_all(tmp_path: Path) -> None:
    """By the region that held it; another agent takes the run over, elsewhere."""
    async with linked(tmp_path, ALL) as regions:
        await requested(regions)
        epoch = await taken(regions, "us", "w1")
        await write(regions, "us", "w1", epoch, 0, "one ")
        await regions.until(lambda: everywhere(regions, "running"))
        await pass_time(regions, 1_000 * LEASE_S_DEFAULT)
        await regions.until(lambda: everywhere(regions, "interrupted"))
        lapses = [n.state.sessions["s"].messages["r"].turn.lapses for n in regions.nodes.values()]
        await regions.until(lambda: all(lapses))
        second = await taken(regions, "ap", "w2")
        await write(regions, "ap", "w2", second, 0, "two")
        await regions.until(lambda: everywhere(regions, "running"))
        await regions.until(lambda: regions.same())
        with pytest.raises(Refusal) as refused:
            await write(regions, "us", "w1", epoch, 1, "late")
        assert refused.value.code == "fenced"
        assert regions.nodes["us"].message("s", "r")["text"] == "one two"


async def test_a_lost_region_is_only_a_view(tmp_path: Path) -> None:
    """Others show ``interrupted`` and write nothing; when it is back the run is running."""
    async with linked(tmp_path, ALL) as regions:
        await requested(regions)
        await taken(regions, "eu", "w1")
        work = regions.nodes["eu"].follow_agent("bot", "w1")
        await regions.until(lambda: everywhere(regions, "running"))
        await regions.until(lambda: regions.same())
        vector = dict(regions.nodes["us"].gossip.vector)
        await regions.peers["eu"].stop()
        await pass_time(regions, PRESENCE_HIDE_MS + 500)
        await pass_time(regions, 1_000 * LEASE_UNSEEN_S + 500)
        assert [status(regions, name) for name in SEEN] == ["interrupted", "running", "interrupted"]
        assert regions.nodes["us"].gossip.vector == vector
        assert not regions.nodes["us"].state.sessions["s"].messages["r"].turn.lapses
        await regions.link_again("eu")
        await regions.until(lambda: everywhere(regions, "running"))
        work.close()


async def test_of_many_that_claim_in_one_region_one_wins(tmp_path: Path) -> None:
    """At once, before the winner has its lease: the others are told that it is held."""
    async with linked(tmp_path, ALL) as regions:
        await requested(regions)
        names = [f"w{number}" for number in range(5)]
        claims = [taken(regions, "eu", name) for name in names]
        answers = await asyncio.gather(*claims, return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, Refusal)]
        assert [refusal.code for refusal in refused] == ["held"] * 4
        assert regions.nodes["eu"].run("s", "r")["attempt"] == 1
        assert await taken(regions, "eu", names[answers.index(*{*answers} - {*refused})])


async def test_of_two_that_claim_apart_one_wins(tmp_path: Path) -> None:
    """The greater epoch, everywhere; the other one is told by its feed and by its append."""
    async with linked(tmp_path, ALL) as regions:
        await requested(regions)
        for name in regions.nodes:
            await regions.peers[name].stop()
        works = {name: regions.nodes[name].follow_agent("bot", f"w-{name}") for name in SEEN}
        epochs = {name: await taken(regions, name, f"w-{name}") for name in ("eu", "us")}
        for name, epoch in epochs.items():
            await write(regions, name, f"w-{name}", epoch, 0, name)
        for name in SEEN:
            await regions.link_again(name)
        await regions.until(lambda: everywhere(regions, "running") and regions.same())
        winner = max(epochs, key=lambda name: int(epochs[name].split("-")[1], 16))
        loser = "us" if winner == "eu" else "eu"
        told = [node.run("s", "r")["producer"] for node in regions.nodes.values()]
        assert told == [f"w-{winner}"] * 3
        assert regions.nodes[loser].message("s", "r")["text"] == winner
        with pytest.raises(Refusal, match="took this message over"):
            await write(regions, loser, f"w-{loser}", epochs[loser], 1, "x")
        events = "".join(data for _, data in await works[loser].next() or ())
        assert f'"producer":"w-{winner}"' in events
        for work in works.values():
            work.close()


async def test_a_stop_reaches_an_agent_that_is_cut_off(tmp_path: Path) -> None:
    """When its region hears of it: what it wrote by then stays, and nothing is taken back."""
    async with linked(tmp_path, ALL) as regions:
        await requested(regions)
        epoch = await taken(regions, "eu", "w1")
        await write(regions, "eu", "w1", epoch, 0, "one ")
        await regions.until(lambda: everywhere(regions, "running") and regions.same())
        await regions.peers["eu"].stop()
        stopped = await regions.nodes["us"].cancel_run("s", "r")
        assert stopped["status"] == "cancelled"
        await write(regions, "eu", "w1", epoch, 1, "two")
        work = regions.nodes["eu"].follow_agent("bot", "w1")
        await work.next()
        await regions.link_again("eu")
        await regions.until(lambda: everywhere(regions, "cancelled") and regions.same())
        with pytest.raises(Refusal) as refused:
            await write(regions, "eu", "w1", epoch, 2, "three")
        assert refused.value.code == "cancelled"
        assert '"status":"cancelled"' in "".join(data for _, data in await work.next() or ())
        texts = {node.message("s", "r")["text"] for node in regions.nodes.values()}
        assert texts == {"one two"}
        work.close()


async def test_signals_cross_regions_once(tmp_path: Path) -> None:
    """To readers in every region that is linked; what is sent while a link is down is gone."""
    async with linked(tmp_path, ALL) as regions:
        await known_to_each_other(regions)
        readers = {name: regions.nodes[name].subscribe("s", None) for name in SEEN}
        told: dict[str, list[str]] = {name: [] for name in SEEN}

        async def have(name: str, count: int) -> None:
            while len(told[name]) < count:
                found = await readers[name].next() or ()
                told[name] += [event.data for event in found if event.name == "signal"]

        regions.nodes["eu"].signal("s", "typing", 1, "ana")
        for name in SEEN:
            await have(name, 1)
        await regions.peers["ap"].stop()
        regions.nodes["eu"].signal("s", "typing", 2, None)
        for name in ("eu", "us"):
            await have(name, 2)
        await regions.link_again("ap")
        await known_to_each_other(regions)
        regions.nodes["eu"].signal("s", "typing", 3, None)
        for name, count in (("eu", 3), ("us", 3), ("ap", 2)):
            await have(name, count)
        one, two, three = (
            f'{{"signal":"typing","data":{n},"from":{sender},"region":"eu"}}'
            for n, sender in ((1, '"ana"'), (2, "null"), (3, "null"))
        )
        assert told == {"eu": [one, two, three], "us": [one, two, three], "ap": [one, three]}
        for reader in readers.values():
            reader.close()
