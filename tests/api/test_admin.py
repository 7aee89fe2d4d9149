"""The API of operators: who may, what is shown, what is done and noted before it is done."""

import asyncio
import contextlib
import json
import socket
from typing import Any

import pytest
import websockets
from jsonschema import Draft202012Validator
from perdure.api import admin_live, connecting
from perdure.api.grants import Grants
from perdure.regions.clock import SystemClock
from perdure.regions.ports import StorageFull
from perdure.replication.admission import Draft
from perdure.replication.limits import ADMIN_STREAMS_MAX

from .conftest import Connection, Region
from .test_edge import OPERATIONS
from .test_granting import SECRET, Shifted, bearer, grant, pass_time

OPERATOR = bearer(grant(sub="op"))
ADMIN = "/admin/api"
ROUTES = sorted((path, method) for path, method in OPERATIONS if path.startswith(ADMIN))
STRANGERS = {
    "nobody": ([], 401),
    "a tenant's administrator": (bearer(grant(tenant="acme")), 403),
    "a reader of all": (bearer(grant(can={"*": ["read", "write", "cancel"]})), 403),
    "an administrator of some": (bearer(grant(can={"chat-*": ["admin"]})), 403),
}


@pytest.fixture
def clock() -> Shifted:
    """A clock that can be put forward."""
    return Shifted()


@pytest.fixture
async def guarded(serve, clock):
    """A region that asks for grants."""
    async with serve(grants=Grants(SECRET), clock=clock) as region:
        yield region


def target(path: str) -> str:
    return path.format(s="s", c="c1", r="us", tenant="acme")


async def get(region: Region, path: str, headers: Any = ()) -> Any:
    """The JSON of an answer, which must be one."""
    reply = await region.request("GET", f"{ADMIN}/{path}", None, headers)
    assert reply.status == 200, reply
    return reply.json


async def noted(region: Region) -> list[tuple[str, Any, Any, Any]]:
    """What is in the audit log."""
    entries = (await region.request("GET", "/v1/audit", None, OPERATOR)).json["entries"]
    return [(e["action"], e["actor"], e["tenant"], e["session"]) for e in entries]


async def text(region: Region, session: str, *tokens: str) -> None:
    """A session with a message that is being written."""
    lane = await region.open(session)
    assert (await region.append(lane, 0, list(tokens))).status == 200


# Who may


@pytest.mark.parametrize("who", STRANGERS)
async def test_strangers_are_shown_nothing(guarded, who):
    """Only a grant without a tenant that has ``admin`` on everything may: for any other each route
    is refused, whatever there is, and nothing is done."""
    headers, status = STRANGERS[who]
    await guarded.node.send("s", Draft("user", id="m", text="x"))
    before = guarded.state()
    assert len(ROUTES) == 22
    for path, method in ROUTES:
        for value in (None, {"nonsense": 1}) if method == "post" else (None,):
            reply = await guarded.json(method.upper(), target(path), value, headers)
            reply.assert_problem(status, "unauthorized" if status == 401 else "forbidden")
            assert b"eu" not in reply.body.replace(b'"region": "eu"', b"")
    assert guarded.state() == before and await noted(guarded) == []


async def test_writes_are_all_that_commits_answer(region, lane):
    """Not tokens alone: also what was opened, and what came from peers."""
    await region.append(lane, 0, ["a"])
    found = await get(region, "storage")
    assert (found["commits"], found["writes_per_commit"]) == (2, 1.0)


async def test_bad_questions(region):
    """Each is refused with what is wrong with it."""
    await text(region, "s", "a")
    for path, field in (
        ("sessions?sort=speed", "sort"),
        ("sessions?own=yes", "own"),
        ("sessions?after=x", "after"),
        ("sessions?limit=0", "limit"),
        (f"sessions?search={'x' * 257}", "search"),
        ("history?minutes=16", "minutes"),
        ("connections?sort=size", "sort"),
        ("sessions/s/timeline?before=1", "before"),
        ("sessions/s/timeline?limit=1001", "limit"),
    ):
        reply = await region.request("GET", f"{ADMIN}/{path}")
        assert reply.assert_problem(400, "invalid_query")["field"] == field, path
    for path in ("overview?x=1", "storage?x=1", "errors?x=1", "live?x=1", "sessions/s?x=1"):
        (await region.request("GET", f"{ADMIN}/{path}")).assert_problem(400, "invalid_query")
    for path in ("sessions/a b", "sessions/A:b", "sessions/a:b:c", "sessions/::a"):
        reply = await region.request("GET", f"{ADMIN}/{path.replace(' ', '%20')}")
        reply.assert_problem(400, "invalid_id")
    (await region.request("GET", f"{ADMIN}/sessions/none")).assert_problem(404, "not_found")
    for path, value, code in (
        ("sessions/s/cancel", None, "invalid_body"),
        ("sessions/s/cancel", {"message": 1}, "invalid_body"),
        ("sessions/s/cancel", {"message": "a/b"}, "invalid_id"),
        ("sessions/none/cancel", {"message": "m"}, "not_found"),
        ("verify", {"session": "A:b"}, "invalid_id"),
        ("verify", {"sessions": "s"}, "invalid_body"),
        ("connections/c999/disconnect", None, "not_found"),
    ):
        status = {"not_found": 404}.get(code, 400)
        (await region.json("POST", f"{ADMIN}/{path}", value)).assert_problem(status, code)
    assert region.node.message("s", "m")["status"] == "streaming"


