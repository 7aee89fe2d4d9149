"""A region with an empty disk is not ready before it has caught up with the peers it can reach.

One that was away is not ready either before it has what its peers had when it met them: who sends
clients to what is ready would have them read what is old.

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
# A region that has data is ready after so long, however far its peers are ahead: it serves from
# what it has, and nobody may keep it out.
BEHIND_S_MAX = 15


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
        # It serves, and should not be asked yet.
        self.is_behind = False
        self._ready_by_ms = 0
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
        self.is_behind = self._noted and bool(self._gossip.peers)
        self._ready_by_ms = self._clock.monotonic_ms() + BEHIND_S_MAX * 1000

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
        if self.is_behind and (self._has_met_all() or self._is_late()):
            self.is_behind = False

    def _is_late(self) -> bool:
        return self._clock.monotonic_ms() >= self._ready_by_ms

    def _is_caught_up(self) -> bool:
        """Whether it has met somebody, and has what there was."""
        peers = self._gossip.peers
        return any(peers[name].connected for name in self._near()) and self._has_met_all()

    def _near(self) -> set[str]:
        peers, now_ms = self._gossip.peers, self._clock.monotonic_ms()
        # One whose link has just broken is waited for, until it is down; one whose link has just
        # opened, until it has been met. One that dials and cannot be dialled is never met.
        return {
            name
            for name, peer in peers.items()
            if peer.state(now_ms) != "down" and (peer.connected or name in self._targets)
        }

    def _has_met_all(self) -> bool:
        """Whether it has what each peer had that can be reached, if any can."""
        peers, near = self._gossip.peers, self._near()
        untried = self._repair.links.untried() if self._repair.links is not None else peers.keys()
        if untried or not near <= self._targets.keys():
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
