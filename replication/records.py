"""A record of an origin log: one operation, where it was first accepted, and its checksum.

A region is named for each start of its process by an *incarnation*, 64 random bits, so that a lost
or restored disk can never give an lsn twice.
"""

import re
import zlib
from collections.abc import Iterable
from typing import NamedTuple

from perdure.replication.errors import Malformed
from perdure.replication.ids import is_id

INCARNATION_MAX = 2**64 - 1
LSN_MAX = 2**62
# int() alone would take "0x", signs, spaces and underscores: several texts for one origin.
_INCARNATION = re.compile(r"[0-9a-f]{16}", re.ASCII)


class Origin(NamedTuple):
    """A region and one start of its process."""

    region: str
    incarnation: int

    def __str__(self) -> str:
        return f"{self.region}/{self.incarnation:016x}"


class Record(NamedTuple):
    """The operation ``body`` at ``lsn`` (dense, from 1) of the log of ``origin``."""

    origin: Origin
    lsn: int
    body: bytes
    crc: int


Vector = dict[Origin, int]

# Where a region logs what it has absorbed of another's sessions. It is no origin: what stands there
# is never gossiped, and has no place in a vector.
ABSORBED = Origin("~", 0)


def parse_origin(text: object) -> Origin:
    """The origin of ``<region>/<16 hex digits>``; ``Malformed`` for anything else."""
    if not isinstance(text, str):
        raise Malformed("not an origin")
    region, _, incarnation = text.partition("/")
    if not is_id(region) or not _INCARNATION.fullmatch(incarnation):
        raise Malformed("not an origin")
    return Origin(region, int(incarnation, 16))


def checksum(origin: Origin, lsn: int, body: bytes) -> int:
    """CRC-32 over the origin, the lsn and the body."""
    return zlib.crc32(body, zlib.crc32(f"{origin}/{lsn}/".encode()))


def seal(origin: Origin, lsn: int, body: bytes) -> Record:
    """A record with its checksum."""
    return Record(origin, lsn, body, checksum(origin, lsn, body))


def intact(record: Record) -> bool:
    """Whether the checksum is that of the record."""
    return record.crc == checksum(record.origin, record.lsn, record.body)


def bytes_of(records: Iterable[Record]) -> int:
    """The size of the bodies, in bytes."""
    return sum(len(record.body) for record in records)
