"""The layer itself: it loses what was not synced, keeps what was, and misses nothing."""

import os
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.powercut.disk import FATES, File, PowerDisk, PowerLost, Truncation, Write
from tests.powercut.hooks import powered
from tests.regions.faulty_disk import library

pytestmark = pytest.mark.skipif(
    library() is None, reason="this Python hides its SQLite: its calls cannot be replaced"
)

Disks = Callable[[int], PowerDisk]


@pytest.fixture
def disks(tmp_path: Path) -> Disks:
    return lambda seed: PowerDisk(tmp_path / str(seed), Random(seed))


def database(disk: PowerDisk, setting: str = "synchronous=FULL") -> sqlite3.Connection:
    """A database with an empty table, in a folder that is synced."""
    connection = sqlite3.connect(disk.root / "a.sqlite", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, body BLOB)")
    disk.top.sync()
    connection.execute(f"PRAGMA {setting}")
    return connection


def fill(connection: sqlite3.Connection, count: int, size: int = 2_000) -> None:
    for _ in range(count):
        connection.execute("INSERT INTO t (body) VALUES (?)", (os.urandom(size),))


def count(disk: PowerDisk) -> int:
    """The rows that a start finds; raises what SQLite says of a broken file."""
    with powered(disk):
        connection = sqlite3.connect(disk.root / "a.sqlite")
        try:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            found: int = connection.execute("SELECT count(*) FROM t").fetchone()[0]
        finally:
            connection.close()
    return found


def cut_by(disk: PowerDisk, setting: str, rows: int = 50) -> PowerDisk:
    """What is found when the power went after so many commits."""
    with powered(disk):
        connection = database(disk, setting)
        fill(connection, rows)
        disk.cut()
        connection.close()
    return disk.after_cut(disk.root.with_name(f"{disk.root.name}-found"))


def test_what_was_synced_is_there(disks: Disks) -> None:
    """Whatever becomes of the rest."""
    fates = set()
    for seed in range(30):
        found = cut_by(disks(seed), "synchronous=FULL")
        assert count(found) == 50
        fates.add(found.fate)
    assert fates == {*FATES, "mixed"}


def test_what_was_not_synced_is_lost(disks: Disks) -> None:
    """All of it, or a part of it, or by luck nothing."""
    rows = Counter(count(cut_by(disks(seed), "synchronous=OFF")) for seed in range(30))
    assert rows[0] and rows[50], rows
    assert len(rows) > 4, rows


def test_without_order_a_file_is_broken(disks: Disks) -> None:
    """When the WAL was written back, and neither it nor the database was synced."""
    broken = 0
    for seed in range(12):
        disk = cut_by(disks(seed), "synchronous=OFF", rows=1_500)
        try:
            count(disk)
        except (sqlite3.DatabaseError, AssertionError):
            broken += 1
    assert broken


@pytest.mark.parametrize("rows", [40, 3_000])
def test_the_layer_sees_everything(disks: Disks, rows: int) -> None:
    """What it was told of each file is what the file holds: while it is used, also when the WAL has
    been written back and begun anew, and after it was closed in order."""
    disk = disks(0)
    with powered(disk):
        connection = database(disk)
        fill(connection, rows)
        assert disk.unseen() == []
        connection.execute("DELETE FROM t")
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert disk.unseen() == []
        connection.close()
        assert disk.unseen() == []
    (disk.root / "a.sqlite").write_bytes(b"by another way")
    assert disk.unseen() == [str(disk.root / "a.sqlite")]


def test_nothing_reaches_a_disk_without_power(disks: Disks) -> None:
    """Neither commits nor what closing would do; whoever tries is told."""
    disk = disks(0)
    with powered(disk):
        connection = database(disk)
        fill(connection, 3)
        disk.arm(1, "write a.sqlite-wal")
        with pytest.raises(sqlite3.OperationalError, match="disk I/O error"):
            fill(connection, 1)
        before = {path.name: path.read_bytes() for path in disk.root.glob("*[!m]")}
        with pytest.raises(OSError, match=os.strerror(5)):
            os.open(disk.root / "new", os.O_CREAT | os.O_RDWR)
        connection.close()
        assert {path.name: path.read_bytes() for path in disk.root.glob("*[!m]")} == before
    assert count(disk.after_cut(disk.root.with_name("found"))) == 3


def test_a_new_name_needs_a_sync_of_its_folder(disks: Disks) -> None:
    """A sync of the file alone may not be enough."""
    there = set()
    for seed in range(20):
        disk = disks(seed)
        with powered(disk):
            file = os.open(disk.root / "new", os.O_CREAT | os.O_RDWR)
            os.write(file, b"synced")
            os.fsync(file)
            os.close(file)
            disk.cut()
        found = disk.after_cut(disk.root.with_name(f"{seed}-found")).root / "new"
        there.add(found.exists())
        assert not found.exists() or found.read_bytes() == b"synced"
    assert there == {True, False}


def test_a_torn_write_hurts_nothing_beside_it(disks: Disks) -> None:
    """Of the bytes that were being written any may be old, new, zero or garbage; no others."""
    kinds = set()
    for seed in range(200):
        disk = disks(seed)
        file = File(bytearray(b"o" * 20_000))
        disk.create(disk.root / "f", file)
        disk.top.sync()
        disk.change(disk.root / "f", file, Write(5_000, b"n" * 9_000))
        disk.cut()
        root = disk.root.with_name(f"{seed}-found")
        content = (disk.after_cut(root).root / "f").read_bytes()
        assert content[:5_000] == b"o" * 5_000
        assert content[14_000:] == b"o" * 6_000
        written = set(content[5_000:14_000])
        kinds.add("".join(sorted(chr(b) for b in written if b in b"on\0")) if written else "")
    assert {"o", "n", "no"} <= kinds
    assert any("\0" in kind for kind in kinds)


def test_a_process_that_dies_takes_nothing_with_it(disks: Disks) -> None:
    """What it wrote is there for the next; but what it had not synced still goes with the power."""
    rows = set()
    for seed in range(20):
        disk = disks(seed)
        with powered(disk):
            connection = database(disk, "synchronous=NORMAL")
            fill(connection, 10)
            disk.arm(None, kills=True)
            disk.cut()
            connection.close()
        again = disk.after_kill(disk.root.with_name(f"{seed}-again"))
        assert again.unseen() == []
        if seed % 2:
            assert count(again) == 10
        else:
            again.cut()
            rows.add(count(again.after_cut(again.root.with_name(f"{seed}-found"))))
    assert 0 in rows
    assert len(rows) > 2


def test_a_cut_comes_where_it_was_armed(disks: Disks) -> None:
    """By number and by name; from then on every call says so."""
    disk = disks(0)
    file = File()
    disk.create(disk.root / "f", file)
    disk.arm(2, "truncation f")
    disk.change(disk.root / "f", file, Truncation(1))
    disk.change(disk.root / "f", file, Write(0, b"x"))
    with pytest.raises(PowerLost):
        disk.change(disk.root / "f", file, Truncation(0))
    for _ in range(2):
        with pytest.raises(PowerLost):
            disk.sync("f", file)
    assert (disk.calls, disk.last) == (3, "truncation f")
