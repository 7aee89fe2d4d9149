"""The front of the edge: grants, path checks, hot paths, and problems for whatever goes wrong.

Raw ASGI, for its cost: every request passes here, and the hot ones end here.
"""

import logging
from collections.abc import Awaitable, Callable
from urllib.parse import unquote_to_bytes

from perdure.api.bodies import Disconnected, Message, Receive, Scope, Send, header
from perdure.api.grants import Grants
from perdure.api.hot import append_tokens, events, respond
from perdure.api.problems import Problem, problem
from perdure.api.stream import stream
from perdure.regions.node import Node
from perdure.regions.ports import StorageError
from perdure.replication.errors import Refusal
from perdure.replication.ids import check_id

log = logging.getLogger("perdure.api")

ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
_OPEN_PATHS = frozenset({"/livez", "/readyz", "/version"})
_ID_AT = {3: "session", 5: "message"}


class Edge:
    """Checks a request and carries it out, or hands it on to the other routes."""

    def __init__(self, node: Node, grants: Grants | None, routes: ASGIApp) -> None:
        self._node = node
        self._grants = grants
        self._routes = routes
        self._headers = [
            (b"perdure-region", node.region.encode()),
            (b"x-content-type-options", b"nosniff"),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            await self._routes(scope, receive, send)
        elif scope["type"] == "http":
            await self._request(scope, receive, send)
        else:
            # No WebSocket is served here yet: refuse the handshake.
            await send({"type": "websocket.close", "code": 1008})

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._route(scope, receive, watched)
        except Disconnected:
            return
        except Exception as error:
            if not isinstance(error, Refusal | StorageError):
                log.exception("%s failed", scope["method"])
            if started:
                # Too late for a problem: the answer ends short, and the client sees that.
                return
            await self._refuse(send, problem(error))

    async def _refuse(self, send: Send, found: Problem) -> None:
        headers = [(k.encode(), v.encode()) for k, v in found.headers] + self._headers
        if found.status in (408, 413):
            # The rest of the body is not read: the connection cannot be used again.
            headers.append((b"connection", b"close"))
        await respond(send, found.status, found.encode(), headers)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._grants is not None and scope["path"] not in _OPEN_PATHS:
            try:
                authorization = header(scope, b"authorization")
            except ValueError:
                authorization = None
            self._grants.check(authorization)
        parts = _parts(scope)
        method = scope["method"]
        if len(parts) == 7 and parts[4] == "messages" and method == "POST":
            if parts[6] == "tokens":
                await append_tokens(
                    self._node, scope, receive, send, parts[3], parts[5], self._headers
                )
                return
            if parts[6] == "stream":
                await stream(self._node, scope, receive, send, parts[3], parts[5], self._headers)
                return
        if len(parts) == 5 and parts[4] == "events" and method == "GET":
            await events(self._node, scope, receive, send, parts[3], self._headers)
            return
        await self._routes(scope, receive, self._marked(send))

    def _marked(self, send: Send) -> Send:
        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self._headers]
            await send(message)

        return marked


def _parts(scope: Scope) -> list[str]:
    """The segments of a session's path, each decoded by itself and its ids checked, so that an
    encoded slash is part of a bad id and never of the path."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    if not raw.startswith(b"/v1/sessions/"):
        return []
    parts = [unquote_to_bytes(part).decode("utf-8", "replace") for part in raw.split(b"/")]
    for at, name in _ID_AT.items():
        if at < len(parts) and (at == 3 or parts[4] == "messages"):
            check_id(parts[at], name)
    return parts
