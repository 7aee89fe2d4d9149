"""One simulated world from one seed: regions, clients, faults; then healing; then what was seen."""

import asyncio
import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from unittest import mock

from perdure.regions import holdings, image_tables
from perdure.regions.checkpoint import Limits
from perdure.replication import gossip, shelf

from tests.regions import memory_storage
from tests.simulation import erasure_checks
from tests.simulation.clients import Surroundings
from tests.simulation.crowd import Crowd
from tests.simulation.disk import BUCKETS, Disk
from tests.simulation.door import NetworkDoor
from tests.simulation.faults import GRACE_S, Faults
from tests.simulation.history import Disturbed, History
from tests.simulation.loop import VirtualLoop
from tests.simulation.loop import run as run_loop
from tests.simulation.meeting import Meeting
from tests.simulation.network import Network
from tests.simulation.process import Addresses, Process
from tests.simulation.real import AppProcess, FileDisk
from tests.simulation.studio import Studio

# Seeds with restless clients, by their remainder of five.
RESTLESS = (3, 4)
# Seeds with people who come and go, by their remainder of sixteen: none that once failed.
MEETING = (1, 4, 6, 11, 14)
# And those in which documents are edited.
EDITING = (6, 11)
NAMES = ("eu", "us", "ap", "sa", "af")


@dataclass(frozen=True)
class Settings:
    """What is drawn before anything happens."""

    regions: int
    chaos_s: float
    sessions: int
    limits: Limits
    shelf_rows: int
    recent_bytes: int
    late: bool


def draw(random: Random) -> Settings:
    """The size and the limits of a world."""
    small_logs = random.random() < 0.35
    return Settings(
        regions=random.choice([3, 3, 3, 3, 4, 5]),
        chaos_s=random.choice([12.0, 25.0, 45.0]),
        sessions=random.choice([1, 1, 2]),
        limits=Limits(
            evict_idle_s=random.choice([1, 5, 60]),
            log_bytes_max=random.choice([300, 3_000]) if small_logs else 4_294_967_296,
            log_age_s_max=604_800,
        ),
        shelf_rows=random.choice([0, 1, 32]),
        recent_bytes=random.choice([500, 8_388_608]),
        late=random.random() < 0.15,
    )


