"""The sessions of a region: those in memory, and those that come when they are asked for.

Rule of this file: a session is in memory with everything that has been applied to it, or it is
stored as it is. What is not stored yet is *dirty*, and does not leave.
"""

import heapq
import json
import logging
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

from perdure.regions.census import Census
from perdure.regions.ports import Storage, StorageError, Stored
from perdure.regions.writer import Applied
from perdure.replication.coding import decode
from perdure.replication.cursor import encode
from perdure.replication.errors import Damaged, Malformed
from perdure.replication.gossip import Gossip
from perdure.replication.hlc import HybridClock
from perdure.replication.lane import Place
from perdure.replication.operations import (
    Absorb,
    Create,
    Delete,
    Metadata,
    OfMessage,
    Open,
    Operation,
    Single,
)
from perdure.replication.records import ABSORBED, Origin, Record
from perdure.replication.rows import Image
from perdure.replication.session import Session
from perdure.replication.tenants import Range
from perdure.replication.totals import id_of

log = logging.getLogger("perdure")

# Sessions in memory, beyond which the longest unused leave before their time.
SESSIONS_HOT_MAX = 10_000
# Messages of one session in memory, beyond which those at rest leave when they have been stored.
MESSAGES_HOT_MAX = 64
# Waiting places, beyond which those of sessions that are not in memory are dropped.
_OVER_ITEMS_MIN = 4_096


