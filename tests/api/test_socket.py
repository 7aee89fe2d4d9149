"""The WebSocket: every verb, what is refused and how, limits, slow readers, drains."""

import asyncio
import contextlib
import json
import logging
import socket
from collections import deque
from typing import Any

import jwt
import pytest
import websockets
from perdure.api import acknowledging, sockets
from perdure.api.grants import Grants
from perdure.api.verbs import VERBS
from perdure.regions.ports import StorageFull
from perdure.replication.limits import BODY_BYTES_MAX, SOCKET_VERBS_MAX

from .conftest import ORIGIN
from .followers import plug
from .test_grants import GOOD

OPEN = {"id": "m", "role": "assistant", "producer": "p", "claim_id": "claim-0001"}
# What every resume says, before it is over.
BESIDE = ("metadata", "presence", "run", "document")
SECRET = b"g" * 32


def append(opened, seq, *tokens, **more):
    """The fields of an append to what ``OPEN`` opened."""
    lane = {"message": "m", "producer": "p", "epoch": opened["body"]["epoch"]}
    return {**lane, "seq": seq, "tokens": list(tokens), **more}


@pytest.fixture
async def plugged(region):
    """A socket to a region."""
    socket = await plug(region)
    yield socket
    await socket.connection.close()


# Verbs


async def _verbs_of_runs(plugged: Any) -> None:
    do = plugged.do
    asked = await do("run", id="r", agent="bot")
    assert (asked["status"], asked["body"]["status"]) == (201, "requested")
    assert (await do("work", agent="bot"))["status"] == 200
    taken = await do("claim_run", run="r", producer="w", claim_id="claim-0003")
    epoch = taken["body"]["epoch"]
    assert (await do("lease", run="r", producer="w", epoch=epoch))["body"]["status"] == "running"
    said = await do("state", run="r", producer="w", epoch=epoch, n=1, state="suspended")
    assert said["body"]["status"] == "suspended"
    assert (await do("cancel_run", run="r"))["body"]["status"] == "cancelled"
    assert (await do("rest", agent="bot"))["status"] == 200
    feed = [frame for frame in plugged.frames if "agent" in frame]
    assert feed[0] == {"agent": "bot", "event": "runs", "data": {"all": [asked["body"]]}}
    assert [frame["data"]["run"]["status"] for frame in feed[1:]] == [
        *("running", "suspended", "cancelled")
    ]
    assert (await do("signal", signal="typing"))["status"] == 202


async def test_every_verb(region, plugged):
    """Each answers as its path answers over HTTP."""
    do = plugged.do
    created = await do("create", metadata={"a": 1})
    assert (created["status"], created["body"]["metadata"]) == (201, {"a": 1})
    assert (await do("create"))["status"] == 200
    assert await do("subscribe") == {"reply": 3, "status": 200, "body": {}}
    assert [e.event for e in await plugged.until("ready")] == ["snapshot", "ready"]
    sent = await do("send", id="t", role="user", text="hi")
    assert (sent["status"], sent["body"]["text"], sent["body"]["stable"]) == (201, "hi", None)
    assert (await do("send", id="t", role="user", text="hi"))["status"] == 200
    assert (await do("send", id="t", role="user", text="ho"))["body"]["code"] == "conflict"
    opened = await do("open", **OPEN)
    assert (opened["status"], opened["body"]["next"]) == (201, 0)
    assert (await do("open", **OPEN))["status"] == 200
    assert (await do("open", header=opened["body"]["header"]))["status"] == 200
    ack = await do("append", **append(opened, 0, "a", {"part": {"type": "text"}}, "b"))
    assert ack["body"] == {
        "next": 3,
        "accepted": 3,
        "stable": None,
        "duplicates": 0,
        "ended": None,
    }
    claimed = await do("claim", message="m", producer="q", claim_id="claim-0002", mode="continue")
    assert (claimed["status"], claimed["body"]["text"]) == (200, "ab")
    fenced = await do("append", **append(opened, 3, "c"))
    assert (fenced["status"], fenced["body"]["code"]) == (403, "fenced")
    assert (await do("cancel", message="m"))["body"] == {"status": "cancelled"}
    assert (await do("metadata", patch={"b": 2}))["body"] == {"metadata": {"a": 1, "b": 2}}
    assert (await do("metadata"))["body"] == {"metadata": {"a": 1, "b": 2}}
    await _verbs_of_runs(plugged)
    joined = await do("join", member="ana", data=1, ttl_s=5)
    assert (joined["status"], joined["body"]["data"]) == (200, 1)
    assert await do("leave", member="ana") == {"reply": 25, "status": 204, "body": None}
    assert await do("delete", message="m") == {"reply": 26, "status": 204, "body": None}
    assert (await do("unsubscribe"))["body"] == {}
    await do("delete")
    assert (await do("metadata"))["body"]["code"] == "deleted"
    told = [event.event for event in plugged.events["s"]]
    # Who comes and leaves at once may be told of together, which is nothing.
    assert [name for name in told if name != "presence"] == [
        *("message", "message", "append", "append", "append", "end", "metadata", "message"),
        *("run", "run", "run", "end", "run", "signal", "delete"),
    ]
    assert "presence" in told
    used = {json.loads(line)["do"] for line in plugged.said}
    # Where anybody may come in there is no grant to renew.
    assert used == VERBS.keys() - {"renew"}


