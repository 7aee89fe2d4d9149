"""What one request, or one socket, goes on drawing from while it brings more (PROTOCOL A.10)."""

from collections.abc import Callable, MutableMapping
from typing import Any, NamedTuple

from perdure.replication.buckets import Draw
from perdure.replication.limits import UNIT_BYTES, UNIT_ITEMS

# Where a request has it.
_PACE = "perdure.pace"


def cost_of(items: int, size: int = 0) -> float:
    """What so many items, or bytes, cost beside the request or the line that brings them: as many
    as one unit is for are in that."""
    return max(0.0, items / UNIT_ITEMS - 1) + max(0.0, size / UNIT_BYTES - 1)


class Pace(NamedTuple):
    """The buckets of an admitted request."""

    take: Callable[[tuple[Draw, ...], float], float]
    draws: tuple[Draw, ...]

    def owe(self, cost: float) -> float:
        """Take this much, whatever is left; how many seconds to wait before more is read."""
        return self.take(self.draws, cost) if cost else 0.0

    def only(self, session: str) -> "Pace":
        """What is drawn from a session alone."""
        return Pace(self.take, (("session", session),))

    def of(self, session: str) -> "Pace":
        """The same caller, at another session that it writes to."""
        draws = tuple(draw for draw in self.draws if draw[0] != "session")
        return Pace(self.take, (*draws, ("session", session)))


def give_pace(scope: MutableMapping[str, Any], pace: Pace | None) -> None:
    """Have a request drawn from these; None: from nothing."""
    scope[_PACE] = pace


def pace_of(scope: MutableMapping[str, Any]) -> Pace | None:
    """What a request draws from; None: from nothing."""
    pace: Pace | None = scope.get(_PACE)
    return pace
