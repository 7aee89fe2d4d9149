"""One simulated world from one seed: regions, clients, faults; then healing; then what was seen."""

import asyncio
import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

from perdure.regions import holdings, image_tables
from perdure.regions.checkpoint import Limits
from perdure.replication import gossip, shelf

from tests.regions import memory_storage
from tests.simulation.clients import (
    Broken,
    Chatter,
    Client,
    Meddler,
    Producer,
    Reader,
    Surroundings,
)
from tests.simulation.disk import BUCKETS, Disk
from tests.simulation.door import Door, Unavailable
from tests.simulation.faults import GRACE_S, Faults
from tests.simulation.history import Disturbed, History, Seen, Writer
from tests.simulation.loop import VirtualLoop
from tests.simulation.loop import run as run_loop
from tests.simulation.network import Network
from tests.simulation.process import Addresses, Process
from tests.simulation.real import AppProcess, FileDisk

NAMES = ("eu", "us", "ap", "sa", "af")
# After the heal: until all regions are equal, and until all readers are.
CONVERGE_S_MAX = 60.0
# A hold lasts 30 s, and a region that was away compares before it can serve what it lacks.
READERS_S_MAX = 45.0
FINISH_S_MAX = 90.0


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
        self.network = Network(Random(f"{seed}/network"))
        self.addresses = Addresses(self.network)
        self.running: dict[str, Process] = {}
        self.offsets: dict[str, list[int]] = {name: [0] for name in self.names}
        self._starts = self._disks_made = 0
        self.disks = {name: self.new_disk(name) for name in self.names}
        self.sessions = [f"s{n}" for n in range(self.settings.sessions)]
        self.history = History(self.names, self.sessions)
        self.trace = hashlib.sha256()
        self.traced: list[str] | None = None
        self.calm = asyncio.Event()
        self.random = Random(f"{seed}/clients")
        self.around = Surroundings(
            Door(self.network, self.addresses, self.history, self.log),
            self.history,
            self.names,
            self.random,
            self.calm,
        )
        self.clients: list[str] = []
        self.faults = Faults(self, Random(f"{seed}/faults"))
        self._client_tasks: list[asyncio.Task[None]] = []
        self._producers: list[Producer] = []
        self._readers: list[Reader] = []

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
        return Disk(new) if self._files is None else FileDisk(new, self._files)

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
            self.settings.limits,
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
        self.disks[name] = instead or self.new_disk(name)

    # People and agents

    def _populate(self) -> None:
        for session in self.sessions:
            for number in range(self.random.randint(1, 3)):
                self._add_message(session, f"{session}-m{number}")
            texts = [(f"{session}-c{n}", f"chat {n} of {session};") for n in range(4)]
            # In one session at least somebody speaks, whatever becomes of the agents.
            if session == "s0" or self.random.random() < 0.5:
                self._start(Chatter(self.around, f"{session}-chatter", session, texts))
            for number in range(self.random.randint(1, 2)):
                self._add_reader(session, number)

    def _add_message(self, session: str, message: str) -> None:
        random = self.random
        count = random.choice([3, 12, 30])
        pace_s = random.choice([0.05, 0.3, 1.0])
        taken_over = random.random() < 0.4
        crash_after = random.randint(0, count) if taken_over and random.random() < 0.6 else None
        first = self._writer(message, 0, count, "open")
        kind = Broken if random.random() < 0.04 else Producer
        self._produce(session, first, pace_s, crash_after, kind)
        if random.random() < 0.05:
            self._produce(session, self._writer(message, 1, count, "open"), pace_s, None)
        if taken_over:
            for number in range(random.choice([1, 1, 2])):
                mode = random.choice(["continue", "continue", "restart"])
                writer = self._writer(message, 2 + number, random.choice([2, 10]), mode)
                self._later(random.uniform(0.5, self.settings.chaos_s), session, writer, pace_s)
        for what, chance in (("cancel", 0.2), ("delete", 0.12)):
            if random.random() < chance:
                at_s = random.uniform(0.5, self.settings.chaos_s)
                name = f"{message}-{what}"
                self._start(Meddler(self.around, name, session, what, message, at_s))

    @staticmethod
    def _writer(message: str, number: int, count: int, mode: str) -> Writer:
        name = f"{message}-w{number}"
        tokens = [f"{name}.{seq};" for seq in range(count)]
        broken = [f"{name}.{seq}!;" for seq in range(count)]
        return Writer(name, message, tokens, mode == "open", mode, broken=broken)

    def _produce(
        self,
        session: str,
        writer: Writer,
        pace_s: float,
        crash_after: int | None,
        kind: type[Producer] = Producer,
    ) -> None:
        producer = kind(self.around, writer.name, session, writer, pace_s, crash_after)
        if kind is Broken:
            self.history.counts[f"broken.{writer.message}"] += 1
        self._producers.append(producer)
        self._start(producer)

    def _later(self, after_s: float, session: str, writer: Writer, pace_s: float) -> None:
        async def begin() -> None:
            await asyncio.sleep(after_s)
            producer = Producer(self.around, writer.name, session, writer, pace_s)
            await producer.run()

        self.clients.append(writer.name)
        self._client_tasks.append(asyncio.create_task(begin()))

    def _add_reader(self, session: str, number: int) -> None:
        reader = Reader(
            self.around,
            f"{session}-r{number}",
            session,
            hop_s=self.random.choice([0.5, 3, 15]),
            stall=self.random.choice([0.0, 0.0, 0.02]),
        )
        self._readers.append(reader)
        reader.task = self._start(reader)

    def _start(self, client: Any) -> asyncio.Task[None]:
        self.clients.append(client.name)
        task = asyncio.create_task(client.run())
        self._client_tasks.append(task)
        return task

    # The phases

    async def run(self) -> History:
        """Chaos, then healing, then what everybody holds in the end."""
        late = self.names[-1] if self.settings.late else None
        for name in self.names:
            if name != late:
                self.boot(name)
        self._populate()
        chaos = asyncio.create_task(self.faults.run(self.settings.chaos_s))
        if late is not None:
            until_s = self.settings.chaos_s / 2
            self.loop.call_later(until_s, self.boot, late)
            self.history.disturbed.append(Disturbed(late, 0.0, until_s + GRACE_S, "late"))
        await chaos
        self._heal()
        await self._until_equal()
        await self._until_read()
        await self._look()
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

    async def _until_equal(self) -> None:
        """All that live producers still have to say is said, and all regions show the same."""
        writing = [task for task in self._client_tasks if task not in self._reading]
        done, waiting = await asyncio.wait(writing, timeout=FINISH_S_MAX)
        for task in done:
            task.result()
        self.history.counts["unfinished"] += len(waiting)
        for task in waiting:
            task.cancel()
        began = self.loop.now_s
        while self.loop.now_s - began < CONVERGE_S_MAX:
            if await self._equal() and await self._verified():
                self.history.equal_after_s = self.loop.now_s - self._healed_s
                return
            await asyncio.sleep(0.5)

    @property
    def _reading(self) -> list[asyncio.Task[None] | None]:
        return [reader.task for reader in self._readers]

    async def _equal(self) -> bool:
        views = [await self._view(name) for name in self.names]
        return views[0] is not None and all(view == views[0] for view in views)

    async def _verified(self) -> bool:
        """Whether every region says, by digests of everything, that all hold the same."""
        client = Client(self.around, "observer", "")
        for client.region in self.names:
            try:
                self.history.verified, _ = await client.call("verify")
            except Unavailable:
                return False
            if not self.history.verified["equal"]:
                return False
        return True

    async def _view(self, region: str) -> dict[str, Seen] | None:
        """What a region shows of all sessions; None when it does not answer."""
        client = Client(self.around, "observer", "")
        client.region = region
        found: dict[str, Seen] = {}
        try:
            page, _ = await client.call("sessions", None, 100)
            for session in page["sessions"]:
                listed, _ = await client.call("messages", session["id"], None, 1000)
                found |= {m["id"]: as_seen(m) for m in listed["messages"]}
        except Unavailable:
            return None
        return found

    async def _until_read(self) -> None:
        """Readers hold what the regions hold, once no hold can last any more."""
        began = self.loop.now_s
        final = await self._view(self.names[0]) or {}
        while self.loop.now_s - began < READERS_S_MAX:
            if all(self._held(reader) == self._of(reader, final) for reader in self._readers):
                return
            await asyncio.sleep(1)

    @staticmethod
    def _held(reader: Reader) -> dict[str, Seen]:
        return {m.id: Seen(m.text, m.status, m.length) for m in reader.view.messages}

    @staticmethod
    def _of(reader: Reader, final: dict[str, Seen]) -> dict[str, Seen]:
        return {id_: seen for id_, seen in final.items() if id_.startswith(reader.session + "-")}

    async def _look(self) -> None:
        for task in self._reading:
            if task is not None and task.done():
                task.result()
        for name in self.names:
            self.history.final[name] = await self._view(name) or {}
        for reader in self._readers:
            self.history.final_readers[reader.name] = self._held(reader)
        self._tell_counts()

    def _tell_counts(self) -> None:
        for process in self.running.values():
            for name, value in process.node.regions()["counters"].items():
                if value:
                    self.history.counts[f"node.{name}"] += value
        for seen in self.history.final.values():
            self.log(repr(sorted(seen.items())))
        self.log(repr(self.history.shown[-50:]))


def as_seen(message: dict[str, Any]) -> Seen:
    """A message of a region's answer."""
    return Seen(message["text"], message["status"], message["length"])


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
                for task in world._client_tasks:
                    task.cancel()
                await asyncio.gather(*world._client_tasks, return_exceptions=True)
                for process in list(world.running.values()):
                    process.kill()
                await asyncio.sleep(1)
        lines = world.traced or []
        digest = world.trace.hexdigest()
        return Outcome(seed, history, digest, lines, loop.steps, loop.now_s, world.faults.names)

    result: Outcome = run_loop(main)
    return result
