"""What to send to which peer, and what is known to be on whose disk. A machine without I/O.

Rule of this file: only fsynced lsns are ever told or sent; a vector only grows, record by record
without a gap; time is an argument, in milliseconds of a monotonic clock.

Each region dials every peer it knows and pushes over that link. Own records go at once. Records of
a third region go only when the peer still lacks them a while after we had them: in a full mesh
nothing is sent twice, and where A and C cannot reach each other, B carries their records.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from perdure.replication.records import Origin, Record, Vector

SUSPECT_MS = 3_000
DOWN_MS = 10_000
FORWARD_DELAY_MS = 1_500
WINDOW_BYTES_MAX = 4_194_304
BATCH_BYTES_MAX = 262_144
BATCH_ORIGINS_MAX = 200
RECENT_BYTES_MAX = 8_388_608


class Batch(NamedTuple):
    """Records to send now, in order."""

    records: list[Record]


class ReadLog(NamedTuple):
    """The peer is behind what is in memory: read these from the log, then ``offer`` them."""

    origin: Origin
    after_lsn: int
    bytes_max: int


@dataclass
class Peer:
    """What is known of one peer. ``vector`` is kept while it is away: its disk keeps it too."""

    name: str
    vector: Vector = field(default_factory=dict)
    # Reports of the vector that this region can vouch for: see settled_lsn.
    confirmed: Vector = field(default_factory=dict)
    unconfirmed: Vector | None = None
    incarnation: int | None = None
    connected: bool = False
    heard_ms: int | None = None
    sent: Vector = field(default_factory=dict)
    in_flight: deque[tuple[Origin, int, int]] = field(default_factory=deque)
    in_flight_bytes: int = 0

    def state(self, now_ms: int) -> str:
        """``up``, ``suspect`` (may be late) or ``down`` (no sign of life)."""
        if self.heard_ms is None or now_ms - self.heard_ms >= DOWN_MS:
            return "down"
        if not self.connected or now_ms - self.heard_ms >= SUSPECT_MS:
            return "suspect"
        return "up"


class Recent:
    """The newest records of one origin, as far as memory allows."""

    def __init__(self) -> None:
        self.records: deque[Record] = deque()
        # (stored at, lsn) of the records that it is too early to forward.
        self._young: deque[tuple[int, int]] = deque()
        self._due_lsn = 0
        # The first lsn that arrived since the start; what is older was recovered from disk.
        self.first = 0

    def add(self, record: Record, now_ms: int) -> None:
        """One more record, stored now."""
        self.first = self.first or record.lsn
        self.records.append(record)
        self._young.append((now_ms, record.lsn))

    def due_lsn(self, now_ms: int) -> int:
        """The greatest lsn that was stored long enough ago to be forwarded."""
        while self._young and self._young[0][0] + FORWARD_DELAY_MS <= now_ms:
            self._due_lsn = self._young.popleft()[1]
        return self._due_lsn

    def after(self, lsn: int) -> int | None:
        """The index of the record after ``lsn``; None when it is no longer here."""
        if not self.records or not self.records[0].lsn <= lsn + 1 <= self.records[-1].lsn:
            return None
        return lsn + 1 - self.records[0].lsn


class Gossip:
    """The gossip of one region. The shell tells it what happened and does what it says."""

    def __init__(self, me: Origin, peers: Iterable[str]) -> None:
        self.me = me
        self.vector: Vector = {}
        self.peers: dict[str, Peer] = {name: Peer(name) for name in peers}
        self._stable: Vector = {}
        self._recent: dict[Origin, Recent] = {}
        self._recent_order: deque[Origin] = deque()
        self._recent_bytes = 0

    def recovered(self, vector: Vector) -> None:
        """What is on disk at the start."""
        self.vector = dict(vector)

    def stored(self, records: Sequence[Record], now_ms: int) -> None:
        """These records, contiguous for each origin, are on disk now."""
        for record in records:
            held = self.vector.get(record.origin, 0)
            assert record.lsn == held + 1, "a vector advances without a gap"
            self.vector[record.origin] = record.lsn
            recent = self._recent.setdefault(record.origin, Recent())
            recent.add(record, now_ms)
            self._recent_order.append(record.origin)
            self._recent_bytes += len(record.body)
        while self._recent_bytes > RECENT_BYTES_MAX:
            self._drop_oldest()
        for peer in self.peers.values():
            self._confirm(peer)

    def _drop_oldest(self) -> None:
        recent = self._recent[self._recent_order.popleft()]
        self._recent_bytes -= len(recent.records.popleft().body)

    def admit(self, records: Sequence[Record]) -> tuple[list[Record], bool]:
        """Of what a peer sent, the records to store; and whether some lie beyond a gap (they are
        dropped, and the peer must be told the full vector)."""
        fresh: list[Record] = []
        reached: Vector = {}
        beyond = False
        for record in records:
            held = reached.get(record.origin, self.vector.get(record.origin, 0))
            if record.lsn == held + 1:
                fresh.append(record)
                reached[record.origin] = record.lsn
            elif record.lsn > held:
                beyond = True
        return fresh, beyond

    # Peers come, report, and go

    def connected(self, name: str, origin: Origin, vector: Vector, now_ms: int) -> None:
        """A link to the peer is open: what it lacks is sent from its own vector on."""
        peer = self.peers[name]
        peer.connected = True
        peer.incarnation = origin.incarnation
        peer.in_flight.clear()
        peer.in_flight_bytes = 0
        # A peer that lost its disk reports less than before: believe the report.
        peer.vector, peer.confirmed, peer.unconfirmed = {}, {}, None
        peer.sent = dict(vector)
        self.heard(name, vector, True, now_ms)

    def lost(self, name: str) -> None:
        """The link is closed; what the peer has on disk it still has."""
        self.peers[name].connected = False

    def heard(self, name: str, vector: Vector | None, full: bool, now_ms: int) -> None:
        """A sign of life, perhaps with the peer's vector (``full``: all of it, and what it does
        not have of what was sent must be sent again)."""
        peer = self.peers.get(name)
        if peer is None:
            return
        peer.heard_ms = now_ms
        if vector is None:
            return
        for origin, lsn in vector.items():
            if lsn > peer.vector.get(origin, 0):
                peer.vector[origin] = lsn
            if origin.region == self.me.region and lsn > self._stable.get(origin, 0):
                self._stable[origin] = lsn
        while peer.in_flight and self._has(peer, peer.in_flight[0]):
            peer.in_flight_bytes -= peer.in_flight.popleft()[2]
        if full:
            peer.unconfirmed = dict(vector)
            self._confirm(peer)

    def resend(self, name: str) -> None:
        """The peer met a gap: go on from what it has."""
        peer = self.peers[name]
        peer.sent = dict(peer.vector)
        peer.in_flight.clear()
        peer.in_flight_bytes = 0

    @staticmethod
    def _has(peer: Peer, flight: tuple[Origin, int, int]) -> bool:
        return peer.vector.get(flight[0], 0) >= flight[1]

    def _confirm(self, peer: Peer) -> None:
        report = peer.unconfirmed
        if report is None:
            return
        own = [origin for origin in report if origin.region == peer.name]
        if all(self.vector.get(origin, 0) >= report[origin] for origin in own):
            for origin, lsn in report.items():
                peer.confirmed[origin] = max(lsn, peer.confirmed.get(origin, 0))
            peer.unconfirmed = None

    # What to send

    def next_batch(self, name: str, now_ms: int) -> Batch | ReadLog | None:
        """What to send to a peer now; None when there is nothing or the window is full."""
        peer = self.peers[name]
        if not peer.connected or peer.in_flight_bytes >= WINDOW_BYTES_MAX:
            return None
        batch: list[Record] = []
        size = 0
        origins = 0
        for origin in self.vector:
            if origins >= BATCH_ORIGINS_MAX:
                break
            after = max(peer.sent.get(origin, 0), peer.vector.get(origin, 0))
            last = self._last_due(peer, origin, now_ms)
            if after >= last:
                continue
            recent = self._recent.get(origin)
            index = recent.after(after) if recent is not None else None
            if recent is None or index is None:
                return Batch(batch) if batch else ReadLog(origin, after, BATCH_BYTES_MAX)
            origins += 1
            while index < len(recent.records) and recent.records[index].lsn <= last:
                record = recent.records[index]
                if batch and size + len(record.body) > BATCH_BYTES_MAX:
                    return Batch(batch)
                batch.append(record)
                size += len(record.body)
                index += 1
        return Batch(batch) if batch else None

    def _last_due(self, peer: Peer, origin: Origin, now_ms: int) -> int:
        """The greatest lsn of the origin that is to be sent to the peer by now."""
        held = self.vector[origin]
        if origin.region == self.me.region:
            return held
        if origin.region == peer.name and origin.incarnation == peer.incarnation:
            return 0
        recent = self._recent.get(origin)
        # Nothing of it arrived since the start: all of it is old.
        return held if recent is None else max(recent.due_lsn(now_ms), recent.first - 1)

    def sent(self, name: str, records: Sequence[Record]) -> None:
        """These records were handed to the link."""
        peer = self.peers[name]
        for record in records:
            peer.sent[record.origin] = max(record.lsn, peer.sent.get(record.origin, 0))
            peer.in_flight.append((record.origin, record.lsn, len(record.body)))
            peer.in_flight_bytes += len(record.body)

    # What is known to be where

    def stable_vector(self) -> Vector:
        """For each origin the greatest lsn that is on disk in a region besides this one."""
        return self._stable

    def is_stable(self, origin: Origin, lsn: int) -> bool:
        """Whether the record is on disk in a region besides this one. What another region was first
        to accept it had on disk before it sent it."""
        return origin.region != self.me.region or self._stable.get(origin, 0) >= lsn

    def settled_lsn(self, origin: Origin) -> int:
        """The lsn up to which every configured peer has the origin on disk.

        A peer's report counts only once this region has everything that the peer itself had
        accepted by then: what it had admitted before it knew can no longer be on its way.
        """
        held = self.vector.get(origin, 0)
        return min([held, *(peer.confirmed.get(origin, 0) for peer in self.peers.values())])

    def lacks_own(self, name: str) -> bool:
        """Whether the peer lacks something that this region was the first to accept."""
        vector = self.peers[name].vector
        return any(
            origin.region == self.me.region and vector.get(origin, 0) < lsn
            for origin, lsn in self.vector.items()
        )

    def behind(self, name: str) -> int:
        """How many records of ours the peer has not reported yet."""
        peer = self.peers[name]
        return sum(max(0, lsn - peer.vector.get(o, 0)) for o, lsn in self.vector.items())
