"""A client's way to real regions: HTTP, and server-sent events."""

import asyncio
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import httpx2
from perdure.regions.ports import StorageError
from perdure.replication.errors import Refusal

from perdure_client.sse import EventParser
from tests.chaos.regions import Regions
from tests.simulation.door import REQUEST_S_MAX, TEMPORARY, Door, Refused, Unavailable
from tests.simulation.history import History
from tests.simulation.verbs import Reply, Verbs, refusal_of


class Message(NamedTuple):
    """Events, or None at the end."""

    data: bytes | None


class EventSocket:
    """An answer that goes on."""

    def __init__(self, answer: httpx2.Response) -> None:
        self._answer = answer
        self._chunks = answer.aiter_bytes()
        self._parser = EventParser()
        self._closing: asyncio.Task[None] | None = None

    async def receive(self) -> Message:
        """The next events, as JSON; none for a comment, which says that the region lives."""
        try:
            events = self._parser.feed(await anext(self._chunks))
        except (StopAsyncIteration, httpx2.RequestError):
            return Message(None)
        return Message(json.dumps([[e.event, e.id, e.data] for e in events]).encode())

    def abort(self) -> None:
        """Nobody reads any more."""
        self._closing = self._closing or asyncio.create_task(self._answer.aclose())


class HttpDoor(Door):
    """Requests to processes; counts the resumes."""

    def __init__(self, regions: Regions, history: History, log: Callable[[str], None]) -> None:
        super().__init__(history, log)
        self._regions = regions
        self._last: dict[str, str] = {}
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=64)
        self._http = httpx2.AsyncClient(
            trust_env=False, timeout=None, limits=limits, headers=regions.headers
        )

    async def aclose(self) -> None:
        """Close every connection."""
        await self._http.aclose()

    async def _ask(self, who: str, region: str, verb: str, args: Any, more: Any) -> tuple[Any, str]:
        place = self._regions.all[region]
        # Looked up first: what an older disk acknowledged must not count for a newer one.
        disk = place.disk

        async def request(method: str, path: str, body: Any, headers: Any, query: Any) -> Reply:
            try:
                answer = await self._http.request(
                    method, place.url + path, json=body, headers=headers, params=query
                )
            except httpx2.RequestError as error:
                raise ConnectionError(repr(error)) from error
            return Reply(answer.status_code, answer.json() if answer.content else None)

        try:
            answer = await Verbs(request).carry_out(verb, args, more)
        except Refusal as refusal:
            raise Refused(refusal) from None
        return answer, disk

    async def follow(self, who: str, region: str, session: str, cursor: str | None) -> EventSocket:
        """A stream of events. Raises ``Refused`` and ``Unavailable``."""
        url = f"{self._regions.all[region].url}/v1/sessions/{session}/events"
        headers = {"last-event-id": cursor} if cursor else {}
        request = self._http.build_request("GET", url, headers=headers)
        try:
            async with asyncio.timeout(REQUEST_S_MAX):
                answer = await self._http.send(request, stream=True)
                if answer.status_code != 200:
                    await answer.aread()
                    raise refusal_of(answer.json())
        except Refusal as refusal:
            if refusal.code in TEMPORARY:
                raise Unavailable(refusal.code) from None
            raise Refused(refusal) from None
        except (TimeoutError, httpx2.RequestError):
            raise Unavailable("lost") from None
        except StorageError:
            raise Unavailable("storage_failed") from None
        if cursor is not None:
            self._history.counts["resumes"] += 1
            self._history.counts["resumes_elsewhere"] += self._last.get(who) != region
        self._last[who] = region
        return EventSocket(answer)
