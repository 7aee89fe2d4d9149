"""A stage for a scene: regions on a virtual clock; nothing happens but what the scene says."""

import asyncio
import contextlib
import itertools
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from random import Random
from typing import Any
from unittest import mock

from perdure.regions import holdings, image_tables
from perdure.regions.checkpoint import Limits
from perdure.regions.fanout import Reader
from perdure.regions.node import Node
from perdure.replication.records import Origin, Record

from perdure_client.reducer import SessionView, apply
from tests.regions import memory_storage
from tests.simulation.disk import BUCKETS, Disk
from tests.simulation.loop import VirtualLoop, run
from tests.simulation.network import Network
from tests.simulation.process import Addresses, Process

NAMES = ("eu", "us", "ap")
LOOK_EVERY_S = 0.05


class Stage:
    """Three regions that run, and can reach each other."""

    def __init__(self, loop: VirtualLoop, limits: Limits) -> None:
        self.loop = loop
        self.limits = limits
        self.network = Network(Random("network"))
        self.addresses = Addresses(self.network)
        self.disks = {name: Disk(name) for name in NAMES}
        self.offsets: dict[str, list[int]] = {name: [0] for name in NAMES}
        self.running: dict[str, Process] = {}
        self._starts = itertools.count()

    # Machines

    def boot(self, *names: str) -> None:
        """Start these regions."""
        for name in names:
            self.running[name] = self.made(name, self.disks[name])
            self.running[name].start()

    def made(self, name: str, disk: Disk) -> Process:
        """A process that has not been started."""
        return Process(
            self.loop,
            self.addresses,
            name,
            disk,
            [other for other in NAMES if other != name],
            Random(f"{name}/{next(self._starts)}"),
            self.offsets[name],
            self.limits,
        )

    def kill(self, name: str) -> None:
        """The process dies at once."""
        self.running.pop(name).kill()

    def node(self, name: str) -> Node:
        """The running region."""
        return self.running[name].node

    async def ask(self, name: str, work: Awaitable[Any]) -> Any:
        """A request at a region, carried out by its process."""
        return await self.running[name].call(work)

    def records(self) -> Iterator[Record]:
        """Every record of an origin log that is on any disk."""
        for disk in self.disks.values():
            for _, record in disk.kept["_log"].values():
                yield record

    def bodies(self) -> dict[tuple[Origin, int], set[bytes]]:
        """What each lsn of each origin stands for, on all disks."""
        found: dict[tuple[Origin, int], set[bytes]] = defaultdict(set)
        for record in self.records():
            found[record.origin, record.lsn].add(record.body)
        return found

    # The network

    def cut(self, *ways: str, heal: bool = False) -> None:
        """Nothing arrives any more on these ways: ``eu>us``, or ``eu-us`` for both directions."""
        for way in ways:
            one, other = way.replace(">", "-").split("-")
            pairs = [(one, other)] if ">" in way else [(one, other), (other, one)]
            for pair in pairs:
                (self.network.heal if heal else self.network.cut)(*pair)

    def heal(self, *ways: str) -> None:
        """What waited on these ways arrives."""
        self.cut(*ways, heal=True)

    # What comes of it

    async def until(self, done: Callable[[], bool], within_s: float) -> float:
        """Until it is so, which must be within this time; how many seconds it took."""
        began_s = self.loop.now_s
        while not done():
            assert self.loop.now_s - began_s < within_s, f"it is not so within {within_s} s"
            await asyncio.sleep(LOOK_EVERY_S)
        return self.loop.now_s - began_s

    def views(self, session: str = "s") -> list[Any]:
        """What each running region shows of a session."""
        return [
            [(m["id"], m["text"], m["status"]) for m in process.node.snapshot(session)["messages"]]
            for process in self.running.values()
        ]

    def equal(self) -> bool:
        """Whether all regions that run hold the same, by digests of everything."""
        held = [process.node.holdings.buckets() for process in self.running.values()]
        return all(one == held[0] for one in held)

    def connected(self, name: str, peer: str) -> bool:
        """Whether the link that a region has dialled to a peer is open."""
        return self.node(name).gossip.peers[peer].connected


class Following:
    """A reader of one region, as the client library is one."""

    def __init__(self, node: Node, session: str = "s", view: SessionView | None = None) -> None:
        self.view = view or SessionView(session)
        self.names: list[str] = []
        self.reasons: list[str] = []
        self._reader: Reader = node.subscribe(session, self.view.cursor)
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while (events := await self._reader.next()) is not None:
            for event in events:
                value = json.loads(event.data)
                apply(self.view, event.name, value)
                self.view.cursor = event.cursor
                self.names.append(event.name)
                if reason := value.get("reason"):
                    self.reasons.append(f"{event.name} {reason}")

    def text(self, message: str = "m") -> str:
        """What it holds of a message."""
        held = self.view.message(message)
        return "" if held is None else held.text

    def leave(self) -> None:
        """Hang up."""
        self._task.cancel()
        self._reader.close()


def played(scene: Callable[[Stage], Awaitable[None]], limits: Limits | None = None) -> None:
    """Play a scene on its stage, to its end."""

    async def main(loop: VirtualLoop) -> None:
        stage = Stage(loop, limits or Limits())
        stage.boot(*NAMES)
        await stage.until(
            lambda: all(process.node.readiness() is None for process in stage.running.values()),
            within_s=10,
        )
        # Until it is on their disks that they are caught up.
        await asyncio.sleep(2)
        try:
            await scene(stage)
        finally:
            for process in stage.running.values():
                process.kill()
            await asyncio.sleep(1)

    with contextlib.ExitStack() as stack:
        for module in (holdings, image_tables, memory_storage):
            stack.enter_context(mock.patch.object(module, "BUCKETS", BUCKETS))
        run(main)
