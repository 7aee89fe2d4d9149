"""The application: FastAPI for what is not hot, the :class:`Edge` in front, CORS around it."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from perdure.api.admin import add_admin
from perdure.api.admin_page import add_admin_page
from perdure.api.answers import answer, authority_of, idempotency_key, no_query, read_object
from perdure.api.api_keys import ApiKeys
from perdure.api.auditing import add_auditing
from perdure.api.bodies import Receive, Scope, Send
from perdure.api.callers import Callers
from perdure.api.counting import refused
from perdure.api.description_page import add_description_page
from perdure.api.documents import add_documents
from perdure.api.door import Door
from perdure.api.drafts import DRAFT_FIELDS, draft_of, only_header
from perdure.api.edge import ASGIApp, Edge
from perdure.api.erasure import add_erasure
from perdure.api.exporting import add_exporting
from perdure.api.fields import Fields, ack_wait_ms, limit, query
from perdure.api.granting import add_granting
from perdure.api.guarding import Rules, build_door, minting
from perdure.api.life_cycle import add_life_cycle
from perdure.api.metrics import add_metrics
from perdure.api.openapi import describe
from perdure.api.owners import check_own
from perdure.api.page import UNDER, add_page
from perdure.api.presence import add_presence
from perdure.api.problems import RETRY_AFTER_S
from perdure.api.rates import Meter, Rates
from perdure.api.refusing import refuse
from perdure.api.retaining import add_retention
from perdure.api.runs import add_runs
from perdure.api.socket_frames import refuse_socket
from perdure.api.standing import standing_of
from perdure.api.transports import TRANSPORTS
from perdure.regions.answers import Opened
from perdure.regions.config import is_loopback
from perdure.regions.guard_headers import guard_headers, guarded
from perdure.regions.node import Node
from perdure.regions.ports import StorageError
from perdure.replication.errors import Refusal
from perdure.replication.ids import check_id
from perdure.replication.tenants import session_key
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Match

_CORS_HEADERS = (
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "Last-Event-ID",
    "Producer-Id",
    "Producer-Epoch",
    "Producer-Seq",
    "traceparent",
)


class Cors(CORSMiddleware):
    """CORS whose own answers, to preflights, name the region too.

    A POST without an origin passes untouched: it comes from no browser's page, nobody caches its
    answer, and appends come this way.
    """

    def __init__(
        self, app: Any, guards: list[tuple[bytes, bytes]], *, is_local: bool, **options: Any
    ) -> None:
        """``is_local``: only who calls it by a name of this machine is served (no page whose host
        was made to lead here: DNS rebinding), and no page of another origin changes anything."""
        super().__init__(app, **options)
        self._guards = guards
        self._is_local = is_local

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI."""
        if self._is_local and scope["type"] in ("http", "websocket") and not _names_here(scope):
            await self._refuse(scope, receive, send, "call this region by a name of this machine")
            return
        if scope["type"] == "websocket":
            await self._socket(scope, receive, send)
            return
        is_post = scope["type"] == "http" and scope["method"] == "POST"
        if is_post and not any(name == b"origin" for name, _ in scope["headers"]):
            await self.app(scope, receive, send)
        elif is_post and self._is_local and not self._may_call(scope):
            # Browsers send some of these without asking first.
            await self._refuse(scope, receive, send, "pages of this origin may not call this")
        else:
            await super().__call__(scope, receive, send)

    def _may_call(self, scope: Any) -> bool:
        """Whether no page, a page of this very host, or one of an allowed origin calls."""
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        return (
            origin is None or self.is_allowed_origin(origin) or is_own(origin, headers.get("host"))
        )

    async def _refuse(self, scope: Any, receive: Any, send: Any, detail: str) -> None:
        refusal = Refusal("origin_refused", detail)
        if scope["type"] == "websocket":
            await refuse_socket(refusal, self._guards, send)
        else:
            await refuse(refusal, self._guards, receive, send)

    async def _socket(self, scope: Any, receive: Any, send: Any) -> None:
        """Browsers open WebSockets from any page and send no preflight: who may is asked here."""
        if self._may_call(scope):
            await self.app(scope, receive, send)
        else:
            await self._refuse(scope, receive, send, "this origin may not open a WebSocket here")

    def preflight_response(self, request_headers: Headers) -> Response:
        """The answer to a preflight."""
        response = super().preflight_response(request_headers)
        response.raw_headers[:] = guarded(response.raw_headers, self._guards)
        return response


def _names_here(scope: Any) -> bool:
    raw = next((value for key, value in scope["headers"] if key == b"host"), b"")
    host = raw.decode("latin-1")
    name = host.rpartition("]")[0][1:] if host.startswith("[") else host.partition(":")[0]
    return is_loopback(name)


def is_own(origin: str, host: str | None) -> bool:
    """Whether a page of this very host asks."""
    return host is not None and origin.partition("://")[2].lower() == host.lower()


