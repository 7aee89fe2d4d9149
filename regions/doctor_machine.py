"""What the doctor looks at on this machine: the data directory, and what a process may open."""

import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator
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
DATABASE = "perdure.sqlite"
# Where in its file SQLite keeps the number that tells whether the data is encrypted.
_USER_VERSION = slice(60, 64)


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
        advice = "run it as the user that the region runs as"
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


def of_keys(data: Path, keys: int) -> Iterator[Finding]:
    """Whether a start would have what it takes to read the data. ``keys``: how many are set."""
    # Here and not above: other commands start sooner without.
    from perdure.regions.storage_engine import ENCRYPTED

    try:
        with (data / DATABASE).open("rb") as file:
            head = file.read(_USER_VERSION.stop)
    except OSError:
        # Nothing is there yet, or it has been told already that it cannot be read.
        return
    encrypted = int.from_bytes(head[_USER_VERSION], "big") > ENCRYPTED
    if encrypted and not keys:
        advice = "set PERDURE_STORAGE_KEY_FILE, as for the region itself"
        yield Finding("fail", "key", f"{data} is encrypted, and no storage key is set", advice)
    elif keys and not encrypted:
        advice = f"encrypt it with `perdure rekey --data {data}`, or take the key away"
        text = f"a storage key is set, and {data} is not encrypted"
        yield Finding("fail", "key", text, advice)
    else:
        word = "encrypted, and a key is set" if encrypted else "not encrypted, and no key is set"
        yield Finding("ok", "key", f"{data} is {word}")
