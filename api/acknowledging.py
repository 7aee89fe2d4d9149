"""Whose acknowledgements a socket is told, as more of what it has appended becomes stable."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from perdure.api.verbs import Lane, ack_value
from perdure.regions.answers import Ack
from perdure.regions.node import Node
from perdure.replication.errors import Refusal
from perdure.replication.limits import SOCKET_LANES_MAX
from perdure.replication.tenants import name_of


class Acknowledging:
    """The lanes of one socket that are not stable yet. ``start`` begins work that ends with it."""

    def __init__(
        self,
        node: Node,
        send: Callable[[str], Awaitable[None]],
        start: Callable[[Awaitable[None]], Any],
    ) -> None:
        self._node = node
        self._send = send
        self._start = start
        self._lanes: dict[Lane, Ack] = {}
        self._watching = False

    def check(self, lane: Lane) -> None:
        """Raises ``Refusal`` ``too_many`` for one lane more than can be watched."""
        if lane not in self._lanes and len(self._lanes) >= SOCKET_LANES_MAX:
            detail = "this socket appends to too many messages that are not stable yet"
            raise Refusal("too_many", detail, retry_after_s=1)

    async def watch(self, lane: Lane, ack: Ack) -> None:
        """Tell the client when more of a lane is stable: one watch for all of them, no timer."""
        if ack.is_stable:
            return
        self._lanes[lane] = ack
        if not self._watching:
            self._watching = True
            self._start(self._watch())
        # What came while the answer was on its way.
        await self._look(lane)

    async def _watch(self) -> None:
        while self._lanes:
            await self._node.progress()
            for lane in list(self._lanes):
                await self._look(lane)
        self._watching = False

    async def _look(self, lane: Lane) -> None:
        last = self._lanes.get(lane)
        if last is None:
            return
        try:
            ack = self._node.acknowledged(*lane)
        except Refusal:
            # It was deleted: whoever appends again is told.
            del self._lanes[lane]
            return
        if ack.is_stable:
            del self._lanes[lane]
        else:
            self._lanes[lane] = ack
        if (ack.stable, ack.ended) != (last.stable, last.ended):
            session, message, producer, epoch = lane
            names = {"session": name_of(session), "message": message}
            lane_value = {**names, "producer": producer, "epoch": epoch, "ack": ack_value(ack)}
            await self._send(json.dumps(lane_value, separators=(",", ":")))
