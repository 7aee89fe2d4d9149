"""Every blob of a database, rewritten in place, in transactions of a bounded size."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from perdure.regions.cipher import NO_CRC, Clear, Place
from perdure.regions.log_tables import KEY_RECORD
from perdure.regions.quarantine import into_quarantine
from sqlalchemy import Connection

# What one transaction rewrites: about so many bytes, and so many rows at most.
REKEY_BYTES_MAX = 1_048_576
REKEY_ROWS_MAX = 1_000

# What is to be stored instead of a blob and its checksum; None: it stays as it is. With ``NO_CRC``:
# it cannot be decrypted.
Rewrite = Callable[[Place, bytes, int], tuple[bytes, int] | None]


class Table(NamedTuple):
    """``names``: what of a row, beside a column's name where ``by_column``, makes the places of its
    blobs. ``blobs``: each column, and that of its checksum."""

    name: str
    key: str
    names: str
    blobs: tuple[tuple[str, str | None], ...]
    by_column: bool = False
    join: str = ""
    # What it is called in quarantine.
    what: tuple[str, ...] = ()

    def place(self, names: tuple[object, ...], column: str) -> Place:
        """The place of the blob in a column."""
        return (self.name, *names, column) if self.by_column else (self.name, *names)


# Quarantine first: what is put there on the way is not met again.
TABLES = (
    Table("quarantine", "number", "t.number", (("body", "crc"),)),
    Table(
        "log",
        "position",
        "o.region || '/' || o.incarnation, t.lsn",
        (("body", "crc"),),
        join="LEFT JOIN origin o ON o.id = t.origin",
        what=("record",),
    ),
    Table(
        "session",
        "number",
        "t.id",
        (("digest", None), ("summary", None), ("head", "crc")),
        by_column=True,
        what=("head", "head", "head"),
    ),
    Table(
        "message",
        "number",
        "s.id, t.id",
        (("facts", "facts_crc"), ("body", "body_crc")),
        by_column=True,
        join="LEFT JOIN session s ON s.number = t.session",
        what=("row", "body"),
    ),
    Table("meta", "key", "t.key", (("value", None),), what=("meta",)),
)


class Rewriting:
    """One way in which blobs are rewritten. ``kept``: how quarantine is stored afterwards;
    ``rewritten``, ``damaged``: how many blobs were, and could not be decrypted."""

    def __init__(self, rewrite: Rewrite, kept: Clear) -> None:
        self.rewritten = 0
        self.damaged = 0
        self._rewrite = rewrite
        self._kept = kept

    def some(
        self, connection: Connection, table: Table, after: int | str | None
    ) -> tuple[int, int | str | None]:
        """The next rows of a table, in the caller's transaction: how many, and the last of them; 0
        at the end."""
        rows = _next_rows(connection, table, after)
        changed = [
            (*columns, row[0])
            for row in rows
            if (columns := list(self._columns(connection, table, row)))
        ]
        if changed:
            columns = [column for blob in table.blobs for column in blob if column]
            sets = ", ".join(f"{column} = ?" for column in columns)
            connection.exec_driver_sql(
                f"UPDATE {table.name} SET {sets} WHERE {table.key} = ?", changed
            )
        return len(rows), rows[-1][0] if rows else after

    def _columns(self, connection: Connection, table: Table, row: Any) -> Iterator[object]:
        """What is to be stored in all columns of a row; nothing where it stays as it is."""
        width = 2 * len(table.blobs)
        names, stored = tuple(row[1:-width]), row[-width:]
        old = list(zip(stored[::2], stored[1::2], strict=True))
        new = [
            None if blob is None else self._rewrite(table.place(names, column), blob, crc or 0)
            for (column, _), (blob, crc) in zip(table.blobs, old, strict=True)
        ]
        if not any(new):
            return
        for number, (_, crc_column) in enumerate(table.blobs):
            found = new[number]
            self.rewritten += found is not None
            if found is not None and found[1] == NO_CRC:
                # Nobody can read it, and the peers have what it was: it stays damaged, without
                # bytes that somebody with the old key could read.
                self.damaged += 1
                if table.what:
                    name = "/".join(map(str, names))
                    into_quarantine(connection, self._kept, table.what[number], name, *old[number])
            blob, crc = found or old[number]
            yield blob
            if crc_column:
                yield crc


def count(connection: Connection, table: Table) -> int:
    """How many rows a table has."""
    rows: int = connection.exec_driver_sql(f"SELECT COUNT(*) FROM {table.name}").scalar_one()
    return rows


def _next_rows(connection: Connection, table: Table, after: int | str | None) -> list[Any]:
    """Some rows after a key: the key, the names, and each blob with its checksum."""
    where = f"t.{table.key} IS NOT '{KEY_RECORD}'"
    values: tuple[object, ...] = ()
    if after is not None:
        where, values = f"{where} AND t.{table.key} > ?", (after,)
    size = " + ".join(f"COALESCE(LENGTH(t.{column}), 0)" for column, _ in table.blobs)
    sizes = connection.exec_driver_sql(
        f"SELECT t.{table.key}, {size} FROM {table.name} t WHERE {where}"
        f" ORDER BY t.{table.key} LIMIT {REKEY_ROWS_MAX}",
        values,
    )
    last, total = None, 0
    for key, length in sizes:
        total += length
        if last is not None and total > REKEY_BYTES_MAX:
            break
        last = key
    sizes.close()
    if last is None:
        return []
    blobs = ", ".join(
        f"CAST(t.{column} AS BLOB), {f'CAST(t.{crc} AS INTEGER)' if crc else 'NULL'}"
        for column, crc in table.blobs
    )
    return list(
        connection.exec_driver_sql(
            f"SELECT t.{table.key}, {table.names}, {blobs} FROM {table.name} t {table.join}"
            f" WHERE {where} AND t.{table.key} <= ? ORDER BY t.{table.key}",
            (*values, last),
        ).all()
    )
