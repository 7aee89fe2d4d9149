"""An agent's feed: its runs that are not over, in all sessions, from one region after the other.

A connection begins with everything, so none goes on with another's cursor.
"""

from collections.abc import AsyncGenerator, Mapping
from typing import Any

from perdure_client.ids import query
from perdure_client.transports import Connecting, Event, Polled, event_of


class FeedConnecting(Connecting):
    """Brings ``runs`` with ``all`` at once, then ``run`` for each that has changed; by long poll
    ``runs`` each time."""

    _streamed_at = ""

    async def _streamed(
        self, region: str, cursor: str | None, bound: Mapping[str, Any], own: Mapping[str, str]
    ) -> AsyncGenerator[Event, None]:
        del cursor
        async for event in super()._streamed(region, None, bound, own):
            yield event

    async def _polled(
        self, region: str, cursor: str | None, bound: Mapping[str, Any], _: Mapping[str, str]
    ) -> AsyncGenerator[Event, None]:
        cursor = None
        while True:
            wait_ms = self._transports.poll_wait_ms if cursor else 0
            asked = query(cursor=cursor, wait_ms=wait_ms, **bound)
            answer = await self._poll(region, asked, wait_ms)
            if answer is None:
                continue
            if answer.cursor != cursor:
                for event in answer.events:
                    yield event
            cursor = answer.cursor

    def _told(self, value: Any, region: str) -> Polled:
        runs = list(value["runs"])
        return Polled(
            [event_of("runs", value["cursor"], {"all": runs}, region)], value["cursor"], None
        )
