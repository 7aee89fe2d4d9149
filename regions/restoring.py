"""A data directory made of a backup.

What a region gave out after the backup was made is not in it. So the region that starts from here
has another incarnation, as at every start, and goes on with no lsn of the one before; and it is not
ready before it has from its peers what they have: as with an empty disk, only with less to fetch.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from perdure.regions.backup import NO_ROOM, check_database, restored_note
from perdure.regions.backup_file import Manifest, Tell, read_database, read_manifest
from perdure.regions.catch_up import CAUGHT_UP
from perdure.regions.config import ConfigError
from perdure.regions.log_tables import NOTE
from perdure.regions.ports import StorageFailed, StorageFull
from perdure.regions.storage_engine import DATABASE, DirectoryLock, make_directory, sync_directory

_UNFINISHED = f"{DATABASE}.restoring"
# What may lie in a directory that counts as empty: what is ours, and what file systems put there.
_EMPTY = frozenset({"lock", _UNFINISHED, f"{_UNFINISHED}-journal", "lost+found"})


def restore(path: Path, directory: Path, tell: Tell) -> Manifest:
    """Make a data directory of a backup; what came of it is there as a whole, or not at all.

    Raises ``ConfigError`` and ``StorageLocked`` (nothing was changed), ``BackupDamaged``,
    ``StorageFull`` and ``StorageFailed`` (the directory is as empty as it was).
    """
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file")
    with _translated(directory):
        _check_empty(directory)
        with path.open("rb") as file:
            manifest = read_manifest(path, file)
            make_directory(directory)
            lock = DirectoryLock(directory)
            lock.take()
            try:
                # Who had it running a moment ago may have begun to write.
                _check_empty(directory)
                unfinished = directory / _UNFINISHED
                # SQLite would take it for this file's.
                (directory / f"{_UNFINISHED}-journal").unlink(missing_ok=True)
                try:
                    with _created(unfinished) as target:
                        read_database(path, file, manifest, target.write, tell)
                        target.flush()
                        os.fsync(target.fileno())
                    check_database(unfinished, manifest)
                    restored_note(unfinished, NOTE + CAUGHT_UP)
                    sync_directory(directory)
                    unfinished.rename(directory / DATABASE)
                    sync_directory(directory)
                except BaseException:
                    unfinished.unlink(missing_ok=True)
                    raise
            finally:
                lock.release()
    return manifest


@contextlib.contextmanager
def _created(path: Path) -> Iterator[BinaryIO]:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(file, "wb") as opened:
        yield opened


@contextlib.contextmanager
def _translated(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kind = StorageFull if error.errno in NO_ROOM else StorageFailed
        raise kind(f"cannot restore into {directory}: {error.strerror}") from error


def _check_empty(directory: Path) -> None:
    if not directory.exists():
        return
    if not directory.is_dir():
        raise ConfigError(f"--data {directory} is no directory")
    found = sorted({entry.name for entry in directory.iterdir()} - _EMPTY)
    if found:
        raise ConfigError(
            f"--data {directory} is not empty ({found[0]} is there): a backup is restored into an"
            " empty directory"
        )
