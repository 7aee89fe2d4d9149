"""Which regions there are: those that are configured, without those that were removed for good.

That a region was removed is a record of all regions, which nothing takes back: whoever knows it
waits for that region no more, and takes nothing from it.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from perdure.regions.accounts import Accounts
from perdure.regions.catch_up import CatchUp
from perdure.regions.ledger import Ledger
from perdure.regions.links import Links, PeerUnreachable
from perdure.replication.errors import Refusal
from perdure.replication.frames import FrameError, vector_from_json
from perdure.replication.hlc import wall_time
from perdure.replication.ids import check_id
from perdure.replication.limits import REGIONS_GONE_MAX
from perdure.replication.records import ABSORBED

log = logging.getLogger("perdure")


class Membership:
    """The other regions, as one region knows them."""

    def __init__(self, node: Accounts, catch_up: CatchUp) -> None:
        self._node = node
        self._catch_up = catch_up
        self._ledger = Ledger(node, "regions")
        self._links: Links | None = None
        self.gone: dict[str, dict[str, Any]] = {}
        # Set when this region itself was removed: it is to end.
        self.expelled = asyncio.Event()

    def recovered(self) -> None:
        """The storage has been replayed."""
        self._ledger.watch(self._changed)
        for name, value in self._ledger.all():
            self._note(name, value)

    def begin(self, links: Links) -> None:
        """These are the links of this region."""
        self._links = links
        for name in self.gone:
            links.part(name)

    def _changed(self, name: str) -> None:
        if (value := self._ledger.get(name)) is not None:
            self._note(name, value)

    def _note(self, name: str, value: dict[str, Any]) -> None:
        if name in self.gone:
            return
        self.gone[name] = value
        if name == self._node.region:
            self.expel()
            return
        log.warning("region %s was removed for good", name, extra={"peer": name})
        place = self._ledger.place(name)
        is_told = place is not None and place[0] != ABSORBED
        self._node.gossip.forgotten(name, place if is_told else None)
        self._part(name)
        self._node.desk.forgotten(name)

    def _part(self, name: str) -> None:
        self._node.gossip.part(name)
        self._node.desk.gossip.part(name)
        self._node.repair.part(name)
        if self._links is not None:
            self._links.part(name)
        self._catch_up.part(name)

    def expel(self) -> None:
        """This region was removed."""
        if not self.expelled.is_set():
            log.critical("this region was removed for good: nobody waits for it, or takes from it")
            self.expelled.set()

    def configure(self, peers: Mapping[str, str]) -> None:
        """These are the other regions from now on, with the URLs of their peer ports."""
        node, fit = self._node, {}
        for name, url in peers.items():
            if name in self.gone:
                log.warning("region %s was removed for good: a new one needs another name", name)
            else:
                fit[name] = url
        for name in node.gossip.peers.keys() - fit.keys():
            log.warning("region %s is configured no more", name, extra={"peer": name})
            self._part(name)
        for name in fit:
            node.gossip.join(name)
            node.desk.gossip.join(name)
        if self._links is not None:
            self._links.connect(fit)
        node.peers_changed()

    async def forget(self, name: str, *, by: str = "", force: bool = False) -> dict[str, Any]:
        """Remove a region for good: on disk here when this returns, and in the others as soon as
        they hear. Raises ``Refusal``: ``invalid_id``, ``not_found``, ``conflict``, ``too_many``."""
        node = self._node
        check_id(name, "region")
        if (kept := self.gone.get(name)) is not None:
            return {"region": name, **kept}
        if name == node.region:
            raise Refusal("conflict", "a region does not remove itself: ask another one")
        peer = node.gossip.peers.get(name)
        if peer is None and all(origin.region != name for origin in node.gossip.vector):
            raise Refusal("not_found", f"this region knows no region {name}")
        if not force:
            await self._check_idle(name)
        if len(self.gone) >= REGIONS_GONE_MAX:
            raise Refusal("too_many", "too many regions were removed", retry_after_s=3_600)
        try:
            await self._ledger.put(name, {"at": wall_time(node.clock.wall_ms()), "by": by})
        except Refusal:
            # Somebody else has done so meanwhile.
            if self._ledger.get(name) is None:
                raise
        self._changed(name)
        return {"region": name, **self.gone[name]}

    async def _check_idle(self, name: str) -> None:
        """Whether it may be removed without force. Raises ``Refusal`` ``conflict``."""
        if self._state(name) == "down" and (heard := await self._heard_by(name)):
            raise Refusal(
                "conflict",
                f"region {name} is down for {self._node.region}, and heard by {', '.join(heard)}:"
                f" ask {heard[0]} to remove it, once it is drained; or force this",
            )
        # It may have come up while the others were asked.
        if (state := self._state(name)) != "down" and not await self._is_drained(name):
            raise Refusal(
                "conflict",
                f"region {name} is {state}: drain it first, until all that it has accepted is"
                " here; or force this",
            )

    def _state(self, name: str) -> str:
        peer = self._node.gossip.peers.get(name)
        return "down" if peer is None else peer.state(self._node.clock.monotonic_ms())

    async def _heard_by(self, name: str) -> list[str]:
        """The other regions that can be asked, and say that they hear it."""
        others = sorted(self._others(name))
        told = await asyncio.gather(*(self._hears(other, name) for other in others))
        return [other for other, hears in zip(others, told, strict=True) if hears]

    def _others(self, name: str) -> set[str]:
        return {o for o in self._node.gossip.peers if o != name and self._state(o) != "down"}

    async def _hears(self, other: str, name: str) -> bool:
        """Whether another region says that it hears this one; who does not answer says nothing."""
        if self._links is None:
            return False
        try:
            status = await self._links.ask_status(other, {"peers": True})
        except PeerUnreachable:
            return False
        peers = status.get("peers")
        return isinstance(peers, dict) and peers.get(name) in ("up", "suspect")

    async def _is_drained(self, name: str) -> bool:
        """Whether it takes nothing any more, and nothing would be gone with it."""
        if self._links is None:
            return False
        try:
            status = await self._links.ask_status(name, {"held": True})
            # What its heartbeats said last may be older than what it took last.
            theirs = vector_from_json(status.get("held"))
        except (PeerUnreachable, FrameError):
            return False
        gossip = self._node.gossip
        return status.get("state") == "draining" and all(
            gossip.vector.get(origin, 0) >= lsn
            or (origin.region != name and gossip.comes_itself(origin))
            for origin, lsn in theirs.items()
        )
