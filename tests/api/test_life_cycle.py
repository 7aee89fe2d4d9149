"""The routes of operators that drain a region and take it back, and remove another for good."""

import asyncio

import pytest
from perdure.api.grants import Grants
from perdure.regions.ports import StorageFailed

from .test_granting import SECRET, bearer, grant

DRAIN = "/admin/api/drain"
OPERATOR = bearer(grant(sub="op"))


def forgetting(name: str) -> str:
    return f"/admin/api/regions/{name}/forget"


@pytest.mark.failure("P13")
async def test_a_drain_is_taken_back(region, lane):
    """It sends readers elsewhere, takes no writes and is not ready, and goes on to answer its
    operator; taken back, it serves all of them as if nothing had been."""
    followers = [await region.follow("s") for _ in range(3)]
    for follower in followers:
        await follower.events()
    assert (await region.append(lane, 0, ["before "])).status == 200
    reply = await region.request("POST", DRAIN)
    assert (reply.status, reply.json["state"]) == (200, "draining")
    assert (reply.json["region"], reply.json["flushed"]) == ("eu", True)
    for follower in followers:
        assert (await follower.events("reconnect"))[-1]["data"] == '{"retry_ms":1000}'
    (await region.append(lane, 1, ["no"])).assert_problem(503, "draining")
    (await region.request("GET", "/v1/sessions/s/events")).assert_problem(503, "draining")
    ready = await region.request("GET", "/readyz")
    assert (ready.status, ready.json) == (503, {"ready": False, "reason": "draining"})
    assert (await region.request("GET", "/livez")).status == 200
    while (again := await region.json("POST", DRAIN, {"undo": False})).json["readers"]:
        await asyncio.sleep(0)
    assert (again.json["state"], again.json["flushed"]) == ("draining", True)
    back = await region.json("POST", DRAIN, {"undo": True})
    assert back.json == {"region": "eu", "state": None, "flushed": None, "readers": 0}
    assert (await region.request("GET", "/readyz")).status == 200
    assert (await region.append(lane, 1, ["after"])).status == 200
    follower = await region.follow("s")
    await follower.events()
    assert (await region.append(lane, 2, [" all"])).status == 200
    assert (await follower.event())["event"] == "append"
    seat = region.node.join_document("s", "d")
    seat.close()
    region.node.follow_agent("bot", None).close()
    assert (await region.json("POST", DRAIN, {"undo": True})).status == 200


async def test_what_is_on_its_way_out_is_not_taken_back(region):
    """Nor is a disk that has failed: ready is what can serve."""
    await region.node.drain(0)
    (await region.json("POST", DRAIN, {"undo": True})).assert_problem(503, "draining")
    assert region.node.readiness() == "draining"


async def test_a_drain_hides_no_failure(region):
    """A disk that fails while the region drains is what is said, also after it is taken back."""
    assert (await region.request("POST", DRAIN)).status == 200
    region.storage.failure = StorageFailed("no disk")
    with pytest.raises(StorageFailed):
        await region.node.membership._ledger.put("x", {})
    assert region.node.readiness() == "storage_failed"
    region.node.end_drain()
    assert region.node.readiness() == "storage_failed"


async def test_only_operators(serve):
    """Anybody else is refused, and nothing is done."""
    async with serve(grants=Grants(SECRET), peers=["us"]) as region:
        for path, body in ((DRAIN, {}), (forgetting("us"), {"confirm": "us"})):
            (await region.json("POST", path, body)).assert_problem(401, "unauthorized")
            for said in ({"tenant": "acme"}, {"can": {"s": ["admin"]}}, {"can": {"*": ["read"]}}):
                reply = await region.json("POST", path, body, bearer(grant(**said)))
                reply.assert_problem(403, "forbidden")
        assert region.node.readiness() is None
        assert region.node.gossip.peers.keys() == {"us"}


async def test_each_is_noted_before_it_is_done(serve):
    """By whom, also what is taken back by a region that drains; what cannot be noted is not
    done."""
    async with serve(grants=Grants(SECRET), peers=["us"]) as region:
        for path, body in (
            (DRAIN, {}),
            (DRAIN, {"undo": True}),
            (forgetting("us"), {"confirm": "us"}),
        ):
            assert (await region.json("POST", path, body, OPERATOR)).status == 200
        noted = (await region.request("GET", "/v1/audit", None, OPERATOR)).json["entries"]
        assert [(e["action"], e["actor"], e["target"]) for e in noted] == [
            ("region.drain", "op", "eu"),
            ("region.undrain", "op", "eu"),
            ("region.forget", "op", "us"),
        ]
        region.storage.failure = StorageFailed("no disk")
        (await region.json("POST", DRAIN, {}, OPERATOR)).assert_problem(503, "storage_failed")
        assert not region.node.leaving.is_set()


@pytest.mark.failure("C4")
async def test_removing_a_region_for_good(serve):
    """By its name, twice; again it is the same; then the region that stays waits for nobody."""
    async with serve(peers=["us"]) as region:
        for body, field in (
            ({}, "confirm"),
            ({"confirm": "ap"}, "confirm"),
            ({"confirm": "us", "force": 1}, "force"),
            ({"confirm": "us", "more": 1}, "more"),
        ):
            reply = await region.json("POST", forgetting("us"), body)
            assert reply.assert_problem(400, "invalid_body")["field"] == field
        for name, status, code in (
            ("xx", 404, "not_found"),
            ("eu", 409, "conflict"),
            ("a%20b", 400, "invalid_id"),
        ):
            body = {"confirm": name.replace("%20", " ")}
            (await region.json("POST", forgetting(name), body)).assert_problem(status, code)
        (await region.json("POST", DRAIN, {"undo": "x"})).assert_problem(400, "invalid_body")
        region.peer_has_all()
        reply = await region.json("POST", forgetting("us"), {"confirm": "us"})
        assert reply.assert_problem(409, "conflict")["detail"].startswith("region us is suspect")
        assert (await region.request("GET", "/v1/regions")).json["gone"] == []
        done = await region.json("POST", forgetting("us"), {"confirm": "us", "force": True})
        assert done.status == 200 and done.json["region"] == "us"
        again = await region.json("POST", forgetting("us"), {"confirm": "us"})
        assert again.json == done.json
        known = (await region.request("GET", "/v1/regions")).json
        assert (known["gone"], known["peers"]) == (["us"], [])
        sent = await region.json(
            "POST", "/v1/sessions/s/messages", {"id": "m", "role": "user", "text": "x"}
        )
        assert sent.json["stable"] is None


async def test_two_operators_remove_it_at_once(serve):
    """Both are told the same, whoever was first."""
    async with serve(peers=["us"]) as region:
        asked = [region.node.forget_region("us", by=who) for who in ("ana", "ben")]
        first, second = await asyncio.gather(*asked)
        assert first == second and first["by"] in ("ana", "ben")
