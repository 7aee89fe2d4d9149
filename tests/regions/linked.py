"""Real regions on real sockets, linked for real, without processes."""

import asyncio
import contextlib
import socket as sockets
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from perdure.regions.clock import SystemClock, SystemEntropy
from perdure.regions.cluster import free_ports
from perdure.regions.config import Config, PeerFiles
from perdure.regions.node import Node
from perdure.regions.serving import build_node
from perdure.regions.transport import PeerLinks
from perdure.regions.transport_dialing import Socket
from perdure.regions.transport_wire import PATH
from perdure.replication.frames import Channel, Kind, encode_json
from perdure.replication.handshake import Identity, answer, challenge, check_hello, establish
from perdure.replication.records import Origin

SECRET = b"s" * 32
DEADLINE_S = 20


class ShiftedClock(SystemClock):
    """The system's clock, moved on by the test, or by nothing else: on a slow machine a peer of
    the test's may be silent for longer than a live one is."""

    shift_ms = 0
    stands_at_ms: int | None = None

    def stand_still(self) -> None:
        self.stands_at_ms = super().monotonic_ms()

    def monotonic_ms(self) -> int:
        now_ms = super().monotonic_ms() if self.stands_at_ms is None else self.stands_at_ms
        return now_ms + self.shift_ms


class LoopTime:
    """The running loop's own time, moved on by the test: what waits for time to pass is over."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._time = loop.time
        self.shift_s = 0.0
        loop.time = self.time  # type: ignore[method-assign]

    def time(self) -> float:
        return self._time() + self.shift_s

    async def until_done(self, task: asyncio.Task[Any]) -> float:
        """Let time pass, quickly, until the task is done; how many seconds it took."""
        began_s = self.shift_s
        while not task.done():
            assert self.shift_s - began_s < DEADLINE_S, "it is never done"
            await asyncio.sleep(0)
            self.shift_s += 0.001
        await task
        return self.shift_s - began_s


class QuickEntropy(SystemEntropy):
    """No jitter: a link that failed is dialled again at once; or always the same ``share``."""

    def __init__(self, share: float = 0.0) -> None:
        self._share = share

    def uniform(self) -> float:
        return self._share


async def no_pause(seconds: float) -> None:
    """What is slow, as on a busy machine, earns no long pause after it."""
    await asyncio.sleep(0)


async def accept_no_more(listeners: Iterable[Any]) -> None:
    """Else asyncio leaves a connection open that it has accepted in the turn in which the listener
    is closed."""
    for listener in listeners:
        asyncio.get_running_loop().remove_reader(listener)
    await turns(3)


class Linked:
    """Regions by name. ``links``: who is configured to reach whom; all for None."""

    def __init__(self, path: Path, links: Mapping[str, list[str]]) -> None:
        self.path = path
        self.links = links
        self.clock = ShiftedClock()
        ports = free_ports(len(links))
        self.ports = dict(zip(links, ports, strict=True))
        self.nodes: dict[str, Node] = {}
        self.peers: dict[str, PeerLinks] = {}
        self.configs: dict[str, Config] = {}
        # URLs of the only peer of a region, instead of its own; the jitter of dialling again.
        self.urls: dict[str, str] = {}
        self.share = 0.0
        # What the disks are encrypted with, if anything.
        self.storage_keys: tuple[bytes, ...] = ()
        # The files of the regions that have certificates.
        self.files: dict[str, PeerFiles] = {}
        # The versions of the frames that a region speaks, where it is an older build.
        self.versions: dict[str, tuple[int, ...]] = {}

    async def start(
        self,
        name: str,
        *,
        secret: bytes = SECRET,
        accepted: tuple[bytes, ...] = (),
        directory: str = "",
        bootstrap: bool = True,
    ) -> Node:
        scheme = "https" if name in self.files else "http"
        peers = {other: f"{scheme}://127.0.0.1:{self.ports[other]}" for other in self.links[name]}
        if name in self.urls:
            peers = dict.fromkeys(peers, self.urls[name])
        config = Config(
            region=name,
            data=self.path / (directory or name),
            port=0,
            peer_port=self.ports[name],
            peers=peers,
            peer_secret=secret,
            peer_secrets_accepted=accepted,
            peer_files=self.files.get(name),
            bootstrap=bootstrap,
            storage_keys=self.storage_keys,
        )
        node, links = build_node(config, self.clock, QuickEntropy(self.share))
        node.eraser._pause = no_pause
        self.configs[name] = config
        if name in self.versions:
            links._around.versions = self.versions[name]
        await links.start()
        node.start(links)
        self.nodes[name], self.peers[name] = node, links
        return node

    async def link_again(self, name: str) -> None:
        """The region's links were stopped: others take their place."""
        node, config = self.nodes[name], self.configs[name]
        links = PeerLinks(
            node.gossip,
            node._storage,
            node,
            self.clock,
            QuickEntropy(self.share),
            secret=config.peer_secret,
            peers=config.peers,
            bind=(config.peer_host, config.peer_port),
        )
        await links.start()
        node._links = node.repair.links = self.peers[name] = links
        node.desk.wake = links.wake

    async def stop(self, name: str) -> None:
        node, links = self.nodes.pop(name), self.peers.pop(name)
        if links._listening is not None:
            await accept_no_more(links._listening.sockets)
        await links.stop()
        await node.stop()

    def counters(self, name: str) -> Mapping[str, int]:
        return self.peers[name].counters

    def state(self, name: str, peer: str) -> str:
        found = {p["region"]: p["state"] for p in self.nodes[name].regions()["peers"]}
        return str(found[peer])

    async def until(self, done: Callable[[], bool]) -> None:
        """Until it is so; the sockets have to do their part."""
        # By the system's clock: the loop's may stand still, or run.
        clock = SystemClock()
        deadline_ms = clock.monotonic_ms() + DEADLINE_S * 1_000
        while not done():
            assert clock.monotonic_ms() < deadline_ms, "it never comes to be so"
            # Through a thread: a loop that only turned would keep the disks' threads waiting.
            await asyncio.to_thread(int)

    def same(self, *names: str) -> bool:
        """Whether these regions have the same logs."""
        vectors = [self.nodes[name].gossip.vector for name in names or self.nodes]
        return all(vector == vectors[0] for vector in vectors)


