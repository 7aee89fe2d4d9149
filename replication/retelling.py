"""A whole session as pieces that another region can absorb, each small enough for a frame.

Rule of this file: the pieces say the same as the operations that made the session, so merging them
is idempotent and loses nothing of what the other region alone has. They are fuzzy: what changes
while they are told may be in them or not, and reaches the other region by the logs.
"""

from collections.abc import Iterable, Iterator

from perdure.replication.errors import Damaged
from perdure.replication.images import origins_of, retell
from perdure.replication.items import entry_bytes
from perdure.replication.limits import ITEMS_BYTES_TARGET
from perdure.replication.operations import Absorb, Delete, Items, Open, Origins, Single
from perdure.replication.rows import Row
from perdure.replication.session import Session

PAGE_ROWS = 64
_OVERHEAD_BYTES = 256


def tell(session: Session, region: str) -> Iterator[Absorb]:
    """All of a session, which must have been stored; ``region`` is who tells it.

    What is found damaged on the way is left out: it is not for others.
    """
    told, size = session.retell_head(region), 0
    origins: list[Origins] = []
    for row in _rows(session):
        for operation in _of_row(session, row, origins):
            told.append(operation)
            size += _size(operation)
            if size >= ITEMS_BYTES_TARGET:
                yield Absorb(session.id, tuple(told), tuple(origins))
                told, origins, size = [], [], 0
    if told or origins:
        yield Absorb(session.id, tuple(told), tuple(origins))
    for operation in session.documents.retell(session.id):
        yield Absorb(session.id, (operation,), ())


def _rows(session: Session) -> Iterator[Row]:
    after = ""
    while rows := session.messages.stored_after(after, PAGE_ROWS):
        yield from rows
        after = rows[-1].serial


def _of_row(session: Session, row: Row, origins: list[Origins]) -> Iterable[Single]:
    if row.is_buried or session.messages.is_buried(row.id):
        return [Delete(session.id, row.id)]
    message = session.messages.peek(row.id)
    if message is None:
        return []
    try:
        operations = list(retell(message))
    except Damaged:
        session.messages.lose(row.id)
        return []
    origins.append(origins_of(message))
    return operations


def _size(operation: Single) -> int:
    entries = operation.entries if isinstance(operation, Items) else ()
    if isinstance(operation, Open):
        entries = operation.header.entries
    return _OVERHEAD_BYTES + sum(len(entry_bytes(entry)) for entry in entries)
