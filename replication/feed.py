"""What readers are sent: a change of the session as events, each one line of JSON with a cursor.

A :class:`Draft` is an event without its cursor: readers that are up to date share one cursor and
one encoding; a reader that is held has its own.
"""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from perdure.replication.belief import Belief, Change, Told
from perdure.replication.cursor import encode
from perdure.replication.ids import canonical
from perdure.replication.message import Message
from perdure.replication.session import Session
from perdure.replication.shown import Shown, is_prefix


class Event:
    """One event for readers. ``wire`` and ``frame`` are slots in which the edge caches what it
    makes of it, for streams of events and for sockets."""

    __slots__ = ("cursor", "data", "frame", "name", "wire")

    def __init__(self, name: str, cursor: str, data: str) -> None:
        self.name = name
        self.cursor = cursor
        self.data = data
        self.wire: bytes | None = None
        self.frame: str | None = None

    def __repr__(self) -> str:
        return f"Event({self.name!r}, {self.data})"


class Gathered(list[Event]):
    """Events that a reader gets at once. ``wire`` is a slot in which the edge caches their bytes:
    readers that are equally far get the same object; ``born_s``: when the first of them was
    committed here, in seconds of the shell's clock, where that is known."""

    wire: bytes | None = None
    born_s: float | None = None


class Beside(Protocol):
    """What readers of a session are told beside its messages, and no cursor counts."""

    def fields(self) -> str:
        """The fields of a snapshot, as JSON without braces."""

    def drafts(self) -> "list[Draft]":
        """All of it, for who comes back."""


class Draft(NamedTuple):
    """An event before it has a cursor; ``told``: how far it brings the reader in its message."""

    name: str
    data: str
    told: Told | None = None


def finish(session: Session, draft: Draft, belief: Belief | None = None) -> Event:
    """The event, with the cursor of a reader that differs as ``belief`` says."""
    return Event(draft.name, encode(session.position(belief, draft.told)), draft.data)


def change_drafts(session: Session, change: Change) -> Iterator[Draft]:
    """The events that bring a reader from ``change.before`` to ``change.now``."""
    if change.message == "":
        if session.deleted:
            yield Draft("deleted", "{}")
        else:
            yield metadata_draft(session)
    elif change.now is None:
        if change.before is not None:
            yield delete_draft(change.message)
    else:
        yield from _message_drafts(session.messages[change.message], change.before, change.now)


def _message_drafts(message: Message, before: Shown | None, now: Shown) -> Iterator[Draft]:
    if before is None:
        yield message_draft(message)
    elif (before.header, before.created) != (now.header, now.created):
        yield message_draft(message, "conflict")
    elif before.forks != now.forks:
        yield replace_draft(message, "conflict")
    elif not is_prefix(before.runs, now.runs) or _reopened(before, now):
        yield replace_draft(message, "fenced")
    else:
        yield from growth_drafts(message, before.length, before.status)


def _reopened(before: Shown, now: Shown) -> bool:
    return before.status != "streaming" and now.status == "streaming"


def growth_drafts(message: Message, length: int, status: str) -> Iterator[Draft]:
    """``append`` and ``end`` for a reader that holds ``length`` items and was told ``status``."""
    shown = message.shown
    assert shown is not None
    for segment in message.assembly.segments(message.items(length), length):
        head = f'{{"message":"{message.id}","part":{segment.part},"from":{segment.start},'
        body = f'"items":{canonical(segment.marks)}' if segment.marks else _text(segment.text)
        told = Told(message.id, segment.stop, status)
        yield Draft("append", f'{head}"to":{segment.stop},{body}}}', told)
    if shown.status != status or (shown.status != "streaming" and shown.length > length):
        yield _draft("end", {"message": message.id, "status": shown.status, "length": shown.length})


def _text(text: str | None) -> str:
    return f'"text":{json.dumps(text, ensure_ascii=False)}'


def _draft(name: str, data: dict[str, Any]) -> Draft:
    return Draft(name, json.dumps(data, ensure_ascii=False, separators=(",", ":")))


def message_draft(message: Message, reason: str | None = None) -> Draft:
    """The whole message: new; or, with a reason, in the place of what was told of it."""
    value = message.value()
    return _draft("message", value if reason is None else {**value, "reason": reason})


def replace_draft(message: Message, reason: str) -> Draft:
    """Drop what you hold of the message and take this."""
    shown = message.shown
    assert shown is not None
    assembly = message.assembly
    data = {
        "message": message.id,
        "to": shown.length,
        "text": assembly.text(),
        "parts": assembly.parts(),
        "status": shown.status,
        "reason": reason,
    }
    return _draft("replace", data)


def delete_draft(message: str) -> Draft:
    """The message is gone."""
    return _draft("delete", {"message": message})


def metadata_draft(session: Session) -> Draft:
    """The whole metadata."""
    return _draft("metadata", {"metadata": session.metadata()})


def stale_draft(message: str | None, held: bool) -> Draft:
    """This region is behind what the reader holds, or no more."""
    return _draft("stale", {"message": message, "held": held})


def ready_draft() -> Draft:
    """Caught up."""
    return Draft("ready", "{}")


def snapshot_event(session: Session, beside: Beside, reason: str | None = None) -> Event:
    """The session as it is, for a reader that takes it as its whole state."""
    cursor = encode(session.position())
    value = session.value(cursor)
    if reason is not None:
        value["reason"] = reason
    data = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Event("snapshot", cursor, f"{data[:-1]},{beside.fields()}}}")
