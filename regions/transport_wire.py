"""What both ends of a link share: limits, counting, frames out of WebSocket messages."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from aiohttp import WSMessage, WSMsgType
from perdure.regions.ports import Clock, Entropy, Storage
from perdure.replication.frames import (
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
from perdure.replication.records import Origin, Record

log = logging.getLogger("perdure.links")

PATH = "/v1/peer"
HEARTBEAT_S = 1.0
IDLE_S_MAX = 10.0
HANDSHAKE_S_MAX = 5.0
_NONCE_BITS = 256


class Host(Protocol):
    """What the links ask of the node."""

    async def receive(self, records: Sequence[Record]) -> None:
        """Store and apply; on disk when it returns."""

    def peers_changed(self) -> None:
        """A vector or a liveness has changed."""

    def digests(
        self, session: str | None, buckets: Sequence[int] | None
    ) -> tuple[list[str] | None, dict[str, str] | None]:
        """All buckets, or the digests of sessions."""


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
    counters: Counter[str] = field(default_factory=Counter)

    def identity(self) -> Identity:
        """Who this region is, with a fresh nonce."""
        nonce = f"{self.entropy.token(_NONCE_BITS):064x}"
        return Identity(self.gossip.me, self.started_ms, nonce)

    def refused(self, what: str, error: FrameError | LinkRefused, name: str) -> None:
        """Count a refusal, by its code."""
        self.counters[what] += 1
        self.counters[f"{what}.{error.code}"] += 1
        log.warning("%s, link with %s: %s", what, name, error.code)

    def heard(self, name: str, payload: bytes) -> bool:
        """Take in a peer's vector; True when it met a gap."""
        value = decode_json(payload)
        vector = vector_from_json(value.get("vector"))
        full, gap = value.get("full") is True, value.get("gap") is True
        self.gossip.heard(name, vector, full, self.clock.monotonic_ms())
        if gap:
            self.gossip.resend(name)
        self.host.peers_changed()
        return gap


def vector_payload(vector: Mapping[Origin, int], *, full: bool, gap: bool = False) -> bytes:
    """The payload of a ``vector`` frame."""
    return encode_json({"vector": vector_to_json(dict(vector)), "full": full, "gap": gap})


def frame_of(channel: Channel, message: WSMessage) -> Frame:
    """The frame of a WebSocket message; ``ConnectionResetError`` when the link was closed."""
    if message.type is WSMsgType.BINARY:
        return channel.decode(message.data)
    if message.type in (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR):
        raise ConnectionResetError("the link was closed")
    raise FrameError("not_binary")
