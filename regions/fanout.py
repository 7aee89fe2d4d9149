"""The readers of this region: one shared log of events a session, and readers that look at it.

A reader that is up to date costs an index into the shared log: events are made, and encoded, once
for all of them. A reader that is held has events of its own until its hold is over. The log keeps
at most ``FEED_BYTES_MAX``; a reader that has fallen further behind is cut and resumes by cursor,
and no other reader feels it.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

from perdure.regions.connections import Progress
from perdure.regions.document_news import DocumentNews
from perdure.regions.event_log import EventLog
from perdure.regions.handing import Handing
from perdure.regions.waking import Crowd, Waking
from perdure.replication.cursor import Position
from perdure.replication.errors import Refusal
from perdure.replication.feed import Draft, Event, Gathered, change_drafts, finish
from perdure.replication.ids import beside_tag, canonical
from perdure.replication.limits import FEED_BYTES_MAX, READERS_MAX
from perdure.replication.resume import Returning, resume
from perdure.replication.roster import Roster
from perdure.replication.session import Session


class Feed(EventLog):
    """The events of one session for its readers here."""

    def __init__(
        self,
        session: Session,
        roster: Roster,
        runs: Callable[[str], list[str]],
        handing: Handing,
        waking: Waking | None = None,
    ) -> None:
        super().__init__(handing)
        self.session = session
        self.roster = roster
        self._runs = runs
        self.readers: set[Reader] = set()
        self.closing = False
        # The second that it is.
        self.now_ms = 0
        # Readers that wait for something new.
        self._crowd = Crowd(waking or Waking())
        # What was told beside the messages, and its name: many polls want it at once.
        self._named: tuple[tuple[Any, ...], str] | None = None
        self._news = DocumentNews(self._tell_document)

    def publish(self) -> list[str]:
        """Tell the readers what has changed since the last time, change by change; which messages
        have."""
        changed: list[str] = []
        for change in self.session.refresh():
            changed.append(change.message)
            drafts = list(change_drafts(self.session, change))
            for draft in drafts:
                self._add(finish(self.session, draft))
                self.handing.published(self.session.id, change.message, self._events[-1])
            # One whose hold ended at an earlier change shares the log by now.
            for reader in self.readers:
                if reader.returning is not None:
                    reader.offer(reader.returning.on_change(change, drafts))
        for reader in self.readers:
            if reader.returning is not None and (events := reader.returning.on_refreshed()):
                reader.offer(events)
        if self.session.deleted:
            self.closing = True
        self.wake()
        return changed

    def announce(self, draft: Draft) -> None:
        """Tell all readers something that changes nothing of what they hold."""
        for reader in self.readers:
            if reader.returning is not None:
                reader.offer([reader.returning.tell(draft)])
        self._add(finish(self.session, draft))
        self.wake()

    def tell_presence(self) -> bool:
        """Tell all readers who has come and gone since they were last told; whether anybody has."""
        changes = self.roster.changes()
        for data in changes:
            self.announce(Draft("presence", data))
        return bool(changes)

    def document_changed(self, id_: str) -> None:
        """Tell all readers of it: at once, and after that with the next tick."""
        if not self.closing:
            self._news.changed(id_)

    def _tell_document(self, id_: str) -> None:
        document = self.session.documents.get(id_)
        what = '"deleted":true' if document is None else f'"version":"{document.version()}"'
        self.announce(Draft("document", f'{{"document":"{id_}",{what}}}'))

    def tick(self) -> None:
        """A second has passed."""
        self._news.tick(is_over=self.closing)

    @property
    def owes(self) -> bool:
        """Whether readers have not yet been told of a document that has changed."""
        return self._news.owes

    def fields(self) -> str:
        """What a snapshot says beside the messages."""
        return (
            f'"presence":{self.roster.everybody()},"runs":{self._all_runs()},'
            f'"documents":{self._all_documents()}'
        )

    def _all_documents(self) -> str:
        return canonical(self.session.documents.versions())

    def _all_runs(self) -> str:
        return f"[{','.join(self._runs(self.session.id))}]"

    def drafts(self) -> list[Draft]:
        """What a reader is told that comes back."""
        return [
            Draft("presence", f'{{"all":{self.roster.everybody()}}}'),
            Draft("run", f'{{"all":{self._all_runs()}}}'),
            Draft("document", f'{{"all":{self._all_documents()}}}'),
        ]

    def tag(self) -> str:
        """Names what readers were told beside the messages: equal tags, the same words."""
        metadata = self.session.metadata()
        rest = (self.roster.everybody(), self._all_runs(), self._all_documents())
        if self._named is None or self._named[0] != (metadata, *rest):
            self._named = ((metadata, *rest), beside_tag(metadata, self.fields()))
        return self._named[1]

    def trim(self) -> None:
        """Let go of what every reader has taken."""
        self._let_go(min((reader.index for reader in self.readers), default=self.end))

    def wake(self, *, patient: bool = False) -> None:
        """Let every waiting reader look; see :class:`~perdure.regions.waking.Crowd`."""
        self._crowd.wake(patient=patient)

    async def wait(self) -> None:
        """Until the next :meth:`wake`."""
        await self._crowd.wait()


class Reader:
    """One subscription. ``next`` until it gives None; ``close`` always."""

    def __init__(
        self, feed: Feed, first: list[Event], returning: Returning, gone: Callable[[], None]
    ):
        self.feed = feed
        self.returning: Returning | None = returning if returning.differs else None
        self.index = feed.end
        self._own: deque[Event] = deque(first)
        # The first answer may be a long snapshot: it is written by pull and not counted.
        self._own_bytes = 0
        self._cut = self._is_last = False
        self._gone = [gone]
        self._given, self._given_ms = 0, feed.now_ms

    def offer(self, events: list[Event]) -> None:
        """Events for this reader alone; when it no longer differs it joins the others."""
        self._own.extend(events)
        self._own_bytes += sum(len(event.data) for event in events)
        if self._own_bytes > FEED_BYTES_MAX and len(events) < len(self._own):
            self._cut = True
        self.index = self.feed.end
        if self.returning is not None and not self.returning.differs:
            self.returning = None

    def expire(self, now_ms: int) -> None:
        """The time may have ended a hold."""
        if self.returning is not None:
            events = self.returning.on_time(now_ms)
            if events:
                self.offer(events)
                self.feed.wake()

    async def next(self) -> Gathered | None:
        """Events to write now; an empty list when a keep-alive is due; None when it is over."""
        waited = False
        while True:
            if self._cut:
                return None
            if self._own:
                events = Gathered(self._own)
                self._own.clear()
                self._own_bytes = 0
                return self._give(events, waited=waited)
            if self._is_last:
                return None
            if self.returning is None and self.index < self.feed.end:
                since = self.feed.since(self.index)
                if since is None:
                    self._cut = True
                    return None
                self.index = self.feed.end
                return self._give(since, waited=waited)
            if self.feed.closing:
                return None
            if waited:
                return Gathered()
            await self.feed.wait()
            waited = True

    def _give(self, events: Gathered, *, waited: bool) -> Gathered:
        self._given += len(events)
        self._given_ms = self.feed.now_ms
        return self.feed.handing.handed(events, waited=waited)

    def progress(self) -> Progress:
        """How far it is."""
        shared = 0 if self.returning is not None else self.feed.end - self.index
        size = self._own_bytes + self.feed.bytes_of(shared)
        return Progress(len(self._own) + shared, size, self._given, self._given_ms)

    @property
    def is_level(self) -> bool:
        """Whether it was given everything that the others were told."""
        is_behind = self._own or self.index != self.feed.end or self.feed.owes
        return self.returning is None and not is_behind

    def expire_grant(self, why: str) -> None:
        """End this subscription, whose grant is over."""
        self.end_with(Draft("expired", f'{{"reason":"{why}"}}'))

    def end_with(self, draft: Draft) -> None:
        """End this subscription with a last word after all that was told before; once."""
        if self._is_last:
            return
        if self.returning is not None:
            last = self.returning.tell(draft)
        else:
            # Its cursor says that all this was told: so it is.
            since = self.feed.since(self.index)
            if since is None:
                self.cut()
                return
            self._own.extend(since)
            self.index = self.feed.end
            last = finish(self.feed.session, draft)
        self._own.append(last)
        self._is_last = True
        self.feed.wake()

    def cut(self) -> None:
        """End this subscription; the client resumes by its cursor."""
        self._cut = True
        self.feed.wake()

    def close(self) -> None:
        """Leave; idempotent."""
        if self in self.feed.readers:
            self.feed.readers.discard(self)
            for call in self._gone:
                call()

    def on_close(self, call: Callable[[], None]) -> None:
        """What is to be done when this subscription is over."""
        self._gone.append(call)


class Fanout:
    """The feeds of a region. A session has one while it has readers."""

    def __init__(
        self,
        pin: Callable[[str], None],
        unpin: Callable[[str], None],
        roster: Callable[[str], Roster],
        runs: Callable[[str], list[str]],
        handing: Handing,
    ) -> None:
        """``pin`` is told of a session that has got readers, ``unpin`` when the last has left;
        ``roster`` says who is present in a session, ``runs`` which runs are not over, as JSON."""
        self._feeds: dict[str, Feed] = {}
        self.waking = Waking()
        self.handing = handing
        self._roster = roster
        self._runs = runs
        self._pin = pin
        self._unpin = unpin
        self.count = 0
        self.draining = False

    def get(self, session: str) -> Feed | None:
        """The feed of a session that has readers."""
        return self._feeds.get(session)

    def check_room(self) -> None:
        """Raises ``Refusal``: ``draining``, ``too_many``."""
        if self.draining:
            raise Refusal("draining", "this region is shutting down", retry_after_s=1)
        if self.count >= READERS_MAX:
            raise Refusal("too_many", "this region has too many readers", retry_after_s=1)

    def subscribe(self, session: Session, position: Position | None, now_ms: int) -> Reader:
        """Snapshot and subscription in one step. The session must be refreshed.

        Raises ``Refusal``: ``deleted``, ``too_many``, ``draining``.
        """
        if session.deleted:
            raise Refusal("deleted", "this session was deleted")
        self.check_room()
        feed = self._feeds.get(session.id)
        if feed is None:
            feed = Feed(session, self._roster(session.id), self._runs, self.handing, self.waking)
            feed.now_ms = now_ms
        first, returning = resume(session, position, now_ms, feed)
        if position is not None:
            self.handing.resumed(first, is_held=returning.differs)
        if session.id not in self._feeds:
            self._feeds[session.id] = feed
            self._pin(session.id)
        reader = Reader(feed, first, returning, lambda: self._left(session.id))
        feed.readers.add(reader)
        self.count += 1
        return reader

    def _left(self, session: str) -> None:
        self.count -= 1
        feed = self._feeds[session]
        if not feed.readers:
            del self._feeds[session]
            self._unpin(session)

    def held(self) -> int:
        """How many readers are held, or otherwise differ from what is shown here."""
        readers = (reader for feed in self._feeds.values() for reader in feed.readers)
        return sum(reader.returning is not None for reader in readers)

    def send_away(self, session: str) -> None:
        """End the subscriptions of a session; the clients resume by their cursors."""
        feed = self._feeds.get(session)
        if feed is not None:
            feed.closing = True
            feed.wake()

    def expire(self, now_ms: int) -> None:
        """End the holds whose time is over."""
        for feed in list(self._feeds.values()):
            feed.now_ms = now_ms
            for reader in list(feed.readers):
                reader.expire(now_ms)

    def document_changed(self, session: str, id_: str) -> None:
        """Tell the readers of a session that a document has changed."""
        if (feed := self._feeds.get(session)) is not None:
            feed.document_changed(id_)

    def tick(self) -> None:
        """A second has passed."""
        for feed in self._feeds.values():
            feed.tick()

    def keep_alive(self) -> None:
        """Wake every reader, so that an idle connection shows that it lives."""
        for feed in self._feeds.values():
            feed.trim()
            feed.wake(patient=True)

    def drain(self, retry_ms: int) -> None:
        """Tell every reader to come back elsewhere, and end the subscriptions."""
        self.draining = True
        for feed in self._feeds.values():
            feed.closing = True
            feed.announce(Draft("reconnect", f'{{"retry_ms":{retry_ms}}}'))
