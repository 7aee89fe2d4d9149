"""A session: messages in one order, metadata, tombstones; and what a region has told its readers.

Rule of this file: ``apply`` takes any operation in any order, any number of times, and only notes
what it touched; ``refresh`` then brings one message after the other up to date and says what
changed, so that a cursor made between two changes says exactly what was told so far.
"""

import json
from bisect import bisect_left, insort
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from perdure.replication.cursor import DIGEST_MASK, Entry, Position
from perdure.replication.hlc import to_time
from perdure.replication.ids import canonical, digest, session_tag, slot
from perdure.replication.items import DIGEST_BYTES
from perdure.replication.lane import Place
from perdure.replication.limits import CURSOR_ENTRIES_MAX, SNAPSHOT_MESSAGES_MAX
from perdure.replication.message import Message, Shown
from perdure.replication.operations import (
    Cancel,
    Claim,
    Create,
    Delete,
    Items,
    Metadata,
    Open,
    Operation,
)


class Change(NamedTuple):
    """What happened to one message, or to the session (``message`` empty)."""

    message: str
    before: Shown | None
    now: Shown | None


class _Value(NamedTuple):
    """One metadata value with its stamp; the text breaks a tie that only a broken region makes."""

    hlc: int
    region: str
    text: str


class Told(NamedTuple):
    """Overrides what a cursor says of one message: it was told so far only this much."""

    message: str
    length: int
    status: str


@dataclass
class Belief:
    """Where a reader differs from what this region shows: ``overrides`` by slot (it was told other
    than is shown), ``absent`` (shown here, never told), ``ghosts`` (deleted here, not yet told)."""

    overrides: dict[int, Entry] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)
    ghosts: set[str] = field(default_factory=set)


_KNOWS_ALL = Belief()


