"""What goes on under grants: ends, renewals, revocations, tickets; and API keys."""

import asyncio
import json
import time
from typing import Any

import jwt
import pytest
import websockets
from jsonschema import Draft202012Validator
from perdure.api import api_keys, revocations
from perdure.api.authority import VERBS
from perdure.api.document_sockets import DocumentSocket
from perdure.api.grants import Grants
from perdure.regions.clock import SystemClock
from perdure.regions.ledger import Ledger
from perdure.replication.admission import Draft
from perdure.replication.errors import Refusal
from perdure.replication.limits import TICKET_S_MAX
from perdure.replication.runs import RunDraft
from perdure.replication.yjs_sync import encode_sync_update
from pycrdt import Doc, Text

from .conftest import Region
from .followers import plug
from .test_conformance_openapi import OF_GRANTS

SECRET = b"s" * 32
ALL = {"*": list(VERBS)}


class Shifted(SystemClock):
    """The system's clock, put forward."""

    ms = 0

    def wall_ms(self) -> int:
        """Milliseconds since 1970, and more."""
        return super().wall_ms() + self.ms

    def monotonic_ms(self) -> int:
        """Milliseconds, and more."""
        return super().monotonic_ms() + self.ms


def grant(**said: Any) -> str:
    """A grant of ana for ten minutes, unless something else is said."""
    now = int(time.time())
    return jwt.encode({"sub": "ana", "iat": now, "exp": now + 600, "can": ALL, **said}, SECRET)


def bearer(token: str) -> list[tuple[str, str]]:
    """The header that brings it."""
    return [("authorization", f"Bearer {token}")]


def pass_time(region: Region, clock: Shifted, seconds: float) -> None:
    """So much later, and what is done each second."""
    clock.ms += int(seconds * 1000)
    for look in region.node.each_second:
        look()


@pytest.fixture
def clock() -> Shifted:
    """A clock that can be put forward."""
    return Shifted()


@pytest.fixture
async def guarded(serve, clock):
    """A region that asks for grants."""
    async with serve(grants=Grants(SECRET), clock=clock) as region:
        yield region


async def follow(region: Region, token: str, session: str = "s") -> Any:
    """An event stream, read until it is caught up."""
    connection = await region.follow(session, headers=bearer(token))
    await connection.events()
    return connection


# The end of a grant


@pytest.mark.failure("S2")
async def test_a_stream_ends_with_its_grant(guarded, clock):
    """It is told so after everything else, ends, and is gone on with from its cursor."""
    token = grant()
    stream = await follow(guarded, token)
    pass_time(guarded, clock, 629)
    await guarded.node.send("s", Draft("user", id="m", text="last"))
    pass_time(guarded, clock, 2)
    assert [e["event"] for e in await stream.events("expired")] == ["message", "expired"]
    assert await stream.piece() == b""
    again = await guarded.follow("s", headers=bearer(grant(exp=int(time.time()) + 2_000)))
    assert (await again.event())["event"] == "snapshot"


@pytest.mark.failure("S2")
async def test_held_readers_are_told_by_their_own_cursor(guarded, clock):
    """The last word of a stream that is held does not say that it was told what it was not."""
    await guarded.node.send("s", Draft("user", id="m", text="one"))
    stream = await follow(guarded, grant())
    feed = guarded.node.fanout.get("s")
    assert feed is not None
    pass_time(guarded, clock, 631)
    last = await stream.event()
    assert last["event"] == "expired"
    # Nothing has happened since: who comes back with it misses nothing and is told nothing twice.
    query = f"?cursor={last['id']}"
    again = await guarded.follow(
        "s", query=query, headers=bearer(grant(exp=int(time.time()) + 2_000))
    )
    assert [e["event"] for e in await again.events()] == [
        *("metadata", "presence", "run", "document", "ready"),
    ]


@pytest.mark.failure("S2")
async def test_a_grant_is_renewed_in_place(guarded, clock):
    """Streams, sockets and feeds go on under the new grant, with nothing in between."""
    old, new = grant(), grant(exp=int(time.time()) + 5_000)
    stream = await follow(guarded, old)
    socket = await plug(guarded, additional_headers=dict(bearer(old)))
    assert (await socket.do("subscribe"))["status"] == 200
    await socket.until("ready")
    reply = await guarded.json("POST", "/v1/grants/renew", {"grant": old}, bearer(new))
    # The stream, the socket, and what it follows.
    assert (reply.status, reply.json["renewed"]) == (200, 3)
    pass_time(guarded, clock, 1_000)
    await guarded.node.send("s", Draft("user", id="m", text="after"))
    assert (await stream.event())["event"] == "message"
    assert (await socket.until("message"))[-1].data["text"] == "after"
    pass_time(guarded, clock, 5_000)
    assert (await stream.event())["event"] == "expired"
    await socket.connection.close()


