"""Regions of two versions side by side: one that is upgraded, and one that is not yet."""

import asyncio
from pathlib import Path

import pytest
from perdure.regions import repair
from perdure.regions.links import PeerUnreachable
from perdure.regions.node import Node
from perdure.replication.admission import Draft
from perdure.replication.errors import Refusal
from perdure.replication.frames import Kind, decode_json, encode_json
from perdure.replication.limits import STATUS_ANSWERS_MAX, STATUS_BYTES_MAX
from perdure.replication.operations import Metadata, Operation
from perdure.replication.peers import FORWARD_DELAY_MS
from perdure.replication.records import Record

from tests.regions.linked import dialer, ended, linked

PAIR = {"eu": ["us"], "us": ["eu"]}
CHAIN = {"eu": ["us"], "us": ["eu", "ap"], "ap": ["us"]}


def older(node: Node) -> None:
    """As if this version did not know operations on metadata yet."""
    real = node.state.decode

    def decode(record: Record) -> Operation | None:
        operation = real(record)
        if isinstance(operation, Metadata):
            node.state.undecodable += 1
            return None
        return operation

    node.state.decode = decode  # type: ignore[method-assign]
    node._writer._decode = decode


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for what is under way: here nothing is."""
    monkeypatch.setattr(repair, "SETTLE_S", 0)
    monkeypatch.setattr(repair, "SECOND_LOOK_S", 0)


@pytest.mark.failure("C6")
@pytest.mark.parametrize("stored", [False, True])
async def test_what_an_older_region_does_not_know_it_applies_once_upgraded(
    tmp_path: Path, stored: bool
) -> None:
    """It keeps the operation and goes on with all others; after its upgrade it has applied it, from
    its own log or, where that is stored already, from a peer; and nothing else is sent again."""
    async with linked(tmp_path, PAIR, start=False) as regions:
        eu, us = await regions.start("eu"), await regions.start("us")
        older(us)
        for number in range(20):
            await eu.send(f"s{number}", Draft("user", id="m", text="hello"))
        await eu.patch_metadata("s0", {"later": 1})
        await eu.send("s0", Draft("user", id="n", text="goes on"))
        await us.send("s1", Draft("user", id="n", text="the other way"))
        await regions.until(regions.same)
        assert us.regions()["counters"]["undecodable"] == 1
        assert us.metadata("s0") == {} and us.message("s0", "n")["text"] == "goes on"
        if stored:
            await us.checkpoint.all()
        await regions.stop("us")
        sent = regions.counters("eu")["records_sent"]
        us = await regions.start("us")
        await regions.until(lambda: us.metadata("s0") == {"later": 1})
        await regions.until(lambda: us.holdings.buckets() == eu.holdings.buckets())
        assert us.regions()["counters"]["undecodable"] == 0
        # No migration is gossiped: what differed is fetched, one session of twenty at most.
        assert regions.counters("eu")["records_sent"] == sent
        assert us.repair.counters["repaired"] <= 1


@pytest.mark.failure("C6")
async def test_an_older_region_hands_on_what_it_does_not_know(tmp_path: Path) -> None:
    """Two newer regions that reach each other only through it are equal."""
    async with linked(tmp_path, CHAIN) as regions:
        eu, us, ap = (regions.nodes[name] for name in CHAIN)
        older(us)
        await eu.send("s", Draft("user", id="m", text="hello"))
        await eu.patch_metadata("s", {"later": 1})
        await regions.until(lambda: us.gossip.vector.get(eu.origin) == 2)
        regions.clock.shift_ms += FORWARD_DELAY_MS
        regions.peers["us"].wake()
        await regions.until(regions.same)
        assert ap.metadata("s") == {"later": 1}
        assert us.metadata("s") == {}
        assert eu.holdings.buckets() == ap.holdings.buckets()


@pytest.mark.failure("C6")
async def test_each_link_speaks_the_newest_version_that_both_know(tmp_path: Path) -> None:
    """A region speaks to an older and to a newer one at the same time; all hold the same; and asks
    only those that know the question."""
    mesh = {"eu": ["us", "ap"], "us": ["eu", "ap"], "ap": ["eu", "us"]}
    async with linked(tmp_path, mesh, start=False) as regions:
        regions.versions["us"] = (1,)
        for name in mesh:
            await regions.start(name)
        eu, us, links = regions.nodes["eu"], regions.nodes["us"], regions.peers["eu"]
        await regions.until(lambda: links.wire("us") == 1 and links.wire("ap") == 2)
        await eu.send("s", Draft("user", id="m", text="to both"))
        await us.send("s", Draft("user", id="n", text="from the older"))
        await regions.until(regions.same)
        assert (await links.ask_status("ap", {}))["region"] == "ap"
        with pytest.raises(PeerUnreachable):
            await links.ask_status("us", {})
        await regions.until(lambda: regions.peers["us"].wire("eu") == 1)
        with pytest.raises(PeerUnreachable):
            await regions.peers["us"].ask_status("eu", {})
        assert all(not links.counters["frames_refused"] for links in regions.peers.values())
        await regions.stop("us")
        del regions.versions["us"]
        await regions.start("us")
        await regions.until(lambda: links.wire("us") == 2)
        assert (await links.ask_status("us", {}))["region"] == "us"


async def test_a_region_that_cannot_say_how_it_is(tmp_path: Path) -> None:
    """Refused, too long, or a mistake: who asks is told that there is no answer, and the link goes
    on; so it is where nobody has that name, or nobody is there."""
    async with linked(tmp_path, PAIR) as regions:
        links, us = regions.peers["eu"], regions.nodes["us"]
        await regions.until(lambda: links.wire("us") == 2)

        async def status(what: dict[str, object]) -> dict[str, object]:
            if "refuse" in what:
                raise Refusal("unknown_run", "no such")
            if "fail" in what:
                raise ZeroDivisionError
            return {"long": "x" * STATUS_BYTES_MAX}

        us.status = status  # type: ignore[method-assign, assignment]
        for what in ({"refuse": 1}, {"fail": 1}, {}):
            with pytest.raises(PeerUnreachable):
                await links.ask_status("us", what)
        with pytest.raises(ValueError, match="too long"):
            await links.ask_status("us", {"x": "x" * STATUS_BYTES_MAX})
        assert regions.counters("eu")["links_opened"] == 1
        assert regions.counters("us")["links_broken"] == 1
        with pytest.raises(PeerUnreachable):
            await links.ask_status("nobody", {})
        await regions.stop("us")
        with pytest.raises(PeerUnreachable):
            await links.ask_status("us", {})


async def test_a_link_has_so_many_answers_under_way(tmp_path: Path) -> None:
    """More are refused at once, and a question that is none ends the link."""
    async with linked(tmp_path, PAIR, start=False) as regions:
        eu = await regions.start("eu")
        held = asyncio.Event()

        async def status(what: dict[str, object]) -> dict[str, object]:
            await held.wait()
            return what

        eu.status = status  # type: ignore[method-assign, assignment]
        async with dialer(regions) as (socket, channel):
            channel.decode(await socket.receive_bytes())
            for ask in range(STATUS_ANSWERS_MAX + 1):
                question = encode_json({"ask": ask, "what": {"n": ask}})
                await socket.send_bytes(channel.encode(Kind.ASK_STATUS, question))
            answers = []
            while len(answers) <= STATUS_ANSWERS_MAX:
                frame = channel.decode(await socket.receive_bytes())
                if frame.kind is Kind.STATUS:
                    answers.append(decode_json(frame.payload))
                    held.set()
            assert answers[0] == {"ask": STATUS_ANSWERS_MAX, "refused": "busy"}
            assert {"ask": 0, "status": {"n": 0}} in answers
            await socket.send_bytes(channel.encode(Kind.ASK_STATUS, b'{"ask":1,"what":[]}'))
            await ended(socket)
        await regions.until(lambda: regions.counters("eu")["frames_refused.payload"] == 1)
