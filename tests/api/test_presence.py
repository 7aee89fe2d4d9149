"""Presence as clients see it: puts, connections, events, refusals."""

import json
from typing import Any
from urllib.parse import quote

import pytest
from perdure.regions.clock import SystemClock
from perdure.replication import limits

from tests.api.test_events import HARD

PATH = "/v1/sessions/s/presence"


class ShiftedClock(SystemClock):
    """The system's clock, moved on by the test."""

    shift_ms = 0

    def monotonic_ms(self) -> int:
        return super().monotonic_ms() + self.shift_ms


def pass_time(region: Any, seconds: float) -> None:
    """Time passes for who is here, and the second's look is taken."""
    clock = region.node.desk.attendance._clock
    if not isinstance(clock, ShiftedClock):
        clock = ShiftedClock()
        region.node.desk.attendance._clock = region.node.desk._clock = clock
    clock.shift_ms += int(seconds * 1000)
    region.node.desk.tick()


async def here(region: Any) -> list[str]:
    reply = await region.json("GET", PATH)
    return [] if reply.status == 404 else [m["member"] for m in reply.json["presence"]]


async def change(follower: Any) -> dict[str, Any]:
    """The next presence event, without what it does not say."""
    while (event := await follower.event())["event"] != "presence":
        pass
    return {key: value for key, value in json.loads(event["data"]).items() if value}


async def test_a_member_is_put_stays_and_leaves(region):
    """A member is put stays and leaves."""
    reply = await region.json("PUT", f"{PATH}/ana", {"data": {"name": "Ana"}, "ttl_s": 10})
    assert reply.status == 200
    since = reply.json["since"]
    assert reply.json == {
        "member": "ana",
        "data": {"name": "Ana"},
        "region": "eu",
        "connections": 1,
        "since": since,
    }
    pass_time(region, 9)
    again = await region.json("PUT", f"{PATH}/ana", {"ttl_s": 10})
    assert (again.json["data"], again.json["since"]) == ({"name": "Ana"}, since)
    pass_time(region, 9)
    assert await here(region) == ["ana"]
    pass_time(region, 2)
    assert await here(region) == []
    await region.json("PUT", f"{PATH}/ana")
    assert (await region.json("DELETE", f"{PATH}/ana")).status == 204
    assert (await region.json("DELETE", f"{PATH}/ana")).status == 204
    assert await here(region) == []
    # Nothing of this made the session.
    (await region.json("GET", "/v1/sessions/s")).assert_problem(404, "not_found")


async def test_readers_are_told_of_what_changes(region):
    """Readers are told of what changes."""
    follower = await region.follow()
    snapshot, _ = await follower.events()
    assert json.loads(snapshot["data"])["presence"] == []
    await region.json("PUT", f"{PATH}/ana", {"data": 1})
    assert [m["member"] for m in (await change(follower))["joined"]] == ["ana"]
    await region.json("PUT", f"{PATH}/ana", {"data": 2})
    assert [m["data"] for m in (await change(follower))["updated"]] == [2]
    await region.json("DELETE", f"{PATH}/ana")
    assert await change(follower) == {"left": [{"member": "ana"}]}


async def test_a_connection_brings_its_member_until_a_grace_after_it(region):
    """A connection brings its member until a grace after it."""
    data = quote('{"name":"Ana"}')
    ana = await region.follow(query=f"?presence=ana&presence_data={data}")
    snapshot, _ = await ana.events()
    (member,) = json.loads(snapshot["data"])["presence"]
    assert (member["member"], member["data"]) == ("ana", {"name": "Ana"})
    ben = await region.follow(query="?presence=ben")
    await ben.events()
    assert [m["member"] for m in (await change(ana))["joined"]] == ["ben"]
    second = await region.follow(query="?presence=ana")
    await second.events()
    (updated,) = (await change(ben))["updated"]
    assert (updated["connections"], updated["data"]) == (2, {"name": "Ana"})
    for connection in (ana, second):
        connection.close()
    while len([k for k, h in region.node.desk.attendance._held.items() if h.due_ms]) < 2:
        await region.json("GET", "/livez")
    pass_time(region, limits.PRESENCE_GRACE_S - 1)
    assert await here(region) == ["ana", "ben"]
    # A refresh within the grace takes the place of the connection before.
    ana = await region.follow(query="?presence=ana")
    await ana.events()
    pass_time(region, 2)
    (updated,) = (await change(ben))["updated"]
    assert updated["connections"] == 1
    ana.close()
    while region.node.fanout.count > 1:
        await region.json("GET", "/livez")
    pass_time(region, limits.PRESENCE_GRACE_S + 1)
    assert await change(ben) == {"left": [{"member": "ana"}]}


