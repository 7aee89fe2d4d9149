"""What SQLite leaves behind in a page when it moves rows from it to another.

``secure_delete`` overwrites what is deleted, but not the copies of rows that were moved while they
still lived: those stay in the unused middle of a page until something else comes to lie there. In
experiment a third of the databases still held text after all rows with it were gone. Here that
middle is overwritten, in the file itself, while nothing else writes and all is out of the WAL.
"""

import errno
import os
import sqlite3
from pathlib import Path

from perdure.regions.ports import StorageFailed, StorageFull
from sqlalchemy import Engine

# How many bytes of the file are looked at in one step: commits wait for it.
STEP_BYTES_MAX = 2_097_152
# How long a step waits for who reads just now.
READERS_WAIT_MS = 250
# The first byte of a page that is part of a tree, and how long its header is. Other pages begin
# with the number of a page, which is less than this in a file of up to 128 GiB.
_HEADER_BYTES = {2: 12, 5: 12, 10: 8, 13: 8}
_FILE_HEADER_BYTES = 100
PAGES_MAX = 0x0200_0000


def unused(page: bytes, first: bool, usable: int) -> tuple[int, int] | None:
    """From where to where a page of a tree is not used; None where it is no such page, or nothing
    is unused, or it is all zero already. A damaged page is left to SQLite."""
    start = _FILE_HEADER_BYTES if first else 0
    header = _HEADER_BYTES.get(page[start])
    if header is None:
        return None
    cells = int.from_bytes(page[start + 3 : start + 5], "big")
    # 0 stands for 65,536.
    stop = int.from_bytes(page[start + 5 : start + 7], "big") or 65_536
    start += header + 2 * cells
    if not start <= stop <= usable or page.count(0, start, stop) == stop - start:
        return None
    return start, stop


class FreeSpace:
    """The unused space of one database. Opened before SQLite opens the file and closed after all
    connections: closing it in between would give up SQLite's own locks."""

    def __init__(self, path: Path) -> None:
        """Raises ``OSError``."""
        self._file = os.open(path, os.O_RDWR)

    def clear(self, engine: Engine, at_byte: int) -> int | None:
        """One step, on the thread of the connection that writes: where to go on, 0 at the end;
        None: somebody reads, and it has to be tried again; or the file is larger than this can do.

        Raises ``StorageFull`` and ``StorageFailed``.
        """
        try:
            if not _only_in_the_file(engine):
                return None
            return self._clear(at_byte)
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
                raise StorageFull(str(error)) from error
            raise StorageFailed(str(error)) from error
        except OSError as error:
            kind = StorageFull if error.errno == errno.ENOSPC else StorageFailed
            raise kind(f"cannot clear unused space: {error.strerror}") from error

    def _clear(self, at_byte: int) -> int | None:
        head = os.pread(self._file, _FILE_HEADER_BYTES, 0)
        # 1 stands for 65,536.
        size = int.from_bytes(head[16:18], "big")
        size = 65_536 if size == 1 else size
        if os.fstat(self._file).st_size // size > PAGES_MAX:
            return None
        data = os.pread(self._file, STEP_BYTES_MAX, at_byte)
        changed = False
        for start in range(0, len(data) - size + 1, size):
            page = data[start : start + size]
            found = unused(page, at_byte + start == 0, size - head[20])
            if found is not None:
                os.lseek(self._file, at_byte + start + found[0], os.SEEK_SET)
                os.write(self._file, bytes(found[1] - found[0]))
                changed = True
        if changed:
            os.fsync(self._file)
        return at_byte + STEP_BYTES_MAX if len(data) == STEP_BYTES_MAX else 0

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)


def _only_in_the_file(engine: Engine) -> bool:
    """Whether all of the WAL is in the file now, and the WAL empty; and the writing connection has
    forgotten the pages that it had in memory: it would write their unused space back."""
    connection = engine.raw_connection()
    try:
        cursor = connection.cursor()
        timeout_ms = cursor.execute("PRAGMA busy_timeout").fetchone()[0]
        cursor.execute(f"PRAGMA busy_timeout = {READERS_WAIT_MS}")
        busy = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        cursor.execute(f"PRAGMA busy_timeout = {timeout_ms}")
        cursor.execute("PRAGMA shrink_memory")
        cursor.close()
        return not busy
    finally:
        connection.close()
