"""A backup of a region, also while it runs: one consistent copy of its database in one file.

The copy is made by another process than the region's, from a snapshot that SQLite's WAL holds for
it: the region goes on committing, and waits for nothing. What is encrypted stays so. Until it is
done there is no file of that name.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

from perdure.regions.backup_file import (
    BackupDamaged,
    Manifest,
    Tell,
    hasher,
    read_database,
    read_manifest,
    seal,
)
from perdure.regions.config import ConfigError
from perdure.regions.identity import note_backup, read_identity
from perdure.regions.ports import StorageError, StorageFailed, StorageFull
from perdure.regions.storage_engine import (
    BUSY_TIMEOUT_MS,
    DATABASE,
    ENCRYPTED,
    SCHEMA_VERSION,
    is_full,
    sync_directory,
)

PAGES_AT_ONCE = 256
# What is copied goes to the disk in portions: all at once at the end, commits of the region would
# wait behind it.
SYNC_BYTES = 8_388_608
# What is left to a region on whose own disk the copy is made: it goes on writing meanwhile.
LEFT_BYTES = 268_435_456
# What the manifest and the seal take, in room on the disk that is looked for.
_ROOM_BYTES = 1_048_576
Rest = Callable[[], object]
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def _no_rest() -> None:
    """Nobody else needs the disk."""


def make(
    directory: Path, to: Path, version: str, made_ms: int, tell: Tell, rest: Rest = _no_rest
) -> Manifest:
    """Copy the region of a data directory into a new file. ``rest`` is called after each portion,
    so that the region has the disk in between.

    Raises ``ConfigError`` (and nothing was written), ``StorageFull`` and ``StorageFailed`` (nothing
    of it is left).
    """
    path = directory / DATABASE
    if not path.is_file():
        raise ConfigError(f"--data {directory}: no database is there")
    if to.exists():
        raise ConfigError(f"--to {to} is there already; a backup overwrites nothing")
    if not to.parent.is_dir():
        raise ConfigError(f"--to {to}: there is no directory {to.parent}")
    partial = to.with_name(f"{to.name}.partial")
    with _translated(partial), _held(partial):
        try:
            total = _copy(path, partial, tell, rest)
            manifest = _describe(partial, read_identity(directory), version, made_ms)
            with partial.open("r+b") as file:
                digest = hasher()
                while piece := file.read(SYNC_BYTES):
                    digest.update(piece)
                manifest.blake2b = digest.hexdigest()
                seal(file, manifest)
            _name(partial, to)
            tell(total, total)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    # That it was made is a remark: the backup is there either way.
    with contextlib.suppress(OSError):
        note_backup(directory, made_ms, to.absolute(), manifest.database_bytes)
    return manifest


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kind = StorageFull if error.errno in NO_ROOM else StorageFailed
        raise kind(f"cannot write {path}: {error.strerror}") from error
    except sqlite3.Error as error:
        kind = StorageFull if is_full(error) else StorageFailed
        raise kind(f"cannot copy into {path}: {error}") from error


@contextlib.contextmanager
def _held(partial: Path) -> Iterator[None]:
    """The unfinished file is this process's; one that was left by another is begun anew."""
    file = os.open(partial, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(f"another backup is being written to {partial}") from error
        if not _is_same(file, partial):
            # Another one has ended in between, and what is open here is a backup by now.
            raise ConfigError(f"another backup was being written to {partial}")
        os.ftruncate(file, 0)
        yield
    finally:
        os.close(file)


def _is_same(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _copy(path: Path, partial: Path, tell: Tell, rest: Rest) -> int:
    """The database as it is now; its bytes."""
    with (
        contextlib.closing(_connected(path, "mode=rw")) as source,
        contextlib.closing(sqlite3.connect(partial, isolation_level=None)) as target,
        partial.open("r+b") as file,
    ):
        # Held until the end: a copy in steps would begin anew with each commit of the region.
        source.execute("BEGIN")
        (version,) = source.execute("PRAGMA user_version").fetchone()
        if version % ENCRYPTED > SCHEMA_VERSION:
            raise StorageFailed(f"{path} was written by a newer perdure")
        source.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        (pages,) = source.execute("PRAGMA page_count").fetchone()
        (page_bytes,) = source.execute("PRAGMA page_size").fetchone()
        total = int(pages * page_bytes)
        _check_room(path, partial.parent, total)
        # Nobody needs the half of it: it has no name yet.
        target.execute("PRAGMA journal_mode=OFF")
        target.execute("PRAGMA synchronous=OFF")
        synced = 0

        def look(_: int, left: int, of: int) -> None:
            nonlocal synced
            done = (of - left) * page_bytes
            if done - synced >= SYNC_BYTES:
                os.fdatasync(file.fileno())
                synced = done
                rest()
            tell(done, total)

        source.backup(target, pages=PAGES_AT_ONCE, progress=look, sleep=0)
    return total


def _check_room(path: Path, into: Path, total: int) -> None:
    free, needed = shutil.disk_usage(into).free, total + _ROOM_BYTES
    why = ""
    if path.stat().st_dev == into.stat().st_dev:
        needed += LEFT_BYTES
        why = f", {LEFT_BYTES:,} of them for the region itself, whose disk it is"
    if free < needed:
        raise StorageFull(f"{into} has {free:,} bytes free, and {needed:,} are needed{why}")


def _connected(path: Path, how: str) -> sqlite3.Connection:
    uri = f"file:{quote(str(path.absolute()))}?{how}"
    connection = sqlite3.connect(
        uri, uri=True, timeout=BUSY_TIMEOUT_MS / 1000, isolation_level=None
    )
    connection.execute("PRAGMA query_only=ON")
    return connection


def _describe(partial: Path, identity: dict[str, str], version: str, made_ms: int) -> Manifest:
    with contextlib.closing(_connected(partial, "mode=ro&immutable=1")) as copy:
        (schema,) = copy.execute("PRAGMA user_version").fetchone()
        people = "SELECT COUNT(*) FROM session WHERE present AND id NOT GLOB ':*'"
        (sessions,) = copy.execute(people).fetchone()
        (messages,) = copy.execute("SELECT COUNT(*) FROM message").fetchone()
        (records,) = copy.execute("SELECT COUNT(*) FROM log").fetchone()
        lsns = copy.execute(
            "SELECT o.region || '/' || o.incarnation, MAX(o.floor, o.held, COALESCE("
            "(SELECT MAX(l.lsn) FROM log l WHERE l.origin = o.id), 0)) FROM origin o"
        ).fetchall()
    return Manifest(
        region=identity.get("region"),
        incarnation=identity.get("incarnation"),
        version=version,
        made_ms=made_ms,
        schema=schema % ENCRYPTED,
        encrypted=schema > ENCRYPTED,
        database_bytes=partial.stat().st_size,
        blake2b="",
        sessions=sessions,
        messages=messages,
        records=records,
        vector={origin: lsn for origin, lsn in lsns if lsn},
    )


def _name(partial: Path, to: Path) -> None:
    """Give it its name, unless somebody else has that by now."""
    try:
        os.link(partial, to)
        partial.unlink()
    except FileExistsError as error:
        raise ConfigError(f"--to {to} is there by now; a backup overwrites nothing") from error
    except OSError:
        # A file system without links: here alone two backups that end at once are not told apart.
        if to.exists():
            raise ConfigError(f"--to {to} is there by now") from None
        partial.rename(to)
    sync_directory(to.parent)


def check(path: Path, tell: Tell) -> Manifest:
    """Whether a backup is what was written, and a whole database.

    Raises ``ConfigError`` where there is no such file, and ``BackupDamaged``.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file")
    try:
        with path.open("rb") as file:
            manifest = read_manifest(path, file)
            read_database(path, file, manifest, lambda _: None, tell)
        check_database(path, manifest)
    except OSError as error:
        raise BackupDamaged(f"cannot read {path}: {error.strerror}") from error
    return manifest


def check_database(path: Path, manifest: Manifest) -> None:
    """Whether the database at the beginning of a file is whole. Raises ``BackupDamaged``."""
    try:
        with contextlib.closing(_connected(path, "mode=ro&immutable=1")) as database:
            (schema,) = database.execute("PRAGMA user_version").fetchone()
            faults = database.execute("PRAGMA integrity_check(1)").fetchall()
            (messages,) = database.execute("SELECT COUNT(*) FROM message").fetchone()
    except sqlite3.Error as error:
        raise BackupDamaged(f"{path}: the database in it cannot be read: {error}") from error
    if faults != [("ok",)]:
        raise BackupDamaged(f"{path}: the database in it is damaged: {faults[0][0]}")
    said = (manifest.schema + ENCRYPTED * manifest.encrypted, manifest.messages)
    if said != (schema, messages):
        raise BackupDamaged(f"{path}: the manifest is not of this database")


def restored_note(path: Path, note: str) -> None:
    """Forget one note of a database that nobody has open. Raises ``StorageError``."""
    try:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
            database.execute("PRAGMA journal_mode=DELETE")
            database.execute("PRAGMA synchronous=FULL")
            database.execute("DELETE FROM meta WHERE key = ?", (note,))
    except sqlite3.Error as error:
        kind: type[StorageError] = StorageFull if is_full(error) else StorageFailed
        raise kind(f"cannot write {path}: {error}") from error
