"""How a region leaves: for a while, and the others for good."""

import asyncio
from collections.abc import Mapping
from typing import Any

from perdure.regions.accounts import Accounts
from perdure.regions.documents import DocumentDesk
from perdure.regions.membership import Membership
from perdure.regions.runs import RunDesk
from perdure.replication.errors import Refusal

RECONNECT_MS_MAX = 1_000
# How long a drain waits for the peers to have everything, before it says that they have not.
FLUSH_S_MAX = 3.0


class LifeCycle(Accounts):
    """The side of a :class:`~perdure.regions.node.Node` that takes it out, and takes it back."""

    membership: Membership
    turns: RunDesk
    shared: DocumentDesk
    # Set while the region drains, for requests that would go on for ever.
    leaving: asyncio.Event
    _status: str | None
    # Whether the process is to end, and not only to stand aside.
    is_ending: bool = False

    async def drain(self, timeout_s: float) -> None:
        """Take no more writes, send readers elsewhere, and flush to the peers that are up: before
        the end."""
        self.is_ending = True
        await self.begin_drain(timeout_s)

    async def begin_drain(self, timeout_s: float = FLUSH_S_MAX) -> bool:
        """The same, and stay until :meth:`end_drain` or the end; whether all that this region has
        accepted is on the disks of the peers that are up. Again: whether it is by now."""
        if self._status is None:
            self._status = "draining"
        if not self.leaving.is_set():
            self.leaving.set()
            self.fanout.drain(RECONNECT_MS_MAX)
            self.turns.drain()
            self.shared.drain()
        return self._links is None or await self._links.flush(timeout_s)

    def end_drain(self) -> None:
        """Serve again. Raises ``Refusal`` ``draining`` where the process is to end."""
        if self.is_ending:
            raise Refusal("draining", "this region is shutting down", retry_after_s=1)
        if self._status == "draining":
            self._status = None
        self.leaving.clear()
        self.fanout.draining = self.turns.draining = self.shared.draining = False

    async def forget_region(
        self, name: str, *, by: str = "", force: bool = False
    ) -> dict[str, Any]:
        """Remove another region for good, everywhere; ``force``: also one that is at work.

        Raises ``Refusal``: ``invalid_id``, ``not_found``, ``conflict``.
        """
        return await self.membership.forget(name, by=by, force=force)

    def configure_peers(self, peers: Mapping[str, str]) -> None:
        """These are the other regions from now on, with the URLs of their peer ports."""
        self.membership.configure(peers)

    def expelled(self) -> None:
        """Peers say that this region was removed for good."""
        self.membership.expel()
