"""What operators ask of regions: the paths under ``/admin/api`` (PROTOCOL, part A)."""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import httpx2

from perdure_client.errors import Unavailable, error_of
from perdure_client.ids import query as in_query
from perdure_client.regions import RETRY_STATUSES, Regions, problem_of
from perdure_client.sse import EventParser
from perdure_client.transports import SILENCE_S_MAX, Event

_ROOT = "/admin/api/"


class Admin:
    """What operators ask of regions. ``path`` is what follows ``/admin/api/``; names of sessions in
    it are the regions' own, ``tenant:id`` where there are tenants, quoted as in a URL.

    Everything raises ``PerdureError``, with the code ``forbidden`` where no operator's grant is,
    and ``NotFound`` also where a region has no such path, because it is of an older version.
    """

    def __init__(self, regions: Regions) -> None:
        self._regions = regions

    async def get(self, path: str, **query: str | int | None) -> dict[str, Any]:
        """What the first region that answers says."""
        answer, _ = await self._regions.request("GET", _ROOT + path + in_query(**query))
        return answer

    async def post(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """An action at the region that is asked now, and at no other: what is drained, cut off or
        forgotten is meant where it is said. Raises ``Unavailable`` where that does not answer; the
        action may have been taken all the same."""
        return await self._at_one("POST", path, body or {})

    async def put(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Likewise, something is set."""
        return await self._at_one("PUT", path, body)

    async def delete(self, path: str) -> dict[str, Any]:
        """Likewise, something is taken away."""
        return await self._at_one("DELETE", path, None)

    async def live(self) -> AsyncGenerator[Event, None]:
        """What a region tells while it is watched; when it is gone, the next one goes on. For
        ever, as for any reader."""
        pause = self._regions.pause()
        url = self._regions.pick()
        while True:
            try:
                async with aclosing(self._watched(url)) as events:
                    async for event in events:
                        pause.reset()
                        yield event
                self._regions.failed(url, "it has ended the stream")
            except (httpx2.RequestError, ValueError) as error:
                self._regions.failed(url, repr(error))
            url = await self._regions.turn(url, pause.next_s())

    async def _at_one(self, method: str, path: str, body: Any) -> dict[str, Any]:
        url = self._regions.pick()
        answer = await self._regions.once(url, method, _ROOT + path, body)
        if answer is None:
            detail = f"no answer from {self._regions.last_failure}"
            raise Unavailable({"code": "unavailable", "status": 503, "detail": detail})
        found: dict[str, Any] = answer
        return found

    async def _watched(self, url: str) -> AsyncGenerator[Event, None]:
        headers = {"accept": "text/event-stream"}
        path = _ROOT + "live"
        async with self._regions.stream(url, path, headers, SILENCE_S_MAX) as answer:
            if not answer.is_success:
                await answer.aread()
                problem = problem_of(answer)
                if answer.status_code in RETRY_STATUSES:
                    raise ValueError(problem["detail"])
                raise error_of(problem)
            self._regions.worked(url)
            region = answer.headers.get("perdure-region", "")
            parser = EventParser()
            async for chunk in answer.aiter_bytes():
                for event in parser.feed(chunk):
                    data = json.loads(event.data)
                    if not isinstance(data, dict):
                        raise ValueError("an event is no object")
                    yield Event(event.event, event.id, data, region)
