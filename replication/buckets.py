"""Token buckets in a bounded table: how much each name may still ask for.

A bucket is one number, the time at which it is full again (the generic cell rate algorithm): one
that is full says as much as none. So what is full is let go of, and nobody gains by that. What owes
something is never let go of, however many other names come: a name for which there is no room draws
from a bucket that it shares with others of its kind, until there is. Whoever comes with many names
to push a debt out of the table so only gets less for them, and less for who is as new as they are.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from zlib import crc32

from perdure.replication.limits import BUCKETS_MAX, BUCKETS_SHARED_MAX

# A name that is new in a table looks at so many of the oldest, which is how those leave that are
# full: at twice the pace at which names come, the table holds no more than owe something, and about
# as many again.
_LOOKED_AT = 2
# And where there is no room, at so many.
_LOOKED_AT_FULL = 16

# What a sum of floating numbers may leave over, which is no wait.
_NO_WAIT_MS = 1e-6

# A kind of bucket and whose it is.
Draw = tuple[str, str]


class Rate(NamedTuple):
    """What a bucket takes: ``per_s`` in the long run, ``burst`` at once after a pause."""

    per_s: float
    burst: float


class Taken(NamedTuple):
    """What came of it. ``wait_s`` 0: it was taken, and ``kind`` is the bucket that has the least
    left for its size, with ``left`` in it. Else nothing was taken: that bucket is empty, and has
    enough again after so many seconds."""

    kind: str
    left: float
    wait_s: float


class _Table:
    """The buckets of one kind: when each is full again, in milliseconds, in a list of its own."""

    def __init__(self, kind: str, rate: Rate, names_max: int) -> None:
        if rate.per_s <= 0 or rate.burst < 1:
            raise ValueError("a bucket must let something in")
        self.kind = kind
        self.unit_ms = 1000 / rate.per_s
        self.burst = rate.burst
        self.burst_ms = rate.burst * self.unit_ms
        self.full_at: OrderedDict[str, list[float]] = OrderedDict()
        self._names_max = names_max
        self._shared: dict[int, list[float]] = {}

    def add(self, name: str, now_ms: float) -> list[float]:
        """The bucket of a name that has none: its own where there is room."""
        shared = self._shared.get(_place(name)) if self._shared else None
        if not self._has_room(now_ms):
            if shared is None:
                shared = self._shared[_place(name)] = [0.0]
            return shared
        # What it owes in a shared one, it owes.
        cell = self.full_at[name] = [0.0 if shared is None else shared[0]]
        return cell

    def _has_room(self, now_ms: float) -> bool:
        names = self.full_at
        looks = _LOOKED_AT if len(names) < self._names_max else _LOOKED_AT_FULL
        for _ in range(min(looks, len(names))):
            name, cell = names.popitem(last=False)
            if cell[0] > now_ms:
                names[name] = cell
        return len(names) < self._names_max


def _place(name: str) -> int:
    return crc32(name.encode("utf-8", "replace")) % BUCKETS_SHARED_MAX


class Buckets:
    """Buckets of several kinds. A kind that has no rate is without limit."""

    def __init__(self, rates: Mapping[str, Rate], names_max: int = BUCKETS_MAX) -> None:
        """``names_max``: of each kind, that owe something. ``ValueError``: a rate that lets nothing
        in."""
        self._tables = {kind: _Table(kind, rate, names_max) for kind, rate in rates.items()}

    def __len__(self) -> int:
        return sum(len(table.full_at) for table in self._tables.values())

    def take(self, now_ms: float, draws: Sequence[Draw], cost: float = 1) -> Taken | None:
        """Take ``cost`` from all these buckets, or from none. None: none of them has a limit. What
        costs more than a bucket holds needs a full one, and leaves it owing the rest.

        Every request passes here, so it is one loop without calls.
        """
        found: list[tuple[list[float], float]] = []
        least, least_share, wait_ms = None, 2.0, _NO_WAIT_MS
        tables = self._tables
        for kind, name in draws:
            if (table := tables.get(kind)) is None:
                continue
            if (cell := table.full_at.get(name)) is None:
                cell = table.add(name, now_ms)
            full_at = cell[0]
            owed_ms = full_at - now_ms if full_at > now_ms else 0.0
            cost_ms = cost * table.unit_ms
            left_ms = table.burst_ms - owed_ms - cost_ms
            if left_ms < -_NO_WAIT_MS and owed_ms:
                missing_ms = -left_ms if cost <= table.burst else owed_ms
                if missing_ms > wait_ms:
                    least, wait_ms = table, missing_ms
            if wait_ms == _NO_WAIT_MS and left_ms < least_share * table.burst_ms:
                least, least_share = table, left_ms / table.burst_ms
            found.append((cell, now_ms + owed_ms + cost_ms))
        if least is None:
            return None
        if wait_ms != _NO_WAIT_MS:
            return Taken(least.kind, 0.0, wait_ms / 1000)
        for cell, full_at in found:
            cell[0] = full_at
        return Taken(least.kind, least_share * least.burst if least_share > 0 else 0.0, 0.0)

    def owe(self, now_ms: float, draws: Sequence[Draw], cost: float) -> float:
        """Take it, whatever is left; after how many seconds nothing is owed any more by who waits
        that long. Who always waits keeps to the rate, however many share a bucket."""
        wait_ms = 0.0
        for kind, name in draws:
            if (table := self._tables.get(kind)) is not None:
                cell = table.full_at.get(name) or table.add(name, now_ms)
                cell[0] = max(cell[0], now_ms) + cost * table.unit_ms
                wait_ms = max(wait_ms, cell[0] - now_ms - table.burst_ms)
        return wait_ms / 1000
