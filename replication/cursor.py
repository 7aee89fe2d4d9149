"""The cursor: where a reader stands in a session, as a short text valid in every region.

Layout in ``docs/PROTOCOL.md`` A.6. It says what the reader was *told*: explicitly for each message
that is not settled (at most 16, the newest), and as a count and a digest for the rest. It carries
no authority: a forged cursor gets its sender nothing but a snapshot of what it may read anyway.
"""

import base64
import binascii
from typing import NamedTuple

from perdure.replication.errors import Refusal
from perdure.replication.items import STATUSES
from perdure.replication.limits import (
    CURSOR_CHARS_MAX,
    CURSOR_ENTRIES_HELD_MAX,
    EPOCH_COUNTER_MAX,
    MESSAGE_ITEMS_MAX,
)

_VERSION = 1
DIGEST_BITS = 40
DIGEST_MASK = (1 << DIGEST_BITS) - 1
_COUNT_MAX = 2**40
# A chain of claims can show more items than one lane may hold.
_LENGTH_MAX = MESSAGE_ITEMS_MAX * 1_000


class Entry(NamedTuple):
    """What a reader was told of one message: ``length`` items of it, last of lane ``tag``."""

    slot: int
    tag: int
    counter: int
    status: str
    length: int


class Position(NamedTuple):
    """A decoded cursor: ``session`` is the 16-bit tag of the session it was made for, ``rest`` and
    ``digest`` the number and the digest of the messages that ``entries`` do not name."""

    session: int
    entries: tuple[Entry, ...]
    rest: int
    digest: int


def encode(position: Position) -> str:
    """The text of a position."""
    raw = bytearray([_VERSION << 5 | len(position.entries)])
    raw += position.session.to_bytes(2, "big")
    _put(raw, position.rest)
    raw += position.digest.to_bytes(5, "big")
    for entry in position.entries:
        raw += entry.slot.to_bytes(4, "big")
        raw += entry.tag.to_bytes(4, "big")
        _put(raw, entry.counter << 2 | STATUSES.index(entry.status))
        _put(raw, entry.length)
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _put(raw: bytearray, number: int) -> None:
    while number > 0x7F:
        raw.append(0x80 | (number & 0x7F))
        number >>= 7
    raw.append(number)


class _Bytes:
    """Reads a cursor's bytes and refuses every other way of writing the same numbers."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._at = 0

    def fixed(self, size: int) -> int:
        chunk = self._raw[self._at : self._at + size]
        if len(chunk) < size:
            raise ValueError("too short")
        self._at += size
        return int.from_bytes(chunk, "big")

    def varint(self, most: int) -> int:
        number = shift = 0
        while True:
            byte = self.fixed(1)
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                if number > most or (shift and not byte):
                    raise ValueError("out of range")
                return number
            shift += 7
            if shift > 63:
                raise ValueError("too long")

    def finish(self) -> None:
        if self._at != len(self._raw):
            raise ValueError("too long")


def decode(text: str) -> Position:
    """The position of a cursor; ``Refusal`` ``invalid_cursor`` for every other text."""
    try:
        if len(text) > CURSOR_CHARS_MAX:
            raise ValueError("too long")
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != text:
            raise ValueError("not canonical")
        return _decode(_Bytes(raw))
    except (ValueError, binascii.Error) as error:
        raise Refusal("invalid_cursor", "this is not a cursor of this service") from error


def _decode(source: _Bytes) -> Position:
    head = source.fixed(1)
    if head >> 5 != _VERSION or head & 0x1F > CURSOR_ENTRIES_HELD_MAX:
        raise ValueError("unknown version")
    session, count, digest = source.fixed(2), source.varint(_COUNT_MAX), source.fixed(5)
    entries: list[Entry] = []
    for _ in range(head & 0x1F):
        slot, tag = source.fixed(4), source.fixed(4)
        counter, status = divmod(source.varint(EPOCH_COUNTER_MAX << 2 | 3), 4)
        length = source.varint(_LENGTH_MAX)
        entries.append(Entry(slot, tag, counter, STATUSES[status], length))
    source.finish()
    if len({entry.slot for entry in entries}) < len(entries):
        raise ValueError("a message is named twice")
    return Position(session, tuple(entries), count, digest)
