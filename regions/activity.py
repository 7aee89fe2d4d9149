"""How fast tokens come to each session, and which were written to last: in memory, by the second.

On the way of a token it costs one addition to a number; everything else is done once a second.
"""

from collections import OrderedDict
from collections.abc import Callable

from perdure.replication.limits import RECENT_SESSIONS_MAX

# What is left of a rate after a second; and below which rate a session is quiet.
_KEPT = 0.8
_QUIET = 0.05


class Activity:
    """What of a region is being written to."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        # Items that came to each session in this second, through whatever region; and all that were
        # admitted here, ever.
        self.counts: dict[str, int] = {}
        self.own = 0
        self._own_before = 0
        self._rates: dict[str, float] = {}
        self._rate = 0.0
        # When each was last written to, in ms since 1970, the longest ago first.
        self._recent: OrderedDict[str, int] = OrderedDict()

    def tick(self) -> None:
        """A second has passed."""
        now_ms = self._now_ms()
        counts, self.counts = self.counts, {}
        rates = {}
        for session in self._rates.keys() | counts.keys():
            rate = _KEPT * self._rates.get(session, 0.0) + (1 - _KEPT) * counts.get(session, 0)
            if rate >= _QUIET:
                rates[session] = rate
        self._rates = rates
        for session in counts:
            self._recent[session] = now_ms
            self._recent.move_to_end(session)
        while len(self._recent) > RECENT_SESSIONS_MAX:
            self._recent.popitem(last=False)
        self._rate = _KEPT * self._rate + (1 - _KEPT) * (self.own - self._own_before)
        self._own_before = self.own

    def rate_of(self, session: str) -> float:
        """Items a second that come to a session, through all regions."""
        return round(self._rates.get(session, 0.0), 1)

    @property
    def rate(self) -> float:
        """Items a second that are admitted here."""
        return round(self._rate, 1)

    def busiest(self, limit: int) -> list[str]:
        """The sessions that tokens come to, the fastest first."""
        return sorted(self._rates, key=lambda id_: -self._rates[id_])[:limit]

    def updated_ms(self, session: str) -> int | None:
        """When a session was last written to since the start, in ms since 1970."""
        if session in self.counts:
            return self._now_ms()
        return self._recent.get(session)

    def recent(self, limit: int) -> list[str]:
        """The sessions that were written to last, the last first."""
        newest = [*reversed(self.counts), *reversed(self._recent)]
        return list(dict.fromkeys(newest))[:limit]
