"""The links that peers dial to this region: it receives over them, and answers."""

import asyncio
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from perdure.regions.ports import StorageError
from perdure.regions.transport_wire import (
    HANDSHAKE_S_MAX,
    HEARTBEAT_S,
    IDLE_S_MAX,
    Surroundings,
    frame_of,
    log,
    vector_payload,
)
from perdure.replication.frames import (
    FRAME_BYTES_MAX,
    Channel,
    Frame,
    FrameError,
    Kind,
    decode_json,
    decode_records,
    encode_json,
    vector_to_json,
)
from perdure.replication.gossip import SUSPECT_MS
from perdure.replication.handshake import (
    Identity,
    LinkRefused,
    challenge,
    check_hello,
    establish,
    expect,
)
from perdure.replication.records import Record

HANDSHAKES_MAX = 64
Socket = web.WebSocketResponse


@dataclass
class AcceptedLink:
    """A link that a peer has opened."""

    identity: Identity
    socket: Socket
    channel: Channel
    heard_ms: int

    @property
    def name(self) -> str:
        """The peer's region."""
        return self.identity.origin.region


class Acceptor:
    """Takes links in, and what comes over them."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._gossip = around.gossip
        self._links: dict[str, AcceptedLink] = {}
        self._handshakes = asyncio.Semaphore(HANDSHAKES_MAX)

    async def close(self) -> None:
        """Close every link."""
        for link in list(self._links.values()):
            await link.socket.close()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One link, from its handshake to its end."""
        socket = web.WebSocketResponse(max_msg_size=FRAME_BYTES_MAX, compress=False, timeout=1.0)
        await socket.prepare(request)
        name = request.remote or "unknown"
        try:
            link = await self._welcome_in_time(socket)
            name = link.name
            await self._serve(link)
        except FrameError as error:
            self._around.refused("frames_refused", error, name)
        except LinkRefused as refused:
            self._around.refused("links_refused", refused, name)
        except (TimeoutError, OSError, StorageError) as error:
            self._around.counters["links_dropped"] += 1
            log.debug("link from %s: %s", name, type(error).__name__)
        finally:
            await socket.close()
        return socket

    async def _welcome_in_time(self, socket: Socket) -> AcceptedLink:
        if self._handshakes.locked():
            raise FrameError("busy", "too many handshakes at once")
        async with self._handshakes, asyncio.timeout(HANDSHAKE_S_MAX):
            return await self._welcome(socket, Channel("a", self._around.secret))

    async def _welcome(self, socket: Socket, channel: Channel) -> AcceptedLink:
        me = self._around.identity()
        await socket.send_bytes(channel.encode(Kind.CHALLENGE, challenge(me)))
        hello = expect(frame_of(channel, await socket.receive()), Kind.HELLO)
        them, vector = check_hello(me, hello)
        refusal = self._refusal(them)
        if refusal is not None:
            payload = encode_json({"code": refusal.code, "detail": str(refusal)})
            await socket.send_bytes(channel.encode(Kind.REFUSED, payload))
            raise refusal
        establish(channel, self._around.secret, them, me)
        link = AcceptedLink(them, socket, channel, self._around.clock.monotonic_ms())
        self._links[link.name] = link
        self._gossip.heard(link.name, vector, True, link.heard_ms)
        payload = encode_json({"vector": vector_to_json(self._gossip.vector)})
        await socket.send_bytes(channel.encode(Kind.WELCOME, payload))
        return link

    def _refusal(self, them: Identity) -> LinkRefused | None:
        region = them.origin.region
        if region == self._gossip.me.region:
            return LinkRefused("name_in_use", f"this node is {region} as well")
        if region not in self._gossip.peers:
            return LinkRefused("foreign", f"{region} is not configured here")
        other = self._links.get(region)
        if other is None or other.identity.origin == them.origin:
            return None
        silent_ms = self._around.clock.monotonic_ms() - other.heard_ms
        alive = silent_ms < SUSPECT_MS and not other.socket.closed
        if alive and other.identity.started_ms <= them.started_ms:
            return LinkRefused("name_in_use", f"another live node is {region}")
        return None

    async def _serve(self, link: AcceptedLink) -> None:
        heartbeat = asyncio.create_task(self._beat(link))
        try:
            while True:
                async with asyncio.timeout(IDLE_S_MAX):
                    frame = frame_of(link.channel, await link.socket.receive())
                link.heard_ms = self._around.clock.monotonic_ms()
                await self._take(link, frame)
        finally:
            heartbeat.cancel()
            await asyncio.gather(heartbeat, return_exceptions=True)
            if self._links.get(link.name) is link:
                del self._links[link.name]

    async def _beat(self, link: AcceptedLink) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            await self._send(link, Kind.VECTOR, vector_payload(self._gossip.vector, full=True))

    @staticmethod
    async def _send(link: AcceptedLink, kind: Kind, payload: bytes) -> None:
        await link.socket.send_bytes(link.channel.encode(kind, payload))

    async def _take(self, link: AcceptedLink, frame: Frame) -> None:
        if frame.kind is Kind.OPERATIONS:
            await self._store(link, decode_records(frame.payload))
        elif frame.kind is Kind.VECTOR:
            self._around.heard(link.name, frame.payload)
        elif frame.kind is Kind.ASK_DIGESTS:
            await self._send(link, Kind.DIGESTS, self._digests(decode_json(frame.payload)))
        else:
            raise FrameError("unexpected", frame.kind.name)

    async def _store(self, link: AcceptedLink, records: list[Record]) -> None:
        """Store what is new, then say what is on disk."""
        self._gossip.heard(link.name, None, False, link.heard_ms)
        fresh, beyond = self._gossip.admit(records)
        if fresh:
            await self._around.host.receive(fresh)
            self._around.counters["records_received"] += len(fresh)
        vector = self._gossip.vector
        if not beyond:
            touched = {record.origin for record in records}
            vector = {origin: vector[origin] for origin in touched if origin in vector}
        payload = vector_payload(vector, full=beyond, gap=beyond)
        await self._send(link, Kind.VECTOR, payload)

    def _digests(self, question: dict[str, Any]) -> bytes:
        session, numbers = question.get("session"), question.get("buckets")
        if session is not None and not isinstance(session, str):
            raise FrameError("payload", "session is no string")
        if numbers is not None and not (
            isinstance(numbers, list) and all(type(number) is int for number in numbers)
        ):
            raise FrameError("payload", "buckets are no numbers")
        buckets, sessions = self._around.host.digests(session, numbers)
        answer: dict[str, Any] = {"ask": question.get("ask")}
        if buckets is not None:
            answer["buckets"] = buckets
        if sessions is not None:
            answer["sessions"] = sessions
        return encode_json(answer)
