"""What both ends of a link share: limits, counting, frames out of WebSocket messages."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from aiohttp import WebSocketError, WSCloseCode, WSMessage, WSMsgType
from perdure.regions.ports import Clock, Entropy, Storage
from perdure.replication.frames import (
    FRAME_BYTES_MAX,
    VERSIONS,
    Channel,
    Frame,
    FrameError,
    decode_json,
    encode_json,
    vector_from_json,
    vector_to_json,
)
from perdure.replication.gossip import Gossip
from perdure.replication.handshake import Identity, LinkRefused
from perdure.replication.limits import PEER_LINK_S_MAX
from perdure.replication.records import Origin, Record

log = logging.getLogger("perdure.links")

PATH = "/v1/peer"
HEARTBEAT_S = 1.0
IDLE_S_MAX = 10.0
HANDSHAKE_S_MAX = 5.0
CLOSE_S_MAX = 1.0
# aiohttp refuses messages of its limit and beyond; ours is the longest that is taken.
MESSAGE_BYTES_LIMIT = FRAME_BYTES_MAX + 1
_NONCE_BITS = 256


class Ephemeral(Protocol):
    """What the links ask of those who carry signals."""

    def next(self, name: str) -> bytes | None:
        """The next payload for the peer."""

    def told(self, name: str, payload: bytes) -> None:
        """What a peer signals. Raises ``FrameError``."""


class Desk(Protocol):
    """What the links ask of those who keep presence. What comes in raises ``FrameError``."""

    @property
    def signals(self) -> Ephemeral:
        """Who carries signals."""

    def linked(self, name: str) -> None:
        """The link to the peer is open."""

    def lost(self, name: str) -> None:
        """It is closed."""

    def accepted(self, name: str) -> None:
        """The link from the peer is open."""

    def next(self, name: str) -> bytes | None:
        """The next payload for the peer; None when it was told everything."""

    def digest(self) -> bytes | None:
        """What to say every second; None where there is nothing to say."""

    def told(self, name: str, payload: bytes) -> None:
        """What a peer tells."""

    def heard(self, name: str, payload: bytes) -> bytes | None:
        """What a peer says every second; what it is to be asked."""

    def asked(self, name: str, payload: bytes) -> None:
        """What a peer asks for."""


class Host(Protocol):
    """What the links ask of the node."""

    @property
    def desk(self) -> Desk:
        """Who keeps presence."""

    async def receive(self, records: Sequence[Record], sender: str | None = None) -> None:
        """Store and apply what a peer sends; on disk when it returns."""

    def peers_changed(self) -> None:
        """A vector or a liveness has changed."""

    def digests(
        self, session: str | None, buckets: Sequence[int] | None
    ) -> tuple[list[str] | None, dict[str, str] | None]:
        """All buckets, or the digests of sessions."""

    def tell(self, sessions: Sequence[str]) -> AsyncIterator[bytes]:
        """Everything that is known of these sessions, in pieces."""

    async def status(self, what: dict[str, Any]) -> dict[str, Any]:
        """What a peer asks of this region itself; raises ``Refusal`` where it cannot be told."""

    def linked(self, name: str) -> None:
        """A link to the peer is open."""

    def expelled(self) -> None:
        """A peer says that this region was removed for good."""

    def below(self, name: str) -> None:
        """The peer says that its logs no longer hold what this region lacks."""

    def unreadable(self, origin: Origin, lsn: int) -> None:
        """A record of a log cannot be sent to anybody."""


@dataclass
class Surroundings:
    """What every link of a region works with."""

    gossip: Gossip
    storage: Storage
    host: Host
    clock: Clock
    entropy: Entropy
    secret: bytes
    started_ms: int
    # Secrets that peers may prove themselves with besides, while the secret is replaced.
    accepted: Sequence[bytes] = ()
    # Whether peers are known by certificates as well.
    certified: bool = False
    # Of the frames: what this region offers to speak.
    versions: Sequence[int] = VERSIONS
    counters: Counter[str] = field(default_factory=Counter)

    def identity(self) -> Identity:
        """Who this region is, with a fresh nonce."""
        nonce = f"{self.entropy.token(_NONCE_BITS):064x}"
        return Identity(self.gossip.me, self.started_ms, nonce)

    def channel(self, role: str) -> Channel:
        """The framing of a new link."""
        return Channel(role, self.secret, self.accepted)

    def ageing(self, share: float = 1.0) -> list[Coroutine[Any, Any, None]]:
        """What ends a link when it has been open for so much of the time that it may be: else a
        certificate that was replaced, or has expired, would be good for ever. Nothing where there
        are none."""
        return [self._grow_old(PEER_LINK_S_MAX * share)] if self.certified else []

    async def _grow_old(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self.counters["links_renewed"] += 1

    def refused(self, what: str, error: FrameError | LinkRefused, name: str) -> None:
        """Count a refusal, by its code."""
        self.counters[what] += 1
        self.counters[f"{what}.{error.code}"] += 1
        # Who sees to certificates needs to know what is wrong with one. The rest of what the other
        # side says stays out of the log.
        reason = ascii(str(error)) if error.code == "certificate" else error.code
        log.warning("%s, link with %s: %s", what, name, reason, extra={"peer": name})

    def broken(self, error: Exception, name: str) -> None:
        """Count a link that ended by a mistake of this program, and tell what it was."""
        self.counters["links_broken"] += 1
        log.error("link with %s is broken", name, exc_info=error, extra={"peer": name})

    def heard(self, name: str, payload: bytes) -> bool:
        """Take in a peer's vector; True when it met a gap."""
        value = decode_json(payload)
        vector = vector_from_json(value.get("vector"))
        full, gap = value.get("full") is True, value.get("gap") is True
        # Older regions never say it.
        erased = value.get("erased", {}) if full else {}
        said = vector if erased is True else vector_from_json(erased)
        self.gossip.heard(name, vector, full, self.clock.monotonic_ms())
        if full and "erased" in value:
            self.gossip.heard_erased(name, said)
        if gap:
            self.gossip.resend(name)
        if value.get("below") is True:
            self.host.below(name)
        self.host.peers_changed()
        return gap