async def test_idempotency_key(plugged):
    """A message without an id needs a key, over a socket too, and the same key is the same one."""
    refused = await plugged.do("send", role="user", text="x")
    assert refused["body"]["code"] == "idempotency_key_required"
    first = await plugged.do("send", role="user", text="x", idempotency_key="key-00001")
    again = await plugged.do("send", role="user", text="x", idempotency_key="key-00001")
    assert (first["status"], again["status"]) == (201, 200)
    assert first["body"]["id"] == again["body"]["id"]


async def test_acknowledgements_follow(serve):
    """An answer to an append, and another frame, unasked, when more of the lane is stable."""
    async with serve(peers=["us"]) as region:
        plugged = await plug(region)
        opened = await plugged.do("open", **OPEN)
        assert (await plugged.do("append", **append(opened, 0, "a")))["body"]["stable"] == 0
        assert (await plugged.do("append", **append(opened, 1, "b")))["body"]["stable"] == 0
        region.peer_has_all()
        frame = await plugged.take()
        assert frame["ack"] == {
            "next": 2,
            "accepted": 2,
            "stable": 2,
            "duplicates": 0,
            "ended": None,
        }
        assert (frame["session"], frame["message"], frame["producer"]) == ("s", "m", "p")
        assert frame["epoch"] == opened["body"]["epoch"]
        ended = await plugged.do("append", **append(opened, 2, end="complete"))
        assert ended["body"]["ended"] == "accepted"
        region.peer_has_all()
        assert (await plugged.take())["ack"]["ended"] == "stable"
        # Nothing is watched any more: nothing follows.
        region.peer_has_all()
        assert (await plugged.do("metadata"))["status"] == 200
        assert len(plugged.acks) == 2
        await plugged.connection.close()


async def test_send_waits_for_stable(serve):
    """``ack`` and ``wait_ms`` are those of the query; other frames are carried out meanwhile."""
    async with serve(peers=["us"]) as region:
        plugged = await plug(region)
        number = await plugged.say("send", id="t", role="user", text="x", ack="stable")
        assert (await plugged.do("metadata"))["status"] in (200, 404)
        while (await plugged.do("create"))["status"] != 200:
            pass
        assert number not in plugged.replies
        region.peer_has_all()
        assert (await plugged.reply(number))["body"]["stable"] is True
        sent = await plugged.do("send", id="u", role="user", text="x", ack="stable", wait_ms=1)
        assert sent["body"]["stable"] is False
        await plugged.connection.close()


async def test_appends_keep_their_order(region, plugged):
    """Sent without waiting for answers, they are taken in the order in which they were sent."""
    opened = await plugged.do("open", **OPEN)
    numbers = [await plugged.say("append", **append(opened, n, f"{n} ")) for n in range(200)]
    for at, number in enumerate(numbers):
        reply = await plugged.reply(number)
        assert reply["status"] == 200, reply
        assert reply["body"]["next"] > at
    text = (await region.request("GET", "/v1/sessions/s/messages/m")).json["text"]
    assert text == "".join(f"{n} " for n in range(200))


