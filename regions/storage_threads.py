"""The threads of a storage on SQLite: how it is read and written, and what a failure means."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from perdure.regions.ports import StorageFailed, StorageFull
from perdure.regions.storage_engine import OpenFile, is_full
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

T = TypeVar("T")


class Threads:
    """One connection that writes, on its thread; one that reads, on another; and one on the event
    loop. ``_failed``: the disk can no longer be trusted."""

    def __init__(self) -> None:
        self._failed: Exception | None = None
        self._closed = False
        self._file: OpenFile | None = None
        self._writer: Engine | None = None
        self._reader: Engine | None = None
        self._loader: Connection | None = None
        self._write_thread = ThreadPoolExecutor(1, thread_name_prefix="perdure-commit")
        self._read_thread = ThreadPoolExecutor(1, thread_name_prefix="perdure-read")

    def check(self) -> None:
        """Raises ``StorageFailed`` when the file that was opened is no longer there, or whole."""
        if self._failed is None and not self._closed and self._file is not None:
            try:
                self._file.check()
            except OSError as error:
                self._failed = error
        if self._failed is not None:
            raise StorageFailed(str(self._failed))

    def _look(self, look: Callable[[Connection], T]) -> T:
        if self._closed or self._loader is None:
            raise StorageFailed("the storage is closed")
        try:
            return look(self._loader)
        except DBAPIError as error:
            self._failed = error.orig if isinstance(error.orig, Exception) else error
            raise StorageFailed(str(error.orig)) from error

    async def _read(self, work: Callable[[Connection], T]) -> T:
        def read() -> T:
            assert self._reader is not None
            try:
                with self._reader.connect() as connection:
                    return work(connection)
            except DBAPIError as error:
                raise StorageFailed(str(error.orig)) from error

        return await self._run(self._read_thread, read)

    async def _write(self, work: Callable[[Connection], T]) -> T:
        return await self._run(self._write_thread, lambda: self._in_transaction(work))

    def _in_transaction(self, work: Callable[[Connection], T]) -> T:
        assert self._writer is not None
        # It may have failed while this one waited for the thread.
        self.check()
        try:
            with self._writer.begin() as connection:
                return work(connection)
        except DBAPIError as error:
            if is_full(error.orig):
                raise StorageFull(str(error.orig)) from error
            self._failed = error.orig if isinstance(error.orig, Exception) else error
            raise StorageFailed(str(error.orig)) from error

    async def _run(self, thread: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        if self._closed:
            raise StorageFailed("the storage is closed")
        # Shielded: a cancelled caller must not leave a transaction without its owner.
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(thread, work))
