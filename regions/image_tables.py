"""The images of sessions in SQLite: one row a session, one row a message, each with its checksum.

What is damaged is counted, put into quarantine, and left out: nobody is shown it or sent it.
"""

import json
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from perdure.regions.cipher import Clear
from perdure.regions.log_tables import meta, put_meta, sealed, unsealed
from perdure.regions.ports import Stored
from perdure.replication.errors import Damaged
from perdure.replication.ids import bucket, slot
from perdure.replication.rows import FIRST_SHOWN, Image, Row, decode_row, encode_row
from perdure.replication.tenants import Range, is_session
from perdure.replication.totals import recount
from sqlalchemy import Connection

BUCKETS = 4_096
_TERM_BYTES = 8
_TERM_MASK = 2**64 - 1
_SUMS = "sums"
_ROW_COLUMNS = "number, slot, id, serial, facts, facts_crc"

Quarantine = Callable[[str, int, str], None]
Query = Callable[[Connection], Any]
# Carries out a query; raises ``StorageFailed`` when the disk cannot be read.
Look = Callable[[Query], Any]


def term_of(digest: bytes) -> int:
    """What a session of this digest adds to the sum of its bucket."""
    return int.from_bytes(digest[:_TERM_BYTES], "big")


def _crc(session: str, id_: str, *parts: bytes) -> int:
    crc = zlib.crc32(_bytes(f"{session}/{id_}/"))
    for part in parts:
        crc = zlib.crc32(part, crc)
    return crc


def _bytes(text: str) -> bytes:
    """A text as it is stored, also when it is no text any more."""
    return text.encode("utf-8", "surrogateescape")


class StoredMessages:
    """The stored messages of one session, read at once."""

    def __init__(
        self, look: Look, cipher: Clear, session: str, number: int, quarantine: Quarantine
    ) -> None:
        self._look = look
        self._cipher = cipher
        self._session = session
        self._number = number
        self._quarantine = quarantine

    def _select(self, where: str, *values: object) -> list[Row]:
        # S608: both parts stand in this file, values are parameters
        select = f"SELECT {_ROW_COLUMNS} FROM message WHERE session = ? AND {where}"  # noqa: S608
        found = self._look(lambda c: c.exec_driver_sql(select, (self._number, *values)).all())
        return [row for columns in found if (row := self._row(*columns)) is not None]

    def _row(
        self, number: int, place: int, id_: str, serial: str, facts: bytes, crc: int
    ) -> Row | None:
        facts, crc = self._cipher.get(("message", self._session, id_, "facts"), facts, crc)
        try:
            if _crc(self._session, id_, _bytes(serial), facts) != crc or slot(id_) != place:
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

    def open_runs(self) -> list[Row]:
        """Rows of the runs that are not over."""
        return [row for row in self._select("open") if row.is_open_run]

    def body(self, id_: str) -> bytes | None:
        """The body of a message; None where it is damaged."""
        select = (
            "SELECT number, CAST(body AS BLOB), body_crc FROM message"
            " WHERE session = ? AND slot = ? AND id = ?"
        )
        values = (self._number, slot(id_), id_)
        found = self._look(lambda c: c.exec_driver_sql(select, values).one_or_none())
        if found is None:
            return None
        number, body, crc = found
        body, crc = self._cipher.get(("message", self._session, id_, "body"), body, crc)
        if _crc(self._session, id_, body) != crc:
            self._quarantine("body", number, f"{self._session}/{id_}")
            return None
        data: bytes = body
        return data

    def missing(self) -> None:
        """Something that was stored is not there."""
        self._quarantine("missing", self._number, self._session)


def load(look: Look, cipher: Clear, id_: str, quarantine: Quarantine) -> Stored | None:
    """A session that has been stored."""
    select = (
        "SELECT number, CAST(digest AS BLOB), present, CAST(summary AS BLOB),"
        " CAST(head AS BLOB), crc FROM session WHERE id = ?"
    )
    found = look(lambda connection: connection.exec_driver_sql(select, (id_,)).one_or_none())
    if found is None:
        return None
    number, digest, present, summary, head, crc = found
    digest = cipher.get(("session", id_, "digest"), digest)[0]
    summary = cipher.get(("session", id_, "summary"), summary)[0]
    head, crc = cipher.get(("session", id_, "head"), head, crc)
    archive = StoredMessages(look, cipher, id_, number, quarantine)
    if _crc(id_, "", digest, summary, head) != crc:
        quarantine("head", number, id_)
        head = None
    return Stored(archive, head, term_of(digest), bool(present))


