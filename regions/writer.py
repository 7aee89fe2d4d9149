"""The one order of effects: admit, persist, apply, reply, tell local readers, send to peers.

Writes are *intents*: functions that look at the state and return operations, or refuse. One batch
at a time: what has gathered while the last commit ran is admitted together, committed with one
fsync, and only then applied. State never holds what is not on disk, so a failed commit has nothing
to undo. Records from peers take the same way.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from perdure.regions.census import Census
from perdure.regions.clock import seconds_of
from perdure.regions.fair_queue import FairQueue
from perdure.regions.ports import Clock, Storage, StorageError, StorageFailed
from perdure.replication.admission import Pending
from perdure.replication.coding import encode
from perdure.replication.errors import Refusal
from perdure.replication.gossip import Gossip
from perdure.replication.limits import (
    COMMIT_BYTES_MAX,
    COMMIT_WRITES_MAX,
    WRITE_QUEUE_ITEMS_MAX,
)
from perdure.replication.operations import Operation
from perdure.replication.records import ABSORBED, Origin, Record, Vector, bytes_of, seal
from perdure.replication.session import Session
from perdure.replication.subjects import Deletion

# A commit that answered so many writes is followed by the next after so long, and not at once.
BUSY_WRITES_MIN = 4
COMMIT_EVERY_S = 0.004

Admit = Callable[[Session, Pending], Sequence[Operation]]


@dataclass(eq=False)
class Intent:
    """A write that waits. ``exclusive``: it wants the session without anything pending."""

    session: str
    admit: Admit
    exclusive: bool
    counted: bool
    done: asyncio.Future[bool]


@dataclass(eq=False)
class Arrival:
    """Records of a peer that wait; or pieces of sessions that a peer told this region."""

    records: Sequence[Record]
    pieces: Sequence[bytes]
    done: asyncio.Future[bool]
    sender: str | None = None


@dataclass(eq=False)
class Jump:
    """What these lsns say is known here now, though not from the logs."""

    vector: Vector
    done: asyncio.Future[bool]


class Applied(NamedTuple):
    """An operation with its record, ready to be applied."""

    operation: Operation | None
    record: Record


@dataclass
class Batch:
    """What is committed together."""

    applied: list[Applied] = field(default_factory=list)
    waiting: list[tuple[asyncio.Future[bool], bool]] = field(default_factory=list)
    pending: dict[str, Pending] = field(default_factory=dict)
    # Sessions with an operation in this batch; those with an exclusive one.
    touched: set[str] = field(default_factory=set)
    closed: set[str] = field(default_factory=set)
    # Those that begin to exist with it.
    fresh: set[str] = field(default_factory=set)
    own: int = 0
    absorbed: int = 0
    bytes: int = 0
    deletions: list[Deletion] = field(default_factory=list)


class Writer:
    """The only way to change the state of a region."""

    def __init__(
        self,
        origin: Origin,
        storage: Storage,
        gossip: Gossip,
        clock: Clock,
        find: Callable[[str], Session],
        apply: Callable[[Sequence[Applied], int], None],
        told: Callable[[], None],
        decode: Callable[[Record], Operation | None],
        census: Census | None = None,
    ) -> None:
        self._census = census or Census()
        self._origin = origin
        self._storage = storage
        self._gossip = gossip
        self._clock = clock
        self._find = find
        self._apply = apply
        self._told = told
        self._decode = decode
        # A record from elsewhere as it may be stored; what one deletes.
        self.screen: Callable[[Applied], Applied] = lambda applied: applied
        self.deletions: Callable[[Applied], Sequence[Deletion]] = lambda _: ()
        # Told of each commit: what was applied, how many it answers, how long the disk took.
        self.measured: Callable[[Sequence[Applied], int, float], None] = lambda *_: None
        self.now = seconds_of(clock)
        # When the last commit began to be written, and when it was on disk.
        self.began_s = self.committed_s = 0.0
        self._queue: FairQueue[Intent] = FairQueue()
        self._arrivals: deque[Arrival] = deque()
        self._jumps: deque[Jump] = deque()
        # The last lsn of ``ABSORBED``.
        self.absorbed = 0
        # Everybody who waits for an answer, wherever their write is just now.
        self._waiting: set[asyncio.Future[bool]] = set()
        self._wake = asyncio.Event()
        self._closed = False
        self._ended = False
        # When the last commit began, and how many writes it answered.
        self._last_began_s = 0.0
        self._last_waiting = 0
        self.failed: StorageError | None = None

    async def write(
        self, session: str, admit: Admit, *, exclusive: bool = True, counted: bool = True
    ) -> bool:
        """Carry out one write. True when it logged anything, False for a retry. One that is not
        ``counted`` brings what another region has accepted: it needs no room.

        Raises ``Refusal``, ``StorageFull``, ``StorageFailed``; then nothing has changed.
        """
        self._check_running()
        if len(self._queue) >= WRITE_QUEUE_ITEMS_MAX:
            raise Refusal("too_many", "too many writes wait for the disk", retry_after_s=1)
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._queue.add(Intent(session, admit, exclusive, counted, done))
        return await self._answer(done)

    async def receive(self, records: Sequence[Record], sender: str | None = None) -> None:
        """Store and apply a peer's records; they are on disk when this returns. Those of a sender
        that has been removed for good by the time that it is their turn are left out.

        Raises ``StorageFull``, ``StorageFailed``; then nothing has changed.
        """
        self._check_running()
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._arrivals.append(Arrival(records, (), done, sender))
        await self._answer(done)

    async def absorb(self, pieces: Sequence[bytes]) -> None:
        """Store and apply pieces of sessions that a peer told; they are on disk when this returns.

        Raises as :meth:`receive` does.
        """
        self._check_running()
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._arrivals.append(Arrival((), pieces, done))
        await self._answer(done)

    async def jump(self, vector: Vector) -> None:
        """Everything up to these lsns has been absorbed: go on from there.

        Raises as :meth:`receive` does.
        """
        self._check_running()
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._jumps.append(Jump(vector, done))
        await self._answer(done)

    def _check_running(self) -> None:
        if self._ended:
            raise self._stopped()

    def _stopped(self) -> StorageFailed:
        failed = self.failed
        return failed if isinstance(failed, StorageFailed) else StorageFailed("it has stopped")

    async def _answer(self, done: asyncio.Future[bool]) -> bool:
        self._wake.set()
        self._waiting.add(done)
        try:
            return await done
        finally:
            self._waiting.discard(done)

    def is_at_work(self) -> bool:
        """Whether somebody waits for the disk."""
        return bool(self._waiting)

    def close(self) -> None:
        """Finish what waits, then let :meth:`run` return."""
        self._closed = True
        self._wake.set()

    async def run(self) -> None:
        """Commit batch after batch until :meth:`close`. Whatever ends it, nobody goes on waiting:
        who has no answer by then gets ``StorageFailed``."""
        try:
            await self._commit_until_closed()
        except Exception as error:
            self.failed = StorageFailed(f"the writer has died: {error!r}")
            raise
        finally:
            self._ended = True
            for done in self._waiting:
                if not done.done():
                    done.set_exception(self._stopped())

    async def _commit_until_closed(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue or self._arrivals or self._jumps:
                await self._gather()
                if self._jumps:
                    await self._carry_out(self._jumps.popleft())
                else:
                    await self._commit(self._collect())
            if self._closed:
                return

    async def _gather(self) -> None:
        """Under load, let more come together: a commit costs the same for one as for many, here
        and at the peers. One client that waits for each answer is never held up."""
        loop = asyncio.get_running_loop()
        if self._last_waiting >= BUSY_WRITES_MIN:
            await asyncio.sleep(max(0.0, self._last_began_s + COMMIT_EVERY_S - loop.time()))
        self._last_began_s = loop.time()

    async def _carry_out(self, jump: Jump) -> None:
        """Between two batches, so that no record of these origins is under way."""
        held = self._gossip.vector
        vector = {o: lsn for o, lsn in jump.vector.items() if lsn > held.get(o, 0)}
        vector.pop(self._origin, None)
        try:
            await self._store(lambda: self._storage.jump(vector))
        except StorageError as error:
            self.failed = error
            if not jump.done.done():
                jump.done.set_exception(error)
            return
        self._gossip.jumped(vector)
        if not jump.done.done():
            jump.done.set_result(bool(vector))
        self._told()

    def _collect(self) -> Batch:
        batch = Batch()
        self._collect_arrivals(batch)
        # However much peers bring, as much is taken from clients here.
        bytes_max, admitted = batch.bytes + COMMIT_BYTES_MAX, 0
        while batch.bytes < bytes_max and admitted < COMMIT_WRITES_MAX:
            intent = self._queue.take()
            if intent is None:
                break
            if intent.done.done():
                continue
            busy = intent.exclusive and intent.session in batch.touched
            if busy or intent.session in batch.closed:
                # Everything later for this session waits too, so that its order stays.
                self._queue.hold(intent)
            else:
                self._admit(batch, intent)
                admitted += 1
        self._queue.release()
        return batch

    def _collect_arrivals(self, batch: Batch) -> None:
        arrived: list[Record] = []
        while self._arrivals and batch.bytes < COMMIT_BYTES_MAX:
            arrival = self._arrivals.popleft()
            if arrival.sender not in self._gossip.gone:
                arrived += arrival.records
            batch.bytes += bytes_of(arrival.records) + sum(map(len, arrival.pieces))
            for piece in arrival.pieces:
                batch.absorbed += 1
                self._take(batch, seal(ABSORBED, self.absorbed + batch.absorbed, piece))
            batch.waiting.append((arrival.done, True))
        # Another link may have brought the same records since the link looked.
        fresh, _ = self._gossip.admit(arrived)
        for record in fresh:
            self._take(batch, record)

    def _take(self, batch: Batch, record: Record) -> None:
        """A record that was logged elsewhere: what is deleted here already is not stored again."""
        applied = self.screen(Applied(self._decode(record), record))
        batch.applied.append(applied)
        batch.deletions += self.deletions(applied)

    def _admit(self, batch: Batch, intent: Intent) -> None:
        pending = batch.pending.setdefault(intent.session, {})
        try:
            session = self._find(intent.session)
            operations = intent.admit(session, pending)
            if intent.counted and operations:
                self._census.admit(session, operations, batch.fresh)
        except Exception as error:
            intent.done.set_exception(error)
            return
        for operation in operations:
            batch.own += 1
            lsn = self._gossip.vector.get(self._origin, 0) + batch.own
            record = seal(self._origin, lsn, encode(operation))
            batch.applied.append(Applied(operation, record))
            batch.deletions += self.deletions(batch.applied[-1])
            batch.bytes += len(record.body)
        if operations:
            batch.touched.add(intent.session)
            if intent.exclusive:
                batch.closed.add(intent.session)
        batch.waiting.append((intent.done, bool(operations)))

    async def _commit(self, batch: Batch) -> None:
        self._last_waiting = len(batch.waiting)
        records = [applied.record for applied in batch.applied]
        if records:
            began_s = self.now()
            try:
                await self._store(lambda: self._storage.commit(records, batch.deletions))
            except StorageError as error:
                self._refuse(batch, error)
                return
            self.began_s, self.committed_s = began_s, self.now()
            self.absorbed += batch.absorbed
            if any(deletion.is_news for deletion in batch.deletions):
                self._gossip.deleting()
            logged = [r for r in records if r.origin != ABSORBED] if batch.absorbed else records
            self._gossip.stored(logged, self._clock.monotonic_ms())
            self._apply(batch.applied, self._storage.position)
            self.measured(batch.applied, len(batch.waiting), self.committed_s - began_s)
        for done, changed in batch.waiting:
            if not done.done():
                done.set_result(changed)
        if records:
            self._told()

    @property
    def waiting(self) -> int:
        """How many writes wait for a commit."""
        return len(self._queue)

    async def _store(self, work: Callable[[], Awaitable[None]]) -> None:
        if isinstance(self.failed, StorageFailed):
            raise self.failed
        try:
            await work()
            self.failed = None
        except StorageError:
            raise
        except Exception as error:
            # Nobody can say what is on disk now. The next batch would take the same lsns.
            raise StorageFailed(f"{type(error).__name__}: {error}") from error

    def _refuse(self, batch: Batch, error: StorageError) -> None:
        self.failed = error
        for done, _ in batch.waiting:
            if not done.done():
                done.set_exception(error)
