"""Links between regions, over WebSockets by aiohttp, on a listener of their own.

Each region dials every peer and pushes over that link; it receives over the links that others dial.
A bad frame is counted and closes its link only. Nothing here is kept for a peer that does not take
it: what it lacks is read from the log again.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import aiohttp
from aiohttp import WSMessage, WSMsgType, web

from perdure.regions.links import Digests, PeerUnreachable
from perdure.regions.ports import Clock, Entropy, Storage, StorageError
from perdure.replication.frames import (
    FRAME_BYTES_MAX,
    Channel,
    Frame,
    FrameError,
    Kind,
    decode_json,
    decode_records,
    encode_json,
    encode_records,
    vector_from_json,
    vector_to_json,
)
from perdure.replication.gossip import SUSPECT_MS, Batch, Gossip, ReadLog
from perdure.replication.handshake import (
    Identity,
    LinkRefused,
    answer,
    challenge,
    check_hello,
    establish,
    expect,
)
from perdure.replication.records import Origin, Record, Vector

log = logging.getLogger("perdure.links")

PATH = "/v1/peer"
HEARTBEAT_S = 1.0
IDLE_S_MAX = 10.0
HANDSHAKE_S_MAX = 5.0
HANDSHAKES_MAX = 64
BACKOFF_S_MIN = 0.1
BACKOFF_S_MAX = 5.0
STEADY_S = 10.0
ASK_S_MAX = 5.0
_NONCE_BITS = 256


class Host(Protocol):
    """What the links ask of the node."""

    async def receive(self, records: Sequence[Record]) -> None: ...

    def peers_changed(self) -> None: ...

    def digests(
        self, session: str | None, buckets: Sequence[int] | None
    ) -> tuple[list[str] | None, dict[str, str] | None]: ...


@dataclass
class Dialed:
    """The link that this region dials to one peer."""

    name: str
    url: str
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    channel: Channel | None = None
    socket: aiohttp.ClientWebSocketResponse | None = None
    asks: dict[int, asyncio.Future[Digests]] = field(default_factory=dict)
    asked: int = 0
    refused: str | None = None


@dataclass
class Accepted:
    """A link that a peer dialed to this region."""

    identity: Identity
    socket: web.WebSocketResponse
    heard_ms: int


class PeerLinks:
    """All links of a region."""

    def __init__(
        self,
        gossip: Gossip,
        storage: Storage,
        host: Host,
        clock: Clock,
        entropy: Entropy,
        *,
        secret: bytes,
        peers: Mapping[str, str],
        bind: tuple[str, int],
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.port = bind[1]
        self._gossip = gossip
        self._storage = storage
        self._host = host
        self._clock = clock
        self._entropy = entropy
        self._secret = secret
        self._bind = bind
        self._started_ms = clock.wall_ms()
        self._dialed = {name: Dialed(name, url) for name, url in peers.items()}
        self._accepted: dict[str, Accepted] = {}
        self._handshakes = asyncio.Semaphore(HANDSHAKES_MAX)
        self._tasks: list[asyncio.Task[None]] = []
        self._runner: web.AppRunner | None = None
        self._session: aiohttp.ClientSession | None = None

    # Life

    async def start(self) -> None:
        """Listen, and dial every peer. Raises ``OSError`` when the port is taken."""
        app = web.Application()
        app.router.add_get(PATH, self._accept)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, *self._bind)
        await site.start()
        self.port = self._runner.addresses[0][1]
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=HANDSHAKE_S_MAX)
        )
        self._tasks = [
            asyncio.create_task(self._keep_dialing(dialed), name=f"perdure-link-{dialed.name}")
            for dialed in self._dialed.values()
        ]

    async def stop(self) -> None:
        """Close every link and the listener."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for accepted in list(self._accepted.values()):
            await accepted.socket.close()
        if self._session is not None:
            await self._session.close()
        if self._runner is not None:
            await self._runner.cleanup()

    def wake(self) -> None:
        """There may be something to send."""
        for dialed in self._dialed.values():
            dialed.wake.set()

    async def flush(self, timeout_s: float) -> bool:
        """Wait until the connected peers have everything; False when the time was too short."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while asyncio.get_running_loop().time() < deadline:
            waiting = [
                name
                for name, peer in self._gossip.peers.items()
                if peer.connected and self._gossip.lacks_own(name)
            ]
            if not waiting:
                return True
            self.wake()
            await asyncio.sleep(0.02)
        return False

    def refused(self) -> str | None:
        """Why a peer refuses this region as such (another one has its name); None if none does."""
        return next((dialed.refused for dialed in self._dialed.values() if dialed.refused), None)

    # Dialing

    async def _keep_dialing(self, dialed: Dialed) -> None:
        loop = asyncio.get_running_loop()
        backoff_s = BACKOFF_S_MIN
        while True:
            began = loop.time()
            try:
                await self._dial(dialed)
            except FrameError as error:
                self._count("frames_refused", error, dialed.name)
            except LinkRefused as refused:
                self._count("links_refused", refused, dialed.name)
                dialed.refused = str(refused) if refused.code == "name_in_use" else None
            except (aiohttp.ClientError, OSError, TimeoutError, StorageError) as error:
                self.counters["links_failed"] += 1
                log.debug("link to %s: %s", dialed.name, type(error).__name__)
            finally:
                self._lost(dialed)
            if loop.time() - began > STEADY_S:
                backoff_s = BACKOFF_S_MIN
            await asyncio.sleep(backoff_s * self._entropy.uniform())
            backoff_s = min(backoff_s * 2, BACKOFF_S_MAX)

    def _count(self, what: str, error: FrameError | LinkRefused, name: str) -> None:
        self.counters[what] += 1
        self.counters[f"{what}.{error.code}"] += 1
        log.warning("%s by or from %s: %s", what, name, error.code)

    def _lost(self, dialed: Dialed) -> None:
        dialed.channel = dialed.socket = None
        for ask in dialed.asks.values():
            if not ask.done():
                ask.set_exception(PeerUnreachable(dialed.name))
        dialed.asks.clear()
        self._gossip.lost(dialed.name)
        self._host.peers_changed()

    async def _dial(self, dialed: Dialed) -> None:
        assert self._session is not None
        async with self._session.ws_connect(
            dialed.url.rstrip("/") + PATH, max_msg_size=FRAME_BYTES_MAX, compress=0, autoping=True
        ) as socket:
            channel = Channel("d", self._secret)
            async with asyncio.timeout(HANDSHAKE_S_MAX):
                them, vector = await self._introduce(dialed, socket, channel)
            dialed.refused = None
            dialed.channel, dialed.socket = channel, socket
            self.counters["links_opened"] += 1
            self._gossip.connected(dialed.name, them.origin, vector, self._clock.monotonic_ms())
            self._host.peers_changed()
            dialed.wake.set()
            push = asyncio.create_task(self._push(dialed, socket, channel))
            listen = asyncio.create_task(self._listen(dialed, socket, channel))
            try:
                done, _ = await asyncio.wait({push, listen}, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                push.cancel()
                listen.cancel()
                await asyncio.gather(push, listen, return_exceptions=True)

    def _identity(self) -> Identity:
        nonce = f"{self._entropy.token(_NONCE_BITS):064x}"
        return Identity(self._gossip.me, self._started_ms, nonce)

    async def _introduce(
        self, dialed: Dialed, socket: aiohttp.ClientWebSocketResponse, channel: Channel
    ) -> tuple[Identity, Vector]:
        me = self._identity()
        opening = expect(_frame(channel, await socket.receive()), Kind.CHALLENGE)
        them, hello = answer(me, opening, dialed.name, self._gossip.vector)
        await socket.send_bytes(channel.encode(Kind.HELLO, hello))
        establish(channel, self._secret, me, them)
        welcome = expect(_frame(channel, await socket.receive()), Kind.WELCOME)
        return them, vector_from_json(decode_json(welcome).get("vector"))

    async def _push(
        self, dialed: Dialed, socket: aiohttp.ClientWebSocketResponse, channel: Channel
    ) -> None:
        """Send what has gathered since the last send; the whole vector every second."""
        loop = asyncio.get_running_loop()
        next_heartbeat = loop.time()
        while True:
            if loop.time() >= next_heartbeat:
                next_heartbeat = loop.time() + HEARTBEAT_S
                payload = _vector_payload(self._gossip.vector, full=True)
                await socket.send_bytes(channel.encode(Kind.VECTOR, payload))
            records = await self._next(dialed.name)
            if records:
                self._gossip.sent(dialed.name, records)
                payload = encode_records(records)
                await socket.send_bytes(channel.encode(Kind.OPERATIONS, payload))
                self.counters["records_sent"] += len(records)
                continue
            dialed.wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(next_heartbeat):
                    await dialed.wake.wait()

    async def _next(self, name: str) -> list[Record]:
        step = self._gossip.next_batch(name, self._clock.monotonic_ms())
        if isinstance(step, Batch):
            return step.records
        if isinstance(step, ReadLog):
            # The peer may have reported more meanwhile; it skips what it has.
            return await self._storage.read(*step)
        return []

    async def _listen(
        self, dialed: Dialed, socket: aiohttp.ClientWebSocketResponse, channel: Channel
    ) -> None:
        while True:
            async with asyncio.timeout(IDLE_S_MAX):
                frame = _frame(channel, await socket.receive())
            if frame.kind is Kind.VECTOR:
                self._heard(dialed.name, frame.payload, dialed.wake)
            elif frame.kind is Kind.DIGESTS:
                self._answered(dialed, decode_json(frame.payload))
            else:
                raise FrameError("unexpected", frame.kind.name)

    def _heard(self, name: str, payload: bytes, wake: asyncio.Event | None = None) -> None:
        value = decode_json(payload)
        vector = vector_from_json(value.get("vector"))
        self._gossip.heard(name, vector, value.get("full") is True, self._clock.monotonic_ms())
        if wake is not None:
            if value.get("gap") is True:
                self._gossip.resend(name)
            wake.set()
        self._host.peers_changed()

    # Questions

    async def ask_digests(
        self, peer: str, session: str | None, buckets: Sequence[int] | None
    ) -> Digests:
        """Ask a peer for digests: of one session, of the sessions in buckets, or of all buckets.

        Raises ``PeerUnreachable`` when it does not answer in time.
        """
        dialed = self._dialed[peer]
        if dialed.socket is None or dialed.channel is None:
            raise PeerUnreachable(peer)
        dialed.asked += 1
        number = dialed.asked
        future: asyncio.Future[Digests] = asyncio.get_running_loop().create_future()
        dialed.asks[number] = future
        question: dict[str, Any] = {"ask": number}
        if session is not None:
            question["session"] = session
        if buckets is not None:
            question["buckets"] = list(buckets)
        try:
            payload = encode_json(question)
            await dialed.socket.send_bytes(dialed.channel.encode(Kind.ASK_DIGESTS, payload))
            async with asyncio.timeout(ASK_S_MAX):
                return await future
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise PeerUnreachable(peer) from error
        finally:
            dialed.asks.pop(number, None)

    def _answered(self, dialed: Dialed, value: dict[str, Any]) -> None:
        future = dialed.asks.get(value.get("ask", 0))
        buckets, sessions = value.get("buckets"), value.get("sessions")
        if future is None or future.done():
            return
        future.set_result(
            Digests(
                buckets if isinstance(buckets, list) else None,
                sessions if isinstance(sessions, dict) else None,
            )
        )

    # Accepting

    async def _accept(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(max_msg_size=FRAME_BYTES_MAX, compress=False, timeout=1.0)
        await socket.prepare(request)
        channel = Channel("a", self._secret)
        name = request.remote or "unknown"
        try:
            if self._handshakes.locked():
                raise FrameError("busy", "too many handshakes at once")
            async with self._handshakes, asyncio.timeout(HANDSHAKE_S_MAX):
                link = await self._welcome(socket, channel)
            name = link.identity.origin.region
            try:
                await self._serve(link, channel)
            finally:
                if self._accepted.get(name) is link:
                    del self._accepted[name]
        except FrameError as error:
            self._count("frames_refused", error, name)
        except LinkRefused as refused:
            self._count("links_refused", refused, name)
        except (TimeoutError, OSError, StorageError) as error:
            self.counters["links_dropped"] += 1
            log.debug("link from %s: %s", name, type(error).__name__)
        finally:
            await socket.close()
        return socket

    async def _welcome(self, socket: web.WebSocketResponse, channel: Channel) -> Accepted:
        me = self._identity()
        await socket.send_bytes(channel.encode(Kind.CHALLENGE, challenge(me)))
        hello = expect(_frame(channel, await socket.receive()), Kind.HELLO)
        them, vector = check_hello(me, hello)
        refusal = self._refusal(them)
        if refusal is not None:
            payload = encode_json({"code": refusal.code, "detail": str(refusal)})
            await socket.send_bytes(channel.encode(Kind.REFUSED, payload))
            raise refusal
        establish(channel, self._secret, them, me)
        link = Accepted(them, socket, self._clock.monotonic_ms())
        self._accepted[them.origin.region] = link
        self._gossip.heard(them.origin.region, vector, True, link.heard_ms)
        payload = encode_json({"vector": vector_to_json(self._gossip.vector)})
        await socket.send_bytes(channel.encode(Kind.WELCOME, payload))
        return link

    def _refusal(self, them: Identity) -> LinkRefused | None:
        region = them.origin.region
        if region == self._gossip.me.region:
            return LinkRefused("name_in_use", f"this node is {region} as well")
        other = self._accepted.get(region)
        if other is None or other.identity.origin == them.origin:
            return None
        alive = self._clock.monotonic_ms() - other.heard_ms < SUSPECT_MS and not other.socket.closed
        if alive and other.identity.started_ms <= them.started_ms:
            return LinkRefused("name_in_use", f"another live node is {region}")
        return None

    async def _serve(self, link: Accepted, channel: Channel) -> None:
        name = link.identity.origin.region
        heartbeat = asyncio.create_task(self._beat(link.socket, channel))
        try:
            while True:
                async with asyncio.timeout(IDLE_S_MAX):
                    frame = _frame(channel, await link.socket.receive())
                link.heard_ms = self._clock.monotonic_ms()
                if frame.kind is Kind.OPERATIONS:
                    await self._take(name, decode_records(frame.payload), link.socket, channel)
                elif frame.kind is Kind.VECTOR:
                    self._heard(name, frame.payload)
                elif frame.kind is Kind.ASK_DIGESTS:
                    payload = self._digests(decode_json(frame.payload))
                    await link.socket.send_bytes(channel.encode(Kind.DIGESTS, payload))
                else:
                    raise FrameError("unexpected", frame.kind.name)
        finally:
            heartbeat.cancel()
            await asyncio.gather(heartbeat, return_exceptions=True)

    async def _beat(self, socket: web.WebSocketResponse, channel: Channel) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            payload = _vector_payload(self._gossip.vector, full=True)
            await socket.send_bytes(channel.encode(Kind.VECTOR, payload))

    async def _take(
        self, name: str, records: list[Record], socket: web.WebSocketResponse, channel: Channel
    ) -> None:
        """Store what is new, then say what is on disk."""
        self._gossip.heard(name, None, False, self._clock.monotonic_ms())
        fresh, beyond = self._gossip.admit(records)
        if fresh:
            await self._host.receive(fresh)
            self.counters["records_received"] += len(fresh)
        vector = self._gossip.vector
        if not beyond:
            touched = {record.origin for record in records}
            vector = {origin: vector[origin] for origin in touched if origin in vector}
        payload = _vector_payload(vector, full=beyond, gap=beyond)
        await socket.send_bytes(channel.encode(Kind.VECTOR, payload))

    def _digests(self, question: dict[str, Any]) -> bytes:
        session, numbers = question.get("session"), question.get("buckets")
        if session is not None and not isinstance(session, str):
            raise FrameError("payload", "session is no string")
        if numbers is not None and not (
            isinstance(numbers, list) and all(type(n) is int for n in numbers)
        ):
            raise FrameError("payload", "buckets are no numbers")
        buckets, sessions = self._host.digests(session, numbers)
        answer: dict[str, Any] = {"ask": question.get("ask")}
        if buckets is not None:
            answer["buckets"] = buckets
        if sessions is not None:
            answer["sessions"] = sessions
        return encode_json(answer)


def _vector_payload(vector: Mapping[Origin, int], *, full: bool, gap: bool = False) -> bytes:
    return encode_json({"vector": vector_to_json(dict(vector)), "full": full, "gap": gap})


def _frame(channel: Channel, message: WSMessage) -> Frame:
    if message.type is WSMsgType.BINARY:
        return channel.decode(message.data)
    if message.type in (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR):
        raise ConnectionResetError("the link was closed")
    raise FrameError("not_binary")
