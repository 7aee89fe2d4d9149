"""Who is present, as one region holds it, tells its readers of it, and gossips it.

Readers are told at once when it is calm, and of what has gathered when many come and go.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from perdure.regions.attendance import Attendance
from perdure.regions.fanout import Fanout
from perdure.regions.ports import Clock, Entropy
from perdure.regions.signals import Signals
from perdure.replication.hlc import HybridClock
from perdure.replication.presence import Presence, Touched
from perdure.replication.presence_gossip import PresenceGossip
from perdure.replication.presence_view import LEASE, Key
from perdure.replication.presence_wire import (
    decode_ask,
    decode_delta,
    decode_digest,
    encode_ask,
    encode_delta,
    encode_digest,
)
from perdure.replication.records import Origin
from perdure.replication.roster import Roster

# Readers of a session are told no more often than this; less often where thousands are present.
TELL_EVERY_MS = 100
TELL_EVERY_MS_MAX = 800
MEMBERS_PER_MS = 7
# What is too much to be told at once goes on after so long.
REST_AFTER_MS = 50


class PresenceDesk:
    """The presence of one region. ``run`` beside everything else, ``tick`` every second."""

    def __init__(
        self,
        me: Origin,
        peers: Sequence[str],
        fanout: Fanout,
        clock: Clock,
        hlc: HybridClock,
        entropy: Entropy,
    ) -> None:
        self.presence = Presence(me)
        self.gossip = PresenceGossip(self.presence, peers)
        self.attendance = Attendance(self.gossip, clock, hlc, entropy, self._touched)
        # What wakes the links that push.
        self.wake: Callable[[], None] = lambda: None
        # What else is to know of members that were touched.
        self.on_touched: Callable[[str, Iterable[str]], None] = lambda *_: None
        # Leases of agents that are over. A full disk may keep them here: each of them once.
        self.lapsed: dict[Key, None] = {}
        self.signals = Signals(me.region, fanout, clock)
        self._fanout = fanout
        self._clock = clock
        # When readers of a session were last told, and when they are to be told next, in ms.
        self._last_ms: dict[str, int] = {}
        self._due_ms: dict[str, int] = {}
        self._news = asyncio.Event()

    # Who is here

    def values(self, session: str) -> Iterator[dict[str, Any]]:
        """Everybody who is shown in a session now, by name."""
        return self.presence.values(session, self.gossip.is_hidden)

    def value(self, session: str, member: str) -> dict[str, Any] | None:
        """One member; None when it is not here."""
        return self.presence.value(session, member, self.gossip.is_hidden)

    def roster(self, session: str) -> Roster:
        """For the readers of a session, who were told nothing yet."""
        return Roster(self.presence.members_in(session), lambda member: self.value(session, member))

    # Telling readers

    def _touched(self, touched: Touched) -> None:
        now_ms = self._clock.monotonic_ms()
        for session, members in touched.items():
            self.on_touched(session, members)
            feed = self._fanout.get(session)
            if feed is None:
                continue
            feed.roster.touch(members)
            most = min(len(feed.roster) // MEMBERS_PER_MS, TELL_EVERY_MS_MAX - TELL_EVERY_MS)
            due_ms = self._last_ms.get(session, -TELL_EVERY_MS_MAX) + TELL_EVERY_MS + most
            if due_ms <= now_ms:
                self._tell(session, now_ms)
            else:
                self._plan(session, due_ms)
        self.wake()

    def _plan(self, session: str, due_ms: int) -> None:
        if session not in self._due_ms:
            self._due_ms[session] = due_ms
            self._news.set()

    def _tell(self, session: str, now_ms: int) -> None:
        self._due_ms.pop(session, None)
        feed = self._fanout.get(session)
        if feed is not None and feed.tell_presence():
            self._last_ms[session] = now_ms
        if feed is not None and feed.roster.has_news:
            # Readers take what they were told first.
            self._plan(session, now_ms + REST_AFTER_MS)

    async def run(self) -> None:
        """Tell what has gathered when it is due, for as long as it is not cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._due_ms:
                now_ms = self._clock.monotonic_ms()
                for session in [s for s, due_ms in self._due_ms.items() if due_ms <= now_ms]:
                    self._tell(session, now_ms)
                await self._sleep(now_ms)

    async def _sleep(self, now_ms: int) -> None:
        """Until something is due, also when it comes to be so meanwhile."""
        if self._due_ms:
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout((min(self._due_ms.values()) - now_ms) / 1000):
                    await self._news.wait()

    def tick(self) -> None:
        """A second has passed: leases and graces end, regions are hidden and shown."""
        over = self.attendance.tick()
        self.lapsed |= {key: None for key in over if key.connection.startswith(LEASE)}
        self._look()
        now_ms = self._clock.monotonic_ms()
        for session in [s for s, ms in self._last_ms.items() if now_ms - ms > TELL_EVERY_MS_MAX]:
            del self._last_ms[session]

    def _look(self) -> None:
        for session in self.gossip.look(self._clock.monotonic_ms()):
            self._touched({session: set(self.presence.members_in(session))})

    # Links

    def linked(self, name: str) -> None:
        """The link to a peer is open."""
        self.gossip.linked(name)
        self.signals.linked(name)

    def lost(self, name: str) -> None:
        """It is closed."""
        self.gossip.lost(name)
        self.signals.lost(name)

    def forgotten(self, name: str) -> None:
        """A region was removed for good: whoever was here through it is not any more."""
        self.gossip.part(name)
        for origin in [o for o in self.presence.origins() if o.region == name]:
            touched = self.presence.bury(origin)
            self.gossip.buried(origin)
            self._merged(touched)

    def accepted(self, name: str) -> None:
        """The link from a peer is open."""
        self.gossip.accepted(name)

    def next(self, name: str) -> bytes | None:
        """The next ``presence`` payload for a peer; None when it was told everything."""
        delta = self.gossip.next(name)
        return None if delta is None else encode_delta(delta)

    def digest(self) -> bytes | None:
        """The ``presence_digest`` payload of this second; None where nobody was ever here."""
        if not self.presence.origins() and not self.presence.dead:
            return None
        return encode_digest(self.gossip.digest(self._clock.monotonic_ms()))

    def told(self, name: str, payload: bytes) -> None:
        """A ``presence`` frame of a peer. Raises ``FrameError``."""
        self._merged(self.gossip.received(name, decode_delta(payload)))
        self._look()

    def heard(self, name: str, payload: bytes) -> bytes | None:
        """A ``presence_digest`` frame; what is to be asked. Raises ``FrameError``."""
        digest = decode_digest(payload)
        ask = self.gossip.heard(name, digest, self._clock.monotonic_ms())
        self._look()
        return None if ask.is_empty else encode_ask(ask)

    def asked(self, name: str, payload: bytes) -> None:
        """An ``ask_presence`` frame of a peer. Raises ``FrameError``."""
        self._merged(self.gossip.asked(name, decode_ask(payload)))
        self.wake()

    def _merged(self, touched: Touched) -> None:
        self.attendance.merged(touched)
        if touched:
            self._touched(touched)
