"""The routes of retention, for operators (PROTOCOL A.12)."""

from typing import Any

from fastapi import FastAPI, Request, Response
from perdure.api.answers import answer, authority_of, no_query, read_object
from perdure.api.auditing import note
from perdure.api.authority import Authority
from perdure.api.door import Door
from perdure.api.fields import Fields, query, whole
from perdure.regions.node import Node
from perdure.regions.retention import Retention
from perdure.replication.errors import Refusal
from perdure.replication.limits import RETENTION_AGE_S_MAX, RETENTION_AGE_S_MIN
from perdure.replication.retention import LAST_ACTIVITY, Plan, Policy
from perdure.replication.tenants import is_tenant, name_of

_FIELDS = frozenset({"age_s", "bytes", "audit_age_s", "by", "region"})
_BYTES_MAX = 2**53 - 1
# Of what would go so many are named.
_NAMED_MAX = 100


def add_retention(routes: FastAPI, node: Node, door: Door) -> None:
    """``/admin/api/retention``."""
    retention = Retention(node, None if door.guard is None else door.guard.audit)
    _add_policies(routes, node, retention, door)
    _add_plan(routes, node, retention)


def _operator(request: Request) -> Authority:
    authority = authority_of(request)
    authority.check_operator()
    return authority


def _tenant(text: str) -> str:
    """The tenant of a path; ``-`` is none."""
    tenant = "" if text == "-" else text
    if text == "" or not is_tenant(tenant):
        raise Refusal("invalid_id", "tenant must be 1 to 64 of a-z 0-9 _ -, or -", field="tenant")
    return tenant


async def _note(door: Door, action: str, authority: Authority, said: dict[str, Any]) -> None:
    """On disk before it is done."""
    if door.guard is not None:
        await note(door.guard.audit, action, authority, (), said)


def _add_policies(routes: FastAPI, node: Node, retention: Retention, door: Door) -> None:
    path = "/admin/api/retention"

    def told(tenant: str) -> Response:
        policy = retention.policies.get(tenant)
        if policy is None:
            raise Refusal("not_found", f"there is no policy for {tenant or 'no tenant'}")
        return answer(retention.told(policy))

    @routes.get(path)
    async def list_retention(request: Request) -> Response:
        """What each tenant keeps, and whether that is carried out."""
        _operator(request)
        no_query(request)
        policies = [retention.told(policy) for policy in retention.policies.values()]
        return answer({"region": node.region, "policies": policies})

    @routes.get(path + "/{tenant}")
    async def show_retention(tenant: str, request: Request) -> Response:
        """What one tenant keeps."""
        _operator(request)
        no_query(request)
        return told(_tenant(tenant))

    @routes.put(path + "/{tenant}")
    async def set_retention(tenant: str, request: Request) -> Response:
        """From now on the tenant keeps this."""
        authority = _operator(request)
        no_query(request)
        name = _tenant(tenant)
        # "by" is no name of anybody here.
        fields = Fields(await read_object(request, is_free=True), _FIELDS)
        policy = _policy(node, name, fields, authority.subject)
        # The region of an entry is whose chain it is in.
        said = {**policy.value(), "region": node.region, "decides": policy.region}
        await _note(door, "retention.set", authority, {**said, "target": tenant})
        await retention.set(policy)
        return told(name)

    @routes.delete(path + "/{tenant}", status_code=204)
    async def remove_retention(tenant: str, request: Request) -> Response:
        """From now on the tenant keeps everything."""
        authority = _operator(request)
        no_query(request)
        name = _tenant(tenant)
        told(name)
        await _note(door, "retention.remove", authority, {"tenant": name, "target": tenant})
        await retention.remove(name)
        return Response(status_code=204)


def _age_s(value: Any, name: str) -> int | None:
    return whole(value, name, RETENTION_AGE_S_MIN, RETENTION_AGE_S_MAX)


def _policy(node: Node, tenant: str, fields: Fields, by: str) -> Policy:
    policy = Policy(
        tenant=tenant,
        age_s=_age_s(fields.value("age_s"), "age_s"),
        bytes=whole(fields.value("bytes"), "bytes", 0, _BYTES_MAX),
        audit_age_s=_age_s(fields.value("audit_age_s"), "audit_age_s"),
        by=fields.text("by") or LAST_ACTIVITY,
        region=fields.text("region") or node.region,
        set_ms=node.clock.wall_ms(),
        set_by=by,
    )
    if policy.age_s is policy.bytes is policy.audit_age_s is None:
        raise Refusal("invalid_body", "give age_s, bytes or audit_age_s", field="age_s")
    if policy.by != LAST_ACTIVITY:
        raise Refusal("invalid_body", f"by must be {LAST_ACTIVITY}", field="by")
    if tenant and policy.audit_age_s is not None:
        detail = "the audit log is the regions' own: set audit_age_s for - alone"
        raise Refusal("invalid_body", detail, field="audit_age_s")
    return policy


def _add_plan(routes: FastAPI, node: Node, retention: Retention) -> None:
    planning = 0

    @routes.get("/admin/api/retention/{tenant}/plan")
    async def plan_retention(tenant: str, request: Request) -> Response:
        """What would go now, by what this region has; nothing is changed."""
        nonlocal planning
        _operator(request)
        name = _tenant(tenant)
        values = query(request.scope["query_string"], "age_s", "bytes")
        age_s, bytes_ = _number(values, "age_s"), _number(values, "bytes")
        if not values:
            policy = retention.policies.get(name)
            if policy is None:
                raise Refusal("not_found", "there is no policy: give age_s or bytes")
            age_s, bytes_ = policy.age_s, policy.bytes
        if planning:
            raise Refusal("too_many", "another plan is being made", retry_after_s=1)
        planning += 1
        try:
            plan = await retention.plan(name, age_s, bytes_)
        finally:
            planning -= 1
        return answer({"region": node.region, "tenant": tenant, **_planned(plan)})


def _number(values: dict[str, str], name: str) -> int | None:
    text = values.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 17):
        raise Refusal("invalid_query", f"{name} must be a whole number", field=name)
    return int(text)


def _planned(plan: Plan) -> dict[str, Any]:
    due = plan.due()
    return {
        "seen": plan.sessions,
        "seen_bytes": plan.bytes,
        "going": len(due),
        "going_bytes": sum(kept.bytes for kept in due),
        "sessions": [
            {
                "session": name_of(kept.session),
                "bytes": kept.bytes,
                "quiet_since_ms": kept.touched_ms,
            }
            for kept in due[:_NAMED_MAX]
        ],
    }
