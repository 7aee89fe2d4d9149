"""The routes of shared documents."""

from fastapi import FastAPI, Request, Response
from perdure.api.answers import answer, idempotency_key, no_query, read_object
from perdure.api.fields import Fields
from perdure.regions.node import Node
from perdure.replication.errors import Refusal

PATCH_FIELDS = frozenset({"text", "json"})
APPEND_FIELDS = frozenset({"text"})


def add_documents(routes: FastAPI, node: Node) -> None:
    """``…/documents`` and what is below, but for the WebSocket."""
    path = "/v1/sessions/{s}/documents"

    @routes.get(path)
    async def documents(s: str, request: Request) -> Response:
        """The documents of the session, by id."""
        no_query(request)
        return answer(node.documents(s))

    @routes.get(path + "/{d}")
    async def document(s: str, d: str, request: Request) -> Response:
        """One document: its text, and its map."""
        no_query(request)
        return answer(node.document(s, d))

    @routes.patch(path + "/{d}")
    async def patch_document(s: str, d: str, request: Request) -> Response:
        """Make the text another one, or patch the map, or both."""
        no_query(request)
        fields = Fields(await read_object(request), PATCH_FIELDS)
        if not (fields.has("text") or fields.has("json")):
            raise Refusal("invalid_body", "text or json is needed", field="text")
        patch = fields.object("json") if fields.has("json") else None
        return answer(await node.patch_document(s, d, fields.text("text"), patch))

    @routes.post(path + "/{d}/append")
    async def append_document(s: str, d: str, request: Request) -> Response:
        """Add to the end of the text."""
        no_query(request)
        fields = Fields(await read_object(request), APPEND_FIELDS)
        text, key = fields.needed("text"), idempotency_key(request)
        return answer(await node.append_document(s, d, text, key))

    @routes.delete(path + "/{d}", status_code=204)
    async def discard_document(s: str, d: str, request: Request) -> Response:
        """The document is gone, for ever."""
        no_query(request)
        await node.discard_document(s, d)
        return Response(status_code=204)
