"""The WebSocket of clients (``docs/PROTOCOL.md`` A.7): events out, verbs in, several sessions.

Whatever is sent waits for the client with a limit, and a client that takes nothing is cut. What
comes in is bounded by not reading on while ``SOCKET_VERBS_MAX`` frames are being carried out.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from perdure.api.acknowledging import Acknowledging
from perdure.api.bodies import Receive, Scope, Send
from perdure.api.connecting import COME_BACK, connection_of
from perdure.api.counting import count_error, count_frame
from perdure.api.door import Door
from perdure.api.hot import WRITE_S_MAX
from perdure.api.pace import Pace, cost_of, pace_of
from perdure.api.patience import within
from perdure.api.socket_frames import (
    ALIVE,
    COMES_BACK,
    FINISH_S_MAX,
    GRANT_OVER,
    LEAVE_S_MAX,
    NOT_TEXT,
    SLOWEST_BYTES_S,
    TRY_LATER,
    Headers,
    encode_frame,
    number_of,
    parse_frame,
    refusal_of,
)
from perdure.api.standing import Needs, reads, standing_of
from perdure.api.transports import PROTOCOL
from perdure.api.verbs import Answer, Whose, carry_out
from perdure.api.work import hold_feed
from perdure.regions.connections import Connection
from perdure.regions.fanout import Reader
from perdure.regions.node import Node
from perdure.regions.ports import StorageError
from perdure.regions.work_readers import WorkReader
from perdure.replication.errors import Refusal
from perdure.replication.limits import (
    KEEPALIVE_S,
    SOCKET_SESSIONS_MAX,
    SOCKET_VERBS_MAX,
    SOCKETS_MAX,
)
from perdure.replication.tenants import name_of

log = logging.getLogger("perdure.api")


class Sockets:
    """The sockets of a region."""

    def __init__(self, node: Node, door: Door) -> None:
        self._node = node
        self._door = door
        self._count = 0

    def check_room(self) -> None:
        """Raises ``Refusal`` ``too_many``."""
        if self._count >= SOCKETS_MAX:
            raise Refusal("too_many", "this region has too many sockets", retry_after_s=1)

    @property
    def count(self) -> int:
        """How many there are."""
        return self._count

    async def serve(
        self, scope: Scope, receive: Receive, send: Send, session: str, headers: Headers
    ) -> None:
        """One socket, from the end of its handshake on; ``session`` is what its client calls it."""
        with self.counted():
            await self._serve(scope, receive, send, session, headers)

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """One more, while it lasts."""
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1

    async def _serve(
        self, scope: Scope, receive: Receive, send: Send, session: str, headers: Headers
    ) -> None:
        try:
            await receive()
            chosen = PROTOCOL if PROTOCOL in scope.get("subprotocols", ()) else None
            accept = {"type": "websocket.accept", "subprotocol": chosen, "headers": headers}
            await send(accept)
            whose = Whose(standing_of(scope), self._door)
            socket = Socket(self._node, whose, session, receive, send, pace_of(scope))
            socket.connection = connection_of(scope)
            socket.connection.end = socket.send_away
            await socket.run()
        except OSError:
            # The client has left; uvicorn says it so.
            return


class Socket:
    """One socket. ``run`` until it is closed; nothing of it is left then."""

    def __init__(
        self,
        node: Node,
        whose: Whose,
        session: str,
        receive: Receive,
        send: Send,
        pace: Pace | None = None,
    ) -> None:
        # How operators see it.
        self.connection: Connection | None = None
        self._pace = pace
        self._paused_until = 0.0
        self._node = node
        self._whose = whose
        self._session = session
        self._receive = receive
        self._send_message = send
        # What to close it with; None: it is closed already.
        self._end: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._room = asyncio.Semaphore(SOCKET_VERBS_MAX)
        self._tasks: set[asyncio.Task[None]] = set()
        self._verbs: set[asyncio.Task[None]] = set()
        self._readers: dict[str, Reader] = {}
        self._following: dict[str, asyncio.Task[None]] = {}
        self._feeds: dict[str, WorkReader] = {}
        self._working: dict[str, asyncio.Task[None]] = {}
        self.acknowledging = Acknowledging(node, self._send, self._start)
        self._sent_at = 0.0
        # When all that was sent has left, on the slowest link.
        self._gone_by = 0.0

    async def run(self) -> None:
        """Until the client leaves, is cut, or the region drains. What it has asked for by then is
        still carried out."""
        self._start(self._read())
        self._start(self._leave())
        let_go = self._whose.standing.hold(None, self._grant_over, Needs())
        try:
            code = await self._end
            self._end_all(self._tasks - self._verbs)
            if code is not None:
                with contextlib.suppress(TimeoutError, OSError):
                    close = {"type": "websocket.close", "code": code}
                    await within(LEAVE_S_MAX, self._send_message(close))
            if self._verbs:
                await asyncio.wait(self._verbs, timeout=FINISH_S_MAX)
        finally:
            let_go()
            self._end_all(self._tasks)
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _end_all(self, tasks: set[asyncio.Task[None]]) -> None:
        for reader in self._readers.values():
            reader.close()
        for feed in self._feeds.values():
            feed.close()
        for task in tasks:
            task.cancel()

    def _start(self, work: Awaitable[None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _guarded(self, work: Awaitable[None]) -> None:
        """What goes wrong in any part of it ends the socket."""
        try:
            await work
        except OSError:
            # The client has left. What it said before is still read, and then that it has left.
            return
        except Exception:
            log.exception("a socket failed", extra={"session": self._session})
            self._close(1011)

    def _close(self, code: int | None) -> None:
        if not self._end.done():
            self._end.set_result(code)

    async def _send(self, text: str) -> None:
        now = asyncio.get_running_loop().time()
        # What was sent before may still be on its way.
        patience_s = WRITE_S_MAX + max(0.0, self._gone_by - now)
        self._gone_by = max(self._gone_by, now) + len(text) / SLOWEST_BYTES_S
        try:
            message = {"type": "websocket.send", "text": text}
            await within(patience_s, self._send_message(message))
        except TimeoutError:
            # The client takes nothing any more. It comes back with its cursors.
            self._node.counters["readers_cut"] += 1
            self._close(TRY_LATER)
            raise asyncio.CancelledError from None
        self._sent_at = asyncio.get_running_loop().time()

    # What comes in

    async def _read(self) -> None:
        while True:
            await self._paid()
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                self._close(None)
                return
            text = message.get("text")
            if text is None:
                self._close(NOT_TEXT)
                return
            if self._pace is not None:
                self._pause(self._pace.owe(1 + cost_of(0, len(text))))
            await self._room.acquire()
            self._verbs.add(verb := self._start(self._carry_out(text)))
            verb.add_done_callback(self._carried_out)

    def owe(self, session: str, items: int) -> None:
        """What a frame brings to a session; see :class:`~perdure.api.verbs.Following`."""
        if self._pace is not None:
            self._pause(self._pace.only(session).owe(1 + cost_of(items)))

    def _pause(self, wait_s: float) -> None:
        if wait_s > 0:
            until = asyncio.get_running_loop().time() + wait_s
            self._paused_until = max(self._paused_until, until)

    async def _paid(self) -> None:
        """Until nothing is owed for what has come in."""
        if (left := self._paused_until - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(left)

    def _carried_out(self, verb: asyncio.Task[None]) -> None:
        # Not before its answer has left: a client that reads none is not listened to either.
        self._verbs.discard(verb)
        self._room.release()

    async def _carry_out(self, text: str) -> None:
        number: int | None = None
        answer = Answer(0)
        frame: dict[str, Any] = {}
        try:
            frame = parse_frame(text)
            number = number_of(frame)
            answer = await carry_out(self._node, self, self._whose, self._session, frame)
            status, body = answer.status, answer.body
        except Exception as error:
            if not isinstance(error, Refusal | StorageError):
                log.exception("a frame failed", extra={"session": frame.get("session")})
            count_error(self._node, error)
            status, body = refusal_of(error)
        count_frame(self._node.meters, frame, status)
        reply = {"reply": number, "status": status, "body": body}
        await self._send(json.dumps(reply, ensure_ascii=False, separators=(",", ":")))
        if answer.then is not None:
            await answer.then()

    # Sessions that are followed

    def follow(
        self, session: str, cursor: str | None, member: str | None, data: Any
    ) -> Callable[[], Awaitable[None]]:
        """Subscribe to a session; see :class:`~perdure.api.verbs.Following`."""
        if session in self._readers:
            raise Refusal("conflict", f"this socket follows session {name_of(session)} already")
        if len(self._readers) >= SOCKET_SESSIONS_MAX:
            raise Refusal("too_many", "this socket follows too many sessions", retry_after_s=1)
        self._readers[session] = reader = self._node.subscribe(session, cursor, member, data)
        reader.on_close(self._whose.standing.hold(session, reader.expire_grant, reads(member)))
        if self.connection is not None:
            reader.on_close(self.connection.follow(reader))
            self.connection.member = member or self.connection.member

        async def start() -> None:
            if self._readers.get(session) is reader and not self._end.done():
                self._following[session] = self._start(self._tell(session, reader))

        return start

    async def unfollow(self, session: str) -> None:
        """End a subscription; no event of it is sent when this returns."""
        reader = self._readers.pop(session, None)
        task = self._following.pop(session, None)
        if reader is not None:
            reader.close()
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def _tell(self, session: str, reader: Reader) -> None:
        while (gathered := await reader.next()) is not None:
            for event in gathered:
                await self._send(encode_frame(session, event))
            if not gathered and self._is_quiet():
                await self._send(ALIVE)
        self._following.pop(session, None)
        reader.close()
        self._readers.pop(session, None)
        await self._send(f'{{"session":"{name_of(session)}","over":true}}')

    def _is_quiet(self) -> bool:
        return asyncio.get_running_loop().time() - self._sent_at > KEEPALIVE_S / 2

    def send_away(self) -> None:
        """An operator ends it: its client comes back."""
        for reader in self._readers.values():
            reader.end_with(COME_BACK)
        for feed in self._feeds.values():
            feed.end()
        self._start(self._finish(COMES_BACK))

    async def _finish(self, code: int) -> None:
        """Close it when those who are told last words have had them, or take none."""
        if under_way := {*self._following.values(), *self._working.values(), *self._verbs}:
            await asyncio.wait(under_way, timeout=LEAVE_S_MAX)
        self._close(code)

    def _grant_over(self, why: str) -> None:
        self._start(self._expire(why))

    async def _expire(self, why: str) -> None:
        """Its grant is over: what it follows is told, and it is closed."""
        for reader in self._readers.values():
            reader.expire_grant(why)
        for feed in self._feeds.values():
            feed.expire_grant(why)
        await self._send(f'{{"expired":{{"reason":"{why}"}}}}')
        await self._finish(GRANT_OVER)

    async def _leave(self) -> None:
        """When the region drains, let its readers be told, and close."""
        await self._node.leaving.wait()
        await self._finish(COMES_BACK)

    # Agents' feeds

    def work(self, agent: str, worker: str | None) -> Callable[[], Awaitable[None]]:
        """Follow an agent's feed; see :class:`~perdure.api.verbs.Following`."""
        if agent in self._feeds:
            raise Refusal("conflict", f"this socket follows agent {name_of(agent)} already")
        if len(self._feeds) >= SOCKET_SESSIONS_MAX:
            raise Refusal("too_many", "this socket follows too many agents", retry_after_s=1)
        self._feeds[agent] = reader = self._node.follow_agent(agent, worker)
        reader.on_close(hold_feed(self._whose.standing, reader))
        if self.connection is not None:
            reader.on_close(self.connection.follow(reader))

        async def start() -> None:
            if self._feeds.get(agent) is reader and not self._end.done():
                self._working[agent] = self._start(self._tell_work(agent, reader))

        return start

    async def rest(self, agent: str) -> None:
        """End a feed; nothing of it is sent when this returns."""
        reader = self._feeds.pop(agent, None)
        task = self._working.pop(agent, None)
        if reader is not None:
            reader.close()
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def _tell_work(self, agent: str, reader: WorkReader) -> None:
        while (told := await reader.next()) is not None:
            for name, data in told:
                await self._send(f'{{"agent":"{name_of(agent)}","event":"{name}","data":{data}}}')
            if not told and self._is_quiet():
                await self._send(ALIVE)
        self._working.pop(agent, None)
        reader.close()
        self._feeds.pop(agent, None)
        await self._send(f'{{"agent":"{name_of(agent)}","over":true}}')
