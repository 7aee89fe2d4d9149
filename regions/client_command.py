"""What the commands that talk to running regions have in common: regions, grants, exit codes."""

import argparse
import asyncio
import io
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from perdure.regions.console import say

from perdure_client import Client, VendorError
from perdure_client.errors import PerdureError

DEFAULT_URL = "http://127.0.0.1:7101"
GRANT = "PERDURE_GRANT"
EXIT_REFUSED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3
# How long a command tries to reach a region before it says that it cannot.
PATIENCE_S = 10.0
EXIT_CODES = (
    "Exit codes: 0 done, 1 refused, 2 wrong arguments, 3 no region answers, 130 interrupted."
)

Command = Callable[[argparse.Namespace, Client], Awaitable[int]]


def add_command(
    commands: Any, name: str, run: Command, text: str, codes: str = EXIT_CODES
) -> argparse.ArgumentParser:
    """Add a command to the parser's subcommands; its parser, for more options."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text, epilog=codes
    )
    parser.add_argument(
        "--url",
        action="append",
        metavar="URL",
        help=f"a region ({DEFAULT_URL}); again for others to go on at",
    )
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.set_defaults(run=lambda options: _with_client(options, run))
    return parser


def is_not_for_us(error: PerdureError) -> bool:
    """Whether a region refuses what operators ask: for want of a grant, or as it is older."""
    return error.code in ("unauthorized", "forbidden", "not_found")


def _for_want_of_a_grant(error: PerdureError) -> str:
    """What to do about it, where there is none in the environment."""
    if error.code != "unauthorized" or os.environ.get(GRANT):
        return ""
    return f"; {GRANT} is not set (perdure dev leaves a file for that: . .data/dev/env)"


def _with_client(options: argparse.Namespace, run: Command) -> int:
    async def go() -> int:
        urls, grant = options.url or [DEFAULT_URL], os.environ.get(GRANT)
        async with Client(urls, grant, give_up_s=PATIENCE_S) as client:
            return await run(options, client)

    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that cannot show a character shows its number; that is no reason to stop.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return asyncio.run(go())
    except PerdureError as error:
        say(str(error) + _for_want_of_a_grant(error))
        if error.code == "unavailable":
            return EXIT_UNREACHABLE
        return EXIT_USAGE if error.code.startswith("invalid_") else EXIT_REFUSED
    except VendorError as error:
        say(str(error))
        return EXIT_REFUSED
    except UnicodeDecodeError as error:
        say(f"standard input is not UTF-8 ({error.reason}); the message has ended as failed")
        return EXIT_REFUSED
    except BrokenPipeError:
        # The reader of our output has left: that is its right. What Python still holds for it goes
        # nowhere, else it would complain of that at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
