"""The commands of who runs the regions: all that the admin page shows, at a terminal."""

import argparse
from typing import Any
from urllib.parse import quote

from perdure.regions import operator_views as views
from perdure.regions.client_command import (
    EXIT_REFUSED,
    EXIT_UNREACHABLE,
    add_command,
    is_not_for_us,
)
from perdure.regions.console import patiently, print_json, say
from perdure.regions.watching import add_watch, show

from perdure_client import Client
from perdure_client.errors import PerdureError

_CODES_REGIONS = (
    "Exit codes: 0 every region is up, 1 refused, 2 wrong arguments, 3 a region is not up or none"
    " answers, 130 interrupted."
)
SORTS = ("recent", "id", "size", "readers")
_LIMIT = 50
_MINUTES = 15


def add_operator_commands(commands: Any) -> None:
    """Add the commands to the parser's subcommands."""
    text = "is every region well, and how does each see the others?"
    regions = add_command(commands, "regions", _regions, text, _CODES_REGIONS)
    add_watch(regions)
    _add_sessions(commands)
    session = add_command(
        commands,
        "session",
        _session,
        "one session: where it is the same, who is here, what happened",
    )
    session.add_argument("session", help="its id; TENANT:ID where there are tenants")
    session.add_argument("--before", help="only what happened before this place")
    session.add_argument("--limit", type=int, help="how many lines of what happened")
    add_watch(session)
    connections = add_command(commands, "connections", _connections, "who is connected to a region")
    connections.add_argument("--slowest", action="store_true", help="those first that lag most")
    connections.add_argument("--limit", type=int, default=_LIMIT, help=f"how many ({_LIMIT})")
    add_watch(connections)
    text = "cut off a connection; its client comes back by itself, if it may"
    disconnect = add_command(commands, "disconnect", _disconnect, text)
    disconnect.add_argument("id", help="as `perdure connections` tells it")
    add_watch(add_command(commands, "storage", _storage, "what the disk of a region holds"))
    text = "what a region has refused, and what failed, by code"
    add_watch(add_command(commands, "errors", _errors, text))
    text = "rates and latencies of a region in the last minutes"
    history = add_command(commands, "history", _history, text)
    history.add_argument("--minutes", type=int, default=_MINUTES, help=f"how many ({_MINUTES})")
    add_watch(history)
    text = "cancel a message that is being written"
    cancel = add_command(commands, "cancel", _cancel, text)
    cancel.add_argument("session", help="its id; TENANT:ID where there are tenants")
    cancel.add_argument("message")


def _add_sessions(commands: Any) -> None:
    text = "list the sessions of a region"
    sessions = add_command(commands, "sessions", _sessions, text)
    sessions.add_argument("--after", help="start after this place (an id)")
    sessions.add_argument("--limit", type=int, default=100, help="how many (100)")
    sessions.add_argument("--search", metavar="TEXT", help="(operators) whose id contains this")
    sessions.add_argument("--prefix", metavar="TEXT", help="(operators) whose id begins with this")
    sessions.add_argument("--sort", choices=SORTS, help="(operators) in this order")
    sessions.add_argument("--own", action="store_true", help="(operators) the regions' own as well")
    add_watch(sessions)


async def _regions(options: argparse.Namespace, client: Client) -> int:
    async def view() -> dict[str, Any]:
        try:
            overview = await client.admin.get("overview")
        except PerdureError as error:
            if not is_not_for_us(error):
                raise
            overview = None
        if overview is None or options.json:
            return {**await client.peers(), "overview": overview}
        # Each look at ``/v1/regions`` is noted in the audit log: who watches would fill it.
        (own,) = [one for one in overview["regions"] if one["region"] == overview["region"]]
        return {"peers": own["sees"], "overview": overview}

    try:
        value = await show(options, client, view, views.of_regions)
    except PerdureError as error:
        return _explain(error)
    seen = [peer["state"] for peer in value["peers"]]
    regions = (value["overview"] or {}).get("regions", ())
    reached = [one["reachable"] for one in regions if not one.get("is_gone")]
    return 0 if all(state == "up" for state in seen) and all(reached) else EXIT_UNREACHABLE


