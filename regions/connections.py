"""The open connections of clients: whose each is, and how far behind it is.

A connection costs an entry here while it is open, and nothing on the way of an event: readers count
what they were given, and what waits for them is looked at when somebody asks.
"""

import asyncio
import contextlib
import heapq
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

from perdure.regions.ports import Clock

# Connections that are looked at before others have their turn.
_SLICE = 2_000


class Progress(NamedTuple):
    """What waits for a reader (its bytes by the average of what waits for all of its session), how
    many events it was given, and when the last of them, in ms of the monotonic clock; None: never.
    """

    events: int
    bytes: int
    given: int
    given_ms: int | None


class Progressing(Protocol):
    """What can say how far it is."""

    def progress(self) -> Progress:
        """How far it is now."""


class Connection:
    """One open connection. ``kind``: ``sse``, ``websocket``, ``poll``, ``stream``, ``work`` or
    ``document``; ``session``: the name inside, None for an agent's feed."""

    def __init__(
        self, id_: str, kind: str, session: str | None, subject: str, address: str, since_ms: int
    ) -> None:
        self.id = id_
        self.kind = kind
        self.session = session
        self.subject = subject
        self.address = address
        self.since_ms = since_ms
        self.member: str | None = None
        # Ends it so that its client comes back.
        self.end: Callable[[], None] = _nothing
        self._followed: dict[Progressing, None] = {}
        # What readers that are gone were given.
        self._given = 0

    def follow(self, reader: Progressing) -> Callable[[], None]:
        """It reads through this from now on, until what is given back is called."""
        self._followed[reader] = None
        return lambda: self._unfollow(reader)

    def _unfollow(self, reader: Progressing) -> None:
        if reader in self._followed:
            self._given += reader.progress().given
            del self._followed[reader]

    def progress(self) -> Progress:
        """Of all that it reads together."""
        all_ = [reader.progress() for reader in self._followed]
        times = [one.given_ms for one in all_ if one.given_ms is not None]
        return Progress(
            sum(one.events for one in all_),
            sum(one.bytes for one in all_),
            self._given + sum(one.given for one in all_),
            max(times, default=None),
        )


def _nothing() -> None:
    return


class Connections:
    """All of a region."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._open: dict[str, Connection] = {}
        self._opened = 0

    def __len__(self) -> int:
        return len(self._open)

    @contextlib.contextmanager
    def opened(
        self, kind: str, session: str | None, subject: str, address: str
    ) -> Iterator[Connection]:
        """One more, while it lasts."""
        self._opened += 1
        now_ms = self._clock.wall_ms()
        one = Connection(f"c{self._opened}", kind, session, subject, address, now_ms)
        self._open[one.id] = one
        try:
            yield one
        finally:
            del self._open[one.id]

    def find(self, id_: str) -> Connection | None:
        """The open connection of this name."""
        return self._open.get(id_)

    async def listed(self, sort: str, limit: int) -> list[dict[str, Any]]:
        """The slowest first (those for whom most waits), or the newest."""
        if sort == "recent":
            newest = list(self._open.values())[: -limit - 1 : -1]
            return [self._value(one, one.progress()) for one in newest]
        found: list[tuple[int, int, str]] = []
        for number, one in enumerate(list(self._open.values())):
            progress = one.progress()
            # Of those for whom nothing waits, who has taken nothing for the longest.
            found.append((progress.bytes, -(progress.given_ms or 0), one.id))
            if number % _SLICE == _SLICE - 1:
                found = heapq.nlargest(limit, found)
                await asyncio.sleep(0)
        slowest = [self._open.get(id_) for _, _, id_ in heapq.nlargest(limit, found)]
        return [self._value(one, one.progress()) for one in slowest if one is not None]

    def _value(self, one: Connection, progress: Progress) -> dict[str, Any]:
        taken_ms = None
        if progress.given_ms is not None:
            taken_ms = self._clock.wall_ms() - self._clock.monotonic_ms() + progress.given_ms
        return {
            "id": one.id,
            "kind": one.kind,
            "session": one.session,
            "subject": one.subject,
            "address": one.address,
            "member": one.member,
            "since_ms": one.since_ms,
            "waiting_events": progress.events,
            "waiting_bytes": progress.bytes,
            "sent_events": progress.given,
            "last_taken_ms": taken_ms,
        }
