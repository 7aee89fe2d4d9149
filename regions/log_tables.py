"""The origin logs in SQLite, and the few facts that belong to the database as a whole."""

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence

from perdure.regions.cipher import Clear
from perdure.regions.ports import Mark
from perdure.replication.records import Origin, Record, Vector, intact
from sqlalchemy import Connection

_READ_ROWS_MAX = 2_000
# A flipped bit may change the type of a value; cast, it is a wrong value, which the crc tells.
_RECORD_COLUMNS = "CAST(lsn AS INTEGER), CAST(body AS BLOB), CAST(crc AS INTEGER)"
# Which keys the rest is encrypted with; this alone never is.
KEY_RECORD = "encryption"
_WATERMARK = "watermark"
NOTE = "note:"


def origins(connection: Connection) -> dict[Origin, tuple[int, int, int]]:
    """Every origin: its number, floor, and what of it was held at the watermark."""
    rows = connection.exec_driver_sql("SELECT id, region, incarnation, floor, held FROM origin")
    return {
        Origin(region, int(incarnation, 16)): (id_, floor, held)
        for id_, region, incarnation, floor, held in rows
    }


def add_origin(connection: Connection, origin: Origin) -> int:
    """The number of a new origin."""
    row = connection.exec_driver_sql(
        "INSERT INTO origin (region, incarnation) VALUES (?, ?) RETURNING id",
        (origin.region, f"{origin.incarnation:016x}"),
    )
    number: int = row.scalar_one()
    return number


def append(
    connection: Connection,
    cipher: Clear,
    position: int,
    ids: Mapping[Origin, int],
    records: Sequence[Record],
) -> None:
    """Add records to the logs, from ``position`` on. One that comes again takes a new place: its
    first copy may have been damaged, and then nothing but the log has it."""
    rows = [
        (position + number, ids[origin], lsn, *cipher.put(("log", origin, lsn), body, crc))
        for number, (origin, lsn, body, crc) in enumerate(records)
    ]
    connection.exec_driver_sql(
        "INSERT INTO log (position, origin, lsn, body, crc) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (origin, lsn) DO UPDATE SET position = excluded.position,"
        " body = excluded.body, crc = excluded.crc",
        rows,
    )


def tail(
    connection: Connection, cipher: Clear, after: int, origins: Mapping[int, Origin]
) -> Iterator[tuple[int, int, Record | None]]:
    """The records after a position, in order of arrival: (position, origin, the record or, where it
    is damaged, None)."""
    # S608: the columns stand in this file
    rows = connection.execution_options(stream_results=True).exec_driver_sql(
        f"SELECT position, origin, {_RECORD_COLUMNS} FROM log WHERE position > ?"  # noqa: S608
        " ORDER BY position",
        (after,),
    )
    for position, id_, *columns in rows:
        yield position, id_, _record(cipher, origins.get(id_), *columns)


def read(
    connection: Connection,
    cipher: Clear,
    origin: Origin,
    id_: int,
    after_lsn: int,
    bytes_max: int,
) -> list[Record]:
    """Records of an origin without a gap, about so many bytes; stops before a damaged one."""
    # S608: the columns stand in this file
    rows = connection.exec_driver_sql(
        f"SELECT {_RECORD_COLUMNS} FROM log WHERE origin = ? AND lsn > ?"  # noqa: S608
        " ORDER BY lsn LIMIT ?",
        (id_, after_lsn, _READ_ROWS_MAX),
    )
    records: list[Record] = []
    size = 0
    for columns in rows:
        record = _record(cipher, origin, *columns)
        expected = after_lsn + len(records) + 1
        if record is None or record.lsn != expected or (records and size >= bytes_max):
            break
        records.append(record)
        size += len(record.body)
    return records


def _record(
    cipher: Clear, origin: Origin | None, lsn: int | None, body: bytes | None, crc: int | None
) -> Record | None:
    """The record of a row; None when it is damaged."""
    if origin is None or lsn is None or body is None or crc is None:
        return None
    record = Record(origin, lsn, *cipher.get(("log", origin, lsn), body, crc))
    return record if intact(record) else None


def set_floor(connection: Connection, id_: int, lsn: int) -> None:
    """The log of this origin begins after ``lsn``; everything up to there is in images."""
    connection.exec_driver_sql(
        "UPDATE origin SET floor = MAX(floor, ?), held = MAX(held, ?) WHERE id = ?",
        (lsn, lsn, id_),
    )


def set_held(connection: Connection, ids: Mapping[Origin, int], vector: Vector) -> None:
    """What of each origin is held at the watermark."""
    rows = [(lsn, ids[origin]) for origin, lsn in vector.items() if origin in ids]
    if rows:
        connection.exec_driver_sql("UPDATE origin SET held = ? WHERE id = ?", rows)


def delete(connection: Connection, id_: int, lsn: int, rows_max: int) -> int:
    """Let go of some of the records of an origin up to ``lsn``; how many."""
    result = connection.exec_driver_sql(
        "DELETE FROM log WHERE position IN (SELECT position FROM log"
        " WHERE origin = ? AND lsn <= ? LIMIT ?)",
        (id_, lsn, rows_max),
    )
    return result.rowcount


def meta(connection: Connection, cipher: Clear) -> dict[str, bytes]:
    """What is remembered of the database as a whole; what cannot be decrypted is empty."""
    rows = connection.exec_driver_sql(
        "SELECT key, CAST(value AS BLOB) FROM meta WHERE key != ?", (KEY_RECORD,)
    )
    return {key: cipher.get(("meta", key), bytes(value))[0] for key, value in rows}


def watermark(meta: Mapping[str, bytes]) -> tuple[int, int, int]:
    """Position, bytes of the log and reading of the clock up to which everything is in images.
    Where that is damaged, all that is left of the log is replayed."""
    text = unsealed(meta.get(_WATERMARK, b""))
    position, log_bytes, hlc = json.loads(text or "[0, 0, 0]")
    return position, log_bytes, hlc


def set_watermark(
    connection: Connection, cipher: Clear, ids: Mapping[Origin, int], mark: Mark
) -> None:
    """Up to here everything is in images."""
    text = json.dumps([mark.position, mark.log_bytes, mark.hlc])
    put_meta(connection, cipher, _WATERMARK, sealed(text))
    set_held(connection, ids, mark.vector)


def notes(meta: Mapping[str, bytes]) -> dict[str, str]:
    """The small things of which :func:`put_note` told."""
    found = {key: value for key, value in meta.items() if key.startswith(NOTE) and value}
    return {key.removeprefix(NOTE): value.decode() for key, value in found.items()}


def put_note(connection: Connection, cipher: Clear, name: str, text: str) -> None:
    """Remember a small thing; an empty text forgets it."""
    put_meta(connection, cipher, NOTE + name, text.encode())


def sealed(text: str) -> bytes:
    """A text with its checksum before it."""
    return f"{zlib.crc32(text.encode()):08x} {text}".encode()


def unsealed(data: bytes) -> str | None:
    """The text; None when it is damaged."""
    crc, _, text = data.decode(errors="replace").partition(" ")
    return text if crc == f"{zlib.crc32(text.encode()):08x}" else None


def put_meta(connection: Connection, cipher: Clear, key: str, value: bytes) -> None:
    """Remember something; nothing forgets it."""
    if not value:
        connection.exec_driver_sql("DELETE FROM meta WHERE key = ?", (key,))
    else:
        connection.exec_driver_sql(
            "INSERT INTO meta (key, value) VALUES (?, ?)"
            " ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            (key, cipher.put(("meta", key), value)[0]),
        )
