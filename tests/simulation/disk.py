"""Disks that outlive processes: what was synced stays, whatever happens to who wrote it.

A transaction is on disk whole or not at all. It takes its time before that moment and after it, so
a process may die between the two: then something is on disk that was never acknowledged.
"""

import asyncio
from collections.abc import Sequence
from copy import copy
from random import Random
from typing import Any

from perdure.regions.image_tables import Sums
from perdure.regions.ports import Mark, StorageFailed, StorageFull
from perdure.replication.records import Origin, Record, Vector
from perdure.replication.rows import Image
from perdure.replication.subjects import Deletion, Erasure, Subject

from tests.regions.memory_storage import MemoryStorage
from tests.replication.memory_archive import MemoryArchive
from tests.simulation.remains import in_images, in_records

# So many buckets of digests: what 4,096 cost would be most of a simulation.
BUCKETS = 64
# What one disk keeps, by the names that the storage has for it.
_KEPT = ("_log", "_images", "_sums", "_mark", "_floors", "_notes", "_erasures", "_jumped")


class Disk:
    """What a region has on disk. ``full``, ``failing``: how the next transactions end."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.full = False
        self.failing = False
        self.latency_s = 0.001
        # The storage that has it open.
        self.owner: SimStorage | None = None
        # What of it was said to be gone, and was not.
        self.remains: list[str] = []
        self.kept: dict[str, Any] = {
            "_log": dict[tuple[Origin, int], tuple[int, Record]](),
            "_images": dict[str, tuple[MemoryArchive, Image]](),
            "_sums": Sums(0, (0,) * BUCKETS),
            "_mark": Mark(0, {}, 0, 0, 0),
            "_floors": Vector(),
            "_notes": dict[str, str](),
            "_erasures": dict[Subject, Erasure](),
            "_jumped": Vector(),
        }

    def copy(self, name: str) -> "Disk":
        """A backup of what is on it now."""
        backup = Disk(name)
        backup.kept = {key: copy(value) for key, value in self.kept.items()}
        images = {}
        for id_, (archive, image) in self.kept["_images"].items():
            twin = MemoryArchive()
            twin.head, twin.facts = archive.head, dict(archive.facts)
            twin.bodies = dict(archive.bodies)
            images[id_] = (twin, image)
        sums = Sums()
        sums.sums, sums.count = list(self.kept["_sums"].sums), self.kept["_sums"].count
        backup.kept |= {"_images": images, "_sums": sums}
        return backup


class SimStorage(MemoryStorage):
    """One process's hold on a disk. Once ``cut`` nothing of it reaches the disk any more."""

    def __init__(self, disk: Disk, random: Random) -> None:
        super().__init__()
        self.disk = disk
        self._random = random
        self.is_cut = False

    def open(self) -> None:
        self.disk.owner = self
        for name in _KEPT:
            setattr(self, name, self.disk.kept[name])
        super().open()

    def cut(self) -> None:
        """The process has died."""
        self.is_cut = True

    async def _pass(self) -> None:
        self._check_open()
        await asyncio.sleep(self.disk.latency_s * (0.2 + self._random.random()))
        if self.is_cut:
            raise StorageFailed("the process is dead")
        if self.disk.full:
            raise StorageFull("the simulated disk is full")
        if self.disk.failing:
            self.failure = StorageFailed("the simulated disk failed to sync")
        if self.failure is not None:
            raise self.failure

    async def _settle(self) -> None:
        await asyncio.sleep(self.disk.latency_s * self._random.random())
        if self.is_cut:
            raise StorageFailed("the process is dead")

    async def commit(self, records: Sequence[Record], deletions: Sequence[Deletion] = ()) -> None:
        await super().commit(records, deletions)
        self._note_remains(records)
        self.commits.clear()
        await self._settle()

    async def jump(self, vector: Vector) -> None:
        await super().jump(vector)
        await self._settle()

    async def save(self, images: Sequence[Image], mark: Mark | None) -> None:
        await super().save(images, mark)
        self.disk.kept["_mark"] = self._mark
        self.saves.clear()
        await self._settle()

    def _note_remains(self, records: Sequence[Record]) -> None:
        for record, subject in in_records(records, self._erasures):
            place = f"{record.origin}/{record.lsn}"
            self.disk.remains.append(f"{self.disk.name} has {subject} at {place}")

    async def erase(self, subjects: Sequence[Subject]) -> bool:
        await self._pass()
        return await super().erase(subjects)

    async def erased(self, subjects: Sequence[Subject], vector: Vector | None) -> None:
        await self._pass()
        await super().erased(subjects, vector)
        self._note_remains([record for _, record in self._log.values()])
        for subject in in_images(self._images, self._erasures):
            self.disk.remains.append(f"{self.disk.name} has a body of {subject}")
        await self._settle()

    async def truncate(self, upto: Vector) -> int:
        if self.is_cut:
            raise StorageFailed("the process is dead")
        return await super().truncate(upto)

    async def note(self, name: str, text: str) -> None:
        if self.is_cut:
            raise StorageFailed("the process is dead")
        if text or name in self._notes:
            await super().note(name, text)
