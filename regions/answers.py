"""What a node answers to writes."""

from dataclasses import dataclass
from typing import Any, NamedTuple


class Opened(NamedTuple):
    """The answer to an open."""

    created: bool
    id: str
    serial: str
    epoch: str
    header: str
    next: int


class Sent(NamedTuple):
    """The answer to a complete message. ``stable`` None: no other region is configured."""

    created: bool
    message: dict[str, Any]
    stable: bool | None


@dataclass(frozen=True)
class Ack:
    """The answer to an append: counts of items of the lane; the end is told apart."""

    next: int
    accepted: int
    stable: int | None
    duplicates: int
    ended: str | None

    @property
    def is_stable(self) -> bool:
        """Whether everything that is accepted is stable, as far as it can ever be."""
        return self.stable is None or (self.stable >= self.accepted and self.ended != "accepted")
