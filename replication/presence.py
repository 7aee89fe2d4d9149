"""Who is present: an OR-set without tombstones (``docs/PROTOCOL.md`` B.4).

Bieniusa et al., "An optimized conflict-free replicated set" (2012): an entry is born at a dot, and
what has been seen of each origin takes the place of tombstones. A dot that is known and not alive
was removed.

Rule of this file: the state is (entries, what is seen, dead origins), and every merge is a join of
it. No time, and nobody is ever removed here because a region is silent: that is a filter for those
who read (``hidden``).
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from perdure.replication.dots import DOT_MAX, Dot, Range, Seen, mixed, numbers_in, ranges_of
from perdure.replication.limits import DEAD_ORIGINS_MAX
from perdure.replication.presence_view import Entry, Key, member_value
from perdure.replication.records import Origin


class Known(NamedTuple):
    """Everything that somebody knows of one origin, and what of it is alive there."""

    origin: Origin
    n: int
    beyond: tuple[Range, ...]
    alive: tuple[Range, ...]


class Delta(NamedTuple):
    """What is told of some entries. ``cloud``: the dots that are known; those of them without an
    entry here were removed. ``known`` and ``dead`` as in :class:`Presence`."""

    entries: tuple[Entry, ...] = ()
    cloud: frozenset[Dot] = frozenset()
    known: tuple[Known, ...] = ()
    dead: tuple[Origin, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether it says nothing."""
        return not (self.cloud or self.known or self.dead)


class Summary(NamedTuple):
    """What is known of one origin, in short: equal summaries, equal knowledge."""

    n: int
    beyond: int
    alive_sum: int


# The members that a change has touched, by session.
Touched = dict[str, set[str]]


