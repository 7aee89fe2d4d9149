"""What a returning reader gets (``docs/PROTOCOL.md`` A.6), as a machine without I/O.

A :class:`Returning` is made from a session and a cursor. While it ``differs`` from what the region
shows it has cursors of its own: its own position is kept for every message that is held. When it
no longer differs, it takes part in the shared events, which cost nothing per reader.
"""

from collections.abc import Iterator
from itertools import islice, product
from typing import NamedTuple

from perdure.replication.belief import Belief, Change
from perdure.replication.cursor import DIGEST_MASK, Entry, Position, encode
from perdure.replication.errors import Refusal
from perdure.replication.feed import (
    Beside,
    Draft,
    Event,
    delete_draft,
    finish,
    growth_drafts,
    message_draft,
    metadata_draft,
    ready_draft,
    replace_draft,
    snapshot_event,
    stale_draft,
)
from perdure.replication.ids import grave_hash, session_tag
from perdure.replication.judge import Verdict, judge
from perdure.replication.limits import HOLD_MS, SNAPSHOT_MESSAGES_MAX
from perdure.replication.message import Message
from perdure.replication.session import Session

# How many of the newest deletions a reader may have missed and still be told of them one by one;
# each doubles the number of ways to be tried.
_LATE_DELETIONS_MAX = 4


class Missing(NamedTuple):
    """What the reader lacks of the messages that its cursor does not name: ``messages`` to be told,
    ``ghosts`` that it holds and that were deleted, ``graves`` of which it knows nothing at all."""

    messages: list[str]
    ghosts: list[str]
    graves: list[str]


class _Newest:
    """The newest messages of an order, and the sum of what the first k of them show."""

    def __init__(self, session: Session, newest: Iterator[str]) -> None:
        self._session = session
        self._newest = newest
        self._ids: list[str] = []
        self._sums = [0]

    def take(self, count: int) -> tuple[list[str], int] | None:
        """The first ``count``, and the sum of what they show; None when fewer are at hand."""
        for id_ in islice(self._newest, max(0, count - len(self._ids))):
            self._ids.append(id_)
            self._sums.append(self._sums[-1] + self._session.messages.sums.content(id_))
        return (self._ids[:count], self._sums[count]) if count <= len(self._ids) else None


def find_missing(session: Session, position: Position) -> Missing | None:
    """What the reader lacks of the messages its cursor does not name; None: it cannot be shown
    that this region is ahead of the reader.

    The region is ahead when the reader's count and digest are those of this region without its
    newest k messages (by serial, or in the order in which this region came to show them), and
    without some of its newest deletions; of each of those the reader has the message, or nothing.
    """
    named = {id_ for entry in position.entries for id_ in session.messages.by_slot(entry.slot)}
    buried = set(session.graves_named({entry.slot for entry in position.entries}))
    graves = [id_ for id_ in session.messages.graves if id_ not in buried]
    for order in (session.messages.newest, session.messages.latest):
        newest = _Newest(session, (id_ for id_ in order() if id_ not in named))
        for ghosts, unknown in _late_deletions(session, graves):
            found = _match(session, position, newest, named, buried, ghosts, unknown)
            if found is not None:
                return found
    return None


def _late_deletions(session: Session, graves: list[str]) -> Iterator[tuple[list[str], list[str]]]:
    """Each way in which the reader may not know the newest deletions: (ghosts, unknown)."""
    for young in range(min(len(graves), _LATE_DELETIONS_MAX) + 1):
        late = graves[len(graves) - young :]
        for picks in product((True, False), repeat=young):
            ghosts = [id_ for id_, pick in zip(late, picks, strict=True) if pick]
            if all(session.messages.graves[id_] for id_ in ghosts):
                yield ghosts, [id_ for id_ in late if id_ not in ghosts]


