"""How events come from a region: over a WebSocket, as server-sent events, or by long poll.

All three bring the same events with the same cursors, so a reader may change at any moment. What
lies between may forbid the one and hold back the other: ``auto`` takes the first that gets through
and remembers it.
"""

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any, Literal, NamedTuple, get_args
from urllib.parse import urlsplit

import httpx2
import websockets
from websockets.asyncio.client import ClientConnection, connect

from perdure_client.errors import error_of, invalid
from perdure_client.ids import query
from perdure_client.regions import ANSWER_S_MAX, CONNECT_S_MAX, Regions, problem_of
from perdure_client.renewing import keep
from perdure_client.sse import EVENT_CHARS_MAX, EventParser

Transport = Literal["auto", "websocket", "sse", "poll"]
# Keep-alives come every 10 s: silence for longer than two of them means that nobody is there.
SILENCE_S_MAX = 25.0
# The first events of a subscription come at once: what has not come by then is held back.
FIRST_S_MAX = 5.0
# When a transport that did not get through is tried again, and a poll for as long as at first.
FORGET_S = 600.0
POLL_WAIT_MS = 20_000
# A poll that is cut on the way is asked for less time, down to this.
POLL_WAIT_MS_MIN = 500
# Behind these a region has told everything that it has at once; ``runs`` is an agent's feed's.
_CAUGHT_UP = frozenset({"ready", "stale", "deleted", "reconnect", "runs"})


class Event(NamedTuple):
    """An event as it was received, and from which region."""

    event: str
    id: str
    data: dict[str, Any]
    region: str


class Polled(NamedTuple):
    """The answer to a poll; ``handle``: what the next one goes on with."""

    events: list[Event]
    cursor: str
    handle: str | None


class HeldBack(Exception):
    """The region may well be there, but this transport does not get through to it."""


class Silent(HeldBack):
    """Nothing comes: it is held back, or the region itself says nothing to anybody."""