async def _sessions(options: argparse.Namespace, client: Client) -> int:
    is_plain = not (options.search or options.prefix or options.sort or options.own)

    async def of_anybody() -> dict[str, Any]:
        return await client.sessions(after=options.after, limit=options.limit)

    async def of_operators() -> dict[str, Any]:
        return await client.admin.get(
            "sessions",
            search=options.search,
            prefix=options.prefix,
            sort=options.sort,
            own="true" if options.own else None,
            after=options.after,
            limit=options.limit,
        )

    if is_plain:
        await show(options, client, of_anybody, _listed)
        return 0
    return await _shown(options, client, of_operators, views.of_sessions)


def _listed(page: dict[str, Any], _width: int | None) -> list[str]:
    lines = [
        f"{session['id']:<40} {session['messages']:>6} messages  {session['created']}"
        for session in page["sessions"]
    ]
    return [*lines, f"… more: --after {page['next']}"] if page["next"] else lines


async def _session(options: argparse.Namespace, client: Client) -> int:
    path = f"sessions/{quote(options.session, safe='')}"
    if options.before is not None:
        return await _view(
            options, client, f"{path}/timeline", views.of_timeline,
            before=options.before, limit=options.limit,
        )  # fmt: skip

    async def view() -> dict[str, Any]:
        value = await client.admin.get(path)
        if options.limit is not None:
            page = await client.admin.get(f"{path}/timeline", limit=options.limit)
            value["timeline"] = page["entries"]
        return value

    return await _shown(options, client, view, views.of_session)


async def _connections(options: argparse.Namespace, client: Client) -> int:
    sort = "slowest" if options.slowest else None
    return await _view(
        options, client, "connections", views.of_connections, sort=sort, limit=options.limit
    )


async def _storage(options: argparse.Namespace, client: Client) -> int:
    return await _view(options, client, "storage", views.of_storage)


async def _errors(options: argparse.Namespace, client: Client) -> int:
    return await _view(options, client, "errors", views.of_errors)


async def _history(options: argparse.Namespace, client: Client) -> int:
    return await _view(options, client, "history", views.of_history, minutes=options.minutes)


async def _disconnect(options: argparse.Namespace, client: Client) -> int:
    path = f"connections/{quote(options.id, safe='')}/disconnect"
    return await _act(options, client, path, {}, f"connection {options.id} is cut off")


async def _cancel(options: argparse.Namespace, client: Client) -> int:
    path = f"sessions/{quote(options.session, safe='')}/cancel"
    body = {"message": options.message}
    return await _act(options, client, path, body, f"message {options.message} is cancelled")


async def _act(
    options: argparse.Namespace, client: Client, path: str, body: dict[str, Any], done: str
) -> int:
    """An action at the first region that is named, and at no other."""
    try:
        async with patiently(client):
            answer = await client.admin.post(path, body)
    except PerdureError as error:
        return _explain(error)
    if options.json:
        print_json(answer)
    else:
        print(done)
    return 0


async def _view(
    options: argparse.Namespace, client: Client, path: str, lines: Any, **query: str | int | None
) -> int:
    async def view() -> dict[str, Any]:
        return await client.admin.get(path, **query)

    return await _shown(options, client, view, lines)


async def _shown(options: argparse.Namespace, client: Client, view: Any, lines: Any) -> int:
    try:
        await show(options, client, view, lines)
    except PerdureError as error:
        return _explain(error)
    return 0


def _explain(error: PerdureError) -> int:
    """Where it is the grant that is wanting, say which one would do. Other errors are raised."""
    if error.code in ("unauthorized", "forbidden"):
        say(
            f"{error}: this is for operators, whose grant is without a tenant and has admin on *;"
            " put one into PERDURE_GRANT (perdure token mint --subject ops --can '*=admin')"
        )
        return EXIT_REFUSED
    raise error