async def test_somebody_else_renews_nothing(guarded):
    """A grant of another subject or tenant does not carry on what is not its own."""
    old = grant()
    await follow(guarded, old)
    for other in (grant(sub="ben"), grant(tenant="acme")):
        reply = await guarded.json("POST", "/v1/grants/renew", {"grant": old}, bearer(other))
        assert reply.json["renewed"] == 0


async def test_a_renewal_that_reaches_less_ends_the_rest(guarded):
    """What the new grant does not allow to read is over."""
    old = grant()
    stream = await follow(guarded, old)
    new = grant(can={"other": ["read"]})
    reply = await guarded.json("POST", "/v1/grants/renew", {"grant": old}, bearer(new))
    assert reply.json["renewed"] == 1
    assert json.loads((await stream.events("expired"))[-1]["data"]) == {"reason": "revoked"}


async def test_a_renewal_takes_what_it_does_not_allow(guarded):
    """Who may only read from now on appends no more over what was open, edits no document, and is
    told of no runs."""
    old = grant(**{"as": ["*"]})
    opened = await guarded.json(
        "POST",
        "/v1/sessions/s/messages",
        {"id": "m", "role": "a", "producer": "p", "claim_id": "claim-0001"},
        bearer(old),
    )
    long = await guarded.connect()
    lane = [("producer-id", "p"), ("producer-epoch", opened.json["epoch"])]
    chunked = [("transfer-encoding", "chunked"), ("content-type", "application/x-ndjson")]
    await long.start("POST", "/v1/sessions/s/messages/m/stream", [*bearer(old), *lane, *chunked])
    await long.chunk(b'{"seq":0,"token":"a"}\n')
    assert (await long.head()).status == 200
    assert b'"next":1' in await long.piece()
    feed = await guarded.connect()
    await feed.start("GET", "/v1/agents/bot/runs", [*bearer(old), ("accept", "text/event-stream")])
    assert (await feed.head()).status == 200
    assert b"event: runs" in await feed.piece()
    socket = await plug(guarded, additional_headers=dict(bearer(old)))
    assert (await socket.do("work", agent="bot"))["status"] == 200
    url = f"ws://127.0.0.1:{guarded.port}/v1/sessions/s/documents/d/ws"
    document = await websockets.connect(url, additional_headers=dict(bearer(old)), proxy=None)
    kept = await follow(guarded, old)
    new = grant(can={"s": ["read"]})
    reply = await guarded.json("POST", "/v1/grants/renew", {"grant": old}, bearer(new))
    assert reply.json["renewed"] == 6
    assert b'"code": "unauthorized"' in await long.piece()
    assert b"event: expired" in await feed.piece()
    await guarded.node.request_run("s", RunDraft("bot", id="r"))
    while "over" not in await socket.take():
        pass
    assert [f["event"] for f in socket.frames if "event" in f] == ["runs", "expired"]
    assert (await socket.do("work", agent="bot"))["body"]["code"] == "forbidden"
    await document.wait_closed()
    assert document.close_code == 4401
    assert (await kept.event())["event"] in ("message", "run")
    await socket.connection.close()


@pytest.mark.failure("S2")
async def test_a_socket_ends_with_its_grant(guarded, clock):
    """What it follows is told, it is told, and is closed with 4401; unless it was renewed."""
    old = grant()
    socket = await plug(guarded, additional_headers=dict(bearer(old)))
    assert (await socket.do("subscribe"))["status"] == 200
    await socket.until("ready")
    new = grant(exp=int(time.time()) + 1_000)
    assert (await socket.do("renew", grant=new))["body"]["renewed"] == 2
    assert (await socket.do("renew", grant="x.y.z"))["body"]["code"] == "unauthorized"
    pass_time(guarded, clock, 700)
    assert (await socket.do("metadata"))["status"] in (200, 404)
    pass_time(guarded, clock, 400)
    assert await socket.closed() == 4401
    assert {"expired": {"reason": "expired"}} in socket.frames
    assert [told.event for told in socket.events["s"]] == ["expired"]


