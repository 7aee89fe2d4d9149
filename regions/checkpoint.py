"""Storing what is dirty, so that sessions may leave memory, starts stay short, and logs end.

Rule of this file: the watermark never passes a record whose effect is not in an image, and a log
is let go of only behind the watermark. A checkpoint that fails is tried again; nothing depends on
it but space.
"""

import asyncio
import contextlib
import json
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from perdure.regions.ports import Clock, Mark, Storage, StorageError, StorageFull
from perdure.regions.state import State
from perdure.replication.gossip import Gossip
from perdure.replication.limits import (
    EVICT_IDLE_S,
    LOG_AGE_S_MAX,
    LOG_BYTES_MAX,
    REPLAY_BYTES_MAX,
)
from perdure.replication.records import ABSORBED, Origin, Vector, parse_origin
from perdure.replication.rows import Image

log = logging.getLogger("perdure")

# A session is stored when nothing has been written to it for so long.
QUIET_S = 2
# And one that is written to without a pause, after so long.
DIRTY_S_MAX = 30
# What one transaction stores: commits wait for it.
IMAGE_BYTES_MAX = 1_048_576
IMAGES_MAX = 200
TRUNCATE_EVERY_S = 5
# How many stored sessions are compared with their checksums each second.
SCRUB_SESSIONS_MAX = 4
# So many marks wait for what they stand for to be stored.
MARKS_MAX = 512
# So many old marks are kept for the caps of the log.
_OLD_MARKS_MAX = 128
_MARKS = "marks"


@dataclass(frozen=True)
class Limits:
    """How long sessions stay in memory, and logs on disk."""

    evict_idle_s: int = EVICT_IDLE_S
    log_bytes_max: int = LOG_BYTES_MAX
    log_age_s_max: int = LOG_AGE_S_MAX


