"""What of requests and frames goes into the audit log, and the route that reads it."""

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from perdure.api.answers import answer, authority_of
from perdure.api.authority import Authority
from perdure.api.bodies import Scope
from perdure.api.door import Door
from perdure.api.fields import limit, query
from perdure.regions.audit import Audit
from perdure.replication.errors import Refusal
from perdure.replication.tenants import name_of

# How many entries one request looks at, whoever's they are: it holds up all others meanwhile.
ENTRIES_LOOKED_AT_MAX = 2_000
_TOLD = "perdure.told"
_PLACE_CHARS_MAX = 256


def begin_telling(scope: Scope) -> dict[str, Any]:
    """Where a route may say more for the log."""
    told: dict[str, Any] = {}
    scope[_TOLD] = told
    return told


def tell(request: Request, **what: Any) -> None:
    """Say more for the log, about the request that is being carried out."""
    request.scope.get(_TOLD, {}).update(what)


async def note(
    audit: Audit,
    action: str,
    authority: Authority,
    about: Sequence[str],
    told: dict[str, Any] | None = None,
) -> None:
    """Note what was done; ``about``: the session (its name inside), and what in it."""
    session, target = (*about, None, None)[:2]
    await audit.record(
        action,
        **{
            "tenant": authority.tenant,
            "actor": authority.subject,
            "grant": authority.key,
            "session": None if session is None else name_of(session),
            "target": target,
            **(told or {}),
        },
    )


def add_auditing(routes: FastAPI, door: Door) -> None:
    """``GET /v1/audit``."""

    @routes.get("/v1/audit")
    async def read_audit(request: Request) -> Response:
        """Entries of the audit log, a page at a time: for operators all, else the tenant's."""
        values = query(request.scope["query_string"], "after", "limit")
        authority = authority_of(request)
        authority.check_everywhere("admin")
        if door.guard is None:
            raise Refusal("not_found", "this region asks for no grants, and notes nobody")
        after = values.get("after")
        if after is not None and not _is_place(after):
            raise Refusal("invalid_query", "after must be as the last page gave it", field="after")
        page: list[dict[str, Any]] = []
        last, most = after, limit(values)
        for looked, (place, entry) in enumerate(door.guard.audit.entries(after)):
            if looked == ENTRIES_LOOKED_AT_MAX:
                # Of a tenant there may be few among many: whoever asks comes back for the rest.
                return answer({"entries": page, "next": last})
            if not authority.tenant or entry["tenant"] == authority.tenant:
                if len(page) == most:
                    return answer({"entries": page, "next": last})
                page.append(entry)
            last = place
        return answer({"entries": page, "next": None})


def _is_place(text: str) -> bool:
    serial, underscore, index = text.rpartition("_")
    is_short = len(text) <= _PLACE_CHARS_MAX
    return is_short and bool(serial and underscore) and index.isascii() and index.isdigit()
