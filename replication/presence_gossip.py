"""What is told to which peer of who is present, and whose members are shown. A machine without I/O.

Rule of this file: changes are pushed when they happen and never kept for a peer that is away; what
was missed is found by comparing digests, and asked for. Frames of one link arrive in order, so a
peer that has taken a digest has everything that was pushed before it. Time is an argument, in
milliseconds of a monotonic clock.
"""

from collections import deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from perdure.replication.dots import Dot, Seen
from perdure.replication.limits import PRESENCE_HIDE_MS
from perdure.replication.presence import Delta, Presence, Summary, Touched
from perdure.replication.presence_view import Entry
from perdure.replication.records import Origin

# Changes that wait for a slow peer; beyond that it finds out by its digest.
PENDING_DOTS_MAX = 65_536
FRAME_DOTS_MAX = 4_096
FRAME_BYTES_TARGET = 262_144
ASK_EVERY_MS = 2_000
ASK_EVERY_MS_MAX = 30_000
# How often in a row a digest differs before something is asked for: where nobody's count is
# greater, it may be on its way; where the peer's is smaller, it is the peer that is to ask.
LOOKS_EQUAL = 2
LOOKS_BEHIND = 10
# When an origin was last heard is forgotten long after it has been hidden.
FORGET_MS = 600_000
_ENTRY_OVERHEAD_BYTES = 96
_NOTHING = Summary(0, 0, 0)


class Digest(NamedTuple):
    """What a region says of itself every second. ``heard``: the origins whose digests it had from
    themselves, and how many milliseconds ago."""

    me: Origin
    origins: dict[Origin, Summary]
    heard: dict[Origin, int]


