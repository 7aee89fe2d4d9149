"""The hot paths as raw ASGI: ``tokens`` and ``events``. (``stream`` has a file of its own.)

An append through a FastAPI route costs 100 to 130 µs, here 22; and a reader's events are encoded
once, whoever reads them.
"""

import asyncio
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from perdure.api.bodies import (
    Receive,
    Scope,
    Send,
    check_media_type,
    header,
    parse_object,
    read_body,
    until_gone,
)
from perdure.api.connecting import cut_by, follow
from perdure.api.fields import Fields, ack_wait_ms, member_of, query
from perdure.api.pace import cost_of, pace_of
from perdure.api.patience import within
from perdure.api.standing import reads, standing_of
from perdure.regions.answers import Ack
from perdure.regions.fanout import Reader
from perdure.regions.guard_headers import guarded
from perdure.regions.node import Node
from perdure.replication.errors import Refusal
from perdure.replication.feed import Event, Gathered
from perdure.replication.ids import is_id, parse_epoch
from perdure.replication.items import ENDS
from perdure.replication.limits import APPEND_ITEMS_MAX, CURSOR_CHARS_MAX, SEQ_MAX, UNIT_ITEMS

JSON = "application/json"
WRITE_S_MAX = 20
SLICE_BYTES = 65_536
_APPEND_FIELDS = frozenset({"tokens", "end"})
_PRODUCER = {
    b"producer-id": "Producer-Id",
    b"producer-epoch": "Producer-Epoch",
    b"producer-seq": "Producer-Seq",
}
KEEP_ALIVE = b": keep-alive\n\n"


class Producer(NamedTuple):
    """Who appends, and where: the three producer headers. ``seq`` None: not given."""

    id: str
    epoch: str
    seq: int | None


def producer_of(scope: Scope, *, seq_needed: bool = True) -> Producer:
    """The producer headers, or ``Refusal`` ``invalid_producer`` that names the wrong one."""
    given: dict[bytes, bytes] = {}
    twice = set()
    for key, value in scope["headers"]:
        if key in _PRODUCER:
            if key in given:
                twice.add(key)
            given[key] = value
    values: list[str | None] = []
    for key, name in _PRODUCER.items():
        raw = given.get(key)
        if key in twice or (raw is not None and not raw.isascii()):
            raise _wrong(name, "is malformed or given twice")
        values.append(None if raw is None else raw.decode("ascii"))
    id_, epoch, seq = values
    if id_ is None or not is_id(id_):
        raise _wrong("Producer-Id", "must be the producer's id")
    try:
        parse_epoch(epoch or "")
    except ValueError as error:
        raise _wrong("Producer-Epoch", "must be the epoch as it was given") from error
    assert epoch is not None
    if seq is None and not seq_needed:
        return Producer(id_, epoch, None)
    if seq is None or not seq.isdigit() or len(seq) > 16 or int(seq) > SEQ_MAX:
        raise _wrong("Producer-Seq", "must be a whole number from 0 to 2^53-1")
    return Producer(id_, epoch, int(seq))


def _wrong(name: str, what: str) -> Refusal:
    return Refusal("invalid_producer", f"{name} {what}", field=name)


def check_end(value: Any) -> str | None:
    """An end, or None; ``Refusal`` ``invalid_body``."""
    if value is not None and value not in ENDS:
        raise Refusal("invalid_body", f"end must be one of {', '.join(ENDS)}", field="end")
    end: str | None = value
    return end


def check_count(tokens: list[Any]) -> None:
    """``Refusal`` ``too_large`` for more items than one request may hold."""
    if len(tokens) > APPEND_ITEMS_MAX:
        raise Refusal("too_large", "too many items", field="tokens", limit_items=APPEND_ITEMS_MAX)


def encode_ack(ack: Ack) -> bytes:
    """The JSON of an acknowledgement."""
    stable = "null" if ack.stable is None else ack.stable
    ended = "null" if ack.ended is None else f'"{ack.ended}"'
    return (
        f'{{"next":{ack.next},"accepted":{ack.accepted},"stable":{stable},'
        f'"duplicates":{ack.duplicates},"ended":{ended}}}'
    ).encode()


