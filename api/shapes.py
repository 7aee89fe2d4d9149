"""What ids, epochs, cursors and the parameters of requests look like, for the description."""

from typing import Any

from perdure.replication.limits import (
    ACK_WAIT_MS_MAX,
    CLAIM_ID_CHARS_MIN,
    CURSOR_CHARS_MAX,
    ID_CHARS_MAX,
    PAGE_ITEMS_DEFAULT,
    PAGE_ITEMS_MAX,
    POLL_WAIT_MS_DEFAULT,
    POLL_WAIT_MS_MAX,
    SEQ_MAX,
)

Schema = dict[str, Any]


def _text(pattern: str, **more: Any) -> Schema:
    return {"type": "string", "pattern": pattern, **more}


# "." and ".." would vanish from a URL.
ID = _text(rf"^(?!\.{{1,2}}$)[A-Za-z0-9._~-]{{1,{ID_CHARS_MAX}}}$")
CLAIM_ID = _text(rf"^[A-Za-z0-9._~-]{{{CLAIM_ID_CHARS_MIN},{ID_CHARS_MAX}}}$")
EPOCH = _text(r"^[1-9][0-9]{0,9}-[0-9a-f]{16}$")
ROLE = _text(r"^[a-z][a-z0-9_-]{0,31}$")
CURSOR = _text(r"^[A-Za-z0-9_-]*$", maxLength=CURSOR_CHARS_MAX)


def _whole(least: int, most: int, **more: Any) -> Schema:
    return {"type": "integer", "minimum": least, "maximum": most, **more}


# By their names, wherever they stand; what is not here is any text.
PARAMETERS: dict[str, Schema] = {
    **dict.fromkeys(("s", "m", "r", "d", "a", "member", "session", "worker", "presence"), ID),
    **dict.fromkeys(("after", "before", "Producer-Id"), ID),
    "cursor": CURSOR,
    "limit": _whole(1, PAGE_ITEMS_MAX, default=PAGE_ITEMS_DEFAULT),
    "ack": {"enum": ["accepted", "stable"], "default": "accepted"},
    "wait_ms": _whole(0, ACK_WAIT_MS_MAX),
    "Last-Event-ID": CURSOR,
    "Producer-Epoch": EPOCH,
    "Producer-Seq": _whole(0, SEQ_MAX),
    "Idempotency-Key": CLAIM_ID,
}
POLL_WAIT_MS = _whole(0, POLL_WAIT_MS_MAX, default=POLL_WAIT_MS_DEFAULT)


def parameter(
    name: str, where: str, *, required: bool = True, text: str = "", schema: Schema | None = None
) -> Schema:
    """A parameter of a request."""
    described = schema or PARAMETERS.get(name, {"type": "string"})
    return {
        "name": name,
        "in": where,
        "required": required,
        "description": text,
        "schema": described,
    }