class Session:
    """One session as this region holds it."""

    def __init__(self, id_: str) -> None:
        self.id = id_
        self.created: int | None = None
        self.deleted = False
        self.messages: dict[str, Message] = {}
        # Deleted messages in the order this region learned of them, with what they showed.
        self.tombstones: dict[str, int] = {}
        # Visible messages by serial, and in the order this region began to show them.
        self.order: list[str] = []
        self.arrival: dict[str, None] = {}
        self._metadata: dict[str, _Value] = {}
        self._touched: dict[str, None] = {}
        self._settled: dict[str, int] = {}
        self._settled_sum = 0
        self._unsettled: list[str] = []
        self._slots: dict[int, list[str]] = {}
        self._buried: dict[int, str] = {}
        self._tag = session_tag(id_)

    # Applying

    def apply(self, op: Operation, place: Place, *, own: bool = False) -> None:
        """Merge one operation that is on disk at ``place``; a deleted session takes none."""
        if self.deleted:
            return
        match op:
            case Create():
                self._born(op.hlc)
                self._merge_metadata(op.hlc, op.region, op.metadata)
            case Metadata():
                self._born(op.hlc)
                self._merge_metadata(op.hlc, op.region, op.values)
            case Delete():
                self._delete(op.message)
            case _:
                self._apply_to_message(op, place, own)

    def _born(self, hlc: int) -> None:
        if self.created is None or hlc < self.created:
            self.created = hlc

    def _apply_to_message(self, op: Open | Items | Claim | Cancel, place: Place, own: bool) -> None:
        if isinstance(op, Open):
            self._born(op.header.created)
        if op.message in self.tombstones:
            return
        message = self.messages.get(op.message)
        if message is None:
            message = self.messages[op.message] = Message(self.id, op.message)
        match op:
            case Items():
                message.apply_items(op, place, own=own)
            case Open():
                message.apply_open(op, place)
            case Claim():
                message.apply_claim(op)
            case Cancel():
                message.apply_cancel(op, place)
        self._touched[op.message] = None

    def _merge_metadata(self, hlc: int, region: str, values: str) -> None:
        for key, value in json.loads(values).items():
            stamped = _Value(hlc, region, canonical(value))
            known = self._metadata.get(key)
            if known is None or stamped > known:
                self._metadata[key] = stamped
                self._touched[""] = None

    def _delete(self, message: str | None) -> None:
        if message is None:
            self.deleted = True
            self._touched = {"": None}
            self.messages.clear()
            self.tombstones.clear()
            self.order.clear()
            self.arrival.clear()
            self._metadata.clear()
            self._settled.clear()
            self._settled_sum = 0
            self._unsettled.clear()
            self._slots.clear()
            self._buried.clear()
        elif message not in self.tombstones:
            self.tombstones[message] = 0
            self._buried[slot(message)] = message
            self._touched[message] = None

    # What changed

    def refresh(self) -> Iterator[Change]:
        """Bring the touched messages up to date, one a step; call until it is exhausted."""
        while self._touched:
            touched = next(iter(self._touched))
            del self._touched[touched]
            if touched == "":
                yield Change("", None, None)
            elif touched in self.tombstones:
                yield from self._bury(touched)
            else:
                yield from self._refresh_message(self.messages[touched])

    def _bury(self, id_: str) -> Iterator[Change]:
        message = self.messages.pop(id_, None)
        if message is None or message.shown is None:
            return
        self.tombstones[id_] = int.from_bytes(message.content(), "big")
        self._forget(message.shown, id_)
        del self.arrival[id_]
        yield Change(id_, message.shown, None)

    def _refresh_message(self, message: Message) -> Iterator[Change]:
        before, now = message.refresh()
        if now is None:
            return
        if before is None:
            self._slots.setdefault(slot(message.id), []).append(message.id)
            self.arrival[message.id] = None
        elif before.created != now.created:
            self._forget(before, message.id)
            self._slots.setdefault(slot(message.id), []).append(message.id)
        if before is None or before.created != now.created:
            insort(self.order, message.serial)
            insort(self._unsettled, message.serial)
        elif before != now:
            self._unsettle(message)
        # Also when nothing that is shown has changed: a held reader may now be understood.
        yield Change(message.id, before, now)

    def _forget(self, shown: Shown, id_: str) -> None:
        serial = f"{shown.created:016x}.{id_}"
        del self.order[bisect_left(self.order, serial)]
        self._slots[slot(id_)].remove(id_)
        if id_ in self._settled:
            self._settled_sum -= self._settled.pop(id_)
        else:
            del self._unsettled[bisect_left(self._unsettled, serial)]

    def _unsettle(self, message: Message) -> None:
        if message.id in self._settled:
            self._settled_sum -= self._settled.pop(message.id)
            insort(self._unsettled, message.serial)

    def settle(self, id_: str) -> None:
        """The end of this message is on disk in every region: cursors need not name it."""
        message = self.messages.get(id_)
        if message is None or message.shown is None or id_ in self._settled:
            return
        del self._unsettled[bisect_left(self._unsettled, message.serial)]
        self._settled[id_] = int.from_bytes(message.content(), "big")
        self._settled_sum += self._settled[id_]

    def is_settled(self, id_: str) -> bool:
        """Whether :meth:`settle` was called and nothing has changed since."""
        return id_ in self._settled

    # Positions

    def position(self, belief: "Belief | None" = None, told: Told | None = None) -> Position:
        """Where a reader stands that was told all that is shown, except as ``belief`` says, and
        except that of one message it was ``told`` only so much."""
        belief = belief or _KNOWS_ALL
        overrides, absent = belief.overrides, belief.absent
        if told is not None and slot(told.message) not in overrides:
            overrides = {slot(told.message): self._entry(told), **overrides}
        entries = dict(overrides)
        count = len(self._settled) + len(belief.ghosts)
        total = self._settled_sum + sum(self.tombstones[ghost] for ghost in belief.ghosts)
        for serial in reversed(self._unsettled):
            id_ = serial[17:]
            if id_ in absent or (overrides and slot(id_) in overrides):
                continue
            if len(entries) < CURSOR_ENTRIES_MAX:
                entries[slot(id_)] = self._entry(self._all_told(id_))
            else:
                count += 1
                total += int.from_bytes(self.messages[id_].content(), "big")
        for id_ in (*absent, *(i for s in overrides for i in self._slots.get(s, ()))):
            if id_ in self._settled:
                count -= 1
                total -= self._settled[id_]
        newest = tuple(entries.values())[:CURSOR_ENTRIES_MAX]
        return Position(self._tag, newest, count, total & DIGEST_MASK)

    def _all_told(self, id_: str) -> Told:
        shown = self.messages[id_].shown
        assert shown is not None
        return Told(id_, shown.length, shown.status)

    def _entry(self, told: Told) -> Entry:
        message = self.messages[told.message]
        tip = message.tip
        assert tip is not None
        return Entry(slot(told.message), message.tag(), tip.epoch.counter, told.status, told.length)

    def by_slot(self, number: int) -> list[str]:
        """The visible messages of a slot: one, or none, or (2⁻³² a pair) several."""
        return self._slots.get(number, [])

    def buried(self, number: int) -> str | None:
        """The deleted message of a slot."""
        return self._buried.get(number)

    def content_sum(self, ids: Collection[str] | None = None) -> int:
        """The sum of the contents of these messages; of all that are visible for None."""
        if ids is None:
            rest = [serial[17:] for serial in self._unsettled]
            return self._settled_sum + self.content_sum(rest)
        return sum(
            self._settled[i] if i in self._settled else _content(self.messages[i]) for i in ids
        )

    # Values

    @property
    def exists(self) -> bool:
        """Whether any operation has made this session (a tombstone of a message alone has not)."""
        return self.created is not None and not self.deleted

    @property
    def is_blank(self) -> bool:
        """Whether nothing at all is known of this session."""
        return not (self.deleted or self.created is not None or self.messages or self.tombstones)

    def visible(self, id_: str) -> Message | None:
        """The message, when its header is known and it is not deleted."""
        message = self.messages.get(id_)
        return message if message is not None and message.shown is not None else None

    def metadata(self) -> dict[str, Any]:
        """The metadata; deleted keys are absent."""
        values = {key: json.loads(value.text) for key, value in sorted(self._metadata.items())}
        return {key: value for key, value in values.items() if value is not None}

    def page(self, before: str | None, limit: int) -> tuple[list[dict[str, Any]], bool]:
        """The newest ``limit`` messages before a serial, oldest first; are there older ones?"""
        stop = len(self.order) if before is None else bisect_left(self.order, before)
        start = max(0, stop - limit)
        return [self.messages[s[17:]].value() for s in self.order[start:stop]], start > 0

    def value(self, cursor: str) -> dict[str, Any]:
        """The session as PROTOCOL A.3 shows it."""
        messages, more = self.page(None, SNAPSHOT_MESSAGES_MAX)
        return {
            "id": self.id,
            "cursor": cursor,
            "created": to_time(self.created) if self.created is not None else None,
            "metadata": self.metadata(),
            "messages": messages,
            "more": more,
            "presence": [],
            "runs": [],
        }

    def summary(self, cursor: str) -> dict[str, Any]:
        """The session in a list of sessions."""
        return {
            "id": self.id,
            "created": to_time(self.created) if self.created is not None else None,
            "messages": len(self.order),
            "cursor": cursor,
        }

    def whole(self) -> bytes:
        """A digest of everything that regions must agree on, for ``verify``."""
        if self.deleted:
            return digest(DIGEST_BYTES, "deleted", self.id)
        parts = [self.messages[serial[17:]].whole() for serial in self.order]
        stamps = [canonical([key, *value]) for key, value in sorted(self._metadata.items())]
        gone = sorted(self.tombstones)
        state = canonical([self.created, stamps, gone])
        return digest(DIGEST_BYTES, state, *parts)


def _content(message: Message) -> int:
    return int.from_bytes(message.content(), "big")
