"""A real region on a real socket: node, SQLite and uvicorn, spoken to byte by byte."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pytest
import uvicorn
from perdure.api.app import create_app
from perdure.api.callers import Callers
from perdure.api.grants import Grants
from perdure.api.guarding import Rules
from perdure.api.rates import Meter, Rates
from perdure.regions.allowances import NOTHING, parse_limits
from perdure.regions.clock import SystemClock, SystemEntropy
from perdure.regions.node import Node
from perdure.regions.ports import Clock, StorageError
from perdure.regions.storage import SqliteStorage
from perdure.replication.limits import BODY_BYTES_MAX

ORIGIN = "https://app.example"
Headers = Sequence[tuple[str, str]]


class Reply(NamedTuple):
    """An answer as it came over the wire."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        """The only value of a header."""
        values = [value for key, value in self.headers if key == name]
        assert len(values) < 2, f"{name} is given twice"
        return values[0] if values else None

    def assert_problem(self, status: int, code: str) -> dict[str, Any]:
        """This is a whole problem object of A.1; gives it back."""
        assert (self.status, self.json.get("code")) == (status, code), self.body[:500]
        problem: dict[str, Any] = self.json
        assert self.header("content-type") == "application/problem+json"
        assert problem["type"] == f"urn:perdure:problem:{code}"
        assert problem["status"] == status
        assert problem["title"]
        assert problem["detail"]
        assert "pydantic" not in problem["detail"]
        assert self.header("perdure-region") in ("eu", "us")
        return problem


class Connection:
    """One connection, and HTTP/1.1 on it, without a client's good manners."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._chunked = False
        self._text = b""

    async def write(self, raw: bytes) -> None:
        """Bytes as they are."""
        self.writer.write(raw)
        await self.writer.drain()

    async def start(self, method: str, target: str, headers: Headers = ()) -> None:
        """The head of a request."""
        lines = [f"{method} {target} HTTP/1.1", "host: test"]
        lines += [f"{name}: {value}" for name, value in headers]
        await self.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))

    async def chunk(self, raw: bytes) -> None:
        """One chunk of a chunked body; an empty one ends it."""
        await self.write(b"%x\r\n%s\r\n" % (len(raw), raw))

    async def head(self) -> Reply:
        """The head of the answer."""
        raw = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = raw.decode("latin-1").split("\r\n")[:-2]
        headers = [tuple(line.split(": ", 1)) for line in lines]
        self._chunked = ("transfer-encoding", "chunked") in headers
        return Reply(int(first.split()[1]), headers, b"")  # type: ignore[arg-type]

    async def piece(self) -> bytes:
        """One chunk of a chunked answer; empty at its end."""
        size = int(await self.reader.readline(), 16)
        body = await self.reader.readexactly(size)
        assert await self.reader.readexactly(2) == b"\r\n"
        return body

    async def reply(self) -> Reply:
        """The whole answer."""
        head = await self.head()
        if self._chunked:
            body = b""
            while piece := await self.piece():
                body += piece
        else:
            body = await self.reader.readexactly(int(head.header("content-length") or 0))
        return head._replace(body=body)

    async def request(
        self, method: str, target: str, body: bytes | None = None, headers: Headers = ()
    ) -> Reply:
        """One exchange."""
        if body is not None:
            headers = [*headers, ("content-length", str(len(body)))]
        await self.start(method, target, headers)
        if body:
            await self.write(body)
        return await self.reply()

    async def json(
        self, method: str, target: str, value: Any = None, headers: Headers = ()
    ) -> Reply:
        """One exchange with a JSON body."""
        if value is None:
            return await self.request(method, target, None, headers)
        body = json.dumps(value).encode()
        return await self.request(
            method, target, body, [("content-type", "application/json"), *headers]
        )

    async def event(self) -> dict[str, str]:
        """The next server-sent event of a chunked answer; comments are passed over."""
        while True:
            while b"\n\n" not in self._text:
                piece = await self.piece()
                assert piece, "the answer has ended"
                self._text += piece
            block, self._text = self._text.split(b"\n\n", 1)
            fields = dict(line.split(": ", 1) for line in block.decode().split("\n"))
            if "event" in fields:
                return fields

    async def events(self, last: str = "ready") -> list[dict[str, str]]:
        """Events up to the first of a kind."""
        found = [await self.event()]
        while found[-1]["event"] != last:
            found.append(await self.event())
        return found

    def close(self) -> None:
        """Hang up."""
        self.writer.close()


class Lane(NamedTuple):
    """An open message and what is needed to append to it."""

    path: str
    producer: str
    epoch: str
    header: str

    def headers(self, seq: int | str | None = 0) -> list[tuple[str, str]]:
        """The producer headers."""
        found = [("producer-id", self.producer), ("producer-epoch", self.epoch)]
        return found if seq is None else [*found, ("producer-seq", str(seq))]


class Failing(SqliteStorage):
    """A disk that fails on demand."""

    failure: StorageError | None = None

    async def commit(self, records: Any, deletions: Any = ()) -> None:
        """Fail, when that was asked for."""
        if self.failure is not None:
            raise self.failure
        await super().commit(records, deletions)