# What is shown


async def test_sessions_of_all_tenants(guarded):
    """Searched by a part of the name, by prefix, sorted, by pages; the regions' own when asked."""
    node = guarded.node
    for name in ("acme:chat-1", "acme:chat-2", "chat-3", "umbrella:vault"):
        for number in range(int(name[-1]) if name[-1].isdigit() else 1):
            await node.send(name, Draft("user", id=f"m{number}", text="x"))
    await node.oversight.verified(None)
    await guarded.json("POST", f"{ADMIN}/verify", None, OPERATOR)

    async def names(query: str) -> list[str]:
        found = await get(guarded, f"sessions?{query}", OPERATOR)
        return [row["session"] for row in found["sessions"]]

    everything = ["acme:chat-1", "acme:chat-2", "chat-3", "umbrella:vault"]
    assert await names("sort=id") == everything
    assert await names("sort=id&search=chat") == everything[:3]
    assert await names("sort=id&prefix=acme:") == everything[:2]
    assert await names("sort=size&limit=2") == ["chat-3", "acme:chat-2"]
    assert await names("sort=size&limit=2&after=2") == ["umbrella:vault", "acme:chat-1"]
    assert sorted(await names("")) == everything and await names("sort=readers") == []
    assert ":audit" in await names("own=true") and await names("search=audit") == []
    first = await get(guarded, "sessions?sort=id&limit=3", OPERATOR)
    assert (first["next"], first["complete"]) == ("chat-3", True)
    assert await names("sort=id&limit=3&after=chat-3") == everything[3:]
    (row,) = (await get(guarded, "sessions?search=chat-1", OPERATOR))["sessions"]
    assert (row["tenant"], row["messages"], row["positions"]) == ("acme", 1, {})


async def test_one_session(region):
    """Its runs, who is present, and what happened, by the name that the regions have for it."""
    await text(region, "s", "a", "b")
    await region.json("POST", "/v1/sessions/s/runs", {"id": "r", "agent": "bot", "by": "ana"})
    claim = {"producer": "bot-1", "claim_id": "claim-0001"}
    assert (await region.json("POST", "/v1/sessions/s/runs/r/claim", claim)).status == 200
    await region.json("PUT", "/v1/sessions/s/presence/ana", {})
    region.node.tick()
    found = await get(region, "sessions/s")
    assert [(run["id"], run["status"]) for run in found["runs"]] == [("r", "running")]
    there = {(one["member"], *one["regions"], one["connections"]) for one in found["presence"]}
    assert there == {("ana", "eu", 1), ("bot", "eu", 1)}
    told = [(e["kind"], e["message"], e["run"]) for e in found["timeline"]]
    assert told == [("claimed", "r", "r"), ("requested", "r", "r"), ("opened", "m", None)]
    assert found["timeline"][1]["detail"]["by"] == "ana" and found["asked"] == ["eu"]
    assert (found["active_runs"], found["members"], found["next"]) == (1, 2, None)
    assert found["tokens_per_s"] > 0
    await region.json("DELETE", "/v1/sessions/s")
    (entry,) = [e for e in (await get(region, "sessions/s"))["timeline"] if not e["message"]]
    assert entry["kind"] == "deleted" and entry["region"] == "eu"


