"""``perdure doctor``: what goes wrong in practice, looked at, and what to do about it."""

import argparse
import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from perdure.regions import doctor_machine as machine
from perdure.regions.client_command import DEFAULT_URL, GRANT
from perdure.regions.clock import SystemClock
from perdure.regions.config import STORAGE_KEY, ConfigError, read_storage_keys
from perdure.regions.console import print_json
from perdure.regions.doctor import Finding, worst
from perdure.regions.tables import harmless

EXIT_CODES = {"ok": 0, "warn": 1, "fail": 3}
CODES = (
    "Exit codes: 0 all is well, 1 something is worth a look, 2 wrong arguments, 3 something is"
    " wrong, 130 interrupted."
)
_ABOUT = (
    "Look at what goes wrong in practice, and say what to do: regions (reachable, ready, seeing"
    " each other, versions, clocks, lag, digests, certificates, backups), whether server-sent"
    " events and WebSockets get through what lies before them, the grant; with --data a disk; with"
    " --config the settings of a region."
)


def add_doctor(commands: Any) -> None:
    """Add the command to the parser's subcommands."""
    text = "look at what goes wrong in practice, and say what to do"
    parser = commands.add_parser("doctor", help=text, description=_ABOUT, epilog=CODES)
    parser.add_argument(
        "--url", action="append", metavar="URL", help=f"a region ({DEFAULT_URL}); again for others"
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="a region's data directory, here")
    parser.add_argument("--config", type=Path, metavar="FILE", help="a region's settings, here")
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    return asyncio.run(_look(options, _urls(options)))


def _urls(options: argparse.Namespace) -> list[str]:
    """Those that are given; the usual one, where nothing else is to be looked at."""
    given: list[str] = options.url or []
    is_of_here = options.data is not None or options.config is not None
    urls = given or ([] if is_of_here else [DEFAULT_URL])
    for url in urls:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"--url {url!r} must be a URL like {DEFAULT_URL}")
    return urls


async def _look(options: argparse.Namespace, urls: list[str]) -> int:
    found: list[Finding] = []

    def tell(finding: Finding) -> None:
        found.append(finding)
        if not options.json:
            print(f"{finding.level:<4}  {harmless(finding.text)}", flush=True)
            if finding.advice and finding.level != "ok":
                print(f"      → {finding.advice}", flush=True)

    for finding in _here(options):
        tell(finding)
    if urls:
        # Here and not above: other commands start sooner without.
        from perdure.regions.doctor_probes import Probes

        from perdure_client.trust import trusted

        probes = Probes(
            urls, os.environ.get(GRANT), SystemClock().wall_ms, verify=trusted(os.environ)
        )
        async for finding in probes.findings():
            tell(finding)
    level = worst(found)
    if options.json:
        print_json({"level": level, "checks": [finding.value() for finding in found]})
    else:
        counts = [sum(one.level == each for one in found) for each in ("ok", "warn", "fail")]
        print(f"{counts[0]} ok, {counts[1]} to look at, {counts[2]} wrong")
    return EXIT_CODES[level]


def _here(options: argparse.Namespace) -> Iterator[Finding]:
    """What can be looked at without a region."""
    data = options.data
    if options.config is not None:
        # Here and not above: it takes as long to load as all of the rest.
        from perdure.regions.config_checks import look
        from perdure.regions.settings_reading import load

        loaded = load({}, options.config)
        told = [Finding("fail", "config", str(fault)) for fault in loaded.faults]
        told += [Finding("warn", "config", str(fault)) for fault in loaded.warnings]
        if loaded.config is not None:
            seen = look(loaded.config, SystemClock().wall_ms(), ports=False)
            told += [Finding("fail", "config", text) for text in seen.faults]
            told += [Finding("warn", "config", text) for text in seen.warnings]
            data = data or loaded.config.data
        yield from told or [Finding("ok", "config", f"the settings of {options.config} are good")]
    if data is not None:
        yield machine.of_limits()
        yield from machine.of_data(data)
        yield from _keys(data, options.config)


def _keys(data: Path, config: Path | None) -> Iterator[Finding]:
    environment = dict(os.environ)
    if config is not None and f"{STORAGE_KEY}_FILE" not in environment:
        from perdure.regions.settings_reading import load

        named = load({}, config).settings.storage_key_file
        environment |= {f"{STORAGE_KEY}_FILE": str(named)} if named else {}
    try:
        yield from machine.of_keys(data, read_storage_keys(environment))
    except ConfigError as error:
        yield Finding("fail", "key", str(error))
