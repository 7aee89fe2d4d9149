"""The routes about grants: tickets, renewal, API keys and what they mint, revocations."""

from typing import Any

from fastapi import FastAPI, Request, Response
from perdure.api.answers import answer, authority_of, no_query, read_object
from perdure.api.api_keys import KEY_FIELDS, TOKEN_FIELDS, ApiKeys, check_tenant
from perdure.api.auditing import tell
from perdure.api.authority import Authority
from perdure.api.bodies import header
from perdure.api.door import Door, Guard
from perdure.api.fields import Fields, query
from perdure.api.grants import tag_of
from perdure.api.revocations import KINDS
from perdure.regions.node import Node
from perdure.replication.errors import Refusal
from perdure.replication.hlc import wall_time
from perdure.replication.ids import check_id
from perdure.replication.limits import TICKET_S_MAX

_REVOKE_FIELDS = frozenset({*KINDS, "tenant"})
_NAME_CHARS_MAX = 256


def add_granting(routes: FastAPI, node: Node, door: Door, keys: ApiKeys | None) -> None:
    """``…/tickets``, ``/v1/grants/renew``, ``/v1/tokens``, ``/v1/keys``, ``/v1/revocations``."""
    _add_streams(routes, node, door)
    _add_keys(routes, node, door, keys)
    _add_revocations(routes, node, door)


def _guard(door: Door) -> Guard:
    if door.guard is None:
        raise Refusal("not_found", "this region asks for no grants")
    return door.guard


def _administrator(request: Request) -> Authority:
    """The caller, who may administer a tenant."""
    authority = authority_of(request)
    authority.check_everywhere("admin")
    return authority


def _tenant(request: Request) -> str:
    """The tenant that is asked about."""
    named = query(request.scope["query_string"], "tenant").get("tenant")
    return check_tenant(named, _administrator(request))


def _add_streams(routes: FastAPI, node: Node, door: Door) -> None:
    @routes.post("/v1/sessions/{s}/tickets", status_code=201)
    async def give_ticket(s: str, request: Request) -> Response:
        """A ticket with which a browser opens one stream of this session, soon."""
        no_query(request)
        Fields(await read_object(request, empty=True), frozenset())
        ticket = _guard(door).tickets.give(authority_of(request), s)
        until = wall_time(node.clock.wall_ms() + TICKET_S_MAX * 1000)
        return answer({"ticket": ticket, "expires": until}, 201)

    @routes.post("/v1/grants/renew")
    async def renew_grant(request: Request) -> Response:
        """Let what goes on in this region under a grant go on under the one that this brings."""
        no_query(request)
        before = Fields(await read_object(request), frozenset({"grant"})).needed("grant")
        return answer(door.renewed(_guard(door), tag_of(before), authority_of(request)))


def _add_keys(routes: FastAPI, node: Node, door: Door, keys: ApiKeys | None) -> None:
    def known() -> ApiKeys:
        if keys is None:
            raise Refusal("not_found", "this region asks for no grants")
        return keys

    @routes.post("/v1/tokens", status_code=201)
    async def mint_grant(request: Request) -> Response:
        """A grant that an API key may give."""
        no_query(request)
        try:
            authorization = header(request.scope, b"authorization")
        except ValueError:
            authorization = None
        try:
            id_, value = known().find(authorization)
        except Refusal as refusal:
            if node.readiness() == "catching_up":
                # Its keys may not have come yet: the key may be a good one.
                detail = "this region is not caught up yet"
                raise Refusal("catching_up", detail, retry_after_s=1) from refusal
            raise
        fields = Fields(await read_object(request, empty=True), TOKEN_FIELDS)
        now_s = node.clock.wall_ms() / 1000
        claims = known().claims(id_, value, fields, now_s)
        grant = _guard(door).grants.mint(claims)
        tell(request, actor=id_, tenant=claims["tenant"], target=claims["sub"], grant=claims["jti"])
        expires = wall_time(claims["exp"] * 1000)
        return answer({"grant": grant, "id": claims["jti"], "expires": expires}, 201)

    @routes.post("/v1/keys", status_code=201)
    async def make_key(request: Request) -> Response:
        """A new API key; it is told this once."""
        no_query(request)
        caller = _administrator(request)
        fields = Fields(await read_object(request), KEY_FIELDS)
        tenant = check_tenant(fields.text("tenant"), caller)
        at = wall_time(node.clock.wall_ms())
        made = await known().make(tenant, fields, caller.subject, at)
        tell(request, tenant=tenant, target=made.value["id"])
        return answer({**made.value, "key": made.key}, 201)

    @routes.get("/v1/keys")
    async def list_keys(request: Request) -> Response:
        """The API keys of a tenant: the caller's, or any for operators."""
        return answer({"keys": await known().listed(_tenant(request))})

    @routes.delete("/v1/keys/{k}", status_code=204)
    async def remove_key(k: str, request: Request) -> Response:
        """Forget an API key, and revoke what it has minted."""
        caller, tenant = _administrator(request), _tenant(request)
        await known().remove(tenant, k, node.clock.wall_ms() / 1000, caller.subject)
        tell(request, tenant=tenant, target=k)
        return Response(status_code=204)


def _add_revocations(routes: FastAPI, node: Node, door: Door) -> None:
    @routes.post("/v1/revocations", status_code=201)
    async def revoke(request: Request) -> Response:
        """Have a grant, a subject, a session or an API key be good no more, in all regions."""
        no_query(request)
        caller = _administrator(request)
        fields = Fields(await read_object(request), _REVOKE_FIELDS)
        tenant = check_tenant(fields.text("tenant"), caller)
        kind, name = _meant(fields)
        at_s = node.clock.wall_ms() / 1000
        value = await _guard(door).revocations.add((kind, tenant, name), at_s, caller.subject)
        _guard(door).standings.look()
        tell(request, tenant=tenant, target=f"{kind} {name}")
        return answer(_shown(value), 201)

    @routes.get("/v1/revocations")
    async def list_revocations(request: Request) -> Response:
        """What is revoked of a tenant, the newest first: the caller's, or any for operators."""
        found = await _guard(door).revocations.listed(_tenant(request))
        return answer({"revocations": [_shown(value) for value in found]})


def _meant(fields: Fields) -> tuple[str, str]:
    named = [(kind, name) for kind in KINDS if (name := fields.text(kind)) is not None]
    if len(named) != 1:
        raise Refusal("invalid_body", f"give one of {', '.join(KINDS)}", field=KINDS[0])
    kind, name = named[0]
    if kind == "session":
        check_id(name, "session")
    if not 0 < len(name) <= _NAME_CHARS_MAX:
        detail = f"{kind} must have 1 to {_NAME_CHARS_MAX} characters"
        raise Refusal("invalid_body", detail, field=kind)
    return kind, name


def _shown(value: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": value["id"],
        value["kind"]: value["name"],
        "at": wall_time(int(value["at"] * 1000)),
        "by": value["by"],
    }
