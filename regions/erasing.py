"""Making what was deleted gone from this region's disk, and saying so.

Rule of this file: the word is given after the deed. What is deleted is noted in the transaction
that logs the delete, and counts as gone when its tombstone is stored, the logs say nothing of it
any more, and no file holds what was there. What comes later finds the tombstone, and is not stored.
"""

import asyncio
import json
import logging
from collections.abc import Sequence
from typing import Any

from perdure.regions.checkpoint import Checkpoint
from perdure.regions.ports import Clock, Storage, StorageError, StorageFull
from perdure.regions.state import State
from perdure.regions.writer import Applied, Writer
from perdure.replication.erasure import (
    Gone,
    covers,
    deleting,
    deletions,
    erased,
    is_gone,
    is_original,
    session_of,
)
from perdure.replication.errors import Refusal
from perdure.replication.gossip import Gossip
from perdure.replication.hlc import to_time
from perdure.replication.ids import check_id
from perdure.replication.lane import Place
from perdure.replication.limits import ERASE_EVERY_S, ERASE_SUBJECTS_MAX
from perdure.replication.operations import Items
from perdure.replication.records import ABSORBED, Vector, parse_origin
from perdure.replication.subjects import Deletion, Subject
from perdure.replication.tenants import check_session, name_of

log = logging.getLogger("perdure")

# What part of the time may be spent on it: all of the file is looked at.
SHARE_MAX = 0.1
# How often what the peers have said is noted, for the time when they cannot be asked.
NOTE_EVERY_S = 60
# What was learned by a round, and whose delete has come by no log after so long, is deleted here
# once more, so many at a time: the log that had it may be lost, and else nobody could say a word.
PLACELESS_S_MAX = 60
PLACELESS_MAX = 100
# Where what this region, and its peers, have said is noted.
_ERASED = "erased"
_ERASED_THERE = "erased_there"


