"""One round: a region lives several times on a disk. Each life ends by a power cut, by the death of
its process, or in order; what it shows when it starts again is compared with what it had said.

The node and its storage are what ships: recovery, writer, checkpoints, eviction, truncation, scrub,
repair. Time is virtual. In most rounds what the storage's threads would do is done at once, so that
the same seed is the same round; in every tenth it has its threads. A second region, which never
fails, takes and gives records and whole sessions.
"""

import asyncio
import math
import shutil
import tempfile
import traceback
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from perdure.regions.checkpoint import Limits
from perdure.regions.cipher import Cipher
from perdure.regions.links import Digests
from perdure.regions.node import Node
from perdure.regions.ports import StorageError
from perdure.regions.storage import SqliteStorage
from perdure.replication.errors import Refusal
from perdure.replication.gossip import ReadLog

from tests.powercut.clients import Client, habits
from tests.powercut.disk import PowerDisk
from tests.powercut.hooks import powered
from tests.powercut.ledger import Ledger
from tests.powercut.mutants import MUTANTS
from tests.powercut.threads import ThreadedLoop
from tests.regions.memory_storage import MemoryStorage
from tests.simulation.loop import VirtualLoop, run
from tests.simulation.process import SimClock, SimEntropy

# Where files cost least; everything that matters of a disk is in the layer.
_MEMORY = Path("/dev/shm")
CALLS_MAX = 2_000
# Within so many calls a new database is made, and any is opened.
OPENING_CALLS = 60
# What is rare among the calls, and how many of it a life may have: the database itself is written
# when the WAL has grown, and when all is closed.
RARE = {
    "write perdure.sqlite": 300,
    "sync perdure.sqlite": 4,
    "truncation perdure.sqlite": 1,
    "unlink": 2,
}
# Every so many-th round runs on the storage's own threads.
THREADS_EVERY = 10
# And has a disk that is encrypted.
ENCRYPTED_EVERY = 4
# What is left to tell at the end takes fewer batches.
PUSHES_MAX = 2_000
# How lives end, and how often.
ENDS = {"power": 12, "kill": 2, "stop": 3, "stop, power": 3}


@dataclass
class Outcome:
    """What came of one round. ``lives``: how each ended; ``trace``: a digest of all that reached
    the disk."""

    seed: int
    breaches: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    lives: list[str] = field(default_factory=list)
    trace: int = 0


class DirectLinks:
    """What a region asks of its links, answered by the other region at once."""

    counters: Mapping[str, int] = {}

    def __init__(self, peer: Node) -> None:
        self._peer = peer

    def wake(self) -> None:
        """The exchange looks by itself."""

    def untried(self) -> set[str]:
        return set()

    def refused(self) -> str | None:
        return None

    def part(self, name: str) -> None: ...

    def wire(self, peer: str) -> int | None:
        return None

    async def flush(self, timeout_s: float) -> bool:
        return True

    async def ask_digests(
        self, peer: str, session: str | None, buckets: Sequence[int] | None
    ) -> Digests:
        return Digests(*self._peer.digests(session, buckets))

    def pull(self, peer: str, sessions: Sequence[str]) -> AsyncIterator[bytes]:
        return self._peer.tell(sessions)


