"""How much a database on SQLite holds: what it costs to say so does not grow with that."""

from collections.abc import Mapping, Sequence

from perdure.regions.ports import OriginLog
from perdure.replication.records import Origin
from perdure.replication.rows import FIRST_SHOWN
from sqlalchemy import Connection

# By how many of the newest records of an origin the size of all is told.
_SAMPLED_ROWS = 1_000


def logs(connection: Connection, ids: Mapping[Origin, int]) -> list[OriginLog]:
    """How long the log of each origin is, by its first and last lsn; its bytes by the average of
    the newest records."""
    found = []
    for origin, id_ in ids.items():
        # Two queries: of one with both SQLite reads the whole log.
        first, last = (
            connection.exec_driver_sql(
                f"SELECT {which}(lsn) FROM log WHERE origin = ?",  # noqa: S608 - they stand here
                (id_,),
            ).scalar()
            for which in ("min", "max")
        )
        if first is None or last is None:
            continue
        count = last - first + 1
        average = connection.exec_driver_sql(
            "SELECT avg(length(body)) FROM (SELECT body FROM log WHERE origin = ?"
            " ORDER BY lsn DESC LIMIT ?)",
            (id_, _SAMPLED_ROWS),
        ).scalar()
        found.append(OriginLog(origin, count, int(count * (average or 0))))
    return found


def sizes(connection: Connection, ids: Sequence[str]) -> dict[str, tuple[int, str]]:
    """Bytes of the messages of each of these sessions, and the greatest serial that is shown."""
    found: dict[str, tuple[int, str]] = {}
    for id_ in ids:
        row = connection.exec_driver_sql(
            "SELECT SUM(LENGTH(m.facts) + LENGTH(m.body)), MAX(m.serial) FROM session s"
            " JOIN message m ON m.session = s.number WHERE s.id = ?",
            (id_,),
        ).one()
        serial = row[1] or ""
        found[id_] = (row[0] or 0, serial if serial >= FIRST_SHOWN else "")
    return found
