"""What every answer tells a browser and a cache not to make of it."""

import asyncio
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from perdure.api.description_page import page
from perdure.api.grants import Grants
from perdure.regions.guard_headers import GUARDS

from tests.api.conftest import ORIGIN, Region, Reply, Serve
from tests.api.test_grants import SECRET
from tests.regions.linked import linked
from tests.regions.test_heads import App, served

WEBSOCKET = [
    *(("connection", "upgrade"), ("upgrade", "websocket")),
    *(("sec-websocket-version", "13"), ("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA==")),
]
JSON = ("content-type", "application/json")
LINES = ("content-type", "application/x-ndjson")


def assert_guarded(reply: Reply, **own: str) -> None:
    """Each guard once, with its value or that of ``own``; nobody says what it is made with."""
    for name, value in GUARDS:
        expected = own.get(name.decode().replace("-", "_"), value.decode())
        assert reply.header(name.decode()) == expected, (name, reply)
    assert reply.header("server") is None
    assert reply.header("strict-transport-security") is None


async def exchanged(region: Region, method: str, path: str, *headers: tuple[str, str]) -> Reply:
    """The head of the answer."""
    connection = await region.connect()
    await connection.start(method, path, headers)
    head = await connection.head()
    connection.close()
    return head


async def test_every_kind_of_answer_is_guarded(region, lane) -> None:
    """Content, streams, files, problems of every layer, preflights, handshakes taken and refused:
    each guard once."""
    origin, evil = ("origin", ORIGIN), ("origin", "https://evil.example")
    session, length = "/v1/sessions/s", ("content-length", "0")
    for status, method, path, *headers in [
        (200, "GET", "/livez"),
        (200, "GET", "/version", origin),
        (200, "GET", "/openapi.json"),
        (200, "GET", session),
        (200, "GET", session, evil),
        (201, "PUT", "/v1/sessions/t", length),
        (204, "DELETE", "/v1/sessions/t"),
        (200, "GET", f"{session}/poll?wait_ms=0"),
        (200, "GET", "/v1/agents/bot/runs?wait_ms=0"),
        (400, "GET", "/v1/sessions/%00"),
        (400, "POST", f"{lane.path}/tokens", JSON, ("content-length", "2")),
        (404, "GET", "/nowhere"),
        (404, "GET", "/demo/chat"),
        (405, "DELETE", f"{session}/events"),
        (405, "PATCH", session),
        (415, "PUT", session, ("content-type", "text/html"), ("content-length", "2")),
        (200, "OPTIONS", session, origin, ("access-control-request-method", "PUT")),
        (400, "OPTIONS", session, evil, ("access-control-request-method", "PUT")),
        (101, "GET", f"{session}/ws", *WEBSOCKET),
        (403, "GET", f"{session}/ws", *WEBSOCKET, evil),
        (404, "GET", "/nowhere", *WEBSOCKET),
        (404, "GET", f"{session}/documents/d/wss", *WEBSOCKET),
    ]:
        reply = await exchanged(region, method, path, *headers)
        assert reply.status == status, (method, path, reply)
        assert_guarded(reply)
        assert reply.header("perdure-region") == "eu"


async def test_streams_are_guarded(region, lane) -> None:
    """They are kept by nobody either, and come through unchanged."""
    streams = "no-store, no-transform"
    event_stream = ("accept", "text/event-stream")
    for path, headers in [
        ("/v1/sessions/s/events", []),
        ("/v1/agents/bot/runs", [event_stream]),
    ]:
        assert_guarded(await exchanged(region, "GET", path, *headers), cache_control=streams)
    connection = await region.connect()
    chunked = ("transfer-encoding", "chunked")
    headers = [LINES, chunked, *lane.headers(0)]
    await connection.start("POST", f"{lane.path}/stream", headers)
    await connection.chunk(b'{"tokens":["a"]}\n')
    head = await connection.head()
    assert head.status == 200
    assert_guarded(head)