async def test_a_resumed_reader_is_told_who_is_here(region):
    """A resumed reader is told who is here."""
    await region.json("PUT", "/v1/sessions/s")
    await region.json("PUT", f"{PATH}/ana")
    first = await region.follow()
    last = (await first.events())[-1]["id"]
    again = await region.follow(headers=[("last-event-id", last)])
    metadata, presence, _run, _document, ready = await again.events()
    assert (metadata["event"], ready["event"]) == ("metadata", "ready")
    assert [m["member"] for m in json.loads(presence["data"])["all"]] == ["ana"]
    assert presence["id"] == ready["id"] == last


async def test_an_explicit_leave_leaves_the_connection_alone(region):
    """An explicit leave leaves the connection alone."""
    ana = await region.follow(query="?presence=ana")
    await ana.events()
    await region.json("DELETE", f"{PATH}/ana")
    assert await change(ana) == {"left": [{"member": "ana"}]}
    await region.json("POST", "/v1/sessions/s/messages", {"id": "m", "role": "user", "text": "x"})
    assert (await ana.event())["event"] == "message"
    ana.close()
    assert await here(region) == []


async def test_a_deleted_session_has_nobody(region):
    """A deleted session has nobody."""
    await region.json("PUT", "/v1/sessions/s")
    await region.json("PUT", f"{PATH}/ana")
    ana = await region.follow(query="?presence=ben")
    await region.json("DELETE", "/v1/sessions/s")
    assert len(region.node.desk.presence) == 0
    for method, path in (("GET", PATH), ("PUT", f"{PATH}/ana"), ("DELETE", f"{PATH}/ana")):
        (await region.json(method, path)).assert_problem(410, "deleted")
    assert (await ana.events("deleted"))[-1]["event"] == "deleted"
    refused = await region.json("GET", "/v1/sessions/s/events?presence=ben")
    refused.assert_problem(410, "deleted")
    assert len(region.node.desk.presence) == 0


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({"ttl_s": 0}, "invalid_body", "ttl_s"),
        ({"ttl_s": 3601}, "invalid_body", "ttl_s"),
        ({"ttl_s": 1.5}, "invalid_body", "ttl_s"),
        ({"ttl_s": True}, "invalid_body", "ttl_s"),
        ({"ttl_s": "5"}, "invalid_body", "ttl_s"),
        ({"colour": 1}, "invalid_body", "colour"),
        ({"data": "x" * 4096}, "too_large", "data"),
        ([1], "invalid_body", None),
    ],
)
async def test_what_cannot_be_put(region, body, code, field):
    """What cannot be put."""
    reply = await region.json("PUT", f"{PATH}/ana", body)
    problem = reply.assert_problem(413 if code == "too_large" else 400, code)
    assert problem.get("field") == field
    assert await here(region) == []


@pytest.mark.parametrize(
    ("target", "code", "field"),
    [
        (f"{PATH}/a%2Fb", "invalid_id", "member"),
        (f"{PATH}/{'a' * 129}", "invalid_id", "member"),
        (f"{PATH}/ana?ttl_s=5", "invalid_query", "ttl_s"),
    ],
)
async def test_who_cannot_be_put(region, target, code, field):
    """Who cannot be put."""
    for method in ("PUT", "DELETE"):
        problem = (await region.json(method, target)).assert_problem(400, code)
        assert problem["field"] == field


