"""Presence: the laws of the set, and what a region may rely on."""

from collections.abc import Callable
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from perdure.replication.dots import Dot, Seen, ranges_of
from perdure.replication.presence import Delta, Presence, everything
from perdure.replication.presence_view import Key
from perdure.replication.records import Origin

REGIONS = ("ap", "eu", "us")
SESSIONS = ("s1", "s2")
MEMBERS = ("ana", "ben")


def origin(region: str, start: int = 1) -> Origin:
    return Origin(region, start)


def state(presence: Presence) -> Any:
    """All that is known, in a form that can be compared."""
    origins = presence.origins()
    entries = frozenset(entry for o in origins for entry in presence.entries_by(o))
    seen = {o: (presence.seen(o).n, frozenset(presence.seen(o).beyond)) for o in origins}
    return entries, seen, frozenset(presence.dead)


def shown(presence: Presence) -> dict[str, list[Any]]:
    return {s: list(presence.values(s, lambda _: False)) for s in SESSIONS}


def fresh(of: Presence, me: Origin) -> Presence:
    """A copy of all that is known."""
    copy = Presence(me)
    copy.merge(everything(of))
    return copy


class Cluster:
    """Regions that add, remove, hear of each other, and start anew, as a script of numbers says."""

    def __init__(self) -> None:
        self.at = {region: Presence(origin(region)) for region in REGIONS}
        self.deltas: list[Delta] = []
        self.stamp = 0
        self.starts = 1

    def run(self, script: list[int]) -> "Cluster":
        for number in script:
            what, rest = number % 8, number // 8
            region = REGIONS[rest % 3]
            if what < 3:
                self.add(region, rest // 3)
            elif what == 3:
                self.leave(region, rest // 3)
            elif what < 6 and self.deltas:
                self.at[region].merge(self.deltas[rest // 3 % len(self.deltas)])
            elif what == 6:
                self.at[region].merge(everything(self.at[REGIONS[rest // 3 % 3]]))
            elif rest % 4 == 0:
                self.restart(region, keeps=rest // 3 % 2 == 0)
            elif rest % 4 == 1:
                self.bury(region)
        return self

    def key(self, number: int) -> Key:
        names = SESSIONS[number % 2], MEMBERS[number // 2 % 2]
        return Key(*names, ("", "c1", "c2")[number // 4 % 3])

    def add(self, region: str, number: int) -> Dot:
        self.stamp += 1
        here = self.at[region]
        data = None if number % 5 == 0 else f'"{self.stamp}"'
        entry, dots = here.add(self.key(number), data, self.stamp, self.stamp, 0)
        self.deltas.append(here.delta(dots))
        return entry.dot

    def leave(self, region: str, number: int) -> None:
        here, key = self.at[region], self.key(number)
        dots = [entry.dot for entry in here.entries_in(key.session, key.member)]
        here.remove(dots)
        self.deltas.append(here.delta(dots))

    def restart(self, region: str, *, keeps: bool) -> None:
        """With its memory, as one that had stored it; or without."""
        self.starts += 1
        me = origin(region, self.starts)
        before = self.at[region]
        self.at[region] = fresh(before, me) if keeps else Presence(me)

    def bury(self, region: str) -> None:
        here = self.at[region]
        for old in here.origins():
            if old.region == region and old != here.me:
                here.bury(old)
                self.deltas.append(Delta(dead=(old,)))

    def merged(self) -> Presence:
        whole = Presence(origin("all"))
        for here in self.at.values():
            whole.merge(everything(here))
        for delta in self.deltas:
            whole.merge(delta)
        return whole


SCRIPTS = st.lists(st.integers(0, 8 * 3 * 60 - 1), max_size=40)


@given(SCRIPTS)
def test_merging_is_idempotent(script: list[int]) -> None:
    """Merging is idempotent."""
    for here in Cluster().run(script).at.values():
        before = state(here)
        assert here.merge(everything(here)) == {}
        assert state(here) == before
        assert state(fresh(here, here.me)) == before


@given(SCRIPTS)
def test_merging_is_commutative_and_associative(script: list[int]) -> None:
    """Merging is commutative and associative."""
    a, b, c = Cluster().run(script).at.values()
    one, other, third = (fresh(x, origin("x")) for x in (a, b, a))
    one.merge(everything(b))
    other.merge(everything(a))
    assert state(one) == state(other)
    one.merge(everything(c))
    rest = fresh(b, origin("x"))
    rest.merge(everything(c))
    third.merge(everything(rest))
    assert state(one) == state(third)


@given(SCRIPTS, st.randoms(use_true_random=False))
def test_deltas_say_the_same_as_the_whole_state(script: list[int], random: Random) -> None:
    """Deltas say the same as the whole state."""
    cluster = Cluster().run(script)
    told = [*cluster.deltas, *random.choices(cluster.deltas or [Delta()], k=5)]
    random.shuffle(told)
    by_deltas = Presence(origin("x"))
    for delta in told:
        by_deltas.merge(delta)
    assert state(by_deltas) == state(cluster.merged())
    # No dot was lost, so nothing is left beyond what is contiguous.
    assert all(not by_deltas.seen(o).beyond for o in by_deltas.origins())


@given(SCRIPTS)
def test_what_was_removed_never_comes_back(script: list[int]) -> None:
    """What was removed never comes back."""
    cluster = Cluster().run(script)
    whole = cluster.merged()
    before = state(whole)
    for delta in cluster.deltas:
        assert whole.merge(delta) == {}
    assert state(whole) == before


@given(SCRIPTS, st.integers(0, 11), st.sampled_from(REGIONS), st.sampled_from(REGIONS))
def test_an_arrival_wins_over_a_leave_that_did_not_know_it(
    script: list[int], number: int, here: str, there: str
) -> None:
    """An arrival wins over a leave that did not know it."""
    cluster = Cluster().run(script)
    dot = cluster.add(here, number)
    if here != there:
        cluster.leave(there, number)
    assert cluster.merged().is_alive(dot)


@given(SCRIPTS)
def test_a_region_without_memory_is_forgotten_for_good(script: list[int]) -> None:
    """It declares its earlier origins dead, and nothing that is still on its way brings them."""
    cluster = Cluster().run(script)
    cluster.restart("eu", keeps=False)
    here = cluster.at["eu"]
    here.merge(everything(cluster.merged()))
    for old in [o for o in here.origins() if o.region == "eu" and o != here.me]:
        here.bury(old)
    entry, dots = here.add(cluster.key(0), None, 10**6, 10**6, 0)
    whole = cluster.merged()
    for delta in (*cluster.deltas, here.delta(dots)):
        whole.merge(delta)
    alive = [e for o in whole.origins() if o.region == "eu" for e in whole.entries_by(o)]
    assert alive == [entry]


@given(SCRIPTS, SCRIPTS)
def test_what_is_missing_and_what_is_known_bring_another_to_the_same(
    script: list[int], more: list[int]
) -> None:
    """What is missing and what is known bring another to the same."""
    cluster = Cluster().run(script)
    here, other = cluster.at["eu"], fresh(cluster.at["us"], origin("x"))
    cluster.run(more)
    union = fresh(other, origin("x"))
    union.merge(everything(here))
    for o in here.origins():
        entries = here.missing(o, other.seen(o))
        for entry in entries:
            other.merge(Delta((entry,), frozenset({entry.dot})))
        other.merge(Delta(known=(here.known(o),)))
    other.merge(Delta(dead=tuple(here.dead)))
    assert state(other) == state(union)


def test_what_is_known_elsewhere_and_not_here_stays_unknown() -> None:
    """An answer whose entries were lost on the way must not make their dots known."""
    eu, us = Presence(origin("eu")), Presence(origin("us"))
    eu.add(Key("s1", "ana", ""), None, 1, 1, 0)
    us.merge(Delta(known=(eu.known(eu.me),)))
    us.merge(everything(eu))
    assert [value["member"] for value in us.values("s1", lambda _: False)] == ["ana"]


def test_a_renewal_elsewhere_takes_the_place_of_the_earlier_entry() -> None:
    """A renewal elsewhere takes the place of the earlier entry."""
    eu, us = Presence(origin("eu")), Presence(origin("us"))
    key = Key("s1", "ana", "")
    eu.add(key, '"old"', 1, 1, 60)
    us.merge(everything(eu))
    us.add(key, '"new"', 2, 1, 60)
    eu.merge(everything(us))
    assert [e.data for e in eu.entries_of(key)] == ['"new"']


def test_a_member_is_shown_once_with_its_newest_data() -> None:
    """A member is shown once with its newest data."""
    eu = Presence(origin("eu"))
    us = Presence(origin("us"))
    eu.add(Key("s1", "ana", "c1"), '{"at":"eu"}', 5 << 16, 5 << 16, 0)
    us.add(Key("s1", "ana", "c2"), None, 7 << 16, 5 << 16, 0)
    eu.merge(everything(us))
    (value,) = eu.values("s1", lambda _: False)
    assert value == {
        "member": "ana",
        "data": {"at": "eu"},
        "region": "us",
        "connections": 2,
        "since": "1970-01-01T00:00:00.005Z",
    }
    hidden: Callable[[Origin], bool] = lambda o: o.region == "eu"  # noqa: E731
    (value,) = eu.values("s1", hidden)
    assert (value["data"], value["connections"]) == (None, 1)
    assert list(eu.values("s1", lambda _: True)) == []


@given(st.lists(st.integers(1, 30)), st.lists(st.tuples(st.integers(1, 30), st.integers(0, 9))))
def test_seen_is_a_set_of_numbers(numbers: list[int], ranges: list[tuple[int, int]]) -> None:
    """Seen is a set of numbers."""
    seen, model = Seen(), set[int]()
    for number in numbers:
        seen.add(number)
        model.add(number)
    for first, length in ranges:
        seen.add_range(first, first + length)
        model.update(range(first, first + length + 1))
    assert {n for n in range(1, 60) if n in seen} == model
    assert all(n > seen.n + 1 for n in seen.beyond)
    assert seen == Seen(seen.n, seen.ranges())
    assert ranges_of(model) == [
        (first, last)
        for first in sorted(model)
        if first - 1 not in model
        for last in model
        if last >= first and last + 1 not in model and set(range(first, last + 1)) <= model
    ]