async def test_long_requests_and_feeds_end(guarded, clock):
    """A long append is refused in a line of its own; a feed is told; a poll answers."""
    token = grant(**{"as": ["*"]})
    opened = await guarded.json(
        "POST",
        "/v1/sessions/s/messages",
        {"id": "m", "role": "a", "producer": "p", "claim_id": "claim-0001"},
        bearer(token),
    )
    long = await guarded.connect()
    lane = [("producer-id", "p"), ("producer-epoch", opened.json["epoch"])]
    chunked = [("transfer-encoding", "chunked"), ("content-type", "application/x-ndjson")]
    await long.start("POST", "/v1/sessions/s/messages/m/stream", [*bearer(token), *lane, *chunked])
    await long.chunk(b'{"seq":0,"token":"a"}\n')
    assert (await long.head()).status == 200
    assert b'"next":1' in await long.piece()
    feed = await guarded.connect()
    await feed.start(
        "GET", "/v1/agents/bot/runs", [*bearer(token), ("accept", "text/event-stream")]
    )
    assert (await feed.head()).status == 200
    assert b"event: runs" in await feed.piece()
    poll = await guarded.connect()
    first = await guarded.json("GET", "/v1/sessions/s/poll", None, bearer(token))
    asked = f"/v1/sessions/s/poll?cursor={first.json['cursor']}&poll={first.json['poll']}"
    await poll.start("GET", asked, bearer(token))
    for _ in range(100):
        # Until it waits.
        await asyncio.sleep(0)
    pass_time(guarded, clock, 631)
    assert b'"code": "unauthorized"' in await long.piece()
    assert b"event: expired" in await feed.piece()
    told = (await poll.reply()).json["events"]
    assert [e["event"] for e in told if e["event"] == "expired"] == ["expired"]


async def test_polls_of_agents_end(guarded, clock):
    """One that waits is refused when its grant is over, and is told of nothing that came since."""
    head = bearer(grant(**{"as": ["*"]}))
    first = await guarded.request("GET", "/v1/agents/bot/runs", None, head)
    poll = await guarded.connect()
    asked = f"/v1/agents/bot/runs?wait_ms=20000&cursor={first.json['cursor']}"
    await poll.start("GET", asked, head)
    while not guarded.node.turns._readers:
        # Until it waits.
        await asyncio.sleep(0)
    pass_time(guarded, clock, 631)
    await guarded.node.request_run("s", RunDraft("bot", id="r"))
    (await poll.reply()).assert_problem(401, "unauthorized")


# Revocation


REVOKED: dict[str, Any] = {
    "by its id": ({"grant": "jti-1"}, {"jti": "jti-1"}, {"jti": "jti-2"}),
    "by its subject": ({"subject": "ana"}, {}, {"sub": "ben"}),
    "by the session": ({"session": "s"}, {"sub": "ben"}, None),
    "by its key": ({"key": "k-1"}, {"jti": "k-1~77"}, {"jti": "k-2~77"}),
}


@pytest.mark.failure("S4")
@pytest.mark.parametrize(("what", "bad", "good"), REVOKED.values(), ids=REVOKED.keys())
async def test_revocation(serve, clock, what, bad, good):
    """At once: its streams end and it opens nothing; others go on; also after a restart."""
    operator = bearer(grant(sub="root"))
    async with serve(grants=Grants(SECRET), clock=clock) as region:
        revoked = grant(**bad)
        cut, kept = await follow(region, revoked), None
        if good is not None:
            kept = await follow(region, grant(**good))
        reply = await region.json("POST", "/v1/revocations", what, operator)
        assert reply.status == 201 and reply.json["by"] == "root"
        assert json.loads((await cut.event())["data"]) == {"reason": "revoked"}
        assert await cut.piece() == b""
        if kept is not None:
            await region.node.send("s", Draft("user", id="m", text="on"))
            assert (await kept.event())["event"] == "message"
        listed = await region.json("GET", "/v1/revocations", None, bearer(grant(sub="root2")))
        assert len(listed.json["revocations"]) == 1
    async with serve(grants=Grants(SECRET), clock=clock) as region:
        path = "/v1/sessions/s"
        reply = await region.request("GET", path, None, bearer(revoked))
        reply.assert_problem(401, "unauthorized")
        later = grant(**{**bad, "iat": int(time.time()) + 2})
        if "grant" not in what and "key" not in what:
            clock.ms += 5_000
            assert (await region.request("GET", path, None, bearer(later))).status in (200, 404)


@pytest.mark.failure("S4")
async def test_revocations_of_other_regions(guarded):
    """What another region has revoked ends what goes on here within a second."""
    stream = await follow(guarded, grant(jti="j"))
    # As gossip brings it: a message of the regions' own session.
    value = {"kind": "grant", "tenant": "", "name": "j", "at": time.time(), "by": "root"}
    await guarded.node.send(":revocations", Draft("record", id="r-1", text=json.dumps(value)))
    for look in guarded.node.each_second:
        look()
    assert (await stream.event())["event"] == "expired"


@pytest.mark.failure("S4")
async def test_a_revocation_between_the_door_and_the_stream(guarded):
    """What was let in before a revocation and begins after it ends as well."""
    from perdure.api.guarding import Rules, build_door
    from perdure.api.standing import Standing

    door, _ = build_door(guarded.node, Rules(Grants(SECRET)))
    assert door.guard is not None
    standings, revocations = door.guard.standings, door.guard.revocations
    standing = Standing(Grants(SECRET).check(f"Bearer {grant(jti='j')}"), standings)
    await revocations.add(("grant", "", "j"), time.time(), "root")
    # As the tick does, while the request waits for its turn at the gate.
    standings.look()
    ended: list[str] = []
    standing.hold(None, ended.append)
    standings.look()
    assert ended == ["revoked"] and len(standings) == 0