@pytest.mark.parametrize(
    ("query", "status", "code", "field"),
    [
        ("presence=", 400, "invalid_id", "presence"),
        ("presence=a%20b", 400, "invalid_id", "presence"),
        ("presence=a&presence=b", 400, "invalid_query", "presence"),
        ("presence_data=1", 400, "invalid_query", "presence_data"),
        ("presence=a&presence_data=%7B", 400, "invalid_query", "presence_data"),
        ("presence=a&presence_data=NaN", 400, "invalid_query", "presence_data"),
        (f"presence=a&presence_data=%22{'x' * 3990}%22", 200, "", ""),
    ],
)
async def test_what_a_connection_cannot_bring(region, query, status, code, field):
    """What a connection cannot bring."""
    if status == 200:
        await region.follow(query=f"?{query}")
        return
    reply = await region.json("GET", f"/v1/sessions/s/events?{query}")
    assert reply.assert_problem(status, code)["field"] == field
    assert await here(region) == []


@pytest.mark.failure("C13")
async def test_a_client_that_flaps_is_not_seen_to(region):
    """It comes and goes as often as it likes: what dropped a moment ago is taken up again."""
    follower = await region.follow()
    await follower.events()
    for _ in range(30):
        ana = await region.follow(query="?presence=ana")
        await ana.events()
        ana.close()
        while region.node.fanout.count > 1:
            await region.json("GET", "/livez")
    assert [m["member"] for m in (await change(follower))["joined"]] == ["ana"]
    await region.json("PUT", f"{PATH}/ben")
    assert [m["member"] for m in (await change(follower))["joined"]] == ["ben"]
    assert region.node.desk.presence.last == 2


@pytest.mark.failure("S11")
async def test_data_is_what_was_given(region):
    """Nothing that a member's data holds ends a line of the stream, or changes on its way."""
    follower = await region.follow()
    await follower.events()
    for number, text in enumerate(HARD):
        await region.json("PUT", f"{PATH}/m{number}", {"data": {text: [text, None, 1.5, True]}})
    told = {}
    while len(told) < len(HARD):
        told |= {m["member"]: m["data"] for m in (await change(follower))["joined"]}
    assert told == {f"m{n}": {text: [text, None, 1.5, True]} for n, text in enumerate(HARD)}


async def test_limits(region, monkeypatch):
    """Limits."""
    from perdure.regions import attendance

    monkeypatch.setattr(attendance, "MEMBERS_MAX", 2)
    monkeypatch.setattr(attendance, "MEMBER_CONNECTIONS_MAX", 2)
    for member in ("ana", "ben"):
        await region.json("PUT", f"{PATH}/{member}")
    refused = await region.json("PUT", f"{PATH}/cy")
    refused.assert_problem(429, "too_many")
    assert refused.header("retry-after") == "5"
    # Who is here goes on being here, and comes through another connection, up to a limit.
    assert (await region.json("PUT", f"{PATH}/ana")).status == 200
    await region.follow(query="?presence=ana")
    refused = await region.json("GET", "/v1/sessions/s/events?presence=ana")
    refused.assert_problem(429, "too_many")
    assert await here(region) == ["ana", "ben"]


async def test_what_comes_in_a_burst_is_told_together(region):
    """One event for many, and never more members in it than the limit."""
    follower = await region.follow()
    await follower.events()
    count = limits.PRESENCE_EVENT_MEMBERS_MAX + 50
    for number in range(count):
        region.node.put_member("s", f"m{number}")
    events, joined = 0, 0
    while joined < count:
        told = await change(follower)
        events += 1
        assert len(told["joined"]) <= limits.PRESENCE_EVENT_MEMBERS_MAX
        joined += len(told["joined"])
    assert events <= 4


async def test_data_of_the_documented_size_comes_over_every_transport(region):
    """4,096 bytes take three times as much room in a query."""
    data = "ä" * ((limits.PRESENCE_DATA_BYTES_MAX - 2) // 2)
    cursor = (await region.json("GET", "/v1/sessions/s/poll")).json["cursor"]
    query = (
        f"?cursor={cursor}&presence=ana&presence_data={quote(json.dumps(data, ensure_ascii=False))}"
    )
    for path in ("events", "poll"):
        if path == "events":
            follower = await region.follow(query=query)
            await follower.events()
        else:
            assert (
                await region.request("GET", f"/v1/sessions/s/poll{query}&wait_ms=0")
            ).status == 200
        assert region.node.members("s")[0]["data"] == data
        region.node.remove_member("s", "ana")