def create_app(
    node: Node,
    *,
    rules: Rules | None,
    version: str,
    cors_origins: Sequence[str] = (),
    cors_origin_regex: str | None = None,
    demo_page: Mapping[str, str] | None = None,
    public_url: str | None = None,
    meter: Meter | None = None,
    has_tls: bool = False,
    is_local: bool = False,
) -> ASGIApp:
    """The ASGI application of one region. ``rules`` None: anybody may call. ``demo_page``: the
    regions that the page of the demo offers, and their URLs; without any there is no page.
    ``has_tls``: it is served over TLS alone; ``is_local``: it answers to names of this machine
    alone."""
    routes = FastAPI(
        title="perdure",
        version=version,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    door, keys = build_door(node, rules)
    _add_all(routes, node, version, door, keys, public_url or (demo_page or {}).get(node.region))
    if demo_page:
        add_page(routes, node.region, demo_page, minting(node, rules))
    routes.add_exception_handler(HTTPException, _http_problem)
    for kind in (Refusal, StorageError, Exception):
        routes.add_exception_handler(kind, _problem)
    describe(routes)
    add_description_page(routes)
    meter = meter or Meter(Rates(node.clock), Callers())
    door.look = meter.check_guess
    open_under = UNDER if demo_page else None
    guards = guard_headers(node.region, has_tls=has_tls)
    edge: Any = Edge(node, door, _as_written(routes), meter, guards, open_under)
    return Cors(
        edge,
        guards,
        is_local=is_local,
        allow_origins=list(cors_origins),
        allow_origin_regex=cors_origin_regex,
        allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=list(_CORS_HEADERS),
        expose_headers=["Perdure-Region", "RateLimit", "RateLimit-Policy", "Retry-After"],
    )


def _add_all(
    routes: FastAPI, node: Node, version: str, door: Door, keys: ApiKeys | None, url: str | None
) -> None:
    """Everything but the pages. ``url``: where clients find this region, where that is known."""
    _add_health(routes, node, version)
    _add_sessions(routes, node)
    _add_messages(routes, node)
    add_presence(routes, node)
    add_runs(routes, node)
    add_documents(routes, node)
    add_granting(routes, node, door, keys)
    add_auditing(routes, door)
    add_erasure(routes, node)
    add_metrics(routes, node, version)
    add_life_cycle(routes, node, door)
    add_admin(routes, node, door, version, url)
    add_admin_page(routes)
    add_retention(routes, node, door)
    add_exporting(routes, node, door, version)


def _as_written(routes: ASGIApp) -> ASGIApp:
    """The same routes without paths that a slash has been decoded into: nobody in front of a region
    would take such a path for the one that it becomes."""

    async def as_written(scope: Scope, receive: Receive, send: Send) -> None:
        if b"%2f" in scope.get("raw_path", b"").lower():
            raise Refusal("not_found", "there is nothing at this path")
        await routes(scope, receive, send)

    return as_written


class _Refused(Response):
    """The problem of an exception as an answer of the routes."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused(scope, self._error)
        await refuse(self._error, [], receive, send)


async def _problem(_: Request, error: Exception) -> Response:
    return _Refused(error)


async def _http_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    known = {
        404: Refusal("not_found", "there is nothing at this path"),
        405: Refusal(
            "method_not_allowed", "this path does not take this method", allow=_allowed(request)
        ),
    }
    return _Refused(known.get(error.status_code, error))


def _allowed(request: Request) -> str:
    """All methods that the path takes; the framework names those of the first route only."""
    routes = [r for r in request.app.routes if r.matches(request.scope)[0] is not Match.NONE]
    return ", ".join(sorted({method for route in routes for method in route.methods or ()}))


def _add_health(routes: FastAPI, node: Node, version: str) -> None:
    @routes.get("/livez")
    async def livez() -> Response:
        """The process lives."""
        return answer({"live": True})

    @routes.get("/readyz")
    async def readyz() -> Response:
        """Whether this region takes requests: 200, or 503 with the reason."""
        reason = node.readiness()
        if reason is None:
            return answer({"ready": True})
        unready = answer({"ready": False, "reason": reason}, 503)
        unready.headers["Retry-After"] = str(RETRY_AFTER_S)
        return unready

    @routes.get("/version")
    async def show_version() -> Response:
        """The version, the region, this start of it, and the versions of the peers' wire."""
        return answer({"version": version, **node.version()})

    @routes.get("/v1/transports")
    async def transports(request: Request) -> Response:
        """How events can be had here, the best first."""
        no_query(request)
        return answer({"transports": TRANSPORTS})

    @routes.get("/v1/regions")
    async def regions(request: Request) -> Response:
        """What this region knows of the others."""
        no_query(request)
        authority_of(request).check_operator()
        return answer(node.regions())

    @routes.get("/v1/verify")
    async def verify(request: Request) -> Response:
        """Compare digests with every region that can be reached."""
        session = query(request.scope["query_string"], "session").get("session")
        standing = standing_of(request.scope)
        if session is None or (":" in session and not standing.authority.tenant):
            # The answer about all names those of tenants, and the regions' own, in that way.
            standing.authority.check_operator()
        else:
            session = standing.check(check_id(session, "session"), "admin")
        return answer(await node.verify(session))


def _add_sessions(routes: FastAPI, node: Node) -> None:
    @routes.get("/v1/sessions")
    async def sessions(request: Request) -> Response:
        """Sessions by id, a page at a time."""
        values = query(request.scope["query_string"], "after", "limit")
        after, authority = values.get("after"), authority_of(request)
        if after is not None:
            after = session_key(authority.tenant, check_id(after, "after"))
        return answer(node.sessions(after, limit(values), authority.readable()))

    @routes.put("/v1/sessions/{s}", status_code=201)
    async def create(s: str, request: Request) -> Response:
        """Create a session; an existing one is not changed."""
        no_query(request)
        fields = Fields(await read_object(request, empty=True), frozenset({"metadata"}))
        created, value = await node.create(s, fields.object("metadata"))
        return answer(value, 201 if created else 200)

    @routes.get("/v1/sessions/{s}")
    async def session(s: str, request: Request) -> Response:
        """The session with its newest 200 messages."""
        no_query(request)
        return answer(node.snapshot(s))

    @routes.delete("/v1/sessions/{s}", status_code=204)
    async def delete_session(s: str, request: Request) -> Response:
        """Delete the session, for ever, in every region."""
        no_query(request)
        await node.delete(s)
        return Response(status_code=204)

    @routes.get("/v1/sessions/{s}/metadata")
    async def metadata(s: str, request: Request) -> Response:
        """The session's metadata."""
        no_query(request)
        return answer({"metadata": node.metadata(s)})

    @routes.patch("/v1/sessions/{s}/metadata")
    async def patch_metadata(s: str, request: Request) -> Response:
        """Set top-level keys; null deletes; the last writer wins per key."""
        no_query(request)
        patch = await read_object(request, is_free=True)
        return answer({"metadata": await node.patch_metadata(s, patch)})


def _add_messages(routes: FastAPI, node: Node) -> None:
    @routes.get("/v1/sessions/{s}/messages")
    async def messages(s: str, request: Request) -> Response:
        """Messages, newest first by pages, each page oldest first."""
        values = query(request.scope["query_string"], "before", "limit")
        return answer(node.messages(s, values.get("before"), limit(values)))

    @routes.post("/v1/sessions/{s}/messages", status_code=201)
    async def send_or_open(s: str, request: Request) -> Response:
        """Send a complete message, open a streaming one, or reopen one with its header."""
        wait_ms = ack_wait_ms(query(request.scope["query_string"], "ack", "wait_ms"))
        fields = Fields(await read_object(request), DRAFT_FIELDS)
        if fields.has("header"):
            return _opened(await node.reopen(s, only_header(fields)))
        draft = draft_of(fields, idempotency_key(request))
        if draft.text is None:
            return _opened(await node.open(s, draft))
        sent = await node.send(s, draft, wait_ms)
        return answer({**sent.message, "stable": sent.stable}, 201 if sent.created else 200)

    @routes.get("/v1/sessions/{s}/messages/{m}")
    async def message(s: str, m: str, request: Request) -> Response:
        """One message, assembled."""
        no_query(request)
        return answer(node.message(s, m))

    @routes.delete("/v1/sessions/{s}/messages/{m}", status_code=204)
    async def delete_message(s: str, m: str, request: Request) -> Response:
        """Delete the message, for ever, in every region."""
        no_query(request)
        check_own(node, authority_of(request), s, m)
        await node.delete(s, m)
        return Response(status_code=204)

    @routes.post("/v1/sessions/{s}/messages/{m}/claim")
    async def claim(s: str, m: str, request: Request) -> Response:
        """Take the message over from its producer."""
        no_query(request)
        fields = Fields(await read_object(request), frozenset({"producer", "claim_id", "mode"}))
        names = ("producer", "claim_id", "mode")
        return answer(await node.claim(s, m, *(fields.needed(name) for name in names)))

    @routes.post("/v1/sessions/{s}/messages/{m}/cancel")
    async def cancel(s: str, m: str, request: Request) -> Response:
        """Mark the message's epoch cancelled: nothing more is admitted, nothing is taken back."""
        no_query(request)
        Fields(await read_object(request, empty=True), frozenset())
        return answer({"status": await node.cancel(s, m)})


def _opened(opened: Opened) -> Response:
    value = opened._asdict()
    return answer(value, 201 if value.pop("created") else 200)
