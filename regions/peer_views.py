"""What the other regions say of themselves, and how far away they are.

Each is asked over its link (``ask_status``, PROTOCOL B.9) while somebody looks, and for its clock
and its digests now and then. What is not answered is shown as it was said last, with its age.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from perdure.regions.links import Links, PeerUnreachable
from perdure.regions.ports import Clock

log = logging.getLogger("perdure")

# The version of the wire from which on a region can be asked.
ASKED_FROM = 2
# While somebody looks, a peer is asked for its view at most so often; for its clock always.
VIEW_EVERY_MS = 2_000
CLOCK_EVERY_MS = 10_000
# Digests are compared at most so often while somebody looks, and so often in any case: alerts go by
# it. What was found is good for so long.
DIGEST_EVERY_MS = 5_000
COMPARE_EVERY_MS = 60_000
DIGEST_MS_MAX = 300_000
# Two answers within milliseconds are no sign that a clock was set.
CLOCKS_READ_TO_MS = 5
# Round trips that are kept of each peer: the shortest tells the time best.
_TRIPS = 8
_SMOOTH = 0.3


class Holding(NamedTuple):
    """What a region holds, when it had these records: hashes of the digests of everything, and of
    its vector."""

    digest: str
    vector: str


class PeerView:
    """What is known of one peer from its own words."""

    def __init__(self) -> None:
        self.value: dict[str, Any] | None = None
        # When its view was asked for and came, by the monotonic clock; and whether the last
        # question was answered.
        self.asked_ms: int | None = None
        self.came_ms: int | None = None
        self.answers = False
        self.rtt_ms: float | None = None
        self._trips: deque[tuple[float, float]] = deque(maxlen=_TRIPS)
        self.timed_ms: int | None = None
        self.digest_asked_ms: int | None = None
        self.compared_ms: int | None = None
        self.is_equal: bool | None = None

    def timed(self, rtt_ms: float, theirs_ms: int, received_ms: int) -> None:
        """A question took so long; their clock said this when it was answered, ours when the answer
        had come."""
        before = self.rtt_ms
        smooth = rtt_ms if before is None else before + _SMOOTH * (rtt_ms - before)
        self.rtt_ms = round(smooth, 2)
        offset_ms = theirs_ms + rtt_ms / 2 - received_ms
        # What two answers say may be apart by half of both trips, and by what clocks are read to.
        # More than that, and a clock was set meanwhile: what was found before is over.
        if self._trips:
            best_rtt_ms, best_offset_ms = min(self._trips)
            apart_ms = abs(offset_ms - best_offset_ms)
            if apart_ms > (rtt_ms + best_rtt_ms) / 2 + CLOCKS_READ_TO_MS:
                self._trips.clear()
        self._trips.append((rtt_ms, offset_ms))

    @property
    def clock_offset_ms(self) -> float | None:
        """How far its clock is ahead of ours, by the quickest of the last answers: at most half of
        that one's round trip wrong."""
        return round(min(self._trips)[1], 1) if self._trips else None

    def compared(self, is_equal: bool, now_ms: int) -> None:
        """Its digests were compared with ours."""
        self.is_equal, self.compared_ms = is_equal, now_ms

    def digests(self, now_ms: int) -> str:
        """``equal``, ``different``, or ``unknown`` where that was not found out lately."""
        if self.compared_ms is None or now_ms - self.compared_ms > DIGEST_MS_MAX:
            return "unknown"
        return "equal" if self.is_equal else "different"


