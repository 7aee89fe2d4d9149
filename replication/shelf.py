"""The messages of a session: all of them, of which the newest and those in use are in memory.

Rule of this file: what a session shows does not depend on what is in memory. The *window* is the
newest shown messages by serial; what is older is in the archive, and only its number and its sums
are here. A message below the window that changes pulls the window down to it.
"""

import weakref
from bisect import bisect_left, insort
from collections.abc import Iterator

from perdure.replication.errors import Damaged
from perdure.replication.ids import grave_hash, slot
from perdure.replication.images import row_of, unpack
from perdure.replication.message import Message
from perdure.replication.open_runs import OpenRuns
from perdure.replication.records import Vector
from perdure.replication.rows import Archive, Row, buried_row
from perdure.replication.sums import Sums
from perdure.replication.totals import GRAVES_AT_HAND, Totals, id_of, window_of

# What is at hand of a session that comes back to memory, and how much more is fetched at a time.
WINDOW_ROWS = 32
REVEAL_ROWS = 256


class Shelf:
    """The messages of one session. ``archive`` None: nothing of it has been stored."""

    def __init__(self, session: str, archive: Archive | None = None, totals: Totals | None = None):
        totals = totals or Totals()
        self._session = session
        self._archive = archive
        self._loaded: dict[str, Message] = {}
        # Rows of messages in the window that are not loaded.
        self._rows: dict[str, Row] = {}
        # The window, by serial and in the order of arrival.
        self.order: list[str] = []
        self.arrival: dict[str, int] = {}
        self.older = totals.shown
        # What was stored as shown from here on is in the window.
        self._floor: str | None = None
        self._arrivals = totals.arrivals
        self._settled: set[str] = set()
        self.unsettled: list[str] = []
        self._slots: dict[int, list[str]] = {}
        # By a weak reference: without a cycle all of it is freed at once when it leaves memory.
        me = weakref.ref(self)

        def elsewhere(id_: str) -> int:
            return shelf._stored_content(id_) if (shelf := me()) is not None else 0

        self.sums = Sums(totals.contents, totals.wholes, self._loaded, elsewhere)
        # Deleted messages, with what they showed; those that refresh has told of are graves.
        self.tombstones: set[str] = set()
        self.graves: dict[str, int] = dict(totals.newest_graves)
        self.graves_count = totals.graves
        self.graves_sum = totals.graves_sum
        self._buried: dict[int, str] = {slot(id_): id_ for id_ in self.graves}
        # What is to be stored; and what was found damaged, as if it had never been.
        self.dirty: set[str] = set()
        self._forgotten: set[str] = set()
        self.open_runs = OpenRuns(() if archive is None else archive.open_runs())
        if archive is not None:
            self.reveal(max(WINDOW_ROWS, totals.window))

    # Finding

    def get(self, id_: str) -> Message | None:
        """The message, fetched when it is not in memory; None when it is not known or deleted."""
        message = self._loaded.get(id_)
        if message is None and self._archive is not None:
            row = self._row(id_)
            if row is not None and not row.is_buried:
                message = self._load(row)
        return message

    def __getitem__(self, id_: str) -> Message:
        if (message := self.get(id_)) is None:
            raise KeyError(id_)
        return message

    def items(self) -> list[tuple[str, Message]]:
        """Those in memory."""
        return list(self._loaded.items())

    def add(self, id_: str) -> Message:
        """A message that is not known yet."""
        return self._loaded.setdefault(id_, Message(self._session, id_))

    def look(self, id_: str) -> Message | None:
        """The message for a look: an old one does not stay in memory."""
        return self.get(id_) if id_ in self.arrival else self.peek(id_)

    def peek(self, id_: str) -> Message | None:
        """The message for one look; it does not stay in memory."""
        message = self._loaded.get(id_)
        if message is not None or self._archive is None:
            return message
        row = self._row(id_)
        return None if row is None or row.is_buried else self._unpack(row)

    def stored_after(self, serial: str, limit: int) -> list[Row]:
        """Rows of what is stored, of every kind, after a serial."""
        return [] if self._archive is None else self._archive.after(serial, limit)

    def lose(self, id_: str) -> None:
        """The message was found damaged: as if this region had never heard of it."""
        row = self.row(id_) if id_ in self._loaded else self._row(id_)
        self._loaded.pop(id_, None)
        if row is not None:
            self._lose(row)

    def _row(self, id_: str) -> Row | None:
        """The row of a message that is not loaded."""
        if id_ in self.tombstones or id_ in self._forgotten or self._archive is None:
            return None
        return self._rows.get(id_) or self._archive.row(id_)

    def _load(self, row: Row) -> Message | None:
        message = self._unpack(row)
        if message is not None:
            self._loaded[row.id] = message
            self._rows.pop(row.id, None)
            self.sums.at_hand(row.id, None, row.whole)
        return message

    def _unpack(self, row: Row) -> Message | None:
        assert self._archive is not None
        body = self._archive.body(row.id)
        try:
            if body is None:
                self._archive.missing()
                raise Damaged("its bytes are not those that were written")
            return unpack(self._session, row.id, body)
        except Damaged:
            self._lose(row)
            return None

    def _lose(self, row: Row) -> None:
        """A stored message is damaged: as if this region had never heard of it. A peer has it."""
        self.dirty.add(row.id)
        self._forgotten.add(row.id)
        self.open_runs.drop(row.id)
        self.sums.drop_whole(row.id, row.whole)
        if self.sums.lists(row.id):
            self._unlist(row.serial, row.id)
        elif row.is_shown:
            self.older -= 1
            self.sums.drop_content(row.id, row.content)

    def is_buried(self, id_: str) -> bool:
        """Whether the message was deleted."""
        if id_ in self.tombstones or id_ in self.graves:
            return True
        if id_ in self._loaded or self._archive is None or id_ in self._rows:
            return False
        row = self._row(id_)
        return row is not None and row.is_buried

    def is_grave(self, id_: str) -> bool:
        """Whether readers here have been told that this message, which is deleted, is."""
        return id_ in self.graves or id_ not in self.tombstones

    def buried_at(self, number: int) -> str | None:
        """The deleted message of a slot."""
        found = self._buried.get(number)
        if found is None and self._archive is not None:
            return next((r.id for r in self._archive.rows(number) if r.is_buried), None)
        return found

    def by_slot(self, number: int) -> list[str]:
        """The shown messages of a slot: one, or none, or (2⁻³² a pair) several."""
        here = self._slots.get(number, [])
        if self._archive is None or not self.older:
            return list(here)
        gone = self.tombstones | self._forgotten | set(here)
        rows = self._archive.rows(number)
        return [*here, *(row.id for row in rows if row.is_shown and row.id not in gone)]

    def slots_here(self, number: int) -> list[str]:
        """The messages of a slot that are in the window."""
        return self._slots.get(number, [])

    # The window

    @property
    def count(self) -> int:
        """How many messages are shown."""
        return self.older + len(self.order)

    def reveal(self, rows: int) -> bool:
        """Let the window reach further back by so many messages; False when that is all."""
        if self._archive is None or not self.older or not rows:
            return False
        older = self.older
        found = self._archive.newest(self._floor, rows)
        for row in found:
            self._floor = row.serial
            self._take_in(row)
        if len(found) < min(rows, older):
            self._archive.missing()
        if not found:
            # Rows that are damaged are not found: what is left of the sums is theirs.
            self.older = 0
            self.sums.only_at_hand()
        self.arrival = dict(sorted(self.arrival.items(), key=lambda item: item[1]))
        return bool(found)

    def _take_in(self, row: Row) -> None:
        if row.id in self._forgotten:
            return
        self.older -= 1
        insort(self.order, row.serial)
        self._slots.setdefault(row.slot, []).append(row.id)
        self.arrival[row.id] = row.arrived
        self.sums.at_hand(row.id, row.content, row.whole)
        if row.settled:
            self._settled.add(row.id)
        else:
            insort(self.unsettled, row.serial)
        if row.id not in self._loaded:
            self._rows[row.id] = row

    def _reveal_to(self, serial: str) -> None:
        while self.older and (self._floor is None or self._floor > serial):
            if not self.reveal(REVEAL_ROWS):
                break

    def newest(self) -> Iterator[str]:
        """Shown messages, the newest first; reaches back as far as it is asked for."""
        serial = None
        while True:
            stop = len(self.order) if serial is None else bisect_left(self.order, serial)
            for serial in reversed(self.order[:stop]):
                yield id_of(serial)
            if not self.reveal(REVEAL_ROWS):
                return

    def latest(self) -> Iterator[str]:
        """The messages at hand, the last shown first. (The list: older ones may come to hand.)"""
        return reversed(list(self.arrival))

    def page(self, before: str | None, limit: int) -> tuple[list[str], bool]:
        """The newest ``limit`` shown messages before a serial, oldest first; are there older?"""
        stop = len(self.order) if before is None else bisect_left(self.order, before)
        ids = [id_of(serial) for serial in self.order[max(0, stop - limit - 1) : stop]]
        missing = limit + 1 - len(ids)
        if missing > 0 and self.older and self._archive is not None:
            below = self._floor
            if before is not None and (below is None or before < below):
                below = before
            gone = self.tombstones | self._forgotten
            rows = self._archive.newest(below, missing + len(gone))
            older = [row.id for row in rows if row.id not in gone][:missing]
            ids = [*reversed(older), *ids]
        return ids[-limit:], len(ids) > limit

    # What refresh found out

    def show(self, message: Message) -> None:
        """The message is shown for the first time, or under another serial: see :meth:`unlist`."""
        self._reveal_to(message.serial)
        self._slots.setdefault(message.slot, []).append(message.id)
        if message.id not in self.arrival:
            self._arrivals += 1
            self.arrival[message.id] = self._arrivals
        insort(self.order, message.serial)
        insort(self.unsettled, message.serial)
        self.sums.changed(message.id)

    def grow(self, message: Message) -> None:
        """What is shown of the message has changed."""
        self._reveal_to(message.serial)
        if message.id in self._settled:
            self._settled.discard(message.id)
            insort(self.unsettled, message.serial)
        self.sums.changed(message.id)

    def unlist(self, serial: str) -> None:
        """What was shown under this serial is shown no more."""
        self._reveal_to(serial)
        self._unlist(serial, id_of(serial))

    def _unlist(self, serial: str, id_: str) -> None:
        del self.order[bisect_left(self.order, serial)]
        self._slots[slot(id_)].remove(id_)
        self.sums.drop_content(id_)
        self._rows.pop(id_, None)
        if id_ in self._settled:
            self._settled.discard(id_)
        else:
            del self.unsettled[bisect_left(self.unsettled, serial)]

    def touch(self, id_: str) -> None:
        """Something is known of the message that was not; it is in memory, or buried."""
        self.dirty.add(id_)
        self._forgotten.discard(id_)
        if id_ not in self.tombstones:
            self.sums.touched(id_)

    def bury(self, id_: str) -> None:
        """The message is deleted. What it showed is in ``graves`` once it has been refreshed."""
        self.tombstones.add(id_)
        self._buried[slot(id_)] = id_
        self.dirty.add(id_)

    def remove(self, id_: str, content: int) -> None:
        """A deleted message is gone from memory; ``content`` is what it showed, 0 for nothing."""
        self._loaded.pop(id_, None)
        self._rows.pop(id_, None)
        self.arrival.pop(id_, None)
        self.open_runs.drop(id_)
        self.sums.drop_whole(id_)
        self.graves[id_] = content
        self.graves_count += 1
        self.graves_sum += grave_hash(id_)

    def settle(self, id_: str) -> None:
        """All that is known of it is on disk in every region: cursors need not name it."""
        if id_ not in self.arrival or id_ in self._settled:
            return
        message = self._loaded.get(id_)
        serial = self._rows[id_].serial if message is None else message.serial
        del self.unsettled[bisect_left(self.unsettled, serial)]
        self._settled.add(id_)
        self.dirty.add(id_)

    def _stored_content(self, id_: str) -> int:
        row = self._row(id_)
        return row.content if row is not None and row.is_shown else 0

    # Storing

    def row(self, id_: str) -> Row:
        """The row of a message that is loaded, in the window, or buried at hand."""
        if id_ in self.graves:
            return buried_row(id_, self.graves[id_], 0)
        if id_ in self._rows:
            return self._rows[id_]._replace(settled=id_ in self._settled)
        message = self._loaded[id_]
        content = self.sums.content(id_) if message.shown is not None else 0
        arrived = self.arrival.get(id_, 0)
        return row_of(message, content, self.sums.whole(id_), id_ in self._settled, arrived)

    def has_row(self, id_: str) -> bool:
        """Whether :meth:`row` has one."""
        return id_ in self.graves or id_ in self._rows or id_ in self._loaded

    def row_in_window(self, id_: str) -> Row | None:
        """The row of a message in the window that is not loaded."""
        return self._rows.get(id_)

    def loaded(self, id_: str) -> Message | None:
        """The message, where it is in memory."""
        return self._loaded.get(id_)

    def reach_of(self, id_: str) -> tuple[bool, Vector] | None:
        """Whether a message in memory or in the window is over, and where its operations stand."""
        message = self._loaded.get(id_)
        if message is not None:
            return message.is_over, message.reach
        row = self._rows.get(id_)
        return None if row is None else (row.over, row.reach)

    def unload(self, id_: str) -> None:
        """Let go of a message that is stored as it is."""
        row = self.row(id_)
        del self._loaded[id_]
        if self.sums.lists(id_):
            self._rows[id_] = row
        else:
            self.sums.elsewhere(id_)

    def stored(self, archive: Archive) -> None:
        """What was dirty is stored, and can be fetched there."""
        self._archive = archive
        for id_ in self.tombstones - self.dirty:
            if id_ in self.graves:
                self.tombstones.discard(id_)
        while len(self.graves) > GRAVES_AT_HAND:
            oldest = next(iter(self.graves))
            if oldest in self.dirty:
                break
            del self.graves[oldest]
            self._buried.pop(slot(oldest), None)

    def totals(self) -> Totals:
        """What the head says of all messages together."""
        return Totals(
            self.count,
            self.sums.contents_without(()),
            self.sums.wholes(),
            self.graves_count,
            self.graves_sum,
            tuple(list(self.graves.items())[-GRAVES_AT_HAND:]),
            self._arrivals,
            window_of(self.order, self.unsettled),
        )
