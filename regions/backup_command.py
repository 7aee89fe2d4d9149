"""``perdure backup`` and ``perdure restore``: what they are told, and what they tell."""

import argparse
import json
import os
import sys
import threading
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perdure.regions.config import ConfigError
from perdure.regions.ports import StorageLocked

if TYPE_CHECKING:
    from perdure.regions.backup_file import Manifest, Tell
    from perdure.regions.ports import Clock

EXIT_IN_USE = 3
# How much the priority of the process is lowered while it copies.
NICER = 10
# After each portion of 8 MiB.
REST_MS_MIN, REST_MS_MAX = 50, 1_000
_MB = 1_000_000
_CODES = (
    "Exit codes: 0 done, 1 the disk failed or is full, or the backup is damaged, 2 wrong arguments,"
    " and nothing was written, 130 interrupted."
)
_BACKUP = (
    "Copy a region into one file, also while it runs: a consistent copy of what was committed when"
    " it began, with a manifest and a checksum. It overwrites nothing, and there is no file of that"
    " name before it is whole. What is encrypted stays so: keep the storage key elsewhere."
)
_RESTORE = (
    "Make the data directory of a region of a backup; it must be empty, or not there yet. The"
    " region that starts from it has a new incarnation, and is ready when it has caught up with its"
    " peers: what was written, deleted or erased since the backup comes from them. Where no region"
    " is left to catch up with, start it with serve --bootstrap."
)


def add_backup(commands: Any) -> None:
    """Add both commands to the parser's subcommands."""
    text = "copy a region into one file, also while it runs; or check such a file"
    making = commands.add_parser("backup", help=text, description=_BACKUP, epilog=_CODES)
    making.add_argument("--data", type=Path, metavar="DIR", help="the region's data directory")
    making.add_argument("--to", type=Path, metavar="FILE", help="the file that is to be made")
    text = "check a backup instead: its checksums, and that the database in it is whole"
    making.add_argument("--check", type=Path, metavar="FILE", help=text)
    making.add_argument("--json", action="store_true", help="print the manifest as JSON")
    making.set_defaults(run=_backup)
    text = "make an empty data directory of a backup"
    codes = _CODES.replace("130", f"{EXIT_IN_USE} a running region has the directory, 130")
    restoring = commands.add_parser("restore", help=text, description=_RESTORE, epilog=codes)
    restoring.add_argument("file", type=Path, metavar="FILE", help="a file that backup made")
    text = "data directory: empty, or not there yet"
    restoring.add_argument("--data", type=Path, required=True, metavar="DIR", help=text)
    restoring.add_argument("--json", action="store_true", help="print the manifest as JSON")
    restoring.set_defaults(run=_restore)


def _backup(options: argparse.Namespace) -> int:
    # Here and not above: other commands start sooner without.
    from perdure.regions.backup import check, make
    from perdure.regions.clock import SystemClock

    clock = SystemClock()
    began_ms = clock.monotonic_ms()
    if options.check is not None:
        if options.data is not None or options.to is not None:
            raise ConfigError("--check FILE stands alone: it makes no backup")
        manifest = check(options.check, _progress("checking"))
        return _say(options, manifest, f"{options.check} is whole", clock.monotonic_ms() - began_ms)
    if options.data is None or options.to is None:
        raise ConfigError("give --data DIR and --to FILE, or --check FILE")
    # The region goes first.
    os.nice(NICER)
    rest = _Rest(clock)
    arguments = (options.data, options.to, version("perdure"), clock.wall_ms())
    manifest = make(*arguments, _progress("copying"), rest)
    return _say(options, manifest, f"{options.to} is made", clock.monotonic_ms() - began_ms)


class _Rest:
    """Leaves the disk to the region for as long as a portion took, or longer."""

    def __init__(self, clock: "Clock") -> None:
        self._clock = clock
        self._began_ms = clock.monotonic_ms()

    def __call__(self) -> None:
        took_ms = self._clock.monotonic_ms() - self._began_ms
        threading.Event().wait(min(max(REST_MS_MIN, took_ms), REST_MS_MAX) / 1000)
        self._began_ms = self._clock.monotonic_ms()


def _restore(options: argparse.Namespace) -> int:
    from perdure.regions.clock import SystemClock
    from perdure.regions.restoring import restore

    clock = SystemClock()
    began_ms = clock.monotonic_ms()
    try:
        manifest = restore(options.file, options.data, _progress("restoring"))
    except StorageLocked as error:
        print(f"perdure: {error}", file=sys.stderr)
        return EXIT_IN_USE
    text = f"{options.data} is restored, and catches up with its peers when it is started"
    return _say(options, manifest, text, clock.monotonic_ms() - began_ms)


def _progress(what: str) -> "Tell":
    """Says how far it is, each percent, where somebody watches."""
    told = -1

    def tell(done: int, total: int) -> None:
        nonlocal told
        percent = 100 * done // total if total else 100
        if percent != told and sys.stderr.isatty():
            told = percent
            end = "\n" if done >= total else ""
            text = f"\r{what}: {percent:3} % of {total / _MB:,.1f} MB"
            print(text, end=end, file=sys.stderr, flush=True)

    return tell


def _say(options: argparse.Namespace, manifest: "Manifest", text: str, took_ms: int) -> int:
    if options.json:
        print(json.dumps({**manifest.value(), "took_s": took_ms / 1000}))
        return 0
    kind = "encrypted" if manifest.encrypted else "not encrypted"
    print(
        f"{text}: region {manifest.region or 'unknown'}, {manifest.database_bytes / _MB:,.1f} MB"
        f" ({kind}), {manifest.sessions:,} sessions, {manifest.messages:,} messages,"
        # What was written last is in the log alone, and not counted among the others.
        f" {manifest.records:,} records of the log,"
        f" schema {manifest.schema}, made by {manifest.version}; {took_ms / 1000:.1f} s"
    )
    return 0
