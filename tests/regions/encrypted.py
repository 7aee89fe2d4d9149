"""Regions whose disks are encrypted, with something on them; and what a thief finds there."""

import asyncio
import contextlib
import sqlite3
from pathlib import Path
from typing import Any

from perdure.regions.cipher import Cipher, Clear
from perdure.regions.clock import SystemEntropy
from perdure.regions.node import Node
from perdure.regions.rekey import Rekeying, Report
from perdure.regions.storage import SqliteStorage
from perdure.replication.admission import Draft
from perdure.replication.tenants import range_of

from tests.regions.conftest import ManualClock

KEY, NEXT, OTHER = (bytes([number] * 32) for number in (1, 2, 3))
# In every text that is written.
MARKER = b"MARZIPAN"
WORD = MARKER.decode()
OPEN = Draft("assistant", id="open", producer="p", claim_id="claim-0001")


def cipher(*keys: bytes) -> Clear:
    return Cipher(keys, SystemEntropy()) if keys else Clear()


def opened(directory: Path, *keys: bytes) -> SqliteStorage:
    """The storage of a directory, open."""
    storage = SqliteStorage(directory, cipher(*keys))
    storage.open()
    return storage


def started(directory: Path, *keys: bytes) -> tuple[Node, SqliteStorage]:
    """The region of a directory, started. Its clock stands still, and so do its seconds: on a slow
    machine one of them would store, and let go of, what a test looks for on the disk."""
    storage = SqliteStorage(directory, cipher(*keys))
    node = Node(
        "eu", storage, ManualClock(), SystemEntropy(), secret=b"s" * 32, peers=[], bootstrap=True
    )
    node.recover()
    node.start(None)
    for task in node._tasks:
        if task.get_name() == "perdure-tick":
            task.cancel()
    return node, storage


async def fill(node: Node, sessions: int = 3) -> None:
    """Messages, metadata and documents, in images and in the log, all with the marker."""
    for number in range(sessions):
        session = f"s{number}"
        await node.create(session, {"title": WORD})
        await node.send(session, Draft("user", id="m", text=f"{WORD} {number}" * 20))
        await node.append_document(session, "d", f"{WORD} of a document")
        opened = await node.open(session, OPEN)
        await node.append(session, "open", "p", opened.epoch, 0, [WORD, " begun"], None)
    await node.checkpoint.all()
    for number in range(sessions):
        await node.send(f"s{number}", Draft("user", id="late", text=f"{WORD} in the log alone"))


def shown(node: Node) -> dict[str, Any]:
    """What readers see."""
    page = node.state.page(range_of("", "*"), 100)
    found: dict[str, Any] = {}
    for id_, _ in page:
        snapshot = node.snapshot(id_)
        document = node.document(id_, "d")
        found[id_] = snapshot["messages"], snapshot["metadata"], document["text"]
    return found


def made(directory: Path, *keys: bytes, sessions: int = 3) -> dict[str, Any]:
    """A region that was filled and has stopped without storing what came last; what it showed."""

    async def run() -> dict[str, Any]:
        node, storage = started(directory, *keys)
        try:
            await fill(node, sessions)
            return shown(node)
        finally:
            await killed(node, storage)

    return asyncio.run(run())


async def killed(node: Node, storage: SqliteStorage) -> None:
    """The node ends as if its process had died."""
    for task in node._tasks:
        task.cancel()
    await asyncio.gather(*node._tasks, return_exceptions=True)
    storage.close()


def seen(directory: Path, *keys: bytes) -> dict[str, Any]:
    """What a start with these keys shows; nothing of it is damaged."""

    async def run() -> dict[str, Any]:
        node, storage = started(directory, *keys)
        try:
            number = await storage.scrub(0, 100)
            assert (number, storage.damaged) == (0, 0)
            return shown(node)
        finally:
            await killed(node, storage)

    return asyncio.run(run())


def rekey(directory: Path, *keys: bytes, decrypt: bool = False, tell: Any = None) -> Report:
    rekeying = Rekeying(directory, cipher(*keys), tell or (lambda *_: None))
    return rekeying.run(decrypt=decrypt)


def holding(directory: Path, text: bytes = MARKER) -> list[str]:
    """The names of the files in a directory that hold a text."""
    return [path.name for path in sorted(directory.iterdir()) if text in path.read_bytes()]


def query(directory: Path, statement: str, *values: object) -> list[Any]:
    """Ask or change the file behind the storage's back."""
    path = directory / "perdure.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(statement, values).fetchall()


def dump(directory: Path) -> list[str]:
    """All that the database holds."""
    with contextlib.closing(sqlite3.connect(directory / "perdure.sqlite")) as connection:
        version = connection.execute("PRAGMA user_version").fetchone()
        return [*connection.iterdump(), str(version)]


def freed(directory: Path, *statements: str) -> None:
    """Delete, and leave what was deleted where it was, in pages that are free."""
    path = directory / "perdure.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        # Some builds of SQLite wipe what is deleted.
        connection.execute("PRAGMA secure_delete = OFF")
        for statement in statements:
            connection.execute(statement)


def heads(directory: Path) -> set[bytes]:
    """What every blob begins with, that says how it is stored."""
    found = set()
    for table, column in (
        *(("log", "body"), ("session", "digest"), ("session", "summary"), ("session", "head")),
        *(("message", "facts"), ("message", "body"), ("quarantine", "body")),
    ):
        rows = query(directory, f"SELECT DISTINCT SUBSTR({column}, 1, 5) FROM {table}")
        found |= {head for (head,) in rows}
    rows = query(directory, "SELECT SUBSTR(value, 1, 5) FROM meta WHERE key != 'encryption'")
    return found | {head for (head,) in rows}


def head_of(key: bytes) -> bytes:
    return b"\x01" + bytes.fromhex(cipher(key).keys[0])