async def test_what_was_refused(region):
    """Refusals of routes, of hot paths and of sockets are counted, by code, with the last words."""
    lane = await region.open()
    (await region.append(lane, 5, ["x"])).assert_problem(409, "gap")
    await region.request("GET", "/v1/sessions/none")
    await region.request("GET", "/v1/nothing")
    async with websockets.connect(f"ws://127.0.0.1:{region.port}/v1/sessions/s/ws") as plug:
        await plug.send('{"do":"nonsense","number":1}')
        await plug.recv()
    codes = {one["code"]: one for one in (await get(region, "errors"))["codes"]}
    assert {code: one["count"] for code, one in codes.items()} == {
        "gap": 1,
        "not_found": 2,
        "invalid_body": 1,
    }
    assert codes["not_found"]["last_text"] == "there is nothing at this path"


async def test_storage_and_history(region):
    """Both answer as described, and the region's own figures are in them."""
    await text(region, "s", "a")
    for _ in range(6):
        region.node.tick()
    found = await get(region, "storage")
    (log,) = found["logs"]
    assert log["origin"].startswith("eu/") and log["records"] == 2 and log["oldest_ms"] > 0
    assert found["dirty"] == 1 and found["free_bytes"] > 0 and not found["encrypted"]
    history = await get(region, "history?minutes=1")
    assert len(history["samples"]) == 3 and len(history["samples"][0]) == len(history["names"]) + 1


# Live


async def begin_live(region: Region, headers: Any = (), path: str = "live") -> Connection:
    connection = await region.connect()
    await connection.start("GET", f"{ADMIN}/{path}", headers)
    assert (await connection.head()).status == 200
    return connection


async def test_live(region, monkeypatch):
    """How it is comes again and again, and each new sample; it fits the description, and what comes
    is what a request would be told."""
    monkeypatch.setattr(admin_live, "EVERY_S", 0.001)
    schema = (await region.request("GET", "/openapi.json")).json
    overview = {**schema["components"]["schemas"]["AdminOverview"], **schema}
    connection = await begin_live(region)
    first, sessions = await connection.event(), await connection.event()
    assert (first["event"], sessions["event"]) == ("overview", "sessions")
    assert list(Draft202012Validator(overview).iter_errors(json.loads(first["data"]))) == []
    await text(region, "s", *"abc")
    region.node.tick()
    region.node.tick()
    found: dict[str, Any] = {}
    while "history" not in found or not found["sessions"]["sessions"]:
        event = await connection.event()
        found[event["event"]] = json.loads(event["data"])
    assert found["sessions"]["sessions"][0]["session"] == "s"
    assert len(found["history"]["samples"]) == 1
    region.node.is_ending = True
    while (await connection.event())["event"] != "reconnect":
        pass
    assert await connection.piece() == b""


async def test_live_has_room_for_some(region):
    """One more than there is room for is refused, and who leaves makes room."""
    with contextlib.ExitStack() as others:
        connections = [await begin_live(region) for _ in range(ADMIN_STREAMS_MAX)]
        others.callback(lambda: [connection.close() for connection in connections])
        reply = await region.request("GET", f"{ADMIN}/live")
        reply.assert_problem(429, "too_many")
    while (await (again := await region.connect()).request("GET", "/livez")).status != 200:
        again.close()
    while True:
        connection = await region.connect()
        await connection.start("GET", f"{ADMIN}/live")
        if (await connection.head()).status == 200:
            return


async def test_live_ends_with_its_grant(guarded, clock, monkeypatch):
    """Within a second of its end the grant's stream is told and over."""
    monkeypatch.setattr(admin_live, "EVERY_S", 0.001)
    connection = await begin_live(guarded, OPERATOR)
    await connection.event()
    pass_time(guarded, clock, 700)
    while (event := await connection.event())["event"] != "expired":
        pass
    assert json.loads(event["data"]) == {"reason": "expired"}
    assert await connection.piece() == b""


async def test_reading_along(guarded, clock):
    """The events of any tenant's session, from a cursor on too; noted before, shown nobody, and
    over with the grant."""
    writer = bearer(grant(tenant="acme"))
    said = {"id": "m", "role": "user", "text": "hello"}
    assert (await guarded.json("POST", "/v1/sessions/s/messages", said, writer)).status == 201
    path = "sessions/acme%3As/events"
    guarded.storage.failure = StorageFull("no room")
    reply = await guarded.request("GET", f"{ADMIN}/{path}", None, OPERATOR)
    reply.assert_problem(507, "storage_full")
    guarded.storage.failure = None
    assert guarded.node.fanout.count == 0
    along = await begin_live(guarded, OPERATOR, path)
    first = await along.event()
    assert first["event"] == "snapshot" and "hello" in first["data"]
    assert (await noted(guarded))[-1] == ("session.read", "op", "acme", "s")
    again = await begin_live(guarded, OPERATOR, f"{path}?cursor={first['id']}")
    assert (await again.event())["event"] != "snapshot"
    assert not list(guarded.node.desk.values("acme:s"))
    for other, status in (("acme%3Anone", 404), (":audit", 404)):
        reply = await guarded.request("GET", f"{ADMIN}/sessions/{other}/events", None, OPERATOR)
        assert reply.status == status
    pass_time(guarded, clock, 700)
    while (await along.event())["event"] != "expired":
        pass


