"""What a backup is as a file: a whole database, and after it the manifest and its seal.

The database comes first and is not changed, so SQLite opens the file as it is: what stands behind
the last page it leaves alone. All of it is checked by hashes before anything is believed::

    database | manifest (JSON) | BLAKE2b-256 of the manifest | its length (4 bytes) | magic
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from perdure.regions.ports import StorageError
from perdure.regions.storage_engine import ENCRYPTED, SCHEMA_VERSION

FORMAT = 1
READ_BYTES = 1_048_576
# An origin takes some 60 bytes, and each start of a region makes one.
MANIFEST_BYTES_MAX = 67_108_864
_MAGIC = b"PERDURE-BACKUP-1"
_HASH_BYTES = 32
_LENGTH_BYTES = 4
_SEAL_BYTES = _HASH_BYTES + _LENGTH_BYTES + len(_MAGIC)

# Tells how many of how many bytes are done.
Tell = Callable[[int, int], None]


class BackupDamaged(StorageError):
    """The file is no backup, or not what was written."""


@dataclass
class Manifest:
    """What a backup says of itself. ``vector``: up to which lsn it has each origin;
    ``incarnation``: of the start that wrote to the region last; times in milliseconds since 1970 by
    the clock of the machine that made it."""

    region: str | None
    incarnation: str | None
    version: str
    made_ms: int
    schema: int
    encrypted: bool
    database_bytes: int
    blake2b: str
    sessions: int
    messages: int
    records: int
    vector: dict[str, int] = field(default_factory=dict)
    format: int = FORMAT

    def value(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def hasher() -> "hashlib.blake2b":
    """What the database of a backup is hashed with."""
    return hashlib.blake2b(digest_size=_HASH_BYTES)


def seal(file: BinaryIO, manifest: Manifest) -> None:
    """Add the manifest to the end of a database. Raises ``OSError``."""
    text = json.dumps(manifest.value()).encode()
    file.seek(0, os.SEEK_END)
    digest = hashlib.blake2b(text, digest_size=_HASH_BYTES).digest()
    file.write(text + digest + len(text).to_bytes(_LENGTH_BYTES, "big") + _MAGIC)
    file.flush()
    os.fsync(file.fileno())


def read_manifest(path: Path, file: BinaryIO) -> Manifest:
    """What a backup says of itself, found whole; the database is not looked at.

    Raises ``BackupDamaged`` and ``OSError``.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _SEAL_BYTES))
    end = file.read(_SEAL_BYTES)
    if len(end) < _SEAL_BYTES or not end.endswith(_MAGIC):
        raise BackupDamaged(f"{path} is no backup, or was cut off")
    digest = end[:_HASH_BYTES]
    length = int.from_bytes(end[_HASH_BYTES : _HASH_BYTES + _LENGTH_BYTES], "big")
    if length > min(MANIFEST_BYTES_MAX, size - _SEAL_BYTES):
        raise BackupDamaged(f"{path}: the manifest is damaged")
    file.seek(size - _SEAL_BYTES - length)
    text = file.read(length)
    if hashlib.blake2b(text, digest_size=_HASH_BYTES).digest() != digest:
        raise BackupDamaged(f"{path}: the manifest is damaged")
    said = json.loads(text)
    if said.get("format") != FORMAT or said["schema"] % ENCRYPTED > SCHEMA_VERSION:
        raise BackupDamaged(
            f"{path} was made by a newer perdure ({said.get('version')}): restore it with that"
        )
    manifest = Manifest(**said)
    if manifest.database_bytes != size - _SEAL_BYTES - length:
        raise BackupDamaged(f"{path} is not as long as it was")
    return manifest


def read_database(
    path: Path, file: BinaryIO, manifest: Manifest, take: Callable[[bytes], object], tell: Tell
) -> None:
    """Give the database to ``take``, a piece after the other; raises ``BackupDamaged`` at the end
    when it is not what was written."""
    digest = hasher()
    done, total = 0, manifest.database_bytes
    file.seek(0)
    while done < total:
        piece = file.read(min(READ_BYTES, total - done))
        if not piece:
            break
        digest.update(piece)
        take(piece)
        done += len(piece)
        tell(done, total)
    if digest.hexdigest() != manifest.blake2b:
        raise BackupDamaged(f"{path}: the database in it is damaged")
