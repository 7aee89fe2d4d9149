"""The commands that talk to running regions, through the Python client."""

import argparse
import asyncio
import contextlib
import io
import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from unicodedata import category

from perdure.regions.audit_command import CODES as AUDIT_CODES
from perdure.regions.audit_command import add_options as add_audit_options
from perdure.regions.audit_command import print_audit
from perdure.regions.console import patiently, print_json, say
from perdure.regions.export_command import (
    EXPORT,
    IMPORT,
    add_export_options,
    add_import_options,
    export_sessions,
    import_sessions,
)
from perdure.regions.publishing import publish
from perdure.regions.retention_command import RETENTION, run_retention
from perdure.regions.retention_command import add_options as add_retention_options
from perdure.replication import cursor as cursors
from perdure.replication.errors import Refusal

from perdure_client import Client, Event, VendorError
from perdure_client.errors import Deleted, NotFound, OutOfStep, PerdureError
from perdure_client.pipes import FORMATS
from perdure_client.reducer import SessionView, apply

DEFAULT_URL = "http://127.0.0.1:7101"
GRANT = "PERDURE_GRANT"
EXIT_DIFFERENT = 1
EXIT_USAGE = 2
# How long a command tries to reach a region before it says that it cannot.
PATIENCE_S = 10.0
EXIT_UNREACHABLE = 3
EXIT_CODES = (
    "Exit codes: 0 done, 1 refused, 2 wrong arguments, 3 no region answers, 130 interrupted."
)
_EXIT_CODES_REGIONS = EXIT_CODES.replace("3 no region", "3 a region is not up or none")
_EXIT_CODES_VERIFY = _EXIT_CODES_REGIONS.replace("0 done, 1", "0 equal, 1 different or")
_VERIFY_EVERY_S = 0.25

Command = Callable[[argparse.Namespace, Client], Awaitable[int]]


def add_commands(commands: Any) -> None:
    """Add the commands to the parser's subcommands."""
    publishing = _add(
        commands, "publish", publish, "stream standard input into a session as one message"
    )
    publishing.add_argument("session")
    publishing.add_argument("--role", default="assistant", help="the message's role (assistant)")
    publishing.add_argument("--id", help="the message's id (random)")
    publishing.add_argument("--author", help="the message's author")
    publishing.add_argument(
        "--format",
        choices=("text", *FORMATS),
        default="text",
        help="what standard input is: text, or a vendor's stream as it was sent (text)",
    )
    tail = _add(commands, "tail", _tail, "follow a session; Ctrl-C ends it")
    tail.add_argument("session")
    tail.add_argument(
        "--cursor", type=_cursor, help="go on from here instead of from the beginning"
    )
    tail.add_argument("--until-end", action="store_true", help="stop when a streamed message ends")
    sessions = _add(commands, "sessions", _sessions, "list the sessions of a region")
    sessions.add_argument("--after", help="start after this id")
    sessions.add_argument("--limit", type=int, default=100, help="how many (100)")
    text = "what a region knows of the others"
    _add(commands, "regions", _regions, text, _EXIT_CODES_REGIONS)
    audit = _add(commands, "audit", print_audit, "print the audit log, and check it", AUDIT_CODES)
    add_audit_options(audit)
    add_export_options(_add(commands, "export", export_sessions, EXPORT))
    add_import_options(_add(commands, "import", import_sessions, IMPORT))
    retention = _add(commands, "retention", run_retention, RETENTION)
    add_retention_options(retention)
    verify = _add(
        commands, "verify", _verify, "do all regions hold the same?", codes=_EXIT_CODES_VERIFY
    )
    verify.add_argument("session", nargs="?")
    verify.add_argument(
        "--wait-s", type=float, default=5.0, help="ask again for so long while they differ (5)"
    )


def _add(
    commands: Any, name: str, run: Command, text: str, codes: str = EXIT_CODES
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text, epilog=codes
    )
    parser.add_argument(
        "--url",
        action="append",
        metavar="URL",
        help=f"a region ({DEFAULT_URL}); again for others to go on at",
    )
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.set_defaults(run=lambda options: _with_client(options, run))
    return parser


def _with_client(options: argparse.Namespace, run: Command) -> int:
    async def go() -> int:
        urls, grant = options.url or [DEFAULT_URL], os.environ.get(GRANT)
        async with Client(urls, grant, give_up_s=PATIENCE_S) as client:
            return await run(options, client)

    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that cannot show a character shows its number; that is no reason to stop.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return asyncio.run(go())
    except PerdureError as error:
        say(str(error))
        if error.code == "unavailable":
            return EXIT_UNREACHABLE
        return EXIT_USAGE if error.code.startswith("invalid_") else 1
    except VendorError as error:
        say(str(error))
        return 1
    except UnicodeDecodeError as error:
        say(f"standard input is not UTF-8 ({error.reason}); the message has ended as failed")
        return 1
    except BrokenPipeError:
        # The reader of our output has left: that is its right. What Python still holds for it goes
        # nowhere, else it would complain of that at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _cursor(text: str) -> str:
    # The client starts over where a region refuses a cursor; who typed it wants to know instead.
    try:
        cursors.decode(text)
    except Refusal as refusal:
        raise argparse.ArgumentTypeError(f"{text!r}: {refusal.detail}") from refusal
    return text


