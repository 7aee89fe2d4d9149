"""A storage without a disk, whose commits end when the test says so."""

import asyncio
from collections.abc import Iterator, Sequence

from perdure.regions.ports import StorageFailed
from perdure.replication.records import Origin, Record, Vector, intact


class MemoryStorage:
    """Origin logs in memory, by the rules of the port. ``hold`` stops commits until ``release``."""

    def __init__(self) -> None:
        self.damaged = 0
        self.commits: list[list[Record]] = []
        self.failure: Exception | None = None
        # Set while a commit waits to be let go.
        self.reached = asyncio.Event()
        self._released = asyncio.Event()
        self._released.set()
        self._arrived: list[Record] = []
        self._open = False

    def hold(self) -> None:
        """Commits that begin from now on wait."""
        self._released.clear()

    def release(self) -> None:
        """Let them end."""
        self.reached.clear()
        self._released.set()

    def open(self) -> None:
        self._open = True

    def replay(self) -> Iterator[Record]:
        self.damaged = sum(not intact(record) for record in self._arrived)
        yield from (record for record in self._arrived if intact(record))

    def vector(self) -> Vector:
        vector: Vector = {}
        here = {record.origin for record in self._arrived}
        for origin in here:
            lsns = {r.lsn for r in self._arrived if r.origin == origin and intact(r)}
            dense = next(lsn for lsn in range(1, len(lsns) + 2) if lsn not in lsns) - 1
            if dense:
                vector[origin] = dense
        return vector

    async def commit(self, records: Sequence[Record]) -> None:
        self._check_open()
        self.reached.set()
        await self._released.wait()
        if self.failure is not None:
            raise self.failure
        for record in records:
            self._put(record)
        self.commits.append(list(records))

    def _put(self, record: Record) -> None:
        for number, held in enumerate(self._arrived):
            if held[:2] == record[:2]:
                self._arrived[number] = record
                return
        self._arrived.append(record)

    async def read(self, origin: Origin, after_lsn: int, bytes_max: int) -> list[Record]:
        self._check_open()
        by_lsn = {r.lsn: r for r in self._arrived if r.origin == origin and intact(r)}
        found: list[Record] = []
        size = 0
        while (record := by_lsn.get(after_lsn + len(found) + 1)) is not None:
            if found and size >= bytes_max:
                break
            found.append(record)
            size += len(record.body)
        return found

    def close(self) -> None:
        self._open = False

    def _check_open(self) -> None:
        if not self._open:
            raise StorageFailed("the storage is closed")
