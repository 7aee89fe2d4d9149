"""Puts together what a region decides by who may come in."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from perdure.api.api_keys import ApiKeys
from perdure.api.door import Door, Guard
from perdure.api.grants import Expected, Grants, Keys
from perdure.api.revocations import Cut, Revocations
from perdure.api.standing import Standings
from perdure.api.tickets import Tickets
from perdure.regions.audit import Audit
from perdure.regions.config import Config
from perdure.regions.key_sets import KeySet
from perdure.regions.node import Node


async def _no_key_set() -> bool:
    return False


class Rules(NamedTuple):
    """How grants are checked here. ``cut_age_s``: while another region cannot be heard, grants
    that are older are good no more (None: they are); ``hurry`` reads the key set again."""

    grants: Grants
    cut_age_s: int | None = None
    hurry: Callable[[], Awaitable[bool]] = _no_key_set


def rules_of(config: Config, node: Node) -> Rules | None:
    """The rules that a region is configured with; its keys are read from now on, in a running
    loop."""
    if config.no_auth:
        return None
    expected = Expected(config.jwt_audience, config.jwt_issuer, config.jwt_leeway_s)
    grants = Grants(config.jwt_secrets, expected)
    if config.jwks is None:
        return Rules(grants, config.cut_off_grant_age_s)
    keys = KeySet(config.jwks, lambda text: grants.take(Keys.read(text)), node.storage, node.clock)
    keys.recall()
    node.beside(keys.run(), "perdure-keys")
    return Rules(grants, config.cut_off_grant_age_s, keys.hurry)


def minting(node: Node, rules: Rules | None) -> Callable[[Mapping[str, Any], int], str] | None:
    """Mints grants that are good for so many seconds from now; None where none are asked for."""
    if rules is None:
        return None
    grants = rules.grants

    def mint(claims: Mapping[str, Any], ttl_s: int) -> str:
        now_s = node.clock.wall_ms() // 1000
        return grants.mint({**claims, "iat": now_s, "exp": now_s + ttl_s})

    return mint


def build_door(node: Node, rules: Rules | None) -> tuple[Door, ApiKeys | None]:
    """The door of a region, and its API keys; without rules anybody may come in."""
    if rules is None:
        return Door(None), None

    def now_s() -> float:
        return node.clock.wall_ms() / 1000

    revocations = Revocations(node, Cut(rules.cut_age_s, node.is_cut_off, now_s))
    standings = Standings(rules.grants, revocations, now_s)
    node.each_second.append(standings.look)
    tickets = Tickets(node.entropy, lambda: node.clock.monotonic_ms() / 1000)
    audit = Audit(node)
    guard = Guard(rules.grants, revocations, tickets, standings, audit, rules.hurry)
    return Door(guard), ApiKeys(node, node.entropy, revocations)
