"""What the doctor looks at on this machine: the data directory, and what a process may open."""

import errno
import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from perdure.regions.doctor import Finding, Level
from perdure.regions.tables import size, span
from perdure.replication.limits import READERS_MAX

DISK_FREE_BYTES_WARN = 1_073_741_824
DISK_FREE_BYTES_FAIL = 104_857_600
# An append waits for a sync or two.
SYNC_S_WARN = 0.02
SYNCS = 15
_SYNC_BYTES = 4_096


def of_limits() -> Finding:
    """How many files a process that is started from here may open: a reader is one."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * READERS_MAX
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return Finding("ok", "files", f"{soft:,} open files are allowed")
    advice = f"for many readers set LimitNOFILE={wanted + 1024} (systemd) or ulimit -n"
    return Finding("warn", "files", f"only {soft:,} open files are allowed here", advice)


def of_data(data: Path, clock: Callable[[], float] = time.perf_counter) -> Iterator[Finding]:
    """A data directory: there, writable, with room, on a disk that syncs in time."""
    if not data.is_dir():
        text = f"{data} is not there, or no directory"
        yield Finding("fail", "data", text, "a region makes it at its first start")
        return
    free = shutil.disk_usage(data).free
    level: Level = "ok"
    if free < DISK_FREE_BYTES_WARN:
        level = "fail" if free < DISK_FREE_BYTES_FAIL else "warn"
    advice = None if level == "ok" else "make room: writes are refused when it is full"
    yield Finding(level, "disk", f"{size(free)} are free for {data}", advice)
    try:
        seconds = sync_seconds(data, clock)
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "make room" if is_full else "run it as the user that the region runs as"
        yield Finding("fail", "sync", f"cannot write to {data}: {error.strerror}", advice)
        return
    level = "warn" if seconds > SYNC_S_WARN else "ok"
    advice = "every write waits for it: take a faster disk" if level == "warn" else None
    yield Finding(level, "sync", f"a sync of {data} takes {span(seconds)}", advice)


def sync_seconds(data: Path, clock: Callable[[], float]) -> float:
    """How long a small write takes until it is on the disk, the middle of some. Raises
    ``OSError``; the file that is written is gone again."""
    path = data / f".doctor-{os.getpid()}"
    taken = []
    try:
        with path.open("xb", buffering=0) as file:
            for _ in range(SYNCS):
                began = clock()
                file.write(bytes(_SYNC_BYTES))
                os.fsync(file.fileno())
                taken.append(clock() - began)
    finally:
        path.unlink(missing_ok=True)
    return sorted(taken)[SYNCS // 2]


def of_keys(data: Path, keys: Sequence[bytes]) -> Iterator[Finding]:
    """Whether a start would have what it takes to read the data. ``keys``: those that are set."""
    # Here and not above: other commands start sooner without.
    from perdure.regions import database_checks
    from perdure.regions.storage_engine import DATABASE

    if not (data / DATABASE).is_file():
        # Nothing is there yet, or it has been told already that it cannot be read.
        return
    wrong = list(database_checks.faults(data, keys))
    for text in wrong:
        advice = "a region would not start on it: mend that first, or restore a backup"
        yield Finding("fail", "key", text.removeprefix("--data "), advice)
    if not wrong:
        word = "encrypted, and its key is set" if keys else "not encrypted, and no key is set"
        yield Finding("ok", "key", f"{data} is {word}")
