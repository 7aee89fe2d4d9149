"""A session: messages in one order, metadata, tombstones; and what a region has told its readers.

Rule of this file: ``apply`` takes any operation in any order, any number of times, and only notes
what it touched; ``refresh`` then brings one message after the other up to date and says what
changed, so that a cursor made between two changes says exactly what was told so far.
"""

import json
from collections.abc import Collection, Iterator
from typing import Any

from perdure.replication.belief import Belief, Change, Told
from perdure.replication.cursor import DIGEST_MASK, Entry, Position, encode
from perdure.replication.documents import Documents
from perdure.replication.errors import Damaged
from perdure.replication.hlc import serial, to_time
from perdure.replication.ids import canonical, digest, grave_hash, session_tag
from perdure.replication.images import pack
from perdure.replication.items import DIGEST_BYTES
from perdure.replication.lane import Place
from perdure.replication.limits import CURSOR_ENTRIES_HELD_MAX as HELD_MAX
from perdure.replication.limits import CURSOR_ENTRIES_MAX, SNAPSHOT_MESSAGES_MAX
from perdure.replication.message import Message
from perdure.replication.operations import (
    Absorb,
    Cancel,
    Claim,
    Create,
    Delete,
    Discard,
    Edit,
    Erased,
    Fork,
    Items,
    Metadata,
    OfMessage,
    Open,
    Operation,
    Single,
)
from perdure.replication.records import Vector
from perdure.replication.registers import Registers
from perdure.replication.rows import BEFORE_SHOWN, Archive, Image, Row
from perdure.replication.shelf import Shelf
from perdure.replication.tenants import name_of
from perdure.replication.totals import Totals, id_of, recount, totals_of

_KNOWS_ALL = Belief()