@pytest.mark.failure("S4")
async def test_who_takes_nothing_edits_nothing_more(guarded):
    """A document's socket whose client does not read what it is told ends with its next edit."""
    seat = guarded.node.join_document("s", "d")
    edit, stuck = asyncio.Event(), asyncio.Event()
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        await edit.wait()
        document = Doc({"text": Text("after")})
        update = document.get_update()
        return {"type": "websocket.receive", "bytes": encode_sync_update(update)}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)
        if message["type"] == "websocket.send":
            stuck.set()
            await asyncio.Event().wait()

    running = asyncio.ensure_future(DocumentSocket(guarded.node, seat, receive, send).run())
    await stuck.wait()
    seat.end("revoked")
    edit.set()
    await asyncio.wait_for(running, 5)
    assert (sent[-1]["code"], sent[-1]["reason"]) == (4401, "revoked")
    with pytest.raises(Refusal, match="not_found"):
        guarded.node.document("s", "d")
    seat.close()


async def test_strict_while_cut_off(serve, clock, tmp_path):
    """Where that is asked for, old grants are good no more while a region is not heard."""
    from perdure.api.guarding import Rules, build_door

    async with serve(peers=["us"], clock=clock) as region:
        door, _ = build_door(region.node, Rules(Grants(SECRET), 100))
        assert door.guard is not None
        ends = door.guard.standings.ends
        young, old = (
            Grants(SECRET).check(f"Bearer {grant(iat=int(time.time()) - age)}") for age in (10, 300)
        )
        assert (ends(young, None), ends(old, None)) == (None, "revoked")
        region.node.gossip.peers["us"].connected = True
        region.node.gossip.heard("us", {}, True, clock.monotonic_ms())
        assert (ends(young, None), ends(old, None)) == (None, None)


async def test_a_revoked_session_is_not_verified(guarded):
    """Its digest is of what a grant from before may not see any more."""
    head = bearer(grant(iat=int(time.time()) - 5))
    await guarded.node.send("s", Draft("user", id="m", text="one"))
    assert (await guarded.request("GET", "/v1/verify?session=s", None, head)).status == 200
    what = {"session": "s"}
    assert (await guarded.json("POST", "/v1/revocations", what, bearer(grant()))).status == 201
    reply = await guarded.request("GET", "/v1/verify?session=s", None, head)
    reply.assert_problem(401, "unauthorized")


async def test_only_administrators_revoke(guarded):
    """Of their own tenant; operators of any."""
    for token, status in (
        (grant(can={"*": ["read"]}), 403),
        (grant(can={"s": ["admin"]}), 403),
        (grant(tenant="acme"), 201),
    ):
        reply = await guarded.json("POST", "/v1/revocations", {"subject": "x"}, bearer(token))
        assert reply.status == status
    across = {"subject": "x", "tenant": "umbrella"}
    reply = await guarded.json("POST", "/v1/revocations", across, bearer(grant(tenant="acme")))
    reply.assert_problem(403, "forbidden")
    assert (await guarded.json("POST", "/v1/revocations", across, bearer(grant()))).status == 201
    for body in ({}, {"subject": "a", "grant": "b"}, {"subject": ""}, {"session": "a b"}):
        reply = await guarded.json("POST", "/v1/revocations", body, bearer(grant()))
        assert reply.status == 400, body


async def test_no_tenant_takes_the_others_room(guarded, monkeypatch):
    """Of revocations and API keys: each has its own, and whoever has none left still deletes."""
    monkeypatch.setattr(revocations, "REVOCATIONS_MAX", 3)
    monkeypatch.setattr(api_keys, "API_KEYS_MAX", 2)
    full, other = (bearer(grant(tenant=name)) for name in ("acme", "umbrella"))
    made = {"subject": "svc", "can": {"a": ["read"]}}
    keys = [(await guarded.json("POST", "/v1/keys", made, full)) for _ in range(3)]
    assert [reply.status for reply in keys] == [201, 201, 429]
    for status in (201, 201, 201, 429):
        # The same again counts as well: it is kept with its time.
        reply = await guarded.json("POST", "/v1/revocations", {"subject": "x"}, full)
        assert reply.status == status
    target = f"/v1/keys/{keys[0].json['id']}"
    assert (await guarded.request("DELETE", target, None, full)).status == 204
    assert (await guarded.json("POST", "/v1/revocations", {"subject": "x"}, other)).status == 201
    assert (await guarded.json("POST", "/v1/keys", made, other)).status == 201
    # A grant or a key is revoked for ever, once.
    for _ in range(5):
        reply = await guarded.json("POST", "/v1/revocations", {"grant": "g"}, other)
        assert reply.status == 201
    listed = await guarded.request("GET", "/v1/revocations", None, other)
    assert len(listed.json["revocations"]) == 2


