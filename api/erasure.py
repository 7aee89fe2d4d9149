"""The routes by which one asks whether what was deleted is gone."""

from fastapi import FastAPI, Request, Response
from perdure.api.answers import answer, no_query
from perdure.regions.node import Node


def add_erasure(routes: FastAPI, node: Node) -> None:
    """``…/erasure`` of sessions, messages and documents."""
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