class State:
    """Everything that the records on disk say."""

    def __init__(self, region: str, gossip: Gossip, storage: Storage) -> None:
        self.sessions: dict[str, Session] = {}
        self.census = Census()
        self.clock = HybridClock()
        self.undecodable = self.unapplied = 0
        self.loads = 0
        self.evictions = 0
        # Where the log has been applied to, and its bytes: the storage is ahead of that between the
        # end of a commit and its applying.
        self.position = 0
        self.log_bytes = 0
        # Sessions of which something stored was found damaged: a peer has it.
        self.damaged: set[str] = set()
        self._region = region
        self._gossip = gossip
        self._storage = storage
        self._stored: dict[str, Stored] = {}
        # Position of the log before the first operation that is not stored, by session, in the
        # order in which they became dirty.
        self.dirty: dict[str, int] = {}
        self.saving: dict[str, int] = {}
        # When each was last used, the longest ago first.
        self._used: OrderedDict[str, int] = OrderedDict()
        # When each that is dirty was last written to, and since when it has been dirty.
        self._written: dict[str, int] = {}
        self._since: dict[str, int] = {}
        # The second that it is, on both clocks; what was used in it is in use.
        self.now = self.wall_ms = 0
        self._pinned: dict[str, int] = {}
        self._touched: dict[str, set[str]] = {}
        # Messages that were touched since the last call of settle.
        self._news: list[tuple[str, str]] = []
        # Messages that are over and not settled, each by one place that is not everywhere yet.
        self._over: dict[Origin, list[tuple[int, str, str]]] = {}
        self._over_compact_at = _OVER_ITEMS_MIN

    # Applying

    def decode(self, record: Record) -> Operation | None:
        """The operation of a record. One that this version does not know is kept on disk and
        forwarded, but not applied: a newer version may know it."""
        try:
            operation = decode(record.body)
            if isinstance(operation, Absorb) != (record.origin == ABSORBED):
                raise Malformed("a piece of a session has no place in an origin log")
            return operation
        except Malformed:
            self.undecodable += 1
            return None

    def apply(self, applied: Sequence[Applied], position: int) -> None:
        """Apply operations that are on disk, the last of them at this position. One that cannot be
        applied is counted and left out, as at every start: it must not take the region with it.

        Raises ``StorageError`` when what is stored cannot be read: then nobody is told that it was
        done, and the next start applies it.
        """
        before = self.position
        for operation, record in applied:
            if operation is None:
                continue
            try:
                try:
                    self._apply(operation, record, before)
                except Damaged:
                    self._lose(operation)
                    self._apply(operation, record, before)
            except StorageError:
                raise
            except Exception:
                self.unapplied += 1
                known = {"session": operation.session}
                log.exception("%s/%d cannot be applied", record.origin, record.lsn, extra=known)
        self.position = position
        self.log_bytes += sum(len(record.body) for _, record in applied)

    def _lose(self, operation: Operation) -> None:
        """What is stored of this operation's message is not what was written: a peer has it."""
        session = self.session(operation.session)
        self.damaged.add(session.id)
        singles = operation.operations if isinstance(operation, Absorb) else (operation,)
        for single in singles:
            if isinstance(single, OfMessage | Delete) and single.message is not None:
                session.messages.lose(single.message)

    def _apply(self, operation: Operation, record: Record, before: int) -> None:
        session = self.session(operation.session)
        self._soil(session.id, before)
        self._written[session.id], session.touched_ms = self.now, self.wall_ms
        own = record.origin.region == self._region
        place = None if isinstance(operation, Absorb) else Place(record.origin, record.lsn)
        existed = session.exists
        session.apply(operation, place, own=own)
        self.census.moved(session.id, existed, session.exists)
        touched = self._touched.setdefault(session.id, set())
        singles = operation.operations if isinstance(operation, Absorb) else (operation,)
        for single in singles:
            self._notice(single, touched)

    def _soil(self, id_: str, position: int) -> None:
        """What is logged of the session after a position is not stored."""
        self.dirty.setdefault(id_, position)
        self._since.setdefault(id_, self.now)

    def _notice(self, operation: Single, touched: set[str]) -> None:
        match operation:
            case Open():
                self.clock.see(operation.header.created)
            case Create() | Metadata():
                self.clock.see(operation.hlc)
        if isinstance(operation, OfMessage | Delete) and operation.message is not None:
            touched.add(operation.message)
        elif isinstance(operation, Delete):
            touched.clear()

    def take_touched(self) -> list[Session]:
        """The sessions that operations were applied to since the last call."""
        touched, self._touched = self._touched, {}
        self._news += [(session, id_) for session, ids in touched.items() for id_ in ids]
        return [self.sessions[id_] for id_ in touched]

    @property
    def news(self) -> list[tuple[str, str]]:
        """The messages that were touched since the last :meth:`settle`, with their sessions."""
        return self._news

    def reached(self, storage: Storage) -> None:
        """Everything that the storage has logged, or keeps in images, has been applied."""
        self.position, self.log_bytes = storage.position, storage.log_bytes

    # Settling

    def _settle_or_wait(self, session: Session, id_: str) -> None:
        found = session.messages.reach_of(id_)
        if found is None or not found[0]:
            return
        for origin, lsn in found[1].items():
            if self._gossip.settled_lsn(origin) < lsn:
                heapq.heappush(self._over.setdefault(origin, []), (lsn, session.id, id_))
                return
        session.settle(id_)
        if session.messages.dirty:
            self._soil(session.id, self.position)

    def settle(self) -> None:
        """Settle the messages that are over and have come to be on disk in every region. Touched
        sessions must have been refreshed."""
        news, self._news = self._news, []
        for name, id_ in news:
            if (session := self.sessions.get(name)) is not None:
                self._settle_or_wait(session, id_)
        for origin, heap in list(self._over.items()):
            reached = self._gossip.settled_lsn(origin)
            while heap and heap[0][0] <= reached:
                _, name, id_ = heapq.heappop(heap)
                # One that has left memory is asked again when it comes back.
                if (session := self.sessions.get(name)) is not None:
                    self._settle_or_wait(session, id_)
            if not heap:
                del self._over[origin]
        self._compact()

    def _compact(self) -> None:
        waiting = sum(map(len, self._over.values()))
        if waiting <= self._over_compact_at:
            return
        for origin, heap in self._over.items():
            self._over[origin] = sorted(item for item in heap if item[1] in self.sessions)
        left = sum(map(len, self._over.values()))
        self._over_compact_at = max(_OVER_ITEMS_MIN, 2 * left)

    # Sessions come and go

    def session(self, id_: str) -> Session:
        """The session, made empty when it is unknown."""
        session = self.find(id_)
        if session is None:
            session = self.sessions[id_] = Session(id_)
            self._used[id_] = self.now
        return session

    def find(self, id_: str) -> Session | None:
        """The session, where anything is known of it."""
        session = self.sessions.get(id_)
        if session is not None:
            self._used[id_] = self.now
            self._used.move_to_end(id_)
            return session
        stored = self._storage.session(id_)
        return None if stored is None else self._load(id_, stored)

    def _load(self, id_: str, stored: Stored, *, recounting: bool = False) -> Session:
        self.loads += 1
        try:
            session = Session(id_, stored.archive, stored.head, recounting=recounting)
        except Damaged:
            session = Session(id_, stored.archive, None)
        self.census.moved(id_, stored.present, session.exists)
        self.sessions[id_] = session
        self._stored[id_] = stored
        self._used[id_] = self.now
        if session.is_dirty:
            self._soil(id_, self.position)
            self.damaged.add(id_)
        for serial in list(session.messages.unsettled):
            self._settle_or_wait(session, id_of(serial))
        return session

    def rebuild(self, id_: str) -> None:
        """Something stored of this session is damaged: begin anew from what is intact. Nothing of
        it may be dirty, and nobody may hold on to it."""
        if id_ in self.sessions:
            self._drop(id_)
        stored = self._storage.session(id_)
        if stored is not None:
            self._load(id_, stored, recounting=True)

    def is_stored(self, id_: str) -> bool:
        """Whether nothing is known of the session that is not stored."""
        return id_ not in self.dirty and id_ not in self.saving and id_ not in self._touched

    def pin(self, id_: str) -> None:
        """Somebody holds on to the session: it stays in memory."""
        self._pinned[id_] = self._pinned.get(id_, 0) + 1

    def unpin(self, id_: str) -> None:
        """Not any more."""
        self._pinned[id_] -= 1
        if not self._pinned[id_]:
            del self._pinned[id_]
        self.forget_empty(id_)

    def forget_empty(self, id_: str) -> None:
        """Let go of a session that nobody has written to."""
        session = self.sessions.get(id_)
        if session is not None and session.is_blank and id_ not in self._pinned:
            self._drop(id_)
            self.dirty.pop(id_, None)

    def _drop(self, id_: str) -> None:
        del self.sessions[id_]
        del self._used[id_]
        self._stored.pop(id_, None)
        self._written.pop(id_, None)
        self._since.pop(id_, None)

    def evict(self, idle_s: int) -> None:
        """Let what has not been used for so long leave memory. Of what stays because somebody reads
        it, the messages that are at rest leave."""
        for id_ in list(self._used):
            hot = len(self.sessions) > SESSIONS_HOT_MAX
            if self._used[id_] > self.now - idle_s and not hot:
                return
            if not self.is_stored(id_):
                continue
            if id_ not in self._pinned:
                self._drop(id_)
                self.evictions += 1
                continue
            self._unload(self.sessions[id_])
            self._used[id_] = self.now
            self._used.move_to_end(id_)

    @staticmethod
    def _unload(session: Session) -> None:
        for id_, message in session.messages.items():
            over = message.shown is not None and message.shown.status != "streaming"
            if over and id_ not in session.messages.dirty:
                session.messages.unload(id_)

    def is_quiet(self, id_: str, seconds: int) -> bool:
        """Whether nothing was written to a session for so long, however often it was read."""
        return self._written.get(id_, self.now - seconds) <= self.now - seconds

    def dirty_for(self, id_: str) -> int:
        """How many seconds a session has not been stored as it is."""
        return self.now - self._since.get(id_, self.now)

    # Storing

    def images(self, ids: Iterable[str]) -> list[Image]:
        """What is to be stored of these sessions; see :meth:`saved` and :meth:`unsaved`."""
        images = []
        for id_ in ids:
            self.saving[id_] = self.dirty.pop(id_)
            if not self.sessions[id_].is_blank:
                images.append(self.sessions[id_].image(self._gossip.stable_vector()))
        return images

    def saved(self, images: Sequence[Image]) -> None:
        """They are stored."""
        self.saving.clear()
        for image in images:
            stored = self._storage.session(image.session)
            assert stored is not None
            self._stored[image.session] = stored
            session = self.sessions[image.session]
            session.messages.stored(stored.archive)
            if len(session.messages.items()) > MESSAGES_HOT_MAX:
                self._unload(session)
            self._since.pop(image.session, None)
            if image.session in self.dirty:
                self._since[image.session] = self.now
            else:
                self._written.pop(image.session, None)

    def unsaved(self, images: Sequence[Image]) -> None:
        """They could not be."""
        for image in images:
            self.sessions[image.session].unsaved(image)
        # The longest dirty come first again.
        self.dirty = {**self.saving, **self.dirty}
        self.saving.clear()

    def put_back(self, id_: str) -> None:
        """This one could not be made into an image: it is as dirty as before."""
        self.dirty = {id_: self.saving.pop(id_), **self.dirty}

    def retain(self, id_: str) -> None:
        """Something that is stored of this session is damaged: what is intact in memory is to be
        stored again."""
        session = self.sessions.get(id_)
        if session is not None and session.retain():
            self._soil(id_, self.position)

    # All sessions

    def unstored(self) -> list[tuple[Session, int]]:
        """The sessions that are not stored as they are, with the term of what is stored."""
        found = []
        for id_ in self.dirty.keys() | self.saving.keys():
            stored = self._stored.get(id_)
            found.append((self.sessions[id_], 0 if stored is None else stored.term))
        return found

    def page(self, among: Range, limit: int) -> list[tuple[str, dict[str, Any]]]:
        """Names and summaries of existing sessions, by name."""
        unstored = {session.id: session for session, _ in self.unstored()}
        rows = dict(self._storage.sessions(among, limit + len(unstored)))
        found = {id_: json.loads(text) for id_, text in rows.items() if id_ not in unstored}
        past = max(rows) + "\x01" if len(rows) == limit + len(unstored) else among.past
        has_tenant = ":" in among.first
        for id_, session in unstored.items():
            if session.exists and among.first <= id_ < past and (":" in id_) == has_tenant:
                found[id_] = session.summary(encode(session.position()))
        return [(id_, found[id_]) for id_ in sorted(found)][:limit]

    def __len__(self) -> int:
        return self.census.total