async def test_several_sessions(region, plugged):
    """One socket follows many sessions; each event names its own; one that is left is silent."""
    names = [f"s{n}" for n in range(5)]
    for name in names:
        assert (await plugged.do("subscribe", session=name))["status"] == 200
        await plugged.until("ready", name)
    again = await plugged.do("subscribe", session="s0")
    assert (again["status"], again["body"]["code"]) == (409, "conflict")
    assert (await plugged.do("unsubscribe", session="s4"))["status"] == 200
    assert (await plugged.do("unsubscribe", session="s4"))["status"] == 200
    for name in names:
        await plugged.do("send", session=name, id="t", role="user", text=name)
    for name in names[:4]:
        assert (await plugged.until("message", name))[-1].data["text"] == name
    assert plugged.events["s4"] == []
    assert region.node.fanout.count == 4
    await plugged.do("delete", session="s0")
    assert [e.event for e in await plugged.until("deleted", "s0")] == ["deleted"]
    while not plugged.over:
        await plugged.take()
    assert plugged.over == ["s0"]
    assert region.node.fanout.count == 3
    await plugged.connection.close()
    while region.node.fanout.count:
        await asyncio.sleep(0)


async def test_subscribe_again_with_the_cursor(region, lane, plugged):
    """After ``unsubscribe`` a session is followed on from where it was left."""
    await plugged.do("subscribe")
    cursor = (await plugged.until("ready"))[-1].id
    await plugged.do("unsubscribe")
    await region.append(lane, 0, ["a"])
    await plugged.do("subscribe", cursor=cursor)
    told = await plugged.until("ready")
    assert [event.event for event in told] == [
        "append",
        "metadata",
        "presence",
        "run",
        "document",
        "ready",
    ]


async def test_frames_are_encoded_once(region, lane):
    """Sockets that follow one session share what is made of an event."""
    plugs = [await plug(region) for _ in range(3)]
    for each in plugs:
        await each.do("subscribe")
        await each.until("ready")
    feed = region.node.fanout.get("s")
    await region.append(lane, 0, ["a"])
    (event,) = deque(feed._events, maxlen=1)
    for each in plugs:
        await each.until("append")
    assert event.frame is not None
    assert sockets.encode_frame("s", event) is event.frame
    for each in plugs:
        await each.connection.close()


# What is refused