class PeerViews:
    """All peers of a region. ``start`` is given what is to go on beside everything else."""

    def __init__(
        self,
        names: Callable[[], list[str]],
        clock: Clock,
        start: Callable[[Coroutine[Any, Any, None], str], object],
        holding: Callable[[], Holding | None],
    ) -> None:
        self.links: Links | None = None
        self._names = names
        self._clock = clock
        self._start = start
        self._holding = holding
        self._views: dict[str, PeerView] = {}
        self._asking: dict[str, asyncio.Event] = {}

    def of(self, name: str) -> PeerView:
        """What is known of a peer."""
        return self._views.setdefault(name, PeerView())

    def wire(self, name: str) -> int | None:
        """The version that the link to a peer speaks; None while there is none."""
        try:
            return None if self.links is None else self.links.wire(name)
        except PeerUnreachable:
            # It was configured, or removed, a moment ago.
            return None

    def can_ask(self, name: str) -> bool:
        """Whether its link is open and knows these questions."""
        return (self.wire(name) or 0) >= ASKED_FROM

    def tick(self) -> None:
        """A second has passed: ask for clocks that were not seen for a while, and for digests."""
        now_ms = self._clock.monotonic_ms()
        for name in self._names():
            timed_ms = self.of(name).timed_ms
            if timed_ms is None or now_ms - timed_ms >= CLOCK_EVERY_MS:
                is_due = self._is_due(name, now_ms, COMPARE_EVERY_MS)
                self._begin(name, {"digest": True} if is_due else {"clock": True})

    def compare(self) -> None:
        """A peer looks at this region: ask those whose digests it is time to compare. (Not for
        their views: regions would go on asking each other for ever.)"""
        now_ms = self._clock.monotonic_ms()
        for name in self._names():
            if self._is_due(name, now_ms):
                self._begin(name, {"digest": True})

    def look(self) -> None:
        """Somebody looks: ask whom it is time to ask."""
        now_ms = self._clock.monotonic_ms()
        for name in self._names():
            asked_ms = self.of(name).asked_ms
            if asked_ms is None or now_ms - asked_ms >= VIEW_EVERY_MS:
                self._begin(name, self._question(name, now_ms))

    async def refresh(self, wait_s: float) -> None:
        """The same, and wait for the answers, at most so long."""
        self.look()
        waiting = [asyncio.ensure_future(done.wait()) for done in self._asking.values()]
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=wait_s)
            for task in late:
                task.cancel()

    def _question(self, name: str, now_ms: int) -> dict[str, Any]:
        return {"view": True, "digest": True} if self._is_due(name, now_ms) else {"view": True}

    def _is_due(self, name: str, now_ms: int, every_ms: int = DIGEST_EVERY_MS) -> bool:
        """Whether it is time to compare digests with a peer: also where that came to nothing."""
        asked_ms = self.of(name).digest_asked_ms
        return asked_ms is None or now_ms - asked_ms >= every_ms

    def _begin(self, name: str, question: dict[str, Any]) -> None:
        if name in self._asking:
            return
        view = self.of(name)
        if not self.can_ask(name):
            view.answers = False
            return
        now_ms = self._clock.monotonic_ms()
        view.timed_ms = now_ms
        if "view" in question:
            view.asked_ms = now_ms
        if "digest" in question:
            view.digest_asked_ms = now_ms
        self._asking[name] = asyncio.Event()
        self._start(self._ask(name, question), f"perdure-status-{name}")

    async def _ask(self, name: str, question: dict[str, Any]) -> None:
        try:
            self._take(self.of(name), await self.ask(name, question))
        except PeerUnreachable:
            self.of(name).answers = False
        except Exception:
            # Who looks is shown what was known before; the region goes on.
            log.exception("the status of %s could not be taken", name, extra={"peer": name})
        finally:
            self._asking.pop(name).set()

    async def ask(self, name: str, question: dict[str, Any]) -> dict[str, Any]:
        """Ask something of a peer, and note how long it took. Raises ``PeerUnreachable``."""
        if self.links is None or not self.can_ask(name):
            raise PeerUnreachable(name)
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        answer = await self.links.ask_status(name, question)
        rtt_ms = (loop.time() - began_s) * 1000
        view = self.of(name)
        view.answers = True
        if type(theirs_ms := answer.get("now_ms")) is int:
            view.timed(rtt_ms, theirs_ms, self._clock.wall_ms())
        return answer

    async def ask_all(
        self, names: list[str], question: dict[str, Any]
    ) -> dict[str, dict[str, Any] | None]:
        """Ask the same of several; None of who does not answer."""

        async def one(name: str) -> dict[str, Any] | None:
            try:
                return await self.ask(name, question)
            except PeerUnreachable:
                return None

        answers = await asyncio.gather(*map(one, names))
        return dict(zip(names, answers, strict=True))

    def _take(self, view: PeerView, answer: dict[str, Any]) -> None:
        now_ms = self._clock.monotonic_ms()
        if isinstance(value := answer.get("view"), dict):
            view.value, view.came_ms = value, now_ms
        theirs = (answer.get("digest"), answer.get("vector"))
        mine = self._holding() if None not in theirs else None
        # What is under way makes digests differ: they are compared of equal logs alone.
        if mine is not None and (mine.digest == theirs[0] or mine.vector == theirs[1]):
            view.compared(mine.digest == theirs[0], now_ms)
