"""Server-sent events: framing, resume, and readers that leave, stall or come to a drain."""

import asyncio
import json
import socket

import pytest
from perdure.api import hot
from perdure.regions import fanout
from perdure.replication.feed import Event

HARD = [
    "emoji 😀 👩‍👩‍👧‍👦",
    "half a family 👩‍",
    "‍👧",
    "combining e\u0301",
    "\u0301 alone",
    "CR \r",
    "CRLF \r\n",
    "LF \n\n",
    "NUL \x00",
    "U+2028 \u2028 U+2029 \u2029 U+0085 \u0085",
    "escape \x1b[31m",
    "",
    'quote " backslash \\',
    "event: end\ndata: {}\n\nid: forged\r\n\r\n",
    "right to left \u202e",
    "last \U0010ffff",
]


@pytest.mark.failure("N8")
async def test_first_visit(region):
    """A reader without a cursor gets the session and then ``ready``, under the headers of A.5."""
    await region.json("PUT", "/v1/sessions/s", {"metadata": {"a": 1}})
    connection = await region.connect()
    await connection.start("GET", "/v1/sessions/s/events")
    head = await connection.head()
    assert head.header("content-type") == "text/event-stream; charset=utf-8"
    assert head.header("cache-control") == "no-store, no-transform"
    assert head.header("x-accel-buffering") == "no"
    assert head.header("perdure-region") == "eu"
    snapshot, ready = await connection.events()
    assert snapshot["event"] == "snapshot"
    assert json.loads(snapshot["data"])["metadata"] == {"a": 1}
    assert ready == {"event": "ready", "id": snapshot["id"], "data": "{}"}


async def test_unknown_session(region):
    """The events of a session that nobody has made wait for it, and do not make it."""
    follower = await region.follow("new")
    assert [event["event"] for event in await follower.events()] == ["snapshot", "ready"]
    (await region.request("GET", "/v1/sessions/new")).assert_problem(404, "not_found")
    await region.json("POST", "/v1/sessions/new/messages", {"id": "m", "role": "user", "text": "x"})
    assert (await follower.event())["event"] == "message"


@pytest.mark.failure("X3", "S11", "X4")
async def test_content_is_exact(region):
    """Every character comes back as it was sent: live, on resume, in a snapshot, and over REST."""
    follower = await region.follow()
    first = (await follower.events())[-1]["id"]
    lane = await region.open()
    assert (await follower.event())["event"] == "message"
    received = []
    for seq, token in enumerate(HARD):
        assert (await region.append(lane, seq, [token])).status == 200
        received.append(json.loads((await follower.event())["data"])["text"])
    assert received == HARD
    whole = "".join(HARD)
    assert (await region.request("GET", lane.path)).json["text"] == whole
    snapshot = json.loads((await (await region.follow()).event())["data"])
    assert snapshot["messages"][0]["text"] == whole
    resumed = await region.follow(headers=[("last-event-id", first)])
    assert json.loads((await resumed.event())["data"])["text"] == whole


@pytest.mark.failure("S11")
def test_no_field_can_be_forged():
    """One event is one block of three lines, whatever its data holds."""
    for text in HARD:
        data = json.dumps({"text": text}, ensure_ascii=False)
        raw = hot.encode_event(Event("append", "abc", data))
        assert raw.endswith(b"\n\n")
        assert b"\r" not in raw
        assert [line.split(b":")[0] for line in raw[:-2].split(b"\n")] == [b"event", b"id", b"data"]


@pytest.mark.failure("L6")
def test_events_are_encoded_once():
    """The same event costs its encoding once, however many readers take it."""
    event = Event("ready", "abc", "{}")
    assert hot.encode_event(event) is hot.encode_event(event)


@pytest.mark.failure("N8")
async def test_resume(region):
    """A reader that comes back gets exactly what it missed."""
    lane = await region.open()
    follower = await region.follow()
    await follower.events()
    await region.append(lane, 0, ["a"])
    last = (await follower.event())["id"]
    follower.close()
    await region.append(lane, 1, ["b", "c"], end="complete")
    back = await region.follow(headers=[("last-event-id", last)])
    append, end, metadata, _presence, _run, _document, ready = await back.events()
    assert json.loads(append["data"]) == {
        "message": "m",
        "part": 0,
        "from": 1,
        "to": 3,
        "text": "bc",
    }
    assert json.loads(end["data"]) == {"message": "m", "status": "complete", "length": 3}
    assert (metadata["event"], ready["event"]) == ("metadata", "ready")


async def test_last_event_id_wins(region):
    """``Last-Event-ID`` is newer than the address that the client was started with."""
    lane = await region.open()
    follower = await region.follow()
    old = (await follower.events())[-1]["id"]
    await region.append(lane, 0, ["a"])
    new = (await follower.event())["id"]
    both = await region.follow(query=f"?cursor={old}", headers=[("last-event-id", new)])
    assert [event["event"] for event in await both.events()] == [
        "metadata",
        "presence",
        "run",
        "document",
        "ready",
    ]
    by_query = await region.follow(query=f"?cursor={old}")
    assert (await by_query.event())["event"] == "append"
    empty = await region.follow(query=f"?cursor={new}", headers=[("last-event-id", "")])
    assert (await empty.event())["event"] == "metadata"


