"""What a region keeps on SQLite, through SQLAlchemy Core: the origin logs, and images of sessions.

One connection writes, on a thread of its own; a commit is one transaction and one fsync, however
many records were gathered for it. Logs are read for peers on a second thread. Images are read on
the event loop, by a third connection: a look-up takes some tens of microseconds, and the state
never has to wait in the middle of a step.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from perdure.regions import erasure_tables, image_tables, log_tables, measures, quarantine
from perdure.regions.cipher import Clear
from perdure.regions.damage import Damage
from perdure.regions.disk_usage import disk_usage
from perdure.regions.free_space import FreeSpace
from perdure.regions.identity import last_backup_ms
from perdure.regions.image_tables import Sums
from perdure.regions.key_record import admit
from perdure.regions.ports import Mark, Measures, StorageError, StorageFailed, Stored
from perdure.regions.storage_engine import (
    DATABASE,
    DirectoryLock,
    OpenFile,
    engine_for,
    make_directory,
    migrate,
    rewrite_older,
    sync_directory,
)
from perdure.regions.storage_erasing import ErasingStorage
from perdure.replication.records import ABSORBED, Origin, Record, Vector
from perdure.replication.rows import Image
from perdure.replication.subjects import Deletion
from perdure.replication.tenants import Range
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

# How many records one transaction lets go of: commits wait for it.
TRUNCATE_ROWS_MAX = 2_000


class SqliteStorage(ErasingStorage):
    """The storage of one region. ``open`` first, then ``replay`` once, then the rest."""

    def __init__(self, directory: Path, cipher: Clear | None = None) -> None:
        """In the clear, unless told how to encrypt."""
        super().__init__(cipher or Clear())
        self.directory = directory
        self.log_bytes = 0
        self.hlc = 0
        self._lock = DirectoryLock(directory)
        self._vector: Vector = {}
        self._floors: Vector = {}
        # What the loop answers from, and what the last transaction wrote.
        self._sums = self._sums_on_disk = Sums()
        self._watermark = 0
        self._damage = Damage()
        self._loader_engine: Engine | None = None

    @property
    def damaged(self) -> int:
        """How many records and images were not what was written."""
        return self._damage.count

    @property
    def path(self) -> Path:
        """The database file."""
        return self.directory / DATABASE

    def open(self) -> None:
        """Own the directory and open the database, making both if they are new.

        Raises ``StorageLocked``, ``StorageKeyWrong``, and ``StorageFailed`` for a file that is no
        database of ours.
        """
        try:
            make_directory(self.directory)
            self._lock.take()
            # Made here, before SQLite does: its WAL takes over the permissions of the database.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            self.path.chmod(0o600)
            self._free = FreeSpace(self.path)
            self._connect()
            self._file = OpenFile(self.path)
            sync_directory(self.directory)
        except OSError as error:
            self.close()
            raise StorageFailed(f"cannot use {self.directory}: {error.strerror}") from error
        except DBAPIError as error:
            self.close()
            raise StorageFailed(f"cannot open {self.path}: {error.orig}") from error
        except StorageError:
            self.close()
            raise

    def _connect(self) -> None:
        self._writer = engine_for(self.path, "IMMEDIATE")
        rewrite_older(self._writer)
        with self._writer.begin() as connection:
            migrate(connection, self.path)
            admit(connection, self._cipher, self.directory)
            for origin, (id_, floor, held) in log_tables.origins(connection).items():
                self._ids[origin] = id_
                self._floors[origin] = floor
                self._vector[origin] = max(floor, held)
            erasure_tables.note_older(connection, self._cipher, self._ids)
            meta = log_tables.meta(connection, self._cipher)
            if (sums := Sums.stored(connection, self._cipher)) is None:
                self._damage.note("sums", 0, "")
                sums = Sums.count_all(connection, self._cipher)
            self._sums = self._sums_on_disk = sums
        self._reader = engine_for(self.path, "DEFERRED")
        self._loader_engine = engine_for(self.path, None)
        self._loader = self._loader_engine.connect()
        self._watermark, self.log_bytes, self.hlc = log_tables.watermark(meta)
        self.position = self._watermark
        self._notes = log_tables.notes(meta)

    def replay(self) -> Iterator[Record]:
        """Every intact record that came after the watermark, in the order of arrival; ``position``
        follows. Damaged ones are counted and left out; the vector stops before them, so that peers
        send them again.

        Raises ``StorageFailed`` when the file itself cannot be read to its end.
        """
        try:
            yield from self._replay()
        except DBAPIError as error:
            raise StorageFailed(f"cannot read {self.path}: {error.orig}") from error

    def _replay(self) -> Iterator[Record]:
        origins = {id_: origin for origin, id_ in self._ids.items()}
        lsns: dict[Origin, set[int]] = {origin: set() for origin in self._ids}
        assert self._writer is not None
        with self._writer.connect() as connection:
            tail = log_tables.tail(connection, self._cipher, self._watermark, origins)
            for position, id_, record in tail:
                self.position = position
                if record is None:
                    self._damage.note("record", position, str(origins.get(id_)))
                    continue
                self.log_bytes += len(record.body)
                lsns[record.origin].add(record.lsn)
                self._advance(record.origin, lsns[record.origin])
                yield record

    def _advance(self, origin: Origin, beyond: set[int]) -> None:
        at = self._vector.get(origin, 0)
        while at + 1 in beyond:
            at += 1
            beyond.remove(at)
        self._vector[origin] = at

    def vector(self) -> Vector:
        """The greatest lsn of each origin up to which every record is known here."""
        return {o: lsn for o, lsn in self._vector.items() if lsn and o != ABSORBED}

    def floors(self) -> Vector:
        """The lsn of each origin up to which its log is no longer here."""
        return {o: lsn for o, lsn in self._floors.items() if lsn and o != ABSORBED}

    def absorbed(self) -> int:
        """How many pieces of sessions this region has ever absorbed."""
        return self._vector.get(ABSORBED, 0)

    # Records

    async def commit(self, records: Sequence[Record], deletions: Sequence[Deletion] = ()) -> None:
        """All of the records are on disk, fsynced, when this returns, and so is what they delete;
        else none.

        Raises ``StorageFull`` (try again later) or ``StorageFailed`` (now and ever after).
        """
        if self._failed is not None:
            raise StorageFailed(str(self._failed))
        if records:
            await self._run(self._write_thread, lambda: self._commit(records, deletions))

    def _commit(self, records: Sequence[Record], deletions: Sequence[Deletion]) -> None:
        fresh: dict[Origin, int] = {}

        def append(connection: Connection) -> None:
            for origin in {record.origin for record in records} - self._ids.keys():
                fresh[origin] = log_tables.add_origin(connection, origin)
            ids = self._ids | fresh if fresh else self._ids
            log_tables.append(connection, self._cipher, self.position + 1, ids, records)
            erasure_tables.note(connection, ids, deletions)

        self._in_transaction(append)
        # Here and not after the wait: whoever waits may have been cancelled.
        self._ids.update(fresh)
        self.position += len(records)
        self.log_bytes += sum(len(record.body) for record in records)

    async def read(self, origin: Origin, after_lsn: int, bytes_max: int) -> list[Record]:
        """Records of an origin in lsn order, from ``after_lsn`` + 1 on without a gap: about
        ``bytes_max`` bytes, at least one record when there is one. Stops before a damaged one."""
        id_ = self._ids.get(origin, 0)
        if after_lsn < self._floors.get(origin, 0):
            return []

        return await self._read(
            lambda c: log_tables.read(c, self._cipher, origin, id_, after_lsn, bytes_max)
        )

    async def jump(self, vector: Vector) -> None:
        """What these lsns say is known here, though not from the logs. Raises as ``commit``."""

        def jump(connection: Connection) -> dict[Origin, int]:
            fresh: dict[Origin, int] = {}
            for origin, lsn in vector.items():
                id_ = self._ids.get(origin)
                if id_ is None:
                    id_ = fresh[origin] = log_tables.add_origin(connection, origin)
                log_tables.set_floor(connection, id_, lsn)
            erasure_tables.jumped(connection, self._cipher, self._ids | fresh, vector)
            return fresh

        self._ids.update(await self._write(jump))
        self._floors.update(vector)
        self._vector.update(vector)

    async def truncate(self, upto: Vector) -> int:
        """Let go of what is in images of the logs up to these lsns; how many records that was."""
        gone = 0
        for origin, lsn in list(upto.items()):
            id_ = self._ids.get(origin)
            if id_ is not None and lsn > self._floors.get(origin, 0):
                gone += await self._truncate(origin, id_, lsn)
        return gone

    async def _truncate(self, origin: Origin, id_: int, lsn: int) -> int:
        await self._write(lambda connection: log_tables.set_floor(connection, id_, lsn))
        self._floors[origin] = lsn
        gone, count = 0, TRUNCATE_ROWS_MAX
        while count == TRUNCATE_ROWS_MAX:
            count = await self._write(lambda c: log_tables.delete(c, id_, lsn, TRUNCATE_ROWS_MAX))
            gone += count
        return gone

    # Images

    def session(self, id_: str) -> Stored | None:
        """A session that has been stored."""
        return image_tables.load(self._look, self._cipher, id_, self._damage.note)

    def sessions(self, among: Range, limit: int) -> list[tuple[str, bytes]]:
        """Names and summaries of stored sessions that exist, by name."""
        return self._look(lambda loader: image_tables.page(loader, self._cipher, among, limit))

    def active(self) -> list[str]:
        """The stored sessions of which some run is not over."""
        return self._look(image_tables.active)

    def tenants(self) -> dict[str, int]:
        """How many stored sessions of people exist, of each tenant ("": of none)."""
        return self._look(image_tables.tenants)

    def bucket_sums(self) -> list[int]:
        """The sum of the stored sessions' terms in each bucket."""
        return list(self._sums.sums)

    def in_buckets(self, numbers: Sequence[int]) -> dict[str, bytes]:
        """The digests of the stored sessions of some buckets."""
        return self._look(lambda loader: image_tables.in_buckets(loader, self._cipher, numbers))

    def take_damaged(self) -> set[str]:
        """The sessions of which something was found damaged since this was last asked."""
        return self._damage.take_sessions()

    async def scrub(self, after: int, sessions: int) -> int:
        """Compare some stored sessions with their checksums; the last number that was looked at, 0
        at the end. What is found is told by :meth:`take_damaged`."""
        last, found = await self._read(
            lambda connection: image_tables.scrub(connection, self._cipher, after, sessions)
        )
        for damage in found:
            self._damage.note(*damage)
        return last

    async def save(self, images: Sequence[Image], mark: Mark | None) -> None:
        """Write the images in one transaction; up to ``mark`` the log is not replayed any more.

        Raises as :meth:`commit` does.
        """
        damaged = self._damage.take()

        def save(connection: Connection) -> Sums:
            sums = self._sums_on_disk.copy()
            quarantine.set_aside(connection, self._cipher, damaged)
            for image in images:
                image_tables.save(connection, self._cipher, image, sums)
            spoilt = any(what in ("head", "lost", "sums") for what, *_ in damaged)
            saved = Sums.count_all(connection, self._cipher) if spoilt else sums
            if images or spoilt:
                saved.put(connection, self._cipher)
            if mark is not None:
                log_tables.set_watermark(connection, self._cipher, self._ids, mark)
            return saved

        def run() -> Sums:
            # Here and not after the wait: whoever waits may be cancelled, and yet it is done.
            self._sums_on_disk = self._in_transaction(save)
            return self._sums_on_disk

        try:
            self._sums = await self._run(self._write_thread, run)
        except BaseException:
            self._damage.put_back(damaged)
            raise
        if mark is not None:
            self._watermark = mark.position
        self._damage.done(damaged)

    def notes(self) -> dict[str, str]:
        """Small things that were to be remembered, by name."""
        return dict(self._notes)

    async def note(self, name: str, text: str) -> None:
        """Remember one; an empty text forgets it."""
        await self._write(lambda c: log_tables.put_note(c, self._cipher, name, text))
        self._notes[name] = text
        if not text:
            del self._notes[name]

    # How much there is

    async def measure(self) -> Measures:
        """How much is stored. Raises ``StorageFailed``."""
        ids, usage = dict(self._ids), disk_usage(self.path)
        return Measures(
            await self._read(lambda c: measures.logs(c, ids)),
            0 if usage is None else usage.database_bytes,
            0 if usage is None else usage.wal_bytes,
            bool(self._cipher.keys),
            last_backup_ms(self.directory),
        )

    async def sizes(self, ids: Sequence[str]) -> dict[str, tuple[int, str]]:
        """Of each of these sessions how many bytes its messages take, as they are stored, and the
        greatest serial ("": nothing is shown). Raises ``StorageFailed``."""
        return await self._read(lambda c: measures.sizes(c, ids))

    def free_bytes(self) -> int | None:
        """How much room is left on the disk."""
        usage = disk_usage(self.path)
        return None if usage is None else usage.free_bytes

    # The disk

    def close(self) -> None:
        """Wait for the running commit, close the database, let go of the directory."""
        self._closed = True
        self._write_thread.shutdown(wait=True)
        self._read_thread.shutdown(wait=True)
        if self._loader is not None:
            self._loader.close()
        for engine in (self._reader, self._loader_engine, self._writer):
            if engine is not None:
                engine.dispose()
        if self._free is not None:
            self._free.close()
            self._free = None
        self._lock.release()