class Region:
    """A served region and the connections to it."""

    def __init__(self, node: Node, storage: Failing, port: int) -> None:
        self.node = node
        self.storage = storage
        self.port = port
        self._open: list[Connection] = []

    async def connect(self) -> Connection:
        """A new connection."""
        pair = await asyncio.open_connection("127.0.0.1", self.port, limit=2**24)
        connection = Connection(*pair)
        self._open.append(connection)
        return connection

    async def request(
        self, method: str, target: str, body: bytes | None = None, headers: Headers = ()
    ) -> Reply:
        """One exchange on a connection of its own."""
        connection = await self.connect()
        reply = await connection.request(method, target, body, headers)
        connection.close()
        return reply

    async def json(
        self, method: str, target: str, value: Any = None, headers: Headers = ()
    ) -> Reply:
        """One exchange with a JSON body, on a connection of its own."""
        connection = await self.connect()
        reply = await connection.json(method, target, value, headers)
        connection.close()
        return reply

    async def open(self, session: str = "s", message: str = "m", producer: str = "p") -> Lane:
        """Open a streaming message."""
        reply = await self.json(
            "POST",
            f"/v1/sessions/{session}/messages",
            {"id": message, "role": "assistant", "producer": producer, "claim_id": "claim-0001"},
        )
        assert reply.status in (200, 201), reply
        path = f"/v1/sessions/{session}/messages/{message}"
        return Lane(path, producer, reply.json["epoch"], reply.json["header"])

    async def append(self, lane: Lane, seq: int, tokens: list[Any], **more: Any) -> Reply:
        """Append to an open message."""
        return await self.json(
            "POST", f"{lane.path}/tokens", {"tokens": tokens, **more}, lane.headers(seq)
        )

    async def follow(self, session: str = "s", **options: Any) -> Connection:
        """Follow a session's events; the head of the answer is read and checked."""
        connection = await self.connect()
        target = f"/v1/sessions/{session}/events{options.get('query', '')}"
        await connection.start("GET", target, options.get("headers", ()))
        head = await connection.head()
        assert head.status == 200, head
        return connection

    def state(self) -> Any:
        """Everything that clients can see, and the place in the log, to show nothing changed."""
        page = self.node.sessions(None, 1000)["sessions"]
        log = dict(self.node.gossip.vector)
        return [self.node.snapshot(summary["id"]) for summary in page], log

    def peer_has_all(self, name: str = "us") -> None:
        """Let a peer report that it has everything on disk."""
        gossip = self.node.gossip
        gossip.heard(name, dict(gossip.vector), True, SystemClock().monotonic_ms())
        self.node.peers_changed()

    def hang_up(self) -> None:
        """Close what is open."""
        for connection in self._open:
            connection.close()


Serve = Callable[..., "contextlib.AbstractAsyncContextManager[Region]"]


@pytest.fixture
def serve(tmp_path) -> Serve:
    """Starts regions; options: ``grants``, ``peers``, ``name``, ``demo_page``,
    ``clock``, ``limits`` (as of ``--limit``)."""

    @contextlib.asynccontextmanager
    async def start(
        *,
        grants: Grants | None = None,
        peers: Sequence[str] = (),
        name: str = "eu",
        demo_page: Mapping[str, str] | None = None,
        clock: Clock | None = None,
        limits: Sequence[str] = (),
    ) -> AsyncIterator[Region]:
        storage = Failing(tmp_path / name)
        ports = (storage, clock or SystemClock(), SystemEntropy())
        node = Node(name, *ports, secret=b"p" * 32, peers=peers, bootstrap=True)
        node.recover()
        node.start(None)
        rules = None if grants is None else Rules(grants)
        options: Any = {"cors_origins": [ORIGIN], "demo_page": demo_page}
        options["meter"] = Meter(Rates(node.clock, parse_limits(limits, NOTHING)), Callers())
        app = create_app(node, rules=rules, version="1.2.3", **options)
        listener = socket.create_server(("127.0.0.1", 0))
        # Accepted sockets inherit it: a reader that stalls is felt soon, on every machine.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        # As on the loop of ``perdure serve``: else each answer waits 40 ms for the other end.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                lifespan="off",
                ws="websockets-sansio",
                ws_max_size=BODY_BYTES_MAX,
                ws_per_message_deflate=False,
                log_config=None,
                access_log=False,
            )
        )
        server.config.load()
        server.lifespan = server.config.lifespan_class(server.config)
        await server.startup(sockets=[listener])
        region = Region(node, storage, listener.getsockname()[1])
        try:
            yield region
        finally:
            region.hang_up()
            node.fanout.drain(0)
            # Not the server's own shutdown: it begins with a pause.
            for listening in server.servers:
                listening.close()
                await listening.wait_closed()
            await asyncio.gather(*server.server_state.tasks, return_exceptions=True)
            await node.stop()

    return start


@pytest.fixture
async def region(serve) -> AsyncIterator[Region]:
    """A region that serves anybody."""
    async with serve() as region:
        yield region


@pytest.fixture
async def lane(region):
    """A running message."""
    return await region.open()
