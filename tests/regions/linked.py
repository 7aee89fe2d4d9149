"""Real regions on real sockets, linked for real, without processes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

from perdure.regions.clock import SystemClock, SystemEntropy
from perdure.regions.cluster import free_ports
from perdure.regions.config import Config
from perdure.regions.node import Node
from perdure.regions.serving import build_node
from perdure.regions.transport import PeerLinks

SECRET = b"s" * 32
DEADLINE_S = 20


class ShiftedClock(SystemClock):
    """The system's clock, moved on by the test."""

    shift_ms = 0

    def monotonic_ms(self) -> int:
        return super().monotonic_ms() + self.shift_ms


class LoopTime:
    """The running loop's own time, moved on by the test: what waits for time to pass is over."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._time = loop.time
        self.shift_s = 0.0
        loop.time = self.time  # type: ignore[method-assign]

    def time(self) -> float:
        return self._time() + self.shift_s

    async def until_done(self, task: asyncio.Task[None]) -> float:
        """Let time pass, quickly, until the task is done; how many seconds it took."""
        began_s = self.shift_s
        while not task.done():
            assert self.shift_s - began_s < DEADLINE_S, "it is never done"
            await asyncio.sleep(0)
            self.shift_s += 0.001
        await task
        return self.shift_s - began_s


class QuickEntropy(SystemEntropy):
    """No jitter: a link that failed is dialled again at once."""

    def uniform(self) -> float:
        return 0.0


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

    async def start(self, name: str, *, secret: bytes = SECRET, directory: str = "") -> Node:
        config = Config(
            region=name,
            data=self.path / (directory or name),
            port=0,
            peer_port=self.ports[name],
            peers={other: f"http://127.0.0.1:{self.ports[other]}" for other in self.links[name]},
            peer_secret=secret,
        )
        node, links = build_node(config, self.clock, QuickEntropy())
        await links.start()
        node.start(links)
        self.nodes[name], self.peers[name] = node, links
        return node

    async def stop(self, name: str) -> None:
        node, links = self.nodes.pop(name), self.peers.pop(name)
        await links.stop()
        await node.stop()

    def counters(self, name: str) -> Mapping[str, int]:
        return self.peers[name].counters

    def state(self, name: str, peer: str) -> str:
        found = {p["region"]: p["state"] for p in self.nodes[name].regions()["peers"]}
        return str(found[peer])

    async def until(self, done: Callable[[], bool]) -> None:
        """Until it is so; the sockets have to do their part."""
        async with asyncio.timeout(DEADLINE_S):
            while not done():
                await asyncio.sleep(0)

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
