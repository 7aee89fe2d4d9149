"""The origin logs on SQLite, through SQLAlchemy Core.

WAL with ``synchronous=FULL``: in simulated power cuts that lost no acknowledged commit, ``NORMAL``
nearly all. One writer connection on a thread of its own; a commit is one transaction and one fsync,
however many records were gathered for it. Reading the log for a peer has its own connection.
"""

import asyncio
import errno
import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from perdure.regions.ports import StorageFailed, StorageFull, StorageLocked
from perdure.replication.records import Origin, Record, Vector, intact
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import StaticPool

_SCHEMA_VERSION = 1
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS origin (id INTEGER PRIMARY KEY,"
    " region TEXT NOT NULL, incarnation TEXT NOT NULL, UNIQUE (region, incarnation))",
    "CREATE TABLE IF NOT EXISTS log (position INTEGER PRIMARY KEY,"
    " origin INTEGER NOT NULL REFERENCES origin, lsn INTEGER NOT NULL, crc INTEGER NOT NULL,"
    " body BLOB NOT NULL, UNIQUE (origin, lsn))",
)
_BUSY_TIMEOUT_MS = 5_000
_READ_ROWS_MAX = 2_000
# A flipped bit may change the type of a value; cast, it is a wrong value, which the crc tells.
_RECORD_COLUMNS = "CAST(lsn AS INTEGER), CAST(body AS BLOB), CAST(crc AS INTEGER)"
T = TypeVar("T")


