"""``perdure audit``: the audit log as lines of JSON, its chains checked."""

import argparse
import sys

from perdure.regions.console import patiently, print_json, say
from perdure.replication.chain import Checker

from perdure_client import Client

EXIT_BROKEN = 1
CODES = (
    f"Exit codes: 0 whole, {EXIT_BROKEN} an entry was changed, taken out or put in, or it is"
    " refused, 2 wrong arguments, 3 no region can be reached."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--after", metavar="PLACE", help="begin after this place of the log")
    parser.add_argument(
        "--no-check",
        action="store_true",
        help="print only: administrators of a tenant see a part, which is no chain",
    )


async def print_audit(options: argparse.Namespace, client: Client) -> int:
    """Print every entry after a place, then whether they are whole; the exit code."""
    checker, count, after, more = Checker(), 0, options.after, True
    async with patiently(client):
        while more:
            page = await client.audit(after)
            for entry in page["entries"]:
                fault = None if options.no_check else checker.fault(entry)
                if fault is not None:
                    say(fault)
                    return EXIT_BROKEN
                print_json(entry)
                count += 1
            after, more = page["next"], page["next"] is not None
    if options.after is None and not options.no_check and (missing := checker.unanchored()):
        say(missing[0])
        return EXIT_BROKEN
    print(f"{count} entries{'' if options.no_check else ', whole'}", file=sys.stderr)
    return 0