async def test_limits_of_messages_are_not_of_revocations(guarded):
    """However few messages the operator lets a session have."""
    guarded.node.state.census.limit(None, 2)
    root = bearer(grant())
    for number in range(4):
        what = {"subject": f"x{number}"}
        assert (await guarded.json("POST", "/v1/revocations", what, root)).status == 201


async def test_a_revoked_key_mints_nothing(guarded):
    """Though it is kept."""
    root = bearer(grant())
    made = {"subject": "svc", "can": {"a": ["read"]}}
    key = (await guarded.json("POST", "/v1/keys", made, root)).json
    assert (await guarded.json("POST", "/v1/tokens", None, bearer(key["key"]))).status == 201
    assert (await guarded.json("POST", "/v1/revocations", {"key": key["id"]}, root)).status == 201
    reply = await guarded.json("POST", "/v1/tokens", None, bearer(key["key"]))
    reply.assert_problem(401, "unauthorized")


async def test_keys_of_a_region_that_catches_up(guarded):
    """A region that begins on an empty disk says that it is that, and not that a key is bad."""
    guarded.node.catch_up.is_under_way = True
    for _ in range(25):
        reply = await guarded.json("POST", "/v1/tokens", None, bearer("pdk_k-1_2"))
        reply.assert_problem(503, "catching_up")
    reply = await guarded.request("GET", "/v1/keys", None, bearer(grant()))
    reply.assert_problem(503, "catching_up")
    assert (await guarded.request("GET", "/v1/regions", None, bearer(grant()))).status == 200


# Tickets


@pytest.mark.failure("S17")
async def test_a_ticket_opens_one_stream_once(guarded, clock):
    """Of this session, soon; and never twice."""
    head = bearer(grant(can={"s": ["read"]}))

    async def ticket() -> str:
        reply = await guarded.json("POST", "/v1/sessions/s/tickets", None, head)
        assert reply.status == 201
        name: str = reply.json["ticket"]
        return name

    name = await ticket()
    stream = await guarded.follow("s", query=f"?ticket={name}")
    assert [e["event"] for e in await stream.events()] == ["snapshot", "ready"]
    for target in (f"/v1/sessions/s/events?ticket={name}", "/v1/sessions/s/events?ticket=00"):
        (await guarded.request("GET", target)).assert_problem(401, "unauthorized")
    elsewhere = f"/v1/sessions/t/events?ticket={await ticket()}"
    (await guarded.request("GET", elsewhere)).assert_problem(401, "unauthorized")
    late = await ticket()
    clock.ms += TICKET_S_MAX * 1000 + 1
    reply = await guarded.request("GET", f"/v1/sessions/s/events?ticket={late}")
    reply.assert_problem(401, "unauthorized")
    name = await ticket()
    socket = await plug(guarded, query=f"?ticket={name}")
    assert (await socket.do("subscribe"))["status"] == 200
    assert (await socket.do("create"))["body"]["code"] == "forbidden"
    await socket.connection.close()
    # What it opened ends with the grant that it was bought with.
    pass_time(guarded, clock, 700)
    assert (await stream.events("expired"))[-1]["event"] == "expired"


async def test_a_ticket_opens_streams_only(guarded):
    """Whatever its grant may do: who finds it in a log deletes nothing, and buys no other."""
    for method, path in (
        ("GET", ""),
        ("PUT", ""),
        ("DELETE", ""),
        ("POST", "/tickets"),
        ("POST", "/messages"),
        ("GET", "/poll"),
    ):
        reply = await guarded.json("POST", "/v1/sessions/s/tickets", None, bearer(grant()))
        target = f"/v1/sessions/s{path}?ticket={reply.json['ticket']}"
        (await guarded.json(method, target, {})).assert_problem(401, "unauthorized")
    stream = await guarded.follow("s", query=f"?ticket={reply.json['ticket']}")
    assert [e["event"] for e in await stream.events()] == ["snapshot", "ready"]


# Names, tenants, lists


