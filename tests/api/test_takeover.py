"""Takeover, over HTTP, in regions that cannot reach each other."""

from typing import Any

import pytest

from tests.api.conftest import Lane, Region

CLAIM = {"producer": "q", "claim_id": "claim-0002", "mode": "continue"}


async def claim(region: Region, lane: Lane, **changed: Any) -> dict[str, Any]:
    reply = await region.json("POST", f"{lane.path}/claim", {**CLAIM, **changed})
    assert reply.status == 200, reply
    answer: dict[str, Any] = reply.json
    return answer


async def reopen(region: Region, header: str) -> Any:
    return await region.json("POST", "/v1/sessions/s/messages", {"header": header})


async def text(region: Region) -> str:
    value: str = (await region.request("GET", "/v1/sessions/s/messages/m")).json["text"]
    return value


@pytest.mark.failure("C11")
async def test_a_claim_carries_the_base_that_nobody_else_has(serve) -> None:
    """The claim's region dies before it has told anyone: with the header alone the message goes on
    elsewhere, whole, though the new producer never had the tokens of the old one."""
    async with serve(name="eu", peers=["us"]) as eu, serve(name="us", peers=["eu"]) as us:
        lane = await eu.open()
        await eu.append(lane, 0, ["Hel", "lo, "])
        claimed = await claim(eu, lane)
        assert (claimed["base"], claimed["text"]) == (2, "Hello, ")
        mine = lane._replace(producer="q", epoch=claimed["epoch"])
        unknown = await us.append(mine, 0, ["world"])
        unknown.assert_problem(409, "unknown_epoch")
        reopened = await reopen(us, claimed["header"])
        assert (reopened.status, reopened.json["next"]) == (201, 0)
        assert (await us.append(mine, 0, ["world"], end="complete")).status == 200
        assert await text(us) == "Hello, world"
        assert (await reopen(us, claimed["header"])).status == 200
        fenced = await us.append(lane, 2, ["zombie"])
        fenced.assert_problem(403, "fenced")


async def test_a_claim_leaves_to_gossip_what_others_have(serve) -> None:
    """The header does not grow with the message: what is on another disk is not in it."""
    async with serve(name="eu", peers=["us"]) as eu:
        lane = await eu.open()
        await eu.append(lane, 0, ["x" * 1000] * 50)
        eu.peer_has_all()
        claimed = await claim(eu, lane)
        assert len(claimed["header"]) < 2_000


@pytest.mark.failure("C9")
async def test_a_stop_reaches_a_takeover_that_it_did_not_know(serve) -> None:
    """Cancelled in one region while another producer claimed in a second: once the claim's region
    knows the cancel, nothing more is taken from the new epoch either."""
    async with serve(name="eu", peers=["us"]) as eu, serve(name="us", peers=["eu"]) as us:
        lane = await eu.open()
        claimed = await claim(eu, lane)
        await reopen(us, lane.header)
        stopped = await us.request("POST", f"{lane.path}/cancel")
        assert stopped.json == {"status": "cancelled"}
        mine = lane._replace(producer="q", epoch=claimed["epoch"])
        assert (await reopen(us, claimed["header"])).status == 201
        refused = await us.append(mine, 0, ["more"])
        refused.assert_problem(403, "cancelled")


async def test_a_header_that_another_wins_over_is_taken_and_refused(serve) -> None:
    """Two bodies for one id in separated regions: the later writer is told ``conflict``, and its
    header is known from then on."""
    async with serve(name="eu", peers=["us"]) as eu, serve(name="us", peers=["eu"]) as us:
        first = await eu.open()
        body = {"id": "m", "role": "tool", "producer": "z", "claim_id": "claim-0009"}
        second = await us.json("POST", "/v1/sessions/s/messages", body)
        refused = await reopen(eu, second.json["header"])
        refused.assert_problem(409, "conflict")
        assert (await reopen(us, first.header)).status == 201
        roles = [
            (await region.request("GET", "/v1/sessions/s/messages/m")).json["role"]
            for region in (eu, us)
        ]
        assert roles == ["assistant", "assistant"]


async def test_a_header_makes_known_the_epoch_it_was_given_with(serve) -> None:
    """A claim that is repeated after another has taken over gets its own epoch and a header for it:
    elsewhere it is told that it is fenced, and not, for ever, to bring the header."""
    async with serve(name="eu", peers=["us"]) as eu, serve(name="us", peers=["eu"]) as us:
        lane = await eu.open()
        first = await claim(eu, lane)
        await claim(eu, lane, producer="r", claim_id="claim-0003")
        again = await claim(eu, lane)
        assert again["epoch"] == first["epoch"]
        assert (await reopen(us, again["header"])).json["epoch"] == first["epoch"]
        mine = lane._replace(producer="q", epoch=first["epoch"])
        assert (await us.append(mine, 0, ["x"])).status == 200
        other = await eu.append(mine, 0, ["x"])
        other.assert_problem(403, "fenced")
