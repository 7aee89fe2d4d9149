"""The images of sessions in SQLite: one row a session, one row a message, each with its checksum.

What is damaged is counted, put into quarantine, and left out: nobody is shown it or sent it.
"""

import json
import zlib
from collections.abc import Callable, Iterable, Sequence

from perdure.regions.ports import Stored
from perdure.replication.errors import Damaged
from perdure.replication.ids import bucket, slot
from perdure.replication.rows import FIRST_SHOWN, Image, Row, decode_row, encode_row
from perdure.replication.totals import recount
from sqlalchemy import Connection

BUCKETS = 4_096
_TERM_BYTES = 8
_TERM_MASK = 2**64 - 1
_ROW_COLUMNS = "number, id, serial, facts, facts_crc"

Quarantine = Callable[[str, int, str], None]


def term_of(digest: bytes) -> int:
    """What a session of this digest adds to the sum of its bucket."""
    return int.from_bytes(digest[:_TERM_BYTES], "big")


def _crc(session: str, id_: str, *parts: bytes) -> int:
    crc = zlib.crc32(f"{session}/{id_}/".encode())
    for part in parts:
        crc = zlib.crc32(part, crc)
    return crc


class StoredMessages:
    """The stored messages of one session, read at once."""

    def __init__(
        self, connection: Connection, session: str, number: int, quarantine: Quarantine
    ) -> None:
        self._connection = connection
        self._session = session
        self._number = number
        self._quarantine = quarantine

    def _select(self, where: str, *values: object) -> list[Row]:
        found = self._connection.exec_driver_sql(
            f"SELECT {_ROW_COLUMNS} FROM message WHERE session = ? AND {where}",
            (self._number, *values),
        ).all()
        return [row for columns in found if (row := self._row(*columns)) is not None]

    def _row(self, number: int, id_: str, serial: str, facts: bytes, crc: int) -> Row | None:
        try:
            if _crc(self._session, id_, serial.encode(), facts) != crc:
                raise Damaged("not the row that was written")
            return decode_row(id_, serial, facts)
        except (Damaged, TypeError, AttributeError):
            self._quarantine("row", number, f"{self._session}/{id_}")
            return None

    def row(self, id_: str) -> Row | None:
        """The row of a message."""
        return next(iter(self._select("slot = ? AND id = ?", slot(id_), id_)), None)

    def rows(self, slot: int) -> list[Row]:
        """The rows of a slot."""
        return self._select("slot = ?", slot)

    def newest(self, before: str | None, limit: int) -> list[Row]:
        """Rows of shown messages before a serial, the newest first."""
        order = "ORDER BY serial DESC LIMIT ?"
        if before is None:
            return self._select(f"serial >= ? {order}", FIRST_SHOWN, limit)
        return self._select(f"serial >= ? AND serial < ? {order}", FIRST_SHOWN, before, limit)

    def after(self, serial: str, limit: int) -> list[Row]:
        """Rows of every kind after a serial, in their order."""
        return self._select("serial > ? ORDER BY serial LIMIT ?", serial, limit)

    def body(self, id_: str) -> bytes | None:
        """The body of a message; None where it is damaged."""
        found = self._connection.exec_driver_sql(
            "SELECT number, CAST(body AS BLOB), body_crc FROM message"
            " WHERE session = ? AND slot = ? AND id = ?",
            (self._number, slot(id_), id_),
        ).one_or_none()
        if found is None:
            return None
        number, body, crc = found
        if _crc(self._session, id_, body) != crc:
            self._quarantine("body", number, f"{self._session}/{id_}")
            return None
        data: bytes = body
        return data

    def missing(self) -> None:
        """Something that was stored is not there."""
        self._quarantine("missing", self._number, self._session)


def load(connection: Connection, id_: str, quarantine: Quarantine) -> Stored | None:
    """A session that has been stored."""
    found = connection.exec_driver_sql(
        "SELECT number, CAST(digest AS BLOB), present, CAST(summary AS BLOB),"
        " CAST(head AS BLOB), crc FROM session WHERE id = ?",
        (id_,),
    ).one_or_none()
    if found is None:
        return None
    number, digest, present, summary, head, crc = found
    archive = StoredMessages(connection, id_, number, quarantine)
    if _crc(id_, "", digest, summary, head) != crc:
        quarantine("head", number, id_)
        head = None
    return Stored(archive, head, term_of(digest), bool(present))


def page(connection: Connection, after: str | None, limit: int) -> list[tuple[str, bytes]]:
    """Ids and summaries of stored sessions that exist, by id."""
    rows = connection.exec_driver_sql(
        "SELECT id, summary FROM session WHERE present AND id > ? ORDER BY id LIMIT ?",
        (after or "", limit),
    )
    return [(id_, summary) for id_, summary in rows]


def in_buckets(connection: Connection, numbers: Sequence[int]) -> dict[str, bytes]:
    """The digests of the stored sessions of some buckets."""
    found: dict[str, bytes] = {}
    for number in numbers:
        rows = connection.exec_driver_sql(
            "SELECT id, digest FROM session WHERE bucket = ?", (number,)
        )
        found.update((id_, digest) for id_, digest in rows)
    return found


