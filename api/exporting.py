"""The routes that give out whole sessions as lines of JSON (PROTOCOL C.1)."""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from perdure.api.answers import answer, authority_of, no_query
from perdure.api.auditing import note
from perdure.api.door import Door
from perdure.api.fields import limit, query
from perdure.regions.exporting import export, names
from perdure.regions.node import Node
from perdure.replication.errors import Refusal
from perdure.replication.limits import EXPORTS_MAX
from perdure.replication.tenants import check_session, is_own, is_tenant

NDJSON = "application/x-ndjson"


def add_exporting(routes: FastAPI, node: Node, door: Door, version: str) -> None:
    """``…/export`` of a session for who may read it; ``/admin/api/…`` for operators."""
    running = 0

    async def counted(lines: AsyncGenerator[bytes, None], first: bytes) -> AsyncIterator[bytes]:
        nonlocal running
        running += 1
        try:
            yield first
            async for line in lines:
                yield line
        finally:
            running -= 1
            await lines.aclose()

    async def exported(session: str) -> Response:
        if running >= EXPORTS_MAX:
            raise Refusal("too_many", "so many exports are under way", retry_after_s=1)
        lines: Any = export(node, session, version)
        # What is refused is refused before an answer has begun.
        first = await anext(lines)
        return StreamingResponse(counted(lines, first), media_type=NDJSON)

    @routes.get("/v1/sessions/{s}/export")
    async def export_session(s: str, request: Request) -> Response:
        """The whole session as lines of JSON."""
        no_query(request)
        return await exported(s)

    @routes.get("/admin/api/sessions/{s}/export")
    async def export_any(s: str, request: Request) -> Response:
        """The same, of any tenant, by its name inside."""
        authority = authority_of(request)
        authority.check_operator()
        no_query(request)
        if is_own(check_session(s)):
            raise Refusal("not_found", "this is no session of anybody's")
        node.metadata(s)
        if door.guard is not None:
            await note(door.guard.audit, "session.export", authority, (s,))
        return await exported(s)

    @routes.get("/admin/api/export")
    async def list_exports(request: Request) -> Response:
        """The sessions of a tenant, or of all, by their names inside."""
        authority_of(request).check_operator()
        values = query(request.scope["query_string"], "tenant", "after", "limit")
        tenant, after = values.get("tenant"), values.get("after")
        if tenant is not None:
            tenant = "" if tenant == "-" else tenant
            if not is_tenant(tenant):
                raise Refusal("invalid_query", "tenant must be one, or -", field="tenant")
        if after is not None:
            try:
                check_session(after)
            except Refusal as refusal:
                detail = "after must be as the last page gave it"
                raise Refusal("invalid_query", detail, field="after") from refusal
        return answer(names(node, tenant, after, limit(values)))
