"""Regions for the client: real ones without sockets, and scripted ones."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from perdure.api.app import create_app
from perdure.regions.clock import SystemClock, SystemEntropy
from perdure.regions.node import Node
from perdure.regions.storage import SqliteStorage
from sdk.python.tests.served import Served, served

from perdure_client import Client

EU, US = "http://eu", "http://us"


class Time:
    """A clock that moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


async def until(done: Callable[[], bool]) -> None:
    """Let the loop turn until it is so."""
    async with asyncio.timeout(10):
        while not done():
            await asyncio.sleep(0)


class FakeRegion:
    """A real node and its real application; requests reach it without a socket.

    ``fate`` decides for each request: ``""`` answers, ``"before"`` loses it, ``"after"`` carries it
    out and loses the answer, a number answers with that status.
    """

    def __init__(self, node: Node, storage: SqliteStorage) -> None:
        self.node = node
        self.storage = storage
        self.fate: Callable[[httpx2.Request], str | int] = lambda _: ""
        self.requests: list[httpx2.Request] = []
        app: Any = create_app(node, rules=None, version="1")
        self._transport = httpx2.ASGITransport(app)

    async def answer(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        fate = self.fate(request)
        if fate == "before":
            raise httpx2.ConnectError("refused", request=request)
        if isinstance(fate, int):
            return httpx2.Response(fate, json={"code": "draining", "status": fate})
        response = await self._transport.handle_async_request(request)
        if fate == "after":
            raise httpx2.ReadError("lost", request=request)
        return response


class World:
    """Two regions that gossip when they are told to, and clients of them."""

    def __init__(self, eu: FakeRegion, us: FakeRegion) -> None:
        self.eu, self.us = eu, us
        self.time = Time()

    def client(self, **options: Any) -> Client:
        async def route(request: httpx2.Request) -> httpx2.Response:
            region = self.eu if request.url.host == "eu" else self.us
            return await region.answer(request)

        return Client(
            [EU, US],
            http=httpx2.MockTransport(route),
            jitter=random.Random(1),
            sleep=self.time.sleep,
            clock=lambda: self.time.now,
            **options,
        )

    async def gossip(self) -> None:
        """Both regions come to have what the other has, and to know it."""
        for source, target in ((self.eu, self.us.node), (self.us, self.eu.node)):
            for origin, lsn in source.node.gossip.vector.items():
                held = target.gossip.vector.get(origin, 0)
                if origin.region != target.region and held < lsn:
                    await target.receive(await source.storage.read(origin, held, 10**9))
        for one, other in ((self.eu.node, self.us.node), (self.us.node, self.eu.node)):
            one.gossip.heard(other.region, dict(other.gossip.vector), True, 0)
            one.peers_changed()


def make_node(path: Path, name: str, peers: list[str]) -> tuple[Node, SqliteStorage]:
    """A region that runs, on real disk, and is linked to nobody."""
    storage = SqliteStorage(path / name)
    node = Node(
        name, storage, SystemClock(), SystemEntropy(), secret=b"s" * 32, peers=peers, bootstrap=True
    )
    node.recover()
    node.start(None)
    return node, storage


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """Two regions."""
    eu = FakeRegion(*make_node(tmp_path, "eu", ["us"]))
    us = FakeRegion(*make_node(tmp_path, "us", ["eu"]))
    yield World(eu, us)
    await eu.node.stop()
    await us.node.stop()


class Stream(httpx2.AsyncByteStream):
    """The body of an answer: pieces of bytes, then its end or an exception."""

    def __init__(self, pieces: Iterable[bytes | Exception]) -> None:
        self._pieces = pieces
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    async def aclose(self) -> None:
        self.closed = True


@pytest.fixture
async def regions(tmp_path: Path) -> AsyncIterator[tuple[Served, Served]]:
    """Two regions that are linked and served for real."""
    async with served(tmp_path) as pair:
        yield pair
