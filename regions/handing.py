"""What readers are handed, and how long that is after its commit: for the meters and for traces."""

from collections.abc import Callable

from perdure.regions.meters import Meters
from perdure.replication.feed import Event, Gathered
from perdure.replication.limits import TRACE_DELIVERIES_MAX


class Handing:
    """Of one region: every event passes here on its way to a reader, whatever carries it there."""

    def __init__(self, meters: Meters) -> None:
        self._meters = meters
        # When that was committed of which readers are told just now; None: it was no commit.
        self.committed_s: float | None = None
        # What is to be told when one of these is handed to its first reader; and when such an event
        # is made of a message of a session.
        self.awaited: dict[Event, Callable[[], None]] = {}
        self.expected: dict[tuple[str, str], Callable[[], None]] = {}

    def handed(self, events: Gathered, *, waited: bool) -> Gathered:
        """A reader has been given these. ``waited``: it was waiting for them, and not they for it:
        how slowly a client takes what it is sent is not this region's time."""
        meters = self._meters
        meters.events.add(len(events))
        if waited and events.born_s is not None:
            meters.delivery_seconds.observe(meters.now() - events.born_s)
        if self.awaited:
            for event in events:
                if (call := self.awaited.pop(event, None)) is not None:
                    call()
        return events

    def published(self, session: str, message: str, event: Event) -> None:
        """An event was made for readers of a session, of a change of this message."""
        if not self.expected or (call := self.expected.pop((session, message), None)) is None:
            return
        self.awaited[event] = call
        if len(self.awaited) > TRACE_DELIVERIES_MAX:
            # Its readers have left.
            del self.awaited[next(iter(self.awaited))]

    def resumed(self, events: list[Event], *, is_held: bool) -> None:
        """A reader has come back with a cursor, and this is the first that it is given."""
        told = {event.name for event in events}
        if "snapshot" in told:
            outcome = "snapshot"
        elif is_held:
            outcome = "held"
        else:
            outcome = "replaced" if "replace" in told else "continued"
        self._meters.resumes.add(1, outcome)