def page(
    connection: Connection, cipher: Clear, among: Range, limit: int
) -> list[tuple[str, bytes]]:
    """Names and summaries of stored sessions that exist, by name; those with a tenant, or those
    without, as the range itself."""
    found: list[tuple[str, bytes]] = []
    rows = connection.exec_driver_sql(
        "SELECT id, CAST(summary AS BLOB) FROM session WHERE present AND id >= ? AND id < ?"
        " AND (instr(id, ':') > 0) = ? ORDER BY id",
        (*among, ":" in among.first),
    )
    for id_, blob in rows:
        summary = cipher.get(("session", id_, "summary"), blob)[0]
        if is_session(id_) and summary:
            found.append((id_, summary))
            if len(found) >= limit:
                rows.close()
                break
    return found


def active(connection: Connection) -> list[str]:
    """The ids of the stored sessions of which some run is not over."""
    rows = connection.exec_driver_sql(
        "SELECT id FROM session WHERE number IN (SELECT session FROM message WHERE open)"
        " ORDER BY id"
    )
    return [id_ for (id_,) in rows if is_session(id_)]


def tenants(connection: Connection) -> dict[str, int]:
    """How many sessions exist, of each tenant; those whose names are damaged are none, and the
    regions' own are nobody's."""
    rows = connection.exec_driver_sql(
        "SELECT substr(id, 1, max(instr(id, ':') - 1, 0)) AS tenant, count(*)"
        " FROM session WHERE present AND id NOT GLOB '*[^A-Za-z0-9._~:-]*' AND id NOT GLOB ':*'"
        " GROUP BY tenant"
    )
    return {str(tenant): int(count) for tenant, count in rows}


def in_buckets(connection: Connection, cipher: Clear, numbers: Sequence[int]) -> dict[str, bytes]:
    """The digests of the stored sessions of some buckets."""
    found: dict[str, bytes] = {}
    for number in numbers:
        rows = connection.exec_driver_sql(
            "SELECT id, digest FROM session WHERE bucket = ?", (number,)
        )
        for id_, blob in rows:
            digest = cipher.get(("session", id_, "digest"), blob)[0]
            if is_session(id_) and digest:
                found[id_] = digest
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

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sums) and (self.count, self.sums) == (other.count, other.sums)

    def put(self, connection: Connection, cipher: Clear) -> None:
        """Store them."""
        put_meta(connection, cipher, _SUMS, sealed(json.dumps([self.count, self.sums])))

    @classmethod
    def count_all(cls, connection: Connection, cipher: Clear) -> "Sums":
        """From every session, where a damaged one has spoilt what was stored."""
        sums = cls()
        rows = connection.exec_driver_sql("SELECT id, CAST(digest AS BLOB), present FROM session")
        for id_, blob, present in rows:
            if is_session(id_):
                digest = cipher.get(("session", id_, "digest"), blob)[0]
                sums.replace(id_, (0, False), (term_of(digest), bool(present)))
        return sums

    @classmethod
    def stored(cls, connection: Connection, cipher: Clear) -> "Sums | None":
        """As they were stored; None when they are damaged."""
        data = meta(connection, cipher).get(_SUMS)
        text = None if data is None else unsealed(data)
        if text is None:
            return None if data is not None else cls()
        count, sums = json.loads(text)
        return cls(count, sums)


def save(connection: Connection, cipher: Clear, image: Image, sums: Sums) -> None:
    """Write one image, in the caller's transaction."""
    found = connection.exec_driver_sql(
        "SELECT number, digest, present FROM session WHERE id = ?", (image.session,)
    ).one_or_none()
    before = (0, False)
    if found is not None:
        digest = cipher.get(("session", image.session, "digest"), found[1])[0]
        before = (term_of(digest), bool(found[2]))
    sums.replace(image.session, before, (term_of(image.digest), image.exists))
    columns = _session_columns(cipher, image)
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
    _save_messages(connection, cipher, image, number)


