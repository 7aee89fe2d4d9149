"""``perdure token``: grants made and looked into on the command line."""

import argparse
import json
import sys
from typing import Any

from perdure.api.authority import VERBS, Unreadable, read_can, read_names
from perdure.api.grants import Expected, Grants, UnknownKey, read_unchecked, secret_id
from perdure.regions.clock import SystemClock
from perdure.regions.config import JWT_SECRET, ConfigError, read_secrets
from perdure.replication.errors import Refusal
from perdure.replication.hlc import wall_time
from perdure.replication.tenants import is_tenant

EXPIRES_S = 3_600
_MINT = (
    f"Mint a grant with the secret of {JWT_SECRET} (or the first line of the file that"
    f" {JWT_SECRET}_FILE names) and print it. Verbs: {', '.join(VERBS)}, or all."
)
_CODES = "Exit codes: 0 made, or good; 1 not good, 2 wrong arguments, 3 not checked."
_INSPECT = "Say what a grant says, and whether the secret of this environment has signed it."


def add_token(commands: Any) -> None:
    """``perdure token mint`` and ``perdure token inspect``."""
    text = "make grants, and look into them"
    token = commands.add_parser("token", help=text, description=text, epilog=_CODES)
    kinds = token.add_subparsers(title="commands", metavar="COMMAND", required=True)
    minting = kinds.add_parser("mint", help="make a grant", description=_MINT, epilog=_CODES)
    minting.add_argument("--subject", required=True, metavar="NAME", help="who it is for")
    minting.add_argument(
        "--can",
        action="append",
        required=True,
        metavar="PATTERN=VERB,…",
        help="verbs on a session, or on those that begin with a text and *; once for each",
    )
    minting.add_argument("--tenant", default="", metavar="NAME", help="whose sessions")
    minting.add_argument(
        "--as",
        action="append",
        dest="names",
        metavar="NAME",
        help="producers, members and authors that it may be (the subject, and subject~…)",
    )
    minting.add_argument(
        "--expires-s",
        type=int,
        default=EXPIRES_S,
        metavar="SECONDS",
        help=f"how long it is good ({EXPIRES_S})",
    )
    minting.add_argument("--id", metavar="NAME", help="its jti, by which it can be revoked")
    minting.add_argument("--audience", metavar="NAME", help="aud, where regions ask for one")
    minting.add_argument("--issuer", metavar="NAME", help="iss, where regions ask for one")
    minting.add_argument("--json", action="store_true", help="print it with its claims")
    minting.set_defaults(run=_mint)
    looking = kinds.add_parser(
        "inspect", help="what a grant says", description=_INSPECT, epilog=_CODES
    )
    looking.add_argument("grant", nargs="?", default="-", help="the grant, or - for standard input")
    looking.add_argument("--audience", metavar="NAME", help="the aud that is asked for")
    looking.add_argument("--issuer", metavar="NAME", help="the iss that is asked for")
    looking.add_argument("--json", action="store_true", help="print JSON")
    looking.set_defaults(run=_inspect)


def parse_can(texts: list[str]) -> dict[str, list[str]]:
    """``PATTERN=VERB,…`` texts as the claim; ``ConfigError`` names the wrong one."""
    found: dict[str, list[str]] = {}
    for text in texts:
        pattern, equals, verbs = text.partition("=")
        listed = list(VERBS) if verbs == "all" else verbs.split(",")
        try:
            read_can({pattern: listed})
        except Unreadable as error:
            raise ConfigError(f"--can {text!r}: {error}") from error
        if not equals:
            raise ConfigError(f"--can {text!r} must be PATTERN=VERB,…")
        found[pattern] = sorted({*found.get(pattern, ()), *listed}, key=VERBS.index)
    return found


def _mint(options: argparse.Namespace) -> int:
    secrets = read_secrets(JWT_SECRET)
    if not secrets:
        raise ConfigError(f"set {JWT_SECRET} (or {JWT_SECRET}_FILE): the secret of the regions")
    if not is_tenant(options.tenant):
        raise ConfigError(f"--tenant {options.tenant!r} must be 1 to 64 of a-z 0-9 _ -")
    if options.expires_s < 1:
        raise ConfigError(f"--expires-s {options.expires_s} must be 1 or more")
    now_s = SystemClock().wall_ms() // 1000
    claims: dict[str, Any] = {"sub": options.subject, "can": parse_can(options.can)}
    try:
        claims["as"] = list(read_names(options.names, options.subject))
    except Unreadable as error:
        raise ConfigError(f"--as: {error}") from error
    if options.tenant:
        claims["tenant"] = options.tenant
    if options.id:
        claims["jti"] = options.id
    claims |= {"iat": now_s, "exp": now_s + options.expires_s}
    grant = Grants(secrets, Expected(options.audience, options.issuer)).mint(claims)
    print(json.dumps({"grant": grant, "claims": claims}) if options.json else grant)
    return 0


def _inspect(options: argparse.Namespace) -> int:
    token = sys.stdin.read().strip() if options.grant == "-" else options.grant
    token = token.removeprefix("Bearer ").strip()
    try:
        header, claims = read_unchecked(token)
    except ValueError as error:
        print(f"perdure: it is no grant: {error}", file=sys.stderr)
        return 1
    code, verdict = _verdict(token, Expected(options.audience, options.issuer))
    if options.json:
        print(json.dumps({"header": header, "claims": claims, "verdict": verdict}))
        return code
    for name, value in {**header, **claims}.items():
        is_time = name in ("exp", "iat", "nbf") and isinstance(value, int | float)
        shown = f"{value} ({wall_time(int(value * 1000))})" if is_time else json.dumps(value)
        print(f"{name + ':':8} {shown}")
    print(f"{'':8} {verdict}")
    return code


def _verdict(token: str, expected: Expected) -> tuple[int, str]:
    secrets = read_secrets(JWT_SECRET)
    if not secrets:
        return 3, f"not checked: set {JWT_SECRET} to have the signature looked at"
    try:
        Grants(secrets, expected).check(f"Bearer {token}")
    except Refusal as refusal:
        return 1, f"not good: {refusal.detail}"
    except UnknownKey:
        return 1, "not checked: it is signed by a key of a key set"
    return 0, f"good: signed with the secret {', '.join(map(secret_id, secrets))}"
