"""What goes wrong in a round: always a kill in the middle of what is written, and what is drawn."""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

from tests.chaos.proxy import Way
from tests.chaos.regions import NAMES, Regions
from tests.simulation.history import Disturbed, History

# After a fault, until all must be well: a start, links dialled anew, requests that began in it.
GRACE_S = 14.0


class Faults:
    """The faults of one round."""

    def __init__(self, regions: Regions, history: History, random: Random) -> None:
        self._regions = regions
        self._history = history
        self._random = random
        kinds: dict[str, Callable[[], Awaitable[None]]] = {
            "wipe": self.wipe,
            "restart": self.restart,
            "restart_loop": self.restart_loop,
            "pause": self.pause,
            "cut": self.cut,
            "isolate": self.isolate,
            "one_way": self.one_way,
            "hole": self.hole,
            "slow": self.slow,
            "flapping": self.flapping,
        }
        if regions.namespaces is not None:
            # There are no proxies that could be slow.
            del kinds["slow"]
        if regions.small.mounted:
            kinds["disk_full"] = self.disk_full
        self.names = random.sample(list(kinds), random.choice([0, 1, 1, 2, 3]))
        self._chosen = [kinds[name] for name in self.names]

    async def run(self, chaos_s: float) -> None:
        """Everything that was chosen, each at a moment of its own, until it is time to heal."""
        moments = [(self._random.uniform(0, 0.7 * chaos_s), kind) for kind in self._chosen]
        moments.append((self._random.uniform(0.3, 0.5 * chaos_s), self.kill))
        tasks = [asyncio.create_task(self._at(moment, kind)) for moment, kind in moments]
        _, late = await asyncio.wait(tasks, timeout=chaos_s)
        for task in late:
            task.cancel()
        for task in tasks:
            try:
                await task
            except asyncio.CancelledError:
                continue

    async def _at(self, moment_s: float, kind: Callable[[], Awaitable[None]]) -> None:
        await asyncio.sleep(moment_s)
        self._history.counts[f"fault.{kind.__name__}"] += 1
        await kind()

    async def _during(
        self, seconds: float, what: str, *names: str, began: float | None = None
    ) -> None:
        """``began``: where it has begun already."""
        began = self._now() if began is None else began
        try:
            await asyncio.sleep(seconds)
        finally:
            ended = self._now() + GRACE_S
            noted = (Disturbed(name, began, ended, what) for name in names or ("links",))
            self._history.disturbed.extend(noted)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    def _region(self) -> str:
        return self._random.choice(NAMES)

    def _seconds(self, most: float) -> float:
        return self._random.uniform(0.1, most)

    # Processes and disks

    async def kill(self) -> None:
        """SIGKILL; the disk is kept."""
        name, began = self._region(), self._now()
        await self._regions.kill(name)
        await self._during(self._seconds(4), "kill", name, began=began)
        await self._regions.start(name)

    async def restart_loop(self) -> None:
        """Killed while it starts, again and again."""
        name = self._region()
        for _ in range(self._random.randint(2, 4)):
            began = self._now()
            await self._regions.kill(name)
            await self._regions.start(name)
            await self._during(self._seconds(1.5), "restart_loop", name, began=began)

    async def restart(self) -> None:
        """SIGTERM, as a deploy does."""
        name = self._region()
        self._regions.resume(name)
        stopping = asyncio.create_task(self._regions.stop(name))
        await self._during(self._seconds(1), "restart", name)
        await stopping
        await self._regions.start(name)

    async def wipe(self) -> None:
        """The region is lost with its disk; an empty one takes its place."""
        name, began = self._region(), self._now()
        lost = await self._regions.wipe(name)
        self._history.lost_disks[lost] = self._now()
        await self._during(self._seconds(3), "wipe", name, began=began)
        await self._regions.start(name)

    async def pause(self) -> None:
        """SIGSTOP and SIGCONT."""
        name = self._region()
        self._regions.pause(name)
        try:
            await self._during(self._seconds(6), "pause", name)
        finally:
            self._regions.resume(name)

    async def disk_full(self) -> None:
        """No room on the small file system, for a while."""
        self._regions.small.fill()
        try:
            await self._during(self._seconds(4), "disk_full", "us")
        finally:
            self._regions.small.free()

    # Links

    async def _ways(self, way: Way, seconds: float, pairs: list[tuple[str, str]]) -> None:
        proxies = [self._regions.all[start].dials[end] for start, end in pairs]
        for proxy in proxies:
            proxy.set(way)
        try:
            await self._during(seconds, way.value)
        finally:
            for proxy in proxies:
                proxy.set(Way.OPEN)

    def _pair(self) -> tuple[str, str]:
        one, other = self._random.sample(NAMES, 2)
        return one, other

    async def cut(self) -> None:
        """Two regions do not reach each other."""
        one, other = self._pair()
        await self._ways(Way.CUT, self._seconds(6), [(one, other), (other, one)])

    async def isolate(self) -> None:
        """A region reaches no other, and clients reach it."""
        name = self._region()
        others = [other for other in NAMES if other != name]
        pairs = [(name, other) for other in others] + [(other, name) for other in others]
        await self._ways(Way.CUT, self._seconds(6), pairs)

    async def one_way(self) -> None:
        """One dials in vain."""
        await self._ways(Way.CUT, self._seconds(6), [self._pair()])

    async def hole(self) -> None:
        """Connections stay, and nothing passes."""
        one, other = self._pair()
        pairs = [(one, other), (other, one)][: self._random.choice([1, 2])]
        await self._ways(Way.HOLE, self._seconds(6), pairs)

    async def slow(self) -> None:
        """A few bytes a second."""
        one, other = self._pair()
        await self._ways(Way.SLOW, self._seconds(6), [(one, other), (other, one)])

    async def flapping(self) -> None:
        """A link that comes and goes."""
        pair = self._pair()
        for _ in range(8):
            await self._ways(Way.CUT, 0.3, [pair])
            await asyncio.sleep(self._seconds(0.6))
