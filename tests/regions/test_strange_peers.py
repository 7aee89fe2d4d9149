"""What answers on a peer's address, or dials it, and is no peer: proxies, old names, other keys."""

import asyncio
import socket as sockets
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
from aiohttp import web
from perdure.regions.node import Node
from perdure.regions.transport_dialing import BACKOFF_S_MAX
from perdure.regions.transport_wire import PATH
from perdure.replication.admission import Draft
from perdure.replication.frames import FRAME_BYTES_MAX, Channel, Kind

from tests.regions.linked import Linked, LoopTime, acceptor, dialer, ended, linked, turns

PAIR = {"eu": ["us"], "us": ["eu"]}
PAGE = b"<!doctype html><title>502 Bad Gateway</title>"
UPGRADE = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: nonsense\r\n\r\n"
)


async def send(node: Node, id_: str = "m", text: str = "hello") -> None:
    await node.send("s", Draft("user", id=id_, text=text))


@asynccontextmanager
async def answering(port: int, raw: bytes) -> AsyncIterator[list[bytes]]:
    """Something that answers every request with these bytes, then closes; what it was asked."""
    asked: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(raw)
        except asyncio.IncompleteReadError:
            # Whoever dialled has left in the middle of it.
            return
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", port)
    try:
        yield asked
    finally:
        # A server that is closed between an accept and the task that sees to it leaves that
        # connection open for ever (``Server._attach`` of CPython 3.11).
        for socket in server.sockets:
            asyncio.get_running_loop().remove_reader(socket.fileno())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        server.close()
        await server.wait_closed()


STRANGE = {
    "a proxy's page": b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(PAGE), PAGE),
    "a page with status 200": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s"
    % (len(PAGE), PAGE),
    "shorter than it says": b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 9999\r\n\r\n" + PAGE,
    "longer than it says": b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 3\r\n\r\n" + PAGE,
    "a length that is none": b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n" + PAGE,
    "cut in its head": b"HTTP/1.1 101 Switch",
    "nothing": b"",
    "no HTTP": b"SSH-2.0-OpenSSH_9.9\r\n",
    "another key": UPGRADE,
    "a redirect": b"HTTP/1.1 302 Found\r\nLocation: http://h.test/\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.failure("N9")
@pytest.mark.parametrize("raw", STRANGE.values(), ids=STRANGE.keys())
async def test_what_is_no_peer_is_tried_again(tmp_path: Path, raw: bytes) -> None:
    """A proxy's page, an answer that is cut or of a wrong length, no HTTP at all: it is counted,
    nothing is believed, and when the peer answers itself all goes on."""
    async with linked(tmp_path, PAIR, start=False) as regions:
        async with answering(regions.ports["us"], raw) as asked:
            eu = await regions.start("eu")
            await send(eu)
            await regions.until(lambda: regions.counters("eu")["links_failed"] >= 2)
        assert len(asked) >= 2
        assert regions.counters("eu")["links_opened"] == 0
        assert regions.counters("eu")["links_broken"] == 0
        us = await regions.start("us")
        await regions.until(regions.same)
        assert us.message("s", "m")["text"] == "hello"


@pytest.mark.failure("N9")
async def test_a_frame_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    """By a proxy that ends the connection within it: its link ends, nothing of it is stored."""
    async with linked(tmp_path, PAIR, start=False) as regions:
        eu = await regions.start("eu")
        async with dialer(regions) as (socket, channel):
            frame = channel.encode(Kind.OPERATIONS, b"\x01" * 1_000)
            await socket.send_bytes(frame[:500])
            await ended(socket)
        await regions.until(lambda: regions.counters("eu")["frames_refused"] == 1)
        assert eu.gossip.vector == {}
        await regions.start("us")
        await send(eu)
        await regions.until(regions.same)