BAD_FRAMES = [
    ("", "invalid_json", None),
    ("nonsense", "invalid_json", None),
    ('{"do":"cancel","number":NaN}', "invalid_json", None),
    ('{"do":"cancel","number":1,"number":2}', "invalid_json", None),
    ("[" * 70 + "]" * 70, "invalid_json", None),
    ("[]", "invalid_body", None),
    ("7", "invalid_body", None),
    ("{}", "invalid_body", "number"),
    ('{"do":"metadata"}', "invalid_body", "number"),
    ('{"do":"metadata","number":-1}', "invalid_body", "number"),
    ('{"do":"metadata","number":1.5}', "invalid_body", "number"),
    ('{"do":"metadata","number":true}', "invalid_body", "number"),
    ('{"do":"metadata","number":"1"}', "invalid_body", "number"),
    ('{"number":1}', "invalid_body", "do"),
    ('{"do":null,"number":1}', "invalid_body", "do"),
    ('{"do":["append"],"number":1}', "invalid_body", "do"),
    ('{"do":"dance","number":1}', "invalid_body", "do"),
    ('{"do":"metadata","number":1,"colour":"red"}', "invalid_body", "colour"),
    ('{"do":"metadata","number":1,"session":"a/b"}', "invalid_id", "session"),
    ('{"do":"metadata","number":1,"session":7}', "invalid_id", "session"),
    ('{"do":"metadata","number":1,"session":null}', "not_found", None),
    ('{"do":"metadata","number":1,"patch":[]}', "invalid_body", "patch"),
    ('{"do":"metadata","number":1}', "not_found", None),
    ('{"do":"create","number":1,"metadata":"x"}', "invalid_body", "metadata"),
    ('{"do":"subscribe","number":1,"cursor":7}', "invalid_body", "cursor"),
    ('{"do":"subscribe","number":1,"cursor":"!"}', "invalid_cursor", None),
    ('{"do":"cancel","number":1}', "invalid_body", "message"),
    ('{"do":"cancel","number":1,"message":".."}', "invalid_id", "message"),
    ('{"do":"cancel","number":1,"message":"m"}', "not_found", None),
    ('{"do":"delete","number":1,"message":7}', "invalid_body", "message"),
    ('{"do":"send","number":1,"role":"user"}', "invalid_body", "text"),
    ('{"do":"send","number":1,"role":"user","text":7}', "invalid_body", "text"),
    ('{"do":"send","number":1,"role":"user","text":"x","header":"y"}', "invalid_body", "header"),
    ('{"do":"send","number":1,"id":"t","role":"U","text":"x"}', "invalid_body", "role"),
    (
        '{"do":"send","number":1,"id":"t","role":"user","text":"x","ack":"no"}',
        "invalid_query",
        "ack",
    ),
    (
        '{"do":"send","number":1,"id":"t","role":"user","text":"x","wait_ms":10001}',
        "invalid_query",
        "wait_ms",
    ),
    (
        '{"do":"send","number":1,"id":"t","role":"user","text":"x","wait_ms":[]}',
        "invalid_query",
        "wait_ms",
    ),
    ('{"do":"open","number":1,"id":"m","role":"user","text":"x"}', "invalid_body", "text"),
    ('{"do":"open","number":1,"header":"x"}', "invalid_header", None),
    ('{"do":"open","number":1,"header":"x","role":"user"}', "invalid_body", "role"),
    (
        '{"do":"open","number":1,"header":"x","idempotency_key":"key-00001"}',
        "invalid_body",
        "idempotency_key",
    ),
    ('{"do":"claim","number":1,"message":"m"}', "invalid_body", "producer"),
]


@pytest.mark.parametrize(("text", "code", "field"), BAD_FRAMES)
async def test_bad_frames(region, plugged, text, code, field):
    """Each is refused in the caller's words, changes nothing, and leaves the socket open."""
    before = region.state()
    plugged.number = 100
    await plugged.connection.send(text)
    reply = (await plugged.take())["body"]
    assert (reply["code"], reply.get("field")) == (code, field), reply
    assert "body" not in reply["detail"]
    assert region.state() == before
    assert (await plugged.do("create"))["status"] == 201


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"producer": None}, "invalid_producer", "producer"),
        ({"producer": 7}, "invalid_producer", "producer"),
        ({"producer": "a/b"}, "invalid_producer", "producer"),
        ({"epoch": None}, "invalid_producer", "epoch"),
        ({"epoch": 1}, "invalid_producer", "epoch"),
        ({"epoch": "1-x"}, "invalid_producer", "epoch"),
        ({"seq": None}, "invalid_producer", "seq"),
        ({"seq": -1}, "invalid_producer", "seq"),
        ({"seq": True}, "invalid_producer", "seq"),
        ({"seq": 1.0}, "invalid_producer", "seq"),
        ({"seq": 2**53}, "invalid_producer", "seq"),
        ({"tokens": "a"}, "invalid_body", "tokens"),
        ({"tokens": [7]}, "invalid_body", None),
        ({"tokens": ["x"] * 4_097}, "too_large", "tokens"),
        ({"end": "later"}, "invalid_body", "end"),
        ({"message": "n"}, "unknown_epoch", None),
        ({"seq": 5}, "gap", None),
    ],
)
async def test_bad_appends(region, plugged, fields, code, field):
    """Each field of an append, refused by its own name."""
    opened = await plugged.do("open", **OPEN)
    before = region.state()
    reply = await plugged.do("append", **{**append(opened, 0, "a"), **fields})
    assert reply["body"]["code"] == code, reply
    if field is not None:
        assert reply["body"]["field"] == field
    assert region.state() == before
    assert (await plugged.do("append", **append(opened, 0, "a")))["status"] == 200


