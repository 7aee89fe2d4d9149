"""Retention: how long a tenant's sessions are kept, and which of them are to go.

Times are those of the region that decides, and of no other: when it was last told something of a
session, by its own clock.
"""

import heapq
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from perdure.replication.limits import RETENTION_SESSIONS_MAX

LAST_ACTIVITY = "last_activity"


@dataclass(frozen=True)
class Policy:
    """What a tenant ("": none) keeps. ``age_s``: what nobody has written to for longer goes;
    ``bytes``: what has been quiet for longest goes, until no more than this is left;
    ``audit_age_s``: entries of the audit log are kept so long (of the policy of no tenant alone);
    None: without end. ``region`` decides."""

    tenant: str
    age_s: int | None
    bytes: int | None
    audit_age_s: int | None
    region: str
    set_ms: int
    set_by: str
    by: str = LAST_ACTIVITY

    def value(self) -> dict[str, Any]:
        """As it is kept."""
        return asdict(self)


def policy_of(value: Mapping[str, Any]) -> Policy | None:
    """A policy as it was kept; None for what this version does not understand: it deletes
    nothing."""
    try:
        policy = Policy(**value)
    except TypeError:
        return None
    return policy if policy.by == LAST_ACTIVITY else None


class Kept(NamedTuple):
    """A session: when something was last known to happen in it, its name, and its bytes."""

    touched_ms: int
    session: str
    bytes: int


class Plan:
    """What goes by a policy, of all sessions that it is shown: those that were quiet for longest,
    ``RETENTION_SESSIONS_MAX`` at most; the next plan has the rest."""

    def __init__(
        self, age_s: int | None, bytes_: int | None, now_ms: int, most: int = RETENTION_SESSIONS_MAX
    ) -> None:
        self.sessions = 0
        self.bytes = 0
        self._now_ms = now_ms
        self._age_s = age_s
        self._bytes_max = bytes_
        self._most = most
        # The oldest so far, the newest of them on top.
        self._oldest: list[tuple[int, str, int]] = []

    def look(self, session: str, touched_ms: int, bytes_: int) -> None:
        """A session of the tenant."""
        self.sessions += 1
        self.bytes += bytes_
        # A clock that was put back: it was not touched after now.
        item = (-min(touched_ms, self._now_ms), session, bytes_)
        if len(self._oldest) < self._most:
            heapq.heappush(self._oldest, item)
        else:
            heapq.heappushpop(self._oldest, item)

    def due(self) -> list[Kept]:
        """What is to go, the longest quiet first."""
        found: list[Kept] = []
        left = self.bytes
        for kept in sorted(Kept(-ms, session, bytes_) for ms, session, bytes_ in self._oldest):
            is_old = self._age_s is not None and kept.touched_ms < self._now_ms - self._age_s * 1000
            if not is_old and (self._bytes_max is None or left <= self._bytes_max):
                break
            found.append(kept)
            left -= kept.bytes
        return found
