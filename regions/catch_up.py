"""A region with an empty disk is not ready before it has caught up with the peers it can reach.

Also where they never knew its name: it would answer "not found" for what they hold. A cluster that
is new catches up at once, for nobody holds anything; only a region that is started alone, with its
peers out of reach, waits until somebody says that it is the first.
"""

import logging

from perdure.regions.ports import Clock, Storage
from perdure.regions.repair import Repair
from perdure.replication.gossip import Gossip
from perdure.replication.records import Vector

log = logging.getLogger("perdure")

CAUGHT_UP = "caught_up"


class CatchUp:
    """Whether the region may be ready. ``bootstrap``: the operator says that it is the first."""

    def __init__(
        self,
        gossip: Gossip,
        repair: Repair,
        storage: Storage,
        clock: Clock,
        *,
        bootstrap: bool,
    ) -> None:
        self.is_under_way = False
        self._gossip = gossip
        self._repair = repair
        self._storage = storage
        self._clock = clock
        self._bootstrap = bootstrap
        # What each peer had when it was first met.
        self._targets: dict[str, Vector] = {}
        self._noted = False

    def recovered(self) -> None:
        """The storage has been replayed. That it is whole is noted once it is, and not that it is
        not: a region that dies on the way must go on with it at its next start."""
        self._noted = CAUGHT_UP in self._storage.notes()
        waits = not self._noted and bool(self._gossip.peers)
        self.is_under_way = waits and not self._bootstrap

    def linked(self, name: str) -> None:
        """A link to the peer is open."""
        self._targets.setdefault(name, dict(self._gossip.peers[name].vector))
        self.look()

    def part(self, name: str) -> None:
        """A region is a peer no more: what it had is not waited for."""
        self._targets.pop(name, None)
        self.look()

    def look(self) -> None:
        """Has what was missing arrived?"""
        if self.is_under_way and self._is_caught_up():
            self.is_under_way = False
            log.info("caught up with %s", ", ".join(sorted(self._targets)))

    def _is_caught_up(self) -> bool:
        peers, now_ms = self._gossip.peers, self._clock.monotonic_ms()
        # One whose link has just broken is waited for, until it is down; one whose link has just
        # opened, until it has been met. One that dials and cannot be dialled is never met.
        near = {
            name
            for name, peer in peers.items()
            if peer.state(now_ms) != "down" and (peer.connected or name in self._targets)
        }
        untried = self._repair.links.untried() if self._repair.links is not None else peers.keys()
        if untried or not any(peers[name].connected for name in near):
            return False
        if not near <= self._targets.keys():
            return False
        return all(name not in self._repair.below and self._has(name, near) for name in near)

    def _has(self, name: str, near: set[str]) -> bool:
        """Whether what the peer had is here, but for what nobody that is near has: it was lost with
        the peer's disk."""
        held, peers = self._gossip.vector, self._gossip.peers
        return all(
            held.get(origin, 0) >= min(lsn, max(peers[n].vector.get(origin, 0) for n in near))
            for origin, lsn in self._targets[name].items()
        )

    async def step(self) -> None:
        """A second has passed: note on disk that a start need not catch up. Raises ``StorageFull``
        and ``StorageFailed``."""
        self.look()
        if not self.is_under_way and not self._noted:
            await self._storage.note(CAUGHT_UP, "yes")
            self._noted = True