class Checkpoint:
    """Stores the sessions of a region, bit by bit."""

    def __init__(
        self,
        state: State,
        storage: Storage,
        gossip: Gossip,
        clock: Clock,
        absorbed: Callable[[], int],
        limits: Limits,
    ) -> None:
        self.saved = 0
        # When images were last stored, in ms since 1970.
        self.saved_ms: int | None = None
        self.truncated = 0
        self.failures = 0
        self._state = state
        self._storage = storage
        self._gossip = gossip
        self._clock = clock
        self._absorbed = absorbed
        self._limits = limits
        # Marks that the watermark may still come to; where it is; and older ones, for the caps.
        self._marks: deque[Mark] = deque()
        self._watermark: Mark | None = None
        self._old: deque[Mark] = deque()
        # What of a log cannot be read any more: peers take the sessions instead.
        self._unreadable: Vector = {}
        self._next_truncation_s = 0
        self._working = asyncio.Lock()
        self._scrubbed = 0

    def recovered(self) -> None:
        """The storage has been replayed."""
        text = self._storage.notes().get(_MARKS, "[]")
        for position, vector, *rest in json.loads(text):
            places = {parse_origin(origin): lsn for origin, lsn in vector.items()}
            self._old.append(Mark(position, places, *rest))
        self.mark()

    def mark(self) -> None:
        """Everything that is logged by now has been applied."""
        position = self._state.position
        if self._marks and self._marks[-1].position == position:
            return
        vector = {**self._gossip.vector, ABSORBED: self._absorbed()}
        wall_ms, log_bytes = self._clock.wall_ms(), self._state.log_bytes
        if len(self._marks) >= MARKS_MAX:
            # Nothing can be stored, for long: fewer will do.
            self._marks = deque(list(self._marks)[::2])
        self._marks.append(Mark(position, vector, wall_ms, log_bytes, self._state.clock.last))

    def unreadable(self, origin: Origin, lsn: int) -> None:
        """A record of a log is damaged; what it said is in the sessions."""
        self._unreadable[origin] = max(lsn, self._unreadable.get(origin, 0))

    async def step(self, now_s: int) -> None:
        """What one second brings. Raises ``StorageFailed``."""
        self.mark()
        self._state.now, self._state.wall_ms = now_s, self._clock.wall_ms()
        try:
            await self._store(self._is_due)
            self._state.evict(self._limits.evict_idle_s)
            if now_s >= self._next_truncation_s:
                self._next_truncation_s = now_s + TRUNCATE_EVERY_S
                await self._truncate()
            self._scrubbed = await self._storage.scrub(self._scrubbed, SCRUB_SESSIONS_MAX)
        except StorageFull as error:
            self.failures += 1
            log.warning("a checkpoint has to wait: %s", error)

    async def all(self) -> None:
        """Store everything that is dirty now. Raises ``StorageFull`` and ``StorageFailed``."""
        self.mark()
        await self._store(lambda _: True)

    async def session(self, id_: str) -> None:
        """Store one session now. Raises as :meth:`all` does."""
        if id_ in self._state.dirty or id_ in self._state.saving:
            await self._store(lambda other: other == id_)

    def _is_due(self, id_: str) -> bool:
        if self._state.is_quiet(id_, QUIET_S) or self._state.dirty_for(id_) >= DIRTY_S_MAX:
            return True
        behind = self._state.log_bytes - self._bytes_before(self._state.dirty[id_])
        return behind > REPLAY_BYTES_MAX

    def _bytes_before(self, position: int) -> int:
        """How much had been logged at about this position; never too much."""
        before = self._watermark.log_bytes if self._watermark is not None else 0
        for mark in self._marks:
            if mark.position > position:
                break
            before = mark.log_bytes
        return before

    async def _store(self, due: Callable[[str], bool]) -> None:
        async with self._working:
            waiting = [id_ for id_ in self._state.dirty if due(id_)]
            waiting.reverse()
            while waiting:
                await self._save(self._take(waiting))
            mark = self._reached()
            if mark is not None:
                await self._save([], mark)

    def _take(self, waiting: list[str]) -> list[Image]:
        images: list[Image] = []
        size = 0
        while waiting and size < IMAGE_BYTES_MAX and len(images) < IMAGES_MAX:
            id_ = waiting.pop()
            # It may have been deleted or stored meanwhile.
            if id_ in self._state.dirty and id_ in self._state.sessions:
                for image in self._images(id_, images):
                    images.append(image)
                    size += len(image.head) + sum(len(body or b"") for _, body in image.messages)
        return images

    def _images(self, id_: str, others: list[Image]) -> list[Image]:
        """The image of one session, if it can be made; else it stays dirty, and so the watermark
        where it is."""
        try:
            return self._state.images([id_])
        except StorageError:
            self._state.unsaved(others)
            raise
        except Exception:
            self.failures += 1
            log.exception("session %s cannot be stored", id_, extra={"session": id_})
            self._state.put_back(id_)
            return []

    async def _save(self, images: list[Image], mark: Mark | None = None) -> None:
        try:
            await self._storage.save(images, mark)
        except BaseException:
            self._state.unsaved(images)
            raise
        self._state.saved(images)
        self.saved += len(images)
        self.saved_ms = self._clock.wall_ms()
        if mark is not None:
            self._watermark = mark
            while self._marks and self._marks[0].position <= mark.position:
                self._old.append(self._marks.popleft())

    def _reached(self) -> Mark | None:
        """The newest mark that nothing dirty stands behind; None when that is no news."""
        first = min(self._state.dirty.values(), default=None)
        best: Mark | None = None
        for mark in self._marks:
            if first is not None and mark.position > first:
                break
            best = mark
        return best

    # Letting go of the log

    async def _truncate(self) -> None:
        if self._watermark is None:
            return
        upto = self._within_caps()
        for origin, lsn in (*self._gossip.on_every_disk().items(), *self._unreadable.items()):
            upto[origin] = max(lsn, upto.get(origin, 0))
        upto[ABSORBED] = self._watermark.vector.get(ABSORBED, 0)
        stored = self._watermark.vector
        upto = {origin: min(lsn, stored.get(origin, 0)) for origin, lsn in upto.items()}
        floors = self._gossip.floors
        upto = {origin: lsn for origin, lsn in upto.items() if lsn > floors.get(origin, 0)}
        self.truncated += await self._storage.truncate(upto)
        self._gossip.floors = self._storage.floors()
        reached = [o for o, lsn in self._unreadable.items() if lsn <= stored.get(o, 0)]
        for origin in reached:
            del self._unreadable[origin]

    def _within_caps(self) -> Vector:
        """What is so old, or lies so far back, that it goes though somebody lacks it."""
        self._thin()
        oldest_ms = self._clock.wall_ms() - self._limits.log_age_s_max * 1000
        first_byte = self._storage.log_bytes - self._limits.log_bytes_max
        upto: Vector = {}
        for mark in self._old:
            if mark.wall_ms < oldest_ms or mark.log_bytes < first_byte:
                upto = dict(mark.vector)
        return upto

    def _thin(self) -> None:
        if len(self._old) > _OLD_MARKS_MAX:
            kept = list(self._old)
            self._old = deque([*kept[:-8:2], *kept[-8:]])

    async def remember(self) -> None:
        """Keep the old marks for the next start."""
        marks = [
            [mark.position, {str(o): lsn for o, lsn in mark.vector.items()}, *mark[2:]]
            for mark in self._old
        ]
        await self._storage.note(_MARKS, json.dumps(marks))

    async def close(self) -> None:
        """Store what can be stored, so that the next start has nothing to replay."""
        with contextlib.suppress(StorageFull):
            await self.all()
            await self.remember()