def _session_columns(cipher: Clear, image: Image) -> tuple[bytes, bool, bytes, bytes, int]:
    id_ = image.session
    crc = _crc(id_, "", image.digest, image.summary, image.head)
    digest, _ = cipher.put(("session", id_, "digest"), image.digest)
    summary, _ = cipher.put(("session", id_, "summary"), image.summary)
    return digest, image.exists, summary, *cipher.put(("session", id_, "head"), image.head, crc)


def _save_messages(connection: Connection, cipher: Clear, image: Image, number: int) -> None:
    if image.wiped:
        connection.exec_driver_sql("DELETE FROM message WHERE session = ?", (number,))
    for id_ in image.dropped:
        connection.exec_driver_sql(
            "DELETE FROM message WHERE session = ? AND slot = ? AND id = ?",
            (number, slot(id_), id_),
        )
    whole = [
        (
            number,
            *_columns(cipher, image.session, row),
            *cipher.put(
                ("message", image.session, row.id, "body"),
                body,
                _crc(image.session, row.id, body),
            ),
        )
        for row, body in image.messages
        if body is not None
    ]
    if whole:
        connection.exec_driver_sql(
            "INSERT INTO message (session, slot, id, serial, facts, facts_crc, open, body,"
            " body_crc) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (session, slot, id)"
            " DO UPDATE SET serial = excluded.serial, facts = excluded.facts,"
            " facts_crc = excluded.facts_crc, open = excluded.open, body = excluded.body,"
            " body_crc = excluded.body_crc",
            whole,
        )
    for row, body in image.messages:
        if body is None:
            slot_, id_, *facts = _columns(cipher, image.session, row)
            connection.exec_driver_sql(
                "UPDATE message SET serial = ?, facts = ?, facts_crc = ?, open = ?"
                " WHERE session = ? AND slot = ? AND id = ?",
                (*facts, number, slot_, id_),
            )


def _columns(cipher: Clear, session: str, row: Row) -> tuple[int, str, str, bytes, int, bool]:
    facts = encode_row(row)
    crc = _crc(session, row.id, row.serial.encode(), facts)
    stored = cipher.put(("message", session, row.id, "facts"), facts, crc)
    return row.slot, row.id, row.serial, *stored, row.is_open_run


def scrub(
    connection: Connection, cipher: Clear, after: int, sessions: int
) -> tuple[int, list[tuple[str, int, str]]]:
    """Compare some sessions with their checksums and totals: the last number, 0 when there are no
    more; and what is damaged, as (what, row, name)."""
    rows = connection.exec_driver_sql(
        "SELECT number, id FROM session WHERE number > ? ORDER BY number LIMIT ?",
        (after, sessions),
    ).all()
    damaged: list[tuple[str, int, str]] = []
    for number, id_ in rows:
        if is_session(id_):
            damaged += _scrub_session(connection, cipher, number, id_)
        else:
            damaged.append(("lost", number, id_))
    if len(rows) == sessions:
        return rows[-1][0], damaged
    if Sums.stored(connection, cipher) != Sums.count_all(connection, cipher):
        # A session is gone, or has another name: by the sums nobody would ever miss it.
        damaged.append(("sums", 0, ""))
    return 0, damaged


def _scrub_session(
    connection: Connection, cipher: Clear, number: int, id_: str
) -> list[tuple[str, int, str]]:
    damaged: list[tuple[str, int, str]] = []

    def note(what: str, row: int, name: str) -> None:
        damaged.append((what, row, name))

    def look(query: Query) -> Any:
        return query(connection)

    stored = load(look, cipher, id_, note)
    if stored is None or stored.head is None:
        return damaged
    head = json.loads(stored.head)
    if stored.present != (head["created"] is not None and not head["deleted"]):
        note("head", number, id_)
    bodies = connection.exec_driver_sql(
        "SELECT number, id, CAST(body AS BLOB), body_crc FROM message WHERE session = ?", (number,)
    )
    for row, message, body, crc in bodies:
        body, crc = cipher.get(("message", id_, message, "body"), body, crc)
        if _crc(id_, message, body) != crc:
            note("body", row, f"{id_}/{message}")
    found = recount(StoredMessages(look, cipher, id_, number, note))
    if not head["deleted"] and head["totals"][:5] != list(found[:5]):
        note("missing", number, id_)
    return damaged
