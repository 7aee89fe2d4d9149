"""The members that are here through this region: their connections, and their leases.

Rule of this file: what this region holds, it alone removes by itself: a connection that has been
gone for the grace, a lease that is over. A renewal that changes nothing is a number in this file,
and no operation.
"""

import heapq
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from perdure.regions.ports import Clock, Entropy
from perdure.replication.dots import Dot
from perdure.replication.errors import Refusal
from perdure.replication.hlc import HybridClock
from perdure.replication.limits import (
    MEMBER_CONNECTIONS_MAX,
    MEMBERS_MAX,
    PRESENCE_ENTRIES_MAX,
    PRESENCE_GRACE_S,
)
from perdure.replication.presence import Touched
from perdure.replication.presence_gossip import PresenceGossip
from perdure.replication.presence_view import LEASE, Entry, Key, last_data
from perdure.replication.records import Origin

_CONNECTION_BITS = 64
_ORIGIN_BITS = 64
# So many more times that something is due are kept than could be needed.
_DUE_SPARE = 1_000


@dataclass
class Held:
    """An entry that this region holds; ``due_ms`` None while its connection is open."""

    entry: Entry
    due_ms: int | None


class Attendance:
    """What one region holds of who is present. ``told`` hears of the members that were touched."""

    def __init__(
        self,
        gossip: PresenceGossip,
        clock: Clock,
        hlc: HybridClock,
        entropy: Entropy,
        told: Callable[[Touched], None],
    ) -> None:
        self._gossip = gossip
        self._presence = gossip.presence
        self._clock = clock
        self._hlc = hlc
        self._entropy = entropy
        self._told = told
        self._held: dict[Key, Held] = {}
        # When something of a key may be due; what was renewed meanwhile comes again later.
        self._due: list[tuple[int, int, Key]] = []
        self._order = itertools.count()
        # The keys of what is held, by session and member.
        self._keys: dict[tuple[str, str], set[Key]] = {}
        # Since when earlier origins of this region are known.
        self._earlier: dict[Origin, int] = {}

    # Connections

    def arrive(self, session: str, member: str, data: str | None) -> Key:
        """A member comes through a connection, which is to :meth:`depart` by this key. One that
        dropped a moment ago is taken up again, and nobody hears of it.

        Raises ``Refusal`` ``too_many``.
        """
        for key in sorted(self._keys.get((session, member), ())):
            held = self._held[key]
            dropped = held.due_ms is not None and not held.entry.ttl_s
            if dropped and (data is None or data == held.entry.data):
                held.due_ms = None
                return key
        key = Key(session, member, f"{self._entropy.token(_CONNECTION_BITS):016x}")
        self._add(key, data, 0, None)
        return key

    def depart(self, key: Key) -> None:
        """Its connection is gone: it is still here for the grace."""
        held = self._held.get(key)
        if held is not None:
            held.due_ms = self._clock.monotonic_ms() + PRESENCE_GRACE_S * 1000
            self._push_due(held.due_ms, key)

    # Leases

    def hold(self, key: Key, data: str | None, ttl_s: int) -> None:
        """A member is here for so long from now. Raises ``Refusal`` ``too_many``."""
        due_ms = self._clock.monotonic_ms() + ttl_s * 1000
        held = self._held.get(key)
        # What is repeated is news where something else was given through another connection; but an
        # agent may be at work on several runs, and it gives nothing by going on with them.
        is_given = data is not None and not key.connection.startswith(LEASE)
        is_news = is_given and data != last_data(self._shown(*key[:2]))
        if data is None:
            earlier = self._presence.entries_of(key) if held is None else [held.entry]
            data = last_data(earlier)
        if held is None or is_news or (data, ttl_s) != (held.entry.data, held.entry.ttl_s):
            self._add(key, data, ttl_s, due_ms)
        else:
            held.due_ms = due_ms

    def renew(self, key: Key) -> None:
        """What this region holds is held on for as long as before."""
        held = self._held.get(key)
        if held is not None:
            held.due_ms = self._clock.monotonic_ms() + held.entry.ttl_s * 1000

    def _shown(self, session: str, member: str) -> list[Entry]:
        here = self._presence.entries_in(session, member)
        return [e for e in here if not self._gossip.is_hidden(e.dot.origin)]

    def _is_last(self, entry: Entry) -> bool:
        """Whether it was not given anew meanwhile, here or elsewhere."""
        return entry.rank == max(e.rank for e in self._presence.entries_of(entry.key))

    def leave(self, session: str, member: str) -> None:
        """A member leaves, through everything that is known of it here."""
        self._remove([entry.dot for entry in self._presence.entries_in(session, member)])

    def release(self, session: str, member: str, prefix: str) -> None:
        """Leases of a member that this region holds, of a kind, are over."""
        keys = [k for k in self._keys.get((session, member), ()) if k.connection.startswith(prefix)]
        self._remove([self._held[key].entry.dot for key in keys])

    def leave_all(self, session: str) -> None:
        """The session is gone: so is who is in it through this region."""
        me = self._presence.me
        for member in self._presence.members_in(session):
            entries = self._presence.entries_in(session, member)
            self._remove([e.dot for e in entries if e.dot.origin == me])

    # Changing the set

    def _take_over(self, origin: Origin, now_ms: int) -> None:
        for entry in self._presence.entries_by(origin):
            if entry.ttl_s and self._is_last(entry) and len(self._held) < PRESENCE_ENTRIES_MAX:
                self._bring(*entry[1:], now_ms + entry.ttl_s * 1000)
            self._came_before(entry)

    def _came_before(self, earlier: Entry) -> None:
        """Who came back before this region knew of it has been here since then."""
        for key in list(self._keys.get(earlier.key[:2], ())):
            held = self._held[key]
            if held.entry.since > earlier.since:
                self._bring(*held.entry._replace(since=earlier.since)[1:], held.due_ms)

    def merged(self, touched: Touched) -> None:
        """What others, or this region, did to these members: what they removed or replaced is held
        no more. Where this region's origin was declared dead everybody is brought again."""
        if self._presence.me in self._presence.dead:
            region = self._presence.me.region
            self._presence.begin_anew(Origin(region, self._entropy.token(_ORIGIN_BITS)))
            for held in list(self._held.values()):
                self._bring(*held.entry[1:], held.due_ms)
            return
        for session, members in touched.items():
            for member in members:
                for key in list(self._keys.get((session, member), ())):
                    if not self._presence.is_alive(self._held[key].entry.dot):
                        self._forget(key)

    def _forget(self, key: Key) -> None:
        del self._held[key]
        keys = self._keys[key[:2]]
        keys.discard(key)
        if not keys:
            del self._keys[key[:2]]

    def _add(self, key: Key, data: str | None, ttl_s: int, due_ms: int | None) -> None:
        self._check_room(key)
        here = self._presence.entries_in(key.session, key.member)
        after = max((e.stamp for e in here), default=0)
        stamp = self._hlc.tick(self._clock.wall_ms(), after)
        since = min((e.since for e in self._shown(*key[:2])), default=stamp)
        self._bring(key, data, stamp, since, ttl_s, due_ms)

    def _bring(
        self, key: Key, data: str | None, stamp: int, since: int, ttl_s: int, due_ms: int | None
    ) -> None:
        entry, dots = self._presence.add(key, data, stamp, since, ttl_s)
        self._held[key] = Held(entry, due_ms)
        self._keys.setdefault(key[:2], set()).add(key)
        if due_ms is not None:
            self._push_due(due_ms, key)
        self._gossip.changed(dots)
        self._told({key.session: {key.member}})

    def _check_room(self, key: Key) -> None:
        if key in self._held:
            return
        members = self._presence.count_in(key.session)
        entries = self._presence.entries_in(key.session, key.member)
        if (
            len(self._held) >= PRESENCE_ENTRIES_MAX
            or (members >= MEMBERS_MAX and not entries)
            or len(entries) >= MEMBER_CONNECTIONS_MAX
        ):
            raise Refusal("too_many", "too many members or connections are here", retry_after_s=5)

    def _remove(self, dots: Iterable[Dot]) -> None:
        gone = list(dots)
        touched = self._presence.remove(gone)
        if touched:
            self._gossip.changed(gone)
            self.merged(touched)
            self._told(touched)

    def _push_due(self, due_ms: int, key: Key) -> None:
        heapq.heappush(self._due, (due_ms, next(self._order), key))
        if len(self._due) > 2 * len(self._held) + _DUE_SPARE:
            # What is put anew every second for an hour would be here 3,600 times.
            self._due = [
                (held.due_ms, next(self._order), key)
                for key, held in self._held.items()
                if held.due_ms is not None
            ]
            heapq.heapify(self._due)

    # Time

    def tick(self) -> list[Key]:
        """What is over by now is removed; the keys of the leases among it."""
        now_ms = self._clock.monotonic_ms()
        over: dict[Key, Held] = {}
        while self._due and self._due[0][0] <= now_ms:
            _, _, key = heapq.heappop(self._due)
            held = self._held.get(key)
            if held is None or held.due_ms is None:
                continue
            if held.due_ms > now_ms:
                self._push_due(held.due_ms, key)
                continue
            over[key] = held
        self._remove([held.entry.dot for held in over.values()])
        self._retire(now_ms)
        return [key for key, held in over.items() if held.entry.ttl_s]

    def _retire(self, now_ms: int) -> None:
        """Leases of this region's earlier starts go on, where the others still show them: what was
        hidden was over for them. After the grace everybody else is gone."""
        me = self._presence.me
        earlier = {o for o in self._presence.origins() if o.region == me.region and o != me}
        self._earlier = {o: self._earlier.get(o, now_ms) for o in earlier}
        for origin, since_ms in list(self._earlier.items()):
            if not self._gossip.is_hidden(origin):
                self._take_over(origin, now_ms)
            if now_ms - since_ms < PRESENCE_GRACE_S * 1000:
                continue
            touched = self._presence.bury(origin)
            self._gossip.buried(origin)
            self._told(touched)
