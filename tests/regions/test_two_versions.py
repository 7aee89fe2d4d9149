"""Regions of two versions side by side: one that is upgraded, and one that is not yet."""

from pathlib import Path

import pytest
from perdure.regions import repair
from perdure.regions.node import Node
from perdure.replication.admission import Draft
from perdure.replication.operations import Metadata, Operation
from perdure.replication.peers import FORWARD_DELAY_MS
from perdure.replication.records import Record

from tests.regions.linked import linked

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