def _match(
    session: Session,
    position: Position,
    newest: _Newest,
    named: set[str],
    buried: set[str],
    ghosts: list[str],
    unknown: list[str],
) -> Missing | None:
    shelf = session.messages
    count = shelf.count - len(named)
    graves = shelf.graves_count - len(buried)
    missing = count + graves - len(unknown) - position.rest
    if not 0 <= missing <= count:
        return None
    taken = newest.take(missing)
    if taken is None:
        return None
    ids, late = taken
    total = shelf.sums.contents_without(named) - late + shelf.graves_sum
    total -= sum(map(grave_hash, (*buried, *ghosts, *unknown)))
    total += sum(shelf.graves[id_] for id_ in ghosts)
    if total & DIGEST_MASK != position.digest:
        return None
    return Missing(ids[::-1], ghosts, unknown)


class Returning:
    """A reader with a position of its own. ``start`` once; then every change and the time."""

    def __init__(self, session: Session, position: Position, beside: Beside) -> None:
        self._session = session
        self._beside = beside
        self._position = position
        self._belief = Belief()
        self._deadline_ms = 0
        # The cursor's rest does not match: nothing is sent until it does, or the time is over.
        self._waiting = False

    @property
    def differs(self) -> bool:
        """Whether this reader needs cursors of its own."""
        return self._waiting or bool(self._belief.overrides)

    def start(self, now_ms: int) -> list[Event]:
        """What the reader gets at once."""
        self._deadline_ms = now_ms + HOLD_MS
        ambiguous = any(
            len(self._session.messages.by_slot(e.slot)) > 1 for e in self._position.entries
        )
        if self._session.deleted:
            return [finish(self._session, Draft("deleted", "{}"))]
        if self._position.session != session_tag(self._session.id) or ambiguous:
            return self._whole()
        events = self._catch_up()
        if events is None:
            self._waiting = True
            return [self._own(stale_draft(None, True))]
        return events

    def on_change(self, change: Change, drafts: list[Draft]) -> list[Event]:
        """One change of the session, just refreshed, and the events that others get for it."""
        if self._session.deleted:
            self._waiting, self._belief = False, Belief()
            return [finish(self._session, draft) for draft in drafts]
        if self._waiting:
            # Of the others that have changed, some may not be up to date yet: see on_refreshed.
            return []
        slots = [s for s in self._belief.overrides if change.message in self._names(s)]
        if change.message == "" or not slots:
            return [finish(self._session, draft, self._belief) for draft in drafts]
        return self._rejudge(slots[0])

    def on_refreshed(self) -> list[Event]:
        """All that has changed is up to date: a reader that waits is told what it misses, if that
        can be said now."""
        return self._try_again() if self._waiting else []

    def on_time(self, now_ms: int) -> list[Event]:
        """The time is over: what this region holds is said, whatever it is."""
        if not self.differs or now_ms < self._deadline_ms:
            return []
        unknown = [s for s in self._belief.overrides if not self._session.messages.by_slot(s)]
        if self._waiting or unknown:
            was_waiting, self._waiting, self._belief = self._waiting, False, Belief()
            events = [snapshot_event(self._session, self._beside, "behind")]
            if was_waiting:
                events.append(finish(self._session, ready_draft()))
            return events
        events = []
        for number in list(self._belief.overrides):
            message = self._message(number)
            assert message is not None
            entry = self._belief.overrides[number]
            events.append(self._own(stale_draft(message.id, False)))
            del self._belief.overrides[number]
            # A replace carries no header: who may have been told another gets the whole message.
            draft = replace_draft if _same_header(message, entry) else message_draft
            events.append(self._own(draft(message, "behind")))
        return events

    def tell(self, draft: Draft) -> Event:
        """An event that changes nothing of what the reader holds."""
        return self._own(draft)

    def _own(self, draft: Draft) -> Event:
        if self._waiting:
            return Event(draft.name, encode(self._position), draft.data)
        return finish(self._session, draft, self._belief)

    def _names(self, number: int) -> list[str]:
        buried = self._session.messages.buried_at(number)
        return [*self._session.messages.by_slot(number), *([buried] if buried else [])]

    def _message(self, number: int) -> Message | None:
        names = self._session.messages.by_slot(number)
        return self._session.visible(names[0]) if names else None

    def _verdict(self, entry: Entry) -> Verdict:
        if self._session.messages.buried_at(entry.slot):
            return Verdict.DELETED
        return judge(self._message(entry.slot), entry)

    def _try_again(self) -> list[Event]:
        over = self._own(stale_draft(None, False))
        events = self._catch_up()
        return [] if events is None else [over, *events]

    def _catch_up(self) -> list[Event] | None:
        """Everything that is missing, then metadata and ready; None when that cannot be said."""
        missing = find_missing(self._session, self._position)
        if missing is None:
            return None
        self._waiting = False
        self._belief = Belief(
            overrides={entry.slot: entry for entry in self._position.entries},
            absent=set(missing.messages),
            ghosts=set(missing.ghosts),
            graves=set(missing.graves),
        )
        if self._is_far_behind(missing):
            self._belief = Belief()
            return self._whole()
        events: list[Event] = []
        for ghost in missing.ghosts:
            self._belief.ghosts.discard(ghost)
            events.append(self._own(delete_draft(ghost)))
        self._belief.graves.clear()
        for entry in self._position.entries:
            events += self._tell(entry, self._verdict(entry))
        for id_ in missing.messages:
            self._belief.absent.discard(id_)
            events.append(self._own(message_draft(self._session.messages[id_])))
        last = (metadata_draft(self._session), *self._beside.drafts(), ready_draft())
        return [*events, *map(self._own, last)]

    def _whole(self) -> list[Event]:
        """The session as it is, and that this is all."""
        first = snapshot_event(self._session, self._beside)
        return [first, finish(self._session, ready_draft())]

    def _is_far_behind(self, missing: Missing) -> bool:
        """Whether one snapshot says it all, in fewer events and taking nothing back."""
        ahead = any(self._verdict(e) is Verdict.HOLD for e in self._position.entries)
        return len(missing.messages) > SNAPSHOT_MESSAGES_MAX and not ahead

    def _tell(self, entry: Entry, verdict: Verdict) -> list[Event]:
        message = self._message(entry.slot)
        if verdict is Verdict.HOLD:
            name = message.id if message else None
            return [self._own(stale_draft(name, True))]
        if verdict is Verdict.GROW:
            assert message is not None
            return self._grow(entry, message)
        del self._belief.overrides[entry.slot]
        if verdict is Verdict.DELETED:
            return [self._own(delete_draft(self._names(entry.slot)[-1]))]
        assert message is not None
        if verdict is Verdict.MESSAGE:
            return [self._own(message_draft(message, "conflict"))]
        return [self._own(replace_draft(message, verdict.value))]

    def _grow(self, entry: Entry, message: Message) -> list[Event]:
        """Appends and the end, each with a cursor that says how far it brings the reader."""
        drafts = list(growth_drafts(message, entry.length, entry.status))
        tip = message.tip
        assert tip is not None
        events: list[Event] = []
        for draft in drafts[:-1]:
            assert draft.told is not None
            reached = Entry(
                entry.slot, message.tag(), tip.epoch.counter, entry.status, draft.told.length
            )
            self._belief.overrides[entry.slot] = reached
            events.append(self._own(draft._replace(told=None)))
        del self._belief.overrides[entry.slot]
        return events + [self._own(draft._replace(told=None)) for draft in drafts[-1:]]

    def _rejudge(self, number: int) -> list[Event]:
        """The held message of a slot has changed: is the hold over?"""
        entry = self._belief.overrides[number]
        verdict = self._verdict(entry)
        if verdict is Verdict.HOLD:
            return []
        over = self._own(stale_draft(self._names(number)[0], False))
        return [over, *self._tell(entry, verdict)]


def _same_header(message: Message, entry: Entry) -> bool:
    """Whether the reader was told of the header that is shown."""
    variant = message.variants().get(entry.tag)
    shown = message.shown
    assert shown is not None
    return variant is not None and variant[1:] == (shown.header, shown.created)


def resume(
    session: Session, position: Position | None, now_ms: int, beside: Beside
) -> tuple[list[Event], Returning]:
    """The first events of a subscription, and the reader's machine from then on.

    ``position`` None: a reader that comes for the first time. The session must be refreshed.
    """
    if position is None:
        if session.deleted:
            raise Refusal("deleted", "this session was deleted")
        returning = Returning(session, session.position(), beside)
        first = [snapshot_event(session, beside), finish(session, ready_draft())]
        return first, returning
    returning = Returning(session, position, beside)
    return returning.start(now_ms), returning
