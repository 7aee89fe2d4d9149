"""The link that this region dials to one peer: it pushes over it, and asks over it."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import aiohttp
from perdure.regions.links import Digests, PeerUnreachable
from perdure.regions.ports import StorageError
from perdure.regions.transport_wire import (
    HANDSHAKE_S_MAX,
    HEARTBEAT_S,
    IDLE_S_MAX,
    PATH,
    Surroundings,
    frame_of,
    log,
    vector_payload,
)
from perdure.replication.frames import (
    FRAME_BYTES_MAX,
    Channel,
    FrameError,
    Kind,
    decode_json,
    encode_json,
    encode_records,
    vector_from_json,
)
from perdure.replication.gossip import Batch, ReadLog
from perdure.replication.handshake import Identity, LinkRefused, answer, establish, expect
from perdure.replication.records import Record, Vector

BACKOFF_S_MIN = 0.1
BACKOFF_S_MAX = 5.0
STEADY_S = 10.0
ASK_S_MAX = 5.0
CLOSE_S_MAX = 1.0
Socket = aiohttp.ClientWebSocketResponse


class Backoff:
    """How long to wait before a link is dialled again: full jitter under a bound that doubles."""

    def __init__(self) -> None:
        self._most_s = BACKOFF_S_MIN

    def after(self, share: float, *, lived_s: float) -> float:
        """Seconds to wait after a link that lived so long; ``share``, of [0, 1), is the jitter."""
        if lived_s > STEADY_S:
            self._most_s = BACKOFF_S_MIN
        wait_s = self._most_s * share
        self._most_s = min(self._most_s * 2, BACKOFF_S_MAX)
        return wait_s


class DialedLink:
    """Dials one peer again and again, for as long as :meth:`run` is not cancelled."""

    def __init__(self, around: Surroundings, name: str, url: str) -> None:
        self.name = name
        self.refused: str | None = None
        self.wake = asyncio.Event()
        self._url = url.rstrip("/") + PATH
        self._around = around
        self._gossip = around.gossip
        self._open: tuple[Socket, Channel] | None = None
        self._asks: dict[int, asyncio.Future[Digests]] = {}
        self._asked = 0

    async def run(self, session: aiohttp.ClientSession) -> None:
        """Keep a link open; back off with full jitter while that fails."""
        loop = asyncio.get_running_loop()
        backoff = Backoff()
        while True:
            began = loop.time()
            await self._try(session)
            share = self._around.entropy.uniform()
            await asyncio.sleep(backoff.after(share, lived_s=loop.time() - began))

    async def _try(self, session: aiohttp.ClientSession) -> None:
        try:
            await self._dial(session)
        except FrameError as error:
            self._around.refused("frames_refused", error, self.name)
        except LinkRefused as refused:
            self._around.refused("links_refused", refused, self.name)
            self.refused = str(refused) if refused.code == "name_in_use" else None
        except (aiohttp.ClientError, OSError, TimeoutError, StorageError) as error:
            self._around.counters["links_failed"] += 1
            log.debug("link to %s: %s", self.name, type(error).__name__)
        finally:
            self._open = None
            for ask in self._asks.values():
                if not ask.done():
                    ask.set_exception(PeerUnreachable(self.name))
            self._asks.clear()
            self._gossip.lost(self.name)
            self._around.host.peers_changed()

    async def _dial(self, session: aiohttp.ClientSession) -> None:
        connecting = session.ws_connect(
            self._url,
            max_msg_size=FRAME_BYTES_MAX,
            compress=0,
            # A peer that does not answer the goodbye must not hold up a drain.
            timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_S_MAX),
        )
        async with connecting as socket:
            channel = Channel("d", self._around.secret)
            async with asyncio.timeout(HANDSHAKE_S_MAX):
                them, vector = await self._introduce(socket, channel)
            self.refused = None
            self._open = socket, channel
            self._around.counters["links_opened"] += 1
            now_ms = self._around.clock.monotonic_ms()
            self._gossip.connected(self.name, them.origin, vector, now_ms)
            self._around.host.peers_changed()
            await self._both(self._push(socket, channel), self._listen(socket, channel))

    @staticmethod
    async def _both(*ways: Any) -> None:
        """Run both directions until one ends, which ends the link."""
        tasks = [asyncio.create_task(way) for way in ways]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _introduce(self, socket: Socket, channel: Channel) -> tuple[Identity, Vector]:
        me = self._around.identity()
        opening = expect(frame_of(channel, await socket.receive()), Kind.CHALLENGE)
        them, hello = answer(me, opening, self.name, self._gossip.vector)
        await socket.send_bytes(channel.encode(Kind.HELLO, hello))
        establish(channel, self._around.secret, me, them)
        welcome = expect(frame_of(channel, await socket.receive()), Kind.WELCOME)
        return them, vector_from_json(decode_json(welcome).get("vector"))

    async def _push(self, socket: Socket, channel: Channel) -> None:
        """Send what has gathered since the last send; the whole vector every second."""
        loop = asyncio.get_running_loop()
        next_heartbeat = loop.time()
        while True:
            if loop.time() >= next_heartbeat:
                next_heartbeat = loop.time() + HEARTBEAT_S
                payload = vector_payload(self._gossip.vector, full=True)
                await socket.send_bytes(channel.encode(Kind.VECTOR, payload))
            self.wake.clear()
            records = await self._next()
            if records:
                self._gossip.sent(self.name, records)
                payload = encode_records(records)
                await socket.send_bytes(channel.encode(Kind.OPERATIONS, payload))
                self._around.counters["records_sent"] += len(records)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(next_heartbeat):
                    await self.wake.wait()

    async def _next(self) -> list[Record]:
        step = self._gossip.next_batch(self.name, self._around.clock.monotonic_ms())
        if isinstance(step, Batch):
            return step.records
        if isinstance(step, ReadLog):
            # The peer may report more meanwhile; it skips what it has.
            self._around.counters["log_reads"] += 1
            records = await self._around.storage.read(*step)
            if not records:
                self._around.counters["log_reads_empty"] += 1
                self._gossip.unreadable(self.name, step)
            return records
        return []

    async def _listen(self, socket: Socket, channel: Channel) -> None:
        while True:
            async with asyncio.timeout(IDLE_S_MAX):
                frame = frame_of(channel, await socket.receive())
            if frame.kind is Kind.VECTOR:
                self._around.heard(self.name, frame.payload)
                self.wake.set()
            elif frame.kind is Kind.DIGESTS:
                self._answered(decode_json(frame.payload))
            else:
                raise FrameError("unexpected", frame.kind.name)

    async def ask(self, session: str | None, buckets: Sequence[int] | None) -> Digests:
        """Digests of the peer; raises ``PeerUnreachable`` when it does not answer in time."""
        if self._open is None:
            raise PeerUnreachable(self.name)
        socket, channel = self._open
        self._asked += 1
        number = self._asked
        self._asks[number] = future = asyncio.get_running_loop().create_future()
        question: dict[str, Any] = {"ask": number}
        if session is not None:
            question["session"] = session
        if buckets is not None:
            question["buckets"] = list(buckets)
        try:
            frame = channel.encode(Kind.ASK_DIGESTS, encode_json(question))
            await socket.send_bytes(frame)
            async with asyncio.timeout(ASK_S_MAX):
                digests: Digests = await future
                return digests
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise PeerUnreachable(self.name) from error
        finally:
            self._asks.pop(number, None)

    def _answered(self, value: dict[str, Any]) -> None:
        number = value.get("ask")
        future = self._asks.get(number) if isinstance(number, int) else None
        buckets, sessions = value.get("buckets"), value.get("sessions")
        if future is None or future.done():
            return
        future.set_result(
            Digests(
                buckets if isinstance(buckets, list) else None,
                sessions if isinstance(sessions, dict) else None,
            )
        )
