"""The hybrid logical clock and the serials made of it.

Kulkarni et al., "Logical Physical Clocks" (2014). A reading is one integer: milliseconds since
1970 in the upper 48 bits, a counter in the lower 16. It never goes back and follows what it sees.
"""

import re
from datetime import UTC, datetime

from perdure.replication.errors import Refusal
from perdure.replication.limits import CLOCK_AHEAD_MS_MAX

_COUNTER_BITS = 16
_SERIAL = re.compile(r"([0-9a-f]{16})\.([A-Za-z0-9._~-]{1,128})\Z")


class HybridClock:
    """One region's clock. The caller brings the wall time; the clock brings the order."""

    def __init__(self) -> None:
        self._last = 0

    @property
    def last(self) -> int:
        """The greatest reading given or seen."""
        return self._last

    def tick(self, now_ms: int, after: int = 0) -> int:
        """A reading that is greater than every one given or seen before, and than ``after``."""
        self._last = max(self._last + 1, now_ms << _COUNTER_BITS, after + 1)
        return self._last

    def see(self, reading: int) -> None:
        """Take note of a reading from elsewhere (never refused: it is already history)."""
        self._last = max(self._last, reading)


def serial(created: int, message: str) -> str:
    """The sort key of a message: as strings, serials order as (created, id) does."""
    return f"{created:016x}.{message}"


def check_after(text: str, now_ms: int) -> int:
    """The reading of the serial that an author has seen.

    Raises ``Refusal``: ``invalid_body`` when it is no serial, ``clock_ahead`` when it lies more
    than 60 s ahead of this region's clock: else a client could push every later message there.
    """
    match = _SERIAL.match(text)
    if match is None:
        raise Refusal("invalid_body", "after must be the serial of a message", field="after")
    reading = int(match[1], 16)
    if (reading >> _COUNTER_BITS) > now_ms + CLOCK_AHEAD_MS_MAX:
        raise Refusal("clock_ahead", "after lies more than 60 s ahead of this region's clock")
    return reading


def check_serial(text: str, field: str) -> str:
    """A serial given as a page position, or ``Refusal`` ``invalid_query``."""
    if _SERIAL.match(text) is None:
        raise Refusal("invalid_query", f"{field} must be the serial of a message", field=field)
    return text


def to_wall_ms(reading: int) -> int:
    """The time of a reading, in milliseconds since 1970."""
    return reading >> _COUNTER_BITS


def wall_time(wall_ms: int) -> str:
    """RFC 3339 UTC of a wall clock's time."""
    return to_time(wall_ms << _COUNTER_BITS)


def to_time(reading: int) -> str:
    """RFC 3339 UTC with milliseconds."""
    seconds, ms = divmod(reading >> _COUNTER_BITS, 1000)
    # Readings come from peers as well: one beyond the year 9999 must not break a page.
    seconds = min(seconds, 253_402_300_799)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{ms:03d}Z"