async def respond(
    send: Send,
    status: int,
    body: bytes,
    headers: list[tuple[bytes, bytes]],
    *,
    more: bool = False,
) -> None:
    """One whole answer. With ``more`` the caller says when the exchange is over."""
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def append_tokens(
    node: Node,
    scope: Scope,
    receive: Receive,
    send: Send,
    session: str,
    message: str,
    headers: list[tuple[bytes, bytes]],
) -> None:
    """``POST …/tokens``."""
    wait_ms = ack_wait_ms(query(scope["query_string"], "ack", "wait_ms"))
    producer = producer_of(scope)
    standing_of(scope).authority.check_name(producer.id, "Producer-Id")
    check_media_type(scope, JSON)
    value = parse_object(await read_body(scope, receive))
    Fields(value, _APPEND_FIELDS)
    end = check_end(value.get("end"))
    # Only an end may come without tokens: it is no use to name an empty list.
    tokens = value.get("tokens", [] if end else None)
    if not isinstance(tokens, list):
        raise Refusal("invalid_body", "tokens must be a list", field="tokens")
    check_count(tokens)
    if len(tokens) > UNIT_ITEMS and (pace := pace_of(scope)) is not None:
        pace.owe(cost_of(len(tokens)))
    assert producer.seq is not None
    ack = await node.append(
        session, message, producer.id, producer.epoch, producer.seq, tokens, end
    )
    if wait_ms is not None and not ack.is_stable:
        ack = await node.until_stable(session, message, producer.id, producer.epoch, ack, wait_ms)
    await respond(send, 200, encode_ack(ack), [*headers, (b"content-type", JSON.encode())])


# Events


def encode_event(event: Event) -> bytes:
    """The server-sent event. ``data`` is one line of JSON and the cursor has a safe alphabet, so
    nothing that clients wrote can end a line."""
    if event.wire is None:
        text = f"event: {event.name}\nid: {event.cursor}\ndata: {event.data}\n\n"
        event.wire = text.encode()
    return event.wire


def encode_events(gathered: Gathered) -> bytes:
    """The events that have gathered, joined once for all readers that get the same."""
    if gathered.wire is None:
        gathered.wire = b"".join(map(encode_event, gathered)) or KEEP_ALIVE
    return gathered.wire


def cursor_of(scope: Scope, values: Mapping[str, str]) -> str | None:
    """The cursor of ``Last-Event-ID``, else of the query; ``Refusal`` ``invalid_cursor``."""
    try:
        last = header(scope, b"last-event-id")
    except ValueError as error:
        raise Refusal("invalid_cursor", "Last-Event-ID is malformed") from error
    cursor = last or values.get("cursor")
    if cursor is not None and len(cursor) > CURSOR_CHARS_MAX:
        raise Refusal("invalid_cursor", "the cursor is too long")
    return cursor or None


async def events(
    node: Node,
    scope: Scope,
    receive: Receive,
    send: Send,
    session: str,
    headers: list[tuple[bytes, bytes]],
) -> None:
    """``GET …/events``: server-sent events until the client leaves."""
    values = query(scope["query_string"], "cursor", "presence", "presence_data")
    cursor = cursor_of(scope, values)
    member, data = member_of(values)
    standing = standing_of(scope)
    if member is not None:
        standing.check_member(session, member)
    reader = node.subscribe(session, cursor, member, data)
    follow(scope, reader, member)
    with standing.held(session, reader.expire_grant, reads(member)):
        gone = asyncio.ensure_future(until_gone(receive))
        cut_by(scope, gone)
        await tell(node, reader, gone, send, headers)


async def tell(
    node: Node,
    reader: Reader,
    gone: asyncio.Future[None],
    send: Send,
    headers: list[tuple[bytes, bytes]],
) -> None:
    """What a reader is given, until that is over, or ``gone`` is done; then it is closed."""
    writing = asyncio.ensure_future(_write_events(reader, send, headers))
    try:
        await asyncio.wait({writing, gone}, return_when=asyncio.FIRST_COMPLETED)
        if writing.done():
            writing.result()
    except TimeoutError:
        # The client takes nothing any more. It comes back with its last event id.
        node.counters["readers_cut"] += 1
    finally:
        writing.cancel()
        gone.cancel()
        reader.close()


def stream_headers() -> list[tuple[bytes, bytes]]:
    """What says that events follow, and that nothing on the way is to hold them back."""
    return [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-store, no-transform"),
        (b"x-accel-buffering", b"no"),
    ]


async def _write_events(reader: Reader, send: Send, headers: list[tuple[bytes, bytes]]) -> None:
    headers = guarded(stream_headers(), headers)
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    while (gathered := await reader.next()) is not None:
        await write_slices(send, encode_events(gathered))
    await send({"type": "http.response.body", "body": b""})


async def write_slices(send: Send, body: bytes) -> None:
    """A piece of a stream, in slices, so that a long one on a slow link makes progress within the
    limit. ``TimeoutError`` for a client that takes nothing."""
    for start in range(0, len(body), SLICE_BYTES):
        piece = body if len(body) <= SLICE_BYTES else body[start : start + SLICE_BYTES]
        message = {"type": "http.response.body", "body": piece, "more_body": True}
        await within(WRITE_S_MAX, send(message))


def encode_json(value: Any) -> bytes:
    """The JSON of an answer."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
