"""Who is at which shared document here: what they are told of edits, and of each other.

Rule of this file: nothing waits. What a socket is told gathers in its seat within a limit; who
does not take it is sent away, comes back, and is told what it lacks. Who is here is kept nowhere
else: peers that are linked are told what sockets here say, and what they tell is dropped when they
have said nothing of it for so long that a client of Yjs would drop it, too.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from perdure.regions.connections import Progress
from perdure.regions.ports import Clock
from perdure.replication.errors import Refusal
from perdure.replication.lib0 import YjsError
from perdure.replication.limits import DOCUMENT_SOCKETS_MAX, FEED_BYTES_MAX
from perdure.replication.projection import (
    MESSAGES_DOCUMENT,
    Projected,
    encode,
    projected,
    vector_of,
)
from perdure.replication.session import Session
from perdure.replication.yjs_sync import (
    Awareness,
    Moved,
    Presence,
    encode_awareness,
    encode_awareness_message,
    encode_step_1,
    encode_sync_update,
)

Name = tuple[str, str]  # session, document
# Tells the peers who is at a document.
Forward = Callable[[Name, bytes], None]
# Clients of Yjs say every 15 s that they are here, and take who does not for 30 s to be gone.
_SILENT_MS_MAX = 30_000


class Seat:
    """One socket at a document. ``next`` until it gives None; ``close`` always."""

    def __init__(self, room: "Room", name: Name) -> None:
        self.name = name
        # Why it is over; None while it goes on: a code of PROTOCOL A.1, or ``behind``.
        self.over: str | None = None
        # It has sent what builds on something that is missing here: it was asked for all that is
        # missing, and is asked again when something has come.
        self.was_asked = self.waits = False
        # Whether its client may edit, and is shown to the others.
        self.may_write = self.is_seen = True
        # Of a client that reads the messages: what it has. None: it has not said so yet.
        self.has: dict[int, int] | None = None
        self._room = room
        self._out: deque[bytes] = deque()
        self._bytes = self._given = 0
        self._wake: asyncio.Future[None] | None = None

    def push(self, message: bytes) -> None:
        """Tell it this, after all that it was told before."""
        self._bytes += len(message)
        # The first may be a whole document.
        if self._bytes > FEED_BYTES_MAX and self._out:
            self.end("behind")
            return
        self._out.append(message)
        self._woken()

    def lacks(self, found: Sequence[Projected]) -> bytes:
        """The update that tells a client that reads the messages what it lacks of these."""
        assert self.has is not None
        update = encode(found, self.has)
        for client, clock in vector_of(found).items():
            self.has[client] = max(clock, self.has.get(client, 0))
        return update

    def end(self, why: str) -> None:
        """It is over."""
        self.over = self.over or why
        self._woken()

    def _woken(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def next(self) -> bytes | None:
        """The next message to write; None when it is over, however much is left."""
        while self.over is None and not self._out:
            self._wake = asyncio.get_running_loop().create_future()
            await self._wake
        if self.over is not None:
            return None
        message = self._out.popleft()
        self._bytes -= len(message)
        self._given += 1
        return message

    def progress(self) -> Progress:
        """How far it is."""
        return Progress(len(self._out), self._bytes, self._given, None)

    def close(self) -> None:
        """Leave, with everybody who came through it; idempotent."""
        self._room.leave(self)

    def tell_present(self, entries: Iterable[Presence]) -> bool:
        """What it says of who is here; whether that is news. Raises ``YjsError`` when there is no
        room."""
        return self.is_seen and self._room.tell_present(self, entries)

    def show_present(self) -> None:
        """Tell it who is here."""
        if present := self._room.present.entries():
            self.push(encode_awareness_message(present))


class Room:
    """Those who are at one document."""

    def __init__(self, rooms: "dict[Name, Room]", name: Name, forward: Forward) -> None:
        self.seats: dict[Seat, None] = {}
        self.present = Awareness()
        # Through which seat a client is here; and when a peer last told of one that is elsewhere.
        self._brought: dict[int, Seat] = {}
        self._far: dict[int, int] = {}
        self._rooms = rooms
        self._name = name
        self._forward = forward

    def push(self, message: bytes) -> None:
        """Tell everybody."""
        for seat in list(self.seats):
            seat.push(message)

    def tell_present(self, seat: Seat, entries: Iterable[Presence]) -> bool:
        """The sender hears it, too: clients of Yjs want to hear something now and then."""
        moved = self.present.apply(entries)
        for client in (*moved.added, *moved.updated, *moved.renewed):
            # Clients repeat what they hear of others; who says something first brought it.
            self._brought.setdefault(client, seat)
            self._far.pop(client, None)
        self._moved(moved, tell_peers=True)
        return any(moved)

    def hear(self, entries: Iterable[Presence], now_ms: int) -> None:
        """What a peer tells; nothing when there is no room."""
        try:
            moved = self.present.apply(entries)
        except YjsError:
            return
        for client in (*moved.added, *moved.updated, *moved.renewed):
            # News of one that was here: it has moved.
            self._brought.pop(client, None)
            self._far[client] = now_ms
        self._moved(moved)

    def expire(self, now_ms: int) -> None:
        """Drop those elsewhere of whom nothing was heard for long."""
        silent = [client for client, ms in self._far.items() if now_ms - ms > _SILENT_MS_MAX]
        self._moved(self.present.remove(silent))

    def _moved(self, moved: Moved, *, tell_peers: bool = False) -> None:
        for client in moved.removed:
            self._brought.pop(client, None)
            self._far.pop(client, None)
        if changed := [client for clients in moved for client in clients]:
            entries = self.present.entries(changed)
            self.push(encode_awareness_message(entries))
            if tell_peers:
                self._forward(self._name, encode_awareness(entries))

    def leave(self, seat: Seat) -> None:
        """Idempotent."""
        if seat not in self.seats:
            return
        del self.seats[seat]
        gone = [client for client, through in self._brought.items() if through is seat]
        self._moved(self.present.remove(gone), tell_peers=True)
        if not self.seats:
            del self._rooms[self._name]


class DocumentDesk:
    """The rooms of a region."""

    def __init__(self, clock: Clock, forward: Forward, changed: Callable[[str, str], None]) -> None:
        """``changed`` is told the session and the id of a document that has changed."""
        self._rooms: dict[Name, Room] = {}
        self.draining = False
        self._forward = forward
        self._changed = changed
        self._clock = clock

    def join(self, name: Name) -> Seat:
        """A seat at a document. Raises ``Refusal``: ``draining``, ``too_many``."""
        if self.draining:
            raise Refusal("draining", "this region is shutting down", retry_after_s=1)
        room = self._rooms.get(name)
        if room is None:
            room = self._rooms[name] = Room(self._rooms, name, self._forward)
        if len(room.seats) >= DOCUMENT_SOCKETS_MAX:
            raise Refusal("too_many", "too many are at this document", retry_after_s=1)
        seat = Seat(room, name)
        room.seats[seat] = None
        return seat

    def publish(self, session: Session, changed: Sequence[str]) -> None:
        """Updates were applied, and these messages have changed: tell who is at the documents."""
        self._publish_messages(session, changed)
        for id_, update in session.documents.take_news():
            self._changed(session.id, id_)
            room = self._rooms.get((session.id, id_))
            if room is None:
                continue
            document = session.documents.get(id_)
            if document is None:
                self._end("deleted", (session.id, id_))
                continue
            if update is None:
                continue
            room.push(encode_sync_update(update))
            for seat in [seat for seat in room.seats if seat.waits]:
                seat.waits = False
                seat.push(encode_step_1(document.vector))
        if session.deleted:
            for name in [name for name in self._rooms if name[0] == session.id]:
                self._end("deleted", name)

    def _publish_messages(self, session: Session, changed: Sequence[str]) -> None:
        room = self._rooms.get((session.id, MESSAGES_DOCUMENT))
        if room is None or session.deleted:
            return
        # An empty id stands for the session itself.
        if not (found := projected(session, [id_ for id_ in changed if id_])):
            return
        for seat in room.seats:
            if seat.has is not None:
                seat.push(encode_sync_update(seat.lacks(found)))

    def hear(self, name: Name, entries: Iterable[Presence]) -> None:
        """A peer tells who is at a document there."""
        if (room := self._rooms.get(name)) is not None:
            room.hear(entries, self._clock.monotonic_ms())

    def tick(self) -> None:
        """A second has passed."""
        now_ms = self._clock.monotonic_ms()
        for room in self._rooms.values():
            room.expire(now_ms)

    def drain(self) -> None:
        """The region shuts down: they come back elsewhere."""
        self.draining = True
        for name in self._rooms:
            self._end("draining", name)

    def _end(self, why: str, name: Name) -> None:
        for seat in self._rooms[name].seats:
            seat.end(why)
