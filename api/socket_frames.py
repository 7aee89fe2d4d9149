"""Frames of the WebSocket of clients as text, and how a socket is refused and closed."""

import contextlib
from typing import Any

from perdure.api.bodies import Send, parse_object
from perdure.api.problems import problem
from perdure.replication.errors import Refusal
from perdure.replication.feed import Event
from perdure.replication.limits import SEQ_MAX
from perdure.replication.tenants import name_of

Headers = list[tuple[bytes, bytes]]
# How a socket is closed (RFC 6455, 7.4).
NOT_TEXT, COMES_BACK, TRY_LATER = 1003, 1012, 1013
# A frame goes out as a whole: a long one has as much longer, as on a link of this speed.
SLOWEST_BYTES_S = 65_536
# How long what is under way may take while the region drains, and after the client has left.
LEAVE_S_MAX = 1
FINISH_S_MAX = 15
# The grant is over.
GRANT_OVER = 4401
ALIVE = '{"alive":true}'


async def refuse_socket(error: Exception, headers: Headers, send: Send) -> None:
    """Answer a handshake with a problem, as HTTP."""
    found = problem(error)
    body = found.encode()
    headers = [(name.encode(), value.encode()) for name, value in found.headers] + headers
    headers.append((b"content-length", str(len(body)).encode()))
    with contextlib.suppress(OSError):
        start = {"type": "websocket.http.response.start", "status": found.status}
        await send({**start, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": body})


def encode_frame(session: str, event: Event) -> str:
    """An event as a frame: made once, whoever follows the session."""
    if event.frame is None:
        event.frame = (
            f'{{"session":"{name_of(session)}","event":"{event.name}",'
            f'"id":"{event.cursor}","data":{event.data}}}'
        )
    return event.frame


def parse_frame(text: str) -> dict[str, Any]:
    """The object of a frame; ``Refusal`` in its words."""
    try:
        return parse_object(text.encode())
    except Refusal as refusal:
        raise Refusal(refusal.code, refusal.detail.replace("the body", "the frame")) from refusal


def number_of(frame: dict[str, Any]) -> int:
    """The number that its answer is to name; ``Refusal`` ``invalid_body``."""
    number = frame.get("number")
    if type(number) is not int or not 0 <= number <= SEQ_MAX:
        raise Refusal(
            "invalid_body", "number must be a whole number from 0 to 2^53-1", field="number"
        )
    return number


def refusal_of(error: Exception) -> tuple[int, dict[str, Any]]:
    """The status and the body of a refusal; what HTTP says in a header is in the body."""
    found = problem(error)
    after = dict(found.headers).get("retry-after")
    return found.status, found.body if after is None else {
        **found.body,
        "retry_after_s": int(after),
    }
