"""What a region measured in the last minutes, one sample every ``STEP_S`` seconds, in a ring."""

from collections import deque
from typing import Any

from perdure.replication.limits import HISTORY_SAMPLES_MAX

STEP_S = 2
NAMES = (
    "tokens_per_s",
    "events_per_s",
    "commits_per_s",
    *("commit_p50_ms", "commit_p99_ms", "append_p50_ms", "append_p99_ms"),
    *("delivery_p50_ms", "delivery_p99_ms"),
    "gossip_lag_ms",
    "readers",
    "connections",
    "errors_per_s",
)
Sample = list[float | int | None]


class History:
    """The ring. A sample is a time in ms since 1970, and a number for each of ``NAMES``."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=HISTORY_SAMPLES_MAX)
        # How many there have ever been, for who goes on from what was seen.
        self.count = 0

    def add(self, at_ms: int, values: dict[str, float | int | None]) -> None:
        """One more."""
        self._samples.append([at_ms, *(values.get(name) for name in NAMES)])
        self.count += 1

    def since(self, count: int) -> list[Sample]:
        """The samples after so many."""
        new = min(self.count - count, len(self._samples))
        return [self._samples[at] for at in range(len(self._samples) - new, len(self._samples))]

    def value(self, minutes: int) -> dict[str, Any]:
        """The samples of the last minutes, the oldest first."""
        new = minutes * 60 // STEP_S
        samples = self.since(max(0, self.count - new))
        return {"step_s": STEP_S, "names": list(NAMES), "samples": samples}
