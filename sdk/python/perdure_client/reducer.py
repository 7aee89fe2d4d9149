"""The assembled session from its events: a pure function of what was received, in order.

It checks what it is told: an ``append`` that does not start where the message ends raises
:class:`~perdure_client.errors.OutOfStep` and is never glued on.
"""

from bisect import insort
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from perdure_client.errors import OutOfStep

# A run with one of these is over.
OVER = frozenset({"complete", "failed", "cancelled"})


@dataclass
class MessageView:
    """One message as it stands. ``length`` counts items: tokens and marks."""

    id: str
    serial: str
    role: str
    own_status: str
    length: int
    parts: list[dict[str, Any]]
    author: str | None = None
    created: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    replaces: str | None = None
    held: bool = False
    # The session's, by id: the run that writes a message has the message's id.
    runs: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def status(self) -> str:
        """``streaming``, ``complete``, ``failed`` or ``cancelled``; ``interrupted`` for one whose
        run waits for an agent that goes on with it."""
        run = self.runs.get(self.id)
        is_interrupted = run is not None and run["status"] == "interrupted"
        return (
            "interrupted" if is_interrupted and self.own_status == "streaming" else self.own_status
        )

    @property
    def text(self) -> str:
        """The text of the parts of type ``text``, joined."""
        return "".join(part["text"] for part in self.parts if part.get("type") == "text")


@dataclass
class SessionView:
    """A session as a reader has been told. ``ready``: caught up at least once."""

    id: str
    messages: list[MessageView] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    cursor: str | None = None
    region: str | None = None
    ready: bool = False
    deleted: bool = False
    more: bool = False
    # Who is here, by member.
    presence: dict[str, dict[str, Any]] = field(default_factory=dict)
    # The runs that are not over, by id. Its messages look into it: it is changed, never replaced.
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)

    # What the shared documents are, by id: a version is equal where the document is.
    documents: dict[str, str] = field(default_factory=dict)

    def message(self, id_: str) -> MessageView | None:
        """The message of an id."""
        return next((message for message in self.messages if message.id == id_), None)


def apply(view: SessionView, name: str, data: dict[str, Any]) -> None:
    """Bring the view up to date with one event. Unknown events are ignored, and so is ``"signal"``:
    what is shown and forgotten is for who reads the events themselves."""
    match name:
        case "snapshot":
            view.messages = [_message(view, value) for value in data["messages"]]
            view.metadata = data["metadata"]
            view.more = data["more"]
            view.presence = _by(data.get("presence", ()), "member")
            _run(view, {"all": data.get("runs", ())})
            _document(view, {"all": data.get("documents", ())})
        case "message":
            _place(view, _message(view, data))
        case "append" | "replace" | "end":
            message = _held(view, data)
            if message is not None:
                _CHANGES[name](message, data)
        case "delete":
            view.messages = [m for m in view.messages if m.id != data["message"]]
        case "metadata":
            view.metadata = data["metadata"]
        case "presence":
            _present(view, data)
        case "run":
            _run(view, data)
        case "document":
            _document(view, data)
        case "stale":
            for message in view.messages:
                if data["message"] in (None, message.id):
                    message.held = data["held"]
        case "ready":
            view.ready = True
        case "deleted":
            view.deleted, view.messages, view.metadata, view.presence = True, [], {}, {}
            view.runs.clear()
            view.documents = {}


def _by(values: Iterable[dict[str, Any]], name: str) -> dict[str, dict[str, Any]]:
    return {value[name]: value for value in values}


def _present(view: SessionView, data: dict[str, Any]) -> None:
    if "all" in data:
        view.presence = _by(data["all"], "member")
        return
    for value in (*data.get("joined", ()), *data.get("updated", ())):
        view.presence[value["member"]] = value
    for value in data.get("left", ()):
        view.presence.pop(value["member"], None)


def _run(view: SessionView, data: dict[str, Any]) -> None:
    if "all" in data:
        view.runs.clear()
    for run in data["all"] if "all" in data else (data["run"],):
        if is_over(run):
            view.runs.pop(run["id"], None)
        else:
            view.runs[run["id"]] = run


def _document(view: SessionView, data: dict[str, Any]) -> None:
    if "all" in data:
        view.documents = {value["id"]: value["version"] for value in data["all"]}
    elif data.get("deleted"):
        view.documents.pop(data["document"], None)
    else:
        view.documents[data["document"]] = data["version"]


def is_over(run: dict[str, Any]) -> bool:
    """Whether a run has ended. A status that is not known is taken to be one of a run that has
    not."""
    return run["status"] in OVER


def _message(view: SessionView, value: dict[str, Any]) -> MessageView:
    return MessageView(
        id=value["id"],
        serial=value["serial"],
        role=value["role"],
        own_status=value["status"],
        length=value["length"],
        parts=[dict(part) for part in value["parts"]],
        author=value.get("author"),
        created=value.get("created", ""),
        metadata=value.get("metadata", {}),
        replaces=value.get("replaces"),
        runs=view.runs,
    )


def _place(view: SessionView, message: MessageView) -> None:
    view.messages = [other for other in view.messages if other.id != message.id]
    insort(view.messages, message, key=lambda other: other.serial)


def _held(view: SessionView, data: dict[str, Any]) -> MessageView | None:
    """The message of an event; None for one that may be older than the newest 200, which are all
    that a snapshot brings."""
    message = view.message(data["message"])
    if message is None and not view.more:
        raise OutOfStep(f"an event of message {data['message']}, which is not held")
    return message


def _replace(message: MessageView, data: dict[str, Any]) -> None:
    message.length, message.own_status = data["to"], data["status"]
    message.parts = [dict(part) for part in data["parts"]]
    message.held = False


def _end(message: MessageView, data: dict[str, Any]) -> None:
    if data["length"] != message.length:
        raise OutOfStep(f"{message.id} ends at {data['length']}, {message.length} are held")
    message.own_status = data["status"]


def _append(message: MessageView, data: dict[str, Any]) -> None:
    if data["from"] != message.length:
        raise OutOfStep(f"{message.id} goes on at {data['from']}, {message.length} are held")
    if "items" in data:
        for item in data["items"]:
            _mark(message, data["part"], item)
    else:
        _open_part(message, data["part"])["text"] += data["text"]
    message.length = data["to"]


def _mark(message: MessageView, number: int, item: dict[str, Any]) -> None:
    if "part" not in item:
        _open_part(message, number).update(item.get("set", {}))
        return
    if number != len(message.parts):
        raise OutOfStep(f"{message.id} opens part {number}, {len(message.parts)} are held")
    message.parts.append({**item["part"], "text": ""})


def _open_part(message: MessageView, number: int) -> dict[str, Any]:
    """The part that is open: always the last one. Where there is none, part 0 is a text."""
    if number == len(message.parts) == 0:
        message.parts.append({"type": "text", "text": ""})
    if number != len(message.parts) - 1:
        raise OutOfStep(f"part {number} of {message.id} is not the open one")
    return message.parts[number]


_CHANGES = {"append": _append, "replace": _replace, "end": _end}
