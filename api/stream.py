"""``POST …/stream``: one long request, lines in, acknowledgements out.

Lines that have gathered while the last commit ran are appended together. A refusal is one problem
object on a line of its own, and ends the answer. A piece of a line is dropped where the body was
cut; at the orderly end of a body a last line without its newline counts, when it is whole.
"""

import asyncio
import contextlib
import logging
from collections import deque
from typing import Any, NamedTuple

from perdure.api.bodies import Receive, Scope, Send, check_media_type, parse_object
from perdure.api.connecting import connection_of
from perdure.api.counting import count_error
from perdure.api.fields import Fields, query
from perdure.api.hot import (
    WRITE_S_MAX,
    Producer,
    check_count,
    check_end,
    encode_ack,
    producer_of,
)
from perdure.api.pace import Pace, cost_of, pace_of
from perdure.api.patience import within
from perdure.api.problems import problem
from perdure.api.standing import Needs, standing_of
from perdure.regions.answers import Ack
from perdure.regions.node import Node
from perdure.regions.ports import StorageError
from perdure.regions.tracing import CURRENT
from perdure.replication.errors import Refusal
from perdure.replication.items import make_items
from perdure.replication.limits import (
    ACK_WAIT_MS_MAX,
    APPEND_ITEMS_MAX,
    BODY_BYTES_MAX,
    SEQ_MAX,
    TOKEN_BYTES_MAX,
)

log = logging.getLogger("perdure.api")

MEDIA_TYPE = "application/x-ndjson"
# A character takes at most four bytes: tokens up to here are within the limit.
_SURE_CHARS_MAX = TOKEN_BYTES_MAX // 4
_LINE_FIELDS = frozenset({"seq", "token", "tokens", "end"})
_LINES_WAITING_MAX = 4_096
_BYTES_WAITING_MAX = BODY_BYTES_MAX


class Line(NamedTuple):
    """One line of the request, or several that go on from one another."""

    seq: int
    items: list[Any]
    end: str | None


def parse_line(raw: bytes) -> Line:
    """The line; ``Refusal`` ``invalid_json``, ``invalid_body`` or ``too_large``."""
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
    if not all(type(item) is str and len(item) <= _SURE_CHARS_MAX for item in items):
        # A bad item is refused by itself: the good lines that came with it are appended.
        make_items(items)
    end = check_end(value.get("end"))
    if not items and end is None:
        raise Refusal("invalid_body", "a line needs a token or an end", field="token")
    return Line(seq, items, end)


class Lines:
    """The lines of a body as they arrive, bounded; the client waits while too much is here."""

    def __init__(self, receive: Receive, news: asyncio.Event) -> None:
        self.ended = False
        self.gone = False
        self._receive = receive
        self._news = news
        self._room = asyncio.Event()
        self._whole: deque[bytes] = deque()
        self._whole_bytes = 0
        self._pieces: list[bytes] = []
        self._piece_bytes = 0
        self._taken_bytes = 0

    async def read(self) -> None:
        """Take in the body until it ends; ``news`` is set whenever something has changed."""
        try:
            more = True
            while more and self._piece_bytes <= BODY_BYTES_MAX:
                message = await self._receive()
                self.gone = message["type"] == "http.disconnect"
                more = bool(message.get("more_body"))
                self._split(message.get("body", b""))
                while more and self._is_full():
                    self._room.clear()
                    await self._room.wait()
        finally:
            self.ended = True
            self._news.set()

    def _is_full(self) -> bool:
        return len(self._whole) > _LINES_WAITING_MAX or self._whole_bytes > _BYTES_WAITING_MAX

    def _split(self, chunk: bytes) -> None:
        *whole, piece = chunk.split(b"\n")
        for line in whole:
            # Pieces are joined once, however small the chunks of a long line are.
            joined = b"".join([*self._pieces, line])
            self._pieces.clear()
            self._piece_bytes = 0
            if joined.strip():
                self._whole.append(joined)
                self._whole_bytes += len(joined)
        if piece:
            self._pieces.append(piece)
            self._piece_bytes += len(piece)
        self._news.set()

    def taken_bytes(self) -> int:
        """How many bytes of lines have been taken since this was last asked."""
        taken, self._taken_bytes = self._taken_bytes, 0
        return taken

    def take(self) -> Line | None:
        """The next line, with those that go on from it; None when there is none now.

        Raises the ``Refusal`` of a bad line once all before it have been taken.
        """
        first = self._next()
        if first is None:
            return None
        seq, items, end = first
        least = self._whole_bytes - BODY_BYTES_MAX
        while end is None and self._whole_bytes > least:
            try:
                line = self._next(seq + len(items), APPEND_ITEMS_MAX - len(items))
            except Refusal:
                break
            if line is None:
                break
            items += line.items
            end = line.end
        self._room.set()
        return Line(seq, items, end)

    def _next(self, seq: int | None = None, items_max: int = APPEND_ITEMS_MAX) -> Line | None:
        """Take one line, unless it is not the one at ``seq`` or has too many items."""
        if not self._whole:
            return self._last() if seq is None else None
        if len(self._whole[0]) > BODY_BYTES_MAX:
            raise _too_long()
        line = parse_line(self._whole[0])
        if seq is not None and (line.seq != seq or len(line.items) > items_max):
            return None
        size = len(self._whole.popleft())
        self._whole_bytes -= size
        self._taken_bytes += size
        return line

    def _last(self) -> Line | None:
        """What stands after the last newline of the body."""
        if self._piece_bytes > BODY_BYTES_MAX:
            raise _too_long()
        if not self.ended or self.gone:
            return None
        piece, self._pieces = b"".join(self._pieces), []
        try:
            return parse_line(piece) if piece.strip() else None
        except Refusal as refusal:
            if refusal.code == "invalid_json":
                return None
            raise


