"""What a region has refused and what failed since it started, by the codes of PROTOCOL A.1."""

from typing import Any, NamedTuple

from perdure.regions.ports import Clock, StorageError, StorageFull
from perdure.replication.errors import Refusal

TEXT_CHARS_MAX = 200


class Refused(NamedTuple):
    """All of one code: how many, and the last of them."""

    number: int
    last_ms: int
    text: str


class Refusals:
    """Counts them. There are as many as codes, and no text is longer than ``TEXT_CHARS_MAX``."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.since_ms = clock.wall_ms()
        self.count = 0
        self._codes: dict[str, Refused] = {}

    def note(self, error: Exception) -> None:
        """One more. Its text is what its caller was told: ids, and never what was written."""
        if isinstance(error, Refusal):
            code, text = error.code, error.detail
        elif isinstance(error, StorageError):
            code = "storage_full" if isinstance(error, StorageFull) else "storage_failed"
            text = "the disk"
        else:
            # Its words may hold anything; the log has them.
            code, text = "internal", type(error).__name__
        known = self._codes.get(code)
        count = 1 if known is None else known.number + 1
        self._codes[code] = Refused(count, self._clock.wall_ms(), text[:TEXT_CHARS_MAX])
        self.count += 1

    def value(self) -> dict[str, Any]:
        """The most frequent first."""
        ordered = sorted(self._codes.items(), key=lambda item: -item[1].number)
        return {
            "since_ms": self.since_ms,
            "codes": [
                {"code": code, "count": one.number, "last_ms": one.last_ms, "last_text": one.text}
                for code, one in ordered
            ],
        }