async def test_retry_after_is_in_the_body(region, plugged):
    """A socket has no headers: when to come back stands in the problem."""
    region.storage.failure = StorageFull("no room")
    reply = await plugged.do("create")
    assert (reply["status"], reply["body"]["code"]) == (507, "storage_full")
    assert reply["body"]["retry_after_s"] > 0
    region.storage.failure = None
    assert (await plugged.do("create"))["status"] == 201


async def test_our_own_mistakes(region, plugged, monkeypatch, caplog):
    """An unexpected exception is logged whole, and the client is told nothing of it."""

    def broken(*_args, **_more):
        raise RuntimeError("the password is swordfish")

    monkeypatch.setattr(region.node, "create", broken)
    reply = await plugged.do("create")
    assert reply["body"]["code"] == "internal"
    assert "swordfish" not in json.dumps(reply)
    assert "swordfish" in caplog.text


@pytest.mark.parametrize(("raw", "code"), [(b"\x00\x01", 1003), ("x" * (BODY_BYTES_MAX + 1), 1009)])
async def test_frames_that_close(plugged, raw, code):
    """What is no text, or too long, closes the socket, and says why."""
    with contextlib.suppress(websockets.ConnectionClosed):
        await plugged.connection.send(raw)
    assert await plugged.closed() == code


async def test_text_that_is_no_utf8(plugged):
    """Is closed with 1007."""
    await plugged.connection.send(b"\xff\xfe", text=True)
    assert await plugged.closed() == 1007


async def test_the_longest_frame(region, plugged):
    """A frame of exactly the limit is read."""
    opened = await plugged.do("open", **OPEN)
    fields = {"do": "append", "number": 9, **append(opened, 0, *["x" * 1_000_000] * 8)}
    text = json.dumps(fields)
    await plugged.connection.send(text + " " * (BODY_BYTES_MAX - len(text)))
    assert (await plugged.reply(9))["body"]["next"] == 8


# The handshake


async def refused(region, status, code, **options):
    """A handshake that is refused, by a whole problem."""
    with pytest.raises(websockets.InvalidStatus) as error:
        await plug(region, **options)
    response = error.value.response
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["perdure-region"] == "eu"
    problem = json.loads(response.body)
    assert (problem["code"], problem["status"]) == (code, status)
    return response


async def test_grants(serve):
    """In the header, or from a browser among the subprotocols, of which ours is chosen."""
    grant = jwt.encode({**GOOD, "exp": 2**33}, SECRET, "HS256")
    async with serve(grants=Grants(SECRET)) as region:
        header = [("authorization", f"Bearer {grant}")]
        plain = await plug(region, additional_headers=header)
        assert (await plain.do("create"))["status"] == 201
        assert plain.connection.subprotocol is None
        browser = await plug(region, subprotocols=["perdure.v1", f"bearer.{grant}"])
        assert browser.connection.subprotocol == "perdure.v1"
        assert (await browser.do("create"))["status"] == 200
        response = await refused(region, 401, "unauthorized")
        assert response.headers["www-authenticate"] == "Bearer"
        await refused(region, 401, "unauthorized", subprotocols=["perdure.v1", "bearer.x"])
        await refused(region, 401, "unauthorized", additional_headers=[("authorization", "x")])
        for each in (plain, browser):
            await each.connection.close()


@pytest.mark.failure("S14")
async def test_origins(region):
    """Pages may that may by CORS, and this host's own; programs send no origin; others may not."""
    own = f"http://127.0.0.1:{region.port}"
    for origin in (ORIGIN, own, None):
        each = await plug(region, origin=origin)
        await each.connection.close()
    for origin in ("https://evil.example", f"{ORIGIN}.evil", "null", "http://localhost:3000"):
        await refused(region, 403, "origin_refused", origin=origin)


