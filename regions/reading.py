"""What a region answers from its own copy, without asking anybody: plain functions, no waiting."""

from collections.abc import Sequence
from typing import Any

from perdure.regions.answers import Ack
from perdure.regions.fanout import Fanout, Reader
from perdure.regions.handing import Handing
from perdure.regions.journal import Journal
from perdure.regions.meters import Meters
from perdure.regions.ports import Clock
from perdure.regions.state import State
from perdure.replication import admission
from perdure.replication.cursor import decode, encode
from perdure.replication.errors import Refusal
from perdure.replication.gossip import Gossip
from perdure.replication.hlc import check_serial
from perdure.replication.ids import LaneKey, check_id, parse_epoch
from perdure.replication.lane import Lane
from perdure.replication.message import Message
from perdure.replication.roster import Roster
from perdure.replication.session import Session
from perdure.replication.tenants import Range, check_session, name_of, range_of

# Those that belong to no tenant.
EVERYBODYS = (range_of("", "*"),)


def _shown(summary: dict[str, Any]) -> dict[str, Any]:
    """The summary of a session without what only this region says of it."""
    return {name: value for name, value in summary.items() if name != "touched_ms"}


class Reading:
    """The reading side of a :class:`~perdure.regions.node.Node`, which brings the meters."""

    meters: Meters

    def __init__(self, state: State, gossip: Gossip, clock: Clock) -> None:
        self.state = state
        self.gossip = gossip
        handing = Handing(self.meters)
        self.fanout = Fanout(state.pin, state.unpin, self._roster, self._open_runs, handing)
        self.resumes = 0
        self.journal = Journal(clock.wall_ms)
        self._clock = clock

    def _roster(self, session: str) -> Roster:
        """Who is present in a session, for its readers."""
        raise NotImplementedError

    def _open_runs(self, session: str) -> list[str]:
        """The runs of a session that are not over, as JSON."""
        raise NotImplementedError

    def _beside(self, session: str) -> dict[str, Any]:
        """What a snapshot says beside the messages."""
        raise NotImplementedError

    def _check_readable(self) -> None:
        """Raises ``Refusal`` where an answer would be a wrong one."""

    def _existing(self, session: str) -> Session:
        check_session(session)
        self._check_readable()
        state = self.state.find(session)
        if state is not None:
            admission.check_live(state)
        if state is None or not state.exists:
            raise Refusal("not_found", f"this region knows no session {name_of(session)}")
        return state

    def _message(self, session: str, id_: str) -> Message:
        state = self._existing(session)
        check_id(id_, "message")
        admission.check_live(state, id_)
        message = state.visible(id_)
        if message is None:
            raise Refusal("not_found", f"this region knows no message {id_}")
        return message

    def snapshot(self, session: str) -> dict[str, Any]:
        """The session with its newest messages."""
        state = self._existing(session)
        return {**state.value(encode(state.position())), **self._beside(session)}

    def message(self, session: str, id_: str) -> dict[str, Any]:
        """One message."""
        return self._message(session, id_).value()

    def writers(self, session: str, message: str) -> tuple[str | None, str | None]:
        """The author of a message, and the producer that opened it."""
        header = self._message(session, message).header
        assert header is not None
        return header.author, header.lane.producer

    def metadata(self, session: str) -> dict[str, Any]:
        """The session's metadata."""
        return self._existing(session).metadata()

    def messages(self, session: str, before: str | None, limit: int) -> dict[str, Any]:
        """A page of messages, the newest before a serial."""
        state = self._existing(session)
        if before is not None:
            check_serial(before, "before")
        messages, more = state.page(before, limit)
        return {"messages": messages, "more": more}

    def sessions(
        self, after: str | None, limit: int, ranges: Sequence[Range] = EVERYBODYS
    ) -> dict[str, Any]:
        """A page of the sessions in some ranges, which are in order and apart; ``after`` is a name
        inside."""
        self._check_readable()
        page: list[tuple[str, dict[str, Any]]] = []
        for first, past in ranges:
            if after is not None:
                # Sorts before whatever goes on where ``after`` ends.
                first = max(first, after + "\x01")
            if first < past and len(page) <= limit:
                page += self.state.page(Range(first, past), limit + 1 - len(page))
        values = [_shown(value) for _, value in page[:limit]]
        return {"sessions": values, "next": values[-1]["id"] if len(page) > limit else None}

    def subscribe(self, session: str, cursor: str | None) -> Reader:
        """Follow a session from a cursor on, or from now.

        Raises ``Refusal``: ``invalid_cursor``, ``deleted``, ``too_many``, ``draining``.
        """
        check_session(session)
        position = decode(cursor) if cursor else None
        self._check_readable()
        self.resumes += position is not None
        state = self.state.session(session)
        try:
            reader = self.fanout.subscribe(state, position, self._clock.monotonic_ms())
            if position is not None:
                self.journal.note(session, "resumed")
            return reader
        finally:
            if self.fanout.get(session) is None:
                self.state.forget_empty(session)

    # What is on whose disk

    @staticmethod
    def _lane_key(producer: str, epoch: str) -> LaneKey:
        try:
            return LaneKey(producer, parse_epoch(epoch))
        except ValueError as error:
            raise Refusal("invalid_producer", "Producer-Epoch is not an epoch") from error

    def _ack(self, session: str, message: str, key: LaneKey, duplicates: int) -> Ack:
        state = self.state.session(session)
        admission.check_live(state, message)
        lane = state.messages[message].lane(key)
        return Ack(lane.count, lane.count, self._stable(lane), duplicates, self._ended(lane))

    def _stable(self, lane: Lane) -> int | None:
        if not self.gossip.peers:
            return None
        return min(lane.count, lane.stable_entries(self.gossip.stable_vector()))

    def _ended(self, lane: Lane) -> str | None:
        if lane.end is None:
            return None
        reached = lane.stable_entries(self.gossip.stable_vector())
        return "stable" if self.gossip.peers and reached == len(lane.entries) else "accepted"

    def acknowledged(self, session: str, message: str, producer: str, epoch: str) -> Ack:
        """What is accepted and stable of a lane now."""
        return self._ack(session, message, self._lane_key(producer, epoch), 0)

    def _is_stable(self, message: Message) -> bool | None:
        if not self.gossip.peers:
            return None
        assert message.opened_at is not None
        return self.gossip.is_stable(*message.opened_at)