@pytest.mark.failure("S7")
async def test_names_are_bound(guarded):
    """Producers, members and authors are the caller's, on every way in."""
    ana = bearer(grant())
    path = "/v1/sessions/s"
    bodies = (
        ("POST", f"{path}/messages", {"id": "a", "role": "u", "text": "x", "author": "ben"}),
        (
            "POST",
            f"{path}/messages",
            {"id": "b", "role": "u", "producer": "ben", "claim_id": "claim-0001"},
        ),
        ("PUT", f"{path}/presence/ben", {}),
        ("DELETE", f"{path}/presence/ben", None),
        ("GET", f"{path}/events?presence=ben", None),
        ("GET", f"{path}/poll?presence=ben", None),
        ("POST", f"{path}/runs", {"id": "r", "agent": "bot", "by": "ben"}),
        ("POST", f"{path}/signals", {"signal": "typing", "from": "ben"}),
        ("GET", "/v1/agents/ben/runs", None),
        ("GET", "/v1/agents/ana/runs?worker=ben", None),
    )
    for method, target, body in bodies:
        reply = await guarded.json(method, target, body, ana)
        assert (reply.status, reply.json["code"]) == (403, "forbidden"), (method, target)
    own = {"id": "a", "role": "u", "text": "x", "author": "ana~phone"}
    assert (await guarded.json("POST", f"{path}/messages", own, ana)).status == 201
    # Whatever is called so in metadata is nobody's name.
    reply = await guarded.json("PATCH", f"{path}/metadata", {"author": "ben", "from": "x"}, ana)
    assert reply.status == 200
    socket = await plug(guarded, additional_headers=dict(ana))
    for do, fields in (
        ("subscribe", {"presence": "ben"}),
        ("join", {"member": "ben"}),
        ("work", {"agent": "ben"}),
        ("work", {"agent": "ana", "worker": "ben"}),
    ):
        assert (await socket.do(do, **fields))["body"]["code"] == "forbidden", do
    await socket.connection.close()


async def test_deleting_messages(guarded):
    """One's own with ``write``, anybody's with ``admin``."""
    writer = {"*": ["read", "write"]}
    for name in ("ana", "ben"):
        body = {"id": name, "role": "u", "text": "x", "author": name}
        token = grant(sub=name, can=writer)
        reply = await guarded.json("POST", "/v1/sessions/s/messages", body, bearer(token))
        assert reply.status == 201
    ana = bearer(grant(can=writer))
    reply = await guarded.request("DELETE", "/v1/sessions/s/messages/ben", None, ana)
    assert reply.assert_problem(403, "forbidden")["needs"] == "admin"
    assert (await guarded.request("DELETE", "/v1/sessions/s/messages/ana", None, ana)).status == 204
    reply = await guarded.request("DELETE", "/v1/sessions/s/messages/ben", None, bearer(grant()))
    assert reply.status == 204


@pytest.mark.failure("S5", "S6")
async def test_tenants_do_not_meet(guarded):
    """The same id is two sessions; lists, feeds and cursors show one's own."""
    heads = {t: bearer(grant(tenant=t, **{"as": ["*"]})) for t in ("acme", "umbrella")}
    cursors = {}
    for tenant, head in heads.items():
        body = {"id": "m", "role": "u", "text": f"of {tenant}"}
        assert (await guarded.json("POST", "/v1/sessions/s/messages", body, head)).status == 201
        run = {"id": f"run-{tenant}", "agent": "bot"}
        assert (await guarded.json("POST", "/v1/sessions/s/runs", run, head)).status == 201
        snapshot = (await guarded.request("GET", "/v1/sessions/s", None, head)).json
        assert snapshot["id"] == "s" and snapshot["messages"][0]["text"] == f"of {tenant}"
        cursors[tenant] = snapshot["cursor"]
    for tenant, head in heads.items():
        runs = (await guarded.request("GET", "/v1/agents/bot/runs", None, head)).json["runs"]
        assert [(run["session"], run["id"]) for run in runs] == [("s", f"run-{tenant}")]
        listed = (await guarded.request("GET", "/v1/sessions", None, head)).json["sessions"]
        assert [session["id"] for session in listed] == ["s"]
        other = cursors["umbrella" if tenant == "acme" else "acme"]
        stream = await guarded.follow("s", query=f"?cursor={other}", headers=head)
        text = " ".join(event["data"] for event in await stream.events())
        assert f"of {tenant}" in text
        assert not any(f"of {name}" in text for name in heads if name != tenant)
    nobodys = await guarded.request("GET", "/v1/sessions", None, bearer(grant()))
    assert nobodys.json["sessions"] == []
    (await guarded.request("GET", "/v1/sessions/s", None, bearer(grant()))).assert_problem(
        404, "not_found"
    )


@pytest.mark.parametrize(
    ("claims", "says"),
    [
        ({}, "it may be ana, ana~*; its as can list others"),
        ({"as": [*"abcdef"]}, "it may be a, b, c, d and others; its as can list others"),
        ({"sub": "ana|1"}, "it has no names: its sub is no id, so its as must list some"),
    ],
)
async def test_a_name_that_is_refused_is_told_with_those_that_are_not(guarded, claims, says):
    """Who is refused reads which names the grant has, and what gives others."""
    body = {"id": "b", "role": "u", "producer": "ben", "claim_id": "claim-0001"}
    head = bearer(grant(**claims))
    reply = await guarded.json("POST", "/v1/sessions/s/messages", body, head)
    reply.assert_problem(403, "forbidden")
    assert reply.json["detail"] == f"this grant may not be producer ben: {says}"


