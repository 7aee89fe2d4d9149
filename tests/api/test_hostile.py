"""Clients that mean harm, or carry what others meant: sizes, cursors, logs, secrets."""

import gzip
import hmac
import json
import logging
import zlib
from typing import Any

import jwt
import pytest
from perdure.api import edge
from perdure.api.grants import Grants
from perdure.regions.config import Config
from perdure.regions.serving import make_server
from perdure.replication.cursor import Entry, Position, decode, encode
from perdure.replication.errors import Refusal
from perdure.replication.frames import Channel, FrameError, Kind
from perdure.replication.handshake import Identity, answer, challenge, check_hello
from perdure.replication.limits import CURSOR_CHARS_MAX, TOKEN_BYTES_MAX
from perdure.replication.records import Origin

from tests.api.test_grants import GOOD, SECRET

JSON = ("content-type", "application/json")
# What every resume says, before it is over.
BESIDE = ("metadata", "presence", "run", "document")
EVENTS = "/v1/sessions/s/events"


# Sizes


@pytest.mark.failure("X1")
@pytest.mark.parametrize("character", ["x", "é", "\0", "\U0001f600"])
async def test_a_token_of_the_greatest_size(region, lane, character):
    """It is taken and comes back byte for byte, whatever its JSON takes; one byte more is refused,
    and the next request on the connection is served."""
    token = character * (TOKEN_BYTES_MAX // len(character.encode()))
    connection = await region.connect()
    for more, status in (("x", 413), ("", 200)):
        body = json.dumps({"tokens": [token + more]}, ensure_ascii=character != "\0").encode()
        path, headers = f"{lane.path}/tokens", [JSON, *lane.headers(0)]
        reply = await connection.request("POST", path, body, headers)
        if status == 413:
            problem = reply.assert_problem(413, "too_large")
            assert problem["limit_bytes"] == TOKEN_BYTES_MAX
        assert (reply.status, reply.header("connection")) == (status, None)
    assert (await connection.request("GET", lane.path)).json["text"] == token


@pytest.mark.failure("L5")
@pytest.mark.parametrize("name", ["gzip", "deflate"])
async def test_a_compressed_body_is_not_inflated(region, lane, name):
    """It is refused as it is, however much it would become; ``identity`` is no coding."""
    bomb = b'{"tokens":["' + b"x" * 50_000_000 + b'"]}'
    body = gzip.compress(bomb) if name == "gzip" else zlib.compress(bomb)
    assert len(body) < 100_000
    before = region.state()
    for path, headers in (
        (f"{lane.path}/tokens", lane.headers(0)),
        ("/v1/sessions/s/messages", []),
    ):
        encoded = [JSON, ("content-encoding", name), *headers]
        reply = await region.request("POST", path, body, encoded)
        reply.assert_problem(415, "unsupported_media_type")
    assert region.state() == before
    plain = [JSON, ("content-encoding", "identity"), *lane.headers(0)]
    body = b'{"tokens":["a"]}'
    assert (await region.request("POST", f"{lane.path}/tokens", body, plain)).status == 200
    chunked = [("transfer-encoding", "chunked"), ("content-encoding", name), *lane.headers(1)]
    connection = await region.connect()
    await connection.start("POST", f"{lane.path}/stream", chunked)
    (await connection.reply()).assert_problem(415, "unsupported_media_type")


# Cursors


@pytest.mark.failure("X6")
async def test_a_cursor_from_the_future(region, lane):
    """It says more than anybody here has written: nothing is made up. The reader is held, and gets
    what comes; and what it was not told yet."""
    await region.append(lane, 0, ["a", "b"])
    position = decode((await region.request("GET", "/v1/sessions/s")).json["cursor"])
    (entry,) = position.entries
    ahead = Position(
        position.session, (entry._replace(length=1_000),), position.rest, position.digest
    )
    follower = await region.follow(headers=[("last-event-id", encode(ahead))])
    first = await follower.events()
    assert [event["event"] for event in first] == [
        "stale",
        "metadata",
        "presence",
        "run",
        "document",
        "ready",
    ]
    unknown = Entry(entry.slot ^ 1, entry.tag, entry.counter, entry.status, 7)
    other = Position(position.session, (unknown,), 2**30, 2**40 - 1)
    follower = await region.follow(headers=[("last-event-id", encode(other))])
    assert (await follower.event())["event"] == "stale"


@pytest.mark.failure("X6")
async def test_cursors_with_line_ends_or_without_end(region, lane):
    """In a query they are decoded to line ends and NUL, and refused; a megabyte of cursor never
    gets as far as being one."""
    for quoted in ("AAAA%0D%0Aevent:%20x", "%0A", "A%00A", "%FF", "%C0%80"):
        reply = await region.request("GET", f"{EVENTS}?cursor={quoted}")
        assert reply.status == 400 and reply.json["code"] in ("invalid_cursor", "invalid_query")
    for size in (CURSOR_CHARS_MAX + 1, 60_000, 1_000_000):
        connection = await region.connect()
        await connection.start("GET", EVENTS, [("last-event-id", "A" * size)])
        assert b" 400 " in await connection.reader.readline()
    assert (await region.append(lane, 0, ["a"])).status == 200


@pytest.mark.failure("S6")
async def test_a_cursor_opens_nothing(serve):
    """With somebody's cursor and no grant of one's own: 401, whether the session is there or not;
    with a grant a cursor shows nothing that the session would not."""
    good = ("authorization", f"Bearer {jwt.encode(GOOD, SECRET)}")
    async with serve(grants=Grants(SECRET)) as region:
        body = json.dumps({"id": "m", "role": "user", "text": "secret"}).encode()
        path = "/v1/sessions/s/messages"
        assert (await region.request("POST", path, body, [JSON, good])).status == 201
        cursor = (await region.request("GET", "/v1/sessions/s", headers=[good])).json["cursor"]
        stolen = ("last-event-id", cursor)
        refused = [
            await region.request("GET", f"/v1/sessions/{session}/events{query}", None, headers)
            for session, query, headers in [
                ("s", "", [stolen]),
                ("s", f"?cursor={cursor}", []),
                ("unknown", "", [stolen]),
            ]
        ]
        for reply in refused:
            reply.assert_problem(401, "unauthorized")
        assert len({(reply.body, *reply.headers) for reply in refused}) == 1
        other = await region.connect()
        await other.start("GET", "/v1/sessions/other/events", [good, stolen])
        await other.head()
        event = await other.event()
        assert event["event"] == "snapshot" and json.loads(event["data"])["messages"] == []


# Logs


@pytest.mark.failure("S12", "S17")
async def test_nothing_in_a_request_forges_a_line_of_the_log(region, monkeypatch, caplog):
    """Line ends and terminal codes in a path are escaped; a query, where secrets may be, is not
    logged at all, and neither is a header."""

    def broken(*_args: Any, **_more: Any) -> None:
        raise RuntimeError("a mistake of ours")

    # Before anything of the path is looked at: no bad id gets any further.
    monkeypatch.setattr(edge, "_parts", broken)
    secret = ("authorization", "Bearer swordfish-header")
    with caplog.at_level(logging.DEBUG):
        for path in ("/v1/sessions/s%0D%0AERROR%20forged%1b[31m", "/v1/sessions/s\x1b[31m", "/"):
            await region.request("GET", f"{path}?access_token=swordfish", None, [secret])
    logged = [record.getMessage() for record in caplog.records if record.name == "perdure.api"]
    assert len(logged) == 2
    for line in logged:
        assert line.isprintable(), line
    # The server's own log of requests is another matter: the next test.
    ours = [record for record in caplog.records if record.name != "uvicorn.access"]
    text = "\n".join(f"{record.getMessage()} {record.exc_text}" for record in ours)
    assert "swordfish" not in text and "\x1b" not in text


@pytest.mark.failure("S12")
async def test_nothing_that_is_sent_back_forges_a_header(region, lane):
    """What a refusal quotes of a request is in its JSON, escaped; every header is our own."""
    field = 'x\r\nset-cookie: a=b\r\n\r\n<script>"'
    body = json.dumps({field: 1}).encode()
    for path, headers in (
        (f"{lane.path}/tokens", lane.headers(0)),
        ("/v1/sessions/s/messages", []),
    ):
        reply = await region.request("POST", path, body, [JSON, *headers])
        problem = reply.assert_problem(400, "invalid_body")
        assert problem["field"] == field
        assert b"\n" not in reply.body and b"\r" not in reply.body
        assert not {"set-cookie", "x"} & {name for name, _ in reply.headers}


@pytest.mark.failure("S17")
def test_requests_are_not_logged(tmp_path):
    """The server that ships has no log of requests: no query of anybody is in one."""
    config = Config(
        region="eu", data=tmp_path, port=0, peer_port=0, peers={}, peer_secret=b"s" * 32
    )
    assert make_server(config, None).config.access_log is False
    assert not logging.getLogger("uvicorn.access").hasHandlers()


@pytest.mark.failure("S17")
async def test_a_grant_in_a_query_opens_nothing(serve):
    """Nobody gets used to putting secrets where proxies log them."""
    token = jwt.encode(GOOD, SECRET)
    async with serve(grants=Grants(SECRET)) as region:
        for name in ("access_token", "token", "authorization"):
            reply = await region.request("GET", f"/v1/sessions/s?{name}={token}")
            reply.assert_problem(401, "unauthorized")


# Secrets


def unsafe(token: str) -> str:
    """The grant with another signature."""
    head, payload, signature = token.split(".")
    return f"{head}.{payload}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}"


@pytest.mark.failure("S16")
def test_secrets_are_compared_in_constant_time(monkeypatch):
    """Grants, frames between regions, the answer to a challenge: each wrong one goes through
    ``hmac.compare_digest``."""
    compared: list[bool] = []
    real = hmac.compare_digest

    def compare(one: Any, other: Any) -> bool:
        compared.append(real(one, other))
        return compared[-1]

    monkeypatch.setattr(hmac, "compare_digest", compare)
    with pytest.raises(Refusal, match="unauthorized"):
        Grants(SECRET).check(f"Bearer {unsafe(jwt.encode(GOOD, SECRET))}")
    assert compared == [False]
    frame = Channel("d", b"t" * 32).encode(Kind.HELLO, b"{}")
    with pytest.raises(FrameError, match="mac"):
        Channel("a", SECRET).decode(frame)
    assert compared == [False] * 2
    eu, us = (Identity(Origin(name, 1), 1, "a" * 64) for name in ("eu", "us"))
    _, hello = answer(eu, challenge(us), "us", {})
    with pytest.raises(FrameError, match="unauthenticated"):
        check_hello(Identity(us.origin, 1, "b" * 64), hello)
    assert compared == [False] * 3


@pytest.mark.failure("S16")
async def test_a_wrong_header_is_compared_in_constant_time(region, lane, monkeypatch):
    """The opaque ``header`` of a message, with one character changed."""
    compared: list[bool] = []
    real = hmac.compare_digest
    monkeypatch.setattr(
        hmac, "compare_digest", lambda one, other: compared.append(real(one, other)) or compared[-1]
    )
    wrong = ("A" if lane.header[0] != "A" else "B") + lane.header[1:]
    reply = await region.json("POST", "/v1/sessions/s/messages", {"header": wrong})
    reply.assert_problem(400, "invalid_header")
    assert compared == [False]


@pytest.mark.failure("S5", "S15")
async def test_a_refusal_does_not_tell_what_is_there(serve):
    """Without a grant every path, known or not, of what is there or not, gets the same answer."""
    good = ("authorization", f"Bearer {jwt.encode(GOOD, SECRET)}")
    async with serve(grants=Grants(SECRET)) as region:
        await region.request("PUT", "/v1/sessions/there", None, [good])
        await region.request("PUT", "/v1/sessions/gone", None, [good])
        await region.request("DELETE", "/v1/sessions/gone", None, [good])
        answers = set()
        for path in ("there", "gone", "never", "there/messages/m", "a%2Fb", "..", "there/events"):
            reply = await region.request("GET", f"/v1/sessions/{path}")
            answers.add((reply.status, reply.body))
        for path in (
            "/v1/regions",
            "/openapi.json",
            "/docs",
            "/metrics",
            "/admin/api/live",
            "/nowhere",
        ):
            reply = await region.request("GET", path)
            answers.add((reply.status, reply.body))
        assert len(answers) == 1
        reply.assert_problem(401, "unauthorized")