class Transports:
    """Which transport reaches which region. ``sockets``: whether a WebSocket can be tried."""

    def __init__(self, transport: Transport, *, sockets: bool, clock: Callable[[], float]) -> None:
        if transport not in get_args(Transport):
            names = ", ".join(get_args(Transport))
            raise invalid("invalid_transport", f"{transport!r} must be one of {names}")
        every = ("websocket", "sse", "poll") if sockets else ("sse", "poll")
        self._order = every if transport == "auto" else (transport,)
        self._clock = clock
        self._found: dict[str, tuple[int, float]] = {}
        # What is tried after another was held back, until it is known to work.
        self._trying: dict[str, int] = {}
        # For how long a poll waits since one was cut, and until when.
        self._cut = (POLL_WAIT_MS, 0.0)
        self._closing: set[asyncio.Future[None]] = set()

    @property
    def chooses(self) -> bool:
        """Whether there is another to go over to."""
        return len(self._order) > 1

    def of(self, region: str) -> str:
        """The transport to be used now."""
        at, until = self._found.get(region, (0, 0.0))
        return self._order[self._trying.get(region, at if self._clock() < until else 0)]

    def held_back(self, region: str, name: str) -> bool:
        """One does not get through; False: there is no other."""
        at = self._order.index(name) + 1
        if at == len(self._order):
            return False
        self._trying[region] = max(at, self._trying.get(region, 0))
        return True

    def worked(self, region: str, name: str) -> None:
        """One gets through."""
        if self._order[self._trying.get(region, 0)] == name and self._trying.pop(region, 0):
            self._found[region] = (self._order.index(name), self._clock() + FORGET_S)

    @property
    def poll_wait_ms(self) -> int:
        """For how long a poll is to wait for something to tell."""
        wait_ms, until = self._cut
        return wait_ms if self._clock() < until else POLL_WAIT_MS

    def cut(self, wait_ms: int) -> None:
        """A poll was cut while it waited, by what lies between or with its region: the next waits
        for less, for a time."""
        self._cut = (max(POLL_WAIT_MS_MIN, wait_ms // 2), self._clock() + FORGET_S)

    async def close(self, socket: ClientConnection) -> None:
        """Close a socket of a reader, for which ``closed`` waits."""
        closed = asyncio.get_running_loop().create_future()
        self._closing.add(closed)
        try:
            await socket.close()
        finally:
            self._closing.discard(closed)
            closed.set_result(None)

    async def closed(self) -> None:
        """Until what readers that were left just now had open is closed."""
        # A loop that is left has its generator closed by a task, which is made in the next turn of
        # the event loop, and begins in the one after that: it must, before the event loop ends.
        for _ in range(2):
            await asyncio.sleep(0)
        if self._closing:
            await asyncio.wait(self._closing)

    def failed(self, region: str) -> None:
        """It was the region and not the transport: nothing is known of what gets through."""
        self._trying.pop(region, None)


class Connecting:
    """One session, from one region after the other."""

    _streamed_at = "/events"

    def __init__(
        self,
        regions: Regions,
        transports: Transports,
        path: str,
        headers: Callable[[], dict[str, str]],
    ) -> None:
        self._regions = regions
        self._transports = transports
        self._path = path
        self._headers = headers

    async def events(
        self,
        name: str,
        region: str,
        cursor: str | None,
        on_region: Callable[[str], None] | None,
        bound: Mapping[str, Any],
    ) -> AsyncGenerator[Event, None]:
        """Events from a region, by this transport, until the connection ends.

        ``bound``: the member that the connection brings, ``presence`` and ``presence_data``.
        Raises ``HeldBack``, :class:`PerdureError`, and ``httpx2.RequestError``, ``OSError`` or
        ``ValueError`` for a region that fails.
        """
        ways = {"websocket": self._over_socket, "sse": self._streamed, "poll": self._polled}
        # The grant that this connection is opened with: it is followed by others while it goes on.
        own = self._headers()
        is_first = True
        renewing: asyncio.Task[None] | None = None
        try:
            async with aclosing(ways[name](region, cursor, bound, own)) as events:
                async for event in events:
                    if is_first:
                        is_first = False
                        self._regions.worked(region)
                        self._transports.worked(region, name)
                        renewing = self._renewing(name, region, own)
                        if on_region is not None:
                            on_region(region)
                    yield event
        finally:
            if renewing is not None:
                renewing.cancel()

    def _renewing(
        self, name: str, region: str, own: Mapping[str, str]
    ) -> "asyncio.Task[None] | None":
        held = own.get("authorization")
        if held is None or name == "poll":
            # A poll brings the grant of its moment.
            return None
        return asyncio.ensure_future(keep(self._regions, region, held, self._headers))

    # Server-sent events

    async def _streamed(
        self, region: str, cursor: str | None, bound: Mapping[str, Any], own: Mapping[str, str]
    ) -> AsyncGenerator[Event, None]:
        headers = {"accept": "text/event-stream", **own}
        if cursor:
            headers["last-event-id"] = cursor
        path = self._path + self._streamed_at + query(**_in_query(bound))
        answering = self._regions.stream(region, path, headers, SILENCE_S_MAX)
        answer = await self._at_first(answering.__aenter__())
        caught_up = is_live = False
        try:
            if not answer.is_success:
                await answer.aread()
                raise error_of(problem_of(answer))
            if not answer.headers.get("content-type", "").startswith("text/event-stream"):
                raise ValueError(f"{answer.url} answers with something else than events")
            parser = EventParser()
            chunks = answer.aiter_bytes()
            while True:
                coming = anext(chunks, None)
                chunk = await (coming if caught_up else self._at_first(coming))
                if chunk is None:
                    return
                is_live = caught_up
                for event in parser.feed(chunk):
                    yield event_of(event.event, event.id, json.loads(event.data), region)
                    caught_up = caught_up or event.event in _CAUGHT_UP
        except httpx2.ReadTimeout as error:
            if is_live or not (caught_up and self._transports.chooses):
                raise
            # Not even a keep-alive has come after the first events: they are held back.
            raise Silent("it has fallen silent") from error
        finally:
            await answering.__aexit__(None, None, None)

    async def _at_first(self, coming: Any) -> Any:
        """What comes at once, unless something on the way holds it back."""
        if not self._transports.chooses:
            return await coming
        try:
            async with asyncio.timeout(FIRST_S_MAX):
                return await coming
        except TimeoutError as error:
            raise Silent("nothing has come") from error

    # WebSocket

    async def _over_socket(
        self, region: str, cursor: str | None, bound: Mapping[str, Any], own: Mapping[str, str]
    ) -> AsyncGenerator[Event, None]:
        opened = await self._open(region, own)
        try:
            subscribe = {"do": "subscribe", "number": 1, **bound}
            if cursor:
                subscribe["cursor"] = cursor
            caught_up = False
            await opened.send(json.dumps(subscribe))
            while True:
                async with asyncio.timeout(SILENCE_S_MAX if caught_up else FIRST_S_MAX):
                    text = await opened.recv()
                frame = json.loads(text)
                if "event" in frame:
                    yield event_of(frame["event"], frame["id"], frame["data"], region)
                    caught_up = caught_up or frame["event"] in _CAUGHT_UP
                elif frame.get("over"):
                    return
                elif frame.get("reply") == 1 and frame["status"] >= 400:
                    raise error_of(frame["body"])
        except (TimeoutError, websockets.ConnectionClosed) as error:
            if caught_up:
                raise ValueError(f"its socket has failed: {error!r}") from error
            kind = Silent if isinstance(error, TimeoutError) else HeldBack
            raise kind(repr(error)) from error
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"it says what is no event: {error!r}") from error
        finally:
            await self._transports.close(opened)

    async def _open(self, region: str, own: Mapping[str, str]) -> ClientConnection:
        parts = urlsplit(region)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        # By itself, so that a region that is away is told from an upgrade that is forbidden.
        dialled = await _dial(parts.hostname or "", port)
        try:
            return await connect(
                f"ws{region.removeprefix('http')}{self._path}/ws",
                sock=dialled,
                additional_headers=dict(own),
                compression=None,
                max_size=EVENT_CHARS_MAX,
                open_timeout=FIRST_S_MAX,
                close_timeout=1,
                proxy=None,
            )
        except websockets.InvalidStatus as error:
            refusal = _refusal_of(error.response)
            if refusal is not None:
                raise error_of(refusal) from error
            raise HeldBack(repr(error)) from error
        except TimeoutError as error:
            raise Silent(repr(error)) from error
        except (websockets.WebSocketException, EOFError, OSError) as error:
            raise HeldBack(repr(error)) from error

    # Long poll

    async def _polled(
        self, region: str, cursor: str | None, bound: Mapping[str, Any], _: Mapping[str, str]
    ) -> AsyncGenerator[Event, None]:
        handle: str | None = None
        while True:
            # The first, and one after a subscription was lost, wait for nothing: the answer says
            # at once how things are, and a region that gives none is left the sooner.
            wait_ms = self._transports.poll_wait_ms if handle else 0
            asked = query(cursor=cursor, poll=handle, wait_ms=wait_ms, **_in_query(bound))
            answer = await self._poll(region, f"/poll{asked}", wait_ms)
            if answer is None:
                continue
            for event in answer.events:
                yield event
            cursor, handle = answer.cursor, answer.handle

    async def _poll(self, region: str, asked: str, wait_ms: int) -> Polled | None:
        """One answer; None: it was cut on the way while it waited, and is to be asked again."""
        timeout = httpx2.Timeout(ANSWER_S_MAX + wait_ms / 1000, connect=CONNECT_S_MAX)
        try:
            answer = await self._regions.http.get(region + self._path + asked, timeout=timeout)
        except (httpx2.ReadError, httpx2.RemoteProtocolError):
            # Something on the way cuts connections that are idle for so long.
            if wait_ms <= POLL_WAIT_MS_MIN:
                raise
            self._transports.cut(wait_ms)
            return None
        if not answer.is_success:
            problem = problem_of(answer)
            if wait_ms > POLL_WAIT_MS_MIN and answer.status_code in (408, 504):
                self._transports.cut(wait_ms)
                return None
            raise error_of(problem)
        try:
            return self._told(answer.json(), region)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{answer.url} answers with something else than events") from error

    def _told(self, value: Any, region: str) -> Polled:
        events = [event_of(e["event"], e["id"], e["data"], region) for e in value["events"]]
        return Polled(events, value["cursor"], value.get("poll"))


def _in_query(bound: Mapping[str, Any]) -> dict[str, Any]:
    # Short: what is in a query takes up to three times as much room.
    text = partial(json.dumps, ensure_ascii=False, separators=(",", ":"))
    return {n: text(v) if n == "presence_data" else v for n, v in bound.items()}


async def _dial(host: str, port: int) -> socket.socket:
    """A connection, in time, or ``OSError``."""
    loop = asyncio.get_running_loop()
    failure = OSError(f"{host} has no address")
    async with asyncio.timeout(CONNECT_S_MAX):
        for family, kind, protocol, _, address in await loop.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        ):
            dialled = socket.socket(family, kind, protocol)
            dialled.setblocking(False)
            try:
                await loop.sock_connect(dialled, address)
                return dialled
            except OSError as error:
                failure = error
                dialled.close()
            except BaseException:
                dialled.close()
                raise
    raise failure


def _refusal_of(response: Any) -> dict[str, Any] | None:
    """The problem of a handshake that a region refused, for a reason that is not the transport's;
    None where a proxy refused it, or a region that knows no WebSockets."""
    headers = {name.lower(): value for name, value in response.headers.raw_items()}
    plain = httpx2.Response(
        response.status_code,
        headers=headers,
        content=bytes(response.body or b""),
        request=httpx2.Request("GET", "http://region"),
    )
    if not headers.get("content-type", "").startswith("application/problem+json"):
        return None
    problem = problem_of(plain)
    return None if problem.get("code") in ("not_found", "origin_refused") else problem


def event_of(name: str, id_: str, data: Any, region: str) -> Event:
    """The event, or ``ValueError`` where that is none."""
    if not isinstance(data, dict):
        raise ValueError(f"the data of {name} is no object")
    return Event(name, id_, data, region)
