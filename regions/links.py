"""What a node asks of its links to the peers."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from perdure.replication.gossip import Gossip


class PeerUnreachable(Exception):
    """The peer gave no answer."""


@dataclass(frozen=True)
class Digests:
    """A peer's answer to a question for digests: of all buckets, or of sessions."""

    buckets: list[str] | None
    sessions: dict[str, str] | None


class Links(Protocol):
    """The links of a region, as the node sees them."""

    @property
    def counters(self) -> Mapping[str, int]: ...

    def wake(self) -> None: ...

    def untried(self) -> set[str]: ...

    def refused(self) -> str | None: ...

    def connect(self, peers: Mapping[str, str]) -> None: ...

    def part(self, name: str) -> None: ...

    async def flush(self, timeout_s: float) -> bool: ...

    async def ask_digests(
        self, peer: str, session: str | None, buckets: Sequence[int] | None
    ) -> Digests: ...

    async def ask_status(self, peer: str, what: Mapping[str, Any]) -> dict[str, Any]: ...

    def wire(self, peer: str) -> int | None: ...

    def pull(self, peer: str, sessions: Sequence[str]) -> AsyncIterator[bytes]: ...


def peers_value(gossip: Gossip, links: Links | None, now_ms: int) -> list[dict[str, Any]]:
    """What is known of the peers, for ``GET /v1/regions``."""
    return [
        {
            "region": name,
            "state": peer.state(now_ms),
            "behind": gossip.behind(name),
            "last_seen_ms": None if peer.heard_ms is None else now_ms - peer.heard_ms,
            "wire": None if links is None else links.wire(name),
        }
        for name, peer in sorted(gossip.peers.items())
    ]