async def test_handshakes_that_are_refused(region, monkeypatch):
    """Bad ids, queries and paths, before anything is upgraded."""
    await refused(region, 400, "invalid_id", session="%00")
    await refused(region, 400, "invalid_query", query="?a=1")
    await refused(region, 404, "not_found", session="s/messages/m")
    monkeypatch.setattr(sockets, "SOCKETS_MAX", 0)
    response = await refused(region, 429, "too_many")
    assert int(response.headers["retry-after"]) > 0


async def test_plain_requests_are_no_handshakes(region):
    """A request that asks for no upgrade finds nothing there; one with a bad key is told so."""
    reply = await region.request("GET", "/v1/sessions/s/ws")
    reply.assert_problem(404, "not_found")
    upgrade = [("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "13")]
    reply = await region.request("GET", "/v1/sessions/s/ws", None, upgrade)
    assert reply.status == 400


# Limits


async def test_sessions_max(region, plugged, monkeypatch):
    """One session more than a socket may follow is refused; one that is left makes room."""
    monkeypatch.setattr(sockets, "SOCKET_SESSIONS_MAX", 2)
    for name in ("a", "b"):
        assert (await plugged.do("subscribe", session=name))["status"] == 200
    reply = await plugged.do("subscribe", session="c")
    assert (reply["status"], reply["body"]["code"]) == (429, "too_many")
    await plugged.do("unsubscribe", session="a")
    assert (await plugged.do("subscribe", session="c"))["status"] == 200
    assert region.node.fanout.count == 2


async def test_lanes_max(serve, monkeypatch):
    """One lane more than can be watched is refused; one that is stable makes room."""
    monkeypatch.setattr(acknowledging, "SOCKET_LANES_MAX", 1)
    async with serve(peers=["us"]) as region:
        plugged = await plug(region)
        first = await plugged.do("open", **OPEN)
        second = await plugged.do("open", **{**OPEN, "id": "n"})
        other = {**append(second, 0, "a"), "message": "n"}
        assert (await plugged.do("append", **append(first, 0, "a")))["status"] == 200
        assert (await plugged.do("append", **other))["body"]["code"] == "too_many"
        assert (await plugged.do("append", **append(first, 1, "b")))["status"] == 200
        region.peer_has_all()
        assert (await plugged.do("append", **other))["status"] == 200
        await plugged.connection.close()


async def test_verbs_in_flight(region, plugged, monkeypatch):
    """So many frames are carried out at once; the rest waits unread, and nothing is lost."""
    gate = asyncio.Event()
    running = 0

    async def create(_session, _metadata):
        nonlocal running
        running += 1
        await gate.wait()
        return True, {}

    monkeypatch.setattr(region.node, "create", create)
    numbers = [await plugged.say("create") for _ in range(SOCKET_VERBS_MAX * 3)]
    while running < SOCKET_VERBS_MAX:
        await asyncio.sleep(0)
    for _ in range(100):
        await asyncio.sleep(0)
    assert running == SOCKET_VERBS_MAX
    gate.set()
    for number in numbers:
        assert (await plugged.reply(number))["status"] == 201
    assert running == len(numbers)


async def stalled(region):
    """A follower that takes nothing, on a socket that holds little."""
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    plain.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(plain, ("127.0.0.1", region.port))
    head = "GET /v1/sessions/s/ws HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket"
    head += f"\r\nsec-websocket-version: 13\r\nsec-websocket-key: {'A' * 22}==\r\n\r\n"
    await loop.sock_sendall(plain, head.encode())
    received = b""
    while b"\r\n\r\n" not in received:
        received += await loop.sock_recv(plain, 1_000)
    text = b'{"do":"subscribe","number":1}'
    await loop.sock_sendall(plain, bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text)
    while region.node.fanout.count < 1:
        await asyncio.sleep(0)
    return plain


@pytest.mark.failure("N6", "L1")
async def test_reader_that_never_takes(region, lane, monkeypatch):
    """A socket that takes nothing at all is given up after a time, and counted."""
    monkeypatch.setattr(sockets, "WRITE_S_MAX", 0.01)
    monkeypatch.setattr(sockets, "SLOWEST_BYTES_S", 1e9)
    monkeypatch.setattr(sockets, "LEAVE_S_MAX", 0.01)
    plain = await stalled(region)
    seq = 0
    while region.node.fanout.count:
        await region.append(lane, seq, ["x" * 900_000])
        seq += 1
        assert seq < 40
    assert region.node.counters["readers_cut"] == 1
    plain.close()


@pytest.mark.failure("L1")
async def test_slow_reader(region, lane, plugged, monkeypatch):
    """A reader that falls too far behind is ended with ``over``; others feel nothing; and with its
    cursor it misses nothing."""
    good = await plug(region)
    await good.do("subscribe")
    cursor = (await good.until("ready"))[-1].id
    plain = await stalled(region)
    # Far more than sockets, the server's buffer and the feed hold together.
    for seq in range(16):
        await region.append(lane, seq, ["x" * 500_000])
        assert (await good.until("append"))[-1].data["to"] == seq + 1
    received = b""
    loop = asyncio.get_running_loop()
    while not received.endswith(b'"over":true}'):
        received += await loop.sock_recv(plain, 1_000_000)
    plain.close()
    assert received.count(b'"event":"append"') < 16
    await plugged.do("subscribe", cursor=cursor)
    assert (await plugged.until("ready"))[0].data["to"] == 16
    await good.connection.close()


async def test_keep_alive(region, plugged, monkeypatch):
    """An idle socket that follows something hears that the region lives, once for all sessions."""
    monkeypatch.setattr(sockets, "KEEPALIVE_S", -1)
    await plugged.do("subscribe")
    await plugged.until("ready")
    region.node.fanout.keep_alive()
    assert await plugged.take() == {"alive": True}
    monkeypatch.setattr(sockets, "KEEPALIVE_S", 10)
    region.node.fanout.keep_alive()
    await plugged.do("create")
    assert plugged.alive == 1


@pytest.mark.failure("P13")
async def test_drain(region, plugged):
    """Every session that is followed is told ``reconnect``, and the socket closes with 1012."""
    idle = await plug(region)
    for name in ("a", "b"):
        await plugged.do("subscribe", session=name)
        await plugged.until("ready", name)
    await region.node.drain(0)
    assert await plugged.closed() == 1012
    for name in ("a", "b"):
        assert [event.event for event in plugged.events[name]] == ["reconnect"]
    assert sorted(plugged.over) == ["a", "b"]
    assert await idle.closed() == 1012
    await refused(region, 503, "draining")


async def test_disconnect_is_not_cancel(region, lane):
    """A client that hangs up leaves nothing behind, and what it wrote goes on."""
    plugged = await plug(region)
    await plugged.do("subscribe")
    plugged.connection.transport.abort()
    while region.node.fanout.count:
        await asyncio.sleep(0)
    assert (await region.append(lane, 0, ["a"])).status == 200


async def test_what_was_asked_before_leaving_is_done(region, lane):
    """A client may send and close, without awaiting any answer: nothing of it is dropped."""
    plugged = await plug(region)
    fields = {"message": "m", "producer": lane.producer, "epoch": lane.epoch}
    for seq in range(100):
        await plugged.say("append", **fields, seq=seq, tokens=["x"])
    await plugged.say("append", **fields, seq=100, end="complete")
    await plugged.connection.close()
    while (shown := region.node.message("s", "m"))["status"] == "streaming":
        await asyncio.sleep(0)
    assert shown["text"] == "x" * 100


async def test_a_subscription_that_comes_too_late(region, plugged, monkeypatch):
    """One that was asked for just before the client left leaves no reader behind."""
    await plugged.say("create")
    await plugged.say("subscribe")
    await plugged.connection.close()
    await region.node.create("s", {})
    for _ in range(100):
        await asyncio.sleep(0)
    while region.node.fanout.count:
        await asyncio.sleep(0)


async def test_a_client_that_leaves_is_no_error(region, caplog):
    """Whenever it leaves, in the middle of its verbs too."""
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            plugged = await plug(region)
            for _ in range(20):
                await plugged.say("create")
            await plugged.say("subscribe")
            plugged.connection.transport.abort()
        while region.node.fanout.count:
            await asyncio.sleep(0)
        assert (await region.request("GET", "/livez")).status == 200
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
