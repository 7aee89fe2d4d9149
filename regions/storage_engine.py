"""What the storage stands on: who owns the directory, the connections, the schema.

WAL with ``synchronous=FULL``: in simulated power cuts that lost no acknowledged commit, ``NORMAL``
nearly all.
"""

import errno
import fcntl
import os
import sqlite3
from pathlib import Path

from perdure.regions.ports import StorageFailed, StorageLocked
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.pool import StaticPool

# The file in a data directory.
DATABASE = "perdure.sqlite"
SCHEMA_VERSION = 4
# Added to the version of a database that is encrypted: older programs take it for a newer one, and
# keep their hands off what they would find damaged.
ENCRYPTED = 1_000
_VERSION_1 = (
    "CREATE TABLE IF NOT EXISTS origin (id INTEGER PRIMARY KEY,"
    " region TEXT NOT NULL, incarnation TEXT NOT NULL, UNIQUE (region, incarnation))",
    "CREATE TABLE IF NOT EXISTS log (position INTEGER PRIMARY KEY,"
    " origin INTEGER NOT NULL REFERENCES origin, lsn INTEGER NOT NULL, crc INTEGER NOT NULL,"
    " body BLOB NOT NULL, UNIQUE (origin, lsn))",
)
# ``floor``: up to here the log of the origin has been let go of. ``held``: up to here it was
# complete, and in the images, at the watermark.
_VERSION_2 = (
    "ALTER TABLE origin ADD COLUMN floor INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE origin ADD COLUMN held INTEGER NOT NULL DEFAULT 0",
    "CREATE TABLE session (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE,"
    " bucket INTEGER NOT NULL, digest BLOB NOT NULL, present INTEGER NOT NULL,"
    " summary BLOB NOT NULL, head BLOB NOT NULL, crc INTEGER NOT NULL)",
    "CREATE INDEX session_bucket ON session (bucket)",
    "CREATE TABLE message (number INTEGER PRIMARY KEY, session INTEGER NOT NULL,"
    " slot INTEGER NOT NULL, id TEXT NOT NULL, serial TEXT NOT NULL, facts BLOB NOT NULL,"
    " facts_crc INTEGER NOT NULL, body BLOB NOT NULL, body_crc INTEGER NOT NULL,"
    " UNIQUE (session, slot, id))",
    "CREATE INDEX message_serial ON message (session, serial)",
    "CREATE TABLE quarantine (number INTEGER PRIMARY KEY, what TEXT NOT NULL, name TEXT NOT NULL,"
    " crc INTEGER, body BLOB)",
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL)",
)
# ``open``: it is a run that is not over.
_VERSION_3 = (
    "ALTER TABLE message ADD COLUMN open INTEGER NOT NULL DEFAULT 0",
    "CREATE INDEX message_open ON message (session) WHERE open",
)
# What was deleted, when that became known here, where that stands, and whether it is gone yet.
# ``subject``: "m/" or "d/" and an id, or nothing for the session.
_VERSION_4 = (
    "CREATE TABLE erasure (session TEXT NOT NULL, subject TEXT NOT NULL, known_ms INTEGER NOT NULL,"
    " origin INTEGER, lsn INTEGER NOT NULL, erased INTEGER NOT NULL DEFAULT 0,"
    " PRIMARY KEY (session, subject)) WITHOUT ROWID",
    "CREATE INDEX erasure_waiting ON erasure (session) WHERE NOT erased",
    "CREATE INDEX erasure_placeless ON erasure (known_ms) WHERE origin IS NULL AND lsn = 0",
    # What was deleted before is to be noted. Empty, for it is not encrypted.
    "INSERT INTO meta SELECT 'erasure:older', x'' WHERE EXISTS (SELECT 1 FROM origin)",
)
_VERSIONS = (_VERSION_1, _VERSION_2, _VERSION_3, _VERSION_4)
# From this one on, what is deleted is overwritten.
_OVERWRITES_SINCE = 4
BUSY_TIMEOUT_MS = 5_000
# Of the database that each connection keeps in memory.
CACHE_KIB_MAX = 8_192
# Folders above that are not ours to read, or of file systems that do not sync folders.
_CANNOT_SYNC = (errno.EACCES, errno.EPERM, errno.EINVAL, errno.EROFS)


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


