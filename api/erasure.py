"""The routes by which one asks whether what was deleted is gone."""

from fastapi import FastAPI, Request, Response
from perdure.api.answers import answer, authority_of, no_query, read_object
from perdure.api.api_keys import check_tenant
from perdure.api.auditing import tell
from perdure.api.fields import Fields, query
from perdure.regions.forgetting import Forgetter
from perdure.regions.node import Node
from perdure.replication.errors import Refusal

_FIELDS = frozenset({"subject", "tenant"})
_NAME_CHARS_MAX = 256


def add_erasure(routes: FastAPI, node: Node) -> None:
    """``…/erasure`` of sessions, messages and documents; ``/v1/erasures`` of subjects."""
    _add_subjects(routes, Forgetter(node))
    path = "/v1/sessions/{s}"

    @routes.get(path + "/erasure")
    async def session_erasure(s: str, request: Request) -> Response:
        """Whether every region has made the deleted session gone."""
        no_query(request)
        return answer(node.erasure(s))

    @routes.get(path + "/messages/{m}/erasure")
    async def message_erasure(s: str, m: str, request: Request) -> Response:
        """Whether every region has made the deleted message gone."""
        no_query(request)
        return answer(node.erasure(s, message=m))

    @routes.get(path + "/documents/{d}/erasure")
    async def document_erasure(s: str, d: str, request: Request) -> Response:
        """Whether every region has made the deleted document gone."""
        no_query(request)
        return answer(node.erasure(s, document=d))


def _add_subjects(routes: FastAPI, forgetter: Forgetter) -> None:
    @routes.post("/v1/erasures", status_code=202)
    async def erase_subject(request: Request) -> Response:
        """Erase what a subject has written, in all sessions of its tenant."""
        no_query(request)
        caller = authority_of(request)
        caller.check_everywhere("admin")
        fields = Fields(await read_object(request), _FIELDS)
        subject = fields.needed("subject")
        if not 0 < len(subject) <= _NAME_CHARS_MAX:
            detail = f"subject must have 1 to {_NAME_CHARS_MAX} characters"
            raise Refusal("invalid_body", detail, field="subject")
        tenant = check_tenant(fields.text("tenant"), caller)
        value = await forgetter.ask(tenant, subject, caller.subject)
        tell(request, tenant=tenant, target=subject)
        return answer(value, 202)

    @routes.get("/v1/erasures/{e}")
    async def subject_erasure(e: str, request: Request) -> Response:
        """How far the erasure of a subject is."""
        values = query(request.scope["query_string"], "tenant")
        caller = authority_of(request)
        caller.check_everywhere("admin")
        return answer(forgetter.told(check_tenant(values.get("tenant"), caller), e))
