"""The clock and the entropy of the operating system."""

import secrets
import time
from collections.abc import Callable

from perdure.regions.ports import Clock


class SystemClock:
    """Milliseconds from the operating system."""

    def wall_ms(self) -> int:
        """Milliseconds since 1970, UTC; may jump."""
        return time.time_ns() // 1_000_000

    def monotonic_ms(self) -> int:
        """Milliseconds from an arbitrary point; never goes back."""
        return time.monotonic_ns() // 1_000_000


def seconds_of(clock: Clock) -> Callable[[], float]:
    """Monotonic seconds for measuring how long something took: finer than the port's milliseconds
    where the clock is the system's, else the same as those."""
    if isinstance(clock, SystemClock):
        return time.monotonic
    return lambda: clock.monotonic_ms() / 1000


def nanoseconds_of(clock: Clock) -> Callable[[], int]:
    """Nanoseconds since 1970 for saying when something was; see :func:`seconds_of`."""
    if isinstance(clock, SystemClock):
        return time.time_ns
    return lambda: clock.wall_ms() * 1_000_000


class SystemEntropy:
    """Randomness from the operating system."""

    def token(self, bits: int) -> int:
        """A uniform integer of so many bits."""
        return secrets.randbits(bits)

    def uniform(self) -> float:
        """A float in [0, 1), for jitter."""
        return secrets.randbits(53) / 2**53
