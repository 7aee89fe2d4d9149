"""What a database says of its own encryption: with which keys, and how far a change has come.

Rule of this file: a start never reads a database with keys that are not its own. What it could not
decrypt it would take for damaged, put aside, and ask the peers for.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from perdure.regions.cipher import Cipher, Clear
from perdure.regions.log_tables import KEY_RECORD, put_meta, sealed, unsealed
from perdure.regions.ports import StorageFailed, StorageKeyWrong
from perdure.regions.storage_engine import is_encrypted, set_encrypted
from sqlalchemy import Connection

WHOLE = "whole"
ENCRYPTING = "encrypting"
DECRYPTING = "decrypting"
_TABLES = ("origin", "log", "session", "message", "meta", "quarantine")
_CLEAR = Clear()


@dataclass
class KeyRecord:
    """``keys``: a proof for each key that something is encrypted with, by the names of the keys.
    ``table``, ``after``: up to where an encrypting or decrypting has come. ``clean``: no file holds
    anything any more from before the last change."""

    keys: dict[str, str] = field(default_factory=dict)
    state: str = WHOLE
    table: int = 0
    after: int | str | None = None
    clean: bool = True

    def add(self, cipher: Cipher) -> None:
        """From now on something may be encrypted with the first key."""
        self.keys[cipher.keys[0]] = cipher.proof(cipher.keys[0])

    def keep_first(self, cipher: Cipher) -> None:
        """From now on nothing is encrypted with any other."""
        self.keys = {}
        self.add(cipher)


def read(connection: Connection) -> KeyRecord | None:
    """The record of an encrypted database; None when it is damaged."""
    found = connection.exec_driver_sql(
        "SELECT CAST(value AS BLOB) FROM meta WHERE key = ?", (KEY_RECORD,)
    ).scalar_one_or_none()
    return of_blob(found)


def of_blob(found: bytes | None) -> KeyRecord | None:
    """The record as it is stored; None when it is damaged, or not there."""
    text = None if found is None else unsealed(found)
    return None if text is None else KeyRecord(**json.loads(text))


def write(connection: Connection, record: KeyRecord) -> None:
    """Store it; the database says that it is encrypted."""
    put_meta(connection, _CLEAR, KEY_RECORD, sealed(json.dumps(vars(record))))
    set_encrypted(connection, True)


def forget(connection: Connection) -> None:
    """The database is not encrypted any more."""
    put_meta(connection, _CLEAR, KEY_RECORD, b"")
    set_encrypted(connection, False)


def admit(connection: Connection, cipher: Clear, directory: Path) -> None:
    """Begin to use a database, in the transaction that opens it; an empty one becomes encrypted
    where there is a key.

    Raises ``StorageKeyWrong`` when it is not for these keys, and ``StorageFailed`` when nobody can
    tell; nothing is changed then.
    """
    if not is_encrypted(connection):
        if isinstance(cipher, Cipher):
            if not _is_empty(connection):
                raise StorageKeyWrong(
                    f"{directory} is not encrypted, and a storage key is set: encrypt it with"
                    f" `perdure rekey --data {directory}`, with the same key set"
                )
            _use(connection, KeyRecord(), cipher)
        return
    record = read(connection)
    if record is None:
        raise StorageFailed(
            f"{directory} is encrypted, and the record of its keys is damaged:"
            f" `perdure rekey --data {directory}` makes it anew, with the same keys set"
        )
    able = check_keys(record, cipher, directory)
    check_whole(record, directory)
    if able.keys[0] not in record.keys:
        _use(connection, record, able)


def _use(connection: Connection, record: KeyRecord, cipher: Cipher) -> None:
    record.add(cipher)
    write(connection, record)


def check_keys(record: KeyRecord, cipher: Clear, directory: Path) -> Cipher:
    """The cipher, if it has every key that something is encrypted with; else raises
    ``StorageKeyWrong``."""
    if not isinstance(cipher, Cipher):
        raise StorageKeyWrong(
            f"{directory} is encrypted with {_named(record.keys)}: set PERDURE_STORAGE_KEY or"
            " PERDURE_STORAGE_KEY_FILE"
        )
    lacking = [key for key, proof in record.keys.items() if not cipher.proves(key, proof)]
    if lacking:
        raise StorageKeyWrong(
            f"{directory} is encrypted with {_named(lacking)}, and the storage keys that are set"
            f" are {', '.join(cipher.keys)}: add the one that is missing, as a line after the first"
        )
    return cipher


def check_whole(record: KeyRecord, directory: Path) -> None:
    """Raises ``StorageKeyWrong`` where encrypting, or the way back, was not finished."""
    if record.state != WHOLE:
        option = " --decrypt" if record.state == DECRYPTING else ""
        raise StorageKeyWrong(
            f"{directory} is in the middle of {record.state}: let"
            f" `perdure rekey --data {directory}{option}` finish"
        )


def _named(keys: Collection[str]) -> str:
    return f"key{'s' if len(keys) > 1 else ''} {' and '.join(keys)}"


def _is_empty(connection: Connection) -> bool:
    """Whether nothing has ever been written: an origin is never let go of."""
    return not any(
        connection.exec_driver_sql(f"SELECT EXISTS (SELECT 1 FROM {table})").scalar_one()
        for table in _TABLES
    )