class Ask(NamedTuple):
    """What a region has seen of the origins of which it wants to know more; and which are dead."""

    seen: dict[Origin, Seen]
    dead: tuple[Origin, ...]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to ask."""
        return not (self.seen or self.dead)


@dataclass
class Doubt:
    """A digest of an origin that differs: how often in a row, and when it may be asked for."""

    looks: int = 0
    again_ms: int = 0
    wait_ms: int = ASK_EVERY_MS


@dataclass
class Side:
    """What is known of one peer."""

    connected: bool = False
    # Dots that are to be told, in order; and answers that go first.
    pending: dict[Dot, None] = field(default_factory=dict)
    answers: deque[Delta] = field(default_factory=deque)
    answering: set[Origin] = field(default_factory=set)
    doubts: dict[Origin, Doubt] = field(default_factory=dict)
    # Its own origin, and those that it hears itself; None while it has not said.
    me: Origin | None = None
    hears: set[Origin] | None = None
    # Hidden origins that it says were alive then, of which it was asked what is true now.
    waking: dict[Origin, int] = field(default_factory=dict)


class PresenceGossip:
    """The gossip of presence of one region."""

    def __init__(self, presence: Presence, peers: Iterable[str]) -> None:
        self.presence = presence
        self.overflows = 0
        self._peers = {name: Side() for name in peers}
        # When each origin was last known to live; and when its own digest was last heard here.
        self._alive_ms: dict[Origin, int] = {}
        self._direct_ms: dict[Origin, int] = {}
        self._shown: set[Origin] = {presence.me}

    # Links

    def linked(self, name: str) -> None:
        """The link on which this region pushes is open; the digest says what is missing there."""
        side = self._peers[name]
        side.connected = True
        side.pending.clear()
        side.answers.clear()
        side.answering.clear()

    def lost(self, name: str) -> None:
        """It is closed."""
        if name in self._peers:
            self.linked(name)
            self._peers[name].connected = False

    def join(self, name: str) -> None:
        """Another region is a peer from now on."""
        self._peers.setdefault(name, Side())

    def part(self, name: str) -> None:
        """A region is a peer no more."""
        self._peers.pop(name, None)

    def accepted(self, name: str) -> None:
        """The link on which the peer pushes is open anew: what it did not answer is lost."""
        self._peers[name].doubts.clear()
        self._peers[name].waking.clear()

    # What is pushed

    def changed(self, dots: Iterable[Dot]) -> None:
        """Something happened here: every peer is to know."""
        told = list(dots)
        for side in self._peers.values():
            self._add(side, told)

    def _add(self, side: Side, dots: Iterable[Dot]) -> None:
        if not side.connected:
            return
        side.pending.update(dict.fromkeys(dots))
        if len(side.pending) > PENDING_DOTS_MAX:
            side.pending.clear()
            self.overflows += 1

    def buried(self, origin: Origin) -> None:
        """An origin was declared dead here."""
        for side in self._peers.values():
            if side.connected:
                side.answers.append(Delta(dead=(origin,)))

    def next(self, name: str) -> Delta | None:
        """What to send to a peer now; None when it has been told everything."""
        side = self._peers[name]
        if side.answers:
            delta = side.answers.popleft()
            side.answering.difference_update(known.origin for known in delta.known)
            return delta
        dots: list[Dot] = []
        size = 0
        for dot in self._in_order(side.pending):
            if len(dots) >= FRAME_DOTS_MAX or size >= FRAME_BYTES_TARGET:
                break
            dots.append(dot)
            size += sum(map(_size, self.presence.delta((dot,)).entries))
        for dot in dots:
            del side.pending[dot]
        # They may all be of origins that have died meanwhile.
        delta = self.presence.delta(dots)
        return None if delta.is_empty else delta

    def _in_order(self, dots: Collection[Dot]) -> Iterator[Dot]:
        """First who is here, then who is not: where a frame is full between an entry and the one
        in whose place it came, its member must not be seen to leave."""
        is_alive = self.presence.is_alive
        yield from (dot for dot in dots if is_alive(dot))
        yield from (dot for dot in dots if not is_alive(dot))

    def asked(self, name: str, ask: Ask) -> Touched:
        """A peer wants to know more: it is answered by what :meth:`next` gives. What it knows to be
        dead is dead here too."""
        side = self._peers[name]
        for origin, theirs in ask.seen.items():
            if origin in self.presence.dead:
                side.answers.append(Delta(dead=(origin,)))
            elif origin not in side.answering:
                side.answering.add(origin)
                for entries in _cut(self.presence.missing(origin, theirs)):
                    cloud = frozenset(entry.dot for entry in entries)
                    side.answers.append(Delta(entries, cloud))
                side.answers.append(Delta(known=(self.presence.known(origin),)))
        return self.presence.merge(Delta(dead=ask.dead))

    # What is heard

    def digest(self, now_ms: int) -> Digest:
        """What to say every second, after everything that waits was pushed."""
        presence = self.presence
        origins = {origin: presence.summary(origin) for origin in presence.origins()}
        ages = {origin: now_ms - heard for origin, heard in self._direct_ms.items()}
        heard = {origin: age for origin, age in ages.items() if age < PRESENCE_HIDE_MS}
        return Digest(presence.me, origins, heard)

    def heard(self, name: str, digest: Digest, now_ms: int) -> Ask:
        """A peer's digest: what to ask it for."""
        side = self._peers[name]
        self._direct_ms[digest.me] = now_ms
        ages = {**digest.heard, digest.me: 0}
        side.me, side.hears = digest.me, set(ages)
        side.waking = {o: at_ms for o, at_ms in side.waking.items() if o in ages}
        for origin, age in ages.items():
            self._speaks(side, digest, origin, now_ms - age)
        presence = self.presence
        dead = [origin for origin in digest.origins if origin in presence.dead]
        wanted = [
            origin
            for origin, theirs in digest.origins.items()
            if origin not in presence.dead and self._wants(side, origin, theirs, now_ms)
        ]
        side.doubts = {o: d for o, d in side.doubts.items() if o in digest.origins}
        return Ask({origin: presence.seen(origin) for origin in wanted}, tuple(dead))

    def _speaks(self, side: Side, digest: Digest, origin: Origin, at_ms: int) -> None:
        """An origin is alive. If it was hidden, what is known of it may be long over: it is shown
        once it is known what the others know."""
        theirs = digest.origins.get(origin, _NOTHING)
        if not self.is_hidden(origin) or theirs == self.presence.summary(origin):
            side.waking.pop(origin, None)
            self._lives(origin, at_ms)
        else:
            side.waking[origin] = at_ms

    def _wants(self, side: Side, origin: Origin, theirs: Summary, now_ms: int) -> bool:
        mine = self.presence.summary(origin)
        if mine == theirs:
            side.doubts.pop(origin, None)
            return False
        doubt = side.doubts.setdefault(origin, Doubt())
        doubt.looks += 1
        if theirs[:2] > mine[:2] or origin in side.waking:
            looks = 1
        else:
            looks = LOOKS_EQUAL if theirs[:2] == mine[:2] else LOOKS_BEHIND
        if doubt.looks < looks or now_ms < doubt.again_ms:
            return False
        doubt.again_ms = now_ms + doubt.wait_ms
        doubt.wait_ms = min(2 * doubt.wait_ms, ASK_EVERY_MS_MAX)
        return True

    def received(self, name: str, delta: Delta) -> Touched:
        """Take in what a peer has told, and carry it to those who cannot have heard it."""
        told = {entry.dot for entry in delta.entries}
        news = [dot for dot in delta.cloud if self._is_news(dot, told)]
        dead = [origin for origin in delta.dead if origin not in self.presence.dead]
        touched = self.presence.merge(delta)
        over = {dot for dot in news if not self.presence.is_alive(dot)}
        teller = self._peers[name].me
        for other, side in self._peers.items():
            if other != name and side.hears is not None:
                hears = side.hears
                # Who ends an entry need not be who brought it: a leave is carried out anywhere.
                lacks = over if teller not in hears else ()
                self._add(side, (d for d in news if d.origin not in hears or d in lacks))
        for origin in dead:
            self.buried(origin)
        waking = self._peers[name].waking
        for known in delta.known:
            if known.origin in waking:
                # The answer says what is true, and not that anybody has heard it since.
                self._lives(known.origin, waking.pop(known.origin))
        return touched

    def _is_news(self, dot: Dot, told: set[Dot]) -> bool:
        if dot not in self.presence:
            return True
        return self.presence.is_alive(dot) and dot not in told

    # Who is shown

    def _lives(self, origin: Origin, at_ms: int) -> None:
        self._alive_ms[origin] = max(at_ms, self._alive_ms.get(origin, at_ms))

    def is_hidden(self, origin: Origin) -> bool:
        """Whether the origin's members are not shown, as :meth:`look` found it last."""
        return origin != self.presence.me and origin not in self._shown

    def look(self, now_ms: int) -> set[str]:
        """Whose digests have come, and whose not for too long? The sessions in which somebody is
        shown now who was not, or the other way round."""
        shown = {o for o, at_ms in self._alive_ms.items() if now_ms - at_ms < PRESENCE_HIDE_MS}
        changed, self._shown = shown ^ self._shown, shown
        for held in (self._alive_ms, self._direct_ms):
            for origin in [o for o, at_ms in held.items() if now_ms - at_ms > FORGET_MS]:
                del held[origin]
        found: set[str] = set()
        return found.union(*map(self.presence.sessions_of, changed))


def _size(entry: Entry) -> int:
    data = len(entry.data) if entry.data is not None else 0
    return _ENTRY_OVERHEAD_BYTES + sum(map(len, entry.key)) + 3 * data


def _cut(entries: list[Entry]) -> Iterable[tuple[Entry, ...]]:
    start = size = 0
    for at, entry in enumerate(entries):
        if size >= FRAME_BYTES_TARGET:
            yield tuple(entries[start:at])
            start, size = at, 0
        size += _size(entry)
    if start < len(entries):
        yield tuple(entries[start:])
