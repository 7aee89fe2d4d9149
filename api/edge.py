"""The front of the edge: grants, path checks, hot paths, and problems for whatever goes wrong.

Raw ASGI, for its cost: every request passes here, and the hot ones end here.
"""

import contextlib
import logging
import re
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from urllib.parse import unquote_to_bytes

from perdure.api import admin_page
from perdure.api.auditing import begin_telling, note
from perdure.api.bodies import Disconnected, Message, Receive, Scope, Send, trace_of
from perdure.api.connecting import connected
from perdure.api.counting import Counting, Told, begin, count_error, place_of
from perdure.api.document_sockets import serve_document
from perdure.api.door import ANYBODYS, Door, brings_any
from perdure.api.fields import query
from perdure.api.gate import Gate
from perdure.api.hot import append_tokens, events
from perdure.api.needs import audited, of_request
from perdure.api.poll import Polls
from perdure.api.problems import problem
from perdure.api.rates import Meter
from perdure.api.refusing import refuse
from perdure.api.socket_frames import refuse_socket
from perdure.api.sockets import Sockets
from perdure.api.standing import Needs, Standing, give, standing_of
from perdure.api.stream import stream
from perdure.api.work import work_feed
from perdure.regions.documents import Seat
from perdure.regions.guard_headers import guarded
from perdure.regions.meters import Queue
from perdure.regions.node import Node
from perdure.regions.ports import StorageError
from perdure.regions.tracing import CURRENT
from perdure.replication.errors import Refusal
from perdure.replication.ids import check_id
from perdure.replication.limits import POLLS_KEPT_MAX, REQUESTS_WAITING_MAX, SOCKETS_MAX
from perdure.replication.tenants import session_key

log = logging.getLogger("perdure.api")

