"""Gossip while regions come, and go for good: what is settled stays true, nobody is waited for."""

import pytest
from perdure.replication.gossip import Batch, Gossip
from perdure.replication.peers import FORWARD_DELAY_MS
from perdure.replication.records import Origin, seal

EU, US, AP = Origin("eu", 1), Origin("us", 1), Origin("ap", 1)


def eu() -> Gossip:
    return Gossip(EU, ["us", "ap"])


def write(gossip: Gossip, origin: Origin, lsn: int) -> None:
    gossip.stored([seal(origin, lsn, b"x")], 0)


@pytest.mark.failure("C4")
def test_nothing_settles_before_all_that_the_gone_region_took_has_come() -> None:
    """It may have taken something without knowing what is to settle, and have told one region
    alone. So a report counts from when that region takes nothing from it any more, and once all
    that it had of it by then is here."""
    gossip = eu()
    write(gossip, EU, 1)
    gossip.heard("us", {EU: 1}, True, 0)
    assert gossip.settled_lsn(EU) == 0, "ap has it not"
    write(gossip, EU, 2)
    gossip.forgotten("ap", (EU, 2))
    assert gossip.settled_lsn(EU) == 0, "what us said by then says nothing of what it takes of ap"
    gossip.heard("us", {EU: 1}, True, 1)
    assert gossip.settled_lsn(EU) == 0, "us does not know it yet"
    gossip.heard("us", {EU: 2, AP: 1}, True, 2)
    assert gossip.settled_lsn(EU) == 0, "us has of ap what is not here"
    write(gossip, AP, 1)
    assert gossip.settled_lsn(EU) == 2
    assert gossip.on_every_disk() == {EU: 2, AP: 1}


@pytest.mark.failure("C4")
def test_of_a_region_that_is_gone_everything_is_still_passed_on() -> None:
    """What one region has of it the others get; to itself nothing is said, and nothing it says
    is heard."""
    gossip = eu()
    write(gossip, AP, 1)
    gossip.connected("us", US, {}, 0)
    gossip.forgotten("ap", None)
    step = gossip.next_batch("us", FORWARD_DELAY_MS)
    assert isinstance(step, Batch) and [record.origin for record in step.records] == [AP]
    gossip.heard("ap", {AP: 7}, True, 1)
    gossip.lost("ap")
    assert gossip.peers.keys() == {"us"} and gossip.gone == {"ap": None}


def test_a_region_that_joins_has_nothing_yet() -> None:
    """From then on logs are kept for it, and nothing new settles without it; one that joins again
    is known as it was."""
    gossip = Gossip(EU, ["us"])
    write(gossip, EU, 1)
    gossip.heard("us", {EU: 1}, True, 0)
    assert gossip.settled_lsn(EU) == 1
    gossip.join("sa")
    assert gossip.settled_lsn(EU) == 0 and gossip.on_every_disk() == {EU: 0}
    gossip.heard("sa", {EU: 1}, True, 0)
    assert gossip.settled_lsn(EU) == 1
    gossip.join("sa")
    assert gossip.settled_lsn(EU) == 1
    gossip.part("sa")
    assert gossip.peers.keys() == {"us"}
