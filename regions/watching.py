"""A view of running regions, once or again and again (``--watch``), for people or for programs."""

import argparse
import asyncio
import shutil
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from perdure.regions.console import patiently, print_json

from perdure_client import Client
from perdure_client.errors import PerdureError

WATCH_S = 2.0
WATCH_S_MIN = 0.5
WATCH_S_MAX = 3_600.0
# Where what is told goes to no terminal: nothing is cut.
_HOME_AND_CLEAR = "\x1b[H\x1b[J"

View = Callable[[], Awaitable[dict[str, Any]]]
# What is told of it as lines, with so many columns (None: as many as it takes).
Lines = Callable[[dict[str, Any], int | None], list[str]]


def add_watch(parser: argparse.ArgumentParser) -> None:
    """The option of a view."""
    parser.add_argument(
        "--watch",
        type=_seconds,
        nargs="?",
        const=WATCH_S,
        metavar="SECONDS",
        help=f"show it again after so long, until Ctrl-C ({WATCH_S:g}); with --json, a line each",
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not WATCH_S_MIN <= seconds <= WATCH_S_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} must be {WATCH_S_MIN:g} to {WATCH_S_MAX:g}")
    return seconds


async def show(
    options: argparse.Namespace,
    client: Client,
    view: View,
    lines: Lines,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> dict[str, Any]:
    """Show it once, and give what was shown; or with ``--watch`` again and again, until it is
    interrupted. Once it has been shown, regions that do not answer are told, and asked again."""
    async with patiently(client):
        value = await view()
    if options.watch is None:
        _tell(options, value, lines, redraw=False)
        return value
    redraw = sys.stdout.isatty() and not options.json
    failure: str | None = None
    while True:
        if failure is None:
            _tell(options, value, lines, redraw=redraw)
        elif options.json:
            print_json({"error": failure})
        else:
            print(f"perdure: {failure}", flush=True)
        await sleep(options.watch)
        try:
            value, failure = await view(), None
        except PerdureError as error:
            if error.code != "unavailable":
                raise
            failure = str(error)


def _tell(
    options: argparse.Namespace, value: dict[str, Any], lines: Lines, *, redraw: bool
) -> None:
    if options.json:
        print_json(value)
        return
    is_terminal = sys.stdout.isatty()
    text = "\n".join(lines(value, shutil.get_terminal_size().columns if is_terminal else None))
    if options.watch is not None:
        text = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC\n{text}"
    if redraw:
        height = shutil.get_terminal_size().lines - 1
        text = _HOME_AND_CLEAR + "\n".join(text.split("\n")[:height])
    if text:
        print(text, flush=True)
