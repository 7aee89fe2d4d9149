"""What one region knows of the runs that are not over: the index, leases, and agents' feeds."""

import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from perdure.regions.node import Node
from perdure.replication.admission import Draft
from perdure.replication.coding import encode
from perdure.replication.errors import Refusal
from perdure.replication.ids import Epoch, LaneKey, parse_epoch
from perdure.replication.limits import LEASE_UNSEEN_S
from perdure.replication.operations import Claim, Header, Open, Operation, Request
from perdure.replication.records import Origin, seal
from perdure.replication.runs import RunDraft

from tests.regions.conftest import Regions
from tests.regions.test_long_lives import passes, rests, send

US = Origin("us", 7)


@pytest_asyncio.fixture
async def node(regions: Regions) -> AsyncIterator[Node]:
    node, _ = regions.node("eu", ["us"])
    node.start(None)
    yield node
    await node.stop()


def listed(node: Node, agent: str = "bot") -> list[str]:
    return [run["id"] for run in json.loads(node.agent_runs(agent)[0])]


def status(node: Node, id_: str = "r") -> str:
    return str(node.run("s", id_)["status"])


async def ask(node: Node, id_: str = "r", session: str = "s") -> None:
    await node.request_run(session, RunDraft("bot", id_))


async def take(
    node: Node, id_: str = "r", lease_s: int | None = None, claim: str = "claim-1"
) -> str:
    claimed = await node.claim_run("s", id_, "w1", f"{claim}-{id_}", "continue", lease_s)
    return str(claimed["epoch"])


async def hears(node: Node, *operations: Operation) -> None:
    """What a peer says."""
    first = node.gossip.vector.get(US, 0) + 1
    await node.receive([seal(US, first + n, encode(op)) for n, op in enumerate(operations)])


def earlier(agent: str | None) -> Open:
    """The same id, asked for (or opened) a year before."""
    request = None if agent is None else Request(agent, None, None)
    lane = LaneKey("~run", Epoch(1, 5))
    return Open("s", "r", Header("assistant", agent, 1, lane, "{}", None, (), request))


# The index


async def test_the_agent_of_a_run_may_turn_out_to_be_another(node: Node) -> None:
    """Two that asked apart for one id: the run is on the winner's feed alone, and ends there."""
    await ask(node)
    await take(node)
    work = node.follow_agent("bot", None)
    await work.next()
    await hears(node, earlier("other"))
    assert (listed(node), listed(node, "other")) == ([], ["r"])
    assert await work.next() == [("runs", '{"all":[]}')]
    assert list(node.desk.values("s")) == []
    await node.delete("s", "r")
    assert (listed(node), listed(node, "other"), len(node.turns)) == ([], [], 0)
    work.close()


async def test_what_was_a_run_may_turn_out_to_be_none(node: Node) -> None:
    """The message that wins the id is on nobody's feed."""
    await ask(node)
    await hears(node, earlier(None))
    assert (listed(node), len(node.turns)) == ([], 0)


@pytest.mark.parametrize("later", [40, 300])
async def test_an_old_run_is_still_on_its_feed_after_a_restart(
    regions: Regions, later: int
) -> None:
    """However many messages came after it, and however often its session was stored since."""
    node, _ = regions.node("eu", ["us"])
    node.start(None)
    await ask(node)
    for number in range(later):
        await send(node, "s", number)
    await rests(node, regions.clock)
    assert "s" not in node.state.sessions
    assert [run["id"] for run in node.snapshot("s")["runs"]] == ["r"]
    await send(node, "s", later)
    await rests(node, regions.clock)
    await node.stop()
    again, _ = regions.node("eu", ["us"])
    again.start(None)
    assert listed(again) == ["r"]
    await again.cancel_run("s", "r")
    assert again.snapshot("s")["runs"] == []
    await again.stop()
    last, _ = regions.node("eu", ["us"])
    last._status = None
    assert listed(last) == []


# Leases


async def test_a_feed_renews_before_leases_end(node: Node, regions: Regions) -> None:
    """Also the shortest, and after a second that was long."""
    await ask(node)
    await take(node, lease_s=1)
    work = node.follow_agent("bot", "w1")
    await passes(node, regions.clock, 3)
    assert status(node) == "running"
    regions.clock.pass_ms(20_000)
    await passes(node, regions.clock, 1)
    assert status(node) == "running"
    work.close()


async def test_an_agent_that_only_renews_is_at_work_again(node: Node, regions: Regions) -> None:
    """Its lease was noted to be over; now it is seen, and others are refused: so it is shown."""
    await ask(node)
    epoch = await take(node, lease_s=5)
    await passes(node, regions.clock, 7)
    assert status(node) == "interrupted"
    assert node.renew_run("s", "r", "w1", epoch)["status"] == "running"
    with pytest.raises(Refusal, match="at work"):
        await node.claim_run("s", "r", "w2", "claim-w2", "continue", None)
    await passes(node, regions.clock, 7)
    assert status(node) == "interrupted"


