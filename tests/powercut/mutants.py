"""Deliberate bugs in what reaches the disk, one at a time: power cuts must catch every one.

Each is a slip that somebody could make; what it breaks is in its docstring.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest import mock

from perdure.regions import repair, storage
from perdure.regions.storage import SqliteStorage
from perdure.regions.storage_engine import engine_for
from sqlalchemy import Engine, event

MUTANTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {}


def _mutant(owner: Any, name: str) -> Callable[[Any], Any]:
    """Registers a function as what ``owner.name`` is instead; its own name is the mutant's."""

    def register(instead: Any) -> Any:
        assert instead.__doc__, instead.__name__
        MUTANTS[instead.__name__] = lambda: mock.patch.object(owner, name, instead)
        return instead

    return register


def _also(engine: Engine, pragma: str) -> Engine:
    @event.listens_for(engine, "connect")
    def configure(connection: Any, _: object) -> None:
        connection.execute(f"PRAGMA {pragma}")

    return engine


# Syncing


@_mutant(storage, "engine_for")
def synchronous_off(path: Path, begin: str | None) -> Engine:
    """Nothing is ever synced."""
    return _also(engine_for(path, begin), "synchronous=OFF")


@_mutant(storage, "engine_for")
def synchronous_normal(path: Path, begin: str | None) -> Engine:
    """A commit is synced at the next checkpoint of the WAL."""
    return _also(engine_for(path, begin), "synchronous=NORMAL")


@_mutant(storage, "engine_for")
def no_journal(path: Path, begin: str | None) -> Engine:
    """The database is written in place."""
    return _also(engine_for(path, begin), "journal_mode=OFF")


@_mutant(storage, "make_directory")
def folders_not_synced(directory: Path) -> None:
    """A new data directory is gone after a power cut, with everything in it."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)


@_mutant(storage, "make_directory")
def one_folder_synced(directory: Path) -> None:
    """So it is where the folder above it was new as well."""
    if not directory.exists():
        directory.mkdir(mode=0o700, parents=True)
        storage.sync_directory(directory.parent)


# Transactions


@_mutant(storage, "engine_for")
def no_transactions(path: Path, begin: str | None) -> Engine:
    """Each statement is on disk for itself: of a schema, of a batch."""
    return engine_for(path, None)


_commit = SqliteStorage.commit


@_mutant(SqliteStorage, "commit")
async def acknowledged_first(
    self: Any, records: Sequence[Any], deletions: Sequence[Any] = ()
) -> None:
    """A commit says that it is done a moment before it is."""
    self.check()

    async def later() -> None:
        await asyncio.sleep(0.001)
        await _commit(self, records, deletions)

    task = asyncio.create_task(later())
    task.add_done_callback(lambda done: done.cancelled() or done.exception())


_save = SqliteStorage.save


@_mutant(SqliteStorage, "save")
async def watermark_first(self: Any, images: Sequence[Any], mark: Any) -> None:
    """The log is not replayed any more, and the images are not there yet."""
    if images:
        at = storage.Mark(self.position, self.vector(), 0, self.log_bytes, self.hlc)
        await _save(self, [], mark or at)
    await _save(self, images, mark)


_truncate = SqliteStorage.truncate


@_mutant(SqliteStorage, "truncate")
async def logs_end_too_early(self: Any, upto: Any) -> int:
    """Records are let go of that are in no image yet."""
    known = dict.fromkeys(self._ids, 2**40)
    gone = await _truncate(self, known)
    self._floors.update(upto)
    return gone


_round = repair.Repair.round


@_mutant(repair.Repair, "round")
async def jumped_before_absorbed(self: Any, name: str) -> int:
    """A region says that it knows what it has yet to absorb."""
    if name in self.below:
        await self._jump(dict(self._gossip.peers[name].vector))
    return await _round(self, name)