async def test_lists_show_what_may_be_read(guarded):
    """By pages, whatever the patterns, and nothing of what lies between."""
    for name in ("a", "b-1", "b-2", "b-3", "c", "d"):
        await guarded.node.create(name, {})
    head = bearer(grant(can={"b-*": ["read"], "b-1": ["read"], "d": ["read"], "c": ["write"]}))
    found, after = [], ""
    while after is not None:
        query = f"?limit=2&after={after}" if after else "?limit=2"
        page = (await guarded.request("GET", f"/v1/sessions{query}", None, head)).json
        found += [session["id"] for session in page["sessions"]]
        after = page["next"]
    assert found == ["b-1", "b-2", "b-3", "d"]


async def test_operators(guarded):
    """What is of the regions is for who has admin everywhere, and no tenant."""
    for target in ("/v1/regions", "/v1/verify"):
        for token in (grant(can={"*": ["read"]}), grant(can={"s": ["admin"]}), grant(tenant="a")):
            reply = await guarded.request("GET", target, None, bearer(token))
            reply.assert_problem(403, "forbidden")
        assert (await guarded.request("GET", target, None, bearer(grant()))).status == 200


async def test_operators_have_one_session_of_a_tenant_compared(guarded):
    """By the name that the answer about all of them gives it; nobody else asks by such names."""
    for target in ("/v1/verify?session=acme:s", "/v1/verify?session=:audit"):
        reply = await guarded.request("GET", target, None, bearer(grant()))
        assert (reply.status, reply.json["different"], len(reply.json["digest"])) == (200, [], 32)
        reply = await guarded.request("GET", target, None, bearer(grant(tenant="acme")))
        reply.assert_problem(400, "invalid_id")
        reply = await guarded.request("GET", target, None, bearer(grant(can={"s": ["admin"]})))
        reply.assert_problem(403, "forbidden")
    reply = await guarded.request("GET", "/v1/verify?session=A:b", None, bearer(grant()))
    reply.assert_problem(400, "invalid_id")


# API keys


@pytest.fixture
async def key(guarded):
    """An API key that may read and write chats for users."""
    body = {
        "subject": "web",
        "can": {"chat-*": ["read", "write", "presence"]},
        "as": ["user-*", "web"],
    }
    reply = await guarded.json("POST", "/v1/keys", body, bearer(grant(tenant="acme")))
    assert reply.status == 201
    return reply.json


async def test_a_key_mints_grants(guarded, key):
    """For less than it may, for users of its own; and the grant is good at once."""
    head = bearer(key["key"])
    body = {"subject": "user-7", "can": {"chat-7": ["read", "write"]}, "as": ["user-7"]}
    reply = await guarded.json("POST", "/v1/tokens", {**body, "ttl_s": 60}, head)
    assert reply.status == 201
    made = bearer(reply.json["grant"])
    message = {"id": "m", "role": "u", "text": "x", "author": "user-7"}
    path = "/v1/sessions/chat-7/messages"
    assert (await guarded.json("POST", path, message, made)).status == 201
    for path in ("/v1/sessions/chat-8/messages", "/v1/sessions/other/messages"):
        (await guarded.json("POST", path, message, made)).assert_problem(404, "not_found")
    plain = await guarded.json("POST", "/v1/tokens", None, head)
    claims = jwt.decode(plain.json["grant"], SECRET, algorithms=["HS256"])
    assert (claims["sub"], claims["tenant"], claims["can"]) == ("web", "acme", key["can"])
    assert claims["exp"] - claims["iat"] == 900
    narrow = await guarded.json("POST", "/v1/tokens", {"can": {"chat-1": ["read"]}}, head)
    claims = jwt.decode(narrow.json["grant"], SECRET, algorithms=["HS256"])
    assert (claims["can"], claims["as"]) == ({"chat-1": ["read"]}, key["as"])
    for more in (
        {"subject": "root"},
        {"can": {"*": ["read"]}},
        {"can": {"chat-*": ["admin"]}},
        {"can": {"cha*": ["read"]}},
        {"as": ["*"]},
        {"subject": "user-1", "as": ["root"]},
    ):
        reply = await guarded.json("POST", "/v1/tokens", more, head)
        assert (reply.status, reply.json["code"]) == (403, "forbidden"), more
    for wrong in ({"ttl_s": 0}, {"can": {}}, {"can": {"*": ["fly"]}}, {"subject": ""}, {"x": 1}):
        assert (await guarded.json("POST", "/v1/tokens", wrong, head)).status == 400, wrong


async def test_a_key_is_no_grant(guarded, key):
    """It opens nothing else, and a grant mints nothing."""
    for method, target in (("GET", "/v1/sessions/chat-1"), ("GET", "/v1/keys")):
        reply = await guarded.request(method, target, None, bearer(key["key"]))
        reply.assert_problem(401, "unauthorized")
    wrong = key["key"][:-1] + ("0" if key["key"][-1] != "0" else "1")
    for token in (grant(), wrong, "pdk_k-0000000000000000_00", ""):
        reply = await guarded.json("POST", "/v1/tokens", None, bearer(token))
        reply.assert_problem(401, "unauthorized")
    (await guarded.json("POST", "/v1/tokens", None)).assert_problem(401, "unauthorized")


