"""What was deleted, in SQLite: whether it is gone yet; and taking it out of the logs."""

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from perdure.regions.cipher import Clear
from perdure.regions.log_tables import meta, put_meta
from perdure.replication.coding import decode
from perdure.replication.erasure import Gone, deletions
from perdure.replication.errors import Malformed
from perdure.replication.lane import Place
from perdure.replication.records import Origin, Record, Vector, intact, seal
from perdure.replication.subjects import Deletion, Erasure, Subject
from sqlalchemy import Connection

# About so much of the logs is looked at in one step, and so many rows.
LOOK_BYTES_MAX = 4_194_304
LOOK_ROWS_MAX = 20_000
# Where the delete stands is not known, but it is behind the last jump.
_JUMPED = -1
_JUMPED_TO = "erasure:jumped"
# Says that what was deleted before anybody noted that is to be noted still.
_OLDER = "erasure:older"
_COLUMNS = "position, origin, CAST(lsn AS INTEGER), CAST(body AS BLOB), CAST(crc AS INTEGER)"


class Change(NamedTuple):
    """What is to stand at a position of the logs, as it is stored."""

    body: bytes
    crc: int
    position: int


def name_of(subject: Subject) -> str:
    """A subject in its session: empty for the session itself."""
    if subject.message is not None:
        return f"m/{subject.message}"
    return "" if subject.document is None else f"d/{subject.document}"


def _subject(session: str, name: str) -> Subject:
    kind, _, id_ = name.partition("/")
    return Subject(session, id_ if kind == "m" else None, id_ if kind == "d" else None)


def note(connection: Connection, ids: Mapping[Origin, int], deletions: Iterable[Deletion]) -> None:
    """Remember what is deleted, in the transaction that logs it. What has been gone is to be looked
    for again where its tombstone was lost meanwhile."""
    for subject, place, is_news, known_ms in deletions:
        origin, lsn = (None, 0) if place is None else (ids[place.origin], place.lsn)
        connection.exec_driver_sql(
            "INSERT INTO erasure (session, subject, known_ms, origin, lsn) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (session, subject) DO UPDATE SET"
            " lsn = CASE WHEN origin IS NULL AND excluded.origin IS NOT NULL"
            " THEN excluded.lsn ELSE lsn END,"
            " origin = COALESCE(origin, excluded.origin), erased = erased AND NOT ?",
            (subject.session, name_of(subject), known_ms, origin, lsn, is_news),
        )


def note_older(connection: Connection, cipher: Clear, ids: Mapping[Origin, int]) -> None:
    """Remember, once, what is deleted in images and by records that were stored before anybody
    noted that. Where that stands is not known of images: they have all that is held."""
    if _OLDER not in meta(connection, cipher):
        return
    origins = {id_: origin for origin, id_ in ids.items()}
    note(connection, ids, list(_logged(connection, cipher, origins)))
    found = connection.exec_driver_sql(
        "SELECT s.id, m.id FROM message AS m JOIN session AS s ON s.number = m.session"
        " WHERE m.serial LIKE '-%'"
    ).all()
    subjects = [Subject(session, message) for session, message in found]
    for session, head, crc in connection.exec_driver_sql(
        "SELECT id, CAST(head AS BLOB), CAST(crc AS INTEGER) FROM session WHERE NOT present"
    ).all():
        head, _ = cipher.get(("session", session, "head"), head, crc)
        if b'"deleted":true' in head:
            subjects.append(Subject(session))
    note(connection, ids, [Deletion(subject, None, True, 0) for subject in subjects])
    if subjects:
        held = connection.exec_driver_sql("SELECT id, MAX(floor, held) FROM origin").all()
        jumped(connection, cipher, ids, {origins[id_]: lsn for id_, lsn in held})
    put_meta(connection, cipher, _OLDER, b"")


def _logged(
    connection: Connection, cipher: Clear, origins: Mapping[int, Origin]
) -> Iterator[Deletion]:
    for id_, lsn, body, crc in connection.exec_driver_sql(
        "SELECT origin, CAST(lsn AS INTEGER), CAST(body AS BLOB), CAST(crc AS INTEGER) FROM log"
    ):
        with contextlib.suppress(Malformed, KeyError):
            content, _ = cipher.get(("log", origins[id_], lsn), body, crc)
            if content.startswith((b'["delete"', b'["discard"')):
                for subject in deletions(decode(content)):
                    yield Deletion(subject, Place(origins[id_], lsn), True, 0)


def waiting(connection: Connection, limit: int) -> list[Subject]:
    """Some of what is not gone yet."""
    rows = connection.exec_driver_sql(
        "SELECT session, subject FROM erasure WHERE NOT erased LIMIT ?", (limit,)
    )
    return [_subject(session, name) for session, name in rows]


