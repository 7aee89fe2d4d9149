"""The commands that talk to running regions, through the Python client."""

import argparse
import asyncio
import contextlib
import sys
from collections.abc import AsyncGenerator, Mapping
from datetime import UTC, datetime
from typing import Any
from unicodedata import category

from perdure.regions.audit_command import CODES as AUDIT_CODES
from perdure.regions.audit_command import add_options as add_audit_options
from perdure.regions.audit_command import print_audit
from perdure.regions.client_command import (
    EXIT_CODES,
    EXIT_UNREACHABLE,
    add_command,
    is_not_for_us,
)
from perdure.regions.console import patiently, print_json, say
from perdure.regions.export_command import (
    EXPORT,
    IMPORT,
    add_export_options,
    add_import_options,
    export_sessions,
    import_sessions,
)
from perdure.regions.life_cycle_command import (
    CODES_DRAIN,
    add_drain_options,
    add_forget_options,
    drain,
    forget,
)
from perdure.regions.operator_commands import add_operator_commands
from perdure.regions.publishing import publish
from perdure.regions.retention_command import RETENTION, run_retention
from perdure.regions.retention_command import add_options as add_retention_options
from perdure.replication import cursor as cursors
from perdure.replication.errors import Refusal

from perdure_client import Client, Event
from perdure_client.errors import Deleted, Invalid, NotFound, OutOfStep, PerdureError
from perdure_client.pipes import FORMATS
from perdure_client.reducer import SessionView, apply

EXIT_DIFFERENT = 1
_EXIT_CODES_VERIFY = (
    "Exit codes: 0 equal, but for what is written to meanwhile, 1 different or refused, 2 wrong"
    " arguments, 3 a region is not up or none answers, 130 interrupted."
)
_VERIFY_EVERY_S = 0.25
# How often it says that it still looks.
_TELL_EVERY_S = 2.0
# Whether sessions that differ are written to is looked at of so many, and after so long.
_BUSY_LOOKED_AT_MAX = 100
_BUSY_AFTER_S = 1.0


