"""How much disk a region takes, and how much there is."""

import os
from pathlib import Path
from typing import NamedTuple


class DiskUsage(NamedTuple):
    """In bytes: the database file, the file beside it that commits go to first, and what is free
    on the file system for this process, of how much."""

    database_bytes: int
    wal_bytes: int
    free_bytes: int
    total_bytes: int


def disk_usage(database: Path) -> DiskUsage | None:
    """What is so now; None where it cannot be told."""
    try:
        database_bytes = database.stat().st_size
        system = os.statvfs(database.parent)
    except OSError:
        return None
    try:
        wal_bytes = database.with_name(f"{database.name}-wal").stat().st_size
    except OSError:
        wal_bytes = 0
    size = system.f_frsize
    return DiskUsage(database_bytes, wal_bytes, system.f_bavail * size, system.f_blocks * size)
