"""How long and how large the head of a request may be, and how long an answer may wait to be taken;
what comes between is another's matter."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from perdure.regions import serving
from perdure.regions.config import Config
from perdure.regions.serving import KEEP_ALIVE_S, make_server
from perdure.replication.limits import HEAD_BYTES_MAX, HEAD_READ_S_MAX

from tests.regions.linked import LoopTime, turns

Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]
GET = b"GET / HTTP/1.1\r\nhost: test\r\n\r\n"
UPGRADE = (
    b"GET / HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


class App:
    """Answers when the test says so."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.asked = 0
        self.reads = True

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked += 1
        while self.reads and (await receive()).get("more_body"):
            pass
        await self.may_answer.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[int]:
    """The server that ships, without a region behind it; its port."""
    settings = Config(region="eu", data=Path(), port=0, peer_port=0, peers={}, peer_secret=b"")
    server = make_server(settings, app)
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    listener = socket.create_server(("127.0.0.1", 0))
    await server.startup(sockets=[listener])
    try:
        yield listener.getsockname()[1]
    finally:
        for connection in list(server.server_state.connections):
            connection.transport.abort()  # type: ignore[union-attr]
        for listening in server.servers:
            listening.close()
            await listening.wait_closed()
        await asyncio.gather(*server.server_state.tasks, return_exceptions=True)


class Connection:
    """A connection that says when it was closed."""

    def __init__(self, pair: Pair) -> None:
        self.reader, self.writer = pair

    async def write(self, raw: bytes) -> None:
        self.writer.write(raw)
        await turns(20)

    async def closed(self) -> bool:
        """Whether the server has closed it by now."""
        await turns()
        return self.reader.at_eof() or self.reader.exception() is not None

    async def answer(self) -> bytes:
        async with asyncio.timeout(20):
            return await self.reader.readuntil(b"\r\n\r\n")


@asynccontextmanager
async def connected(app: Any) -> AsyncIterator[tuple[Connection, LoopTime]]:
    async with served(app) as port:
        time = LoopTime()
        connection = Connection(await asyncio.open_connection("127.0.0.1", port))
        await turns()
        try:
            yield connection, time
        finally:
            connection.writer.close()


@pytest.mark.failure("L4")
@pytest.mark.parametrize("first", [b"", b"GET / HT", b"\r\n"], ids=["silent", "begun", "empty"])
async def test_a_connection_that_does_not_ask_is_closed(first: bytes) -> None:
    """Idle from the start, or stuck in the middle of its first head: in time, not before."""
    async with connected(App()) as (connection, time):
        if first:
            await connection.write(first)
        time.shift_s += HEAD_READ_S_MAX - 1
        assert not await connection.closed()
        time.shift_s += 1.1
        assert await connection.closed()


@pytest.mark.failure("L4")
@pytest.mark.parametrize("before", [0, 2])
async def test_a_head_byte_by_byte_is_cut(before: int) -> None:
    """Each byte comes in time, the whole does not: also after good requests on the connection."""
    app = App()
    async with connected(app) as (connection, time):
        for _ in range(before):
            await connection.write(GET)
            assert b" 204 " in await connection.answer()
        time.shift_s += KEEP_ALIVE_S - 1 if before else 0
        for byte in GET[:HEAD_READ_S_MAX]:
            assert not await connection.closed()
            await connection.write(bytes([byte]))
            time.shift_s += 1
        time.shift_s += 0.1
        assert await connection.closed()
        assert app.asked == before


@pytest.mark.failure("L4")
async def test_who_has_asked_is_not_hurried() -> None:
    """A body and an answer take the time that they take elsewhere; a connection that is kept has
    its own limit; and one that asks again in time is served."""
    app = App()
    app.may_answer.clear()
    async with connected(app) as (connection, time):
        await connection.write(b"POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 2\r\n\r\nx")
        time.shift_s += 3 * HEAD_READ_S_MAX
        assert not await connection.closed()
        await connection.write(b"y")
        time.shift_s += 3 * HEAD_READ_S_MAX
        assert not await connection.closed()
        app.may_answer.set()
        assert b" 204 " in await connection.answer()
        time.shift_s += KEEP_ALIVE_S - 1
        await connection.write(GET[:10])
        time.shift_s += HEAD_READ_S_MAX - 1
        await connection.write(GET[10:])
        assert b" 204 " in await connection.answer()
        time.shift_s += KEEP_ALIVE_S + 1
        assert await connection.closed()


