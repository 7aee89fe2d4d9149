"""What a region knows of each peer, and the newest records that peers may still lack."""

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from perdure.replication.records import Origin, Record, Vector

SUSPECT_MS = 3_000
DOWN_MS = 10_000
FORWARD_DELAY_MS = 1_500
WINDOW_BYTES_MAX = 4_194_304
BATCH_BYTES_MAX = 262_144
# A link starts with small batches, so that each reaches even a peer at 1 KB/s before its link
# counts as idle (10 s), and doubles them while they are acknowledged within a second.
BATCH_BYTES_START = 4_096
BATCHES_IN_FLIGHT_MAX = WINDOW_BYTES_MAX // BATCH_BYTES_MAX
PROMPT_MS = 1_000


class Flight(NamedTuple):
    """Records up to an lsn that were sent together and are not acknowledged yet."""

    origin: Origin
    lsn: int
    bytes: int
    sent_ms: int


@dataclass
class Peer:
    """What is known of one peer. ``vector`` is kept while it is away: its disk keeps it too."""

    name: str
    vector: Vector = field(default_factory=dict)
    # Reports of the vector that this region can vouch for: see settled_lsn.
    confirmed: Vector = field(default_factory=dict)
    # It has said that whatever is deleted up to here is gone from its disk. The last word counts,
    # also where that is less than before: its disk may be another.
    erased: Vector = field(default_factory=dict)
    unconfirmed: Vector | None = None
    newer: Vector | None = None
    incarnation: int | None = None
    connected: bool = False
    heard_ms: int | None = None
    sent: Vector = field(default_factory=dict)
    in_flight: deque[Flight] = field(default_factory=deque)
    in_flight_bytes: int = 0
    batch_bytes: int = BATCH_BYTES_START
    asked_ms: int = 0
    # How long the batch that was acknowledged last took to be on the peer's disk.
    acknowledged_in_ms: int | None = None
    # Whose turn it is when memory and log, or several origins, have more than a batch to send.
    log_turn: bool = False
    last_sent: Origin | None = None
    last_read: Origin | None = None
    # Where the log of an origin could not be read on.
    unreadable: Vector = field(default_factory=dict)

    @property
    def window_bytes(self) -> int:
        """How much may be on the way to the peer without an acknowledgement."""
        return self.batch_bytes * BATCHES_IN_FLIGHT_MAX

    def rewind(self, vector: Vector) -> None:
        """Nothing is on the way any more: go on from what the peer has."""
        self.sent = dict(vector)
        self.in_flight.clear()
        self.in_flight_bytes = 0

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
        # Nobody may ever ask for what is due, so what is no longer young goes here; and records
        # of one millisecond share an entry: this stays short whatever the rate.
        self.due_lsn(now_ms)
        if self._young and self._young[-1][0] == now_ms:
            self._young.pop()
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
