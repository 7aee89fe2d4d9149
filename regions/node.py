"""One region: the operations of ``docs/PROTOCOL.md`` part A, over state, writer, fan-out and links.

The node's event loop owns the state. Reads are plain functions, writes go through the
:class:`Writer`. What the node needs of its surroundings comes in through ports.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from typing import Any

from perdure.regions.catch_up import CatchUp
from perdure.regions.checkpoint import Checkpoint, Limits
from perdure.regions.clock import seconds_of
from perdure.regions.documents import DocumentDesk
from perdure.regions.erasing import Eraser
from perdure.regions.headers import Headers
from perdure.regions.holdings import Holdings
from perdure.regions.life_cycle import LifeCycle
from perdure.regions.links import Links
from perdure.regions.measuring import Measuring
from perdure.regions.membership import Membership
from perdure.regions.mending import mend
from perdure.regions.meters import Meters
from perdure.regions.oversight import Oversight
from perdure.regions.ports import Clock, Entropy, Storage, StorageError, StorageFailed, StorageFull
from perdure.regions.presence import PresenceDesk
from perdure.regions.repair import Repair
from perdure.regions.runs import RunDesk
from perdure.regions.state import State
from perdure.regions.tracing import SpanTracing
from perdure.regions.writer import Applied, Writer
from perdure.replication.coding import encode
from perdure.replication.errors import Refusal
from perdure.replication.gossip import Gossip
from perdure.replication.limits import KEEPALIVE_S
from perdure.replication.records import Origin, Record
from perdure.replication.retelling import tell

log = logging.getLogger("perdure")

TICK_MS = 1_000
_INCARNATION_BITS = 64


class Node(LifeCycle):
    """A region. ``start``, then anything, then ``drain`` and ``stop``."""

    def __init__(
        self,
        region: str,
        storage: Storage,
        clock: Clock,
        entropy: Entropy,
        *,
        secret: bytes,
        accepted: Sequence[bytes] = (),
        peers: Sequence[str] = (),
        bootstrap: bool = False,
        limits: Limits | None = None,
    ) -> None:
        self.region = region
        self.meters = Meters(seconds_of(clock))
        self.origin = Origin(region, entropy.token(_INCARNATION_BITS))
        self.gossip = Gossip(self.origin, peers)
        state = State(region, self.gossip, storage)
        state.now, state.wall_ms = clock.monotonic_ms() // 1000, clock.wall_ms()
        super().__init__(region, state, self.gossip, clock, Headers(secret, accepted))
        self.desk = PresenceDesk(self.origin, peers, self.fanout, clock, state.clock, entropy)
        self.shared = DocumentDesk(clock, self._tell_present, self.fanout.document_changed)
        self.desk.signals.hear_present = self.shared.hear
        self._entropy = entropy
        self.turns = RunDesk(state, self.desk, self.fanout, clock)
        self.watchers = {}
        # What is to be looked at once a second.
        self.each_second: list[Callable[[], None]] = []
        # Set when the disk can no longer be trusted: the process is to end.
        self.failed = asyncio.Event()
        self._storage = storage
        self._links: Links | None = None
        self._status = "starting"
        self.leaving = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._last_keep_alive_ms = 0
        self._writer = Writer(
            self.origin,
            storage,
            self.gossip,
            clock,
            self.state.session,
            self._apply,
            self._tell,
            self.state.decode,
            state.census,
        )
        self._writer.measured = self._measured
        self.holdings = Holdings(self.state, storage)
        self.checkpoint = Checkpoint(
            state, storage, self.gossip, clock, lambda: self._writer.absorbed, limits or Limits()
        )
        self.eraser = Eraser(self.state, storage, self.gossip, self.checkpoint, clock, self._writer)
        self.repair = Repair(
            self.gossip, self.holdings, clock, self._writer.absorb, self._writer.jump
        )
        self.catch_up = CatchUp(self.gossip, self.repair, storage, clock, bootstrap=bootstrap)
        self.membership = Membership(self, self.catch_up)
        self.oversight = Oversight(self, self.beside)
        self.each_second.append(self.oversight.tick)

    # Life

    def recover(self) -> None:
        """Open the storage and bring back everything that was acknowledged.

        Raises ``StorageLocked`` and ``StorageFailed``.
        """
        self._storage.open()
        self.state.census.begin(self._storage.tenants())
        self.state.clock.see(self._storage.hlc)
        self.state.reached(self._storage)
        for record in self._storage.replay():
            self.state.apply([Applied(self.state.decode(record), record)], self._storage.position)
            for session in self.state.take_touched():
                session.documents.take_news()
                for _ in session.refresh():
                    pass
        self.state.reached(self._storage)
        self._writer.absorbed = self._storage.absorbed()
        self.gossip.recovered(self._storage.vector(), self._storage.floors())
        touched = {session for session, _ in self.state.news}
        self.turns.recovered(sorted(touched.union(self._storage.active())))
        self.state.settle()
        self.checkpoint.recovered()
        self.membership.recovered()
        self.catch_up.recovered()
        self.eraser.recovered()

    def start(self, links: Links | None) -> None:
        """Begin to work; ``links`` carry what is committed to the peers."""
        self._links = self.repair.links = self.oversight.peers.links = links
        if links is not None:
            self.membership.begin(links)
            self.desk.wake = links.wake
        self.fanout.waking.is_disk_at_work = self._writer.is_at_work
        self._tasks = [
            asyncio.create_task(self._writer.run(), name="perdure-writer"),
            asyncio.create_task(self._tick(), name="perdure-tick"),
            asyncio.create_task(self.repair.run(), name="perdure-repair"),
            asyncio.create_task(self.desk.run(), name="perdure-presence"),
            asyncio.create_task(self.eraser.run(), name="perdure-eraser"),
        ]
        for task in self._tasks:
            task.add_done_callback(self._task_ended)
        self._status = None

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        # Without its writer a region can acknowledge nothing more: it must not look ready.
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("%s has died", task.get_name(), exc_info=error)
            self._fail()

    def _fail(self) -> None:
        self._status = "storage_failed"
        self.failed.set()

    def readiness(self) -> str | None:
        """None when ready; else why not."""
        if (reason := self._refuses()) is not None:
            return reason
        if self._links is not None and self._links.refused() is not None:
            return "name_in_use"
        is_behind = self.catch_up.is_behind or self.repair.is_below_anybody()
        return "catching_up" if is_behind else None

    def _refuses(self) -> str | None:
        """Why no client is served; None where they are."""
        if isinstance(self._writer.failed, StorageFailed):
            return "storage_failed"
        return self._status or ("catching_up" if self.catch_up.is_under_way else None)

    def _check_readable(self) -> None:
        # What it does not hold yet, others do: "not found" would be a wrong answer.
        if self.catch_up.is_under_way:
            raise Refusal("catching_up", "this region is not caught up yet", retry_after_s=1)

    async def stop(self) -> None:
        """Finish the running commit, store what is dirty, and close the storage."""
        self._writer.close()
        if self._tasks:
            for task in self._tasks[1:]:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            if not self.failed.is_set():
                with contextlib.suppress(StorageError):
                    await self.checkpoint.close()
                    await self.eraser.remember()
        self._storage.close()

    async def _tick(self) -> None:
        meters = self.meters
        while True:
            due_s = meters.now() + TICK_MS / 1000
            await asyncio.sleep(TICK_MS / 1000)
            meters.loop_lag_seconds.observe(max(0.0, meters.now() - due_s))
            self.tick()
            try:
                await self.work()
            except StorageFailed as error:
                log.critical("the disk has failed: %s", error)
                self._fail()
                return

    async def work(self) -> None:
        """What a second brings to the disk. Raises ``StorageFailed``."""
        self._storage.check()
        if isinstance(self._writer.failed, StorageFailed):
            raise self._writer.failed
        await self.checkpoint.step(self._clock.monotonic_ms() // 1000)
        with contextlib.suppress(StorageFull):
            await mend(self.state, self._storage, self.checkpoint, self.fanout, self.repair)
        with contextlib.suppress(StorageFull):
            await self.catch_up.step()
        with contextlib.suppress(StorageFull):
            await self.note_lapses()
        with contextlib.suppress(StorageFull):
            await self.eraser.step(self._clock.monotonic_ms() // 1000)

    def tick(self) -> None:
        """What time brings: holds that end, keep-alives."""
        now_ms = self._clock.monotonic_ms()
        self.fanout.expire(now_ms)
        self.fanout.tick()
        # Who is on a feed renews a lease before it is looked whether that is over.
        self.turns.tick()
        self.desk.tick()
        self.shared.tick()
        self.repair.tick()
        for look in self.each_second:
            look()
        if now_ms - self._last_keep_alive_ms >= KEEPALIVE_S * 1000 - TICK_MS // 2:
            self._last_keep_alive_ms = now_ms
            self.fanout.keep_alive()
            self.turns.keep_alive()

    # What the writer and the links tell

    def _apply(self, applied: Sequence[Applied], position: int) -> None:
        """Operations are on disk: they are the state now."""
        self.state.apply(applied, position)
        self.oversight.applied(applied)

    def _tell(self) -> None:
        """Operations were applied: tell readers here, then the peers."""
        touched = self.state.take_touched()
        self.fanout.handing.committed_s = self._writer.committed_s
        for session in touched:
            feed = self.fanout.get(session.id)
            # One that was rebuilt has sent its readers away.
            if feed is not None and feed.session is session:
                changed = feed.publish()
            else:
                changed = [change.message for change in session.refresh()]
            self.shared.publish(session, changed)
            if session.deleted:
                self.desk.attendance.leave_all(session.id)
                self.turns.session_deleted(session)
        self.fanout.handing.committed_s = None
        # Where nobody reads, nothing is delivered.
        self.tracing.expected.clear()
        sessions = {session.id: session for session in touched}
        for name, id_ in self.state.news:
            if name in self.watchers:
                self.watchers[name](id_)
            if name in sessions:
                self.turns.check(sessions[name], id_)
        self.eraser.look()
        self.peers_changed()
        if self._links is not None:
            self._links.wake()

    def _measured(self, applied: Sequence[Applied], writes: int, seconds: float) -> None:
        Measuring(self.meters, self.region, self._clock).committed(applied, writes, seconds)
        if self.tracing.is_on:
            self.tracing.committed(applied, seconds)

    def trace(self, provider: Any) -> None:
        """Have spans made of what is traced; of a ``TracerProvider`` of OpenTelemetry's."""
        writer = self._writer
        times = lambda: (writer.began_s, writer.committed_s)  # noqa: E731
        self.tracing = SpanTracing(provider, self.region, self._clock, times)
        self.fanout.handing.expected = self.tracing.expected

    def peers_changed(self) -> None:
        """More is stable, perhaps, or settled."""
        self.state.settle()
        self.catch_up.look()
        self._progressed()

    async def receive(self, records: Sequence[Record], sender: str | None = None) -> None:
        """Records of a peer: on disk when this returns, unless it is gone by then."""
        await self._writer.receive(records, sender)

    def digests(
        self, session: str | None, buckets: Sequence[int] | None
    ) -> tuple[list[str] | None, dict[str, str] | None]:
        """What a peer asks for: (all buckets, None), or (None, sessions)."""
        if session is not None:
            return None, {session: self.holdings.of(session)}
        if buckets is not None:
            return None, self.holdings.in_buckets(buckets)
        return self.holdings.buckets(), None

    async def tell(self, sessions: Sequence[str]) -> AsyncIterator[bytes]:
        """Everything that is known of these sessions, in pieces, for a peer that asks."""
        for id_ in sessions:
            if self.state.find(id_) is None:
                continue
            self.state.pin(id_)
            try:
                await self.checkpoint.session(id_)
                if (session := self.state.find(id_)) is not None:
                    for piece in tell(session, self.region):
                        yield encode(piece)
            finally:
                self.state.unpin(id_)

    async def status(self, what: dict[str, Any]) -> dict[str, Any]:
        """What a peer asks of this region itself, over a link (PROTOCOL B.9)."""
        return await self.oversight.answer(what)

    def linked(self, name: str) -> None:
        """A link to a peer is open."""
        self.repair.linked(name)
        self.catch_up.linked(name)

    def below(self, name: str) -> None:
        """A peer's logs no longer hold what this region lacks."""
        self.repair.is_below(name)

    def unreadable(self, origin: Origin, lsn: int) -> None:
        """A record of a log is damaged, or cannot be sent: peers take the sessions instead."""
        self.checkpoint.unreadable(origin, lsn)

    # About itself

    @property
    def entropy(self) -> Entropy:
        """Randomness."""
        return self._entropy

    @property
    def waiting_writes(self) -> int:
        """How many writes wait for a commit."""
        return self._writer.waiting

    @property
    def link_counters(self) -> Mapping[str, int]:
        """What the links count; nothing where there are none."""
        return {} if self._links is None else self._links.counters

    def beside(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Something that goes on until the region stops."""
        task = asyncio.create_task(work, name=name)
        self._tasks.append(task)
        for ended in (self._tasks.remove, self._task_ended):
            task.add_done_callback(ended)
