"""How many sessions and messages there may be, on real nodes and disks."""

import asyncio

import pytest
from perdure.regions.node import Node
from perdure.replication.admission import Draft
from perdure.replication.errors import Refusal
from perdure.replication.tenants import own_key, session_key

from tests.regions.conftest import Regions

ACME = [session_key("acme", f"s{n}") for n in range(10)]


def user(id_: str) -> Draft:
    return Draft(id=id_, role="user", text="hello")


async def refused(node: Node, session: str, id_: str = "m") -> dict[str, object]:
    """A message that there is no room for; nothing of it is there."""
    with pytest.raises(Refusal) as found:
        await node.send(session, user(id_))
    assert found.value.code == "too_large"
    return found.value.extra


async def test_a_tenant_has_so_many_sessions(regions: Regions) -> None:
    """One more is refused, however it would begin; what is there can be written to, and others are
    not touched. One that is deleted makes room."""
    node, _ = regions.node()
    node.state.census.limit(2, None)
    node.start(None)
    await node.create(ACME[0], {})
    await node.send(ACME[1], user("m"))
    assert await refused(node, ACME[2]) == {"limit_items": 2}
    with pytest.raises(Refusal, match="too many sessions"):
        await node.create(ACME[2], {})
    await node.send(ACME[0], user("m"))
    for other in ("other:s", "s", "t", "u"):
        await node.create(other, {})
    await node.delete(ACME[0])
    await node.create(ACME[2], {})
    await refused(node, ACME[3])
    await node.stop()


async def test_a_batch_that_asks_for_too_many_gets_none_too_many(regions: Regions) -> None:
    """Also those that are admitted together, before any of them exists."""
    node, _ = regions.node()
    node.state.census.limit(3, None)
    node.start(None)
    asked = [node.create(session, {}) for session in ACME]
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert sum(isinstance(outcome, Refusal) for outcome in outcomes) == len(ACME) - 3
    assert node.state.census.of("acme") == 3
    await node.stop()


async def test_the_count_is_right_after_a_start(regions: Regions) -> None:
    """Of what is in images, of what is only in the log, and of what was deleted."""
    node, _ = regions.node()
    node.start(None)
    for session in (*ACME[:4], "s", "t"):
        await node.create(session, {})
    await node.delete(ACME[0])
    await node.stop()
    again, _ = regions.node()
    again.start(None)
    await again.create(ACME[5], {})
    await again.delete(ACME[1])
    assert (again.state.census.of("acme"), len(again.state)) == (3, 5)
    # Nothing is stored when it ends like this.
    for task in again._tasks:
        task.cancel()
    await asyncio.gather(*again._tasks, return_exceptions=True)
    again._storage.close()
    third, _ = regions.node()
    assert (third.state.census.of("acme"), third.state.census.of(""), len(third.state)) == (3, 2, 5)


async def test_the_regions_own_sessions_are_nobodys(regions: Regions) -> None:
    """Who asks how many sessions there are means people's: also after a start, from the disk."""
    node, _ = regions.node()
    node.start(None)
    await node.create("s", {})
    await node.send(own_key("note"), user("m"))
    assert (len(node.state), node.state.census.of("")) == (1, 1)
    await node.stop()
    again, _ = regions.node()
    assert (len(again.state), again.state.census.of("")) == (1, 1)
    again.start(None)
    await again.delete("s")
    assert (len(again.state), again.state.census.tenants()) == (0, [])
    await again.stop()


async def test_a_session_has_so_many_messages(regions: Regions) -> None:
    """Deleted ones count; a retry of one that is there is answered."""
    node, _ = regions.node()
    node.state.census.limit(None, 2)
    node.start(None)
    await node.send("s", user("a"))
    await node.send("s", user("b"))
    assert await refused(node, "s", "c") == {"limit_items": 2}
    assert (await node.send("s", user("b"))).created is False
    await node.delete("s", "a")
    await refused(node, "s", "c")
    await node.send("t", user("a"))
    await node.stop()


async def test_what_another_region_has_accepted_needs_no_room(regions: Regions) -> None:
    """A producer that goes on here is let in, and what peers bring is: nothing is taken back."""
    eu, _ = regions.node("eu")
    eu.start(None)
    draft = Draft(id="m", role="assistant", producer="p", claim_id="claim-0001")
    opened = await eu.open(ACME[0], draft)
    us, _ = regions.node("us")
    us.state.census.limit(1, 1)
    us.start(None)
    await us.create(ACME[9], {})
    await us.reopen(ACME[0], opened.header)
    assert us.state.census.of("acme") == 2
    await us.append(ACME[0], "m", "p", opened.epoch, 0, ["hello"])
    await refused(us, ACME[1])
    await eu.stop()
    await us.stop()


async def test_what_the_regions_keep_themselves_is_not_limited(regions: Regions) -> None:
    """Revocations, API keys and the audit log are no session of a client: a low limit on those must
    not end them."""
    node, _ = regions.node()
    node.state.census.limit(1, 2)
    node.start(None)
    for number in range(4):
        await node.send(own_key("revocations"), user(f"r-{number}"))
    assert node.state.find(own_key("revocations")) is not None
    await node.stop()