async def test_keys_are_hashed_and_forgotten(guarded, key, tmp_path):
    """No file has the key; removed, it mints nothing, and what it has minted is revoked."""
    secret = key["key"].rpartition("_")[2].encode()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files and not any(secret in path.read_bytes() for path in files)
    made = await guarded.json("POST", "/v1/tokens", None, bearer(key["key"]))
    stream = await follow(guarded, made.json["grant"], "chat-1")
    acme = bearer(grant(tenant="acme"))
    listed = (await guarded.request("GET", "/v1/keys", None, acme)).json["keys"]
    assert [entry["id"] for entry in listed] == [key["id"]] and "hash" not in listed[0]
    assert (await guarded.request("GET", "/v1/keys", None, bearer(grant()))).json["keys"] == []
    path = f"/v1/keys/{key['id']}"
    other = await guarded.request("DELETE", path, None, bearer(grant(tenant="umbrella")))
    other.assert_problem(404, "not_found")
    assert (await guarded.request("DELETE", path, None, acme)).status == 204
    for look in guarded.node.each_second:
        look()
    assert (await stream.events("expired"))[-1]["event"] == "expired"
    reply = await guarded.json("POST", "/v1/tokens", None, bearer(key["key"]))
    reply.assert_problem(401, "unauthorized")


async def test_answers_are_as_described(guarded, key):
    """Each operation that needs grants answers what the document says, and takes what it says."""
    document = (await guarded.request("GET", "/openapi.json", None, bearer(grant()))).json
    acme, ours = bearer(grant(tenant="acme")), bearer(grant())
    exchanges = (
        ("post", "/v1/sessions/{s}/tickets", None, ours),
        ("post", "/v1/grants/renew", {"grant": "x"}, ours),
        ("post", "/v1/tokens", {}, bearer(key["key"])),
        ("post", "/v1/keys", {"subject": "a", "can": {"*": ["read"]}}, ours),
        ("get", "/v1/keys", None, acme),
        ("post", "/v1/revocations", {"subject": "x"}, ours),
        ("get", "/v1/revocations", None, ours),
        ("delete", "/v1/keys/{k}", None, acme),
        ("get", "/v1/audit", None, ours),
    )
    assert {(method, path) for method, path, _, _ in exchanges} == OF_GRANTS
    for method, path, body, head in exchanges:
        target = path.replace("{s}", "s").replace("{k}", key["id"])
        reply = await guarded.json(method.upper(), target, body, head)
        operation = document["paths"][path][method]
        assert str(reply.status) in operation["responses"], (path, reply)
        if reply.body:
            content = operation["responses"][str(reply.status)]["content"]
            schema = {**content["application/json"]["schema"], "components": document["components"]}
            assert list(Draft202012Validator(schema).iter_errors(reply.json)) == []
        if body:
            content = operation["requestBody"]["content"]
            schema = {**content["application/json"]["schema"], "components": document["components"]}
            assert list(Draft202012Validator(schema).iter_errors(body)) == []


async def test_without_grants_there_are_none(region):
    """Where anybody may come in there is nothing to mint, renew or revoke."""
    for method, path in sorted(OF_GRANTS):
        target = path.replace("{s}", "s").replace("{k}", "k")
        body = {"grant": "x"} if path.endswith(("renew", "revocations")) else None
        reply = await region.json(method.upper(), target, body)
        assert reply.status in (400, 404), (method, path, reply)


async def test_one_subject_does_not_use_up_the_tickets(guarded, monkeypatch):
    """They are kept in one place for all."""
    monkeypatch.setattr("perdure.api.tickets.TICKETS_OF_SUBJECT_MAX", 2)
    mallory, other = bearer(grant(sub="mallory")), bearer(grant())
    path = "/v1/sessions/s/tickets"
    asked = [(await guarded.json("POST", path, None, mallory)).status for _ in range(3)]
    assert asked == [201, 201, 429]
    assert (await guarded.json("POST", path, None, other)).status == 201


async def test_a_long_list_holds_nobody_up(guarded, monkeypatch):
    """Between some revocations and the next the loop is free for others."""
    monkeypatch.setattr("perdure.regions.ledger._AT_ONCE", 2)
    ledger = Ledger(guarded.node, "things")
    for number in range(20):
        await ledger.put(f"r-{number}", {"tenant": "t", "number": number})
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    going_on = asyncio.create_task(others())
    found = [value["number"] async for _, value in ledger.each()]
    going_on.cancel()
    assert found == [value["number"] for _, value in ledger.all()] and len(found) == 20
    assert turns >= 9