class Session:
    """One session as this region holds it. With an archive it is one that has been stored."""

    def __init__(
        self,
        id_: str,
        archive: Archive | None = None,
        head: bytes | None = None,
        *,
        recounting: bool = False,
    ) -> None:
        """``recounting``: the totals of the head are not believed, for some of what they count is
        damaged. A head that is damaged itself is None."""
        self.id = id_
        self.created: int | None = None
        self.deleted = False
        self._metadata = Registers()
        self.documents = Documents()
        self._touched: dict[str, None] = {}
        self.touched_ms = 0  # when its region was last told something of it, by its own clock
        self._tag = session_tag(id_)
        totals = Totals() if head is None else self._restore(head)
        recounting = recounting or head is None
        if archive is not None and recounting:
            totals = recount(archive)
        if archive is not None and head is None:
            # The messages say when the session was there at the latest; a peer knows better.
            oldest = archive.after(BEFORE_SHOWN, 1)
            self.created = int(oldest[0].serial[:16], 16) if oldest else None
        self.messages = Shelf(id_, archive, totals)
        # Whether what is stored of the session itself is not what is here.
        self.is_dirty = archive is not None and recounting
        self._wiped = False

    def _restore(self, head: bytes) -> Totals:
        try:
            fields = json.loads(head)
            self.created, self.deleted = fields["created"], fields["deleted"]
            self.touched_ms = fields.get("touched", 0)
            self._metadata.restore(fields["metadata"])
            self.documents.restore(fields)
            return totals_of(fields)
        except (ValueError, TypeError, KeyError) as error:
            raise Damaged(f"the head of session {self.id} is none") from error

    # Applying

    def apply(self, op: Operation, place: Place | None, *, own: bool = False) -> None:
        """Merge one operation that is on disk at ``place`` (None: in another region's logs); a
        deleted session takes none."""
        if self.deleted:
            return
        self.is_dirty = True
        match op:
            case Create(hlc=hlc, metadata=values) | Metadata(hlc=hlc, values=values):
                self._born(hlc)
                if self._metadata.merge(hlc, op.region, values):
                    self._touched[""] = None
            case Delete():
                self._delete(op.message)
            case Edit() | Discard():
                self.documents.apply(op)
            case Erased(document=str(document)):
                self.documents.apply(Discard(self.id, document))
            case Erased(born=born):
                self._born(born)
                self._delete(op.message)
            case Absorb():
                self._absorb(op)
            case _:
                self._apply_to_message(op, place, own)

    def _absorb(self, op: Absorb) -> None:
        for told in op.operations:
            self.apply(told, None)
        for origins in op.origins:
            # It may have been stored since it was told.
            message = self.messages.get(origins.message)
            if message is not None:
                self.messages.touch(origins.message)
                opened = origins.opened_at
                message.stands(origins.reach, None if opened is None else Place(*opened))

    def _born(self, hlc: int | None) -> None:
        self.created = min((at for at in (self.created, hlc) if at is not None), default=None)

    def _apply_to_message(self, op: OfMessage, place: Place | None, own: bool) -> None:
        if isinstance(op, Open):
            self._born(op.header.created)
        if self.messages.is_buried(op.message):
            return
        message = self.messages.get(op.message) or self.messages.add(op.message)
        match op:
            case Items():
                message.apply_items(op, place, own=own)
            case Open():
                message.apply_open(op, place)
            case Claim():
                message.apply_claim(op, place)
            case Cancel():
                message.apply_cancel(op, place)
            case Fork():
                message.apply_fork(op)
            case _:
                message.apply_of_run(op, place)
        self.messages.touch(op.message)
        self._touched[op.message] = None

    def _delete(self, message: str | None) -> None:
        if message is None:
            self.deleted = True
            self._touched = {"": None}
            self.messages = Shelf(self.id)
            self._metadata.clear()
            self.documents.clear()
            self.is_dirty = self._wiped = True
        elif not self.messages.is_buried(message):
            self.messages.get(message)
            self.messages.bury(message)
            self._touched[message] = None

    # What changed

    def refresh(self) -> Iterator[Change]:
        """Bring the touched messages up to date, one a step; call until it is exhausted."""
        while self._touched:
            touched = next(iter(self._touched))
            del self._touched[touched]
            self.is_dirty = True
            if touched == "":
                yield Change("", None, None)
            elif touched in self.messages.tombstones:
                yield from self._bury(touched)
            else:
                yield from self._refresh_message(self.messages[touched])

    def _bury(self, id_: str) -> Iterator[Change]:
        message = self.messages.loaded(id_)
        told = None if message is None else message.shown
        if message is not None and told is None:
            # Nobody here was told of it; but elsewhere readers may have been.
            message.refresh()
        known = message is not None and message.shown is not None
        content = int.from_bytes(message.content(), "big") if message and known else 0
        if told is not None and message is not None:
            self.messages.unlist(serial(told.created, id_))
        self.messages.remove(id_, content)
        # Also when nobody here was told: a reader who was, elsewhere, may be held.
        yield Change(id_, told, None)

    def _refresh_message(self, message: Message) -> Iterator[Change]:
        before, now = message.refresh()
        if now is None:
            return
        moved = before is None or before.created != now.created
        if before is not None and moved:
            self.messages.unlist(serial(before.created, message.id))
        if moved:
            self.messages.show(message)
        elif before != now:
            self.messages.grow(message)
        self.messages.open_runs.note(message)
        # Also when nothing that is shown has changed: a held reader may now be understood.
        yield Change(message.id, before, now)

    def settle(self, id_: str) -> None:
        """All that is known of it is on disk in every region: cursors need not name it."""
        self.messages.settle(id_)

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
        for newest in reversed(self.messages.unsettled):
            if len(entries) >= CURSOR_ENTRIES_MAX:
                break
            id_ = id_of(newest)
            if id_ not in absent:
                entry = self._entry_as_shown(id_)
                entries.setdefault(entry.slot, entry)
        unnamed = absent.union(*(self._named(number, overrides) for number in entries))
        count, total = self._graves_told(belief)
        count += self.messages.count - len(unnamed)
        total += self.messages.sums.contents_without(unnamed)
        named = tuple(entries.values())[:HELD_MAX]
        return Position(self._tag, named, count, total & DIGEST_MASK)

    def _named(self, number: int, overrides: Collection[int]) -> list[str]:
        # What this region names itself is in the window; a reader may name anything.
        here = self.messages
        return here.by_slot(number) if number in overrides else here.slots_here(number)

    def _graves_told(self, belief: Belief) -> tuple[int, int]:
        """Number and digest of the deletions that the reader knows of; and, of those it does not,
        of the messages that it still has among its rest."""
        count = self.messages.graves_count - len(belief.graves)
        total = self.messages.graves_sum - sum(map(grave_hash, belief.graves))
        for ghost in belief.ghosts:
            total += self.messages.graves.get(ghost, 0) - grave_hash(ghost)
        for id_ in self.graves_named(belief.overrides):
            # Named by the cursor, so its deletion has not been told.
            count -= 1
            total -= grave_hash(id_)
        return count, total

    def graves_named(self, slots: Collection[int]) -> list[str]:
        """The deleted messages of these slots of which readers here have been told."""
        ids = (self.messages.buried_at(number) for number in slots)
        return [id_ for id_ in ids if id_ is not None and self.messages.is_grave(id_)]

    def _entry_as_shown(self, id_: str) -> Entry:
        row = self.messages.row_in_window(id_)
        if row is not None:
            return Entry(row.slot, row.tag, row.counter, row.status, row.length)
        shown = self.messages[id_].shown
        assert shown is not None
        return self._entry(Told(id_, shown.length, shown.status))

    def _entry(self, told: Told) -> Entry:
        message = self.messages[told.message]
        tip = message.tip
        assert tip is not None
        return Entry(message.slot, message.tag(), tip.epoch.counter, told.status, told.length)

    # What is stored

    def image(self, stable: Vector) -> Image:
        """What is to be stored now; from here on it counts as stored. See :meth:`unsaved`."""
        shelf = self.messages
        dirty = sorted(shelf.dirty)
        dropped = [id_ for id_ in dirty if not shelf.has_row(id_)]
        rows = [(shelf.row(id_), shelf.loaded(id_)) for id_ in dirty if shelf.has_row(id_)]
        messages = [(row, self._body(row, message, stable)) for row, message in rows]
        summary = canonical(self.summary(encode(self.position()))).encode()
        parts = (summary, self._head(), messages, dropped, self._wiped)
        image = Image(self.id, self.whole(), self.exists, *parts)
        shelf.dirty.clear()
        self.is_dirty = self._wiped = False
        return image

    @staticmethod
    def _body(row: Row, message: Message | None, stable: Vector) -> bytes | None:
        if row.is_buried:
            return b""
        return None if message is None else pack(message, stable)

    def _head(self) -> bytes:
        totals = self.messages.totals()
        return canonical(
            {
                "created": self.created,
                "deleted": self.deleted,
                "touched": self.touched_ms,
                "metadata": self._metadata.stored(),
                "totals": list(totals[:-1]),
                "window": totals.window,
                **self.documents.stored(),
            }
        ).encode()

    def retain(self) -> bool:
        """All that is in memory is to be stored again; whether that is anything."""
        found = [id_ for id_, _ in self.messages.items()]
        self.messages.dirty.update(found)
        return bool(found)

    def unsaved(self, image: Image) -> None:
        """It could not be stored: it is still to be done."""
        self.is_dirty, self._wiped = True, self._wiped or image.wiped
        if not self.deleted:
            self.messages.dirty.update(row.id for row, _ in image.messages)
            self.messages.dirty.update(image.dropped)

    def retell_head(self, region: str) -> list[Single]:
        """Operations that say what is known of the session besides its messages."""
        if self.deleted:
            return [Delete(self.id, None)]
        told: list[Single] = []
        if self.created is not None:
            told.append(Create(self.id, self.created, region, "{}"))
        for key, value in self._metadata.all():
            text = canonical({key: json.loads(value.text)})
            told.append(Metadata(self.id, value.hlc, value.region, text))
        return told

    # Values

    @property
    def exists(self) -> bool:
        """Whether any operation has made this session (a tombstone of a message alone has not)."""
        return self.created is not None and not self.deleted

    @property
    def is_blank(self) -> bool:
        """Whether nothing at all is known of this session."""
        known = self.deleted or self.created is not None or self.documents.ever
        return not (known or self.messages.items() or self.messages.graves or self.messages.count)

    def visible(self, id_: str) -> Message | None:
        """The message, when its header is known and it is not deleted."""
        message = self.messages.get(id_)
        return message if message is not None and message.shown is not None else None

    def metadata(self) -> dict[str, Any]:
        """The metadata; deleted keys are absent."""
        return self._metadata.values()

    def page(self, before: str | None, limit: int) -> tuple[list[dict[str, Any]], bool]:
        """The newest ``limit`` messages before a serial, oldest first; are there older ones?"""
        ids, more = self.messages.page(before, limit)
        return [one.value() for one in map(self.messages.look, ids) if one is not None], more

    def value(self, cursor: str) -> dict[str, Any]:
        """The session as PROTOCOL A.3 shows it."""
        messages, more = self.page(None, SNAPSHOT_MESSAGES_MAX)
        return {
            "id": name_of(self.id),
            "cursor": cursor,
            "created": to_time(self.created) if self.created is not None else None,
            "metadata": self.metadata(),
            "messages": messages,
            "more": more,
        }

    def summary(self, cursor: str) -> dict[str, Any]:
        """The session in a list of sessions."""
        return {
            "id": name_of(self.id),
            "created": to_time(self.created) if self.created is not None else None,
            "messages": self.messages.count,
            "cursor": cursor,
            "touched_ms": self.touched_ms,
        }

    def whole(self) -> bytes:
        """A digest of everything that regions must agree on, for ``verify``."""
        if self.deleted:
            return digest(DIGEST_BYTES, "deleted", self.id)
        stamps = [canonical([key, *value]) for key, value in self._metadata.all()]
        shelf = self.messages
        sums = [shelf.count, f"{shelf.sums.wholes():x}", shelf.graves_count, shelf.graves_sum]
        known = [self.created, stamps, sums, *self.documents.wholes()]
        return digest(DIGEST_BYTES, self.id, canonical(known))
