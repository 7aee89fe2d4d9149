"""What operators see as it happens: ``GET /admin/api/live``, server-sent events.

Each event says how it is when it is written: nothing is kept for who reads slowly, and who takes
nothing is cut. What is the same for all who look is made and encoded once.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

from fastapi import Response
from perdure.api.bodies import Receive, Scope, Send, until_gone
from perdure.api.hot import encode_json, stream_headers, write_slices
from perdure.api.standing import Needs, standing_of
from perdure.regions.history import NAMES, STEP_S
from perdure.regions.node import Node
from perdure.replication.errors import Refusal
from perdure.replication.limits import ADMIN_STREAMS_MAX

EVERY_S = 1.0
# The sessions that tokens come to fastest, of which it is told.
BUSIEST_MAX = 20
_NEEDS = Needs(frozenset({"admin"}))


def _event(name: str, value: Any) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), encode_json(value))


class Looking:
    """Those who look at one region."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._count = 0
        # What was told last, and in which second.
        self._told: tuple[int, bytes] | None = None

    def check_room(self) -> None:
        """Raises ``Refusal`` ``too_many``."""
        if self._count >= ADMIN_STREAMS_MAX:
            raise Refusal("too_many", "too many operators look at this region", retry_after_s=5)

    @contextlib.contextmanager
    def one_more(self) -> Iterator[None]:
        """While it lasts. Raises ``Refusal`` ``too_many``."""
        self.check_room()
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1

    def now(self) -> bytes:
        """How it is in this second, and which sessions are busiest."""
        oversight = self._node.oversight
        oversight.peers.look()
        second = int(self._node.clock.monotonic_ms() // (EVERY_S * 500))
        if self._told is None or self._told[0] != second:
            busiest = oversight.activity.busiest(BUSIEST_MAX)
            text = _event("overview", oversight.overview.value())
            text += _event("sessions", {"sessions": [oversight.busy(id_) for id_ in busiest]})
            self._told = (second, text)
        return self._told[1]


class Live(Response):
    """One stream, until its client leaves, its grant is over, or the process is to end."""

    def __init__(self, node: Node, looking: Looking) -> None:
        super().__init__()
        self._node = node
        self._looking = looking
        self._over: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()

    def _end(self, why: str | None) -> None:
        if not self._over.done():
            self._over.set_result(why)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        with self._looking.one_more(), standing_of(scope).held(None, self._end, _NEEDS):
            gone = asyncio.ensure_future(self._until_gone(receive))
            try:
                await self._write(send)
            except TimeoutError:
                # Whoever looks takes nothing any more.
                return
            finally:
                gone.cancel()

    async def _until_gone(self, receive: Receive) -> None:
        await until_gone(receive)
        self._end(None)

    async def _write(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": stream_headers()})
        history = self._node.oversight.history
        seen = history.count
        while not self._over.done() and not self._node.is_ending:
            text = self._looking.now()
            if history.count > seen:
                new = {"step_s": STEP_S, "names": list(NAMES), "samples": history.since(seen)}
                seen = history.count
                text += _event("history", new)
            await write_slices(send, text)
            await asyncio.wait({self._over}, timeout=EVERY_S)
        last = b"event: reconnect\ndata: {}\n\n"
        if self._over.done() and (why := self._over.result()) is not None:
            last = _event("expired", {"reason": why})
        await write_slices(send, last)
        await send({"type": "http.response.body", "body": b""})
