"""``POST …/stream``: one long request, lines in, acknowledgements out.

Lines that have gathered while the last commit ran are appended together. A refusal is one problem
object on a line of its own, and ends the answer. A piece of a line at the end of the body is dropped.
"""

import asyncio
import contextlib
from collections import deque
from typing import Any, NamedTuple

from perdure.api.bodies import Receive, Scope, Send, check_media_type, parse_object
from perdure.api.fields import Fields, query
from perdure.api.hot import Producer, check_count, check_end, encode_ack, producer_of
from perdure.api.problems import problem
from perdure.regions.node import Ack, Node
from perdure.regions.ports import StorageError
from perdure.replication.errors import Refusal
from perdure.replication.limits import (
    ACK_WAIT_MS_MAX,
    APPEND_ITEMS_MAX,
    BODY_BYTES_MAX,
    SEQ_MAX,
)

MEDIA_TYPE = "application/x-ndjson"
_LINE_FIELDS = frozenset({"seq", "token", "tokens", "end"})
_LINES_WAITING_MAX = 4_096


class Line(NamedTuple):
    """One line of the request."""

    seq: int
    items: list[Any]
    end: str | None


def parse_line(raw: bytes) -> Line:
    """The line, or ``Refusal`` ``invalid_json`` or ``invalid_body``."""
    value = parse_object(raw)
    Fields(value, _LINE_FIELDS)
    seq = value.get("seq")
    if type(seq) is not int or not 0 <= seq <= SEQ_MAX:
        raise Refusal("invalid_body", "seq must be a whole number from 0 to 2^53-1", field="seq")
    if "token" in value and "tokens" in value:
        raise Refusal("invalid_body", "give token or tokens, not both", field="token")
    items = [value["token"]] if "token" in value else value.get("tokens", [])
    if not isinstance(items, list):
        raise Refusal("invalid_body", "tokens must be a list", field="tokens")
    check_count(items)
    end = check_end(value.get("end"))
    if not items and end is None:
        raise Refusal("invalid_body", "a line needs a token or an end", field="token")
    return Line(seq, items, end)


class Lines:
    """The lines of a body as they arrive, bounded; the client waits while too many are here."""

    def __init__(self, receive: Receive) -> None:
        self.whole: deque[bytes] = deque()
        self.ended = False
        self.gone = False
        self.too_long = False
        self._receive = receive
        self._piece = b""
        self._changed = asyncio.Event()

    async def read(self) -> None:
        """Take in the body until it ends."""
        try:
            while not self.ended and not self.too_long:
                message = await self._receive()
                if message["type"] == "http.disconnect":
                    self.gone = self.ended = True
                    break
                self._split(message.get("body", b""))
                self.ended = not message.get("more_body")
                while len(self.whole) > _LINES_WAITING_MAX:
                    await self.changed()
            if not self.gone:
                await self._until_gone()
        finally:
            self.ended = True
            self._changed.set()

    def _split(self, chunk: bytes) -> None:
        *whole, self._piece = (self._piece + chunk).split(b"\n")
        self.whole.extend(line for line in whole if line.strip())
        self.too_long = len(self._piece) > BODY_BYTES_MAX
        self._changed.set()

    async def _until_gone(self) -> None:
        self._changed.set()
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True

    async def changed(self) -> None:
        """Until something was read, or taken."""
        self._changed.clear()
        await self._changed.wait()

    def take(self) -> tuple[Line | None, Refusal | None]:
        """Lines that go on from one another as one; and the refusal of a bad one behind them."""
        taken: Line | None = None
        while self.whole:
            try:
                line = parse_line(self.whole[0])
            except Refusal as refusal:
                return taken, refusal
            if taken is not None:
                follows = line.seq == taken.seq + len(taken.items) and taken.end is None
                if not follows or len(taken.items) + len(line.items) > APPEND_ITEMS_MAX:
                    break
                line = Line(taken.seq, taken.items + line.items, line.end)
            taken = line
            self.whole.popleft()
        self._changed.set()
        if taken is None and self.too_long:
            return None, Refusal("too_large", "a line is too long", limit_bytes=BODY_BYTES_MAX)
        return taken, None


class LongAppend:
    """One request to ``stream``."""

    def __init__(
        self, node: Node, session: str, message: str, producer: Producer, send: Send
    ) -> None:
        self._node = node
        self._session = session
        self._message = message
        self._producer = producer
        self._send = send
        self._last: Ack | None = None

    async def run(self, lines: Lines) -> None:
        """Append what arrives and acknowledge it, until the body ends and all is stable."""
        while not lines.gone:
            line, refusal = lines.take()
            if line is not None:
                await self._append(line)
            if refusal is not None:
                raise refusal
            if line is None and lines.ended:
                break
            if line is None:
                await self._wait(lines)
        if self._last is not None and not self._last.is_stable:
            await self._acknowledge(await self._until_stable(self._last))

    async def _append(self, line: Line) -> None:
        if self._producer.seq is not None and self._last is None and line.seq != self._producer.seq:
            raise Refusal("invalid_producer", "the first line is not at Producer-Seq", field="seq")
        ack = await self._node.append(
            self._session,
            self._message,
            self._producer.id,
            self._producer.epoch,
            line.seq,
            line.items,
            line.end,
        )
        await self._acknowledge(ack, always=True)

    async def _wait(self, lines: Lines) -> None:
        """For more lines; or, while something is not stable, for that."""
        waits = [asyncio.ensure_future(lines.changed())]
        if self._last is not None and not self._last.is_stable:
            waits.append(asyncio.ensure_future(self._node.progress()))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self._last is not None and not self._last.is_stable:
            await self._acknowledge(
                self._node.acknowledged(
                    self._session, self._message, self._producer.id, self._producer.epoch
                )
            )

    async def _until_stable(self, ack: Ack) -> Ack:
        return await self._node.until_stable(
            self._session,
            self._message,
            self._producer.id,
            self._producer.epoch,
            ack,
            ACK_WAIT_MS_MAX,
        )

    async def _acknowledge(self, ack: Ack, *, always: bool = False) -> None:
        if not always and ack == self._last:
            return
        self._last = ack
        body = encode_ack(ack) + b"\n"
        await self._send({"type": "http.response.body", "body": body, "more_body": True})


async def stream(
    node: Node,
    scope: Scope,
    receive: Receive,
    send: Send,
    session: str,
    message: str,
    headers: list[tuple[bytes, bytes]],
) -> None:
    """``POST …/stream``."""
    query(scope["query_string"])
    producer = producer_of(scope, seq_needed=False)
    check_media_type(scope, MEDIA_TYPE, "application/json")
    start = [(b"content-type", MEDIA_TYPE.encode()), (b"cache-control", b"no-store"), *headers]
    await send({"type": "http.response.start", "status": 200, "headers": start})
    lines = Lines(receive)
    reading = asyncio.create_task(lines.read())
    last = b""
    try:
        await LongAppend(node, session, message, producer, send).run(lines)
    except (Refusal, StorageError) as error:
        last = problem(error).encode() + b"\n"
    finally:
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reading
    await send({"type": "http.response.body", "body": last})