class Eraser:
    """What of a region is deleted, and whether it is gone."""

    def __init__(
        self,
        state: State,
        storage: Storage,
        gossip: Gossip,
        checkpoint: Checkpoint,
        clock: Clock,
        writer: Writer,
    ) -> None:
        self.erased = 0
        self._state = state
        self._storage = storage
        self._gossip = gossip
        self._checkpoint = checkpoint
        self._clock = clock
        self._writer = writer
        writer.screen, writer.deletions = self.screen, self.deletions
        self._noted: str | None = None
        self._next_note_s = 0
        self._wake = asyncio.Event()
        self._pause = asyncio.sleep

    # What the writer asks

    def screen(self, applied: Applied) -> Applied:
        """A record from elsewhere as it may be stored here."""
        name = session_of(applied.record.body)
        name = applied.operation.session if applied.operation is not None else name
        try:
            session = None if name is None else self._state.find(name)
        except StorageError:
            # Applying it will meet the same.
            return applied
        if session is None:
            return applied
        record = erased(applied.record, lambda subject: is_gone(session, subject))
        if record is applied.record:
            return applied
        return Applied(self._state.decode(record), record)

    def deletions(self, applied: Applied) -> Sequence[Deletion]:
        """What a record deletes."""
        if isinstance(applied.operation, Items):
            # Tokens, which are most of what comes, delete nothing.
            return ()
        found = list(deletions(applied.operation))
        if not found:
            return ()
        record, session = applied.record, self._state.session(found[0].session)
        is_there = is_original(applied.operation) and record.origin != ABSORBED
        place = Place(record.origin, record.lsn) if is_there else None
        now_ms = self._clock.wall_ms()
        return [
            Deletion(subject, place, not is_gone(session, subject), now_ms) for subject in found
        ]

    # Erasing

    def recovered(self) -> None:
        """The storage has been replayed."""
        notes = self._storage.notes()
        if self._storage.waiting(1):
            self._gossip.erased = _vector(notes.get(_ERASED, "{}"))
            self.look()
        self._noted = notes.get(_ERASED_THERE)
        for name, vector in json.loads(self._noted or "{}").items():
            if name in self._gossip.peers:
                self._gossip.peers[name].erased = _vector(json.dumps(vector))

    def look(self) -> None:
        """Something was logged."""
        if self._gossip.erased is not None:
            self._wake.set()

    async def run(self) -> None:
        """Erase what is deleted, for as long as it is not cancelled. Raises ``StorageFailed``."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            began_ms = self._clock.monotonic_ms()
            try:
                again = not await self.erase()
            except StorageFull as error:
                log.warning("erasing has to wait: %s", error)
                again = True
            took_s = (self._clock.monotonic_ms() - began_ms) / 1000
            await self._pause(max(ERASE_EVERY_S, took_s * (1 / SHARE_MAX - 1)))
            if again:
                self._wake.set()

    async def erase(self) -> bool:
        """Make some of what is deleted gone; whether all is.

        Raises ``StorageFull`` and ``StorageFailed``; what is done by then stays.
        """
        # All that is applied by now: what is to be gone was deleted up to here.
        vector = dict(self._gossip.vector)
        found = self._storage.waiting(ERASE_SUBJECTS_MAX)
        ready = [subject for subject in found if await self._is_stored(subject)]
        if ready:
            self._gossip.replace(Gone(ready).erased)
            if not await self._storage.erase(ready):
                log.info("somebody reads the database: what is deleted is erased later")
                return False
        is_all = len(ready) == len(found) < ERASE_SUBJECTS_MAX
        if ready:
            await self._storage.erased(ready, vector if is_all else None)
            self.erased += len(ready)
        if is_all:
            self._gossip.erased = vector
            if not self._storage.waiting(1):
                self._gossip.erased = None
        return self._gossip.erased is None

    async def _is_stored(self, subject: Subject) -> bool:
        """Whether its tombstone is in the image of its session."""
        session = self._state.find(subject.session)
        if session is None or not is_gone(session, subject):
            # It is being applied just now; or its tombstone is damaged, and comes from a peer.
            return False
        position = self._state.position
        await self._checkpoint.session(subject.session)
        # Something else may have been written to it meanwhile.
        return self._state.dirty.get(subject.session, position) >= position

    async def step(self, now_s: int) -> None:
        """A second has passed. Raises ``StorageFull`` and ``StorageFailed``."""
        if now_s >= self._next_note_s:
            self._next_note_s = now_s + NOTE_EVERY_S
            await self.remember()
            await self._delete_again()

    async def _delete_again(self) -> None:
        before_ms = self._clock.wall_ms() - PLACELESS_S_MAX * 1000
        for subject in self._storage.placeless(before_ms, PLACELESS_MAX):
            operation = deleting(subject)
            try:
                await self._writer.write(
                    subject.session, lambda *_, again=operation: [again], counted=False
                )
            except Refusal as refusal:
                # Too many writes wait just now: it is still to be done the next time.
                known = {"session": subject.session}
                log.info("deleting it once more has to wait: %s", refusal, extra=known)
                return

    async def remember(self) -> None:
        """Keep what the peers have said. Raises ``StorageFull`` and ``StorageFailed``."""
        said = {
            name: {str(origin): lsn for origin, lsn in peer.erased.items()}
            for name, peer in sorted(self._gossip.peers.items())
            if peer.erased
        }
        text = json.dumps(said) if said else None
        if text is not None and text != self._noted:
            await self._storage.note(_ERASED_THERE, text)
            self._noted = text

    # What is known of it

    def told(self, region: str, subject: Subject) -> dict[str, Any]:
        """How far the erasure of a subject is (PROTOCOL A.4), in this region and its peers.

        Raises ``Refusal``: ``invalid_id``, ``not_found``.
        """
        check_session(subject.session)
        for id_, what in ((subject.message, "message"), (subject.document, "document")):
            if id_ is not None:
                check_id(id_, what)
        # With its session all of it goes.
        for deleted in (subject, Subject(subject.session)):
            if (value := self._value(region, deleted)) is not None:
                return value
        raise Refusal("not_found", "this region knows of no such deletion")

    def _value(self, region: str, subject: Subject) -> dict[str, Any] | None:
        found = self._storage.erasure(subject)
        if found is None:
            return None
        regions = {region: found.is_done}
        for name, peer in self._gossip.peers.items():
            regions[name] = covers(peer.erased, found.places)
        requested = to_time(found.known_ms << 16) if found.known_ms else None
        named = {"message": subject.message, "document": subject.document}
        return {
            "session": name_of(subject.session),
            **{what: id_ for what, id_ in named.items() if id_ is not None},
            "state": "done" if all(regions.values()) else "under_way",
            "regions": {
                name: "done" if is_done else "waiting" for name, is_done in sorted(regions.items())
            },
            "requested": requested,
        }


def _vector(text: str) -> Vector:
    return {parse_origin(origin): lsn for origin, lsn in json.loads(text).items()}
