"""Repair: finding by digests which sessions a peer knows otherwise, and absorbing what it knows.

One round with one peer is everything: the repair of a damaged session, the bootstrap of an empty
region, the return of one that was away for longer than the logs reach. What has been absorbed is
equal at the next round, so an interrupted one goes on where it was. The other direction is the
peer's own round.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from perdure.regions.holdings import Holdings
from perdure.regions.links import Links, PeerUnreachable
from perdure.regions.ports import Clock, StorageError
from perdure.replication.gossip import Gossip
from perdure.replication.records import Vector

log = logging.getLogger("perdure")

REPAIR_EVERY_S = 3_600
# After a link opens, the logs get so long to bring what is missing.
SETTLE_S = 5
# Sessions that differ get so long to become equal by what is under way.
SECOND_LOOK_S = 2
# What is asked for at a time.
BUCKETS_ASKED_MAX = 256
SESSIONS_ASKED_MAX = 64
# What is stored in one step of what a peer tells.
ABSORB_BYTES_MAX = 1_048_576


class Repair:
    """The rounds of one region. ``absorb`` stores pieces, ``jump`` goes on from a vector."""

    def __init__(
        self,
        gossip: Gossip,
        holdings: Holdings,
        clock: Clock,
        absorb: Callable[[Sequence[bytes]], Awaitable[None]],
        jump: Callable[[Vector], Awaitable[None]],
    ) -> None:
        self.counters = Counter(dict.fromkeys(("repair_rounds", "repaired", "jumps"), 0))
        self.links: Links | None = None
        self.under_way: str | None = None
        # When the last whole round with each peer ended, by the monotonic clock.
        self.rounds_ms: dict[str, int] = {}
        self._gossip = gossip
        self._holdings = holdings
        self._clock = clock
        self._absorb = absorb
        self._jump = jump
        # When a round with a peer is due, in ms; and with which peers this region is below.
        self._due_ms: dict[str, int] = {}
        # The last incarnation of each peer that was met, and which of them are down.
        self._met: dict[str, int | None] = {}
        self._down: set[str] = set()
        # After a round that was interrupted, the next with that peer is not before.
        self._again_ms: dict[str, int] = {}
        self.below: set[str] = set()
        # Sessions that are to be fetched, whatever the digests say: from which peers still, for
        # what one of them lacks another may have.
        self.wanted: dict[str, set[str]] = {}
        self._wake = asyncio.Event()
        self._pause = asyncio.sleep

    def linked(self, name: str) -> None:
        """A link to the peer is open: compare when it has settled."""
        self.below.discard(name)
        self._down.discard(name)
        self._soon(name)
        incarnation = self._gossip.peers[name].incarnation
        if self._met.get(name) not in (None, incarnation):
            self._ask_the_others(name)
        self._met[name] = incarnation

    def _ask_the_others(self, name: str) -> None:
        """What a peer had told others of its sessions before it died may be in no log: compare with
        them too."""
        for other, peer in self._gossip.peers.items():
            if other != name and peer.connected:
                self._soon(other)

    def _soon(self, name: str) -> None:
        due_ms = self._clock.monotonic_ms() + SETTLE_S * 1000
        self._due_ms[name] = min(self._due_ms.get(name, due_ms), due_ms)

    def part(self, name: str) -> None:
        """A region is a peer no more."""
        self.below.discard(name)
        self._down.discard(name)
        for held in (self._due_ms, self._again_ms, self._met):
            held.pop(name, None)
        self._told(name, [id_ for id_, peers in self.wanted.items() if name in peers])

    def is_below(self, name: str) -> None:
        """The peer's logs no longer hold what this region lacks."""
        if name not in self.below and name in self._gossip.peers:
            text = "the log of %s no longer reaches back to what is here: comparing"
            log.warning(text, name, extra={"peer": name})
            self.below.add(name)
            self._wake.set()

    def is_below_anybody(self) -> bool:
        """Whether a peer that is not down has what this region must take from its sessions."""
        now_ms = self._clock.monotonic_ms()
        return any(self._gossip.peers[name].state(now_ms) != "down" for name in self.below)

    def want(self, session: str) -> None:
        """Something of this session is damaged here."""
        self.wanted[session] = set(self._gossip.peers)
        self._wake.set()

    def tick(self) -> None:
        """A second has passed."""
        now_ms = self._clock.monotonic_ms()
        for name in self._met.keys() - self._down:
            if self._gossip.peers[name].state(now_ms) == "down":
                self._down.add(name)
                self._ask_the_others(name)
        if self.wanted or self.below or any(due <= now_ms for due in self._due_ms.values()):
            self._wake.set()

    async def run(self) -> None:
        """Do what is due, for as long as it is not cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            for name in list(self._gossip.peers):
                if name in self._gossip.peers:
                    await self._visit(name)

    async def _visit(self, name: str) -> None:
        now_ms = self._clock.monotonic_ms()
        due = self._due_ms.get(name)
        if not self._gossip.peers[name].connected or now_ms < self._again_ms.get(name, 0):
            return
        if name in self.below or self._wanted_of(name) or (due is not None and due <= now_ms):
            self._due_ms[name] = now_ms + REPAIR_EVERY_S * 1000
            try:
                await self.round(name)
            except (PeerUnreachable, StorageError) as error:
                text = "the comparison with %s was interrupted: %r"
                log.info(text, name, error, extra={"peer": name})
                self._due_ms[name] = self._again_ms[name] = now_ms + SETTLE_S * 1000

    async def round(self, name: str) -> int:
        """Absorb what the peer knows otherwise; how many sessions that were.

        Raises ``PeerUnreachable``, ``StorageFull``, ``StorageFailed``; what was absorbed by then
        stays.
        """
        assert self.links is not None
        below = name in self.below
        # Everything up to here is in what the peer tells from now on.
        reached = dict(self._gossip.peers[name].vector)
        self.under_way = name
        try:
            wanted = self._wanted_of(name)
            repaired = await self._pull_all(name, wanted)
            self._told(name, wanted)
            different = await self._buckets_that_differ(name)
            for start in range(0, len(different), BUCKETS_ASKED_MAX):
                numbers = different[start : start + BUCKETS_ASKED_MAX]
                ids = await self._sessions_that_differ(name, numbers)
                if ids and not below:
                    await self._pause(SECOND_LOOK_S)
                    again = await self._sessions_that_differ(name, numbers)
                    ids = [id_ for id_ in ids if id_ in set(again)]
                repaired += await self._pull_all(name, ids)
            if below and name in self._gossip.peers:
                self.counters["jumps"] += 1
                await self._jump(reached)
                self.below.discard(name)
        finally:
            self.under_way = None
        self.counters["repair_rounds"] += 1
        self.rounds_ms[name] = self._clock.monotonic_ms()
        return repaired

    def _wanted_of(self, name: str) -> list[str]:
        return sorted(id_ for id_, peers in self.wanted.items() if name in peers)

    def _told(self, name: str, ids: list[str]) -> None:
        for id_ in ids:
            if (peers := self.wanted.get(id_)) is not None:
                peers.discard(name)
                if not peers:
                    del self.wanted[id_]

    async def _buckets_that_differ(self, name: str) -> list[int]:
        assert self.links is not None
        theirs = (await self.links.ask_digests(name, None, None)).buckets or []
        mine = self._holdings.buckets()
        pairs = enumerate(zip(mine, theirs, strict=False))
        return [number for number, (one, other) in pairs if one != other]

    async def _sessions_that_differ(self, name: str, numbers: list[int]) -> list[str]:
        """Sessions that the peer knows, and knows otherwise."""
        assert self.links is not None
        theirs = (await self.links.ask_digests(name, None, numbers)).sessions
        if theirs is None:
            # More than one answer has room for.
            half = len(numbers) // 2
            if not half:
                raise PeerUnreachable(name)
            first = await self._sessions_that_differ(name, numbers[:half])
            return first + await self._sessions_that_differ(name, numbers[half:])
        mine = self._holdings.in_buckets(numbers)
        return [id_ for id_, digest in theirs.items() if mine.get(id_) != digest]

    async def _pull_all(self, name: str, ids: list[str]) -> int:
        for start in range(0, len(ids), SESSIONS_ASKED_MAX):
            await self._pull(name, ids[start : start + SESSIONS_ASKED_MAX])
        self.counters["repaired"] += len(ids)
        return len(ids)

    async def _pull(self, name: str, ids: list[str]) -> None:
        assert self.links is not None
        pieces: list[bytes] = []
        async for piece in self.links.pull(name, ids):
            pieces.append(piece)
            if sum(map(len, pieces)) >= ABSORB_BYTES_MAX:
                await self._absorb(pieces)
                pieces = []
        if pieces:
            await self._absorb(pieces)