@contextlib.asynccontextmanager
async def linked(
    path: Path, links: Mapping[str, list[str]], *, start: bool = True
) -> AsyncIterator[Linked]:
    """Regions that are stopped at the end."""
    regions = Linked(path, links)
    try:
        if start:
            for name in links:
                await regions.start(name)
        yield regions
    finally:
        for name in list(regions.nodes):
            await regions.stop(name)


# Peers that the test speaks for

US = Identity(Origin("us", 7), 1_000, "a" * 64)
Act = Callable[[web.WebSocketResponse, Channel, web.Request], Awaitable[None]]


@contextlib.asynccontextmanager
async def acceptor(port: int, act: Act, rcvbuf_bytes: int | None = None) -> AsyncIterator[None]:
    """A peer ``us`` that accepts links and then does as it likes."""

    async def handle(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(timeout=0.01, max_msg_size=2**25)
        await socket.prepare(request)
        await act(socket, Channel("a", SECRET), request)
        return socket

    app = web.Application()
    app.router.add_get(PATH, handle)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    listener = sockets.socket()
    listener.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEADDR, 1)
    if rcvbuf_bytes is not None:
        listener.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, rcvbuf_bytes)
    listener.bind(("127.0.0.1", port))
    await web.SockSite(runner, listener).start()
    try:
        yield
    finally:
        await accept_no_more([listener])
        await runner.cleanup()


async def welcome(socket: web.WebSocketResponse, channel: Channel) -> None:
    await socket.send_bytes(channel.encode(Kind.CHALLENGE, challenge(US)))
    hello = channel.decode(await socket.receive_bytes())
    them, _ = check_hello(US, hello.payload)
    establish(channel, SECRET, them, US)
    await socket.send_bytes(channel.encode(Kind.WELCOME, encode_json({"vector": {}})))


@contextlib.asynccontextmanager
async def dialer(
    regions: Linked, me: Identity = US, to: str = "eu", tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[Socket, Channel]]:
    """A link from ``us`` that the test speaks for."""
    scheme = "http" if tls is None else "https"
    url = f"{scheme}://127.0.0.1:{regions.ports[to]}{PATH}"
    timeout = aiohttp.ClientWSTimeout(ws_close=0.01)
    async with aiohttp.ClientSession(ws_response_class=Socket) as http:
        socket = await http.ws_connect(url, timeout=timeout, ssl=True if tls is None else tls)
        assert isinstance(socket, Socket)
        channel = Channel("d", SECRET)
        opening = channel.decode(await socket.receive_bytes()).payload
        them, hello = answer(me, opening, to, {})
        await socket.send_bytes(channel.encode(Kind.HELLO, hello))
        establish(channel, SECRET, me, them)
        try:
            yield socket, channel
        finally:
            assert socket.transport is not None
            socket.transport.abort()
            await socket.close()


async def ended(socket: aiohttp.ClientWebSocketResponse) -> None:
    """Until the region has closed the link."""
    async with asyncio.timeout(20):
        async for _ in socket:
            pass


async def turns(count: int = 200) -> None:
    """Let everything that can go on go on."""
    for _ in range(count):
        await asyncio.sleep(0)
