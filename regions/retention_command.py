"""``perdure retention``: what tenants keep; to see, to set, to take back."""

import argparse
import re
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from perdure.regions.console import patiently, print_json, say

from perdure_client import Client

RETENTION = "show, set or remove what tenants keep: by age, and by size"
EXIT_USAGE = 2
_UNITS_S = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400, "y": 31_536_000}
_UNITS_BYTES = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_QUANTITY = re.compile(r"(\d{1,15})([a-z]{0,2})\Z", re.ASCII)
_PATH = "/admin/api/retention"
# Where no tenant is meant: sessions that are of none.
_NONE = "-"


def _quantity(text: str, units: dict[str, int], example: str) -> int:
    match = _QUANTITY.match(text.lower())
    if match is None or match[2] not in units:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number and a unit, like {example}")
    return int(match[1]) * units[match[2]]


def _age_s(text: str) -> int:
    return _quantity(text, _UNITS_S, "30d")


def _bytes(text: str) -> int:
    return _quantity(text, _UNITS_BYTES, "10GB")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    text = "with --dry-run, set and show tell what would go now, and change nothing"
    parser.add_argument("action", choices=("show", "set", "remove"), help=text)
    text = f"the tenant; {_NONE}: sessions of none (for show: all tenants)"
    parser.add_argument("tenant", nargs="?", help=text)
    text = "delete what nobody has written to for so long, like 30d"
    parser.add_argument("--age", type=_age_s, metavar="AGE", help=text)
    text = "delete what was quiet for longest until no more is left, like 10GB"
    parser.add_argument("--bytes", type=_bytes, metavar="SIZE", help=text)
    text = "delete what is older of the audit log (tenant - alone)"
    parser.add_argument("--audit-age", type=_age_s, metavar="AGE", help=text)
    text = "the region that decides (the one that answers)"
    parser.add_argument("--region", metavar="NAME", help=text)
    parser.add_argument("--dry-run", action="store_true", help="only tell what would go now")


async def run_retention(options: argparse.Namespace, client: Client) -> int:
    """Carry it out; the exit code."""
    if options.tenant is None and (options.action != "show" or options.dry_run):
        say(f"name a tenant, or {_NONE} for the sessions of none")
        return EXIT_USAGE
    async with patiently(client):
        if options.dry_run:
            return await _plan(options, client)
        if options.action == "set":
            return await _set(options, client)
        if options.action == "remove":
            await client.regions.request("DELETE", f"{_PATH}/{options.tenant}")
            print(f"{options.tenant} keeps everything from now on")
            return 0
        path = _PATH if options.tenant is None else f"{_PATH}/{options.tenant}"
        found, _ = await client.regions.request("GET", path)
    if options.json:
        print_json(found)
        return 0
    policies = found.get("policies", [found])
    for policy in policies:
        _show(policy)
    if not policies:
        print("every tenant keeps everything")
    return 0


async def _set(options: argparse.Namespace, client: Client) -> int:
    body = {"age_s": options.age, "bytes": options.bytes, "audit_age_s": options.audit_age}
    said = {name: value for name, value in body.items() if value is not None}
    if options.region is not None:
        said["region"] = options.region
    found, _ = await client.regions.request("PUT", f"{_PATH}/{options.tenant}", said)
    if options.json:
        print_json(found)
    else:
        _show(found)
        print("It is carried out in a minute or two; until then it can be taken back.")
    return 0


async def _plan(options: argparse.Namespace, client: Client) -> int:
    asked = {"age_s": options.age, "bytes": options.bytes}
    query = urlencode({name: value for name, value in asked.items() if value is not None})
    path = f"{_PATH}/{options.tenant}/plan" + (f"?{query}" if query else "")
    found, _ = await client.regions.request("GET", path)
    if options.json:
        print_json(found)
        return 0
    print(
        f"of {found['seen']:,} sessions ({found['seen_bytes']:,} bytes) {found['going']:,} would go"
        f" ({found['going_bytes']:,} bytes), by what {found['region']} has:"
    )
    for session in found["sessions"]:
        print(f"  {session['session']:<40} {session['bytes']:>12,} bytes  {_since(session)}")
    if found["going"] > len(found["sessions"]):
        print(f"  … and {found['going'] - len(found['sessions']):,} more")
    return 0


def _since(session: dict[str, Any]) -> str:
    at = datetime.fromtimestamp(session["quiet_since_ms"] / 1000, UTC)
    return f"quiet since {at:%Y-%m-%d %H:%M}Z"


def _show(policy: dict[str, Any]) -> None:
    kept = []
    if policy["age_s"] is not None:
        kept.append(f"{policy['age_s']:,} s since the last activity")
    if policy["bytes"] is not None:
        kept.append(f"{policy['bytes']:,} bytes")
    if policy["audit_age_s"] is not None:
        kept.append(f"the audit log for {policy['audit_age_s']:,} s")
    print(
        f"{policy['tenant']}: keeps {', and '.join(kept)}; {policy['region']} decides;"
        f" set {policy['set']} by {policy['set_by'] or 'nobody in particular'}"
    )
    if policy["waits"] is not None:
        print(f"  nothing is deleted now: {policy['waits']}")
    if (walk := policy["last_walk"]) is not None:
        print(
            f"  last walk {walk['at']}: {walk['seen']:,} sessions, {walk['seen_bytes']:,} bytes;"
            f" {walk['deleted']:,} deleted, {walk['kept_open']:,} kept because they are in use"
        )