async def _tail(options: argparse.Namespace, client: Client) -> int:
    # A reader waits for ever; somebody who typed a wrong address wants to know.
    async with patiently(client):
        await client.peers()
    printer = _Printer(for_people=sys.stdout.isatty())
    async with contextlib.aclosing(_events(options, client)) as events:
        async for event in events:
            if options.json:
                print_json({"event": event.event, "id": event.id, "data": event.data})
            else:
                printer.show(event.event, event.data)
            if options.until_end and event.event == "end":
                break
    return 0


async def _events(options: argparse.Namespace, client: Client) -> AsyncGenerator[Event, None]:
    """The session's events, each of which fits those before it."""
    cursor = options.cursor
    at: str | None = None

    def connected(region: str) -> None:
        nonlocal at
        if at not in (None, region):
            say(f"now reading at {region}")
        at = region

    while True:
        view = SessionView(options.session)
        following = client.session(options.session).events(cursor, connected)
        try:
            async with contextlib.aclosing(following) as events:
                async for event in events:
                    if not cursor:
                        apply(view, event.event, event.data)
                    yield event
            return
        except OutOfStep as error:
            say(f"{error}; from the beginning again")
            cursor = None


class _Printer:
    """Prints events as text: a line for each message, its text as it comes. ``for_people``: to a
    terminal, which nothing in a text may control."""

    def __init__(self, *, for_people: bool = False) -> None:
        self._for_people = for_people
        self._open: str | None = None

    def show(self, name: str, data: Mapping[str, Any]) -> None:
        """Print one event."""
        if name == "snapshot":
            for message in data["messages"]:
                self._message(message)
        elif name == "message":
            self._message(data)
        elif name == "append" and "text" in data:
            self._turn_to(data["message"], f"… {data['message']}: ")
            self._text(data["text"])
        elif name == "replace":
            self._line(f"[{data['message']} is replaced: {data['reason']}]")
            self._turn_to(data["message"], f"{data['message']}: ")
            self._text(data["text"])
        elif name == "end":
            self._line(f"[{data['message']} {data['status']}, {data['length']} items]")
        elif name in ("delete", "stale", "deleted"):
            self._line(f"[{name} {data.get('message') or ''}]")

    def _message(self, message: Mapping[str, Any]) -> None:
        self._turn_to(message["id"], f"{message['role']} {message['id']}: ")
        self._text(message["text"])
        if message["status"] != "streaming":
            self._line(f"[{message['status']}]")

    def _text(self, text: str) -> None:
        print(_harmless(text) if self._for_people else text, end="", flush=True)

    def _turn_to(self, message: str, head: str) -> None:
        if self._open != message:
            if self._open is not None:
                print()
            print(head, end="")
            self._open = message

    def _line(self, text: str) -> None:
        if self._open is not None:
            print()
            self._open = None
        print(text, flush=True)


def _harmless(text: str) -> str:
    """The text without control characters, but for new lines and tabs."""
    return "".join(
        "\ufffd" if category(character) == "Cc" and character not in "\n\t" else character
        for character in text.replace("\r\n", "\n")
    )


async def _sessions(options: argparse.Namespace, client: Client) -> int:
    async with patiently(client):
        page = await client.sessions(after=options.after, limit=options.limit)
    if options.json:
        print_json(page)
        return 0
    for session in page["sessions"]:
        print(f"{session['id']:<40} {session['messages']:>6} messages  {session['created']}")
    if page["next"]:
        print(f"… more: --after {page['next']}")
    return 0


async def _regions(options: argparse.Namespace, client: Client) -> int:
    async with patiently(client):
        known = await client.peers()
    up = all(peer["state"] == "up" for peer in known["peers"])
    if options.json:
        print_json(known)
        return 0 if up else EXIT_UNREACHABLE
    print(f"{known['region']:<12} this one  {known['counters']['sessions']} sessions")
    for peer in known["peers"]:
        seen = "never" if peer["last_seen_ms"] is None else f"{peer['last_seen_ms']} ms ago"
        print(f"{peer['region']:<12} {peer['state']:<8}  {peer['behind']} behind, seen {seen}")
    return 0 if up else EXIT_UNREACHABLE


async def _verify(options: argparse.Namespace, client: Client) -> int:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + options.wait_s
    async with patiently(client):
        answer = await client.verify(options.session)
    while not answer["equal"] and loop.time() < deadline:
        await asyncio.sleep(_VERIFY_EVERY_S)
        answer = await client.verify(options.session)
    known = options.session is None or await _is_known(options.session, client)
    if options.json:
        print_json(answer)
    else:
        _print_verified(answer)
    if answer["equal"]:
        return 0 if known else EXIT_DIFFERENT
    differs = "different" in answer["regions"].values()
    return EXIT_DIFFERENT if differs else EXIT_UNREACHABLE


async def _is_known(session: str, client: Client) -> bool:
    """Whether there is anything to compare; a deleted session is known to be that."""
    try:
        await client.session(session).snapshot()
    except NotFound:
        say(f"this region knows no session {session}")
        return False
    except Deleted:
        say(f"session {session} was deleted")
    return True


def _print_verified(answer: Mapping[str, Any]) -> None:
    now = datetime.now(UTC).strftime("%H:%M:%S")
    outcomes = answer["regions"].values()
    word = "NOT equal" if "different" in outcomes else "equal"
    missing = ", but not every region could be asked" if "unreachable" in outcomes else ""
    print(f"{now} {word}: {answer['sessions']} session(s){missing}")
    for region, outcome in answer["regions"].items():
        print(f"  {region:<12} {outcome}")
    for session in answer["different"][:20]:
        print(f"  differs: {session}")
