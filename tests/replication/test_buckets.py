"""Token buckets: what they let in, and that a table that is full forgets no debt."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from perdure.replication.buckets import Buckets, Rate

S = (("session", "s"),)
BOTH = (("session", "s"), ("tenant", "t"))


def taken(buckets: Buckets, now_ms: float, draws=S, cost: float = 1) -> bool:
    found = buckets.take(now_ms, draws, cost)
    assert found is not None
    return not found.wait_s


def test_a_burst_and_then_the_rate():
    """A full bucket gives its burst at once; after that, so many a second and no more."""
    buckets = Buckets({"session": Rate(10, 5)})
    assert [taken(buckets, 0) for _ in range(6)] == [True] * 5 + [False]
    assert not taken(buckets, 99)
    assert taken(buckets, 100)
    assert not taken(buckets, 100)
    assert sum(taken(buckets, ms) for ms in range(101, 10_101)) == 100


def test_the_wait_that_is_told_is_the_wait_that_helps():
    """Before its end nothing is given, at its end it is; and its bucket is named."""
    buckets = Buckets({"session": Rate(4, 2), "tenant": Rate(1, 2)})
    assert all(taken(buckets, 0, BOTH) for _ in range(2))
    found = buckets.take(0, BOTH)
    assert found is not None and (found.kind, found.wait_s) == ("tenant", 1.0)
    assert not taken(buckets, 999, BOTH)
    assert taken(buckets, 1_000, BOTH)


def test_all_or_none():
    """What one bucket refuses is taken from none of the others."""
    buckets = Buckets({"session": Rate(1, 10), "tenant": Rate(1, 1)})
    assert taken(buckets, 0, BOTH)
    assert not any(taken(buckets, 0, BOTH) for _ in range(100))
    found = buckets.take(0, S, 0)
    assert found is not None and found.left == 9


def test_the_tightest_bucket_is_told():
    """Of several, the one that has the least left for its size."""
    buckets = Buckets({"session": Rate(1, 100), "tenant": Rate(1, 10)})
    found = buckets.take(0, BOTH, 3)
    assert found is not None and (found.kind, round(found.left, 6)) == ("tenant", 7)


def test_more_than_a_bucket_holds_needs_a_full_one():
    """It is let in when nothing is owed, and the rest is owed then."""
    buckets = Buckets({"session": Rate(10, 5)})
    assert taken(buckets, 0, cost=20)
    assert not taken(buckets, 1_500)
    assert taken(buckets, 1_600)
    assert not taken(buckets, 1_600, cost=20)


def test_a_kind_without_a_rate_has_no_limit():
    """And where no kind has one, there is nothing to tell."""
    buckets = Buckets({"tenant": Rate(1, 1)})
    assert all(buckets.take(0, S) is None for _ in range(1_000))
    assert len(buckets) == 0


def test_who_waits_for_what_it_owes_keeps_to_the_rate():
    """Many that share a bucket, each taking first and waiting then: together they get the rate, and
    each of them its turn."""
    buckets = Buckets({"session": Rate(100, 10)})
    due = [0.0] * 8
    given_to = [0] * 8
    while (now := min(due)) < 60_000:
        who = due.index(now)
        given_to[who] += 1
        due[who] = now + max(1.0, buckets.owe(now, S, 1) * 1000)
    assert abs(sum(given_to) - 6_000) < 30
    assert max(given_to) - min(given_to) <= 20


def test_a_full_bucket_leaves_no_trace():
    """Names that come once leave when their buckets are full again: the table holds those that owe
    something, and about as many."""
    buckets = Buckets({"session": Rate(10, 10)}, names_max=1_000_000)
    for n in range(50_000):
        taken(buckets, n, (("session", f"s{n}"),))
    assert len(buckets) <= 400


def test_many_names_make_nobody_lose_a_debt():
    """However many names come while a table is full, who owed something still owes it."""
    buckets = Buckets({"session": Rate(1, 3)}, names_max=100)
    debtors = [(("session", f"debtor{n}"),) for n in range(50)]
    for draws in debtors:
        assert all(taken(buckets, 0, draws) for _ in range(3))
    for n in range(100_000):
        buckets.take(n / 1_000, (("session", f"attacker{n}"),))
    assert len(buckets) == 100
    assert not any(taken(buckets, 100, draws) for draws in debtors)


def test_a_name_without_room_shares_and_still_is_limited():
    """It gets no more than a bucket holds, and has one of its own when there is room again."""
    buckets = Buckets({"session": Rate(1, 3)}, names_max=10)
    for n in range(10):
        taken(buckets, 0, (("session", f"old{n}"),), 3)
    late = (("session", "late"),)
    assert [taken(buckets, 0, late) for _ in range(5)] == [True] * 3 + [False] * 2
    assert not taken(buckets, 900, late)
    assert taken(buckets, 3_000, late)
    assert taken(buckets, 3_000, late)


@given(
    st.integers(0, 10_000),
    st.floats(0.5, 1_000),
    st.integers(1, 100),
    st.integers(1, 5),
)
def test_never_more_than_burst_and_rate(seed: int, per_s: float, burst: int, names_max: int):
    """Over any stretch of time, whatever is asked for and in whatever costs, a name gets at most
    the burst and what the rate adds; also while others fill the table."""
    chance = random.Random(seed)
    buckets = Buckets({"session": Rate(per_s, burst)}, names_max=names_max)
    now, got = 0.0, 0.0
    for _ in range(300):
        now += chance.choice((0, 1, 17, 250))
        cost = chance.randint(1, burst)
        got += cost * taken(buckets, now, S, cost)
        taken(buckets, now, (("session", f"other{chance.randint(0, 9)}"),))
        assert got <= burst + now / 1000 * per_s + 1e-3


@pytest.mark.parametrize("rate", [Rate(0, 1), Rate(-1, 5), Rate(1, 0)])
def test_a_rate_that_lets_nothing_in_is_refused(rate: Rate):
    """It would be a region that serves nobody."""
    with pytest.raises(ValueError, match="bucket"):
        Buckets({"session": rate})
