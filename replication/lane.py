"""A lane: the entries of one (session, message, producer, epoch), one writer, dense seq.

Rule of this file: the state of a lane is a pure function of the *set* of pieces it has been given,
whatever their order, duplication or cut. A piece names its place by seq and by the running digest
before it, so all pieces together form a tree rooted at the lane's name. The lane shows one path
through that tree: at every branching the entry with the smaller hash. An honest producer never
makes a branching (I2); a broken one gets the same settlement everywhere, with a whole suffix from
one hand, never an item-by-item mixture that nobody wrote.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from perdure.replication.errors import Damaged, Refusal
from perdure.replication.ids import LaneKey, digest
from perdure.replication.items import DIGEST_BYTES, End, Entry, chain_digest, entry_bytes
from perdure.replication.limits import MESSAGE_BYTES_MAX, MESSAGE_ITEMS_MAX
from perdure.replication.records import Origin


def root_digest(session: str, message: str, lane: LaneKey) -> bytes:
    """The digest of a lane before its first entry."""
    return digest(DIGEST_BYTES, "lane", session, message, lane.producer, str(lane.epoch))


class Place(NamedTuple):
    """Where an operation stands in an origin log."""

    origin: Origin
    lsn: int


@dataclass(frozen=True)
class Piece:
    """Entries from ``seq`` on, and the digest of the lane before the first of them."""

    seq: int
    before: bytes
    entries: tuple[Entry, ...]

    def digest(self) -> bytes:
        """A name for the place and the entries."""
        return digest(DIGEST_BYTES, str(self.seq), self.before, *map(entry_bytes, self.entries))


class Admitted(NamedTuple):
    """What a lane would take: ``fresh`` from ``seq`` on, after ``duplicates`` items."""

    seq: int
    fresh: tuple[Entry, ...]
    duplicates: int


class Lane:
    """The mirror of one lane. ``entries`` are shown in order; an :class:`End` can only be last."""

    def __init__(self, session: str, message: str, key: LaneKey) -> None:
        self.key = key
        self.entries: list[Entry] = []
        self.bytes = 0
        self.forked_at: int | None = None
        self.quarantined = 0
        # Grows by one whenever entries that were held are replaced: views must start over.
        self.generation = 0
        # The digests before entry ``_first`` and before each entry after it. A restored lane knows
        # only its last one; the others are computed when somebody asks for them.
        self._root = root_digest(session, message, key)
        self._first = 0
        self._digests = bytearray(self._root)
        # By the seq that they begin at: what waits may be as much as what is held.
        self._parked: dict[int, dict[Piece, None]] = {}
        # Pieces this region was first to accept and that may not be elsewhere yet: (seq, place).
        self._unstable: deque[tuple[int, Place]] = deque()

    @property
    def end(self) -> End | None:
        """The end, when the lane has one."""
        last = self.entries[-1] if self.entries else None
        return last if isinstance(last, End) else None

    @property
    def count(self) -> int:
        """How many items are held; the end is not counted."""
        return len(self.entries) - (self.end is not None)

    @property
    def parked(self) -> int:
        """How many pieces wait for what comes before them (or stand on a branch that lost)."""
        return sum(map(len, self._parked.values()))

    @property
    def forked(self) -> bool:
        """Whether two different contents of one seq were met."""
        return self.forked_at is not None

    def digest_at(self, seq: int) -> bytes:
        """The running digest before entry ``seq`` (0 to the number of entries).

        Raises ``Damaged`` when restored entries are not those that the stored digest was made of.
        """
        if seq < self._first:
            self._recompute()
        at = seq - self._first
        return bytes(self._digests[at * DIGEST_BYTES : (at + 1) * DIGEST_BYTES])

    def _recompute(self) -> None:
        running = self._root
        digests = bytearray(running)
        for entry in self.entries:
            running = chain_digest(running, entry)
            digests += running
        start = self._first * DIGEST_BYTES
        if digests[start:] != self._digests:
            raise Damaged(f"the entries of lane {self.key} are not those that were stored")
        self._first, self._digests = 0, digests

    # What is stored of a lane

    def restore(
        self,
        entries: list[Entry],
        last_digest: bytes,
        forked_at: int | None,
        quarantined: int,
        unstable: Iterable[tuple[int, Place]],
    ) -> None:
        """Take back what was stored of this lane, which must be new. ``last_digest`` is the digest
        after the entries."""
        self.entries = entries
        self.bytes = _size(entries)
        self._first, self._digests = len(entries), bytearray(last_digest)
        self.forked_at, self.quarantined = forked_at, quarantined
        self._unstable = deque(unstable)

    def unstable(self, stable_lsn: dict[Origin, int]) -> list[tuple[int, Place]]:
        """The pieces that this region was first to accept and that no other may have."""
        self.stable_entries(stable_lsn)
        return list(self._unstable)

    @property
    def pieces_parked(self) -> list[Piece]:
        """What waits for what comes before it."""
        return [piece for pieces in self._parked.values() for piece in pieces]

    def park(self, piece: Piece) -> None:
        """Take back a piece that waited."""
        self._parked.setdefault(piece.seq, {})[piece] = None

    def mark_fork(self, at: int) -> None:
        """Another region met two contents of entry ``at``."""
        self.forked_at = at if self.forked_at is None else min(at, self.forked_at)

    # Admission: what a client may append, with what the same batch has admitted already.

    def admit(
        self, seq: int, entries: tuple[Entry, ...], pending: tuple[Entry, ...] = ()
    ) -> Admitted:
        """What of ``entries`` is new. Raises ``Refusal``: ``conflict``, ``ended``, ``gap``,
        ``too_large``; the rule is the page of pseudo-code in PROTOCOL A.4."""
        held = len(self.entries)
        next_ = held + len(pending)
        duplicates = 0
        for entry in entries[: max(0, next_ - seq)]:
            at = seq + duplicates
            other = self.entries[at] if at < held else pending[at - held]
            if other != entry:
                self._refuse_different(other, at)
            duplicates += 1
        fresh = entries[duplicates:]
        if fresh:
            self._check_fresh(seq + duplicates, next_, fresh, pending)
        counted = duplicates - sum(isinstance(entry, End) for entry in entries[:duplicates])
        return Admitted(seq + duplicates, fresh, counted)

    def _refuse_different(self, other: Entry, at: int) -> None:
        if isinstance(other, End):
            raise Refusal("ended", f"this lane ended ({other.status}) at seq {at}")
        raise Refusal("conflict", f"another item is held at seq {at}", seq=at)

    def _check_fresh(
        self, at: int, next_: int, fresh: tuple[Entry, ...], pending: tuple[Entry, ...]
    ) -> None:
        end = self.end or next((e for e in pending if isinstance(e, End)), None)
        if end is not None:
            raise Refusal("ended", f"this lane ended ({end.status})")
        if at > next_:
            raise Refusal("gap", f"seq {at} is beyond what is held", expected=next_)
        if self.forked:
            raise Refusal("conflict", "this lane has two contents; claim the message anew")
        if next_ + len(fresh) > MESSAGE_ITEMS_MAX:
            raise Refusal(
                "too_large", "the message has too many items", limit_items=MESSAGE_ITEMS_MAX
            )
        if self.bytes + _size(pending) + _size(fresh) > MESSAGE_BYTES_MAX:
            raise Refusal("too_large", "the message is too large", limit_bytes=MESSAGE_BYTES_MAX)

    def digest_after(self, pending: tuple[Entry, ...]) -> bytes:
        """The running digest after what is held and what is pending."""
        running = self.digest_at(len(self.entries))
        for entry in pending:
            running = chain_digest(running, entry)
        return running

    # Merging: from this region's own log, or from peers; in any order.

    def merge(self, piece: Piece) -> None:
        """Take a piece into the lane; idempotent and commutative."""
        held, generation = len(self.entries), self.generation
        if not self._attach(piece):
            self.park(piece)
        elif self._parked:
            # What was held and stays has had its turn.
            replaced = self.generation != generation
            self._retry_parked((piece.seq if replaced else held) + 1)

    def holds(self, piece: Piece) -> bool:
        """Whether all of the piece is shown."""
        stop = piece.seq + len(piece.entries)
        same = tuple(self.entries[piece.seq : stop]) == piece.entries
        return same and self.digest_at(piece.seq) == piece.before

    def _retry_parked(self, seq: int) -> None:
        """Take in what waited for entries from before ``seq`` on. What hangs on one of them changes
        nothing before that one, so once through is enough, however much waits."""
        while seq <= len(self.entries) and self._parked:
            waiting = self._parked.pop(seq, {})
            for piece in waiting:
                if not self._attach(piece):
                    self.park(piece)
            seq += 1

    def _attach(self, piece: Piece) -> bool:
        """True when the piece hangs on the path that is shown, and has been dealt with."""
        held = len(self.entries)
        if piece.seq > held or self.digest_at(piece.seq) != piece.before:
            return False
        for index, entry in enumerate(piece.entries):
            at = piece.seq + index
            if at == held:
                self._extend(piece.entries[index:])
                return True
            if self.entries[at] != entry:
                self._fork(at, piece.entries[index:])
                return True
        return True

    def _extend(self, entries: tuple[Entry, ...]) -> None:
        running = self.digest_at(len(self.entries))
        for entry in entries:
            if self.end is not None:
                # Nothing follows an end; a peer that says otherwise is not believed.
                self.quarantined += 1
                continue
            running = chain_digest(running, entry)
            self._digests += running
            self.entries.append(entry)
            self.bytes += len(entry_bytes(entry))

    def _fork(self, at: int, entries: tuple[Entry, ...]) -> None:
        self.mark_fork(at)
        mine, theirs = self.entries[at], entries[0]
        if _rank(theirs) > _rank(mine):
            self.quarantined += len(entries)
            return
        self.digest_at(at)
        self.quarantined += len(self.entries) - at
        self.bytes -= _size(self.entries[at:])
        del self.entries[at:]
        del self._digests[(at + 1 - self._first) * DIGEST_BYTES :]
        self.generation += 1
        self._extend(entries)

    # Stability: what is on disk in another region too.

    def own(self, seq: int, place: Place) -> None:
        """This region was the first to accept the piece at ``seq``."""
        self._unstable.append((seq, place))

    def stable_entries(self, stable_lsn: dict[Origin, int]) -> int:
        """How many entries, from the first on, are on disk in another region too."""
        while self._unstable:
            _, place = self._unstable[0]
            if place.lsn > stable_lsn.get(place.origin, 0):
                return min(self._unstable[0][0], len(self.entries))
            self._unstable.popleft()
        return len(self.entries)


def _rank(entry: Entry) -> bytes:
    return digest(DIGEST_BYTES, entry_bytes(entry))


def _size(entries: tuple[Entry, ...] | list[Entry]) -> int:
    return sum(len(entry_bytes(entry)) for entry in entries)
