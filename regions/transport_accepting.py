"""The links that peers dial to this region: it receives over them, and answers."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import hdrs, web
from perdure.regions.certificates import regions_of
from perdure.regions.ports import StorageError
from perdure.regions.transport_wire import (
    CLOSE_S_MAX,
    HANDSHAKE_S_MAX,
    HEARTBEAT_S,
    IDLE_S_MAX,
    MESSAGE_BYTES_LIMIT,
    Abortable,
    PeerSocket,
    Surroundings,
    beat,
    frame_of,
    log,
    take_leave,
    until_one_ends,
    vector_payload,
)
from perdure.replication.errors import Refusal
from perdure.replication.frames import (
    PAYLOAD_BYTES_MAX,
    Channel,
    Frame,
    FrameError,
    Kind,
    decode_json,
    decode_records,
    encode_json,
    encode_piece,
    vector_to_json,
)
from perdure.replication.handshake import (
    Identity,
    LinkRefused,
    challenge,
    check_hello,
    establish,
    expect,
)
from perdure.replication.limits import STATUS_ANSWERS_MAX, STATUS_BYTES_MAX
from perdure.replication.peers import SUSPECT_MS
from perdure.replication.records import Record
from perdure.replication.tenants import is_session

# Each may cost a message of the greatest size before it is known who sent it.
HANDSHAKES_MAX = 16
# And so many from one address, so that a stranger does not take the places of the peers.
HANDSHAKES_OF_ADDRESS_MAX = 6
_TURNED_AWAY = {hdrs.WWW_AUTHENTICATE: "Perdure-Peer"}


@dataclass
class AcceptedLink:
    """A link that a peer has opened."""

    identity: Identity
    socket: PeerSocket
    transport: Abortable | None
    channel: Channel
    heard_ms: int
    # The answers that are under way: to a question for sessions, and to those for the status.
    telling: asyncio.Task[None] | None = None
    reporting: set[asyncio.Task[None]] = field(default_factory=set)

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
        self._under_way: Counter[str] = Counter()
        self._closing = False

    async def close(self) -> None:
        """Close every link, and take no more."""
        self._closing = True
        links = list(self._links.values())
        await asyncio.gather(*(take_leave(link.socket, link.transport) for link in links))

    def part(self, name: str) -> None:
        """A region is a peer no more: nothing is taken from it."""
        if (link := self._links.get(name)) is not None and link.transport is not None:
            link.transport.abort()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One link over a WebSocket of aiohttp's, from its handshake to its end."""
        name = request.remote or "unknown"
        if hdrs.AUTHORIZATION in request.headers or not web.WebSocketResponse().can_prepare(
            request
        ):
            return await self.turn_away(request)
        certified = None
        if self._around.certified:
            certified = regions_of(request.get_extra_info("peercert"))
        socket = web.WebSocketResponse(
            max_msg_size=MESSAGE_BYTES_LIMIT, compress=False, timeout=CLOSE_S_MAX
        )

        async def prepare() -> None:
            await socket.prepare(request)

        served = await self.serve(socket, request.transport, name, prepare, certified)
        if not (served and socket.prepared):
            # There is no room for it, or who asked has left by now.
            return web.Response(status=503)
        return socket

    async def turn_away(self, request: web.Request) -> web.Response:
        """The answer to whatever is no link: it does not say what else there is, or is not."""
        stranger = LinkRefused("not_a_peer", "a request that is no link between regions")
        self._around.refused("links_refused", stranger, request.remote or "unknown")
        answer = web.Response(status=401, headers=_TURNED_AWAY)
        answer.force_close()
        return answer

    def refuse_tls(self, reason: str) -> None:
        """A dialer whose handshake of TLS came to nothing."""
        self._around.refused("links_refused", LinkRefused("certificate", reason), "unknown")

    async def serve(
        self,
        socket: PeerSocket,
        transport: Abortable | None,
        name: str,
        prepare: Callable[[], Awaitable[None]],
        certified: frozenset[str] | None = None,
    ) -> bool:
        """One link, once ``prepare`` has opened its socket; False when there is no room for it.

        ``certified``: the regions that the dialer's certificate names; None without certificates.
        """
        address = name
        is_many = self._under_way[address] >= HANDSHAKES_OF_ADDRESS_MAX
        if self._closing or is_many or self._handshakes.locked():
            busy = LinkRefused("busy", "this region closes, or too many handshakes are under way")
            self._around.refused("links_refused", busy, name)
            return False
        prepared = False
        try:
            async with self._handshakes, self._one_more(address):
                await prepare()
                prepared = True
                async with asyncio.timeout(HANDSHAKE_S_MAX):
                    link = await self._welcome(transport, socket, certified)
            name = link.name
            await self._serve(link)
        except web.HTTPException:
            raise
        except FrameError as error:
            self._around.refused("frames_refused", error, name)
        except LinkRefused as refused:
            self._around.refused("links_refused", refused, name)
        except (TimeoutError, OSError, StorageError) as error:
            self._around.counters["links_dropped"] += 1
            log.debug("link from %s: %s", name, type(error).__name__, extra={"peer": name})
        except Exception as error:
            self._around.broken(error, name)
        finally:
            if prepared:
                await take_leave(socket, transport)
        return True

    @contextlib.asynccontextmanager
    async def _one_more(self, address: str) -> AsyncIterator[None]:
        self._under_way[address] += 1
        try:
            yield
        finally:
            self._under_way[address] -= 1
            # Unary plus leaves those that are none.
            self._under_way = +self._under_way

    async def _welcome(
        self, transport: Abortable | None, socket: PeerSocket, certified: frozenset[str] | None
    ) -> AcceptedLink:
        me = self._around.identity()
        channel = self._around.channel("a")
        opening = channel.encode(Kind.CHALLENGE, challenge(me, self._around.versions))
        await socket.send_bytes(opening)
        hello = expect(frame_of(channel, await socket.receive()), Kind.HELLO)
        them, vector = check_hello(me, hello, self._around.versions)
        refusal = self._refusal(them, certified)
        if refusal is not None:
            payload = encode_json({"code": refusal.code, "detail": str(refusal)})
            await socket.send_bytes(channel.encode(Kind.REFUSED, payload))
            raise refusal
        establish(channel, channel.proven, them, me)
        link = AcceptedLink(them, socket, transport, channel, self._around.clock.monotonic_ms())
        self._supersede(link)
        self._around.host.desk.accepted(link.name)
        self._gossip.heard(link.name, vector, True, link.heard_ms)
        payload = encode_json({"vector": vector_to_json(self._gossip.vector)})
        await socket.send_bytes(channel.encode(Kind.WELCOME, payload))
        return link

    def _supersede(self, link: AcceptedLink) -> None:
        """One link of a name: an earlier one is half open, or belongs to a node that is to learn,
        when it dials again, that it is not the one of its name."""
        earlier = self._links.get(link.name)
        self._links[link.name] = link
        if earlier is not None and earlier.transport is not None:
            earlier.transport.abort()

    def _refusal(self, them: Identity, certified: frozenset[str] | None) -> LinkRefused | None:
        region = them.origin.region
        if certified is not None and region not in certified:
            return LinkRefused("certificate", f"the certificate does not name {region}")
        if region == self._gossip.me.region:
            return LinkRefused("name_in_use", f"this node is {region} as well")
        if region in self._gossip.gone:
            return LinkRefused("gone", f"{region} was removed for good; another name is needed")
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
        try:
            await until_one_ends(self._listen(link), self._beat(link), *self._around.ageing())
        finally:
            under_way = {*link.reporting, *([link.telling] if link.telling else [])}
            for task in under_way:
                task.cancel()
            if under_way:
                await asyncio.wait(under_way)
            if self._links.get(link.name) is link:
                del self._links[link.name]

    async def _listen(self, link: AcceptedLink) -> None:
        while True:
            async with asyncio.timeout(IDLE_S_MAX):
                frame = frame_of(link.channel, await link.socket.receive())
            if link.name not in self._gossip.peers:
                raise LinkRefused("foreign", f"{link.name} is a peer no more")
            link.heard_ms = self._around.clock.monotonic_ms()
            await self._take(link, frame)

    async def _beat(self, link: AcceptedLink) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            await self._send(link, Kind.VECTOR, beat(self._gossip))

    @staticmethod
    async def _send(link: AcceptedLink, kind: Kind, payload: bytes) -> None:
        # A peer that sends and never reads would be waited for for ever.
        async with asyncio.timeout(IDLE_S_MAX):
            await link.socket.send_bytes(link.channel.encode(kind, payload))

    async def _take(self, link: AcceptedLink, frame: Frame) -> None:
        if frame.kind is Kind.OPERATIONS:
            await self._store(link, decode_records(frame.payload))
        elif frame.kind is Kind.VECTOR:
            self._around.heard(link.name, frame.payload)
        elif frame.kind is Kind.ASK_DIGESTS:
            await self._send(link, Kind.DIGESTS, self._digests(decode_json(frame.payload)))
        elif frame.kind is Kind.ASK_SESSIONS:
            await self._start_telling(link, decode_json(frame.payload))
        elif frame.kind is Kind.ASK_STATUS:
            await self._start_reporting(link, decode_json(frame.payload))
        elif frame.kind is Kind.PRESENCE:
            self._around.host.desk.told(link.name, frame.payload)
        elif frame.kind is Kind.SIGNAL:
            self._around.host.desk.signals.told(link.name, frame.payload)
        elif frame.kind is Kind.PRESENCE_DIGEST:
            ask = self._around.host.desk.heard(link.name, frame.payload)
            if ask is not None:
                await self._send(link, Kind.ASK_PRESENCE, ask)
        else:
            raise FrameError("unexpected", frame.kind.name)

    async def _store(self, link: AcceptedLink, records: list[Record]) -> None:
        """Store what is new, then say what is on disk."""
        self._gossip.heard(link.name, None, False, link.heard_ms)
        fresh, beyond = self._gossip.admit(records)
        if fresh:
            await self._around.host.receive(fresh, link.name)
            self._around.counters["records_received"] += len(fresh)
        vector = self._gossip.vector
        if not beyond:
            touched = dict.fromkeys(record.origin for record in records)
            vector = {origin: vector[origin] for origin in touched if origin in vector}
        payload = vector_payload(vector, full=beyond, gap=beyond)
        await self._send(link, Kind.VECTOR, payload)

    async def _start_telling(self, link: AcceptedLink, question: dict[str, Any]) -> None:
        """Answer beside what comes over the link; one question at a time."""
        ask, sessions = question.get("ask"), question.get("sessions")
        if type(ask) is not int or not 0 <= ask < 2**64:
            raise FrameError("payload", "ask is no number")
        if not isinstance(sessions, list) or not all(map(is_session, sessions)):
            raise FrameError("payload", "sessions are no ids")
        if link.telling is not None:
            await asyncio.wait({link.telling})
        link.telling = asyncio.create_task(self._tell(link, ask, sessions))

    async def _tell(self, link: AcceptedLink, ask: int, sessions: list[str]) -> None:
        # What ends it ends the link's other tasks too, and is told there.
        with contextlib.suppress(TimeoutError, OSError):
            try:
                async for piece in self._around.host.tell(sessions):
                    await self._send(link, Kind.SESSIONS, encode_piece(ask, piece))
                    self._around.counters["pieces_sent"] += 1
                await self._send(link, Kind.SESSIONS, encode_piece(ask, b""))
            except StorageError:
                # Who asks would wait for the next piece: it goes on without.
                await self._send(link, Kind.DIGESTS, encode_json({"ask": ask}))

    async def _start_reporting(self, link: AcceptedLink, question: dict[str, Any]) -> None:
        """Answer beside what comes over the link, where not too many are answered already."""
        ask, what = question.get("ask"), question.get("what")
        if type(ask) is not int or not isinstance(what, dict):
            raise FrameError("payload", "no question for the status")
        if len(link.reporting) >= STATUS_ANSWERS_MAX:
            await self._send(link, Kind.STATUS, encode_json({"ask": ask, "refused": "busy"}))
            return
        task = asyncio.create_task(self._report(link, ask, what))
        link.reporting.add(task)
        task.add_done_callback(link.reporting.discard)

    async def _report(self, link: AcceptedLink, ask: int, what: dict[str, Any]) -> None:
        try:
            payload = encode_json({"ask": ask, "status": await self._around.host.status(what)})
            if len(payload) > STATUS_BYTES_MAX:
                payload = encode_json({"ask": ask, "refused": "too_long"})
        except Refusal as refusal:
            payload = encode_json({"ask": ask, "refused": refusal.code})
        except Exception as error:
            # Who only looks must not cost the peer its link.
            self._around.broken(error, link.name)
            payload = encode_json({"ask": ask, "refused": "internal"})
        # What ends it ends the link's other tasks too, and is told there.
        with contextlib.suppress(TimeoutError, OSError):
            await self._send(link, Kind.STATUS, payload)

    def _digests(self, question: dict[str, Any]) -> bytes:
        session, numbers = question.get("session"), question.get("buckets")
        if session is not None and not isinstance(session, str):
            raise FrameError("payload", "session is no string")
        if numbers is not None and not (
            isinstance(numbers, list) and all(type(number) is int for number in numbers)
        ):
            raise FrameError("payload", "buckets are no numbers")
        asked = {"ask": question.get("ask")}
        buckets, sessions = self._around.host.digests(session, numbers)
        answer: dict[str, Any] = dict(asked)
        if buckets is not None:
            answer["buckets"] = buckets
        if sessions is not None:
            answer["sessions"] = sessions
        payload = encode_json(answer)
        # Without sessions, what was asked has too many of them: the peer asks for fewer buckets.
        return payload if len(payload) <= PAYLOAD_BYTES_MAX else encode_json(asked)