class Round:
    """Everything of one seed."""

    def __init__(self, seed: int, root: Path, loop: VirtualLoop) -> None:
        self.seed = seed
        self.random = Random(f"power cut {seed}")
        self.root = root
        self.outcome = Outcome(seed)
        self.ledger = Ledger()
        self.clock = SimClock(loop, 0.0, [0])
        self.entropy = SimEntropy(Random(f"names {seed}"))
        # Of its own: what it draws must not change the rest of the round.
        keys, names = (b"k" * 32,), SimEntropy(Random(f"storage {seed}"))
        self.cipher = Cipher(keys, names) if seed % ENCRYPTED_EVERY == 1 else None
        self.limits = Limits(evict_idle_s=self.random.randint(1, 5))
        # The folders above the data directory are new as well, or some of them.
        self.place = Path(*["a", "b", "eu"][self.random.randrange(3) :])
        self.habits = habits(self.random)
        self.absorbs = self.random.random() < 0.3
        names = [f"eu{number}" for number in range(self.random.randint(1, 4))]
        self.clients = [self._client(name) for name in names]
        self.others = [self._client("us0")] if self.random.random() < 0.6 else []
        self.other = self._node("us", MemoryStorage(), "eu")
        self._disks = 0

    def _client(self, name: str) -> Client:
        return Client(name, self.ledger, self.random, self.habits)

    def _node(self, name: str, storage: Any, peer: str) -> Node:
        return Node(
            name,
            storage,
            self.clock,
            self.entropy,
            secret=b"s" * 32,
            peers=[peer],
            bootstrap=True,
            limits=self.limits,
        )

    async def play(self) -> Outcome:
        """All lives, then a last one in which everybody finishes."""
        self.other.recover()
        self.other.start(None)
        disk = PowerDisk(self.root / "0", self.random)
        try:
            for _ in range(self.random.randint(1, 4)):
                disk = await self._live(disk)
            await self._finish(disk)
        except Breach as breach:
            self.outcome.breaches.append(str(breach))
        self.outcome.counts["acknowledged"] = self.ledger.acked.total()
        self.outcome.counts.update({f"ack.{what}": n for what, n in self.ledger.acked.items()})
        return self.outcome

    # One life

    async def _live(self, disk: PowerDisk) -> PowerDisk:
        end = self.random.choices(list(ENDS), list(ENDS.values()))[0]
        disk.arm(*self._cut_at(never=end.startswith("stop")), kills=end == "kill")
        seconds = self._between(0.1, 20)
        with self._noting(disk, end), powered(disk):
            storage = SqliteStorage(disk.root / self.place, self.cipher)
            try:
                node = self._recovered(storage, disk)
                if node is not None:
                    await self._work(node, storage, disk, seconds)
                    if end.startswith("stop"):
                        await node.stop()
                    if not disk.dead and not is_threaded(self.seed) and (unseen := disk.unseen()):
                        raise Breach(f"the layer did not see what was written: {unseen}")
                    if end != "stop":
                        disk.cut()
                    await _end(node)
            finally:
                storage.close()
        return self._next(disk)

    def _cut_at(self, *, never: bool) -> tuple[int | None, str]:
        """Which call is the last, of which kind."""
        if never and self.random.random() < 0.3:
            return None, ""
        roll = self.random.random()
        if roll < 0.2:
            return self.random.randint(1, OPENING_CALLS), ""
        if roll < 0.4:
            what, most = self.random.choice(list(RARE.items()))
            return self.random.randint(1, most), what
        return round(self._between(OPENING_CALLS, CALLS_MAX)), ""

    def _between(self, least: float, most: float) -> float:
        """A number, small as often as large."""
        return math.exp(self.random.uniform(math.log(least), math.log(most)))

    def _next(self, disk: PowerDisk) -> PowerDisk:
        if not disk.dead:
            return disk
        self._disks += 1
        root = self.root / str(self._disks)
        found = disk.after_kill(root) if disk.kills else disk.after_cut(root)
        shutil.rmtree(disk.root)
        self.outcome.counts[f"found.{found.fate}"] += 1
        return found

    @contextmanager
    def _noting(self, disk: PowerDisk, end: str) -> Iterator[None]:
        written_back = disk.kinds["sync perdure.sqlite"]
        try:
            yield
        finally:
            counts = self.outcome.counts
            counts["calls"] += disk.calls
            counts["WAL written back"] += disk.kinds["sync perdure.sqlite"] - written_back
            how = f"{end} at call {disk.calls} ({disk.last})" if disk.dead else "stop"
            self.outcome.lives.append(f"{how}, began on {disk.fate or 'nothing'}")
            self.outcome.trace = zlib.crc32(disk.trace.to_bytes(4, "big"), self.outcome.trace)
            counts[f"end.{end if disk.dead else 'stop'}"] += 1
            if disk.dead:
                counts[f"at.{disk.last}"] += 1

    def _recovered(self, storage: SqliteStorage, disk: PowerDisk) -> Node | None:
        """A node that has recovered; None when the power went while it did."""
        node = self._node("eu", storage, "us")
        try:
            node.recover()
        except StorageError as error:
            if disk.dead:
                self.outcome.counts["cut in recovery"] += 1
                return None
            raise Breach(f"it does not open ({disk.fate}): {error}") from error
        if node.origin.incarnation in self.ledger.incarnations:
            raise Breach("an incarnation comes twice")
        self.ledger.incarnations.add(node.origin.incarnation)
        return node

    async def _work(
        self, node: Node, storage: SqliteStorage, disk: PowerDisk, seconds: float
    ) -> None:
        """The region is looked at, and then serves its clients until the power goes."""
        await self._check(node, storage, disk)
        dead = asyncio.Event()
        loop = asyncio.get_running_loop()
        # The power may go on another thread.
        disk.on_cut = lambda: loop.call_soon_threadsafe(dead.set) and None
        if disk.dead:
            return
        self._link(node)
        for client in self.clients:
            client.reach(node, lambda: not disk.dead)
        for client in self.others:
            client.reach(self.other, lambda: True)
        work = [client.run() for client in (*self.clients, *self.others)]
        work += [self._exchange(node, storage, disk), self._watch(node, disk)]
        tasks = [asyncio.create_task(coroutine) for coroutine in work]
        ended = [*tasks, asyncio.create_task(dead.wait())]
        await asyncio.wait(ended, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            task.cancel()
        results = await asyncio.gather(*ended, return_exceptions=True)
        for result in results:
            expected = disk.dead and isinstance(result, StorageError | Refusal)
            if isinstance(result, Exception) and not expected:
                raise Breach(_told(result))
        self._count(node)

    def _count(self, node: Node) -> None:
        counters = node.regions()["counters"]
        for name in ("evictions", "loads", "checkpointed", "truncated", "repaired", "duplicates"):
            self.outcome.counts[name] += counters[name]

    def _link(self, node: Node) -> None:
        now_ms = self.clock.monotonic_ms()
        for one, peer in ((node, self.other), (self.other, node)):
            one.gossip.connected(peer.region, peer.origin, peer.gossip.vector, now_ms)
        node.start(DirectLinks(self.other))
        node.linked("us")

    # What goes on beside the clients

    async def _exchange(self, node: Node, storage: SqliteStorage, disk: PowerDisk) -> None:
        """The two regions tell each other what is new, as their links would."""
        pause_s = self._between(0.01, 1)
        while True:
            await asyncio.sleep(pause_s * self.random.uniform(0.5, 1.5))
            await self._push(node, storage, self.other, disk)
            if self.absorbs and self.random.random() < 0.1:
                # As if the log of the other no longer reached back to what is lacking here.
                node.gossip.heard("us", self.other.gossip.vector, True, self.clock.monotonic_ms())
                node.below("us")
            else:
                await self._push(self.other, self.other._storage, node, disk)

    async def _push(self, one: Node, storage: Any, to: Node, disk: PowerDisk) -> None:
        step = one.gossip.next_batch(to.region, self.clock.monotonic_ms())
        if isinstance(step, ReadLog):
            records = await storage.read(step.origin, step.after_lsn, step.bytes_max)
        else:
            records = [] if step is None else list(step.records)
        if disk.dead:
            return
        if to is self.other:
            self.ledger.gave(records)
        one.gossip.sent(to.region, records)
        if records:
            await to.receive(records)
        if disk.dead:
            return
        if one is self.other:
            self.ledger.reported = dict(to.gossip.vector)
        one.gossip.heard(to.region, to.gossip.vector, True, self.clock.monotonic_ms())
        one.peers_changed()

    async def _watch(self, node: Node, disk: PowerDisk) -> None:
        """Somebody reads: what they are shown is not to be taken back."""
        while True:
            await asyncio.sleep(self.random.uniform(0.001, 2))
            for text in self.random.sample(self.ledger.texts, min(3, len(self.ledger.texts))):
                try:
                    length = node.message(text.session, text.id)["length"]
                except Refusal:
                    continue
                if not disk.dead:
                    text.told = max(text.told, length)

    # Looking

    async def _check(
        self, node: Node, storage: SqliteStorage, disk: PowerDisk, *, final: bool = False
    ) -> None:
        """Raises ``Breach`` with everything that is wrong."""
        found = list(self.ledger.breaches(node, final=final))
        found += await self.ledger.rewritten(node, storage)
        scrubbed = await storage.scrub(0, 50)
        while scrubbed:
            scrubbed = await storage.scrub(scrubbed, 50)
        for sql, right in _RIGHT.items():
            told = storage._look(lambda c, sql=sql: c.exec_driver_sql(sql).scalar_one())
            if told != right:
                found.append(f"{sql}: {told}")
        state = node.state
        if storage.damaged or state.unapplied or state.undecodable or node.checkpoint.failures:
            found.append(
                f"{storage.damaged} damaged, {state.unapplied} unapplied,"
                f" {state.undecodable} undecodable, {node.checkpoint.failures} failed"
            )
        if found:
            raise Breach(f"after {disk.fate or 'a stop'}: " + "; ".join(found))

    async def _finish(self, disk: PowerDisk) -> None:
        """Nothing fails any more: everybody finishes, and both regions come to hold the same."""
        disk.arm(None)
        with self._noting(disk, "stop"), powered(disk):
            storage = SqliteStorage(disk.root / self.place, self.cipher)
            try:
                node = self._recovered(storage, disk)
                assert node is not None
                await self._check(node, storage, disk)
                self._link(node)
                await self._finish_clients(node)
                self.absorbs = False
                await self._come_together(node, storage, disk)
                await self._check(node, storage, disk, final=True)
                if node.holdings.buckets() != self.other.holdings.buckets():
                    raise Breach("the two regions hold different things")
                await node.stop()
            finally:
                storage.close()

    async def _come_together(self, node: Node, storage: SqliteStorage, disk: PowerDisk) -> None:
        for _ in range(PUSHES_MAX):
            if node.gossip.vector == self.other.gossip.vector:
                return
            await self._push(node, storage, self.other, disk)
            await self._push(self.other, self.other._storage, node, disk)
        raise Breach("the two regions never come to have the same logs")

    async def _finish_clients(self, node: Node) -> None:
        for client in (*self.clients, *self.others):
            client.reach(self.other if client in self.others else node, lambda: True)
            try:
                await client.finish()
            except Exception as error:
                raise Breach(_told(error)) from error


# What SQLite says where nothing is wrong.
_RIGHT = {"PRAGMA integrity_check": "ok", "SELECT count(*) FROM quarantine": 0}


class Breach(AssertionError):
    """A promise was broken."""


def _told(error: BaseException) -> str:
    return "".join(traceback.format_exception(error, limit=-5)).strip()


async def _end(node: Node) -> None:
    """A process that is dead does nothing more."""
    for task in node._tasks:
        task.cancel()
    await asyncio.gather(*node._tasks, return_exceptions=True)


def is_threaded(seed: int) -> bool:
    """Whether a round lets the storage have its threads."""
    return seed % THREADS_EVERY == THREADS_EVERY - 1


def play(seed: int, mutant: str | None = None) -> Outcome:
    """One round, judged; an exception that nobody expected is a breach too."""
    parent = _MEMORY if _MEMORY.is_dir() else None
    changed = MUTANTS[mutant]() if mutant else nullcontext()
    with changed, tempfile.TemporaryDirectory(prefix="perdure-powercut-", dir=parent) as folder:

        async def main(loop: VirtualLoop) -> Outcome:
            return await Round(seed, Path(folder), loop).play()

        try:
            outcome: Outcome = run(main, ThreadedLoop if is_threaded(seed) else VirtualLoop)
        except Exception as error:
            outcome = Outcome(seed, [_told(error)])
    return outcome