async def test_a_body_that_nobody_wanted_is_no_head() -> None:
    """Refused before it came: however much of it comes then, the connection serves on; only not
    for ever."""
    app = App()
    app.reads = False
    body = b"x" * 2 * HEAD_BYTES_MAX
    head = b"POST / HTTP/1.1\r\nhost: t\r\ncontent-length: %d\r\n\r\n" % len(body)
    async with connected(app) as (connection, time):
        for _ in range(2):
            await connection.write(head)
            assert b" 204 " in await connection.answer()
            await connection.write(body[:-1])
            await connection.write(body[-1:])
        await connection.write(head)
        assert b" 204 " in await connection.answer()
        for _ in range(HEAD_READ_S_MAX):
            await connection.write(b"x")
            time.shift_s += 1
        time.shift_s += 1
        assert await connection.closed()


@pytest.mark.failure("L4")
async def test_a_head_without_end_is_cut() -> None:
    """However quickly it comes: it is not gathered beyond its limit, and is refused."""
    app = App()
    async with connected(app) as (connection, _):
        await connection.write(b"GET / HTTP/1.1\r\n")
        line = b"x-more: " + b"y" * 1_000 + b"\r\n"
        for _ in range(3 * HEAD_BYTES_MAX // len(line)):
            if await connection.closed():
                break
            await connection.write(line * 8)
        else:
            pytest.fail("it takes more and more")
        assert app.asked == 0


async def test_a_large_head_is_taken() -> None:
    """Below the limit, in as many pieces as it comes."""
    async with connected(App()) as (connection, _):
        await connection.write(b"GET / HTTP/1.1\r\nhost: t\r\n")
        await connection.write(b"x-more: " + b"y" * (HEAD_BYTES_MAX - 1_000) + b"\r\n")
        await connection.write(b"\r\n")
        assert b" 204 " in await connection.answer()


async def test_a_socket_is_no_head() -> None:
    """Once upgraded, a connection that says nothing more is not closed for it."""

    async def accept(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "websocket"
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            await send({"type": "websocket.send", "text": "heard"})

    async with connected(accept) as (connection, time):
        await connection.write(UPGRADE)
        assert (await connection.answer()).startswith(b"HTTP/1.1 101 ")
        time.shift_s += HEAD_READ_S_MAX + KEEP_ALIVE_S + 1
        assert not await connection.closed()
        await connection.write(b"\x81\x82\x00\x00\x00\x00hi")
        async with asyncio.timeout(20):
            # A ping may have come before it.
            assert b"\x81\x05heard" in await connection.reader.readuntil(b"heard")


async def test_what_a_socket_does_not_take_is_let_go_of() -> None:
    """A client that was cut, and that never takes what is left, keeps no memory for it."""
    size = 50_000_000
    may_end = asyncio.Event()

    async def flood(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "x" * size})
        await may_end.wait()

    async with connected(flood) as (connection, time):
        await connection.write(UPGRADE)
        await connection.answer()
        may_end.set()
        await turns()
        time.shift_s += 11
        await turns()
        received = 0
        with contextlib.suppress(OSError):
            while piece := await connection.reader.read(1_000_000):
                received += len(piece)
        assert received < size


async def test_what_nobody_takes_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other end is there and reads nothing, or is not there any more: the connection does not
    stay for what is left to send."""
    monkeypatch.setattr(serving, "UNTAKEN_S_MAX", 0.1)
    gone = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        sending = asyncio.ensure_future(
            send({"type": "http.response.body", "body": b"x" * 16_000_000, "more_body": True})
        )
        while (await receive())["type"] != "http.disconnect":
            pass
        await sending
        gone.set()

    async with served(app) as port:
        with contextlib.closing(socket.create_connection(("127.0.0.1", port))) as stalled:
            stalled.sendall(GET)
            async with asyncio.timeout(10):
                await gone.wait()
