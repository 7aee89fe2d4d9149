"""A shared document that is edited live: pycrdt's, in sync with one region after another."""

import asyncio
from collections.abc import Callable
from typing import Any, NoReturn

import aiohttp
from pycrdt import Awareness, Doc

from perdure_client.errors import NotFound, PerdureError, Unavailable, error_of
from perdure_client.regions import CONNECT_S_MAX, RETRY_STATUSES, Regions
from perdure_client.yjs_exchange import NotYjs, YjsExchange

# A region says something every 10 s: silence for longer than two of them means nobody is there.
SILENCE_S_MAX = 25.0
HANDSHAKE_S_MAX = 5.0
# A connection that held for so long was a good one: the next failure begins a new series of tries.
STEADY_S = 5.0
MESSAGE_BYTES_MAX = 8_388_608
# Closing codes that tell of a refusal are 4000 and its status.
REFUSED = 4000
# The codes of WebSockets by which a region says that it would never take this.
_REFUSALS = {1003: 415, 1007: 400, 1009: 413}


class Live:
    """A document that is in sync with a region for as long as the ``async with`` block lasts, and
    with another when that fails. ``doc`` is a ``pycrdt.Doc``, of which the text is
    ``doc.get("text", type=Text)`` and the map ``doc.get("json", type=Map)``: edit it as any other,
    with or without a region in reach.

    The block begins when the document is there, and ends when what was edited is on a region's
    disk; where it raises, what was not sent is not waited for. ``awareness``: who is here, a
    ``pycrdt.Awareness``: ``states`` by client id, and ``set_local_state``. ``region`` is the one
    that it is in sync with, if any, ``moves`` how often that was another than before.

    Everything raises ``Deleted`` once the document is deleted, ``Invalid`` once it has grown beyond
    what regions take, and what else every region would refuse.
    """

    def __init__(
        self,
        regions: Regions,
        path: str,
        headers: Callable[[], dict[str, str]],
        doc: "Doc[Any] | None" = None,
    ) -> None:
        self.doc: Doc[Any] = Doc() if doc is None else doc
        self.region: str | None = None
        self.moves = 0
        self.error: Exception | None = None
        self._regions = regions
        self._path = path
        self._headers = headers
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self._exchange = YjsExchange(self.doc, self._woken)
        self._last: str | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def awareness(self) -> Awareness:
        """Who is here."""
        return self._exchange.awareness

    async def __aenter__(self) -> "Live":
        """In sync with a region for the first time. Raises ``Unavailable`` when none answers."""
        for name, work in (("live", self._run()), ("here", self.awareness.start())):
            self._tasks.append(asyncio.create_task(work, name=f"perdure-{name}"))
        try:
            await self._until(lambda: self._exchange.is_synced)
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and self._tasks:
                await self.saved()
        finally:
            await self.aclose()

    async def saved(self) -> None:
        """Until everything that was edited here is on the disk of a region. Raises ``Unavailable``
        when none has taken it for as long as a request is tried."""
        edits = self._exchange.edits
        self._exchange.ask()
        await self._until(lambda: self._exchange.kept >= edits)

    async def changed(self) -> None:
        """Until the document, or who is here, has changed, whoever did it."""
        self._check()
        await self._regions.wait(self._changed, None)
        self._check()

    async def aclose(self) -> None:
        """Leave at once; what a region has not been told stays in ``doc`` alone. Never raises."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._tasks:
            self._tasks = []
            self._exchange.close()

    def _woken(self) -> None:
        self._wake.set()
        self._changed.set()

    def _check(self) -> None:
        if self.error is not None:
            raise self.error

    async def _until(self, is_so: Callable[[], bool]) -> None:
        deadline = self._regions.now() + self._regions.give_up_s
        while not is_so():
            self._check()
            rest_s = deadline - self._regions.now()
            if rest_s <= 0:
                detail = "no region has taken the document"
                raise Unavailable({"code": "unavailable", "status": 503, "detail": detail})
            await self._regions.wait(self._changed, rest_s)
        self._check()

    # One region after another

    async def _run(self) -> None:
        try:
            await self._follow()
        except Exception as error:
            # Whatever it is: who edits must hear it.
            self.error = error
            self._changed.set()

    async def _follow(self) -> None:
        pause = self._regions.pause()
        region = self._regions.pick()
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S_MAX)
        async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as http:
            while True:
                began = self._regions.now()
                try:
                    why = await self._connected(http, region)
                except PerdureError as error:
                    if error.status not in RETRY_STATUSES:
                        raise
                    why = str(error)
                except (aiohttp.ClientError, TimeoutError, OSError, NotYjs) as error:
                    why = repr(error)
                finally:
                    self.region = None
                if self._regions.now() - began >= STEADY_S:
                    pause.reset()
                self._regions.failed(region, why)
                region = await self._regions.turn(region, pause.next_s())

    async def _connected(self, http: aiohttp.ClientSession, region: str) -> str:
        """Talk to one region for as long as it goes; why it went no longer. Raises
        :class:`PerdureError` where it refused."""
        try:
            async with asyncio.timeout(HANDSHAKE_S_MAX):
                socket = await http.ws_connect(
                    f"ws{region.removeprefix('http')}{self._path}",
                    headers=self._headers(),
                    max_msg_size=MESSAGE_BYTES_MAX,
                    timeout=aiohttp.ClientWSTimeout(ws_close=1.0),
                )
        except aiohttp.WSServerHandshakeError as error:
            if error.status not in RETRY_STATUSES:
                await self._refused(region)
            raise
        # Before anything is taken: it forgets what the last socket was asked.
        begun = self._exchange.begin()
        writing = asyncio.create_task(self._write(socket, begun))
        try:
            while True:
                message = await socket.receive(SILENCE_S_MAX)
                if message.type is not aiohttp.WSMsgType.BINARY:
                    return ended(socket.close_code, message.extra)
                self._exchange.take(message.data)
                if self._exchange.is_synced and self.region is None:
                    self._arrived(region)
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
            await socket.close()

    def _arrived(self, region: str) -> None:
        self._regions.worked(region)
        self.moves += self._last not in (None, region)
        self._last = self.region = region

    async def _refused(self, region: str) -> None:
        """Why a handshake was refused, in the region's words: the same as of a read."""
        try:
            await self._regions.once(region, "GET", self._path)
        except NotFound:
            # The document is not there yet, which is no reason.
            return

    async def _write(self, socket: aiohttp.ClientWebSocketResponse, messages: list[bytes]) -> None:
        try:
            while True:
                for message in messages:
                    await socket.send_bytes(message)
                await self._wake.wait()
                self._wake.clear()
                messages = self._exchange.said()
        except aiohttp.ClientError:
            # Who reads must not wait on.
            await socket.close()


def ended(code: int | None, reason: str | None) -> str:
    """Why a socket that was closed with this can be tried elsewhere. Raises :class:`PerdureError`
    for a refusal."""
    status = _REFUSALS.get(code or 0, (code or 0) - REFUSED)
    if status >= 400:
        _refuse(status, reason or "")
    return f"its socket has closed: {code} {reason or ''}".strip()


def _refuse(status: int, reason: str) -> NoReturn:
    """What a closing code of A.8 says, as the error of a refusal of this status."""
    codes = {400: "invalid_update", 413: "too_large", 415: "invalid_update"}
    code = codes.get(status, reason or "internal")
    detail = f"the region does not take the document as it is edited here: {reason or status}"
    raise error_of({"code": code, "status": status, "detail": detail})
