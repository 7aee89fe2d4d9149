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
from perdure.replication.ids import canonical, digest, grave_hash, session_tag, slot
from perdure.replication.items import DIGEST_BYTES
from perdure.replication.lane import Place
from perdure.replication.limits import (
    CURSOR_ENTRIES_HELD_MAX,
    CURSOR_ENTRIES_MAX,
    SNAPSHOT_MESSAGES_MAX,
)
from perdure.replication.message import Message
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
from perdure.replication.shown import Shown


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
    than is shown), ``absent`` (shown here, never told), ``ghosts`` (deleted here; the reader still
    has it among its rest), ``graves`` (deleted here; the reader knows neither of it nor of that).
    """

    overrides: dict[int, Entry] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)
    ghosts: set[str] = field(default_factory=set)
    graves: set[str] = field(default_factory=set)


_KNOWS_ALL = Belief()


class Session:
    """One session as this region holds it."""

    def __init__(self, id_: str) -> None:
        self.id = id_
        self.created: int | None = None
        self.deleted = False
        self.messages: dict[str, Message] = {}
        self.tombstones: set[str] = set()
        # Those of which readers here have been told, in that order, with what they showed.
        self.graves: dict[str, int] = {}
        self._graves_sum = 0
        # Visible messages by serial, and in the order this region began to show them.
        self.order: list[str] = []
        self.arrival: dict[str, None] = {}
        self._metadata: dict[str, _Value] = {}
        self._touched: dict[str, None] = {}
        self._settled: set[str] = set()
        self._unsettled: list[str] = []
        # The sum of what visible messages show, and which of them have changed since: the newest
        # change with every token, and are summed only when a cursor does not name them.
        self._contents: dict[str, int] = {}
        self._contents_sum = 0
        self._changed: set[str] = set()
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
                message.apply_claim(op, place)
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
            self.graves.clear()
            self._graves_sum = 0
            self.order.clear()
            self.arrival.clear()
            self._metadata.clear()
            self._settled.clear()
            self._contents.clear()
            self._contents_sum = 0
            self._changed.clear()
            self._unsettled.clear()
            self._slots.clear()
            self._buried.clear()
        elif message not in self.tombstones:
            self.tombstones.add(message)
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
        told = None if message is None else message.shown
        if message is not None and told is None:
            # Nobody here was told of it; but elsewhere readers may have been.
            message.refresh()
        known = message is not None and message.shown is not None
        self.graves[id_] = _content(message) if message is not None and known else 0
        self._graves_sum += grave_hash(id_)
        if told is not None:
            self._forget(told, id_)
            del self.arrival[id_]
        # Also when nobody here was told: a reader who was, elsewhere, may be held.
        yield Change(id_, told, None)

    def _refresh_message(self, message: Message) -> Iterator[Change]:
        before, now = message.refresh()
        if now is None:
            return
        if before is None:
            self._slots.setdefault(message.slot, []).append(message.id)
            self.arrival[message.id] = None
        elif before.created != now.created:
            self._forget(before, message.id)
            self._slots.setdefault(message.slot, []).append(message.id)
        if before is None or before.created != now.created:
            insort(self.order, message.serial)
            insort(self._unsettled, message.serial)
        elif before != now:
            self._unsettle(message)
        if before != now:
            self._changed.add(message.id)
        # Also when nothing that is shown has changed: a held reader may now be understood.
        yield Change(message.id, before, now)

    def _forget(self, shown: Shown, id_: str) -> None:
        serial = f"{shown.created:016x}.{id_}"
        del self.order[bisect_left(self.order, serial)]
        self._slots[slot(id_)].remove(id_)
        self._contents_sum -= self._contents.pop(id_, 0)
        self._changed.discard(id_)
        if id_ in self._settled:
            self._settled.discard(id_)
        else:
            del self._unsettled[bisect_left(self._unsettled, serial)]

    def _unsettle(self, message: Message) -> None:
        if message.id in self._settled:
            self._settled.discard(message.id)
            insort(self._unsettled, message.serial)

    def settle(self, id_: str) -> None:
        """All that is known of it is on disk in every region: cursors need not name it."""
        message = self.messages.get(id_)
        if message is None or message.shown is None or id_ in self._settled:
            return
        del self._unsettled[bisect_left(self._unsettled, message.serial)]
        self._settled.add(id_)

    # Positions

    def position(self, belief: "Belief | None" = None, told: Told | None = None) -> Position:
        """Where a reader stands that was told all that is shown, except as ``belief`` says, and
        except that of one message it was ``told`` only so much."""
        belief = belief or _KNOWS_ALL
        overrides, absent = belief.overrides, belief.absent
        if told is not None and self.messages[told.message].slot not in overrides:
            entry = self._entry(told)
            overrides = {entry.slot: entry, **overrides}
        entries = dict(overrides)
        for serial in reversed(self._unsettled):
            if len(entries) >= CURSOR_ENTRIES_MAX:
                break
            message = self.messages[serial[17:]]
            if message.id not in absent and message.slot not in overrides:
                entries[message.slot] = self._entry(self._all_told(message.id))
        unnamed = absent.union(*(self._slots.get(number, ()) for number in entries))
        count, total = self._graves_told(belief)
        count += len(self.order) - len(unnamed)
        total += self.contents_without(unnamed)
        named = tuple(entries.values())[:CURSOR_ENTRIES_HELD_MAX]
        return Position(self._tag, named, count, total & DIGEST_MASK)

    def _graves_told(self, belief: Belief) -> tuple[int, int]:
        """Number and digest of the deletions that the reader knows of; and, of those it does not,
        of the messages that it still has among its rest."""
        count = len(self.graves) - len(belief.graves)
        total = self._graves_sum - sum(map(grave_hash, belief.graves))
        for ghost in belief.ghosts:
            total += self.graves[ghost] - grave_hash(ghost)
        for number in belief.overrides:
            # Named by the cursor, so its deletion has not been told.
            if (id_ := self._buried.get(number)) is not None and id_ in self.graves:
                count -= 1
                total -= grave_hash(id_)
        return count, total

    def _all_told(self, id_: str) -> Told:
        shown = self.messages[id_].shown
        assert shown is not None
        return Told(id_, shown.length, shown.status)

    def _entry(self, told: Told) -> Entry:
        message = self.messages[told.message]
        tip = message.tip
        assert tip is not None
        return Entry(message.slot, message.tag(), tip.epoch.counter, told.status, told.length)

    def by_slot(self, number: int) -> list[str]:
        """The visible messages of a slot: one, or none, or (2⁻³² a pair) several."""
        return self._slots.get(number, [])

    def buried(self, number: int) -> str | None:
        """The deleted message of a slot."""
        return self._buried.get(number)

    def contents_without(self, ids: Collection[str]) -> int:
        """The sum of what all visible messages but these show."""
        for id_ in [id_ for id_ in self._changed if id_ not in ids]:
            self._sum_up(id_)
        return self._contents_sum - sum(self._contents.get(id_, 0) for id_ in ids)

    def content_of(self, id_: str) -> int:
        """What a visible message adds to that sum."""
        if id_ in self._changed:
            self._sum_up(id_)
        return self._contents[id_]

    def _sum_up(self, id_: str) -> None:
        self._changed.discard(id_)
        self._contents_sum -= self._contents.get(id_, 0)
        self._contents[id_] = _content(self.messages[id_])
        self._contents_sum += self._contents[id_]

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