async def test_a_producer_that_has_forgotten_takes_its_own_run_anew(node: Node) -> None:
    """Nobody else is at work; and nothing is left of the lease of before."""
    await ask(node)
    first = await take(node)
    second = await take(node, claim="claim-2")
    assert second != first
    (member,) = node.desk.values("s")
    assert (member["connections"], member["data"]["attempt"]) == (1, 2)


async def test_an_input_is_no_sign_of_the_agent(node: Node, regions: Regions) -> None:
    """What a person says to a run whose agent is gone does not make it run."""
    await ask(node)
    await take(node)
    node.desk.attendance.leave("s", "bot")
    await passes(node, regions.clock, LEASE_UNSEEN_S + 1)
    assert status(node) == "interrupted"
    await node.send("s", Draft("user", "i", "go on", run="r"))
    assert status(node) == "interrupted"


async def test_two_runs_of_one_agent_in_one_session_are_quiet(node: Node) -> None:
    """Renewals that change nothing are no operations of presence."""
    epochs = {}
    for id_ in ("a", "b"):
        await ask(node, id_)
        epochs[id_] = await take(node, id_)
    last = node.desk.presence.last
    for seq in range(3):
        for id_, epoch in epochs.items():
            await node.append("s", id_, "w1", epoch, seq, ["x"])
    assert node.desk.presence.last == last


async def test_many_leases_that_end_at_once_are_noted_together(
    node: Node, regions: Regions
) -> None:
    """In few commits: leases are renewed, and readers kept alive, in the same loop."""
    for number in range(40):
        await node.request_run(f"s{number}", RunDraft("bot", "r"))
        await node.claim_run(f"s{number}", "r", "w1", "claim-0001", "continue", 5)
    disk = regions.disks[0]
    before = len(disk.commits)
    regions.clock.pass_ms(6_000)
    node.tick()
    await node.note_lapses()
    assert len(disk.commits) - before <= 3
    assert {node.run(f"s{n}", "r")["status"] for n in range(40)} == {"interrupted"}


# Feeds


async def test_a_repeated_request_finds_its_run_though_there_is_no_room(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room is needed for a new one only."""
    monkeypatch.setattr("perdure.regions.runs.RUNS_OPEN_MAX", 1)
    await ask(node)
    assert (await node.request_run("s", RunDraft("bot", "r")))[0] is False
    with pytest.raises(Refusal, match="too many runs"):
        await ask(node, "r2")


async def test_deletions_do_not_pile_up_lists_of_all_runs(node: Node) -> None:
    """Who is behind is told of all runs once, as they are when it looks."""
    for number in range(20):
        await ask(node, f"r{number}", "t")
    await ask(node)
    work = node.follow_agent("bot", None)
    await node.delete("t")
    assert not work._waiting
    assert [json.loads(data)["all"][0]["id"] for _, data in await work.next() or ()] == ["r"]
    await node.cancel_run("s", "r")
    ((name, data),) = await work.next() or ()
    assert (name, json.loads(data)["run"]["status"]) == ("run", "cancelled")
    work.close()


async def test_workers_bring_no_idle_session_to_memory(node: Node, regions: Regions) -> None:
    """A second costs what is at work here, and not what waits."""
    for number in range(5):
        await ask(node, "r", f"s{number}")
    work = node.follow_agent("bot", "w1")
    await rests(node, regions.clock)
    loads = node.state.loads
    await passes(node, regions.clock, 3)
    assert (len(node.state.sessions), node.state.loads) == (0, loads)
    work.close()


async def test_a_list_of_runs_leaves_old_messages_on_disk(node: Node, regions: Regions) -> None:
    """A look is a look."""
    for number in range(100):
        await send(node, "s", number)
    await rests(node, regions.clock)
    node.runs("s", None, 100)
    assert len(node.state.sessions["s"].messages.items()) <= 40


# Twins


async def test_an_agent_whose_claim_was_carried_out_twice_keeps_its_run(
    node: Node, regions: Regions
) -> None:
    """The greater of the two epochs is the tip, and nobody works under it: the agent renews and
    suspends under the one that it was told, before it has written anything."""
    await ask(node)
    epoch = parse_epoch(await take(node, lease_s=5))
    message = node.state.sessions["s"].messages["r"]
    claim = message.claims[LaneKey("w1", epoch)]
    twin = LaneKey("w1", Epoch(epoch.counter + 1, 9))
    await hears(node, Claim("s", "r", twin, claim.tag, claim.root, None, 0))
    assert message.tip == twin
    for _ in range(3):
        await passes(node, regions.clock, 3)
        node.renew_run("s", "r", "w1", str(epoch))
    assert status(node) == "running"
    said = await node.say_state("s", "r", "w1", str(epoch), 1, "suspended", "you")
    assert (said["status"], said["epoch"], said["detail"]) == ("suspended", str(epoch), "you")
    with pytest.raises(Refusal, match="took this run over"):
        node.renew_run("s", "r", "w1", str(twin.epoch))
