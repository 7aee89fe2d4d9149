"""The origin logs on disk: what is acknowledged is there, what is damaged is found."""

import asyncio
import contextlib
import errno
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from perdure.regions import storage_engine
from perdure.regions.ports import Storage, StorageError, StorageFailed, StorageFull, StorageLocked
from perdure.regions.storage import SqliteStorage
from perdure.regions.storage_engine import make_directory
from perdure.replication.records import Record

from tests.regions.memory_storage import MemoryStorage
from tests.regions.storage_contract import EU, StorageContract, batch

NOBODY = 65_534


class TestSqlite(StorageContract):
    """The storage of a region."""

    def make(self, path: Path) -> Storage:
        return SqliteStorage(path / "data")

    def again(self, storage: Storage) -> Storage:
        assert isinstance(storage, SqliteStorage)
        return again(storage)


class TestMemory(StorageContract):
    """The one that other tests use."""

    def make(self, path: Path) -> Storage:
        return MemoryStorage()

    def again(self, storage: Storage) -> Storage:
        storage.close()
        storage.open()
        return storage


def rows(storage: SqliteStorage) -> int:
    """How many records a connection from outside finds."""
    with contextlib.closing(sqlite3.connect(storage.path)) as connection:
        return int(connection.execute("SELECT count(*) FROM log").fetchone()[0])


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[SqliteStorage]:
    storage = SqliteStorage(tmp_path / "data")
    storage.open()
    list(storage.replay())
    yield storage
    storage.close()


def again(storage: SqliteStorage) -> SqliteStorage:
    """The same directory, opened by another process's storage."""
    storage.close()
    other = SqliteStorage(storage.directory)
    other.open()
    return other


def raw(storage: SqliteStorage, statement: str, *values: object) -> None:
    """Change the file behind the storage's back."""
    connection = sqlite3.connect(storage.path)
    with connection:
        connection.execute(statement, values)
    connection.close()


@pytest.mark.failure("P5")
async def test_a_commit_is_whole_or_not_at_all(storage: SqliteStorage) -> None:
    """A batch of which one record cannot be written leaves nothing behind."""
    broken = [*batch(EU, 1), Record(EU, None, b"x", 0)]  # type: ignore[arg-type]
    with pytest.raises(StorageError):
        await storage.commit(broken)
    reopened = again(storage)
    assert list(reopened.replay()) == []
    reopened.close()


async def test_a_cancelled_caller_does_not_undo_its_commit(storage: SqliteStorage) -> None:
    """The transaction has an owner of its own; also one that had to wait for the thread."""
    may_begin = threading.Event()
    storage._write_thread.submit(may_begin.wait)
    committing = asyncio.create_task(storage.commit(batch(EU, 1)))
    await asyncio.sleep(0)
    committing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await committing
    may_begin.set()
    reopened = again(storage)
    assert len(list(reopened.replay())) == 1
    reopened.close()


async def test_every_commit_is_synced(storage: SqliteStorage) -> None:
    """WAL with ``synchronous=FULL`` on the connection that writes."""
    assert storage._writer is not None
    with storage._writer.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2


async def test_an_acknowledged_commit_is_in_the_file(storage: SqliteStorage) -> None:
    """Another connection sees it, whole, as soon as ``commit`` returns, and not while the thread
    that writes has not begun."""
    may_begin = threading.Event()
    storage._write_thread.submit(may_begin.wait)
    committing = asyncio.create_task(storage.commit(batch(EU, 1, 2)))
    await asyncio.sleep(0)
    assert not committing.done() and rows(storage) == 0
    may_begin.set()
    await committing
    assert rows(storage) == 2