# Actions


async def test_actions_are_noted_before_they_are_done(guarded):
    """By whom, on whose session; what cannot be noted is not done."""
    writer = bearer(grant(tenant="acme", **{"as": ["*"]}))
    opening = {"id": "m", "role": "a", "producer": "p", "claim_id": "claim-0001"}
    reply = await guarded.json("POST", "/v1/sessions/s/messages", opening, writer)
    assert reply.status == 201
    follower = await guarded.follow("s", headers=writer)
    await follower.events()
    (one,) = (await get(guarded, "connections", OPERATOR))["connections"]
    assert (one["kind"], one["session"], one["subject"]) == ("sse", "acme:s", "ana")
    guarded.storage.failure = StorageFull("no room")
    for path, value in (
        ("sessions/acme:s/cancel", {"message": "m"}),
        (f"connections/{one['id']}/disconnect", None),
        ("verify", None),
    ):
        reply = await guarded.json("POST", f"{ADMIN}/{path}", value, OPERATOR)
        reply.assert_problem(507, "storage_full")
    assert guarded.node.meters.audit_failures.value() == 3
    guarded.storage.failure = None
    assert guarded.node.message("acme:s", "m")["status"] == "streaming"
    assert len((await get(guarded, "connections", OPERATOR))["connections"]) == 1
    path = f"{ADMIN}/sessions/acme%3As"
    reply = await guarded.json("POST", f"{path}/cancel", {"message": "m"}, OPERATOR)
    assert (reply.status, reply.json) == (200, {"status": "cancelled"})
    reply = await guarded.json("POST", f"{ADMIN}/connections/{one['id']}/disconnect", {}, OPERATOR)
    assert reply.json == {"id": one["id"], "kind": "sse", "session": "acme:s"}
    await guarded.json("POST", f"{ADMIN}/verify", {"session": "acme:s"}, OPERATOR)
    assert (await noted(guarded))[-3:] == [
        ("message.cancel", "op", "acme", "s"),
        ("connection.end", "op", "acme", "s"),
        ("verify", "op", "acme", "s"),
    ]
    own = await guarded.json("POST", f"{ADMIN}/sessions/:audit/cancel", {"message": "m"}, OPERATOR)
    own.assert_problem(403, "forbidden")


async def stalled(region: Region) -> socket.socket:
    """A reader that takes nothing, with little room for what it does not take."""
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    plain.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(plain, ("127.0.0.1", region.port))
    await loop.sock_sendall(plain, b"GET /v1/sessions/s/events HTTP/1.1\r\nhost: test\r\n\r\n")
    while (await get(region, "connections"))["count"] < 2:
        await asyncio.sleep(0)
    return plain


async def test_a_slow_reader_is_found_and_sent_away(region, monkeypatch):
    """It is first among all, with what waits for it; it is cut though it takes nothing, and comes
    back by its cursor to all of the text. The quick one goes on."""
    monkeypatch.setattr(connecting, "LEAVE_S_MAX", 0)
    lane = await region.open()
    quick = await region.follow("s")
    await quick.events()
    before = await region.follow("s")
    (snapshot, _) = await before.events()
    before.close()
    while (await get(region, "connections"))["count"] > 1:
        await asyncio.sleep(0)
    slow = await stalled(region)
    piece, seq = "x" * 60_000, 0

    async def slowest() -> dict[str, Any]:
        found: dict[str, Any] = (await get(region, "connections"))["connections"][0]
        return found

    while (one := await slowest())["waiting_bytes"] < 300_000:
        assert (await region.append(lane, seq, [piece])).status == 200
        seq += 1
        assert json.loads((await quick.event())["data"])["text"] == piece
    (_, other) = (await get(region, "connections"))["connections"]
    assert one["waiting_events"] >= 5 and other["waiting_events"] == 0
    assert one["kind"] == "sse" and one["id"] != other["id"] and one["sent_events"] > 0
    reply = await region.json("POST", f"{ADMIN}/connections/{one['id']}/disconnect")
    assert reply.status == 200
    while (await get(region, "connections"))["count"] > 1:
        await asyncio.sleep(0)
    slow.close()
    back = await region.follow("s", headers=[("last-event-id", snapshot["id"])])
    told = [json.loads(event["data"]) for event in await back.events()]
    assert sum(len(one.get("text", "")) for one in told) == 60_000 * seq
    assert (await region.append(lane, seq, ["end"])).status == 200
    assert json.loads((await quick.event())["data"])["text"] == "end"
    entries = (await get(region, "sessions/s/timeline"))["entries"]
    assert [entry["kind"] for entry in entries] == ["resumed", "opened"]


