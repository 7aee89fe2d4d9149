"""What goes wrong, drawn from the seed: each seed has a mix of its own (swarm testing).

A. Groce et al., "Swarm Testing", ISSTA 2012: runs that leave most kinds of faults out find more
than runs that have a little of everything.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from random import Random
from typing import TYPE_CHECKING, Any

from tests.simulation.history import Disturbed

if TYPE_CHECKING:
    from tests.simulation.world import World

HOUR_MS = 3_600_000
# After a fault is over, this long until all must be well again: links are dialled anew, with
# back-off; and a client's request may have begun while it lasted.
GRACE_S = 14.0
# A drain is over by then: a flush, and goodbyes to peers that may not listen.
DRAIN_S_MAX = 12.0


class Faults:
    """The faults of one world. Disks are lost in one region only, the fragile one."""

    def __init__(self, world: "World", random: Random) -> None:
        self._world = world
        self.random = random
        self.fragile = random.choice(world.names)
        kinds: dict[str, Callable[[], Awaitable[None]]] = {
            "crash": self.crash,
            "restart_loop": self.restart_loop,
            "wipe": self.wipe,
            "last_copy": self.last_copy,
            "backup": self.backup,
            "pause": self.pause,
            "drain": self.drain,
            "twin": self.twin,
            "split": self.split,
            "one_way": self.one_way,
            "one_link": self.one_link,
            "flapping": self.flapping,
            "slow_link": self.slow_link,
            "far": self.far,
            "spoil": self.spoil,
            "client_cut": self.client_cut,
            "client_spoil": self.client_spoil,
            "disk_full": self.disk_full,
            "disk_fails": self.disk_fails,
            "disk_slow": self.disk_slow,
            "clock_jump": self.clock_jump,
            "away": self.away,
        }
        aimed = {"crash_at_ack": self.crash_at_ack, "last_words": self.last_words}
        chosen = [name for name in kinds if random.random() < 0.3]
        self.names = chosen or [random.choice(list(kinds))]
        # Drawn apart: they came later, and what other seeds draw stays.
        aim = Random(f"{world.seed}/aimed")
        self.names += [name for name in aimed if aim.random() < 0.3]
        self._kinds = [(kinds | aimed)[name] for name in self.names]
        self._mean_s = random.choice([0.7, 2.0, 5.0])
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self, until_s: float) -> None:
        """Faults, one after another and beside each other, until it is time to heal."""
        loop = asyncio.get_running_loop()
        while True:
            pause = self.random.expovariate(1 / self._mean_s)
            if loop.time() + pause > until_s:
                break
            await asyncio.sleep(pause)
            kind = self.random.choice(self._kinds)
            self._tasks = [task for task in self._tasks if not task.done()]
            if len(self._tasks) < 4:
                self._tasks.append(asyncio.create_task(self._one(kind)))
        await asyncio.sleep(max(0.0, until_s - loop.time()))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _one(self, kind: Callable[[], Awaitable[None]]) -> None:
        self._world.log(f"fault {kind.__name__}")
        self._world.history.counts[f"fault.{kind.__name__}"] += 1
        await kind()

    def _note(self, began_s: float, what: str, *places: str) -> None:
        now = asyncio.get_running_loop().time()
        # Ways between regions are nobody's own.
        for place in places or ("links",):
            noted = Disturbed(place, began_s, now + GRACE_S, what)
            self._world.history.disturbed.append(noted)

    async def _during(self, seconds: float, what: str, *places: str) -> None:
        """It lasts; told also when the heal ends it."""
        began = asyncio.get_running_loop().time()
        try:
            await asyncio.sleep(seconds)
        finally:
            self._note(began, what, *places)

    def _region(self) -> str:
        return self.random.choice(self._world.names)

    def _pair(self) -> tuple[str, str]:
        one, other = self.random.sample(self._world.names, 2)
        return one, other

    def _seconds(self, most: float) -> float:
        return self.random.uniform(0.1, most)

    # Processes

    async def crash(self) -> None:
        name = self._region()
        self._world.kill(name)
        await self._during(self._seconds(8), "crash", name)
        self._world.boot(name)

    async def crash_at_ack(self) -> None:
        """A region dies just after it has said that something is accepted."""
        name = self._region()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._seconds(8)):
                await self._world.crowd.around.door.acknowledged(name, stable=False)
        await asyncio.sleep(self.random.choice([0, self._seconds(0.15)]))
        self._world.kill(name)
        await self._during(self._seconds(4), "crash_at_ack", name)
        self._world.boot(name)

    async def restart_loop(self) -> None:
        name = self._region()
        for _ in range(self.random.randint(3, 6)):
            self._world.kill(name)
            await self._during(self._seconds(0.3), "restart_loop", name)
            self._world.boot(name)
            await self._during(self._seconds(1), "restart_loop", name)

    async def wipe(self) -> None:
        """A region is lost with its disk; often before it has told anybody what it showed."""
        name = self.fragile
        others = [other for other in self._world.names if other != name]
        if self.random.random() < 0.6:
            pairs = [(name, other) for other in others] + [(other, name) for other in others]
            await self._cut(
                pairs[: self.random.choice([1, len(others), len(pairs)])], self._seconds(6), "wipe"
            )
        self._world.kill(name)
        self._world.lose_disk(name)
        await self._during(self._seconds(8), "wipe", name)
        self._world.boot(name)

    async def last_copy(self) -> None:
        """A region is lost with its disk when only one other can have heard of its last words, and
        that one's disk is slow or full, and it crashes too."""
        await self._lose_two("last_copy", told=False)

    async def last_words(self) -> None:
        """The same, just after the region has said that something is stable."""
        await self._lose_two("last_words", told=True)

    async def _lose_two(self, what: str, *, told: bool) -> None:
        name = self.fragile
        others = [other for other in self._world.names if other != name]
        hearer = self.random.choice(others)
        disk = self._world.disks[hearer]
        kind = self.random.choice(["slow", "full", "well"])
        disk.full, disk.latency_s = kind == "full", 0.3 if kind == "slow" else 0.001
        began = asyncio.get_running_loop().time()
        pairs = [(name, other) for other in others if other != hearer]
        cut = self._cut(pairs, self._seconds(8 if told else 4), what)
        try:
            await (self._until_stable(name, cut) if told else cut)
        finally:
            disk.full, disk.latency_s = False, 0.001
            self._note(began, what, name, hearer)
        self._world.kill(hearer)
        self._world.kill(name)
        self._world.lose_disk(name)
        await self._during(self._seconds(3), what, name, hearer)
        self._world.boot(hearer)
        self._world.boot(name)

    async def _until_stable(self, name: str, cut: Coroutine[Any, Any, None]) -> None:
        """While it is cut off, until a writer is told that something is stable."""
        cutting = asyncio.create_task(cut)
        told = asyncio.create_task(self._world.crowd.around.door.acknowledged(name, stable=True))
        try:
            await asyncio.sleep(0.2)
            await asyncio.wait((cutting, told), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (cutting, told):
                task.cancel()
            await asyncio.gather(cutting, told, return_exceptions=True)

    async def backup(self) -> None:
        name = self.fragile
        kept = self._world.disks[name].copy(self._world.disk_name(name))
        await asyncio.sleep(self._seconds(10))
        self._world.kill(name)
        self._world.lose_disk(name, kept)
        await self._during(self._seconds(3), "backup", name)
        self._world.boot(name)

    async def pause(self) -> None:
        name = self._region()
        process = self._world.running.get(name)
        if process is None or process.paused:
            return
        process.paused = True
        try:
            await self._during(self._seconds(self.random.choice([2, 15])), "pause", name)
        finally:
            self._world.loop.resume(process)

    async def drain(self) -> None:
        name = self._region()
        process = self._world.running.get(name)
        if process is None or process.paused:
            return
        began = asyncio.get_running_loop().time()
        stopping = asyncio.ensure_future(process.stop())
        try:
            await asyncio.wait([stopping], timeout=DRAIN_S_MAX)
            late = not stopping.done() and not process.paused and not process.disk.failing
            self._world.history.counts["drains_late" if late else "drains"] += 1
        finally:
            stopping.cancel()
            self._note(began, "drain", name)
            self._world.kill(name)
        await self._during(self._seconds(3), "drain", name)
        self._world.boot(name)

    async def twin(self) -> None:
        """Two nodes with one name: the second has a disk of its own, and peers by name."""
        name = self.fragile
        if name not in self._world.running:
            return
        twin = self._world.make(name, self._world.new_disk(name))
        twin.start(listening=False)
        try:
            await self._during(self._seconds(20), "twin", name)
        finally:
            twin.kill()

    # The network between regions

    async def _cut(self, pairs: list[tuple[str, str]], seconds: float, what: str) -> None:
        network = self._world.network
        for start, end in pairs:
            network.cut(start, end)
        try:
            await self._during(seconds, what)
        finally:
            for start, end in pairs:
                network.heal(start, end)

    async def split(self) -> None:
        names = list(self._world.names)
        self.random.shuffle(names)
        at = self.random.randint(1, len(names) - 1)
        pairs = [(a, b) for a in names[:at] for b in names[at:]]
        pairs += [(b, a) for a, b in pairs]
        await self._cut(pairs, self._seconds(20), "split")

    async def one_way(self) -> None:
        await self._cut([self._pair()], self._seconds(20), "one_way")

    async def one_link(self) -> None:
        one, other = self._pair()
        await self._cut([(one, other), (other, one)], self._seconds(20), "one_link")

    async def flapping(self) -> None:
        one, other = self._pair()
        for _ in range(10):
            await self._cut([(one, other), (other, one)], 0.5, "flapping")
            await asyncio.sleep(0.5)

    async def away(self) -> None:
        """Longer than the logs reach, where their caps are small."""
        name = self._region()
        others = [other for other in self._world.names if other != name]
        pairs = [(name, other) for other in others] + [(other, name) for other in others]
        await self._cut(pairs, self._seconds(45), "away")

    async def slow_link(self) -> None:
        path = self._world.network.path(*self._pair())
        path.bytes_per_s = self.random.choice([1_000.0, 5_000.0, 50_000.0])
        try:
            await self._during(self._seconds(15), "slow_link")
        finally:
            path.bytes_per_s = 0.0

    async def far(self) -> None:
        path = self._world.network.path(*self._pair())
        path.far_s = self.random.choice([(0.3, 0.3), (1.0, 2.0)])
        try:
            await self._during(self._seconds(15), "far")
        finally:
            path.far_s = None

    async def spoil(self) -> None:
        path = self._world.network.path(*self._pair())
        path.spoil = self.random.choice([0.01, 0.1])
        try:
            await self._during(self._seconds(10), "spoil")
        finally:
            path.spoil = 0.0

    # Clients

    async def client_cut(self) -> None:
        name, client = self._region(), self.random.choice(self._world.crowd.names)
        began = asyncio.get_running_loop().time()
        try:
            pairs = [(client, name), (name, client)]
            if self.random.random() < 0.3:
                pairs.pop(self.random.randrange(2))
            await self._cut(pairs, self._seconds(12), "client_cut")
        finally:
            self._note(began, "client_cut", f"{client}>{name}")

    async def client_spoil(self) -> None:
        name, client = self._region(), self.random.choice(self._world.crowd.names)
        paths = [self._world.network.path(client, name), self._world.network.path(name, client)]
        began = asyncio.get_running_loop().time()
        for path in paths:
            path.spoil = 0.2
        try:
            await asyncio.sleep(self._seconds(15))
        finally:
            for path in paths:
                path.spoil = 0.0
            self._note(began, "client_spoil", f"{client}>{name}")

    # Disks and clocks

    async def disk_full(self) -> None:
        name = self._region()
        disk = self._world.disks[name]
        disk.full = True
        try:
            await self._during(self._seconds(8), "disk_full", name)
        finally:
            disk.full = False

    async def disk_fails(self) -> None:
        name = self._region()
        disk = self._world.disks[name]
        disk.failing = True
        try:
            await self._during(self._seconds(4), "disk_fails", name)
        finally:
            disk.failing = False

    async def disk_slow(self) -> None:
        name = self._region()
        disk = self._world.disks[name]
        disk.latency_s = self.random.choice([0.02, 0.2])
        try:
            await self._during(self._seconds(10), "disk_slow", name)
        finally:
            disk.latency_s = 0.001

    async def clock_jump(self) -> None:
        offset = self._world.offsets[self._region()]
        kind = self.random.random()
        if kind < 0.5:
            offset[0] += self.random.randint(-5_000, 5_000)
        else:
            offset[0] += self.random.choice([-HOUR_MS, HOUR_MS])
