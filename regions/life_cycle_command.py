"""``perdure drain`` and ``perdure region forget``: taking a region out, for a while or for good."""

import argparse
import asyncio
from typing import Any

from perdure.regions.console import patiently, print_json, say

from perdure_client import Client

EXIT_NOT_YET = 1
EXIT_USAGE = 2
WAIT_S = 60.0
CODES_DRAIN = (
    "Exit codes: 0 done, 1 refused, or not drained in time, 2 wrong arguments, 3 the region does"
    " not answer, 130 interrupted."
)
_LOOK_EVERY_S = 0.5


def add_drain_options(parser: argparse.ArgumentParser) -> None:
    """The flags of ``drain``."""
    parser.add_argument("--undo", action="store_true", help="serve again")
    parser.add_argument(
        "--wait",
        action="store_true",
        help="until its readers have left, and the other regions have what it accepted",
    )
    parser.add_argument(
        "--wait-s", type=float, default=WAIT_S, help=f"at most so long ({WAIT_S:.0f})"
    )


def add_forget_options(parser: argparse.ArgumentParser) -> None:
    """The flags of ``region forget``."""
    parser.add_argument("region", metavar="NAME")
    parser.add_argument(
        "--confirm", required=True, metavar="NAME", help="the name again: nothing takes this back"
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="though it is at work: what it alone has accepted is lost",
    )


async def drain(options: argparse.Namespace, client: Client) -> int:
    """Drain one region, or take that back."""
    if len(client.regions.urls) > 1 or (options.undo and options.wait):
        say("--undo does not wait" if options.wait else "drain is for one region: give one --url")
        return EXIT_USAGE
    loop = asyncio.get_running_loop()
    deadline = loop.time() + options.wait_s
    async with patiently(client):
        told = await _asked(client, undo=options.undo)
    while options.wait and not _is_over(told) and loop.time() < deadline:
        await asyncio.sleep(_LOOK_EVERY_S)
        told = await _asked(client, undo=False)
    if options.json:
        print_json(told)
    else:
        print(_in_words(told), flush=True)
    return 0 if not options.wait or _is_over(told) else EXIT_NOT_YET


async def _asked(client: Client, *, undo: bool) -> dict[str, Any]:
    return await client.admin.post("drain", {"undo": undo})


def _is_over(told: dict[str, Any]) -> bool:
    return bool(told["flushed"]) and not told["readers"]


def _in_words(told: dict[str, Any]) -> str:
    if told["flushed"] is None:
        state = told["state"] or "ready"
        return f"{told['region']} is not drained any more: {state}"
    has = "have" if told["flushed"] else "do not have yet"
    return (
        f"{told['region']} is draining: {told['readers']} readers are still here, and the regions"
        f" that are up {has} all that it accepted"
    )


async def forget(options: argparse.Namespace, client: Client) -> int:
    """Remove a region for good."""
    if options.confirm != options.region:
        say(f"--confirm {options.confirm} is not {options.region}")
        return EXIT_USAGE
    async with patiently(client):
        told = await client.admin.post(
            f"regions/{options.region}/forget",
            {"confirm": options.confirm, "force": options.force},
        )
    if options.json:
        print_json(told)
    else:
        print(f"{told['region']} is removed for good, since {told['at']}", flush=True)
    return 0
