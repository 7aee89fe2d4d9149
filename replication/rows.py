"""What is stored of a session besides the bodies of its messages: a row a message, and a head."""

import json
from typing import NamedTuple, Protocol

from perdure.replication.errors import Damaged
from perdure.replication.ids import canonical, slot
from perdure.replication.records import Vector, parse_origin

# Sorts before every serial, which begins with a hexadecimal digit.
_BURIED = "-"
_HIDDEN = "."


class Row(NamedTuple):
    """What is at hand of a stored message. ``serial`` sorts the rows of a session: deleted messages
    first, then those whose header is not known, then those that are shown."""

    id: str
    serial: str
    tag: int
    counter: int
    status: str
    length: int
    content: int
    whole: int
    settled: bool
    over: bool
    arrived: int
    reach: Vector
    # Whether it is a run.
    run: bool = False

    @property
    def is_open_run(self) -> bool:
        """Whether it is a run that is not over."""
        return self.run and self.status == "streaming"

    @property
    def is_buried(self) -> bool:
        """Whether the message was deleted."""
        return self.serial[0] == _BURIED

    @property
    def is_shown(self) -> bool:
        """Whether readers see the message."""
        return self.serial[0] > _HIDDEN

    @property
    def slot(self) -> int:
        """The 32-bit name of the message in cursors."""
        return slot(self.id)


FIRST_SHOWN = "0"
# Between those that are shown and the others.
BEFORE_SHOWN = "/"


class Archive(Protocol):
    """The stored messages of one session. What is damaged is left out, and told of elsewhere."""

    def row(self, id_: str) -> Row | None:
        """The row of a message."""

    def rows(self, slot: int) -> list[Row]:
        """The rows of a slot."""

    def newest(self, before: str | None, limit: int) -> list[Row]:
        """Rows of shown messages before a serial, the newest first."""

    def after(self, serial: str, limit: int) -> list[Row]:
        """Rows of every kind after a serial, in their order."""

    def open_runs(self) -> list[Row]:
        """Rows of the runs that are not over."""

    def body(self, id_: str) -> bytes | None:
        """The body of a message; None where it is damaged."""

    def missing(self) -> None:
        """Something that was stored is not there."""


class Image(NamedTuple):
    """What is to be stored of a session: its head, and the messages that have changed (those whose
    body is None with the body that is stored already)."""

    session: str
    digest: bytes
    exists: bool
    summary: bytes
    head: bytes
    messages: list[tuple[Row, bytes | None]]
    # Messages whose rows are to go, and whether all rows are to go first.
    dropped: list[str]
    wiped: bool


def encode_row(row: Row) -> bytes:
    """What of a row is not in columns of its own."""
    reach = {str(origin): lsn for origin, lsn in row.reach.items()}
    run = [True] if row.run else []
    return canonical([*row[2:7], f"{row.whole:x}", *row[8:11], reach, *run]).encode()


def decode_row(id_: str, serial: str, facts: bytes) -> Row:
    """The row again; ``Damaged`` for anything else."""
    try:
        tag, counter, status, length, content, whole, *rest = json.loads(facts)
        settled, over, arrived, reach, *run = rest
        places = {parse_origin(origin): lsn for origin, lsn in reach.items()}
        shown = (tag, counter, status, length, content)
        return Row(id_, serial, *shown, int(whole, 16), settled, over, arrived, places, bool(run))
    except (ValueError, TypeError, AttributeError) as error:
        raise Damaged(f"the row of message {id_} is none") from error


def hidden_serial(id_: str) -> str:
    """The sort key of a message whose header is not known."""
    return _HIDDEN + id_


def buried_row(id_: str, content: int, arrived: int) -> Row:
    """The row of a deleted message; ``content`` is what it showed."""
    return Row(id_, _BURIED + id_, 0, 0, "", 0, content, 0, True, True, arrived, {})
