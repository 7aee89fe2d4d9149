"""Deliberate bugs of presence: the simulator must catch every one."""

from typing import Any
from unittest import mock

from perdure.regions import attendance, node
from perdure.replication.dots import ranges_of
from perdure.replication.presence import Known, Presence
from perdure.replication.presence_gossip import Ask, PresenceGossip
from perdure.replication.records import Origin

from tests.simulation.mutation import registry

MUTANTS, mutant = registry()

_look = PresenceGossip.look
_next = PresenceGossip.next


@mutant(PresenceGossip, "look")
def down_members_are_removed(self: Any, now_ms: int) -> Any:
    """A region that is silent loses its members for good, everywhere, and not for who looks."""
    before = set(self._shown)
    touched = _look(self, now_ms)
    for origin in before - self._shown - {self.presence.me}:
        dots = [entry.dot for entry in self.presence.entries_by(origin)]
        self.presence.remove(dots)
        self.changed(dots)
    return touched


class _Reused(node.PresenceDesk):
    def __init__(self, me: Any, *args: Any) -> None:
        super().__init__(Origin(me.region, 1), *args)


# Dots of an earlier start are given again.
MUTANTS["presence_incarnation_reused"] = lambda: mock.patch.object(node, "PresenceDesk", _Reused)


@mutant(PresenceGossip, "next")
def vectors_in_deltas(self: Any, name: str) -> Any:
    """A delta says of its origins all that the sender has seen, and not only of its entries."""
    delta = _next(self, name)
    if delta is None or not delta.entries:
        return delta
    told: dict[Origin, list[int]] = {}
    for entry in delta.entries:
        told.setdefault(entry.dot.origin, []).append(entry.dot.n)
    known = [
        Known(origin, self.presence.seen(origin).n, (), tuple(ranges_of(numbers)))
        for origin, numbers in told.items()
    ]
    return delta._replace(known=(*delta.known, *known))


@mutant(PresenceGossip, "heard")
def nothing_is_asked(self: Any, name: str, digest: Any, now_ms: int) -> Any:
    """What was missed while a link was broken stays missed."""
    _heard(self, name, digest, now_ms)
    return Ask({}, ())


_heard = PresenceGossip.heard


@mutant(attendance.Attendance, "depart")
def no_grace(self: Any, key: Any) -> None:
    """Whoever drops is away at once."""
    held = self._held.get(key)
    if held is not None:
        self._remove([held.entry.dot])


_hold = attendance.Attendance.hold


@mutant(attendance.Attendance, "hold")
def renewals_are_forgotten(self: Any, key: Any, data: Any, ttl_s: int) -> None:
    """A lease is over when it would have been without its renewals."""
    if key not in self._held:
        _hold(self, key, data, ttl_s)


@mutant(attendance.Attendance, "_retire")
def earlier_starts_stay(self: Any, now_ms: int) -> None:
    """Who was here through an earlier start of a region is here for ever."""


_merge_known = Presence._merge_known


@mutant(Presence, "_merge_known")
def removals_are_not_asked_for(self: Any, known: Any) -> Any:
    """What was removed while a link was broken stays."""
    alive = ranges_of(self._alive.get(known.origin, ()))
    more = [n for first, last in known.alive for n in range(first, last + 1)]
    merged = {n for first, last in alive for n in range(first, last + 1)}.union(more)
    return _merge_known(self, known._replace(alive=tuple(ranges_of(merged))))