@pytest.mark.failure("N10")
async def test_a_name_that_is_gone_and_comes_back_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a peer's name does not resolve it is dialled less and less often; when it has another
    address, that is found without a restart."""
    async with linked(tmp_path, PAIR, start=False) as regions:
        names: dict[str, str] = {}
        loop = asyncio.get_running_loop()
        resolve, looked_up = loop.getaddrinfo, []

        async def getaddrinfo(host: Any, *rest: Any, **more: Any) -> Any:
            looked_up.append(host)
            if host == "peer.test" and host not in names:
                raise sockets.gaierror(sockets.EAI_NONAME, "no such name")
            return await resolve(names.get(host, host), *rest, **more)

        monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
        eu = await started_with(regions, "eu", f"http://peer.test:{regions.ports['us']}")
        time = LoopTime()
        # Addresses are kept for a while, by a clock of aiohttp's own.
        monkeypatch.setattr("aiohttp.connector.monotonic", time.time)
        await send(eu)
        await regions.until(lambda: regions.counters("eu")["links_failed"] == 1)
        await turns()
        assert regions.counters("eu")["links_failed"] == 1
        await passes(time, regions, lambda: regions.counters("eu")["links_failed"] >= 8)
        # Each time after twice the pause, up to its limit: no storm of questions.
        assert time.shift_s > 2 * BACKOFF_S_MAX
        assert len(looked_up) <= 2 * regions.counters("eu")["links_failed"]
        names["peer.test"] = "127.0.0.2"
        await passes(time, regions, lambda: regions.counters("eu")["links_failed"] >= 9)
        names["peer.test"] = "127.0.0.1"
        await regions.start("us")
        await passes(time, regions, regions.same)


async def started_with(regions: Linked, name: str, url: str) -> Node:
    """A region whose peer has this URL; its jitter is all of the pause."""
    regions.urls = {name: url}
    regions.share = 1.0
    return await regions.start(name)


async def passes(time: LoopTime, regions: Linked, done: Callable[[], bool]) -> None:
    """Let time pass until it is so."""

    def step() -> bool:
        time.shift_s += 0.02
        return done()

    await regions.until(step)


# Dialers that are no peers


@pytest.mark.failure("L5")
async def test_nothing_on_a_link_is_ever_inflated(tmp_path: Path) -> None:
    """A dialer that offers compression gets none, and a message that is compressed all the same,
    16 MiB of it in a few bytes, ends its link."""
    async with linked(tmp_path, PAIR, start=False) as regions:
        await regions.start("eu")
        url = f"http://127.0.0.1:{regions.ports['eu']}{PATH}"
        async with aiohttp.ClientSession() as http, http.ws_connect(url, compress=15) as socket:
            assert socket.compress == 0
            await socket.receive_bytes()
            deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
            bomb = deflate.compress(bytes(4 * FRAME_BYTES_MAX)) + deflate.flush(zlib.Z_SYNC_FLUSH)
            assert len(bomb) < 100_000
            transport = socket._response.connection.transport  # type: ignore[union-attr]
            # FIN and RSV1, a binary message; masked with zeros.
            head = b"\xc2\xff" + len(bomb).to_bytes(8, "big") + bytes(4)
            transport.write(head + bomb)  # type: ignore[union-attr]
            await ended(socket)
        await regions.until(lambda: "frames_refused" in regions.counters("eu"))
        assert regions.counters("eu")["frames_refused.not_websocket"] == 1


@pytest.mark.failure("L5")
async def test_this_region_offers_no_compression(tmp_path: Path) -> None:
    """To the peers that it dials."""
    async with linked(tmp_path, PAIR, start=False) as regions:
        offered: list[str | None] = []

        async def act(socket: web.WebSocketResponse, _: Channel, request: web.Request) -> None:
            offered.append(request.headers.get("Sec-WebSocket-Extensions"))

        async with acceptor(regions.ports["us"], act):
            await regions.start("eu")
            await regions.until(lambda: len(offered) > 0)
        assert offered[0] is None


@pytest.mark.failure("S8")
async def test_a_clients_grant_opens_no_link(tmp_path: Path) -> None:
    """Neither as a header, on whatever path, nor as a secret: who has only the secret of grants is
    refused and counted, and the port serves nothing else."""
    grants_secret = b"g" * 32
    grant = jwt.encode({"sub": "ops", "exp": 4_000_000_000}, grants_secret, "HS256")
    async with linked(tmp_path, PAIR, start=False) as regions:
        eu = await regions.start("eu")
        url = f"http://127.0.0.1:{regions.ports['eu']}"
        async with aiohttp.ClientSession() as http:
            bearer = {"Authorization": f"Bearer {grant}"}
            for path in ("/v1/sessions", "/v1/sessions/s/events", "/livez", "/metrics", "/", PATH):
                async with http.get(url + path, headers=bearer) as answered:
                    assert (answered.status, await answered.read()) == (401, b"")
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await http.ws_connect(url + PATH, headers=bearer)
            assert refused.value.status == 401
            async with http.ws_connect(url + PATH) as socket:
                await socket.receive_bytes()
                hello = Channel("d", grants_secret).encode(Kind.HELLO, b"{}")
                await socket.send_bytes(hello)
                await ended(socket)
        await regions.until(lambda: "frames_refused" in regions.counters("eu"))
        assert regions.counters("eu")["frames_refused.mac"] == 1
        assert regions.counters("eu")["links_refused.not_a_peer"] == 7
        assert eu.gossip.peers["us"].heard_ms is None