class DirectoryLock:
    """One process owns a data directory, for as long as it lives; the kernel lets go after it."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "lock"
        self._file: int | None = None

    def take(self) -> None:
        """Raises ``StorageLocked``, naming the owner's process id."""
        file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.read(file, 32).decode(errors="replace").strip() or "unknown"
            os.close(file)
            raise StorageLocked(
                f"{self._path.parent} is in use by process {owner};"
                " one process owns a data directory"
            ) from error
        os.ftruncate(file, 0)
        os.write(file, str(os.getpid()).encode())
        self._file = file

    def release(self) -> None:
        """Let another process have it; harmless when it is not held."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


class SqliteStorage:
    """The storage of one region. ``open`` first, then ``replay`` once, then ``commit``."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.damaged = 0
        self._lock = DirectoryLock(directory)
        self._failed: Exception | None = None
        self._closed = False
        self._ids: dict[Origin, int] = {}
        self._vector: Vector = {}
        self._writer: Engine | None = None
        self._reader: Engine | None = None
        self._write_thread = ThreadPoolExecutor(1, thread_name_prefix="perdure-commit")
        self._read_thread = ThreadPoolExecutor(1, thread_name_prefix="perdure-read")

    @property
    def path(self) -> Path:
        """The database file."""
        return self.directory / "perdure.sqlite"

    def open(self) -> None:
        """Own the directory and open the database, making both if they are new.

        Raises ``StorageLocked``, and ``StorageFailed`` for a file that is no database of ours.
        """
        try:
            if not self.directory.exists():
                self.directory.mkdir(mode=0o700, parents=True)
                _sync_directory(self.directory.parent)
            self._lock.take()
            # Made here, before SQLite does: its WAL takes over the permissions of the database.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            self.path.chmod(0o600)
        except OSError as error:
            self.close()
            raise StorageFailed(f"cannot use {self.directory}: {error.strerror}") from error
        try:
            self._writer = self._engine("IMMEDIATE")
            with self._writer.begin() as connection:
                self._migrate(connection)
                for id_, region, incarnation in connection.exec_driver_sql(
                    "SELECT id, region, incarnation FROM origin"
                ):
                    self._ids[Origin(region, int(incarnation, 16))] = id_
            self._reader = self._engine("DEFERRED")
            _sync_directory(self.directory)
        except OSError as error:
            self.close()
            raise StorageFailed(f"cannot sync {self.directory}: {error.strerror}") from error
        except DBAPIError as error:
            self.close()
            raise StorageFailed(f"cannot open {self.path}: {error.orig}") from error
        except StorageFailed:
            self.close()
            raise

    def _engine(self, begin: str) -> Engine:
        """One connection, used by one thread at a time, whose transactions begin as told."""
        engine = create_engine(
            f"sqlite+pysqlite:///{self.path}",
            poolclass=StaticPool,
            connect_args={"check_same_thread": False, "timeout": _BUSY_TIMEOUT_MS / 1000},
        )

        @event.listens_for(engine, "connect")
        def configure(connection: sqlite3.Connection, _: object) -> None:
            # Else the driver commits before each change of the schema, and a crash in the middle
            # of making it would leave a half that nothing can open.
            connection.isolation_level = None
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")

        @event.listens_for(engine, "begin")
        def start(connection: Connection) -> None:
            connection.exec_driver_sql(f"BEGIN {begin}")

        return engine

    def _migrate(self, connection: Connection) -> None:
        version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
        if version > _SCHEMA_VERSION:
            raise StorageFailed(
                f"{self.path} was written by a newer perdure (schema {version},"
                f" this one knows {_SCHEMA_VERSION})"
            )
        # Version 1 made its tables one by one, so an early crash may have left some of them.
        if version == 0:
            for statement in _SCHEMA:
                connection.exec_driver_sql(statement)
            connection.exec_driver_sql(f"PRAGMA user_version = {_SCHEMA_VERSION}")

    def replay(self) -> Iterator[Record]:
        """Every intact record in the order of arrival. Damaged ones are counted and left out; the
        vector stops before them, so that peers send them again.

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
            rows = connection.execution_options(stream_results=True).exec_driver_sql(
                f"SELECT origin, {_RECORD_COLUMNS} FROM log ORDER BY position"
            )
            for origin_id, *columns in rows:
                record = _record(origins.get(origin_id), *columns)
                if record is None:
                    self.damaged += 1
                    continue
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
        """The greatest lsn of each origin up to which every record is here and intact."""
        return {origin: lsn for origin, lsn in self._vector.items() if lsn}

    async def commit(self, records: Sequence[Record]) -> None:
        """All of the records are on disk, fsynced, when this returns; else none.

        Raises ``StorageFull`` (try again later) or ``StorageFailed`` (now and ever after).
        """
        if self._failed is not None:
            raise StorageFailed(str(self._failed))
        if records:
            await self._run(self._write_thread, lambda: self._commit(records))

    def _commit(self, records: Sequence[Record]) -> None:
        assert self._writer is not None
        if self._failed is not None:
            # It failed while this one waited for the thread.
            raise StorageFailed(str(self._failed))
        if not self.path.exists():
            self._failed = FileNotFoundError(errno.ENOENT, "the database file is gone")
            raise StorageFailed(str(self._failed))
        fresh: dict[Origin, int] = {}
        try:
            with self._writer.begin() as connection:
                rows = [
                    (self._id(connection, record.origin, fresh), *record[1:]) for record in records
                ]
                connection.exec_driver_sql(
                    "INSERT INTO log (origin, lsn, body, crc) VALUES (?, ?, ?, ?)"
                    " ON CONFLICT (origin, lsn) DO UPDATE SET body = excluded.body,"
                    " crc = excluded.crc",
                    rows,
                )
        except DBAPIError as error:
            if isinstance(error.orig, sqlite3.OperationalError) and _is_full(error.orig):
                raise StorageFull(str(error.orig)) from error
            self._failed = error.orig if isinstance(error.orig, Exception) else error
            raise StorageFailed(str(error.orig)) from error
        self._ids.update(fresh)

    def _id(self, connection: Connection, origin: Origin, fresh: dict[Origin, int]) -> int:
        id_ = self._ids.get(origin) or fresh.get(origin)
        if id_ is None:
            row = connection.exec_driver_sql(
                "INSERT INTO origin (region, incarnation) VALUES (?, ?) RETURNING id",
                (origin.region, f"{origin.incarnation:016x}"),
            )
            id_ = fresh[origin] = row.scalar_one()
        return id_

    async def read(self, origin: Origin, after_lsn: int, bytes_max: int) -> list[Record]:
        """Records of an origin in lsn order, from ``after_lsn`` + 1 on without a gap: about
        ``bytes_max`` bytes, at least one record when there is one. Stops before a damaged one."""
        return await self._run(self._read_thread, lambda: self._read(origin, after_lsn, bytes_max))

    def _read(self, origin: Origin, after_lsn: int, bytes_max: int) -> list[Record]:
        assert self._reader is not None
        records: list[Record] = []
        size = 0
        try:
            with self._reader.connect() as connection:
                rows = connection.exec_driver_sql(
                    f"SELECT {_RECORD_COLUMNS} FROM log WHERE origin = ? AND lsn > ? ORDER BY lsn"
                    " LIMIT ?",
                    (self._ids.get(origin, 0), after_lsn, _READ_ROWS_MAX),
                )
                for columns in rows:
                    record = _record(origin, *columns)
                    expected = after_lsn + len(records) + 1
                    if record is None or record.lsn != expected or (records and size >= bytes_max):
                        break
                    records.append(record)
                    size += len(record.body)
        except DBAPIError as error:
            raise StorageFailed(str(error.orig)) from error
        return records

    async def _run(self, thread: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        if self._closed:
            raise StorageFailed("the storage is closed")
        # Shielded: a cancelled caller must not leave a transaction without its owner.
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(thread, work))

    def close(self) -> None:
        """Wait for the running commit, close the database, let go of the directory."""
        self._closed = True
        self._write_thread.shutdown(wait=True)
        self._read_thread.shutdown(wait=True)
        for engine in (self._reader, self._writer):
            if engine is not None:
                engine.dispose()
        self._lock.release()


def _record(
    origin: Origin | None, lsn: int | None, body: bytes | None, crc: int | None
) -> Record | None:
    """The record of a row; None when it is damaged."""
    if origin is None or lsn is None or body is None or crc is None:
        return None
    record = Record(origin, lsn, body, crc)
    return record if intact(record) else None


def _sync_directory(path: Path) -> None:
    """Make the names in a directory survive a power cut."""
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _is_full(error: sqlite3.OperationalError) -> bool:
    return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_FULL
