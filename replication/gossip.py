"""What to send to which peer, and what is known to be on whose disk. A machine without I/O.

Rule of this file: only fsynced lsns are ever told or sent; a vector only grows, record by record
without a gap; time is an argument, in milliseconds of a monotonic clock.

Each region dials every peer it knows and pushes over that link. Own records go at once. Records of
a third region go only when the peer still lacks them a while after we had them: in a full mesh
nothing is sent twice, and where A and C cannot reach each other, B carries their records.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from perdure.replication.peers import (
    BATCH_BYTES_MAX,
    BATCH_BYTES_START,
    PROMPT_MS,
    Flight,
    Peer,
    Recent,
)
from perdure.replication.records import ABSORBED, Origin, Record, Vector

BATCH_ORIGINS_MAX = 200
RECENT_BYTES_MAX = 8_388_608
# What CPython needs for a record besides its body: the tuple, two ints, the head of the bytes.
RECORD_OVERHEAD_BYTES = 180


class Batch(NamedTuple):
    """Records to send now, in order."""

    records: list[Record]


class ReadLog(NamedTuple):
    """The peer is behind what is in memory: read these from the log and send them; when there is
    nothing to read, say so by :meth:`Gossip.unreadable`."""

    origin: Origin
    after_lsn: int
    bytes_max: int


class Gossip:
    """The gossip of one region. The shell tells it what happened and does what it says."""

    def __init__(self, me: Origin, peers: Iterable[str]) -> None:
        self.me = me
        self.vector: Vector = {}
        # Up to here the logs are no longer on disk: what is in them is in the sessions alone.
        self.floors: Vector = {}
        # Whatever is deleted up to here is gone from this disk; None: by all that is held.
        self.erased: Vector | None = None
        self.peers: dict[str, Peer] = {name: Peer(name) for name in peers}
        # The regions that were removed for good, each with the place of the record that says so,
        # where that is known.
        self.gone: dict[str, tuple[Origin, int] | None] = {}
        self._stable: Vector = {}
        self._recent: dict[Origin, Recent] = {}
        self._recent_order: deque[Origin] = deque()
        self._recent_bytes = 0

    def recovered(self, vector: Vector, floors: Vector) -> None:
        """What is on disk at the start, and from where on it is in the logs."""
        self.vector, self.floors = dict(vector), dict(floors)

    def jumped(self, vector: Vector) -> None:
        """Everything up to these lsns is on disk now, though not in the logs."""
        for origin, lsn in vector.items():
            self.vector[origin] = self.floors[origin] = lsn
            recent = self._recent.pop(origin, None)
            if recent is not None:
                self._recent_bytes -= sum(map(_memory_bytes, recent.records))
                others = (other for other in self._recent_order if other != origin)
                self._recent_order = deque(others)

    def is_below(self, name: str) -> bool:
        """Whether a peer lacks what is no longer in the logs: it must take it from the sessions."""
        peer = self.peers[name]
        return any(
            peer.vector.get(origin, 0) < floor and self._recent_after(origin, peer) is None
            for origin, floor in self.floors.items()
            if not self._accepts_itself(peer, origin)
        )

    def _recent_after(self, origin: Origin, peer: Peer) -> int | None:
        recent = self._recent.get(origin)
        return None if recent is None else recent.after(peer.vector.get(origin, 0))

    @staticmethod
    def _accepts_itself(peer: Peer, origin: Origin) -> bool:
        return origin.region == peer.name and origin.incarnation == peer.incarnation

    def comes_itself(self, origin: Origin) -> bool:
        """Whether the region of this origin is linked and still sends what it accepted."""
        peer = self.peers.get(origin.region)
        return peer is not None and peer.connected and self._accepts_itself(peer, origin)

    def on_every_disk(self) -> Vector:
        """The lsn of each origin up to which every configured peer says that it has it."""
        return {
            origin: min([held, *(peer.vector.get(origin, 0) for peer in self.peers.values())])
            for origin, held in self.vector.items()
        }

    def stored(self, records: Sequence[Record], now_ms: int) -> None:
        """These records, contiguous for each origin, are on disk now."""
        for record in records:
            held = self.vector.get(record.origin, 0)
            assert record.lsn == held + 1, "a vector advances without a gap"
            self.vector[record.origin] = record.lsn
            recent = self._recent.setdefault(record.origin, Recent())
            recent.add(record, now_ms)
            self._recent_order.append(record.origin)
            self._recent_bytes += _memory_bytes(record)
        while self._recent_bytes > RECENT_BYTES_MAX:
            self._drop_oldest()
        for peer in self.peers.values():
            self._confirm(peer)

    def _drop_oldest(self) -> None:
        recent = self._recent[self._recent_order.popleft()]
        self._recent_bytes -= _memory_bytes(recent.records.popleft())

    def deleting(self) -> None:
        """What comes to be on disk next deletes something that is not gone yet."""
        if self.erased is None:
            self.erased = dict(self.vector)

    def replace(self, instead: Callable[[Record], Record]) -> None:
        """Other bodies stand in the logs now, at the same lsns."""
        for recent in self._recent.values():
            replaced = [instead(record) for record in recent.records]
            self._recent_bytes -= sum(map(_memory_bytes, recent.records))
            self._recent_bytes += sum(map(_memory_bytes, replaced))
            recent.records = deque(replaced)

    def admit(self, records: Sequence[Record]) -> tuple[list[Record], bool]:
        """Of what a peer sent, the records to store; and whether some lie beyond a gap (they are
        dropped, and the peer must be told the full vector). Nobody else accepts for this region:
        records of its own running incarnation are skipped."""
        fresh: list[Record] = []
        reached: Vector = {}
        beyond = False
        for record in records:
            if record.origin in (self.me, ABSORBED):
                continue
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
        peer.rewind(vector)
        peer.batch_bytes = BATCH_BYTES_START
        peer.unreadable.clear()
        # A peer that lost its disk reports less than before: believe the report.
        peer.confirmed, peer.unconfirmed, peer.newer = {}, None, None
        self.heard(name, vector, True, now_ms)

    def lost(self, name: str) -> None:
        """The link is closed; what the peer has on disk it still has."""
        if (peer := self.peers.get(name)) is not None:
            peer.connected = False

    # Regions come, and go for good

    def join(self, name: str) -> None:
        """Another region is to have everything from now on."""
        self.peers.setdefault(name, Peer(name))

    def part(self, name: str) -> None:
        """Nothing is kept for a region any more, nor sent to it, nor is it waited for."""
        self.peers.pop(name, None)

    def forgotten(self, name: str, place: tuple[Origin, int] | None) -> None:
        """A region was removed for good; ``place``: of the record that says so.

        What it had accepted may still be at one peer and nowhere else. So the peers' reports begin
        anew: one counts from when the peer itself takes nothing from that region any more.
        """
        self.part(name)
        self.gone[name] = place
        for peer in self.peers.values():
            peer.confirmed, peer.unconfirmed, peer.newer = {}, None, None

    def heard(self, name: str, vector: Vector | None, full: bool, now_ms: int) -> None:
        """A sign of life, perhaps with what the peer has on disk (``full``: all of it).

        A full report is believed also where it is lower: a late one of a process that has lost
        its disk since must not hide for ever what the peer lacks. What is ``stable`` stays so.
        """
        peer = self.peers.get(name)
        if peer is None:
            return
        peer.heard_ms = now_ms
        if vector is None:
            return
        if full:
            peer.vector = dict(vector)
        for origin, lsn in vector.items():
            if lsn > peer.vector.get(origin, 0):
                peer.vector[origin] = lsn
            if origin.region == self.me.region and lsn > self._stable.get(origin, 0):
                self._stable[origin] = lsn
        self._land(peer, now_ms)
        if full and self._knows_who_is_gone(peer.vector):
            # The oldest report waits until it can be vouched for, else a steady stream of newer
            # ones would put that off for ever.
            if peer.unconfirmed is None:
                peer.unconfirmed = peer.vector.copy()
            else:
                peer.newer = peer.vector.copy()
            self._confirm(peer)

    def heard_erased(self, name: str, vector: Vector) -> None:
        """The peer says that whatever is deleted up to here is gone from its disk."""
        if (peer := self.peers.get(name)) is not None:
            peer.erased = dict(vector)

    def resend(self, name: str) -> None:
        """The peer met a gap, and its full vector was heard: go on from that."""
        peer = self.peers.get(name)
        if peer is not None:
            peer.rewind(peer.vector)

    @staticmethod
    def _land(peer: Peer, now_ms: int) -> None:
        """Take what is acknowledged out of the window."""
        while peer.in_flight:
            flight = peer.in_flight[0]
            if peer.vector.get(flight.origin, 0) < flight.lsn:
                break
            peer.in_flight.popleft()
            peer.in_flight_bytes -= flight.bytes
            peer.acknowledged_in_ms = now_ms - flight.sent_ms
            if now_ms - flight.sent_ms < PROMPT_MS:
                peer.batch_bytes = min(2 * peer.batch_bytes, BATCH_BYTES_MAX)

    def _confirm(self, peer: Peer) -> None:
        while peer.unconfirmed is not None and self._vouches_for(peer, peer.unconfirmed):
            for origin, lsn in peer.unconfirmed.items():
                peer.confirmed[origin] = max(lsn, peer.confirmed.get(origin, 0))
            peer.unconfirmed, peer.newer = peer.newer, None

    def _vouches_for(self, peer: Peer, report: Vector) -> bool:
        """Whether this region has all that the peer had accepted when it reported, and all that it
        then had of regions that are gone: nobody else vouches for those."""
        return all(
            self.vector.get(origin, 0) >= lsn
            for origin, lsn in report.items()
            if origin.region == peer.name or origin.region in self.gone
        )

    def _knows_who_is_gone(self, report: Vector) -> bool:
        places = [place for place in self.gone.values() if place is not None]
        return all(report.get(origin, 0) >= lsn for origin, lsn in places)

    # What to send

    def next_batch(self, name: str, now_ms: int) -> Batch | ReadLog | None:
        """What to send to a peer now; None when there is nothing or the window is full.

        Own records come first. Where there is more than a batch, memory and log take turns, and
        so do origins: neither a long backlog nor a loud origin keeps the others waiting.
        """
        peer = self.peers[name]
        if not peer.connected or peer.in_flight_bytes >= peer.window_bytes:
            return None
        peer.asked_ms = now_ms
        batch: list[Record] = []
        old: list[ReadLog] = []
        room = peer.batch_bytes
        origins = 0
        for origin, after, last in self._lacking(peer, now_ms):
            if peer.unreadable.get(origin) == after:
                continue
            recent = self._recent.get(origin)
            index = recent.after(after) if recent is not None else None
            if recent is None or index is None:
                if after < self.floors.get(origin, 0):
                    # It is told so, and comes for the sessions themselves.
                    continue
                old.append(ReadLog(origin, after, peer.batch_bytes))
            elif room > 0 and origins < BATCH_ORIGINS_MAX:
                origins += 1
                room = self._fill(batch, recent, index, last, room)
        if old and (peer.log_turn or not batch):
            peer.log_turn = False
            step = next((step for step in old if step.origin != peer.last_read), old[0])
            peer.last_read = step.origin
            return step
        peer.log_turn = bool(old)
        if not batch:
            return None
        peer.last_sent = batch[0].origin if room <= 0 else None
        return Batch(batch)

    def _lacking(self, peer: Peer, now_ms: int) -> Iterator[tuple[Origin, int, int]]:
        """The origins of which the peer lacks something that is due: (origin, after, last)."""
        order = [self.me, *(origin for origin in self.vector if origin != self.me)]
        if peer.last_sent is not None:
            order.sort(key=lambda origin: origin == peer.last_sent)
        for origin in order:
            after = max(peer.sent.get(origin, 0), peer.vector.get(origin, 0))
            last = self._last_due(peer, origin, now_ms)
            if after < last:
                yield origin, after, last

    @staticmethod
    def _fill(batch: list[Record], recent: Recent, index: int, last: int, room: int) -> int:
        """Add records up to ``last`` while there is room; the room that is left, 0 when the next
        did not fit. One record that is larger than a batch goes alone."""
        for at in range(index, len(recent.records)):
            record = recent.records[at]
            if record.lsn > last:
                return room
            if batch and len(record.body) > room:
                return 0
            batch.append(record)
            room -= len(record.body)
        return room

    def unreadable(self, name: str, step: ReadLog) -> None:
        """What comes next of the origin cannot be sent (it is damaged, or too large for a frame):
        do not ask for it again until the peer has got past it from elsewhere, or comes anew."""
        self.peers[name].unreadable[step.origin] = step.after_lsn

    def _last_due(self, peer: Peer, origin: Origin, now_ms: int) -> int:
        """The greatest lsn of the origin that is to be sent to the peer by now."""
        held = self.vector.get(origin, 0)
        if origin.region == self.me.region:
            return held
        if self._accepts_itself(peer, origin):
            return 0
        recent = self._recent.get(origin)
        # Nothing of it arrived since the start: all of it is old.
        return held if recent is None else max(recent.due_lsn(now_ms), recent.first - 1)

    def sent(self, name: str, records: Sequence[Record]) -> None:
        """These records, the answer to :meth:`next_batch`, were handed to the link."""
        peer = self.peers[name]
        sizes: dict[Origin, int] = {}
        for record in records:
            peer.sent[record.origin] = max(record.lsn, peer.sent.get(record.origin, 0))
            sizes[record.origin] = sizes.get(record.origin, 0) + len(record.body)
        for origin, size in sizes.items():
            peer.in_flight.append(Flight(origin, peer.sent[origin], size, peer.asked_ms))
            peer.in_flight_bytes += size

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


def _memory_bytes(record: Record) -> int:
    return len(record.body) + RECORD_OVERHEAD_BYTES