async def test_refusals_without_a_grant_are_guarded(serve: Serve) -> None:
    """Whoever asks, and for what."""
    async with serve(grants=Grants(SECRET)) as region:
        for path, *headers in [("/docs",), ("/v1/sessions/s",), ("/v1/sessions/s/ws", *WEBSOCKET)]:
            reply = await exchanged(region, "GET", path, *headers)
            assert reply.status == 401
            assert_guarded(reply)


async def test_a_page_has_its_own_policy(serve: Serve) -> None:
    """One policy each: of two a browser would keep both."""
    async with serve(demo_page={"eu": "http://127.0.0.1:7101"}) as region:
        chat = await exchanged(region, "GET", "/demo/chat")
        policy = chat.header("content-security-policy")
        assert policy is not None and "script-src 'self'" in policy
        assert_guarded(chat, content_security_policy=policy, cache_control="no-cache")
        assert_guarded(await exchanged(region, "GET", "/demo/regions"))


@pytest.mark.parametrize(
    "raw",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\ncookie: " + b"x" * 70_000,
        b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        b"sec-websocket-version: 8\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    ],
    ids=["no request", "bad header", "large head", "no key", "old version"],
)
async def test_what_is_no_request_gets_a_guarded_answer(raw: bytes) -> None:
    """From the server that ships, before any application has seen it."""
    app = App()
    async with served(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(raw)
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
        headers = [line.lower().split(": ", 1) for line in head[1:]]
        writer.close()
    assert head[0] == "HTTP/1.1 400 Bad Request"
    assert_guarded(Reply(400, [(name, value) for name, value in headers], b""))
    assert app.asked == 0


@pytest.mark.parametrize(
    ("status", "raw"),
    [
        (401, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"),
        (401, b"POST /v1/peer HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"),
        (401, b"GET /v1/peer HTTP/1.1\r\nhost: x\r\n\r\n"),
        (400, b"nonsense\r\n\r\n"),
        (
            101,
            b"GET /v1/peer HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
        ),
    ],
)
async def test_the_port_of_the_peers_does_not_say_what_it_is_made_with(
    tmp_path: Path, status: int, raw: bytes
) -> None:
    """No name and no version of a server, whatever comes."""
    async with linked(tmp_path, {"eu": []}) as regions:
        reader, writer = await asyncio.open_connection("127.0.0.1", regions.ports["eu"])
        writer.write(raw)
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        writer.close()
    assert head.split()[1] == str(status)
    assert "server:" not in head and "aiohttp" not in head


# The description for people


class Tags(HTMLParser):
    """What a page refers to, and what it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.found.append((tag, dict(attrs)))


async def test_the_description_needs_nothing_from_elsewhere(region) -> None:
    """Every operation is on it; there is no script, and what it refers to is here."""
    reply = await region.request("GET", "/docs")
    assert reply.status == 200 and reply.header("content-type") == "text/html; charset=utf-8"
    policy = reply.header("content-security-policy")
    assert re.fullmatch(
        r"default-src 'none'; style-src 'sha256-[\w+/=]+'; base-uri 'none'; form-action 'none';"
        r" frame-ancestors 'none'",
        policy,
    )
    assert_guarded(reply, content_security_policy=policy)
    text = reply.body.decode()
    tags = Tags()
    tags.feed(text)
    assert {tag for tag, _ in tags.found}.isdisjoint({"script", "link", "img", "iframe", "form"})
    named = {values["id"] for _, values in tags.found if "id" in values}
    for _, values in tags.found:
        assert not {"src", "style"} & values.keys() and not any(n.startswith("on") for n in values)
        href = values.get("href", "/openapi.json") or ""
        assert href == "/openapi.json" or href.removeprefix("#") in named
    document = (await region.request("GET", "/openapi.json")).json
    for path, operations in document["paths"].items():
        for method in operations:
            assert f"<b>{method.upper()}</b> <code>{path}</code>" in text


async def test_the_description_is_escaped(region) -> None:
    """Whatever stands in it is text."""
    document = (await region.request("GET", "/openapi.json")).json
    told = json.loads(json.dumps(document).replace("RFC 9457", "<script>alert(1)</script>&amp;"))
    assert "<script" not in page(told) and "&lt;script&gt;" in page(told)
