"""The stored messages of one session, in memory, by the rules of ``Archive``."""

from bisect import bisect_right

from perdure.replication.rows import FIRST_SHOWN, Image, Row, decode_row, encode_row
from perdure.replication.session import Session


class MemoryArchive:
    """Rows and bodies as bytes, so that what comes back is what was written."""

    def __init__(self) -> None:
        self.head = b""
        self.facts: dict[str, tuple[str, bytes]] = {}
        self.bodies: dict[str, bytes] = {}
        self.fetched = 0

    def save(self, image: Image) -> None:
        """Store what has changed."""
        self.head = image.head
        if image.wiped:
            self.facts.clear()
            self.bodies.clear()
        for id_ in image.dropped:
            self.facts.pop(id_, None)
            self.bodies.pop(id_, None)
        for row, body in image.messages:
            assert body is not None or row.id in self.bodies
            self.facts[row.id] = (row.serial, encode_row(row))
            if body is not None:
                self.bodies[row.id] = body

    def _sorted(self) -> list[Row]:
        rows = [decode_row(id_, *facts) for id_, facts in self.facts.items()]
        return sorted(rows, key=lambda row: row.serial)

    def row(self, id_: str) -> Row | None:
        facts = self.facts.get(id_)
        return None if facts is None else decode_row(id_, *facts)

    def rows(self, slot: int) -> list[Row]:
        return [row for row in self._sorted() if row.slot == slot]

    def newest(self, before: str | None, limit: int) -> list[Row]:
        rows = [row for row in self._sorted() if row.serial >= FIRST_SHOWN]
        rows = [row for row in rows if before is None or row.serial < before]
        return rows[::-1][:limit]

    def after(self, serial: str, limit: int) -> list[Row]:
        rows = self._sorted()
        start = bisect_right([row.serial for row in rows], serial)
        return rows[start : start + limit]

    def open_runs(self) -> list[Row]:
        return [row for row in self._sorted() if row.is_open_run]

    def body(self, id_: str) -> bytes | None:
        self.fetched += 1
        return self.bodies.get(id_)

    def missing(self) -> None:
        """It never is."""
        raise AssertionError("something that was stored is not there")


def store(session: Session, archive: MemoryArchive) -> None:
    """Store the session; what is stored may leave memory."""
    archive.save(session.image({}))
    session.messages.stored(archive)


def wake(session: Session, archive: MemoryArchive) -> Session:
    """The session as it comes back from the archive."""
    return Session(session.id, archive, archive.head)


def unload(session: Session) -> None:
    """Let every message leave memory that is stored as it is."""
    for id_, _ in session.messages.items():
        if id_ not in session.messages.dirty:
            session.messages.unload(id_)
