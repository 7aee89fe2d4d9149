"""What a storage does so that what was deleted is gone from its files."""

import json
from collections.abc import Sequence

from perdure.regions import erasure_tables, log_tables
from perdure.regions.cipher import Clear
from perdure.regions.free_space import FreeSpace
from perdure.regions.storage_threads import Threads
from perdure.replication.erasure import Gone
from perdure.replication.records import Origin, Vector
from perdure.replication.subjects import Erasure, Subject
from sqlalchemy import Connection

# What this region had taken in when last all of it that is deleted was gone.
ERASED = "erased"
# How often one step waits for who reads, before the whole has to be tried again.
STEP_TRIES_MAX = 20


class ErasingStorage(Threads):
    """The part of a storage that erases."""

    def __init__(self, cipher: Clear) -> None:
        super().__init__()
        self._cipher = cipher
        self.position = 0
        self._ids: dict[Origin, int] = {}
        self._notes: dict[str, str] = {}
        self._free: FreeSpace | None = None

    def waiting(self, limit: int) -> list[Subject]:
        """Some of what is deleted and not gone yet."""
        return self._look(lambda loader: erasure_tables.waiting(loader, limit))

    def placeless(self, known_ms: int, limit: int) -> list[Subject]:
        """Some of what was known to be deleted by then, by nothing that stands in a log."""
        return self._look(lambda loader: erasure_tables.placeless(loader, known_ms, limit))

    def erasure(self, subject: Subject) -> Erasure | None:
        """What is known of one subject; None: it was never deleted here."""
        known = {id_: origin for origin, id_ in self._ids.items()}
        return self._look(lambda loader: erasure_tables.find(loader, self._cipher, known, subject))

    async def erase(self, subjects: Sequence[Subject]) -> bool:
        """Take what is logged of them out of the logs, and everything that is no longer stored out
        of the files. What is in images is the caller's. False: not now, for somebody reads.

        Raises as ``commit`` does; then some of it is done.
        """
        gone, at, upto = Gone(subjects), 0, self.position
        while at < upto:
            at = await self._erase_step(at, upto, gone)
        await self._write(lambda c: erasure_tables.clear_quarantine(c, subjects))
        return await self._clear_free_space()

    async def _erase_step(self, after: int, upto: int, gone: Gone) -> int:
        origins = {id_: origin for origin, id_ in self._ids.items()}
        at, changes = await self._read(
            lambda connection: erasure_tables.look(
                connection, self._cipher, origins, after, upto, gone
            )
        )
        if changes:
            await self._write(lambda connection: erasure_tables.change(connection, changes))
        return at

    async def _clear_free_space(self) -> bool:
        at: int | None = 0
        while at is not None:
            at = await self._clear_step(at)
            if at == 0:
                return True
        return False

    async def _clear_step(self, at: int) -> int | None:
        free, writer = self._free, self._writer
        assert free is not None and writer is not None

        def clear() -> int | None:
            self.check()
            return free.clear(writer, at)

        for _ in range(STEP_TRIES_MAX):
            if (next_ := await self._run(self._write_thread, clear)) is not None:
                return next_
        return None

    async def erased(self, subjects: Sequence[Subject], vector: Vector | None) -> None:
        """They are gone; and with a vector, so is whatever is deleted up to there."""
        text = "" if vector is None else json.dumps({str(o): lsn for o, lsn in vector.items()})

        def done(connection: Connection) -> None:
            erasure_tables.done(connection, subjects)
            if text:
                log_tables.put_note(connection, self._cipher, ERASED, text)

        await self._write(done)
        if text:
            self._notes[ERASED] = text
