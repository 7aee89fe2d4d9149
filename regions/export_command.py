"""``perdure export`` and ``perdure import``: sessions as lines of JSON, out and in."""

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, urlencode

import httpx2
from perdure.regions.bringing import Report
from perdure.regions.config import ConfigError
from perdure.regions.console import patiently, print_json, say
from perdure.regions.importing import Hopeless, Importer
from perdure.replication.limits import EXPORT_LINE_BYTES_MAX
from perdure.replication.tenants import is_tenant

from perdure_client import Client
from perdure_client.errors import Unavailable, error_of
from perdure_client.regions import RETRY_STATUSES, problem_of

EXIT_INCOMPLETE = 1
EXPORT = "write whole sessions as lines of JSON to standard output"
IMPORT = "bring exported sessions in; again, it changes nothing"
_READ_S_MAX = 30.0
_TRIES_MAX = 5
_TOLD_EVERY = 100


def add_export_options(parser: argparse.ArgumentParser) -> None:
    """The options of ``export``."""
    text = "sessions of the grant's tenant; or give --tenant or --all, as an operator"
    parser.add_argument("session", nargs="*", help=text)
    text = "all sessions of this tenant (-: of none)"
    parser.add_argument("--tenant", metavar="NAME", help=text)
    parser.add_argument("--all", action="store_true", help="all sessions of all tenants")
    text = "go on after this session (its name as progress shows it), with --tenant or --all"
    parser.add_argument("--after", metavar="SESSION", help=text)


def add_import_options(parser: argparse.ArgumentParser) -> None:
    """The options of ``import``."""
    parser.add_argument(
        "file", metavar="FILE", help="a file that export wrote; - is standard input"
    )
    text = "bring the one session of the file in under this name"
    parser.add_argument("--as", dest="name", metavar="SESSION", help=text)
    text = "only the sessions of this tenant (-: of none)"
    parser.add_argument("--tenant", metavar="NAME", help=text)


async def export_sessions(options: argparse.Namespace, client: Client) -> int:
    """Write the sessions out; the exit code. Where it is broken off, another region goes on with
    the session from its beginning: whoever reads the lines takes the last."""
    chosen = (bool(options.session), options.tenant is not None, options.all)
    if sum(chosen) != 1:
        raise ConfigError("name sessions, or give --tenant NAME, or --all")
    _check_tenant(options.tenant)
    done = 0
    async for name, path in _chosen(options, client):
        await _export(client, path, sys.stdout.buffer)
        done += 1
        _tell(f"{done} exported, the last is {name}", done, is_last=False)
    say(f"{done} session{'' if done == 1 else 's'} exported")
    return 0


def _check_tenant(tenant: str | None) -> None:
    if tenant is not None and (tenant == "" or not (tenant == "-" or is_tenant(tenant))):
        raise ConfigError(f"--tenant {tenant!r} is none: 1 to 64 of a-z 0-9 _ -, or -")


async def _chosen(options: argparse.Namespace, client: Client) -> AsyncIterator[tuple[str, str]]:
    if options.session:
        for session in options.session:
            yield session, f"/v1/sessions/{client.session(session).id}/export"
        return
    after, more = options.after, True
    while more:
        asked = {"tenant": options.tenant, "after": after, "limit": 1000}
        query = urlencode({name: value for name, value in asked.items() if value is not None})
        async with patiently(client):
            page, _ = await client.regions.request("GET", f"/admin/api/export?{query}")
        for name in page["sessions"]:
            yield name, f"/admin/api/sessions/{quote(name, safe=':')}/export"
        after, more = page["next"], page["next"] is not None


async def _export(client: Client, path: str, out: BinaryIO) -> None:
    """Raises ``PerdureError``; ``Unavailable`` when no region gives all of it."""
    regions, pause = client.regions, client.regions.pause()
    url = regions.pick()
    for _ in range(_TRIES_MAX):
        try:
            async with regions.stream(url, path, {}, _READ_S_MAX) as answer:
                if answer.is_success:
                    if await _copied(answer, out):
                        return
                else:
                    await answer.aread()
                    problem = problem_of(answer)
                    if answer.status_code not in RETRY_STATUSES:
                        raise error_of(problem)
                    regions.failed(url, problem["detail"], problem.get("retry_after_s", 0))
        except httpx2.HTTPError as error:
            # The connection broke, and so did the lines.
            regions.failed(url, f"{type(error).__name__} {error}")
        url = await regions.turn(url, pause.next_s())
    detail = f"no region gives all of {path}"
    raise Unavailable({"code": "unavailable", "status": 503, "detail": detail})


async def _copied(answer: Any, out: BinaryIO) -> bool:
    """Write whole lines alone; whether there was an end."""
    rest, last = b"", b""
    async for chunk in answer.aiter_bytes():
        *lines, rest = (rest + chunk).split(b"\n")
        if lines:
            out.write(b"\n".join(lines) + b"\n")
            last = lines[-1]
    out.flush()
    # Of one that was deleted meanwhile there will never be an end.
    kind = json.loads(last)["kind"] if last else None
    return kind in ("end", "failed")


async def import_sessions(options: argparse.Namespace, client: Client) -> int:
    """Bring the file in; the exit code."""
    _check_tenant(options.tenant)
    if options.name is not None:
        client.session(options.name)
    tenant = "" if options.tenant == "-" else options.tenant
    report = Report()
    async with patiently(client):
        await client.transports()
    code = 0
    try:
        with _opened(options.file) as file:
            await Importer(client, report, tenant, options.name).take(_lines(file, report))
    except Hopeless as error:
        report.faults.append(str(error))
    except OSError as error:
        raise ConfigError(f"cannot read {options.file}: {error.strerror}") from error
    if report.faults:
        code = EXIT_INCOMPLETE
    if options.json:
        print_json(vars(report))
        return code
    for fault in report.faults:
        say(fault)
    print(
        f"sessions {report.sessions:,}, messages {report.messages:,}, documents"
        f" {report.documents:,}; there before, and the same: {report.known:,}; deleted there, and"
        f" left so: {report.deleted:,}; faults: {len(report.faults):,}"
    )
    return code


def _opened(name: str) -> BinaryIO:
    return sys.stdin.buffer if name == "-" else Path(name).open("rb")


async def _lines(file: BinaryIO, report: Report) -> AsyncIterator[bytes]:
    """The lines, of which a longer one than may be is given in part, so that it is told of."""
    number = 0
    while line := await asyncio.to_thread(file.readline, EXPORT_LINE_BYTES_MAX + 1):
        number += 1
        yield line
        while len(line) > EXPORT_LINE_BYTES_MAX and not line.endswith(b"\n"):
            line = await asyncio.to_thread(file.readline, EXPORT_LINE_BYTES_MAX + 1)
        _tell(f"line {number:,}, {report.messages:,} messages", number, is_last=False)


def _tell(text: str, number: int, *, is_last: bool) -> None:
    """Progress, where somebody watches."""
    if sys.stderr.isatty() and (is_last or number % _TOLD_EVERY == 0):
        print(f"\r{text}\x1b[K", end="\n" if is_last else "", file=sys.stderr, flush=True)