def add_commands(commands: Any) -> None:
    """Add the commands to the parser's subcommands."""
    publishing = add_command(
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
    tail = add_command(commands, "tail", _tail, "follow a session; Ctrl-C ends it")
    tail.add_argument("session")
    tail.add_argument(
        "--cursor", type=_cursor, help="go on from here instead of from the beginning"
    )
    tail.add_argument("--until-end", action="store_true", help="stop when a streamed message ends")
    add_operator_commands(commands)
    audit = add_command(
        commands, "audit", print_audit, "print the audit log, and check it", AUDIT_CODES
    )
    add_audit_options(audit)
    text = "take a region out: no writes, no readers; or back"
    add_drain_options(add_command(commands, "drain", drain, text, CODES_DRAIN))
    text = "remove a region for good, in all regions; its name never comes back"
    region = commands.add_parser("region", help=text, description=text, epilog=EXIT_CODES)
    verbs = region.add_subparsers(title="commands", metavar="COMMAND", required=True)
    add_forget_options(add_command(verbs, "forget", forget, text))
    add_export_options(add_command(commands, "export", export_sessions, EXPORT))
    add_import_options(add_command(commands, "import", import_sessions, IMPORT))
    retention = add_command(commands, "retention", run_retention, RETENTION)
    add_retention_options(retention)
    verify = add_command(
        commands, "verify", _verify, "do all regions hold the same?", codes=_EXIT_CODES_VERIFY
    )
    verify.add_argument("session", nargs="?")
    verify.add_argument(
        "--wait-s", type=float, default=5.0, help="ask again for so long while they differ (5)"
    )


def _cursor(text: str) -> str:
    # The client starts over where a region refuses a cursor; who typed it wants to know instead.
    try:
        cursors.decode(text)
    except Refusal as refusal:
        raise argparse.ArgumentTypeError(f"{text!r}: {refusal.detail}") from refusal
    return text


async def _tail(options: argparse.Namespace, client: Client) -> int:
    # A reader waits for ever; somebody who typed a wrong address wants to know. Every grant may
    # ask this: who reads a session is no operator.
    async with patiently(client):
        await client.transports()
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


async def _verify(options: argparse.Namespace, client: Client) -> int:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + options.wait_s
    async with patiently(client):
        answer = await client.verify(options.session)
    tell_at = loop.time() + _TELL_EVERY_S
    while not answer["equal"] and loop.time() < deadline:
        if loop.time() >= tell_at:
            tell_at += _TELL_EVERY_S
            say(f"{len(answer['different'])} of {answer['sessions']} sessions differ; asking again")
        await asyncio.sleep(_VERIFY_EVERY_S)
        answer = await client.verify(options.session)
    busy = await _written_to(answer, client)
    answer = {**answer, "busy": busy}
    known = options.session is None or await _is_known(options.session, client)
    if options.json:
        print_json(answer)
    else:
        _print_verified(answer)
    if len(busy) < len(answer["different"]):
        return EXIT_DIFFERENT
    if "unreachable" in answer["regions"].values():
        return EXIT_UNREACHABLE
    return 0 if known and (answer["equal"] or busy) else EXIT_DIFFERENT


async def _written_to(answer: Mapping[str, Any], client: Client) -> list[str]:
    """Which of the sessions that differ change while one looks: what is written there is on its way
    to the others, and never the same everywhere. Where there are many, nobody is asked."""
    ids = answer["different"]
    if not ids or len(ids) > _BUSY_LOOKED_AT_MAX:
        return []
    try:
        before = {id_: await client.verify(id_) for id_ in ids}
        await asyncio.sleep(_BUSY_AFTER_S)
        after = {id_: await client.verify(id_) for id_ in ids}
    except Invalid:
        # A region of an older version, which is not asked for a tenant's session by its name.
        return []
    return [
        id_
        for id_ in ids
        # By the same region: another one may hold something else for ever.
        if _is_same(answer["regions"], after[id_]["regions"])
        or (
            after[id_]["regions"].keys() == before[id_]["regions"].keys()
            and after[id_].get("digest") != before[id_].get("digest")
        )
    ]


def _is_same(before: Mapping[str, str], after: Mapping[str, str]) -> bool:
    """Whether no region holds anything else, and none has gone away meanwhile."""
    away = {region for region, outcome in after.items() if outcome == "unreachable"}
    return "different" not in after.values() and all(
        before.get(region) == "unreachable" for region in away
    )


async def _is_known(session: str, client: Client) -> bool:
    """Whether there is anything to compare; a deleted session is known to be that."""
    try:
        await client.session(session).snapshot()
    except NotFound:
        say(f"this region knows no session {session}")
        return False
    except Deleted:
        say(f"session {session} was deleted")
    except PerdureError as error:
        # Who may have sessions compared need not be one who may read them.
        if not is_not_for_us(error):
            raise
    return True


def _print_verified(answer: Mapping[str, Any]) -> None:
    now = datetime.now(UTC).strftime("%H:%M:%S")
    outcomes = answer["regions"].values()
    different = [id_ for id_ in answer["different"] if id_ not in answer["busy"]]
    is_busy = bool(answer["busy"]) and not different
    word = "NOT equal" if "different" in outcomes and not is_busy else "equal"
    missing = ", but not every region could be asked" if "unreachable" in outcomes else ""
    busy = f", but for {len(answer['busy'])} that are written to now" if is_busy else ""
    print(f"{now} {word}: {answer['sessions']} session(s){busy}{missing}")
    for region, outcome in answer["regions"].items():
        print(f"  {region:<12} {outcome}")
    for session in different[:20]:
        print(f"  differs: {session}")
    for session in answer["busy"][:20]:
        print(f"  written to now, and compared when it is quiet: {session}")