@pytest.mark.failure("X6", "S6")
async def test_foreign_cursor(region):
    """A cursor of another session gets this session's snapshot, never the other's text."""
    await region.json("POST", "/v1/sessions/a/messages", {"id": "m", "role": "user", "text": "A"})
    await region.json("POST", "/v1/sessions/b/messages", {"id": "m", "role": "user", "text": "B"})
    cursor = (await region.request("GET", "/v1/sessions/a")).json["cursor"]
    follower = await region.follow("b", headers=[("last-event-id", cursor)])
    snapshot = await follower.event()
    assert snapshot["event"] == "snapshot"
    assert json.loads(snapshot["data"])["messages"][0]["text"] == "B"


async def test_deleted_session_ends_the_stream(region):
    """Readers of a deleted session are told, and the answer ends in order."""
    await region.request("PUT", "/v1/sessions/s")
    follower = await region.follow()
    await follower.events()
    await region.request("DELETE", "/v1/sessions/s")
    assert (await follower.event())["event"] == "deleted"
    assert await follower.piece() == b""


async def test_readers_that_leave(region):
    """A reader that hangs up is let go at once, and the others get nothing for it."""
    lane = await region.open()
    stays = await region.follow()
    await stays.events()
    for _ in range(5):
        leaves = await region.follow()
        await leaves.event()
        leaves.close()
    while region.node.fanout.count > 1:
        await asyncio.sleep(0)
    await region.append(lane, 0, ["a"])
    assert (await stays.piece()).startswith(b"event: append\n")


@pytest.mark.failure("N8")
async def test_keep_alive(region):
    """An idle connection shows that it lives, by a comment that is no event."""
    follower = await region.follow()
    await follower.events()
    region.node.fanout.keep_alive()
    assert await follower.piece() == b": keep-alive\n\n"


@pytest.fixture
def stalled_socket(monkeypatch):
    """Sockets that hold little, so that a reader that takes nothing is noticed soon."""
    options = (socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)

    async def connect(port):
        plain = socket.socket()
        plain.setsockopt(*options)
        plain.setblocking(False)
        await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", port))
        return plain

    return connect


@pytest.mark.failure("L1")
async def test_stalled_reader(region, stalled_socket):
    """A reader that takes nothing is cut, others get everything, and it resumes by its cursor."""
    loop = asyncio.get_running_loop()
    lane = await region.open()
    good = await region.follow()
    start = (await good.events())[-1]["id"]
    stalled = await stalled_socket(region.port)
    await loop.sock_sendall(stalled, b"GET /v1/sessions/s/events HTTP/1.1\r\nhost: x\r\n\r\n")
    while region.node.fanout.count < 2:
        await asyncio.sleep(0)
    tokens = 0
    # Far more than sockets, the server's buffer and the feed hold together.
    for _ in range(16):
        await region.append(lane, tokens, ["x" * 500_000])
        tokens += 1
        assert json.loads((await good.event())["data"])["to"] == tokens
    assert region.node.fanout.count == 2
    received = b""
    while chunk := await loop.sock_recv(stalled, 1_000_000):
        received += chunk
        if received.endswith(b"0\r\n\r\n"):
            break
    stalled.close()
    assert received.count(b"event: append") < tokens
    while region.node.fanout.count > 1:
        await asyncio.sleep(0)
    back = await region.follow(headers=[("last-event-id", start)])
    assert json.loads((await back.event())["data"])["to"] == tokens


@pytest.mark.failure("N6", "L1")
async def test_reader_that_never_takes(region, stalled_socket, monkeypatch):
    """A connection that takes nothing at all is given up after a time, and counted."""
    monkeypatch.setattr(hot, "WRITE_S_MAX", 0.01)
    loop = asyncio.get_running_loop()
    lane = await region.open()
    stalled = await stalled_socket(region.port)
    await loop.sock_sendall(stalled, b"GET /v1/sessions/s/events HTTP/1.1\r\nhost: x\r\n\r\n")
    while region.node.fanout.count < 1:
        await asyncio.sleep(0)
    seq = 0
    while region.node.fanout.count:
        await region.append(lane, seq, ["x" * 900_000])
        seq += 1
        assert seq < 40
    assert region.node.counters["readers_cut"] == 1
    stalled.close()


async def test_too_many_readers(region, monkeypatch):
    """Beyond the limit a reader is asked to come later; a place that is free again is given."""
    monkeypatch.setattr(fanout, "READERS_MAX", 1)
    first = await region.follow()
    reply = await region.request("GET", "/v1/sessions/t/events")
    reply.assert_problem(429, "too_many")
    assert int(reply.header("retry-after")) > 0
    first.close()
    while region.node.fanout.count:
        await asyncio.sleep(0)
    await region.follow("t")


@pytest.mark.failure("P13")
async def test_drain(region):
    """A draining node sends its readers elsewhere and ends their answers."""
    follower = await region.follow()
    await follower.events()
    await region.node.drain(0)
    event = await follower.event()
    assert event["event"] == "reconnect"
    assert "retry_ms" in json.loads(event["data"])
    assert await follower.piece() == b""