class World:
    """Everything of one seed."""

    def __init__(self, seed: int, loop: VirtualLoop, files: Path | None = None) -> None:
        """``files``: where disks are directories, and clients use the ASGI application."""
        self.seed = seed
        self._files = files
        self.loop = loop
        self.settings = draw(Random(f"{seed}/settings"))
        self.names = list(NAMES[: self.settings.regions])
        # In some seeds only, so that those that once failed are as they were.
        whim = Random(f"{seed}/whim") if seed % 5 in RESTLESS else None
        self.network = Network(Random(f"{seed}/network"), whim)
        # On a slow disk much is written at once; logs may end by their age, as after a week.
        self._latency_s, self._limits = 0.001, self.settings.limits
        if whim is not None:
            # One region is far from another, and near to what is near to that one.
            one, other = whim.sample(self.names, 2)
            for pair in ((one, other), (other, one)):
                self.network.path(*pair).delay_s = whim.choice([0.005, 0.2, 0.5])
            self._latency_s = whim.choice([0.001, 0.03])
            age_s = whim.choice([3, self._limits.log_age_s_max])
            self._limits = dataclasses.replace(self._limits, log_age_s_max=age_s)
        self.addresses = Addresses(self.network)
        self.running: dict[str, Process] = {}
        self.offsets: dict[str, list[int]] = {name: [0] for name in self.names}
        self._starts = self._disks_made = 0
        self._all_disks: list[Disk] = []
        self.disks = {name: self.new_disk(name) for name in self.names}
        self.sessions = [f"s{n}" for n in range(self.settings.sessions)]
        self.history = History(self.names, self.sessions)
        self.trace = hashlib.sha256()
        self.traced: list[str] | None = None
        self.calm = asyncio.Event()
        around = Surroundings(
            NetworkDoor(self.network, self.addresses, self.history, self.log),
            self.history,
            self.names,
            Random(f"{seed}/clients"),
            self.calm,
        )
        self.crowd = Crowd(around, self.sessions, self.settings.chaos_s, whim)
        self.meeting: Meeting | None = None
        if seed % 16 in MEETING:
            self.meeting = Meeting(
                around, self.sessions, self.settings.chaos_s, Random(f"{seed}/meeting")
            )
        self.studio: Studio | None = None
        if seed % 16 in EDITING:
            self.studio = Studio(around, self.sessions, Random(f"{seed}/studio"))
        self.faults = Faults(self, Random(f"{seed}/faults"))

    def log(self, line: str) -> None:
        """Part of the trace: the same seed must give the same lines."""
        self.trace.update(line.encode())
        if self.traced is not None:
            self.traced.append(line)

    # Machines

    def disk_name(self, name: str) -> str:
        """A name for a new disk."""
        self._disks_made += 1
        return f"{name}/{self._disks_made}"

    def new_disk(self, name: str) -> Disk:
        """An empty disk."""
        new = self.disk_name(name)
        disk = Disk(new) if self._files is None else FileDisk(new, self._files)
        disk.latency_s = self._latency_s
        self._all_disks.append(disk)
        return disk

    def make(self, name: str, disk: Disk) -> Process:
        """A process that has not been started."""
        self._starts += 1
        kind = Process if self._files is None else AppProcess
        return kind(
            self.loop,
            self.addresses,
            name,
            disk,
            [other for other in self.names if other != name],
            Random(f"{self.seed}/{name}/{self._starts}"),
            self.offsets[name],
            self._limits,
        )

    def boot(self, name: str) -> None:
        """Start a region, if it does not run."""
        if name in self.running:
            return
        self.log(f"{self.loop.now_s:.4f} boot {name}")
        process = self.running[name] = self.make(name, self.disks[name])
        process.start()
        process.exited.add_done_callback(lambda _: self._exited(process))

    def _exited(self, process: Process) -> None:
        """It has ended by itself: who watches over it starts it again."""
        self.log(f"{self.loop.now_s:.4f} exit {process.name}")
        self.history.counts["exits"] += 1
        if self.running.get(process.name) is process:
            self.kill(process.name)
            self.loop.call_later(1.0, self.boot, process.name)

    def kill(self, name: str) -> None:
        """The process of a region dies."""
        process = self.running.pop(name, None)
        if process is not None:
            self.log(f"{self.loop.now_s:.4f} kill {name}")
            process.kill()

    def lose_disk(self, name: str, instead: Disk | None = None) -> None:
        """The disk is gone; the region gets an empty one, or an old copy."""
        self.history.lost_disks[self.disks[name].name] = self.loop.now_s
        if instead is not None:
            self.history.old_disks.add(instead.name)
            self._all_disks.append(instead)
        self.disks[name] = instead or self.new_disk(name)

    # The phases

    async def run(self) -> History:
        """Chaos, then healing, then what everybody holds in the end."""
        late = self.names[-1] if self.settings.late else None
        for name in self.names:
            if name != late:
                self.boot(name)
        self.crowd.populate()
        if self.meeting is not None:
            self.crowd.names += self.meeting.populate()
        if self.studio is not None:
            self.crowd.names += self.studio.populate()
        chaos = asyncio.create_task(self.faults.run(self.settings.chaos_s))
        if late is not None:
            until_s = self.settings.chaos_s / 2
            self.loop.call_later(until_s, self.boot, late)
            self.history.disturbed.append(Disturbed(late, 0.0, until_s + GRACE_S, "late"))
        await chaos
        self._heal()
        await self.crowd.finish(self._healed_s)
        if self.meeting is not None:
            await self.meeting.settle()
        if self.studio is not None:
            await self.studio.settle()
        await self.crowd.until_read()
        await self.crowd.look()
        if self.meeting is not None:
            await self.meeting.look()
        nodes = {name: process.node for name, process in sorted(self.running.items())}
        await erasure_checks.look(self.history, nodes, self._all_disks)
        self._tell_counts()
        return self.history

    def _heal(self) -> None:
        self.log(f"{self.loop.now_s:.4f} heal")
        self.network.heal_all()
        for name in self.names:
            self.disks[name].full = self.disks[name].failing = False
            self.boot(name)
            self.loop.resume(self.running[name])
        self.calm.set()
        self._healed_s = self.loop.now_s

    def _tell_counts(self) -> None:
        for process in self.running.values():
            for name, value in process.node.regions()["counters"].items():
                if value:
                    self.history.counts[f"node.{name}"] += value
        for seen in self.history.final.values():
            self.log(repr(sorted(seen.items())))
        self.log(repr(self.history.shown[-50:]))


@contextlib.contextmanager
def small(settings: Settings, buckets: int | None) -> Iterator[None]:
    """Windows and caches as small as the seed wants them, so that their edges are met."""
    with contextlib.ExitStack() as stack:
        for module in (holdings, image_tables, memory_storage):
            if buckets is not None:
                stack.enter_context(mock.patch.object(module, "BUCKETS", buckets))
        for module, name, value in (
            (shelf, "WINDOW_ROWS", settings.shelf_rows),
            (shelf, "REVEAL_ROWS", min(settings.shelf_rows + 1, 32)),
            (gossip, "RECENT_BYTES_MAX", settings.recent_bytes),
        ):
            stack.enter_context(mock.patch.object(module, name, value))
        yield


@dataclass
class Outcome:
    """What came of a seed."""

    seed: int
    history: History
    trace: str
    lines: list[str]
    steps: int
    virtual_s: float
    faults: list[str]


def simulate(seed: int, *, tracing: bool = False, real: bool = False) -> Outcome:
    """Run one seed; ``real``: through the ASGI application, on SQLite in files."""
    with contextlib.ExitStack() as stack:
        files = Path(stack.enter_context(TemporaryDirectory())) if real else None
        return _simulate(seed, files, tracing)


def _simulate(seed: int, files: Path | None, tracing: bool) -> Outcome:

    async def main(loop: VirtualLoop) -> Outcome:
        world = World(seed, loop, files)
        world.traced = [] if tracing else None
        with small(world.settings, buckets=None if files else BUCKETS):
            try:
                history = await world.run()
            finally:
                await world.crowd.leave()
                if world.meeting is not None:
                    await world.meeting.leave()
                if world.studio is not None:
                    await world.studio.leave()
                for process in list(world.running.values()):
                    process.kill()
                await asyncio.sleep(1)
        lines = world.traced or []
        digest = world.trace.hexdigest()
        return Outcome(seed, history, digest, lines, loop.steps, loop.now_s, world.faults.names)

    result: Outcome = run_loop(main)
    return result
