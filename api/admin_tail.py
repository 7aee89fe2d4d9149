"""What is said in a session, as it comes: ``GET /admin/api/sessions/{s}/events``, for operators.

The events are those of its readers. That an operator reads along is in the audit log first.
"""

import asyncio
import contextlib

from fastapi import FastAPI, Request, Response
from perdure.api.admin_actions import Acting
from perdure.api.admin_live import Looking
from perdure.api.answers import authority_of
from perdure.api.bodies import Receive, Scope, Send, until_gone
from perdure.api.door import Door
from perdure.api.fields import query
from perdure.api.hot import tell
from perdure.api.standing import Needs, standing_of
from perdure.regions.fanout import Reader
from perdure.regions.node import Node
from perdure.replication.errors import Refusal
from perdure.replication.tenants import check_session, is_own

_NEEDS = Needs(frozenset({"admin"}))


class Tail(Response):
    """The events of a reader, until its client leaves or its grant is over."""

    def __init__(self, node: Node, looking: Looking, reader: Reader) -> None:
        super().__init__()
        self._node = node
        self._looking = looking
        self._reader = reader

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        reader = self._reader
        with (
            contextlib.closing(reader),
            self._looking.one_more(),
            standing_of(scope).held(None, reader.expire_grant, _NEEDS),
        ):
            gone = asyncio.ensure_future(until_gone(receive))
            await tell(self._node, reader, gone, send, [])


def add_tail(routes: FastAPI, node: Node, door: Door, looking: Looking) -> None:
    """The route."""
    acting = Acting(node, door)

    @routes.get("/admin/api/sessions/{s}/events")
    async def admin_events(s: str, request: Request) -> Response:
        """Read along in a session, of any tenant."""
        authority_of(request).check_operator()
        cursor = query(request.scope["query_string"], "cursor").get("cursor")
        if is_own(check_session(s)):
            raise Refusal("not_found", "this is no session of anybody's")
        node.metadata(s)
        looking.check_room()
        await acting.note(request, "session.read", s)
        return Tail(node, looking, node.subscribe(s, cursor))
