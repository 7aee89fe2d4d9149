"""A region's process in the simulation: the node and the links that ship, on simulated ports."""

import asyncio
import json
from collections.abc import Mapping
from contextvars import copy_context
from random import Random
from typing import Any

from perdure.api.document_sockets import DocumentSocket
from perdure.regions.checkpoint import Limits
from perdure.regions.documents import Seat
from perdure.regions.fanout import Reader
from perdure.regions.node import Node
from perdure.regions.transport import PeerLinks
from perdure.regions.transport_wire import DialedSocket

from tests.simulation.disk import Disk, SimStorage
from tests.simulation.loop import PROCESS, VirtualLoop
from tests.simulation.network import Network, SimSocket, connect

SECRET = b"s" * 32
NAME_REFUSED_S_MAX = 15
WRITE_S_MAX = 20
BEGIN_S_MAX = 0.03
WALL_START_MS = 1_800_000_000_000


class SimClock:
    """A region's clock: the loop's time, and a wall clock that may be wrong. The offset belongs to
    the machine and outlives processes."""

    def __init__(self, loop: VirtualLoop, started_s: float, offset_ms: list[int]) -> None:
        self._loop = loop
        self._started_s = started_s
        self._offset_ms = offset_ms

    def wall_ms(self) -> int:
        return WALL_START_MS + int(self._loop.now_s * 1000) + self._offset_ms[0]

    def monotonic_ms(self) -> int:
        return int((self._loop.now_s - self._started_s) * 1000) + 12_345


class SimEntropy:
    """Randomness from a seed."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def token(self, bits: int) -> int:
        return self._random.getrandbits(bits)

    def uniform(self) -> float:
        return self._random.random()


class SimLinks(PeerLinks):
    """The links that ship, dialling over the simulated network."""

    process: "Process"

    async def start(self) -> None:
        self._dial_all(lambda _: self._over_the_network)

    async def _over_the_network(self, url: str) -> DialedSocket:
        return await self.process.dial(url.split("/")[2])

    async def accept(self, socket: SimSocket, name: str) -> None:
        """A connection has come in."""

        async def prepare() -> None:
            return

        if not await self._acceptor.serve(socket, socket, name, prepare):
            socket.abort()


class Addresses:
    """Which process answers at a region's address."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.listening: dict[str, Process] = {}