def engine_for(path: Path, begin: str | None) -> Engine:
    """One connection, used by one thread at a time, whose transactions begin as told; with None
    there are none, and each statement sees what is committed by then."""
    engine = create_engine(
        f"sqlite+pysqlite:///{path}",
        poolclass=StaticPool,
        connect_args={"check_same_thread": False, "timeout": BUSY_TIMEOUT_MS / 1000},
    )

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _: object) -> None:
        # Else the driver commits before each change of the schema, and a crash in the middle
        # of making it would leave a half that nothing can open.
        connection.isolation_level = None
        # A damaged text must get as far as its checksum.
        connection.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA secure_delete=ON")
        connection.execute(f"PRAGMA cache_size=-{CACHE_KIB_MAX}")

    @event.listens_for(engine, "begin")
    def start(connection: Connection) -> None:
        if begin is not None:
            connection.exec_driver_sql(f"BEGIN {begin}")

    return engine


def rewrite_older(engine: Engine) -> None:
    """Write a database anew that was written when what is deleted was not overwritten yet. That
    takes as much room again as the database has."""
    with engine.connect() as connection:
        version: int = connection.exec_driver_sql("PRAGMA user_version").scalar_one() % ENCRYPTED
    if not 0 < version < _OVERWRITES_SINCE:
        return
    # Not in a transaction.
    raw = engine.raw_connection()
    try:
        raw.cursor().execute("VACUUM")
        # From now on the file may not become shorter (OpenFile); so far it is only in the WAL.
        raw.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.Error as error:
        raise StorageFailed(f"cannot write the database anew: {error}") from error
    finally:
        raw.close()


def migrate(connection: Connection, path: Path) -> None:
    """Bring the schema up to date; ``StorageFailed`` when a newer program made it."""
    version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
    encrypted = ENCRYPTED if version > ENCRYPTED else 0
    if version - encrypted > SCHEMA_VERSION:
        raise StorageFailed(
            f"{path} was written by a newer perdure (schema {version},"
            f" this one knows {SCHEMA_VERSION})"
        )
    # Version 1 made its tables one by one, so an early crash may have left some of them.
    for number, statements in enumerate(_VERSIONS):
        if version - encrypted <= number:
            for statement in statements:
                connection.exec_driver_sql(statement)
    connection.exec_driver_sql(f"PRAGMA user_version = {encrypted + SCHEMA_VERSION}")


def is_encrypted(connection: Connection) -> bool:
    """Whether the database says that it is, or is on its way there or back."""
    version: int = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
    return version > ENCRYPTED


def set_encrypted(connection: Connection, encrypted: bool) -> None:
    """Have it say so, or not; the schema is the newest."""
    version = SCHEMA_VERSION + (ENCRYPTED if encrypted else 0)
    connection.exec_driver_sql(f"PRAGMA user_version = {version}")


def make_directory(directory: Path) -> None:
    """The directory is there, and every folder above it that had to be made, in a way that survives
    a power cut: each is synced into the one above before anything is made in it."""
    missing = []
    present = directory.absolute()
    while not present.exists():
        missing.append(present)
        present = present.parent
    # An earlier start may have made this one, and been killed before it had synced it. Where that
    # cannot be synced, nobody who could start here has made it.
    try:
        sync_directory(present.parent)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    for path in reversed(missing):
        path.mkdir(0o700 if path == missing[0] else 0o777, exist_ok=True)
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory survive a power cut."""
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def is_full(error: BaseException | None) -> bool:
    """Whether SQLite found no room."""
    if not isinstance(error, sqlite3.OperationalError):
        return False
    return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_FULL


class OpenFile:
    """The file that a name led to when it was opened. What is written to one that has no name any
    more, or whose pages were cut off, nobody will ever find."""

    def __init__(self, path: Path) -> None:
        """Raises ``OSError``."""
        self._path = path
        status = path.stat()
        self._identity, self._size = (status.st_dev, status.st_ino), status.st_size

    def check(self) -> None:
        """Raises ``OSError`` when the name leads elsewhere, or the file has become shorter: SQLite
        never makes it so."""
        # Read first: another thread may see the file grow before this one has looked at it.
        known = self._size
        try:
            status = self._path.stat()
        except OSError:
            status = None
        if status is None or (status.st_dev, status.st_ino) != self._identity:
            raise FileNotFoundError(errno.ENOENT, "the database file is gone")
        if status.st_size < known:
            raise OSError(errno.EIO, "the database file was cut off")
        self._size = status.st_size