class Presence:
    """All members of all sessions, as one region knows them."""

    def __init__(self, me: Origin) -> None:
        self.me = me
        # Of which nothing is alive any more, for ever; the newest of them.
        self.dead: dict[Origin, None] = {}
        self._alive: dict[Origin, dict[int, Entry]] = {}
        self._seen: dict[Origin, Seen] = {}
        self._sums: dict[Origin, int] = {}
        self._members: dict[str, dict[str, dict[Dot, Entry]]] = {}

    # What this region does

    def add(
        self, key: Key, data: str | None, stamp: int, since: int, ttl_s: int
    ) -> tuple[Entry, list[Dot]]:
        """An entry, born now, in the place of those of its key that are known here; and the dots
        that are to be told, in this order."""
        assert self.me not in self.dead, "a dead origin brings nobody"
        entry = Entry(Dot(self.me, self.last + 1), key, data, stamp, since, ttl_s)
        earlier = [found.dot for found in self.entries_of(key)]
        # First the new: between the two nobody has left.
        self._put(entry)
        self._see(entry.dot)
        self.remove(earlier)
        return entry, [entry.dot, *earlier]

    @property
    def last(self) -> int:
        """The greatest number that this origin has given."""
        return self._seen[self.me].n if self.me in self._seen else 0

    def remove(self, dots: Iterable[Dot]) -> Touched:
        """These entries, which are known, are over."""
        touched: Touched = {}
        for dot in dots:
            entry = self._alive.get(dot.origin, {}).get(dot.n)
            if entry is not None:
                self._drop(entry)
                touched.setdefault(entry.key.session, set()).add(entry.key.member)
        return touched

    def bury(self, origin: Origin) -> Touched:
        """Nothing of this origin is alive any more, for ever."""
        touched: Touched = {}
        for entry in list(self._alive.get(origin, {}).values()):
            self._drop(entry)
            touched.setdefault(entry.key.session, set()).add(entry.key.member)
        for held in (self._alive, self._seen, self._sums):
            held.pop(origin, None)
        self.dead.setdefault(origin)
        while len(self.dead) > DEAD_ORIGINS_MAX:
            del self.dead[next(iter(self.dead))]
        return touched

    def begin_anew(self, me: Origin) -> None:
        """From now on this region's entries are born at another origin."""
        self.me = me

    # What is told, and what is merged

    def delta(self, dots: Iterable[Dot]) -> Delta:
        """What is known of these dots, as it is now."""
        cloud = frozenset(dot for dot in dots if dot.origin not in self.dead)
        found = (self._alive.get(dot.origin, {}).get(dot.n) for dot in sorted(cloud))
        return Delta(tuple(entry for entry in found if entry is not None), cloud)

    def known(self, origin: Origin) -> Known:
        """Everything that is known of an origin."""
        seen = self.seen(origin)
        alive = ranges_of(self._alive.get(origin, ()))
        return Known(origin, seen.n, tuple(seen.ranges()), tuple(alive))

    def missing(self, origin: Origin, theirs: Seen) -> list[Entry]:
        """The entries of an origin that are not known to somebody who has seen so much of it."""
        alive = self._alive.get(origin, {})
        return [alive[n] for n in sorted(alive) if n not in theirs]

    def merge(self, delta: Delta) -> Touched:
        """Take in what another region knows; the members of whom anything may have changed."""
        touched: Touched = {}
        for origin in delta.dead:
            if origin not in self.dead:
                _add_all(touched, self.bury(origin))
        for entry in delta.entries:
            dot = entry.dot
            if dot.origin not in self.dead and dot not in self:
                self._put(entry)
                self._see(dot)
                touched.setdefault(entry.key.session, set()).add(entry.key.member)
        told = {entry.dot for entry in delta.entries}
        for dot in delta.cloud - told:
            if dot.origin not in self.dead:
                _add_all(touched, self.remove((dot,)))
                self._see(dot)
        for known in delta.known:
            if known.origin not in self.dead:
                _add_all(touched, self._merge_known(known))
        return touched

    def _merge_known(self, known: Known) -> Touched:
        theirs = Seen(known.n, known.beyond)
        alive = set(numbers_in(known.alive))
        mine = self._alive.get(known.origin, {})
        over = [n for n in mine if n in theirs and n not in alive]
        touched = self.remove(Dot(known.origin, n) for n in over)
        seen = self._seen.setdefault(known.origin, Seen())
        # What is alive there and was never seen here must stay unknown, else it never comes.
        least = min((n for n in alive if n not in seen), default=DOT_MAX)
        seen.add_range(1, min(known.n, least - 1))
        for first, last in known.beyond:
            if first < least:
                seen.add_range(first, min(last, least - 1))
        return touched

    # What is here

    def __contains__(self, dot: Dot) -> bool:
        """Whether the dot was ever seen, alive or not."""
        seen = self._seen.get(dot.origin)
        return seen is not None and dot.n in seen

    def seen(self, origin: Origin) -> Seen:
        """What has been seen of an origin."""
        return self._seen.get(origin) or Seen()

    def is_alive(self, dot: Dot) -> bool:
        """Whether there is an entry of this dot."""
        return dot.n in self._alive.get(dot.origin, ())

    def origins(self) -> list[Origin]:
        """The origins of which anything is known, but for the dead."""
        return list(self._seen)

    def summary(self, origin: Origin) -> Summary:
        """What is known of an origin, in short."""
        seen = self.seen(origin)
        return Summary(seen.n, len(seen.beyond), self._sums.get(origin, 0))

    def entries_by(self, origin: Origin) -> list[Entry]:
        """The entries of an origin, in the order of their birth."""
        alive = self._alive.get(origin, {})
        return [alive[n] for n in sorted(alive)]

    def entries_of(self, key: Key) -> list[Entry]:
        """The entries of a key: more than one where it was added in separated regions."""
        return [e for e in self.entries_in(key.session, key.member) if e.key == key]

    def entries_in(self, session: str, member: str) -> list[Entry]:
        """The entries of a member."""
        return list(self._members.get(session, {}).get(member, {}).values())

    def members_in(self, session: str) -> list[str]:
        """The members of a session, shown or not, by name."""
        return sorted(self._members.get(session, ()))

    def count_in(self, session: str) -> int:
        """How many members a session has, shown or not."""
        return len(self._members.get(session, ()))

    def sessions_of(self, origin: Origin) -> set[str]:
        """The sessions in which an origin has entries."""
        return {entry.key.session for entry in self._alive.get(origin, {}).values()}

    def __len__(self) -> int:
        return sum(map(len, self._alive.values()))

    def value(
        self, session: str, member: str, is_hidden: Callable[[Origin], bool]
    ) -> dict[str, Any] | None:
        """The member as PROTOCOL A.3 shows it; None when it is not here."""
        entries = self._members.get(session, {}).get(member, {}).values()
        return member_value(member, [e for e in entries if not is_hidden(e.dot.origin)])

    def values(self, session: str, is_hidden: Callable[[Origin], bool]) -> Iterator[dict[str, Any]]:
        """Everybody who is shown in a session, by name."""
        for member in self.members_in(session):
            value = self.value(session, member, is_hidden)
            if value is not None:
                yield value

    # The indexes

    def _put(self, entry: Entry) -> None:
        dot, key = entry.dot, entry.key
        self._alive.setdefault(dot.origin, {})[dot.n] = entry
        self._sums[dot.origin] = self._sums.get(dot.origin, 0) ^ mixed(dot.n)
        self._members.setdefault(key.session, {}).setdefault(key.member, {})[dot] = entry

    def _drop(self, entry: Entry) -> None:
        dot, key = entry.dot, entry.key
        del self._alive[dot.origin][dot.n]
        self._sums[dot.origin] ^= mixed(dot.n)
        members = self._members[key.session]
        del members[key.member][dot]
        if not members[key.member]:
            del members[key.member]
            if not members:
                del self._members[key.session]

    def _see(self, dot: Dot) -> None:
        self._seen.setdefault(dot.origin, Seen()).add(dot.n)


def _add_all(touched: Touched, more: Touched) -> None:
    for session, members in more.items():
        touched.setdefault(session, set()).update(members)


def everything(presence: Presence) -> Delta:
    """The whole state, as a delta."""
    origins = presence.origins()
    entries = tuple(entry for origin in origins for entry in presence.entries_by(origin))
    cloud = frozenset(entry.dot for entry in entries)
    return Delta(entries, cloud, tuple(map(presence.known, origins)), tuple(presence.dead))
