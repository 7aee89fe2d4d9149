"""Clients that mean harm, byte by byte: paths, framing, compression, many at once."""

import asyncio
import collections
import contextlib
import struct
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from perdure.api.grants import Grants
from perdure.regions.transport_wire import PATH
from perdure.replication.limits import HEAD_READ_S_MAX

from tests.api.conftest import ORIGIN, Reply
from tests.api.test_grants import SECRET
from tests.regions.linked import LoopTime, linked, turns
from tests.regions.processes import DEADLINE_S, Served
from tests.regions.test_heads import App, served

JSON = ("content-type", "application/json")
UPGRADE = [
    *(("connection", "upgrade"), ("upgrade", "websocket")),
    *(("sec-websocket-version", "13"), ("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA==")),
]
OFFER = ("sec-websocket-extensions", "permessage-deflate; client_max_window_bits")


async def raw(region: Any, request: bytes) -> list[Reply]:
    """What comes on one connection until it is closed, or nothing more comes of it."""
    connection = await region.connect()
    await connection.write(request)
    connection.writer.write_eof()
    replies = []
    try:
        async with asyncio.timeout(DEADLINE_S):
            while True:
                replies.append(await connection.reply())
    except (asyncio.IncompleteReadError, ConnectionResetError):
        return replies
    finally:
        connection.close()


# Paths

TRICKS = [
    *(b"/v1/sessions/s%2f..%2ft", b"/v1/sessions/..%2f..%2flivez", b"/v1/sessions/%2e%2e/s"),
    *(b"/v1/sessions/../sessions/s", b"/v1/./sessions/s", b"/livez/../v1/sessions/s"),
    *(b"/livez%2f..%2fv1%2fsessions%2fs", b"/livez/", b"//livez", b"/livez;/v1/sessions/s"),
    *(b"//v1/sessions/s", b"/v1//sessions/s", b"/v1/sessions//s", b"/v1/sessions/s/"),
    *(b"/v1/sessions/s%00", b"/v1/sessions/%00", b"/livez%00", b"/v1/sessions/s%0d%0ax:y"),
    *(b"/v1/sessions/%ef%bd%93", b"/v1/sessions/%c0%ae%c0%ae", b"/v1/sessions/%ff"),
    *(b"/v1%2fsessions", b"/v1%2Fregions", b"/%2fdocs", b"/v1/agents%2fbot/runs"),
    *(b"/V1/Sessions/s", b"/v1/sessions/%", b"/v1/sessions/%zz", b"/v1/sessions/s%252f"),
    *(b"/v1/sessions/s\\..", b"/v1/sessions/s%5c..%5ct", b"/v1/sessions/" + b"../" * 200 + b"s"),
    *(b"/v1/sessions/s/messages/..%2f..%2ft", b"/v1/sessions/s/documents/..", b"/docs/../docs"),
]  # fmt: skip


@pytest.mark.failure("S10")
@pytest.mark.parametrize("path", TRICKS, ids=lambda path: path[:60].decode("latin-1"))
async def test_a_path_means_what_it_says(serve, path: bytes) -> None:
    """However it is written, nothing of it is put together, decoded twice or cut: there is nothing
    there, or it has a bad id; and what needs a grant needs one."""
    async with serve() as region:
        await region.request("PUT", "/v1/sessions/s")
        await region.request("PUT", "/v1/sessions/t")
        before = region.state()
        for method in (b"GET", b"DELETE", b"PUT"):
            request = b"%s %s HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n" % (method, path)
            (reply,) = await raw(region, request)
            assert reply.status in (400, 404), (method, reply)
        assert region.state() == before


@pytest.mark.failure("S5")
@pytest.mark.parametrize("path", TRICKS, ids=lambda path: path[:60].decode("latin-1"))
async def test_a_path_opens_nothing(serve, path: bytes) -> None:
    """What looks a little like a probe is none: without a grant it is refused."""
    async with serve(grants=Grants(SECRET)) as region:
        (reply,) = await raw(region, b"GET %s HTTP/1.1\r\nhost: x\r\n\r\n" % path)
        assert reply.status in (400, 401), reply


