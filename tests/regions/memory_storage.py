"""A storage without a disk, whose commits end when the test says so."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator, Sequence

from perdure.regions.image_tables import BUCKETS, Sums, term_of
from perdure.regions.ports import Mark, Measures, OriginLog, StorageFailed, Stored
from perdure.replication.erasure import Gone
from perdure.replication.ids import bucket
from perdure.replication.records import ABSORBED, Origin, Record, Vector, bytes_of, intact
from perdure.replication.rows import Image
from perdure.replication.subjects import Deletion, Erasure, Subject
from perdure.replication.tenants import Range, is_own, is_session, tenant_of

from tests.replication.memory_archive import MemoryArchive


class MemoryStorage:
    """Logs and images in memory, by the rules of the port. ``hold`` stops commits until
    ``release``."""

    def __init__(self) -> None:
        self.damaged = 0
        self.position = 0
        self.log_bytes = 0
        self.hlc = 0
        self.commits: list[list[Record]] = []
        self.saves: list[list[str]] = []
        self.failure: Exception | None = None
        # Set while a commit waits to be let go.
        self.reached = asyncio.Event()
        self._released = asyncio.Event()
        self._released.set()
        self._log: dict[tuple[Origin, int], tuple[int, Record]] = {}
        self._images: dict[str, tuple[MemoryArchive, Image]] = {}
        self._sums = Sums()
        self._mark = Mark(0, {}, 0, 0, 0)
        self._floors: Vector = {}
        self._notes: dict[str, str] = {}
        self._erasures: dict[Subject, Erasure] = {}
        # Where a delete stands that a jump came past, in place of what is not known.
        self._jumped: Vector = {}
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
        self.position, self.log_bytes, self.hlc = (
            self._mark.position,
            self._mark.log_bytes,
            self._mark.hlc,
        )

    def replay(self) -> Iterator[Record]:
        self.damaged = 0
        for position, record in sorted(self._log.values()):
            if position > self._mark.position:
                self.position = position
                if intact(record):
                    self.log_bytes += len(record.body)
                    yield record
                else:
                    self.damaged += 1

    def vector(self) -> Vector:
        vector = dict(self._mark.vector)
        for origin in dict.fromkeys([*(origin for origin, _ in self._log), *self._floors]):
            at = max(vector.get(origin, 0), self._floors.get(origin, 0))
            while (held := self._log.get((origin, at + 1))) is not None and intact(held[1]):
                at += 1
            vector[origin] = at
        return {origin: lsn for origin, lsn in vector.items() if lsn and origin != ABSORBED}

    def floors(self) -> Vector:
        return {o: lsn for o, lsn in self._floors.items() if o != ABSORBED}

    def absorbed(self) -> int:
        return max(
            (lsn for o, lsn in self._log if o == ABSORBED), default=self._floors.get(ABSORBED, 0)
        )

    async def _pass(self) -> None:
        self._check_open()
        self.reached.set()
        await self._released.wait()
        if self.failure is not None:
            raise self.failure

    async def commit(self, records: Sequence[Record], deletions: Sequence[Deletion] = ()) -> None:
        await self._pass()
        for subject, place, is_news, known_ms in deletions:
            places = {} if place is None else {place.origin: place.lsn}
            known = self._erasures.get(subject, Erasure(known_ms, {}, False))
            places = places if known.places in ({}, self._jumped) and places else known.places
            self._erasures[subject] = Erasure(known.known_ms, places, known.is_done and not is_news)
        for record in records:
            self.position += 1
            self._log[(record.origin, record.lsn)] = (self.position, record)
        self.log_bytes += bytes_of(records)
        self.commits.append(list(records))

    async def read(self, origin: Origin, after_lsn: int, bytes_max: int) -> list[Record]:
        self._check_open()
        found: list[Record] = []
        size = 0
        while (held := self._log.get((origin, after_lsn + len(found) + 1))) is not None:
            record = held[1]
            if not intact(record) or (found and size >= bytes_max):
                break
            found.append(record)
            size += len(record.body)
        return found

    async def jump(self, vector: Vector) -> None:
        await self._pass()
        self._floors.update(vector)
        for origin, lsn in vector.items():
            self._jumped[origin] = max(lsn, self._jumped.get(origin, 0))
        for subject, known in self._erasures.items():
            if not known.places:
                self._erasures[subject] = known._replace(places=self._jumped)

    async def truncate(self, upto: Vector) -> int:
        before = len(self._log)
        for origin, lsn in upto.items():
            self._floors[origin] = max(lsn, self._floors.get(origin, 0))
            for key in [key for key in self._log if key[0] == origin and key[1] <= lsn]:
                del self._log[key]
        return before - len(self._log)

    # Images

    def session(self, id_: str) -> Stored | None:
        self._check_open()
        if id_ not in self._images:
            return None
        archive, image = self._images[id_]
        return Stored(archive, image.head, term_of(image.digest), image.exists)

    def sessions(self, among: Range, limit: int) -> list[tuple[str, bytes]]:
        ids = sorted(id_ for id_, (_, image) in self._images.items() if image.exists)
        ids = [id_ for id_ in ids if among.first <= id_ < among.past and is_session(id_)]
        ids = [id_ for id_ in ids if (":" in id_) == (":" in among.first)]
        return [(id_, self._images[id_][1].summary) for id_ in ids[:limit]]

    def active(self) -> list[str]:
        return sorted(id_ for id_, (archive, _) in self._images.items() if archive.open_runs())

    async def sizes(self, sessions: Sequence[str]) -> dict[str, tuple[int, str]]:
        found = {}
        for id_ in sessions:
            rows = self._images[id_][0].after("", 10_000) if id_ in self._images else []
            bodies = [self._images[id_][0].body(row.id) or b"" for row in rows]
            shown = [row.serial for row in rows if row.is_shown]
            found[id_] = (sum(map(len, bodies)), max(shown, default=""))
        return found

    def tenants(self) -> dict[str, int]:
        stored = self._images.items()
        people = (id_ for id_, (_, image) in stored if image.exists and not is_own(id_))
        return dict(Counter(map(tenant_of, people)))

    def bucket_sums(self) -> list[int]:
        return list(self._sums.sums)

    def in_buckets(self, numbers: Sequence[int]) -> dict[str, bytes]:
        return {
            id_: image.digest
            for id_, (_, image) in self._images.items()
            if bucket(id_, BUCKETS) in numbers
        }

    def take_damaged(self) -> set[str]:
        return set()

    async def scrub(self, after: int, sessions: int) -> int:
        return 0

    async def save(self, images: Sequence[Image], mark: Mark | None) -> None:
        await self._pass()
        for image in images:
            archive, held = self._images.get(image.session, (MemoryArchive(), None))
            before = (0, False) if held is None else (term_of(held.digest), held.exists)
            self._sums.replace(image.session, before, (term_of(image.digest), image.exists))
            archive.save(image)
            self._images[image.session] = (archive, image)
        self.saves.append([image.session for image in images])
        self._mark = mark or self._mark

    # Erasing

    def waiting(self, limit: int) -> list[Subject]:
        return [s for s, known in self._erasures.items() if not known.is_done][:limit]

    def placeless(self, known_ms: int, limit: int) -> list[Subject]:
        found = [
            subject
            for subject, known in self._erasures.items()
            if not known.places and known.known_ms <= known_ms
        ]
        return found[:limit]

    def erasure(self, subject: Subject) -> Erasure | None:
        return self._erasures.get(subject)

    async def erase(self, subjects: Sequence[Subject]) -> bool:
        gone = Gone(subjects)
        for key, (position, record) in list(self._log.items()):
            self._log[key] = (position, gone.erased(record))
        return True

    async def erased(self, subjects: Sequence[Subject], vector: Vector | None) -> None:
        for subject in subjects:
            self._erasures[subject] = self._erasures[subject]._replace(is_done=True)
        if vector is not None:
            self._notes["erased"] = json.dumps({str(o): lsn for o, lsn in vector.items()})

    def notes(self) -> dict[str, str]:
        return dict(self._notes)

    async def note(self, name: str, text: str) -> None:
        self._notes[name] = text
        if not text:
            del self._notes[name]

    # How much there is

    async def measure(self) -> Measures:
        logs: dict[Origin, list[int]] = {}
        for (origin, _), (_, record) in self._log.items():
            logs.setdefault(origin, []).append(len(record.body))
        found = [OriginLog(origin, len(sizes), sum(sizes)) for origin, sizes in logs.items()]
        return Measures(found, 0, 0, encrypted=False, last_backup_ms=None)

    def free_bytes(self) -> int | None:
        return None

    def check(self) -> None:
        if isinstance(self.failure, StorageFailed):
            raise self.failure

    def close(self) -> None:
        self._open = False

    def _check_open(self) -> None:
        if not self._open:
            raise StorageFailed("the storage is closed")