def test_new_folders_are_synced_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is synced into the one above it before anything is made in it, so that no power cut can
    take a folder away with what was acknowledged below; the one that was there is as well, for an
    earlier start may have been killed between making and syncing it."""
    synced: list[tuple[Path, list[str]]] = []

    def sync(path: Path) -> None:
        synced.append((path, sorted(entry.name for entry in path.iterdir())))

    monkeypatch.setattr(storage_engine, "sync_directory", sync)
    there = tmp_path / "there"
    there.mkdir()
    make_directory(there / "new" / "eu")
    assert synced == [(tmp_path, ["there"]), (there, ["new"]), (there / "new", ["eu"])]
    synced.clear()
    make_directory(there / "new" / "eu")
    assert synced == [(there / "new", ["eu"])]


def test_a_folder_above_that_cannot_be_synced_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service may not be allowed to read what its directory lies in; an error of the disk is
    one."""
    number = errno.EACCES

    def refuse(path: Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(storage_engine, "sync_directory", refuse)
    make_directory(tmp_path)
    number = errno.EIO
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        make_directory(tmp_path)


async def test_files_are_for_their_owner_alone(storage: SqliteStorage) -> None:
    """Transcripts are private: the database, its WAL, and the directory; also where the file was
    there before, open to others."""
    storage.close()
    storage.path.chmod(0o644)
    storage = again(storage)
    await storage.commit(batch(EU, 1))
    assert storage.directory.stat().st_mode & 0o077 == 0
    assert len(list(storage.directory.iterdir())) == 4
    for path in storage.directory.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path
    storage.close()


# One owner


def test_a_second_owner_is_refused_and_told_who_has_it(storage: SqliteStorage) -> None:
    """In this process and in another; when the owner is gone, the directory is free."""
    with pytest.raises(StorageLocked, match=f"in use by process {os.getpid()};"):
        SqliteStorage(storage.directory).open()
    code = (
        "import sys; from pathlib import Path;"
        "from perdure.regions.storage import SqliteStorage as S; S(Path(sys.argv[1])).open()"
    )
    command = [sys.executable, "-c", code, str(storage.directory)]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert re.search(rf"StorageLocked: .* process {os.getpid()};", refused.stderr)
    storage.close()
    assert subprocess.run(command, check=False).returncode == 0


# Damage


@pytest.mark.failure("P9")
@pytest.mark.parametrize(
    "change",
    [
        "UPDATE log SET body = x'00' WHERE lsn = 2",
        "UPDATE log SET body = 'text' WHERE lsn = 2",
        "UPDATE log SET crc = crc + 1 WHERE lsn = 2",
        "UPDATE log SET crc = 'x' WHERE lsn = 2",
        "UPDATE log SET lsn = 9 WHERE lsn = 2",
    ],
)
async def test_a_damaged_record_is_found_and_mended_by_the_peers(
    storage: SqliteStorage, change: str
) -> None:
    """It is counted and left out, never handed on; the vector stops before it, so that the peers
    send it again; and then it is whole."""
    records = batch(EU, 1, 2, 3)
    await storage.commit(records)
    raw(storage, change)
    damaged = again(storage)
    assert [record.lsn for record in damaged.replay()] == [1, 3]
    assert (damaged.damaged, damaged.vector()) == (1, {EU: 1})
    assert await damaged.read(EU, 1, 10**6) == []
    await damaged.commit(records[1:])
    mended = again(damaged)
    assert {record.lsn for record in mended.replay()} == {1, 2, 3}
    assert mended.vector() == {EU: 3}
    assert await mended.read(EU, 0, 10**6) == records
    mended.close()


async def test_a_row_of_an_unknown_origin_is_damaged(storage: SqliteStorage) -> None:
    """Nobody knows whose it was."""
    await storage.commit(batch(EU, 1))
    raw(storage, "UPDATE log SET origin = 77")
    reopened = again(storage)
    assert list(reopened.replay()) == [] and reopened.damaged == 1
    reopened.close()


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """Clearly, and the directory is let go of."""
    (tmp_path / "perdure.sqlite").write_bytes(b"not a database at all, but long enough" * 100)
    for _ in range(2):
        with pytest.raises(StorageFailed, match=r"cannot open .*not a database"):
            SqliteStorage(tmp_path).open()


@pytest.mark.failure("C6")
def test_a_newer_schema_is_refused(storage: SqliteStorage) -> None:
    """An older program must not write into it."""
    storage.close()
    raw(storage, "PRAGMA user_version = 99")
    with pytest.raises(StorageFailed, match="written by a newer perdure"):
        SqliteStorage(storage.directory).open()


def test_a_directory_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    """A file in its place, in the operator's words."""
    (tmp_path / "data").write_text("a file")
    with pytest.raises(StorageFailed, match=r"cannot use .*/data"):
        SqliteStorage(tmp_path / "data").open()


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Root may write anywhere; who runs as root becomes nobody for a moment."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_directory_that_may_not_be_written_is_refused() -> None:
    """In the operator's words, and nothing is made in it."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o555)
        with unprivileged(), pytest.raises(StorageFailed, match=f"cannot use {name}: Permission"):
            SqliteStorage(directory).open()
        assert list(directory.iterdir()) == []


def test_tables_of_an_interrupted_first_start_are_completed(tmp_path: Path) -> None:
    """A crash in the middle of making the schema leaves something that can be opened."""
    connection = sqlite3.connect(tmp_path / "perdure.sqlite")
    connection.execute(
        "CREATE TABLE origin (id INTEGER PRIMARY KEY, region TEXT NOT NULL,"
        " incarnation TEXT NOT NULL, UNIQUE (region, incarnation))"
    )
    connection.close()
    storage = SqliteStorage(tmp_path)
    storage.open()
    assert list(storage.replay()) == []
    storage.close()


# A disk that does not do what it is asked


def pragma(storage: SqliteStorage, setting: str) -> None:
    """Set something on the connection that writes, beside its transactions."""
    assert storage._writer is not None
    connection = storage._writer.raw_connection().driver_connection
    assert connection is not None
    connection.execute(f"PRAGMA {setting}")


@pytest.mark.failure("P7")
async def test_a_full_disk_keeps_nothing_and_recovers(storage: SqliteStorage) -> None:
    """Not acknowledged, not there; reads go on; when there is room again, commits do."""
    await storage.commit(batch(EU, 1))
    pragma(storage, "max_page_count = 10")
    with pytest.raises(StorageFull):
        await storage.commit(batch(EU, 2, body=b"x" * 100_000))
    assert [r.lsn for r in await storage.read(EU, 0, 10**6)] == [1]
    pragma(storage, "max_page_count = 100000")
    await storage.commit(batch(EU, 2))
    reopened = again(storage)
    assert list(reopened.replay()) == batch(EU, 1, 2)
    reopened.close()


@pytest.mark.failure("P8")
async def test_an_error_of_the_disk_stops_for_good(storage: SqliteStorage) -> None:
    """Nothing is believed any more: later commits fail too, also when the cause is gone."""
    pragma(storage, "query_only = 1")
    with pytest.raises(StorageFailed, match="readonly"):
        await storage.commit(batch(EU, 1))
    pragma(storage, "query_only = 0")
    with pytest.raises(StorageFailed, match="readonly"):
        await storage.commit(batch(EU, 1))
    reopened = again(storage)
    assert list(reopened.replay()) == []
    await reopened.commit(batch(EU, 1))
    reopened.close()


@pytest.mark.failure("P10")
async def test_a_deleted_database_stops_for_good(storage: SqliteStorage) -> None:
    """Writing into a file that has no name would be a lie; also when the name comes back."""
    storage.path.rename(storage.path.with_suffix(".gone"))
    with pytest.raises(StorageFailed, match="database file is gone"):
        await storage.commit(batch(EU, 1))
    storage.path.with_suffix(".gone").rename(storage.path)
    with pytest.raises(StorageFailed, match="database file is gone"):
        await storage.commit(batch(EU, 1))


@pytest.mark.failure("P10")
@pytest.mark.parametrize("left_bytes", [0, 4_096, -1])
async def test_a_database_that_is_cut_off_stops_for_good(
    storage: SqliteStorage, left_bytes: int
) -> None:
    """SQLite would go on, and acknowledge what no start finds again: its log is whole, and the
    pages that it belongs to are not. Also when nobody writes."""
    await storage.commit(batch(EU, 1, 2, body=b"x" * 10_000))
    pragma(storage, "wal_checkpoint(TRUNCATE)")
    storage.check()
    size = storage.path.stat().st_size
    assert size > 8_192
    os.truncate(storage.path, left_bytes if left_bytes >= 0 else size + left_bytes)
    with pytest.raises(StorageFailed, match="database file was cut off"):
        storage.check()
    with pytest.raises(StorageFailed, match="database file was cut off"):
        await storage.commit(batch(EU, 3))


@pytest.mark.failure("P10")
async def test_a_database_that_may_not_be_touched_any_more(storage: SqliteStorage) -> None:
    """Whether commits go on, through what is open, or fail: what was acknowledged is there when it
    may be opened again."""
    await storage.commit(batch(EU, 1))
    acknowledged = 1
    storage.path.chmod(0)
    storage.directory.chmod(0o500)
    with unprivileged(), contextlib.suppress(StorageFailed):
        for lsn in range(2, 20):
            storage.check()
            await storage.commit(batch(EU, lsn))
            acknowledged = lsn
            await storage.read(EU, 0, 10**6)
    storage.directory.chmod(0o700)
    storage.path.chmod(0o600)
    reopened = again(storage)
    assert len(list(reopened.replay())) >= acknowledged
    reopened.close()


async def test_a_database_that_grows_is_whole(storage: SqliteStorage) -> None:
    """Whatever is written, taken back, stored and let go of."""
    for lsn in range(1, 40):
        await storage.commit(batch(EU, lsn, body=b"x" * 20_000))
        if lsn % 10 == 0:
            await storage.truncate({EU: lsn})
            pragma(storage, "wal_checkpoint(TRUNCATE)")
        storage.check()
