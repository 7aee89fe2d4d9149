"""Whether a start could use the database of a data directory with these keys: what a start would
refuse, in its words, found without one and without changing anything."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from perdure.regions import key_record
from perdure.regions.cipher import Cipher, Clear
from perdure.regions.clock import SystemEntropy
from perdure.regions.identity import read_identity
from perdure.regions.log_tables import KEY_RECORD
from perdure.regions.ports import StorageKeyWrong
from perdure.regions.storage_engine import DATABASE, ENCRYPTED, SCHEMA_VERSION


def faults(data: Path, keys: Sequence[bytes]) -> Iterator[str]:
    """A database that is none, or of a newer perdure, or for other keys. ``keys``: what is set."""
    path = data / DATABASE
    if not path.is_file():
        return
    try:
        with closing(_connected(path)) as connection:
            yield from _refused(connection, data, keys)
    except sqlite3.Error as error:
        yield f"--data {data}: cannot open {path}: {error}"
    except StorageKeyWrong as error:
        yield f"--data {error}"


def strangers(data: Path, region: str) -> Iterator[str]:
    """A directory that another region had last: one wrong letter in a file, and a region takes
    over what is its neighbour's on the same host."""
    last = read_identity(data).get("region")
    if isinstance(last, str) and last != region:
        yield (
            f"--data {data} was region {last}'s last, and this one is --region {region}: each"
            f" region has a directory of its own. To begin with what {last} has, back that up and"
            " restore it"
        )


def _connected(path: Path) -> sqlite3.Connection:
    # Where no log lies beside it the file is whole by itself: to open it in the ordinary way
    # would make one, which would be another user's than the region's.
    is_alone = not path.with_name(f"{path.name}-wal").exists()
    how = "immutable=1" if is_alone else "mode=ro"
    return sqlite3.connect(f"file:{quote(str(path.absolute()))}?{how}", uri=True)


def _refused(connection: sqlite3.Connection, data: Path, keys: Sequence[bytes]) -> Iterator[str]:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    is_encrypted = version > ENCRYPTED
    schema = version - ENCRYPTED if is_encrypted else version
    if schema > SCHEMA_VERSION:
        yield (
            f"--data {data} was written by a newer perdure (schema {schema}, this one knows"
            f" {SCHEMA_VERSION})"
        )
    elif is_encrypted:
        query = "SELECT CAST(value AS BLOB) FROM meta WHERE key = ?"
        found = connection.execute(query, (KEY_RECORD,)).fetchone()
        # One that is damaged is the start's to tell: that is no mistake of the settings.
        if record := key_record.of_blob(None if found is None else found[0]):
            key_record.check_keys(record, _cipher(keys), data)
            key_record.check_whole(record, data)
    elif keys and _is_written(connection):
        yield (
            f"--data {data} is not encrypted, and a storage key is set: encrypt it with"
            f" `perdure rekey --data {data}`, with the same key set"
        )


def _is_written(connection: sqlite3.Connection) -> bool:
    query = "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE name = 'origin')"
    if not connection.execute(query).fetchone()[0]:
        return False
    return bool(connection.execute("SELECT EXISTS (SELECT 1 FROM origin)").fetchone()[0])


def _cipher(keys: Sequence[bytes]) -> Clear:
    return Cipher(keys, SystemEntropy()) if keys else Clear()
