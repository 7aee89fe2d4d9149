"""Another key for a whole database, from the clear, or into it: ``perdure rekey``.

Rule of this file: at every moment the record of the keys says how each blob may be stored. So it
may be interrupted anywhere, and goes on where it was. A database of which some is encrypted and
some is not is served by nobody; one under two keys is, by who has both.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from perdure.regions import key_record
from perdure.regions.cipher import NAME_BYTES, NO_CRC, Cipher, Clear, Place
from perdure.regions.config import ConfigError
from perdure.regions.key_record import DECRYPTING, ENCRYPTING, WHOLE, KeyRecord, check_keys
from perdure.regions.log_tables import KEY_RECORD
from perdure.regions.ports import StorageFailed, StorageFull, StorageKeyWrong
from perdure.regions.rewriting import TABLES, Rewrite, Rewriting, count
from perdure.regions.storage_engine import (
    DATABASE,
    DirectoryLock,
    engine_for,
    is_encrypted,
    is_full,
    migrate,
    rewrite_older,
)
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

CLEAR = "clear"
ENCRYPTED = "encrypted"

# Tells of a stage, and how many of how many rows it has come past.
Tell = Callable[[str, int, int], None]


@dataclass
class Report:
    """What came of it. ``state``: ``encrypted`` or ``clear``; ``key``: the name of the key;
    ``rewritten``, ``damaged``: how many blobs were, and could not be decrypted."""

    state: str = CLEAR
    key: str | None = None
    rewritten: int = 0
    damaged: int = 0


class Rekeying:
    """One change of a database that nobody else has open."""

    def __init__(self, directory: Path, cipher: Clear, tell: Tell) -> None:
        self._directory = directory
        self._path = directory / DATABASE
        self._cipher = cipher
        self._tell = tell
        self._report = Report()
        self._record = KeyRecord()
        # The record was damaged: nobody knows what is encrypted with which of the keys.
        self._remade = False
        # One within transactions, one without.
        self._writer = engine_for(self._path, "IMMEDIATE")
        self._cleaner = engine_for(self._path, None)

    def run(self, *, decrypt: bool) -> Report:
        """Until everything is encrypted with the first key, or nothing is at all.

        Raises ``ConfigError``, ``StorageLocked`` and ``StorageKeyWrong``, having changed nothing;
        ``StorageFull`` and ``StorageFailed``: what is done is done, the next goes on from there.
        """
        if not decrypt and not self._cipher.keys:
            raise ConfigError("set PERDURE_STORAGE_KEY or PERDURE_STORAGE_KEY_FILE")
        with ExitStack() as stack, self._translated():
            if not self._path.is_file():
                raise ConfigError(f"--data {self._directory}: no database is there")
            lock = DirectoryLock(self._directory)
            lock.take()
            stack.callback(lock.release)
            for engine in (self._writer, self._cleaner):
                stack.callback(Engine.dispose, engine)
            rewrite_older(self._cleaner)
            state = self._look()
            while state != (CLEAR if decrypt else WHOLE):
                state = self._step(state)
            self._finish(state)
        return self._report

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageFailed(f"cannot use {self._directory}: {error.strerror}") from error
        except DBAPIError as error:
            if is_full(error.orig):
                raise StorageFull(f"no room for {self._path}: {error.orig}") from error
            raise StorageFailed(f"cannot rewrite {self._path}: {error.orig}") from error

    def _look(self) -> str:
        """What state the database is in; raises before anything is changed."""
        with self._writer.begin() as connection:
            migrate(connection, self._path)
            connection.exec_driver_sql("PRAGMA secure_delete = ON")
            if not is_encrypted(connection):
                return CLEAR
            record = key_record.read(connection)
            if record is None:
                record = self._made_anew(connection)
            check_keys(record, self._cipher, self._directory)
            self._record = record
            return record.state

    def _made_anew(self, connection: Connection) -> KeyRecord:
        """The record of a database whose own is damaged, if everything is as with these keys."""
        cipher = self._cipher
        if not isinstance(cipher, Cipher):
            raise StorageKeyWrong(
                f"{self._directory} is encrypted: set PERDURE_STORAGE_KEY or"
                " PERDURE_STORAGE_KEY_FILE"
            )
        for table in TABLES:
            for column, _ in table.blobs:
                heads = connection.exec_driver_sql(
                    f"SELECT DISTINCT SUBSTR(CAST(t.{column} AS BLOB), 1, ?) FROM {table.name} t"
                    f" WHERE LENGTH(t.{column}) AND t.{table.key} IS NOT ?",
                    (NAME_BYTES, KEY_RECORD),
                )
                if not all(cipher.knows(head) for (head,) in heads):
                    raise StorageKeyWrong(
                        f"{self._directory}: the record of the keys is damaged, and not everything"
                        " there is encrypted with the keys that are set"
                    )
        self._remade = True
        return KeyRecord({key: cipher.proof(key) for key in cipher.keys}, clean=False)

    def _step(self, state: str) -> str:
        """One stage; the state after it."""
        cipher, record = self._cipher, self._record
        assert isinstance(cipher, Cipher)
        if state in (CLEAR, WHOLE):
            record.state = ENCRYPTING if state == CLEAR else DECRYPTING
            record.table, record.after, record.clean = 0, None, False
        record.add(cipher)
        self._write(record)
        if record.state == ENCRYPTING:
            self._rewrite_all(cipher.put, cipher, marks=True)
            record.state = WHOLE
            self._write(record)
            return WHOLE
        self._rewrite_all(self._decrypted, Clear(), marks=True)
        with self._writer.begin() as connection:
            key_record.forget(connection)
        self._record = KeyRecord()
        return CLEAR

    def _finish(self, state: str) -> None:
        """Let nothing be encrypted with another key, and nothing be left of what was before."""
        if state == CLEAR:
            self._truncate_wal()
            return
        cipher, record = self._cipher, self._record
        assert isinstance(cipher, Cipher)
        self._report.state, self._report.key = ENCRYPTED, cipher.keys[0]
        if list(record.keys) != [cipher.keys[0]] or self._remade:
            record.add(cipher)
            record.clean = False
            self._write(record)
            self._rewrite_all(self._recrypted, cipher, marks=False)
            record.keep_first(cipher)
            self._write(record)
        if not record.clean:
            self._tell("cleaning", 0, 1)
            with self._cleaner.connect() as connection:
                connection.exec_driver_sql("VACUUM")
            self._truncate_wal()
            record.clean = True
            self._write(record)
            self._tell("cleaning", 1, 1)

    def _truncate_wal(self) -> None:
        with self._cleaner.connect() as connection:
            busy, *_ = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
        if busy:
            raise StorageFailed(f"another program reads {self._path}: end it, and run this again")

    def _write(self, record: KeyRecord) -> None:
        with self._writer.begin() as connection:
            key_record.write(connection, record)

    # What becomes of a blob

    def _decrypted(self, place: Place, blob: bytes, crc: int) -> tuple[bytes, int] | None:
        # An empty one was lost before.
        return self._cipher.get(place, blob, crc) if blob else None

    def _recrypted(self, place: Place, blob: bytes, crc: int) -> tuple[bytes, int] | None:
        cipher = self._cipher
        assert isinstance(cipher, Cipher)
        if not blob or cipher.is_first(blob):
            return None
        content, known = cipher.get(place, blob, crc)
        return (b"", NO_CRC) if known == NO_CRC else cipher.put(place, content, known)

    def _rewrite_all(self, rewrite: Rewrite, kept: Clear, *, marks: bool) -> None:
        """Every blob. With ``marks`` it begins where the record says, and the record says with each
        transaction how far it has come."""
        record = self._record
        stage = record.state if marks else "changing the key"
        rewriting = Rewriting(rewrite, kept)
        with self._writer.connect() as connection:
            counts = [count(connection, table) for table in TABLES]
        number, after = (record.table, record.after) if marks else (0, None)
        done = sum(counts[:number])
        while number < len(TABLES):
            self._tell(stage, min(done, sum(counts)), sum(counts))
            with self._writer.begin() as connection:
                rows, after = rewriting.some(connection, TABLES[number], after)
                if not rows:
                    number, after = number + 1, None
                if marks:
                    record.table, record.after = number, after
                    key_record.write(connection, record)
            done += rows
        self._report.rewritten += rewriting.rewritten
        self._report.damaged += rewriting.damaged
        self._tell(stage, sum(counts), sum(counts))