def beat(gossip: Gossip, *, below: bool = False) -> bytes:
    """What is said every second: the whole vector, and how far what is deleted is gone."""
    erased = True if gossip.erased is None else vector_to_json(gossip.erased)
    value = {"vector": vector_to_json(gossip.vector), "full": True, "gap": False, "erased": erased}
    return encode_json({**value, "below": True} if below else value)


def vector_payload(vector: Mapping[Origin, int], *, full: bool, gap: bool = False) -> bytes:
    """The payload of a ``vector`` frame that acknowledges."""
    return encode_json({"vector": vector_to_json(dict(vector)), "full": full, "gap": gap})


def frame_of(channel: Channel, message: WSMessage) -> Frame:
    """The frame of a WebSocket message; ``ConnectionResetError`` when the link was closed."""
    if message.type is WSMsgType.BINARY:
        return channel.decode(message.data)
    if message.type is WSMsgType.ERROR and isinstance(message.data, WebSocketError):
        too_long = message.data.code == WSCloseCode.MESSAGE_TOO_BIG
        raise FrameError("too_long" if too_long else "not_websocket", str(message.data))
    if message.type in (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR):
        raise ConnectionResetError("the link was closed")
    raise FrameError("not_binary")


class Closable(Protocol):
    """What one can take leave of."""

    async def close(self) -> bool:
        """Say goodbye, and wait for the answer."""


class Abortable(Protocol):
    """The connection beneath a WebSocket."""

    def abort(self) -> None:
        """Let go of it at once, with all that waits."""


class PeerSocket(Closable, Protocol):
    """Either side's WebSocket, as a link uses it: aiohttp's, or that of a simulated network."""

    @property
    def closed(self) -> bool:
        """Whether it is over."""

    async def send_bytes(self, data: bytes) -> None:
        """Send one binary message; waits while the peer does not read."""

    async def receive(self) -> WSMessage:
        """The next message; one that says so when there are no more."""


class DialedSocket(PeerSocket, Protocol):
    """A WebSocket that this region has dialled."""

    @property
    def transport(self) -> Abortable | None:
        """The connection beneath it."""


# Connects to the URL of a peer; raises ``OSError`` or ``aiohttp.ClientError``.
Dial = Callable[[str], Awaitable[DialedSocket]]


async def take_leave(socket: Closable, transport: Abortable | None) -> None:
    """Say goodbye within ``CLOSE_S_MAX``, then let go of the connection at once.

    A closed transport would keep what the peer has not taken for as long as that does not take it:
    a peer that stopped reading would cost its window anew with each link, and a drain its end.
    """
    try:
        async with asyncio.timeout(CLOSE_S_MAX):
            await socket.close()
    except TimeoutError:
        log.debug("a peer did not take the goodbye")
    except asyncio.CancelledError:
        # All who wait for a peer to read wait for one future of aiohttp's: when one of them is
        # cancelled, the others look cancelled too.
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise
    finally:
        if transport is not None:
            transport.abort()


async def until_one_ends(*ways: Coroutine[Any, Any, None]) -> None:
    """Run the directions of a link until one ends, which ends the link."""
    tasks = [asyncio.create_task(way) for way in ways]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if task.cancelled():
                # Not by us: see take_leave. It must not end who dials or serves.
                raise ConnectionResetError("a send was cancelled")
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
