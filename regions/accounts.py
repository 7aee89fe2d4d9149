"""What a region says of itself and of the others."""

from collections.abc import Callable
from typing import Any

from perdure.regions.checkpoint import Checkpoint
from perdure.regions.erasing import Eraser
from perdure.regions.expiry import Expiry
from perdure.regions.holdings import Holdings
from perdure.regions.links import Links, peers_value
from perdure.regions.ports import Clock, Storage
from perdure.regions.presence import PresenceDesk
from perdure.regions.repair import Repair
from perdure.regions.sharing import Sharing
from perdure.regions.verify import verify
from perdure.replication.frames import VERSIONS
from perdure.replication.gossip import Gossip
from perdure.replication.records import Origin
from perdure.replication.subjects import Subject
from perdure.replication.tenants import check_session


class Accounts(Sharing):
    """The side of a :class:`~perdure.regions.node.Node` that only tells what it sees."""

    origin: Origin
    # Of the certificates, where it is a process that has some.
    expiry = Expiry({})
    gossip: Gossip
    holdings: Holdings
    checkpoint: Checkpoint
    eraser: Eraser
    repair: Repair
    # Who is told of the messages of a session that have changed, by its name inside.
    watchers: dict[str, Callable[[str], None]]
    desk: PresenceDesk
    _storage: Storage
    _links: Links | None

    @property
    def clock(self) -> Clock:
        """The time here."""
        return self._clock

    def peers_changed(self) -> None:
        """More is stable, perhaps, or settled."""
        raise NotImplementedError

    def readiness(self) -> str | None:
        """None when ready; else why not."""
        raise NotImplementedError

    def is_cut_off(self) -> bool:
        """Whether some other region cannot be heard: what it says now is not known here."""
        now_ms = self._clock.monotonic_ms()
        return any(peer.state(now_ms) != "up" for peer in self.gossip.peers.values())

    def erasure(
        self, session: str, message: str | None = None, document: str | None = None
    ) -> dict[str, Any]:
        """How far it is that what was deleted is gone (PROTOCOL A.4). Raises ``Refusal``."""
        self._check_readable()
        return self.eraser.told(self.region, Subject(session, message, document))

    def is_erased(self) -> bool:
        """Whether all that was deleted is gone from this region's disk."""
        return self.gossip.erased is None

    def version(self) -> dict[str, Any]:
        """Who this is."""
        return {
            "region": self.region,
            "incarnation": f"{self.origin.incarnation:016x}",
            "wire": list(VERSIONS),
        }

    @property
    def storage(self) -> Storage:
        """The disk."""
        return self._storage

    async def verify(self, session: str | None = None) -> dict[str, Any]:
        """Whether every region that can be reached holds the same (PROTOCOL A.4)."""
        if session is not None:
            check_session(session)
        return await verify(self.holdings, self.gossip, self._links, session)

    def regions(self) -> dict[str, Any]:
        """What this region knows of the others."""
        peers = peers_value(self.gossip, self._links, self._clock.monotonic_ms())
        counters = {
            **self.counters,
            **(self._links.counters if self._links is not None else {}),
            "sessions": len(self.state),
            "readers": self.fanout.count,
            "open_runs": len(self.turns),
            "signals_dropped": self.desk.signals.dropped,
            "present": len(self.desk.presence),
            "resumes": self.resumes,
            "undecodable": self.state.undecodable,
            "unapplied": self.state.unapplied,
            "damaged": self._storage.damaged,
            "in_memory": len(self.state.sessions),
            "loads": self.state.loads,
            "evictions": self.state.evictions,
            "checkpointed": self.checkpoint.saved,
            "truncated": self.checkpoint.truncated,
            "erased": self.eraser.erased,
            "log_bytes": self._storage.log_bytes,
            **self.repair.counters,
        }
        gone = sorted(self.gossip.gone)
        return {**self.version(), "peers": peers, "gone": gone, "counters": counters}