async def test_a_whole_url_is_a_path(region) -> None:
    """Whatever host it names: this is no proxy. And ``*`` is no path."""
    await region.request("PUT", "/v1/sessions/s")
    target = b"GET http://evil.example:99/v1/sessions/s HTTP/1.1\r\nhost: x\r\n\r\n"
    for reply in await raw(region, target):
        assert reply.status in (200, 400, 404)
        assert b"evil" not in reply.body
    for reply in await raw(region, b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n"):
        assert reply.status in (400, 404, 405)
    for reply in await raw(region, b"CONNECT evil.example:443 HTTP/1.1\r\nhost: x\r\n\r\n"):
        assert reply.status in (400, 404, 405)


# Framing

SMUGGLED = b"PUT /v1/sessions/smuggled HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"
TWO_LENGTHS = [
    b"content-length: 0\r\ncontent-length: 95\r\n\r\n",
    b"content-length: 0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    b"transfer-encoding: chunked\r\ncontent-length: 95\r\n\r\n0\r\n\r\n",
    b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
    b"content-length: +0\r\n\r\n",
    b"content-length: -1\r\n\r\n",
    b"content-length: 0x0\r\n\r\n",
    b"content-length: 99999999999999999999999999\r\n\r\n",
    b"x: y\r\n content-length: 0\r\ntransfer-encoding: chunked\r\n\r\nx\r\n\r\n",
    b"transfer-encoding: chunked\r\n\r\n0_0\r\n\r\n",
    b"transfer-encoding: chunked\r\n\r\n-1\r\n\r\n",
    b"transfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n\r\n",
]


@pytest.mark.parametrize("framing", TWO_LENGTHS, ids=lambda raw: repr(raw)[2:42])
async def test_a_request_has_one_end(region, framing: bytes) -> None:
    """Where two readers could see two ends, nothing that comes behind is taken for a request."""
    before = region.state()
    head = b"POST /v1/sessions/s/messages HTTP/1.1\r\nhost: x\r\n"
    replies = await raw(region, head + framing + SMUGGLED)
    assert len(replies) <= 1 and all(reply.status in (400, 413, 501) for reply in replies), replies
    assert region.state() == before


@pytest.mark.failure("S12")
async def test_nothing_of_a_request_becomes_a_header(region) -> None:
    """Neither what a preflight asks for, nor an origin, nor a subprotocol."""
    evil = "x\x0bset-cookie: a=b"
    asks = [("origin", ORIGIN), ("access-control-request-method", "PUT")]
    for path, headers in [
        ("/v1/sessions/s", [*asks, ("access-control-request-headers", evil)]),
        ("/v1/sessions/s", [("origin", evil)]),
        ("/v1/sessions/s/ws", [*UPGRADE, ("sec-websocket-protocol", evil)]),
        ("/v1/sessions/s%0d%0aset-cookie:a=b", []),
        ("/v1/sessions/s?x=%0d%0aset-cookie:a=b", []),
    ]:
        method = "OPTIONS" if len(headers) == 3 else "GET"
        connection = await region.connect()
        await connection.start(method, path, headers)
        head = await connection.head()
        assert not any("cookie" in name or "\x0b" in value for name, value in head.headers)
        connection.close()


# Compression


@pytest.mark.failure("L5")
@pytest.mark.parametrize("path", ["/v1/sessions/s/ws", "/v1/sessions/s/documents/d/ws"])
async def test_a_socket_is_not_compressed(region, path: str) -> None:
    """A client may offer it; and one that sends what it was not given is cut off, whatever its
    frame would become."""
    connection = await region.connect()
    await region.request("PATCH", "/v1/sessions/s/documents/d", b'{"text":"a"}', [JSON])
    await connection.start("GET", path, [*UPGRADE, OFFER])
    head = await connection.head()
    assert head.status == 101
    assert head.header("sec-websocket-extensions") is None
    # The frame says that it is compressed: RSV1, text, masked with zeros.
    await connection.write(struct.pack(">BB4x", 0xC1, 0x80 | 5) + b"aaaaa")
    async with asyncio.timeout(DEADLINE_S):
        rest = await connection.reader.read()
    # Its last frame says that this is an error of the protocol.
    assert struct.pack(">BH", 0x88, 1002)[:1] in rest and struct.pack(">H", 1002) in rest


@pytest.mark.failure("L5")
async def test_a_link_is_not_compressed(tmp_path: Path) -> None:
    """Neither side of a link offers it or takes it."""
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.close()

    listener = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with linked(tmp_path, {"eu": ["us"], "us": ["eu"]}, start=False) as regions:
        regions.urls["eu"] = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        await regions.start("eu")
        url = f"http://127.0.0.1:{regions.ports['eu']}{PATH}"
        async with aiohttp.ClientSession() as http, http.ws_connect(url, compress=15) as socket:
            assert socket.compress == 0
        await regions.until(lambda: bool(heads))
    listener.close()
    await listener.wait_closed()
    assert b"upgrade: websocket" in heads[0].lower()
    assert b"sec-websocket-extensions" not in heads[0].lower()


# Many at once


@pytest.mark.failure("L4")
async def test_idle_connections_do_not_keep_others_out() -> None:
    """A thousand that say nothing, or half a head: others are served meanwhile, and when the time
    of a head is over all of them are gone."""
    async with served(App()) as port:
        time = LoopTime()
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(1_000)]
        for _, writer in idle[::2]:
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nx-slow: ")
        await turns(20)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        async with asyncio.timeout(DEADLINE_S):
            assert (await reader.readline()).startswith(b"HTTP/1.1 204 ")
        writer.close()
        time.shift_s += HEAD_READ_S_MAX + 0.1
        for reader, _ in idle:
            async with asyncio.timeout(DEADLINE_S):
                await reader.read()
        for _, writer in idle:
            writer.close()
            with contextlib.suppress(ConnectionResetError):
                await writer.wait_closed()


@pytest.mark.failure("L2")
@pytest.mark.parametrize("kind", ["events", "ws"])
async def test_a_flood_of_reconnects(tmp_path: Path, kind: str) -> None:
    """Two thousand readers come at once, as when another region has died: each is served, or told
    when to come again; then they all leave at once, and the region goes on."""
    eu = Served(tmp_path / "eu")
    async with eu.serve():
        await eu.open()
        more = "".join(f"{name}: {value}\r\n" for name, value in UPGRADE) if kind == "ws" else ""
        request = f"GET /v1/sessions/s/{kind} HTTP/1.1\r\nhost: localhost\r\n{more}\r\n".encode()
        good = b"101" if kind == "ws" else b"200"

        async def reconnect() -> tuple[bytes, asyncio.StreamWriter]:
            reader, writer = await asyncio.open_connection("127.0.0.1", eu.port)
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            status = head.split()[1]
            assert status == good or b"\r\nretry-after: " in head.lower(), head
            return status, writer

        async with asyncio.timeout(DEADLINE_S):
            told = await asyncio.gather(*(reconnect() for _ in range(2_000)))
        counts = collections.Counter(status for status, _ in told)
        assert counts.keys() <= {good, b"429", b"503"}
        for _, writer in told:
            writer.close()
        assert (await eu.ask("GET", "/readyz")) == {"ready": True}
        opened = await eu.open(message="n")
        assert opened["next"] == 0
