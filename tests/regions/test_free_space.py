"""The unused space of a database file: SQLite leaves text there, and it is overwritten."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from perdure.regions import free_space
from perdure.regions.free_space import FreeSpace, unused
from perdure.regions.storage_engine import engine_for
from sqlalchemy import Connection, Engine

MARKER = b"xyzzy-4711"
SEEDS = range(6)
PAGE = 4_096


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[tuple[Path, Engine, FreeSpace]]:
    path = tmp_path / "db"
    path.touch()
    free = FreeSpace(path)
    engine = engine_for(path, "IMMEDIATE")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE log (position INTEGER PRIMARY KEY, body BLOB)")
        connection.exec_driver_sql(
            "CREATE TABLE message (number INTEGER PRIMARY KEY, name TEXT UNIQUE, body BLOB)"
        )
    yield path, engine, free
    engine.dispose()
    free.close()


def write(connection: Connection, random: Random, position: int) -> int:
    """Rows of all sizes come, grow and go; three in ten hold the marker."""
    for _ in range(random.randrange(60)):
        position += 1
        text = MARKER if random.random() < 0.3 else b"other-text"
        body = text * (random.choice([20, 80, 200, 900, 3_000, 9_000]) // len(text))
        connection.exec_driver_sql("INSERT INTO log VALUES (?, ?)", (position, body))
        name = f"{random.randrange(200)}"
        connection.exec_driver_sql(
            "INSERT INTO message (name, body) VALUES (?, ?)"
            " ON CONFLICT (name) DO UPDATE SET body = excluded.body",
            (name, body),
        )
    if random.random() < 0.3:
        connection.exec_driver_sql(
            "DELETE FROM log WHERE position <= ? AND position % ? = 0",
            (position - random.randrange(100), random.randrange(1, 4)),
        )
    return position


def fill(engine: Engine, seed: int) -> None:
    """Write for a while, then leave no row with the marker."""
    random, position = Random(seed), 0
    for _ in range(40):
        with engine.begin() as connection:
            position = write(connection, random, position)
    with engine.begin() as connection:
        for table in ("log", "message"):
            connection.exec_driver_sql(
                f"UPDATE {table} SET body = '' WHERE instr(body, ?)", (MARKER,)
            )


def clear(engine: Engine, free: FreeSpace) -> int:
    """All of it; how many steps that took."""
    at, steps = free.clear(engine, 0), 1
    while at:
        at, steps = free.clear(engine, at), steps + 1
    assert at == 0
    return steps


def held(path: Path) -> int:
    return sum(file.read_bytes().count(MARKER) for file in path.parent.iterdir())


def test_text_that_no_row_holds_is_left_nowhere(
    opened: tuple[Path, Engine, FreeSpace], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite leaves some of it, though it overwrites what is deleted and the WAL is empty; after
    all steps nothing is left, nor does it come back with what is written later; and the database is
    whole."""
    path, engine, free = opened
    monkeypatch.setattr(free_space, "STEP_BYTES_MAX", 64 * PAGE)
    left = []
    for seed in SEEDS:
        fill(engine, seed)
        assert free_space._only_in_the_file(engine)
        left.append(held(path))
        assert clear(engine, free) > 1
        assert held(path) == 0
        with engine.begin() as connection:
            connection.exec_driver_sql("UPDATE message SET body = body || 'more'")
        assert free_space._only_in_the_file(engine) and held(path) == 0
        with engine.begin() as connection:
            found = connection.exec_driver_sql("PRAGMA integrity_check").scalar_one()
            connection.exec_driver_sql("DELETE FROM log")
        assert found == "ok"
    assert any(left), "SQLite does it by itself by now: this is needed no more"


def test_rows_are_as_they_were(opened: tuple[Path, Engine, FreeSpace]) -> None:
    """Nothing but what is unused is touched."""
    path, engine, free = opened
    random = Random(7)
    with engine.begin() as connection:
        write(connection, random, 0)
        connection.exec_driver_sql("DELETE FROM message WHERE number % 3 = 0")
        before = connection.exec_driver_sql("SELECT * FROM message ORDER BY number").all()
    clear(engine, free)
    with sqlite3.connect(path) as other:
        assert other.execute("SELECT * FROM message ORDER BY number").fetchall() == before


def test_it_waits_for_who_reads(
    opened: tuple[Path, Engine, FreeSpace], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader may need what is in the WAL still; when it has gone, it is done."""
    path, engine, free = opened
    monkeypatch.setattr(free_space, "READERS_WAIT_MS", 1)
    with sqlite3.connect(path, isolation_level=None) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT COUNT(*) FROM log").fetchone()
        fill(engine, 1)
        assert free.clear(engine, 0) is None
        reader.execute("COMMIT")
    reader.close()
    clear(engine, free)
    assert held(path) == 0
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one() == 5_000


def test_a_file_that_is_too_large_is_left_alone(
    opened: tuple[Path, Engine, FreeSpace], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a page of content could look like one of a tree, nothing is touched, and nothing said
    to be done."""
    path, engine, free = opened
    fill(engine, 1)
    assert free_space._only_in_the_file(engine)
    before = path.read_bytes()
    monkeypatch.setattr(free_space, "PAGES_MAX", 2)
    assert free.clear(engine, 0) is None
    assert path.read_bytes() == before


def page(kind: int, cells: int, content_at: int, start: int = 0) -> bytes:
    """A page full of ones, with such a header."""
    header = bytes([kind, 0, 0, *cells.to_bytes(2, "big"), *content_at.to_bytes(2, "big"), 0])
    return b"\1" * start + header + b"\1" * (PAGE - start - len(header))


def test_what_is_unused_of_a_page() -> None:
    """Between the places of the cells and the cells; of the first page, after the file's header."""
    assert unused(page(13, 3, 4_000), False, PAGE) == (14, 4_000)
    assert unused(page(5, 3, 4_000), False, PAGE) == (18, 4_000)
    assert unused(page(10, 0, 4_000), False, 4_000) == (8, 4_000)
    assert unused(page(13, 3, 4_000, 100), True, PAGE) == (114, 4_000)
    zero = bytearray(page(13, 3, 4_000))
    zero[14:4_000] = bytes(4_000 - 14)
    assert unused(bytes(zero), False, PAGE) is None


@pytest.mark.parametrize(
    "data",
    [bytes(PAGE), page(1, 3, 4_000), page(13, 3, 10), page(13, 9_999, 4_000), page(13, 3, 4_097)],
    ids=["empty", "no tree", "too low", "too many", "too high"],
)
def test_pages_that_are_not_understood_are_left_alone(data: bytes) -> None:
    """Other kinds, and damaged ones."""
    assert unused(data, False, PAGE) is None