def _too_long() -> Refusal:
    return Refusal("too_large", "a line is too long", limit_bytes=BODY_BYTES_MAX)


class LongAppend:
    """One request to ``stream``: ``run`` appends and acknowledges, ``watch`` wakes it."""

    def __init__(
        self,
        node: Node,
        session: str,
        message: str,
        producer: Producer,
        send: Send,
        news: asyncio.Event,
        pace: Pace | None = None,
    ) -> None:
        self._node = node
        self._lane = (session, message, producer.id, producer.epoch)
        self._first_seq = producer.seq
        self._send = send
        self._news = news
        self._last: Ack | None = None
        self._unstable = asyncio.Event()
        # Why it is over; None while it is not.
        self._over: Refusal | None = None
        self._pace = pace
        self._is_paused = False

    async def watch(self) -> None:
        """Set ``news`` when what was acknowledged may have become stable."""
        while True:
            await self._unstable.wait()
            await self._node.progress()
            self._news.set()

    async def watch_leaving(self) -> None:
        """Set ``news`` when the region drains: a client that sends nothing must hear of it."""
        await self._node.leaving.wait()
        self._news.set()

    def end(self, why: str) -> None:
        """Its grant is over."""
        self._end_with(Refusal("unauthorized", f"the grant is over: it is {why}"))

    def send_away(self) -> None:
        """An operator ends it: its client goes on with another request."""
        self._end_with(Refusal("draining", "this request was ended; go on with another"))

    def _end_with(self, refusal: Refusal) -> None:
        self._over = refusal
        self._news.set()

    async def run(self, lines: Lines) -> None:
        """Append what arrives and acknowledge it, until the body ends and all is stable."""
        while True:
            # Cleared before looking: what comes from here on is seen in the next round.
            self._news.clear()
            if self._over is not None:
                raise self._over
            if self._unstable.is_set():
                await self._tell_progress(self._node.acknowledged(*self._lane))
            paused = self._is_paused and not self._node.leaving.is_set()
            line = None if paused else lines.take()
            if line is not None:
                await self._append(line)
                self._pay(len(line.items), lines.taken_bytes())
            elif lines.ended and not paused:
                break
            elif self._node.leaving.is_set():
                raise Refusal("draining", "this region is shutting down", retry_after_s=1)
            else:
                await self._news.wait()
        if self._last is not None and self._unstable.is_set() and not lines.gone:
            await self._tell_progress(
                await self._node.until_stable(*self._lane, self._last, ACK_WAIT_MS_MAX)
            )

    def _pay(self, items: int, size: int) -> None:
        """Take nothing more of the body until nothing is owed for this."""
        wait_s = 0.0 if self._pace is None else self._pace.owe(1 + cost_of(items, size))
        if wait_s > 0:
            self._is_paused = True
            asyncio.get_running_loop().call_later(wait_s, self._go_on)

    def _go_on(self) -> None:
        self._is_paused = False
        self._news.set()

    async def _append(self, line: Line) -> None:
        if self._last is None and self._first_seq not in (None, line.seq):
            raise Refusal("invalid_producer", "the first line is not at Producer-Seq", field="seq")
        await self._acknowledge(
            await self._node.append(*self._lane, line.seq, line.items, line.end)
        )

    async def _tell_progress(self, ack: Ack) -> None:
        assert self._last is not None
        if (ack.stable, ack.ended) != (self._last.stable, self._last.ended):
            await self._acknowledge(ack)

    async def _acknowledge(self, ack: Ack) -> None:
        self._last = ack
        if ack.is_stable:
            self._unstable.clear()
        else:
            self._unstable.set()
        body = encode_ack(ack) + b"\n"
        # A client that reads no answers would hold its own lines up for ever.
        message = {"type": "http.response.body", "body": body, "more_body": True}
        await within(WRITE_S_MAX, self._send(message))


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
    standing = standing_of(scope)
    standing.authority.check_name(producer.id, "Producer-Id")
    check_media_type(scope, MEDIA_TYPE, "application/json")
    news = asyncio.Event()
    lines = Lines(receive, news)
    appending = LongAppend(node, session, message, producer, send, news, pace_of(scope))
    connection_of(scope).end = appending.send_away
    watches = (lines.read(), appending.watch(), appending.watch_leaving())
    tasks = [asyncio.create_task(watch) for watch in watches]
    # The body is asked for before the answer starts: a client may wait for ``100 Continue``.
    await asyncio.sleep(0)
    last = b""
    try:
        start = [(b"content-type", MEDIA_TYPE.encode()), *headers]
        await send({"type": "http.response.start", "status": 200, "headers": start})
        needs = Needs(frozenset({"write"}), (producer.id,))
        with (
            standing.held(session, appending.end, needs),
            node.tracing.request("perdure.stream", session, message),
        ):
            # One span for all of it: lines have none.
            CURRENT.set(None)
            await appending.run(lines)
    except TimeoutError:
        return
    except Exception as error:
        if not isinstance(error, Refusal | StorageError):
            log.exception("stream failed", extra={"session": session})
        count_error(node, error)
        last = problem(error).encode() + b"\n"
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
    await send({"type": "http.response.body", "body": last})