class Process:
    """One start of a region. ``paused`` and ``dead`` are for the loop."""

    def __init__(
        self,
        loop: VirtualLoop,
        addresses: Addresses,
        name: str,
        disk: Disk,
        peers: list[str],
        random: Random,
        offset_ms: list[int],
        limits: Limits,
    ) -> None:
        self.paused = False
        self.dead = False
        self.parked: list[asyncio.Handle] = []
        self.name = name
        self.disk = disk
        self.exit_code: int | None = None
        self.exited: asyncio.Future[int] = loop.create_future()
        self._loop = loop
        self._addresses = addresses
        self._random = random
        self._context = copy_context()
        self._context.run(PROCESS.set, self)
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._sockets: dict[SimSocket, None] = {}
        self._calls: dict[asyncio.Future[Any], None] = {}
        self.storage = self._make_storage(random)
        self.node = Node(
            name,
            self.storage,
            clock := SimClock(loop, loop.now_s, offset_ms),
            entropy := SimEntropy(random),
            secret=SECRET,
            peers=peers,
            limits=limits,
        )
        self.links = SimLinks(
            self.node.gossip,
            self.storage,
            self.node,
            clock,
            entropy,
            secret=SECRET,
            peers={peer: f"sim://{peer}" for peer in peers},
            bind=(name, 0),
        )
        self.links.process = self

    def _make_storage(self, random: Random) -> Any:
        return SimStorage(self.disk, random)

    # Life

    def start(self, *, listening: bool = True) -> None:
        """Recover and begin; ``listening``: at the region's own address."""
        self._context.run(self._start)
        if listening:
            self._addresses.listening[self.name] = self

    def _start(self) -> None:
        self.node.recover()
        self.spawn(self.links.start())
        self.node.start(self.links)
        self.spawn(self._watch())

    def spawn(self, work: Any) -> asyncio.Task[Any]:
        """Something that this process does."""
        task = self._loop.create_task(work, context=self._context)
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))
        return task

    async def _watch(self) -> None:
        """As ``regions.serving`` does: the disk may fail, or the name be another's."""
        seconds = 0
        while not self.node.failed.is_set() and seconds < NAME_REFUSED_S_MAX:
            await asyncio.sleep(1)
            seconds = seconds + 1 if self.links.refused() else 0
        if not self.exited.done():
            self.exited.set_result(5 if self.node.failed.is_set() else 4)

    def kill(self) -> None:
        """At once, wherever it is. What the dying program still does reaches nobody."""
        if self.dead:
            return
        self.storage.cut()
        if self._addresses.listening.get(self.name) is self:
            del self._addresses.listening[self.name]
        for socket in list(self._sockets):
            socket.abort()
        for call in list(self._calls):
            if not call.done():
                call.set_exception(ConnectionResetError("the process died"))
        if self.paused:
            self._loop.resume(self)
        for task in [*self._tasks, *self.node._tasks, *self.links._tasks.values()]:
            task.cancel()
        self._loop.call_later(0.5, self._gone)

    def _gone(self) -> None:
        self.dead = True

    async def stop(self) -> None:
        """As SIGTERM does: drain, close, end."""
        work = self.spawn(self._stop())
        await asyncio.wait([work])
        self.kill()

    async def _stop(self) -> None:
        await self.node.drain(3.0)
        await asyncio.sleep(0.05)
        await self.links.stop()
        await self.node.stop()

    # Connections

    async def dial(self, name: str) -> SimSocket:
        """A connection to a region's address."""
        network = self._addresses.network
        await network.travel(self.name, name)
        target = self._addresses.listening.get(name)
        await network.travel(name, self.name)
        if target is None or target.dead:
            raise ConnectionRefusedError(f"nobody listens at {name}")
        near, far = connect(network, self.name, name)
        self._own(near)
        target.take(far, self.name)
        return near

    def _own(self, socket: SimSocket) -> None:
        for old in [old for old in self._sockets if old.closed]:
            del self._sockets[old]
        if self.storage.is_cut:
            socket.abort()
        self._sockets[socket] = None

    def take(self, socket: SimSocket, name: str) -> None:
        """A peer has connected."""
        self._own(socket)
        self.spawn(self.links.accept(socket, name))

    # Clients

    async def call(self, work: Any) -> Any:
        """Carry out a request; raises ``ConnectionResetError`` when the process dies on it."""
        done: asyncio.Future[Any] = self._loop.create_future()
        self._calls[done] = None
        task = self.spawn(work)

        def finished(task: asyncio.Task[Any]) -> None:
            if done.done():
                # Nobody waits for it; a connection that it has opened is closed again.
                failed = task.cancelled() or task.exception()
                if not failed and isinstance(opened := task.result(), SimSocket):
                    opened.abort()
            elif task.cancelled():
                done.set_exception(ConnectionResetError("the request was dropped"))
            elif (error := task.exception()) is not None:
                done.set_exception(error)
            else:
                done.set_result(task.result())

        task.add_done_callback(finished)
        try:
            return await done
        finally:
            del self._calls[done]

    async def carry_out(self, verb: str, args: Any, more: Any) -> Any:
        """A request, by the node's own methods."""
        answer = getattr(self.node, verb)(*args, **more)
        return await answer if asyncio.iscoroutine(answer) else answer

    async def follow(
        self, who: str, session: str, cursor: str | None, member: str | None = None
    ) -> SimSocket:
        """A reader's connection. Raises ``Refusal``."""
        reader = self.node.subscribe(session, cursor, member)
        near, far = connect(self._addresses.network, who, self.name, breaks=True)
        self._own(far)
        self.spawn(self._write(reader, far))
        return near

    async def _write(self, reader: Reader, socket: SimSocket) -> None:
        """As ``api.hot`` does: what has gathered, as soon as the client takes it."""
        whim = self._addresses.network.whim
        try:
            if whim is not None:
                await asyncio.sleep(whim.random() * BEGIN_S_MAX)
            while (gathered := await reader.next()) is not None:
                events = [[event.name, event.cursor, event.data] for event in gathered]
                async with asyncio.timeout(WRITE_S_MAX):
                    await socket.send_bytes(json.dumps(events).encode())
        except (TimeoutError, ConnectionResetError):
            pass
        finally:
            reader.close()
            socket.abort()

    async def share(self, who: str, session: str, document: str) -> SimSocket:
        """An editor's socket, served as it ships. Raises ``Refusal``."""
        seat = self.node.join_document(session, document)
        near, far = connect(self._addresses.network, who, self.name, breaks=True)
        self._own(far)
        self.spawn(self._serve_document(seat, far))
        return near

    async def _serve_document(self, seat: Seat, socket: SimSocket) -> None:
        async def receive() -> Any:
            data = (await socket.receive()).data
            kind = "websocket.disconnect" if data is None else "websocket.receive"
            return {"type": kind, "bytes": data}

        async def send(message: Any) -> None:
            if message["type"] == "websocket.close":
                # The code goes as a message of its own.
                await socket.send_bytes(b"\xff" + message["code"].to_bytes(2))
            else:
                await socket.send_bytes(message["bytes"])

        try:
            await DocumentSocket(self.node, seat, receive, send).run()
        finally:
            seat.close()
            socket.abort()


def counters(process: Process) -> Mapping[str, Any]:
    """What the process counts."""
    found: Mapping[str, Any] = process.node.regions()["counters"]
    return found
