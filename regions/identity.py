"""Who wrote to a data directory last: beside the database, for commands that only see the files.

Nothing that a region does depends on it: its origin is drawn anew at each start.
"""

import json
import os
from pathlib import Path
from typing import Any

from perdure.regions.storage_engine import sync_directory

_IDENTITY = "identity.json"
_LAST_BACKUP = "last_backup.json"
# Longer than anything that is written here.
_BYTES_MAX = 65_536


def write_json(directory: Path, name: str, value: dict[str, Any]) -> None:
    """Replace a small file as a whole, in a way that survives a power cut. Raises ``OSError``."""
    path, fresh = directory / name, directory / f"{name}.new"
    file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        # Who makes backups may be another user than the region, which reads this. The directory is
        # what keeps others out.
        os.fchmod(file, 0o644)
        os.write(file, json.dumps(value).encode())
        os.fsync(file)
    finally:
        os.close(file)
    fresh.replace(path)
    sync_directory(directory)


def _read(directory: Path, name: str) -> dict[str, Any]:
    """What a small file says; nothing where it is not there, or is none."""
    try:
        with (directory / name).open("rb") as file:
            value = json.loads(file.read(_BYTES_MAX))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def note_identity(directory: Path, region: str, incarnation: int, version: str) -> None:
    """A region has this directory now. Raises ``OSError``."""
    said = {"region": region, "incarnation": f"{incarnation:016x}", "version": version}
    write_json(directory, _IDENTITY, said)


def read_identity(directory: Path) -> dict[str, Any]:
    """``{"region", "incarnation", "version"}``; empty where nobody has said so."""
    return _read(directory, _IDENTITY)


def note_backup(directory: Path, made_ms: int, to: Path, bytes_: int) -> None:
    """A backup of this directory was made. Raises ``OSError``."""
    said = {"made_ms": made_ms, "to": str(to), "bytes": bytes_}
    write_json(directory, _LAST_BACKUP, said)


def last_backup_ms(directory: Path) -> int | None:
    """When the last backup of this directory was made, by the clock of who made it; None: never
    that anybody knows."""
    made_ms = _read(directory, _LAST_BACKUP).get("made_ms")
    return made_ms if type(made_ms) is int else None
