"""The API of those who run the regions (``docs/PROTOCOL.md`` A.11): what there is to see.

Every route asks for an operator first: a grant without a tenant that has ``admin`` on all sessions.
Sessions have the names that the regions know them by.
"""

from collections.abc import Mapping

from fastapi import FastAPI, Request, Response
from perdure.api.admin_actions import add_actions
from perdure.api.admin_live import Live, Looking
from perdure.api.admin_tail import add_tail
from perdure.api.answers import answer, authority_of, no_query
from perdure.api.door import Door
from perdure.api.fields import limit, query, whole_of
from perdure.regions.node import Node
from perdure.regions.searching import SORTS, Asked
from perdure.replication.errors import Refusal
from perdure.replication.tenants import check_session, name_of

UNDER = "/admin/api"
MINUTES_MAX = 15
_SEARCH_CHARS_MAX = 256
_RUNS = 100
_ENTRIES = 100
_CONNECTION_SORTS = ("slowest", "recent")


def operator(request: Request) -> None:
    """Raises ``Refusal`` ``forbidden`` unless an operator asks."""
    authority_of(request).check_operator()


def add_admin(routes: FastAPI, node: Node, door: Door, build: str, url: str | None = None) -> None:
    """``/admin/api/…``. ``build``: the version of this program; ``url``: where clients
    find this region, where that is known."""
    node.oversight.overview.build = build
    node.oversight.overview.url = url
    node.oversight.is_watched = True
    _add_regions(routes, node, door)
    _add_sessions(routes, node)
    _add_inside(routes, node)
    add_actions(routes, node, door)


def one_of(values: Mapping[str, str], name: str, known: tuple[str, ...]) -> str:
    """A parameter that is one of some words, the first when it is absent."""
    value = values.get(name, known[0])
    if value not in known:
        raise Refusal("invalid_query", f"{name} must be one of {', '.join(known)}", field=name)
    return value


def _add_regions(routes: FastAPI, node: Node, door: Door) -> None:
    oversight = node.oversight

    @routes.get(UNDER + "/overview")
    async def admin_overview(request: Request) -> Response:
        """All regions: how each is, and how it sees each of the others."""
        operator(request)
        no_query(request)
        await oversight.refreshed()
        return answer(oversight.overview.value())

    @routes.get(UNDER + "/history")
    async def admin_history(request: Request) -> Response:
        """What this region measured in the last minutes."""
        operator(request)
        values = query(request.scope["query_string"], "minutes")
        minutes = whole_of(values, "minutes", 1, MINUTES_MAX, MINUTES_MAX)
        return answer(oversight.history.value(minutes))

    looking = Looking(node)

    @routes.get(UNDER + "/live")
    async def admin_live(request: Request) -> Response:
        """How it is, as it happens: server-sent events."""
        operator(request)
        no_query(request)
        return Live(node, looking)

    add_tail(routes, node, door, looking)


def _add_sessions(routes: FastAPI, node: Node) -> None:
    oversight = node.oversight

    @routes.get(UNDER + "/sessions")
    async def admin_sessions(request: Request) -> Response:
        """Sessions of all tenants, searched and sorted."""
        operator(request)
        found = await oversight.searching.search(_asked(request))
        rows = await oversight.rows(found.ids)
        return answer({"sessions": rows, "next": found.next, "complete": found.complete})

    @routes.get(UNDER + "/sessions/{s}")
    async def admin_session(s: str, request: Request) -> Response:
        """One session: its runs, who is present, and what happened to it."""
        operator(request)
        no_query(request)
        _check_known(node, check_session(s))
        (row,) = await oversight.rows([s])
        page = await oversight.timeline(s, None, _ENTRIES)
        shown = {"runs": _runs(node, s), "presence": oversight.present(s)}
        told = {"timeline": page["entries"], "next": page["next"], "asked": page["asked"]}
        return answer({**row, **shown, **told})

    @routes.get(UNDER + "/sessions/{s}/timeline")
    async def admin_timeline(s: str, request: Request) -> Response:
        """What happened to a session, the newest first, as all regions saw it."""
        operator(request)
        values = query(request.scope["query_string"], "before", "limit")
        _check_known(node, check_session(s))
        return answer(await oversight.timeline(s, values.get("before"), limit(values)))


def _asked(request: Request) -> Asked:
    names = ("search", "prefix", "sort", "after", "limit", "own")
    values = query(request.scope["query_string"], *names)
    for name in ("search", "prefix", "after"):
        if len(values.get(name, "")) > _SEARCH_CHARS_MAX:
            raise Refusal("invalid_query", f"{name} is too long", field=name)
    own = one_of(values, "own", ("false", "true")) == "true"
    sort = one_of(values, "sort", SORTS)
    search, prefix, after = (values.get(name) for name in ("search", "prefix", "after"))
    return Asked(search or "", prefix or "", sort, after or None, limit(values), own)


def _check_known(node: Node, session: str) -> None:
    """Raises ``Refusal`` ``not_found`` for a session of which nothing is known here."""
    if node.state.find(session) is None and not node.journal.of(session):
        raise Refusal("not_found", f"this region knows no session {name_of(session)}")


def _runs(node: Node, session: str) -> list[dict[str, object]]:
    """The newest runs of a session, the newest first; none of one that was deleted."""
    found = node.state.find(session)
    if found is None or not found.exists:
        return []
    runs: list[dict[str, object]] = node.runs(session, None, _RUNS)["runs"]
    return runs[::-1]


def _add_inside(routes: FastAPI, node: Node) -> None:
    oversight = node.oversight

    @routes.get(UNDER + "/connections")
    async def admin_connections(request: Request) -> Response:
        """Who is connected to this region, the slowest first."""
        operator(request)
        values = query(request.scope["query_string"], "sort", "limit")
        sort = one_of(values, "sort", _CONNECTION_SORTS)
        found = await oversight.connections.listed(sort, limit(values))
        return answer({"connections": found, "count": len(oversight.connections)})

    @routes.get(UNDER + "/storage")
    async def admin_storage(request: Request) -> Response:
        """What this region has on its disk."""
        operator(request)
        no_query(request)
        return answer(await oversight.storage.value())

    @routes.get(UNDER + "/errors")
    async def admin_errors(request: Request) -> Response:
        """What this region refused and what failed, by code."""
        operator(request)
        no_query(request)
        return answer(oversight.errors())
