"""The sessions of a region: applying what is on disk, and noticing when a message is settled."""

import heapq
from bisect import bisect_right, insort
from collections.abc import Iterable

from perdure.regions.writer import Applied
from perdure.replication.errors import Malformed
from perdure.replication.gossip import Gossip
from perdure.replication.hlc import HybridClock
from perdure.replication.ids import bucket, digest
from perdure.replication.lane import Place
from perdure.replication.operations import Create, Metadata, Open, Operation, decode
from perdure.replication.records import Origin, Record
from perdure.replication.session import Session

DIGEST_BUCKETS = 4_096
_BUCKET_MASK = 2**64 - 1


class State:
    """Everything that the records on disk say."""

    def __init__(self, region: str, gossip: Gossip) -> None:
        self.sessions: dict[str, Session] = {}
        self.clock = HybridClock()
        self.undecodable = 0
        self._region = region
        self._gossip = gossip
        self._listed: list[str] = []
        self._touched: dict[str, set[str]] = {}
        # Ended messages that are not settled, by the origin and lsn of what ended them.
        self._ended: dict[Origin, list[tuple[int, str, str]]] = {}

    def decode(self, record: Record) -> Operation | None:
        """The operation of a record. One that this version does not know is kept on disk and
        forwarded, but not applied: a newer version may know it."""
        try:
            return decode(record.body)
        except Malformed:
            self.undecodable += 1
            return None

    def apply(self, applied: Iterable[Applied]) -> None:
        """Apply operations that are on disk."""
        for operation, record in applied:
            if operation is not None:
                self._apply(operation, record)

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
        self._note_ended(touched)
        return [self.sessions[id_] for id_ in touched]

    def _note_ended(self, touched: dict[str, set[str]]) -> None:
        for session, messages in touched.items():
            for id_ in messages:
                message = self.sessions[session].messages.get(id_)
                if message is not None and message.ended_at is not None:
                    origin, lsn = message.ended_at[1]
                    heapq.heappush(self._ended.setdefault(origin, []), (lsn, session, id_))

    def settle(self) -> None:
        """Settle the messages whose end has come to be on disk in every region."""
        for origin, heap in self._ended.items():
            reached = self._gossip.settled_lsn(origin)
            while heap and heap[0][0] <= reached:
                _, session, id_ = heapq.heappop(heap)
                message = self.sessions[session].messages.get(id_)
                if message is None or message.shown is None or message.ended_at is None:
                    continue
                if message.shown.status != "streaming" and message.ended_at[0] == message.tip:
                    self.sessions[session].settle(id_)

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
