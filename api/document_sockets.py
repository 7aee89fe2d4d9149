"""The WebSocket of Yjs clients at one shared document (``docs/PROTOCOL.md`` A.8).

One message after the other: the next is read when the last is on disk, so what a client sends is
bounded by the disk, and by a rate. What it is told waits for it with limits.
"""

import asyncio
import contextlib
import logging
from typing import NamedTuple

from perdure.api.bodies import Receive, Scope, Send
from perdure.api.connecting import connection_of
from perdure.api.hot import WRITE_S_MAX
from perdure.api.patience import within
from perdure.api.problems import problem
from perdure.api.socket_frames import (
    COMES_BACK,
    LEAVE_S_MAX,
    NOT_TEXT,
    SLOWEST_BYTES_S,
    TRY_LATER,
    Headers,
)
from perdure.api.transports import PROTOCOL
from perdure.regions.documents import Seat
from perdure.regions.node import Node
from perdure.regions.ports import StorageError
from perdure.replication.errors import Refusal
from perdure.replication.lib0 import YjsError
from perdure.replication.limits import (
    DOCUMENT_UPDATES_BURST_MAX,
    DOCUMENT_UPDATES_PER_S_MAX,
    KEEPALIVE_S,
)
from perdure.replication.yjs_sync import (
    AwarenessUpdate,
    QueryAwareness,
    SyncStep1,
    SyncStep2,
    SyncUpdate,
    decode_message,
    encode_awareness_message,
)

log = logging.getLogger("perdure.api")

# Closed for a reason of the protocol: this and the status that HTTP would give.
REFUSED = 4000
_TOO_LARGE = frozenset({"too_large", "too_long"})
_OVER = {
    **dict.fromkeys(("draining", "moved"), COMES_BACK),
    "behind": TRY_LATER,
    "deleted": REFUSED + 410,
    "expired": REFUSED + 401,
    "revoked": REFUSED + 401,
}


class Closing(NamedTuple):
    """How a socket is closed; without a code the client has left."""

    code: int | None
    reason: str = ""


def _over(why: str) -> Closing:
    return Closing(_OVER.get(why, TRY_LATER), why)


def closing(error: Exception, session: str | None = None) -> Closing:
    """How a socket is closed that did this."""
    if isinstance(error, YjsError):
        status = 413 if error.code in _TOO_LARGE else 400
        return Closing(REFUSED + status, error.code)
    if isinstance(error, Refusal | StorageError):
        found = problem(error)
        if found.body["code"] == "draining":
            return Closing(COMES_BACK, "draining")
        return Closing(REFUSED + found.status, found.body["code"])
    log.error("a document's socket failed", exc_info=error, extra={"session": session})
    return Closing(1011)


async def serve_document(
    node: Node, seat: Seat, scope: Scope, receive: Receive, send: Send, headers: Headers
) -> None:
    """One socket, from the end of its handshake on."""
    connection = connection_of(scope)
    connection.follow(seat)
    connection.end = lambda: seat.end("moved")
    try:
        await receive()
        chosen = PROTOCOL if PROTOCOL in scope.get("subprotocols", ()) else None
        await send({"type": "websocket.accept", "subprotocol": chosen, "headers": headers})
        await DocumentSocket(node, seat, receive, send).run()
    except OSError:
        # The client has left; uvicorn says it so.
        return
    finally:
        seat.close()


class DocumentSocket:
    """One client at one document."""

    def __init__(self, node: Node, seat: Seat, receive: Receive, send: Send) -> None:
        self._node = node
        self._seat = seat
        self._receive = receive
        self._send = send
        # How many messages it may still send at once, and since when.
        self._left = float(DOCUMENT_UPDATES_BURST_MAX)
        self._since = asyncio.get_running_loop().time()

    async def run(self) -> None:
        """Until the client leaves, does what it must not, or the region drains."""
        tasks = {asyncio.ensure_future(work) for work in (self._read(), self._write())}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
        found = next(end for task, end in zip(tasks, ends, strict=True) if task in done)
        if isinstance(found, OSError):
            return
        session = self._seat.name[0]
        end = closing(found, session) if isinstance(found, Exception) else found
        if isinstance(end, Closing) and end.code is not None:
            with contextlib.suppress(TimeoutError, OSError):
                close = {"type": "websocket.close", "code": end.code, "reason": end.reason}
                await within(LEAVE_S_MAX, self._send(close))

    # What comes in

    async def _read(self) -> Closing:
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                return Closing(None)
            if (why := self._seat.over) is not None:
                # It may be that the client takes nothing, and was not told yet.
                return _over(why)
            data = message.get("bytes")
            if data is None:
                return Closing(NOT_TEXT, "binary")
            if await self._carry_out(data):
                await self._pace()

    async def _pace(self) -> None:
        """Hold up who says more than it may."""
        now = asyncio.get_running_loop().time()
        earned = (now - self._since) * DOCUMENT_UPDATES_PER_S_MAX
        self._left = min(DOCUMENT_UPDATES_BURST_MAX, self._left + earned) - 1
        self._since = now
        if self._left < 0:
            await asyncio.sleep(-self._left / DOCUMENT_UPDATES_PER_S_MAX)

    async def _carry_out(self, data: bytes) -> bool:
        """Whether it counts. Clients of y-websocket repeat what they hear of who is here, and that
        grows with the square of those who are: it is no news to anybody, and free."""
        match decode_message(data):
            case SyncStep1(vector=vector):
                self._node.tell_document(self._seat, vector)
            case SyncStep2(data=told, update=update) | SyncUpdate(data=told, update=update):
                await self._node.take_update(self._seat, told, update)
            case AwarenessUpdate(entries=entries):
                return self._seat.tell_present(entries)
            case QueryAwareness():
                self._seat.show_present()
        return True

    # What goes out

    async def _write(self) -> Closing:
        while (message := await self._next()) is not None:
            patience_s = WRITE_S_MAX + len(message) / SLOWEST_BYTES_S
            try:
                await within(patience_s, self._send({"type": "websocket.send", "bytes": message}))
            except TimeoutError:
                self._node.counters["readers_cut"] += 1
                return Closing(TRY_LATER, "behind")
        return _over(self._seat.over or "")

    async def _next(self) -> bytes | None:
        """A client of y-websocket that hears nothing for 30 s takes the region to be gone."""
        try:
            async with asyncio.timeout(KEEPALIVE_S):
                return await self._seat.next()
        except TimeoutError:
            return encode_awareness_message(())
