"""The messages of a session from the oldest on, a page at a time."""

from bisect import bisect_right

from perdure.replication.rows import BEFORE_SHOWN
from perdure.replication.session import Session
from perdure.replication.totals import id_of

# Sorts before every serial.
BEGINNING = BEFORE_SHOWN


def oldest_first(session: Session, after: str, limit: int) -> tuple[list[str], str]:
    """About ``limit`` shown messages after a serial, and the serial to go on after; none at the
    end. What changes meanwhile is there as it was, or as it is then."""
    shelf = session.messages
    window = shelf.order[0] if shelf.order else None
    while shelf.older and (window is None or after < window):
        rows = shelf.stored_after(after, limit)
        # What is in the window as well is told of there.
        older = [row for row in rows if window is None or row.serial < window]
        if not older:
            break
        after = older[-1].serial
        ids = [row.id for row in older if row.is_shown and row.id not in shelf.tombstones]
        if ids:
            return ids, after
    found = shelf.order[bisect_right(shelf.order, after) :][:limit]
    return [id_of(serial) for serial in found], found[-1] if found else after
