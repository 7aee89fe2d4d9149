"""Who comes in: from what a request brings to its standing.

A grant that was good a moment ago is not looked at again: that costs as much as the rest of an
append does here. Whether it is over, revoked, or its key gone, is looked at each time.
"""

import asyncio
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import Any, NamedTuple

from perdure.api.authority import ANYBODY, Authority
from perdure.api.bodies import Scope, header
from perdure.api.grants import Grants, UnknownKey
from perdure.api.revocations import Revocations
from perdure.api.standing import Standing, Standings
from perdure.api.tickets import Tickets
from perdure.regions.audit import Audit
from perdure.replication.errors import Refusal
from perdure.replication.hlc import wall_time

# How long a grant that was good is not looked at again; with the leeway well below a minute.
TRUST_GRANT_S = 5
TRUSTED_GRANTS_MAX = 10_000
_BEARER = "bearer."
_BROUGHT = "perdure.brought"
_TICKET = re.compile(rb"(?:^|&)ticket=([0-9a-f]{0,256})(?=&|$)")


class Guard(NamedTuple):
    """What a region that asks for grants decides by. ``hurry``: read the key set again, for a key
    that is not known; whether that was done."""

    grants: Grants
    revocations: Revocations
    tickets: Tickets
    standings: Standings
    audit: Audit
    hurry: Callable[[], Awaitable[bool]]


class Door:
    """Lets requests in. ``guard`` None: anybody may do anything."""

    def __init__(self, guard: Guard | None) -> None:
        self.guard = guard
        self._trusted: dict[str, Authority] = {}
        self._trusted_until = 0.0
        self._version = 0
        # Hashes of grants that were good when they were last looked at, the longest ago first.
        self._met: OrderedDict[bytes, None] = OrderedDict()
        # Asked before anything is looked at that is not known to be good; raises ``Refusal``.
        self.look: Callable[[Scope], None] = lambda _: None

    async def standing(self, scope: Scope, session: str | None) -> Standing:
        """Who this comes from; ``session``: the id of the session of which it opens a stream, None
        for what opens none. A ticket for that is taken out of the query.

        Raises ``Refusal`` ``unauthorized``.
        """
        if self.guard is None:
            return ANYBODYS
        guard = self.guard
        authority = await self._authority(guard, scope, session)
        if guard.standings.ends(authority, None) is not None:
            raise Refusal("unauthorized", "the grant has expired or was revoked")
        return Standing(authority, guard.standings)

    async def _authority(self, guard: Guard, scope: Scope, session: str | None) -> Authority:
        try:
            authorization = header(scope, b"authorization")
        except ValueError:
            raise Refusal("unauthorized", "Authorization is malformed or given twice") from None
        authorization = authorization or bearer_of(scope)
        if authorization is not None:
            scope[_BROUGHT] = True
        elif session is not None and (name := take_ticket(scope)):
            scope[_BROUGHT] = True
            self.look(scope)
            return guard.tickets.use(name, session)
        return await self.authority(guard, authorization, scope)

    async def authority(
        self, guard: Guard, authorization: str | None, scope: Scope | None = None
    ) -> Authority:
        """Who sends this header. Raises ``Refusal`` ``unauthorized``."""
        now = asyncio.get_running_loop().time()
        is_full = len(self._trusted) >= TRUSTED_GRANTS_MAX
        if now >= self._trusted_until or is_full or self._version != guard.grants.version:
            self._trusted.clear()
            self._trusted_until = now + TRUST_GRANT_S
            self._version = guard.grants.version
        known = self._trusted.get(authorization or "")
        if known is not None:
            return known
        tag = sha256((authorization or "").encode()).digest()
        if scope is not None and authorization is not None and tag not in self._met:
            self.look(scope)
        # One that is good no more is a guess the next time.
        self._met.pop(tag, None)
        try:
            authority = guard.grants.check(authorization)
        except UnknownKey:
            authority = await self._with_new_keys(guard, authorization)
        self._trusted[authorization or ""] = authority
        self._met[tag] = None
        if len(self._met) > TRUSTED_GRANTS_MAX:
            self._met.popitem(last=False)
        return authority

    async def renew(self, before: Authority, grant: str) -> dict[str, Any]:
        """Let what stands on one grant stand on another of the same subject. Raises ``Refusal``."""
        if self.guard is None:
            raise Refusal("not_found", "this region asks for no grants")
        authority = await self.authority(self.guard, f"Bearer {grant}")
        if self.guard.standings.ends(authority, None) is not None:
            raise Refusal("unauthorized", "the grant has expired or was revoked")
        return self.renewed(self.guard, before.token, authority)

    @staticmethod
    def renewed(guard: Guard, token: str, authority: Authority) -> dict[str, Any]:
        """The same, for a grant that is named by its hash; the answer."""
        count = guard.standings.renew(token, authority)
        assert authority.expires is not None
        return {"renewed": count, "expires": wall_time(int(authority.expires * 1000))}

    async def _with_new_keys(self, guard: Guard, authorization: str | None) -> Authority:
        try:
            if await guard.hurry():
                return guard.grants.check(authorization)
        except UnknownKey:
            pass
        raise Refusal("unauthorized", "the grant is not valid")


def brings_any(scope: Scope) -> bool:
    """Whether a request brought anything by which it might have been let in."""
    return _BROUGHT in scope or any(name == b"authorization" for name, _ in scope["headers"])


def bearer_of(scope: Scope) -> str | None:
    """The grant that a browser sends among the subprotocols, as the header would say it."""
    for name in scope.get("subprotocols", ()):
        if name.startswith(_BEARER):
            return f"Bearer {name[len(_BEARER) :]}"
    return None


def take_ticket(scope: Scope) -> str | None:
    """The ticket of the query, which is taken out of it."""
    raw: bytes = scope["query_string"]
    found = _TICKET.findall(raw)
    if len(found) != 1:
        return None
    # Without what may be left of the separator before it.
    scope["query_string"] = _TICKET.sub(b"", raw).removeprefix(b"&")
    name: str = found[0].decode()
    return name


class _Nothing:
    """Where anybody may come in nothing ends."""

    version = 0
    leeway_s = 0

    is_restless = False

    def knows(self, _: str | None) -> bool:
        """Whatever it is."""
        return True

    def names(self, _: Authority, __: str | None) -> bool:
        """Nothing is revoked."""
        return False


ANYBODYS = Standing(ANYBODY, Standings(_Nothing(), _Nothing(), lambda: 0.0))
