"""How far behind each peer is, in records, bytes and seconds.

A mark once a second of what is on disk here says how old the oldest record is that a peer has not
confirmed, without a time on each record: it came after the newest mark that the peer has reached.
"""

from bisect import bisect_left
from typing import NamedTuple

from perdure.replication.gossip import Gossip
from perdure.replication.limits import LAG_MARKS_MAX
from perdure.replication.records import Vector


class Mark(NamedTuple):
    """What was on disk at a time, and how much had ever been logged by then, in bytes."""

    at_ms: int
    vector: Vector
    log_bytes: int


class Behind(NamedTuple):
    """What a peer has not confirmed. ``bytes``: by the average size of what was logged since, None
    where that was before this start; ``seconds``: the age of the oldest, to within a second; it is
    at least that where the peer has been behind since this start."""

    operations: int
    bytes: int | None
    seconds: float


class Lag:
    """The marks of one region."""

    def __init__(self, gossip: Gossip) -> None:
        self._gossip = gossip
        self._marks: list[Mark] = []

    def mark(self, now_ms: int, log_bytes: int) -> None:
        """A second has passed."""
        vector = self._gossip.vector
        if self._marks and self._marks[-1].vector == vector:
            return
        if len(self._marks) >= LAG_MARKS_MAX:
            # Every other one of the older half: the longer it is ago, the less it matters when.
            half = len(self._marks) // 2
            self._marks = [*self._marks[:half:2], *self._marks[half:]]
        self._marks.append(Mark(now_ms, dict(vector), log_bytes))

    def of(self, name: str, now_ms: int, log_bytes: int) -> Behind:
        """How far behind a peer is now."""
        operations = self._gossip.behind(name)
        if not operations:
            return Behind(0, 0, 0.0)
        theirs = self._gossip.peers[name].vector

        def lacks(mark: Mark) -> bool:
            return any(theirs.get(origin, 0) < lsn for origin, lsn in mark.vector.items())

        # Vectors grow: who lacks something of a mark lacks something of all after it.
        first = bisect_left(self._marks, True, key=lacks)
        first_ms = self._marks[first].at_ms if first < len(self._marks) else now_ms
        seconds = round((now_ms - first_ms) / 1000, 3)
        if not first:
            return Behind(operations, None, seconds)
        reached = self._marks[first - 1]
        held = self._gossip.vector
        since = sum(lsn - reached.vector.get(origin, 0) for origin, lsn in held.items())
        size = (log_bytes - reached.log_bytes) * operations // max(1, since, operations)
        return Behind(operations, size, seconds)
