"""The newest events of one session for its readers, shared by all of them."""

from collections import deque
from itertools import islice

from perdure.regions.handing import Handing
from perdure.replication.feed import Event, Gathered
from perdure.replication.limits import FEED_BYTES_MAX


class EventLog:
    """At most ``FEED_BYTES_MAX`` of events, each by its index."""

    def __init__(self, handing: Handing) -> None:
        self.handing = handing
        self._events: deque[Event] = deque()
        # When each was committed, where it was.
        self._born_s: deque[float | None] = deque()
        self._first = 0
        self._bytes = 0
        # What the last that looked was given.
        self._given: tuple[int, int, Gathered] | None = None

    @property
    def end(self) -> int:
        """The index after the last event."""
        return self._first + len(self._events)

    def _add(self, event: Event) -> None:
        self._events.append(event)
        self._born_s.append(self.handing.committed_s)
        self._bytes += len(event.data)
        while self._bytes > FEED_BYTES_MAX and len(self._events) > 1:
            self._drop()

    def _drop(self) -> None:
        self._bytes -= len(self._events.popleft().data)
        self._born_s.popleft()
        self._first += 1

    def _let_go(self, upto: int) -> None:
        self._given = None
        while self._events and self._first < upto:
            self._drop()

    def since(self, index: int) -> Gathered | None:
        """The events from an index on; None when they are no longer here."""
        if index < self._first:
            return None
        if self._given is None or self._given[:2] != (index, self.end):
            events = Gathered(islice(self._events, index - self._first, None))
            events.born_s = self._born_s[index - self._first] if events else None
            self._given = (index, self.end, events)
        return self._given[2]

    def bytes_of(self, count: int) -> int:
        """How many bytes so many of the newest events have, by the average of those at hand."""
        return self._bytes * count // max(1, len(self._events))