Headers = list[tuple[bytes, bytes]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
# Probes, which know no secret, and who this is.
OPEN_PATHS = frozenset({"/livez", "/readyz", "/version"})
# What tells how a region is, also while it serves nobody.
WATCHED_PATHS = frozenset({"/metrics"})
# Where an API key stands for a grant.
KEYED_PATHS = frozenset({"/v1/tokens"})
_COUNTED = ("/v1/", "/admin/api/")
_OPERATING = "/admin/"
_SESSIONS = "/v1/sessions/"
# What the segment after these names.
_NAMED = {"documents": "document", "messages": "message", "presence": "member", "runs": "run"}
_FEED = re.compile(rb"/v1/agents/([^/]*)/runs")
_CLOSED = frozenset({"starting", "draining"})
_HOT = {(5, "events"): "GET", (5, "poll"): "GET", (7, "tokens"): "POST", (7, "stream"): "POST"}


class Edge:
    """Checks a request and carries it out, or hands it on to the other routes."""

    def __init__(
        self,
        node: Node,
        door: Door,
        routes: ASGIApp,
        meter: Meter,
        headers: list[tuple[bytes, bytes]],
        open_under: str | None = None,
    ) -> None:
        """``headers`` go with every answer; ``open_under``: whatever is below this path is given
        without a grant."""
        self._node = node
        self._open_under = open_under
        self._door = door
        self._routes = routes
        self._meter = meter
        self._counting = Counting(node)
        self._gate = Gate()
        self._polls = Polls(node)
        self._sockets = Sockets(node, door)
        self._headers = headers
        node.meters.queues.append(self.queues)

    def queues(self) -> list[Queue]:
        """What waits here, or is open."""
        return [
            Queue("requests", self._gate.waiting, REQUESTS_WAITING_MAX),
            Queue("sockets", self._sockets.count, SOCKETS_MAX),
            Queue("polls", self._polls.kept, POLLS_KEPT_MAX),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            await self._routes(scope, receive, send)
        elif scope["type"] == "http":
            await self._request(scope, receive, send)
        else:
            await self._socket(scope, receive, send)

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.ExitStack() as going_on:
            await self._serve_socket(scope, receive, send, going_on)

    async def _serve_socket(
        self, scope: Scope, receive: Receive, send: Send, going_on: contextlib.ExitStack
    ) -> None:
        key = None
        try:
            parts = _parts(scope)
            standing = await self._admit(scope, parts)
            is_document = parts[4:5] == ["documents"] and parts[6:] in ([], ["ws"])
            if not ((is_document and len(parts) > 5) or parts[4:] == ["ws"]):
                raise Refusal("not_found", "there is no WebSocket at this path")
            key = standing.check(parts[3], "read" if is_document else None)
            query(scope["query_string"])
            self._sockets.check_room()
            kind = "document" if is_document else "websocket"
            going_on.enter_context(self._connected(scope, standing, kind, key))
            headers = await self._count(scope, standing, None)
            seat = self._seat(standing, parts, key) if is_document else None
        except Exception as error:
            if not isinstance(error, Refusal | StorageError):
                where = scope.get("raw_path")
                log.exception("handshake of %r failed", where, extra={"session": key})
            self._counting.shaken(problem(error).status, error)
            if isinstance(error, Refusal) and error.code == "unauthorized":
                self._note_guess(scope)
            await refuse_socket(error, self._headers, send)
            return
        self._counting.shaken(101)
        if seat is None:
            await self._sockets.serve(scope, receive, send, parts[3], headers)
            return
        verbs = {"read", *(["write"] * seat.may_write), *(["presence"] * seat.is_seen)}
        with (
            self._sockets.counted(),
            standing.held(key, seat.end, Needs(frozenset(verbs))),
        ):
            await serve_document(self._node, seat, scope, receive, send, headers)

    def _seat(self, standing: Standing, parts: list[str], key: str) -> Seat:
        verbs = standing.authority.verbs(parts[3])
        may_write, is_seen = "write" in verbs, "presence" in verbs
        return self._node.join_document(key, parts[5], may_write=may_write, is_seen=is_seen)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False
        told = begin(scope)

        async def watched(message: Message) -> None:
            nonlocal started
            if not started:
                started = True
                self._counting.answered(scope, told, message["status"])
                if message["status"] == HTTPStatus.UNAUTHORIZED:
                    self._note_guess(scope)
            await send(message)

        if scope["method"] == "POST" and (trace := trace_of(scope)) is not None:
            CURRENT.set(trace)
        try:
            await self._route(scope, told, receive, watched)
        except Disconnected:
            return
        except Exception as error:
            if not isinstance(error, Refusal | StorageError):
                # As bytes and quoted: nothing in a path can forge a line of the log.
                where = (scope["method"], scope.get("raw_path"))
                log.exception("%s %r failed", *where, extra=told.place())
            known, told.error = told.error, error
            if started:
                # What the routes have answered with a problem is counted.
                if known is not error:
                    count_error(self._node, error)
                # Too late for a problem: the answer ends short, and the client sees that.
                return
            await refuse(error, self._headers, receive, watched)

    async def _route(self, scope: Scope, told: Told, receive: Receive, send: Send) -> None:
        if self._is_open(scope["path"]):
            await self._routes(scope, receive, _marked(send, self._headers))
            return
        try:
            parts = told.parts = _parts(scope)
        except Refusal:
            # Who has no grant is told that, whatever the path.
            standing = await self._admit(scope, [])
            await self._count(scope, standing, None)
            raise
        standing = await self._admit(scope, parts)
        try:
            parts = told.parts = self._allowed(scope, standing, parts)
        except Refusal:
            # It is the caller who asked: nothing is taken from a session that is not theirs.
            await self._count(scope, standing, None)
            raise
        if (agent := _agent_of(scope)) is not None:
            agent = session_key(standing.authority.tenant, agent)
            headers = await self._count(scope, standing, None)
            with self._connected(scope, standing, "work", None):
                await work_feed(self._node, scope, receive, send, agent, headers)
            return
        writes = len(parts) > 3 and scope["method"] not in ("GET", "HEAD")
        headers = await self._count(scope, standing, parts[3] if writes else None)
        if _is_hot(parts):
            await self._hot(parts, scope, receive, send, headers)
        else:
            unnoted: list[Refusal | StorageError] = []
            send = self._noted(scope, parts, standing, _marked(send, headers), unnoted)
            await self._routes(_inside(scope, parts), receive, send)
            if unnoted:
                raise unnoted[0]

    def _is_open(self, path: str) -> bool:
        if path.startswith(_SESSIONS):
            return False
        is_demo = self._open_under is not None and path.startswith(self._open_under)
        return is_demo or path in OPEN_PATHS or admin_page.is_open(path)

    def _noted(
        self,
        scope: Scope,
        parts: list[str],
        standing: Standing,
        send: Send,
        unnoted: list[Refusal | StorageError],
    ) -> Send:
        """What is noted in the audit log is on disk there before its answer leaves (what is only
        looked at, where that can be). ``unnoted``: why it could not be, and nothing is answered.
        (The routes would make an internal error of what is raised while they answer.)"""
        action = audited(scope["method"], scope["path"], parts)
        guard = self._door.guard
        if action is None or guard is None:
            return send
        told = begin_telling(scope)

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 400:
                try:
                    await note(guard.audit, action, standing.authority, parts[3:6:2], told)
                except (Refusal, StorageError) as error:
                    # Who looks after a region whose disk is full must see how it is.
                    looks = scope["method"] == "GET" and isinstance(error, StorageError)
                    if not (looks or action == "regions.show"):
                        unnoted.append(error)
                    who = standing.authority.subject
                    place = place_of(parts)
                    log.warning("%s by %r is not noted: %s", action, who, error, extra=place)
            if not unnoted:
                await send(message)

        return noted

    def _allowed(self, scope: Scope, standing: Standing, parts: list[str]) -> list[str]:
        """The segments of the path, with the session by its name inside. Raises ``Refusal``."""
        if (agent := _agent_of(scope)) is not None:
            standing.authority.check_everywhere("run")
            standing.authority.check_name(agent, "agent")
        if len(parts) <= 3:
            return parts
        verb = of_request(scope["method"], parts)
        parts = [*parts[:3], standing.check(parts[3], verb), *parts[4:]]
        if parts[4:5] == ["presence"] and len(parts) > 5 and verb == "presence":
            standing.authority.check_name(parts[5], "member")
        return parts

    def _connected(
        self, scope: Scope, standing: Standing, kind: str, session: str | None
    ) -> contextlib.AbstractContextManager[None]:
        return connected(self._node, self._meter, scope, standing.authority, kind, session)

    async def _count(self, scope: Scope, standing: Standing, session: str | None) -> Headers:
        """Let a request in when it may come, and when it is its turn; the header fields of its
        answer. ``session``: the one that it writes to. Raises ``Refusal`` ``too_many``."""
        if not scope["path"].startswith(_COUNTED):
            return self._headers
        fields = self._meter.admit(scope, standing.authority, session)
        await self._gate.enter(self._meter.row(scope, standing.authority))
        return [*self._headers, *fields] if fields else self._headers

    def _note_guess(self, scope: Scope) -> None:
        """A grant, a ticket or an API key that is not good may be one of many."""
        if brings_any(scope):
            self._meter.guessed(scope)

    async def _admit(self, scope: Scope, parts: list[str]) -> Standing:
        if scope["path"] in KEYED_PATHS:
            # Which says itself who may come: no grant does.
            self._meter.check_guess(scope)
            standing = ANYBODYS
        else:
            opened = parts[3] if _opens_stream(scope, parts) else None
            standing = await self._door.standing(scope, opened)
        give(scope, standing)
        reason = self._node.readiness()
        # Who drains a region must be able to take it back, and to look at it meanwhile.
        is_operating = reason == "draining" and scope["path"].startswith(_OPERATING)
        is_watched = is_operating or scope["path"] in WATCHED_PATHS
        if reason in _CLOSED and not is_watched:
            raise Refusal(
                reason, f"this region is {reason}; another one serves you", retry_after_s=1
            )
        return standing

    async def _hot(
        self, parts: list[str], scope: Scope, receive: Receive, send: Send, headers: Headers
    ) -> None:
        method = _HOT[len(parts), parts[-1]]
        if scope["method"] != method:
            # The other routes would say that there is no such path.
            raise Refusal("method_not_allowed", f"this path takes {method} only", allow=method)
        if parts[-1] == "tokens":
            await append_tokens(self._node, scope, receive, send, parts[3], parts[5], headers)
            return
        kind = "sse" if parts[-1] == "events" else parts[-1]
        standing = standing_of(scope)
        with self._connected(scope, standing, kind, parts[3]):
            if parts[-1] == "poll":
                await self._polls.answer(scope, receive, send, parts[3], headers)
            elif parts[-1] == "events":
                await events(self._node, scope, receive, send, parts[3], headers)
            else:
                await stream(self._node, scope, receive, send, parts[3], parts[5], headers)


def _marked(send: Send, headers: Headers) -> Send:
    async def marked(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = guarded(message["headers"], headers)
        await send(message)

    return marked


def _opens_stream(scope: Scope, parts: list[str]) -> bool:
    """Whether a ticket is good for this: events, or a WebSocket."""
    if scope["type"] == "websocket":
        return len(parts) > 3
    return scope["method"] == "GET" and parts[4:] == ["events"]


def _is_hot(parts: list[str]) -> bool:
    count = len(parts)
    return count in (5, 7) and (count, parts[-1]) in _HOT and (count == 5 or parts[4] == "messages")


def _agent_of(scope: Scope) -> str | None:
    """The agent whose feed is asked for; None for other paths. ``Refusal``: ``invalid_id``,
    ``method_not_allowed``."""
    if scope["path"].startswith(_SESSIONS):
        return None
    match = _FEED.fullmatch(scope["raw_path"])
    if match is None:
        return None
    agent = check_id(unquote_to_bytes(match[1]).decode("utf-8", "replace"), "agent")
    if scope["method"] != "GET":
        raise Refusal("method_not_allowed", "this path takes GET only", allow="GET")
    return agent


def _parts(scope: Scope) -> list[str]:
    """The segments of a session's path, with its ids checked; empty for other paths.

    Each segment is decoded by itself, so that an encoded slash is part of a bad id and never of
    the path. ``Refusal``: ``invalid_id``, ``not_found``.
    """
    path: str = scope["path"]
    if not path.startswith(_SESSIONS):
        return []
    raw: bytes = scope["raw_path"]
    if b"%" not in raw:
        parts = path.split("/")
    else:
        parts = [unquote_to_bytes(part).decode("utf-8", "replace") for part in raw.split(b"/")]
    if len(parts) > 3:
        check_id(parts[3], "session")
    if len(parts) > 5 and parts[4] in _NAMED:
        check_id(parts[5], _NAMED[parts[4]])
    if len(parts) != path.count("/") + 1:
        raise Refusal("not_found", "there is nothing at this path")
    return parts


def _inside(scope: Scope, parts: list[str]) -> Scope:
    """The request as the routes see it: with the session's name inside."""
    if len(parts) <= 3:
        return scope
    path = "/".join(parts)
    return {**scope, "path": path, "raw_path": path.encode()}
