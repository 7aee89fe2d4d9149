"""What a region counts of what it does, from its start on; read by `/metrics` and the admin page.

Counting is adding to a number: what is counted on the way of a token costs nanoseconds. How it is
written for others to read is another's (``api/metrics.py``).
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from perdure.replication.limits import METER_SERIES_MAX

# What a label says where there are more values than are counted apart.
OTHER = "other"
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# What may have waited for a link that was down.
LONG_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 3600.0)
WRITES = (1, 2, 4, 8, 16, 32, 64, 128)


class Counter:
    """A number that only grows, for each combination of the values of its labels; of at most
    ``METER_SERIES_MAX`` combinations, the others together as ``other``."""

    def __init__(self, name: str, text: str, labels: Sequence[str] = ()) -> None:
        self.name, self.text, self.labels = name, text, tuple(labels)
        self._values: dict[tuple[str, ...], float] = {} if labels else {(): 0}

    def add(self, amount: float = 1, *values: str) -> None:
        """Count; ``values`` are of its labels, in their order."""
        known = self._values
        if values not in known and len(known) >= METER_SERIES_MAX:
            values = (OTHER,) * len(self.labels)
        known[values] = known.get(values, 0) + amount

    def value(self, *values: str) -> float:
        """The count of these values; without any, of all together."""
        return self._values.get(values, 0) if values else sum(self._values.values())

    def series(self) -> Iterator[tuple[tuple[str, ...], float]]:
        """Every combination that was counted, and its count."""
        yield from sorted(self._values.items())


class Gauge(Counter):
    """A number that grows and shrinks, for each combination of the values of its labels."""


class Histogram:
    """How often something took how long (or was how large): counts up to each bound."""

    def __init__(self, name: str, text: str, bounds: Sequence[float] = SECONDS) -> None:
        self.name, self.text, self.bounds = name, text, tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """How many were observed."""
        return sum(self.counts)

    def quantile(self, part: float, before: Sequence[int] | None = None) -> float | None:
        """The bound below which a part (0 to 1) of the observations is, of those since ``before``
        (counts of then) where given; None where there were none, infinity beyond all bounds."""
        counts = (
            self.counts
            if before is None
            else [a - b for a, b in zip(self.counts, before, strict=True)]
        )
        due = part * sum(counts)
        if not due:
            return None
        for bound, count in zip((*self.bounds, float("inf")), counts, strict=True):
            due -= count
            if due <= 0:
                return bound
        return float("inf")


class Queue(NamedTuple):
    """Something of which only so much may wait or be open."""

    name: str
    items: int
    limit: int


class Meters:
    """Everything that is counted. Names are without the prefix ``perdure_``; units come last.

    ``now``: monotonic seconds, by which what takes time is measured."""

    def __init__(self, now: Callable[[], float] = lambda: 0.0) -> None:
        self.now = now
        # Who else knows how much waits, asked each time.
        self.queues: list[Callable[[], Iterable[Queue]]] = []
        self.tokens = Counter("tokens", "Items of token logs that were admitted here")
        self.duplicates = Counter("duplicates", "Items that were admitted before: retries")
        self.fenced = Counter("fenced", "Appends of writers that another had taken over from")
        self.events = Counter("events", "Events that were handed to readers")
        self.errors = Counter("errors", "Refusals and failures by code", ["code"])
        self.requests = Counter("requests", "Requests by operation and status", ["op", "status"])
        self.resumes = Counter(
            "resumes", "Readers that came back with a cursor, by outcome", ["outcome"]
        )
        self.commits = Counter("commits", "Group commits")
        self.limited = Counter(
            "limited", "Requests refused because a limit was reached (429), by limit", ["limit"]
        )
        self.audit_failures = Counter(
            "audit_failures", "Actions that could not be noted in the audit log"
        )
        self.connections = Gauge(
            "connections", "Streams, sockets and polls that are open", ["transport"]
        )
        self.commit_seconds = Histogram("commit_seconds", "Of a group commit, with its fsync")
        self.commit_writes = Histogram(
            "commit_writes", "Writes and arrivals from peers that one commit answered", WRITES
        )
        self.append_seconds = Histogram("append_seconds", "From an append to its acknowledgement")
        self.delivery_seconds = Histogram(
            "delivery_seconds",
            "From a commit here to its events being handed to a reader that waits",
        )
        self.gossip_seconds = Histogram(
            "gossip_seconds",
            "From an operation's birth by the clock of its region to its commit here by this"
            " region's; of those that carry a time. Below 0 counts as 0",
            LONG_SECONDS,
        )
        self.loop_lag_seconds = Histogram(
            "loop_lag_seconds", "How late the tick of each second came: the loop was busy"
        )

    def all(self) -> Iterator[Counter | Histogram]:
        """Each of them."""
        yield from (one for one in vars(self).values() if isinstance(one, Counter | Histogram))