def placeless(connection: Connection, known_ms: int, limit: int) -> list[Subject]:
    """Some of what was known to be deleted by then, and of which nobody knows where that stands."""
    rows = connection.exec_driver_sql(
        "SELECT session, subject FROM erasure WHERE origin IS NULL AND lsn = 0 AND known_ms <= ?"
        " ORDER BY known_ms LIMIT ?",
        (known_ms, limit),
    )
    return [_subject(session, name) for session, name in rows]


def find(
    connection: Connection, cipher: Clear, origins: Mapping[int, Origin], subject: Subject
) -> Erasure | None:
    """What is known of one subject; None: it was never deleted here."""
    row = connection.exec_driver_sql(
        "SELECT known_ms, origin, lsn, erased FROM erasure WHERE session = ? AND subject = ?",
        (subject.session, name_of(subject)),
    ).one_or_none()
    if row is None:
        return None
    known_ms, id_, lsn, erased = row
    places: Vector = {}
    if id_ in origins:
        places = {origins[id_]: lsn}
    elif lsn == _JUMPED:
        known = _jumped_to(connection, cipher)
        places = {origins[int(id_)]: at for id_, at in known.items() if int(id_) in origins}
    return Erasure(known_ms, places, bool(erased))


def _jumped_to(connection: Connection, cipher: Clear) -> dict[str, int]:
    known: dict[str, int] = json.loads(meta(connection, cipher).get(_JUMPED_TO) or b"{}")
    return known


def jumped(
    connection: Connection, cipher: Clear, ids: Mapping[Origin, int], vector: Vector
) -> None:
    """Whatever a peer has told of by now was deleted by what is behind these lsns. Where nothing is
    behind, that is no place: what has none is deleted once more."""
    if not vector:
        return
    known = _jumped_to(connection, cipher)
    for origin, lsn in vector.items():
        id_ = str(ids[origin])
        known[id_] = max(lsn, known.get(id_, 0))
    put_meta(connection, cipher, _JUMPED_TO, json.dumps(known).encode())
    connection.exec_driver_sql("UPDATE erasure SET lsn = ? WHERE origin IS NULL", (_JUMPED,))


def done(connection: Connection, subjects: Iterable[Subject]) -> None:
    """They are gone."""
    rows = [(subject.session, name_of(subject)) for subject in subjects]
    if rows:
        connection.exec_driver_sql(
            "UPDATE erasure SET erased = 1 WHERE session = ? AND subject = ?", rows
        )


# What the logs say of it


def look(
    connection: Connection,
    cipher: Clear,
    origins: Mapping[int, Origin],
    after: int,
    upto: int,
    gone: Gone,
) -> tuple[int, list[Change]]:
    """One step through the logs, after a position: where to go on, and what is to be changed. Of a
    damaged record nobody knows whose it was: it stays damaged, and becomes empty."""
    # S608: the columns stand in this file
    rows = connection.execution_options(stream_results=True).exec_driver_sql(
        f"SELECT {_COLUMNS} FROM log WHERE position > ? AND position <= ?"  # noqa: S608
        " ORDER BY position LIMIT ?",
        (after, upto, LOOK_ROWS_MAX),
    )
    changes: list[Change] = []
    size, last = 0, upto
    for count, (position, id_, lsn, stored, stored_crc) in enumerate(rows, 1):
        origin = origins.get(id_)
        if origin is not None and stored is not None:
            body, crc = cipher.get(("log", origin, lsn), stored, stored_crc)
            if not intact(Record(origin, lsn, body, crc)):
                if stored:
                    changes.append(Change(b"", stored_crc, position))
            elif (instead := gone.without(body)) is not None:
                put = cipher.put(("log", origin, lsn), *seal(origin, lsn, instead)[2:])
                changes.append(Change(*put, position))
        size += len(stored or b"")
        if size >= LOOK_BYTES_MAX or count == LOOK_ROWS_MAX:
            last = position
            break
    return last, changes


def change(connection: Connection, changes: Sequence[Change]) -> None:
    """Change these rows. No position is ever given twice, so each is still as it was, or gone."""
    connection.exec_driver_sql(
        "UPDATE log SET body = ?, crc = ? WHERE position = ?", list(map(tuple, changes))
    )


def clear_quarantine(connection: Connection, subjects: Iterable[Subject]) -> None:
    """Let go of what was put aside of them. Of a head whose name was damaged nobody knows whose it
    was, so it goes with the first session or document that does; and a record, with the first of
    anything."""
    for session, message, document in subjects:
        if message is not None:
            where, values = "name = ?", [f"{session}/{message}"]
        elif document is not None:
            where, values = "what = 'lost' OR (what = 'head' AND name = ?)", [session]
        else:
            where = "what = 'lost' OR name = ? OR substr(name, 1, length(?)) = ?"
            values = [session, f"{session}/", f"{session}/"]
        # S608: all parts stand here
        connection.exec_driver_sql(f"DELETE FROM quarantine WHERE {where}", tuple(values))  # noqa: S608
    connection.exec_driver_sql("DELETE FROM quarantine WHERE what = 'record'")