class Sums:
    """The sums of the buckets, and how many sessions exist: what ``verify`` needs of all of them.
    They are stored with the images, so a start need not look at every session."""

    def __init__(self, count: int = 0, sums: Sequence[int] = (0,) * BUCKETS) -> None:
        self.count = count
        self.sums = list(sums)

    def copy(self) -> "Sums":
        """The same, to be changed."""
        return Sums(self.count, self.sums)

    def replace(self, id_: str, before: tuple[int, bool], now: tuple[int, bool]) -> None:
        """A session's (term, present) changes."""
        number = bucket(id_, BUCKETS)
        self.sums[number] = (self.sums[number] + now[0] - before[0]) & _TERM_MASK
        self.count += now[1] - before[1]

    def encode(self) -> bytes:
        """As stored."""
        return json.dumps([self.count, self.sums]).encode()

    @classmethod
    def count_all(cls, connection: Connection) -> "Sums":
        """From every session, where a damaged one has spoilt what was stored."""
        sums = cls()
        rows = connection.exec_driver_sql("SELECT id, CAST(digest AS BLOB), present FROM session")
        for id_, digest, present in rows:
            sums.replace(id_, (0, False), (term_of(digest), bool(present)))
        return sums

    @classmethod
    def decode(cls, data: bytes) -> "Sums":
        """As it was stored."""
        count, sums = json.loads(data)
        return cls(count, sums)


def save(connection: Connection, image: Image, sums: Sums) -> None:
    """Write one image, in the caller's transaction."""
    found = connection.exec_driver_sql(
        "SELECT number, digest, present FROM session WHERE id = ?", (image.session,)
    ).one_or_none()
    before = (0, False) if found is None else (term_of(found[1]), bool(found[2]))
    sums.replace(image.session, before, (term_of(image.digest), image.exists))
    crc = _crc(image.session, "", image.digest, image.summary, image.head)
    columns = (image.digest, image.exists, image.summary, image.head, crc)
    if found is None:
        number = connection.exec_driver_sql(
            "INSERT INTO session (digest, present, summary, head, crc, id, bucket)"
            " VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING number",
            (*columns, image.session, bucket(image.session, BUCKETS)),
        ).scalar_one()
    else:
        number = found[0]
        connection.exec_driver_sql(
            "UPDATE session SET digest = ?, present = ?, summary = ?, head = ?, crc = ?"
            " WHERE number = ?",
            (*columns, number),
        )
    _save_messages(connection, image, number)


def _save_messages(connection: Connection, image: Image, number: int) -> None:
    if image.wiped:
        connection.exec_driver_sql("DELETE FROM message WHERE session = ?", (number,))
    for id_ in image.dropped:
        connection.exec_driver_sql(
            "DELETE FROM message WHERE session = ? AND slot = ? AND id = ?",
            (number, slot(id_), id_),
        )
    whole = [
        (number, *_columns(image.session, row), body, _crc(image.session, row.id, body))
        for row, body in image.messages
        if body is not None
    ]
    if whole:
        connection.exec_driver_sql(
            "INSERT INTO message (session, slot, id, serial, facts, facts_crc, body, body_crc)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (session, slot, id) DO UPDATE SET"
            " serial = excluded.serial, facts = excluded.facts, facts_crc = excluded.facts_crc,"
            " body = excluded.body, body_crc = excluded.body_crc",
            whole,
        )
    for row, body in image.messages:
        if body is None:
            slot_, id_, serial, facts, crc = _columns(image.session, row)
            connection.exec_driver_sql(
                "UPDATE message SET serial = ?, facts = ?, facts_crc = ?"
                " WHERE session = ? AND slot = ? AND id = ?",
                (serial, facts, crc, number, slot_, id_),
            )


def _columns(session: str, row: Row) -> tuple[int, str, str, bytes, int]:
    facts = encode_row(row)
    return row.slot, row.id, row.serial, facts, _crc(session, row.id, row.serial.encode(), facts)


def set_aside(connection: Connection, damaged: Iterable[tuple[str, int, str]]) -> None:
    """Move what was found damaged into quarantine, where somebody can look at it. A head and a
    record stay in their place until they are written anew."""
    for what, number, name in damaged:
        if what == "missing":
            continue
        table, key, crc, body = {
            "record": ("log", "position", "crc", "body"),
            "head": ("session", "number", "crc", "head"),
            "row": ("message", "number", "facts_crc", "facts"),
            "body": ("message", "number", "body_crc", "body"),
        }[what]
        connection.exec_driver_sql(
            f"INSERT INTO quarantine (what, name, crc, body)"
            f" SELECT ?, ?, {crc}, {body} FROM {table} WHERE {key} = ?",
            (what, name, number),
        )
        if table == "message":
            connection.exec_driver_sql("DELETE FROM message WHERE number = ?", (number,))


def scrub(
    connection: Connection, after: int, sessions: int
) -> tuple[int, list[tuple[str, int, str]]]:
    """Compare some sessions with their checksums and totals: the last number, 0 when there are no
    more; and what is damaged, as (what, row, name)."""
    rows = connection.exec_driver_sql(
        "SELECT number, id FROM session WHERE number > ? ORDER BY number LIMIT ?",
        (after, sessions),
    ).all()
    damaged: list[tuple[str, int, str]] = []
    for number, id_ in rows:
        damaged += _scrub_session(connection, number, id_)
    return (rows[-1][0] if len(rows) == sessions else 0), damaged


def _scrub_session(connection: Connection, number: int, id_: str) -> list[tuple[str, int, str]]:
    damaged: list[tuple[str, int, str]] = []

    def note(what: str, row: int, name: str) -> None:
        damaged.append((what, row, name))

    stored = load(connection, id_, note)
    if stored is None or stored.head is None:
        return damaged
    bodies = connection.exec_driver_sql(
        "SELECT number, id, CAST(body AS BLOB), body_crc FROM message WHERE session = ?", (number,)
    )
    for row, message, body, crc in bodies:
        if _crc(id_, message, body) != crc:
            note("body", row, f"{id_}/{message}")
    head = json.loads(stored.head)
    found = recount(StoredMessages(connection, id_, number, note))
    if not head["deleted"] and head["totals"][:5] != list(found[:5]):
        note("missing", number, id_)
    return damaged
