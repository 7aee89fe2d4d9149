"""Connections between processes, over paths that delay, stall, cut, and spoil.

A connection keeps the order of its messages, as TCP does. While its path is cut nothing arrives,
not even that the other end has closed it: then it is half open. What waits arrives when the path is
whole again. A message that a path spoils (lost, twice, out of order) is what a broken proxy makes
of it: the link that ships must refuse it.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass, field
from random import Random
from typing import Any

from aiohttp import WSMessage, WSMsgType

# Beyond so much unread, a sender waits.
UNREAD_BYTES_MAX = 262_144
_NOBODY = Context()
CLOSED = WSMessage(WSMsgType.CLOSED, None, None)


@dataclass
class Path:
    """The way from one place to another. Times in seconds."""

    delay_s: float = 0.005
    jitter_s: float = 0.002
    # Delay and jitter while a fault makes it longer.
    far_s: tuple[float, float] | None = None
    cut: bool = False
    bytes_per_s: float = 0.0
    spoil: float = 0.0
    # What is called once it is whole again.
    waiting: list[Callable[[], None]] = field(default_factory=list)


class Network:
    """All paths, and what happens on them."""

    def __init__(self, random: Random, whim: Random | None = None) -> None:
        """``whim``: where servers take their time before they begin to answer, drawn from it."""
        self.random = random
        self.whim = whim
        self._paths: dict[tuple[str, str], Path] = {}
        self.spoiled = 0

    def path(self, start: str, end: str) -> Path:
        """The path between two places; made when it is first asked for."""
        key = (start, end)
        if key not in self._paths:
            self._paths[key] = Path()
        return self._paths[key]

    def cut(self, start: str, end: str) -> None:
        """Nothing arrives any more."""
        self.path(start, end).cut = True

    def heal(self, start: str, end: str) -> None:
        """What waited arrives."""
        path = self.path(start, end)
        path.cut = False
        waiting, path.waiting = path.waiting, []
        for go_on in waiting:
            go_on()

    def heal_all(self) -> None:
        """Every path is whole and clean, and as quick as it is without a fault."""
        for (start, end), path in self._paths.items():
            path.far_s, path.bytes_per_s, path.spoil = None, 0.0, 0.0
            self.heal(start, end)

    def delay_s(self, path: Path, size: int = 0) -> float:
        """How long something takes."""
        delay_s, jitter_s = path.far_s or (path.delay_s, path.jitter_s)
        delay = delay_s + jitter_s * self.random.random()
        if path.bytes_per_s:
            delay += size / path.bytes_per_s
        return delay

    async def travel(self, start: str, end: str, size: int = 0) -> None:
        """Until something that is sent now has arrived."""
        path = self.path(start, end)
        await self._whole(path)
        await asyncio.sleep(self.delay_s(path, size))
        await self._whole(path)

    @staticmethod
    async def _whole(path: Path) -> None:
        while path.cut:
            whole: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            path.waiting.append(lambda whole=whole: whole.done() or whole.set_result(None))  # type: ignore[misc]
            await whole


class Wire:
    """One direction of a connection."""

    def __init__(
        self, network: Network, path: Path, deliver: Callable[[Any, int], None], *, breaks: bool
    ) -> None:
        """``breaks``: what the path spoils ends the connection."""
        self._breaks = breaks
        self._network = network
        self._path = path
        self._deliver = deliver
        # What is on its way: when it is due, what it is, and its size.
        self._waiting: deque[tuple[float, Any, int]] = deque()
        self._going = False

    def send(self, item: Any, size: int) -> None:
        """Put something on its way."""
        random = self._network.random
        due = asyncio.get_running_loop().time() + self._network.delay_s(self._path, size)
        copies, place = 1, len(self._waiting)
        if self._path.spoil and size and random.random() < self._path.spoil:
            self._network.spoiled += 1
            if self._breaks:
                item, size = CLOSED, 0
            else:
                copies = random.choice([0, 1, 2])
                place = max(0, place - 1)
        for _ in range(copies):
            self._waiting.insert(place, (due, item, size))
        self._go()

    def _go(self) -> None:
        if self._going or not self._waiting:
            return
        self._going = True
        if self._path.cut:
            self._path.waiting.append(self._whole)
            return
        loop = asyncio.get_running_loop()
        due = max(loop.time(), self._waiting[0][0])
        # The wire belongs to nobody: what is on it arrives also when its sender has died.
        loop.call_at(due, self._arrive, context=_NOBODY)

    def _whole(self) -> None:
        self._going = False
        self._go()

    def _arrive(self) -> None:
        self._going = False
        if not self._path.cut:
            _, item, size = self._waiting.popleft()
            self._deliver(item, size)
        self._go()


class SimSocket:
    """One end of a WebSocket. It is its own transport."""

    def __init__(self) -> None:
        self.closed = False
        self.out: Wire | None = None
        self.peer: SimSocket | None = None
        self._inbox: deque[tuple[WSMessage, int]] = deque()
        self._unread = 0
        self._reader: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None

    @property
    def transport(self) -> "SimSocket":
        return self

    def arrive(self, message: WSMessage, size: int) -> None:
        """Something has come over the path."""
        if message is CLOSED:
            self._end()
            return
        if self.closed:
            # Nobody is here any more: the other end is told.
            if self.out is not None:
                self.out.send(CLOSED, 0)
            return
        self._inbox.append((message, size))
        self._unread += size
        self._wake()

    def _wake(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None and not reader.done():
            reader.set_result(None)

    def _end(self) -> None:
        self.closed = True
        self._wake()
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    async def send_bytes(self, data: bytes) -> None:
        if self.closed or self.out is None or self.peer is None:
            raise ConnectionResetError("the connection is closed")
        self.out.send(WSMessage(WSMsgType.BINARY, data, None), len(data))
        while self.peer._unread > UNREAD_BYTES_MAX and not self.closed:
            self.peer._drained = self.peer._drained or asyncio.get_running_loop().create_future()
            await asyncio.shield(self.peer._drained)

    async def receive(self) -> WSMessage:
        while not self._inbox:
            if self.closed:
                return CLOSED
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        message, size = self._inbox.popleft()
        self._unread -= size
        if self._unread <= UNREAD_BYTES_MAX and self._drained is not None:
            drained, self._drained = self._drained, None
            if not drained.done():
                drained.set_result(None)
        return message

    async def close(self) -> bool:
        self.abort()
        return True

    def abort(self) -> None:
        """Closed here; the other end learns of it over the path."""
        if not self.closed:
            self._end()
            if self.out is not None:
                self.out.send(CLOSED, 0)


def connect(
    network: Network, start: str, end: str, *, breaks: bool = False
) -> tuple[SimSocket, SimSocket]:
    """Both ends of a new connection. ``breaks``: as for :class:`Wire`."""
    near, far = SimSocket(), SimSocket()
    near.peer, far.peer = far, near
    near.out = Wire(network, network.path(start, end), far.arrive, breaks=breaks)
    far.out = Wire(network, network.path(end, start), near.arrive, breaks=breaks)
    return near, far
