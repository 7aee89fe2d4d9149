"""The sessions of a region: applying what is on disk, and noticing when a message is settled."""

import heapq
import logging
from bisect import bisect_right, insort
from collections.abc import Iterable

from perdure.regions.writer import Applied
from perdure.replication.coding import decode
from perdure.replication.errors import Malformed
from perdure.replication.gossip import Gossip
from perdure.replication.hlc import HybridClock
from perdure.replication.ids import bucket, digest
from perdure.replication.lane import Place
from perdure.replication.operations import Create, Metadata, Open, Operation
from perdure.replication.records import Origin, Record
from perdure.replication.session import Session

log = logging.getLogger("perdure")

DIGEST_BUCKETS = 4_096
_BUCKET_MASK = 2**64 - 1


class State:
    """Everything that the records on disk say."""

    def __init__(self, region: str, gossip: Gossip) -> None:
        self.sessions: dict[str, Session] = {}
        self.clock = HybridClock()
        self.undecodable = 0
        self.unapplied = 0
        self._region = region
        self._gossip = gossip
        self._listed: list[str] = []
        self._touched: dict[str, set[str]] = {}
        # Messages that were touched since the last call of settle.
        self._news: list[tuple[str, str]] = []
        # Messages that are over and not settled, each by one place that is not everywhere yet.
        self._over: dict[Origin, list[tuple[int, str, str]]] = {}

    def decode(self, record: Record) -> Operation | None:
        """The operation of a record. One that this version does not know is kept on disk and
        forwarded, but not applied: a newer version may know it."""
        try:
            return decode(record.body)
        except Malformed:
            self.undecodable += 1
            return None

    def apply(self, applied: Iterable[Applied]) -> None:
        """Apply operations that are on disk. One that cannot be applied is counted and left out, as
        it would be at every start: it must not take the region with it."""
        for operation, record in applied:
            if operation is None:
                continue
            try:
                self._apply(operation, record)
            except Exception:
                self.unapplied += 1
                log.exception("%s/%d cannot be applied", record.origin, record.lsn)

    def _apply(self, operation: Operation, record: Record) -> None:
        session = self.session(operation.session)
        existed = session.exists
        own = record.origin.region == self._region
        session.apply(operation, Place(record.origin, record.lsn), own=own)
        if session.exists and not existed:
            insort(self._listed, session.id)
        elif existed and session.deleted:
            self._listed.remove(session.id)
        touched = self._touched.setdefault(session.id, set())
        match operation:
            case Open():
                self.clock.see(operation.header.created)
            case Create() | Metadata():
                self.clock.see(operation.hlc)
        if not isinstance(operation, Create | Metadata) and operation.message is not None:
            touched.add(operation.message)

    def take_touched(self) -> list[Session]:
        """The sessions that operations were applied to since the last call."""
        touched, self._touched = self._touched, {}
        self._news += [(session, id_) for session, ids in touched.items() for id_ in ids]
        return [self.sessions[id_] for id_ in touched]

    def _settle_or_wait(self, session: str, id_: str) -> None:
        message = self.sessions[session].messages.get(id_)
        if message is None or not message.is_over:
            return
        for origin, lsn in message.reach.items():
            if self._gossip.settled_lsn(origin) < lsn:
                heapq.heappush(self._over.setdefault(origin, []), (lsn, session, id_))
                return
        self.sessions[session].settle(id_)

    def settle(self) -> None:
        """Settle the messages that are over and have come to be on disk in every region. Touched
        sessions must have been refreshed."""
        news, self._news = self._news, []
        for session, id_ in news:
            self._settle_or_wait(session, id_)
        for origin, heap in list(self._over.items()):
            reached = self._gossip.settled_lsn(origin)
            while heap and heap[0][0] <= reached:
                _, session, id_ = heapq.heappop(heap)
                self._settle_or_wait(session, id_)
            if not heap:
                del self._over[origin]

    def session(self, id_: str) -> Session:
        """The session, made empty when it is unknown."""
        session = self.sessions.get(id_)
        if session is None:
            session = self.sessions[id_] = Session(id_)
        return session

    def forget_empty(self, id_: str) -> None:
        """Let go of a session that nobody has written to."""
        session = self.sessions.get(id_)
        if session is not None and session.is_blank:
            del self.sessions[id_]

    def page(self, after: str | None, limit: int) -> tuple[list[Session], bool]:
        """Existing sessions by id, after one; and whether there are more."""
        start = 0 if after is None else bisect_right(self._listed, after)
        ids = self._listed[start : start + limit]
        return [self.sessions[id_] for id_ in ids], start + limit < len(self._listed)

    def __len__(self) -> int:
        return len(self._listed)

    # Digests, for verify

    def digest(self, id_: str) -> str:
        """The digest of one session; an unknown one has that of an empty one."""
        session = self.sessions.get(id_)
        return (session or Session(id_)).whole().hex()

    def buckets(self) -> list[str]:
        """The sum of the sessions' digests in each of 4,096 buckets, as 16 hex digits."""
        sums = [0] * DIGEST_BUCKETS
        for session in self.sessions.values():
            if not session.is_blank:
                number = bucket(session.id, DIGEST_BUCKETS)
                whole = digest(8, session.id, session.whole())
                sums[number] = (sums[number] + int.from_bytes(whole, "big")) & _BUCKET_MASK
        return [f"{value:016x}" for value in sums]

    def in_buckets(self, numbers: Iterable[int]) -> dict[str, str]:
        """The digests of the sessions of some buckets."""
        wanted = set(numbers)
        return {
            session.id: session.whole().hex()
            for session in self.sessions.values()
            if not session.is_blank and bucket(session.id, DIGEST_BUCKETS) in wanted
        }
