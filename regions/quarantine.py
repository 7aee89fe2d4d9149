"""Where what was found damaged is kept, so that somebody can look at it."""

from collections.abc import Iterable

from perdure.regions.cipher import Clear
from sqlalchemy import Connection


def set_aside(
    connection: Connection, cipher: Clear, damaged: Iterable[tuple[str, int, str]]
) -> None:
    """Move what was found damaged into quarantine, where somebody can look at it. A head and a
    record stay in their place until they are written anew."""
    for what, number, name in damaged:
        if what in ("missing", "sums"):
            continue
        table, key, crc, body = {
            "lost": ("session", "number", "crc", "head"),
            "record": ("log", "position", "crc", "body"),
            "head": ("session", "number", "crc", "head"),
            "row": ("message", "number", "facts_crc", "facts"),
            "body": ("message", "number", "body_crc", "body"),
        }[what]
        found = connection.exec_driver_sql(
            f"SELECT CAST({body} AS BLOB), {crc} FROM {table} WHERE {key} = ?", (number,)
        ).one_or_none()
        if found is not None:
            into_quarantine(connection, cipher, what, name, *found)
        if what == "lost":
            # Nobody knows whose it was; what it was, the peers have.
            connection.exec_driver_sql("DELETE FROM message WHERE session = ?", (number,))
            connection.exec_driver_sql("DELETE FROM session WHERE number = ?", (number,))
        elif table == "message":
            connection.exec_driver_sql("DELETE FROM message WHERE number = ?", (number,))
    for what, number, _ in damaged:
        if what == "head":
            # Without a message it may be of a session that never was: its name is damaged.
            connection.exec_driver_sql(
                "DELETE FROM session WHERE number = ?"
                " AND NOT EXISTS (SELECT 1 FROM message WHERE session = ?)",
                (number, number),
            )


def into_quarantine(
    connection: Connection, cipher: Clear, what: str, name: str, blob: bytes, crc: int
) -> None:
    """Keep what was found damaged, as it was found."""
    number = connection.exec_driver_sql(
        "INSERT INTO quarantine (what, name) VALUES (?, ?) RETURNING number", (what, name)
    ).scalar_one()
    connection.exec_driver_sql(
        "UPDATE quarantine SET body = ?, crc = ? WHERE number = ?",
        (*cipher.put(("quarantine", number), blob, crc), number),
    )