async def test_who_is_sent_away_is_told(region):
    """An event stream by ``reconnect``, a socket by that and 1012, a poll and an agent's feed by
    their ends, a long request by a problem: each comes back and goes on."""
    lane = await region.open()
    port = region.port
    follower = await region.follow("s", query="?presence=ana")
    await follower.events()
    feed = await region.connect()
    await feed.start("GET", "/v1/agents/bot/runs?worker=w", [("accept", "text/event-stream")])
    await feed.head()
    await feed.event()
    writing = await region.connect()
    kind = ("content-type", "application/x-ndjson")
    long = [kind, ("transfer-encoding", "chunked"), *lane.headers(0)]
    await writing.start("POST", f"{lane.path}/stream", long)
    await writing.chunk(b'{"seq":0,"token":"a"}\n')
    await writing.head()
    acknowledged = await writing.piece()
    assert json.loads(acknowledged)["next"] == 1
    cursor = (await follower.events("append"))[-1]["id"]
    async with websockets.connect(f"ws://127.0.0.1:{port}/v1/sessions/s/ws") as plug:
        await plug.send('{"do":"subscribe","number":1}')
        query = f"cursor={cursor}&wait_ms=20000"
        polling = asyncio.ensure_future(region.request("GET", f"/v1/sessions/s/poll?{query}"))
        document = await websockets.connect(f"ws://127.0.0.1:{port}/v1/sessions/s/documents/d")
        while len(found := (await get(region, "connections"))["connections"]) < 6:
            await asyncio.sleep(0)
        kinds = {one["kind"]: one for one in found}
        assert kinds.keys() == {"sse", "websocket", "poll", "stream", "work", "document"}
        assert (kinds["sse"]["member"], kinds["work"]["member"]) == ("ana", "w")
        assert kinds["work"]["session"] is None and kinds["document"]["session"] == "s"
        assert {one["address"] for one in found} == {"127.0.0.1"}
        for one in found:
            path = f"{ADMIN}/connections/{one['id']}/disconnect"
            assert (await region.json("POST", path)).status == 200
        assert (await follower.events("reconnect"))[-1]["data"] == '{"retry_ms":100}'
        assert json.loads((await polling).body)["events"][-1]["event"] == "reconnect"
        assert await feed.piece() == b""
        assert json.loads(await writing.piece())["code"] == "draining"
        for one in (plug, document):
            await one.wait_closed()
            assert one.close_code == 1012
    while (await get(region, "connections"))["count"]:
        await asyncio.sleep(0)
    assert (await region.append(lane, 1, ["b"])).json["next"] == 2


async def test_it_answers_while_it_drains(region):
    """Who drained a region sees it, and others are still sent away."""
    await text(region, "s", "a")
    assert (await region.request("POST", f"{ADMIN}/drain")).status == 200
    view = (await get(region, "overview"))["regions"][0]
    assert view["state"] == "draining" and view["problems"][0]["code"] == "draining"
    assert (await get(region, "sessions/s"))["messages"] == 1
    (await region.request("GET", "/v1/sessions/s")).assert_problem(503, "draining")
    assert (await region.json("POST", f"{ADMIN}/drain", {"undo": True})).status == 200
    assert (await get(region, "overview"))["regions"][0]["problems"] == []


async def test_the_cost_of_asking_is_counted(serve):
    """Requests of operators draw from the buckets of A.10 as others do."""
    async with serve(clock=SystemClock(), limits=["address=1/s,burst=2"]) as region:
        for _ in range(2):
            assert (await region.request("GET", f"{ADMIN}/errors")).status == 200
        (await region.request("GET", f"{ADMIN}/errors")).assert_problem(429, "too_many")
