"""A lane is a pure function of the set of its pieces; and it admits what the protocol says."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from perdure.replication.errors import Refusal
from perdure.replication.items import End, Entry
from perdure.replication.lane import Lane, Place

from tests.replication.strategies import ORIGIN, entries, lane_key, piece

KEY = lane_key()


def new_lane() -> Lane:
    return Lane("s", "m", KEY)


@st.composite
def cut(draw: st.DrawFn, whole: list[Entry]) -> list[tuple[int, int]]:
    """Overlapping, repeated, reordered pieces that cover everything."""
    size = len(whole)
    edges = sorted({0, size, *draw(st.lists(st.integers(0, size), max_size=4))})
    spans = list(pairwise(edges))
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, size))
        spans.append((start, draw(st.integers(start, size))))
    return draw(st.permutations([span for span in spans if span[0] < span[1]]))


@pytest.mark.failure("N7")
@given(st.data(), st.lists(entries, min_size=1, max_size=12), st.booleans())
def test_order_duplication_and_cut_do_not_matter(
    data: st.DataObject, whole: list[Entry], ends: bool
) -> None:
    """However the pieces come, the lane holds the entries, byte for byte, and nothing waits."""
    if ends:
        whole = [*whole, End("complete")]
    lane = new_lane()
    for start, stop in data.draw(cut(whole)):
        lane.merge(piece(KEY, whole, start, stop))
    assert lane.entries == whole
    assert lane.parked == 0
    assert not lane.forked
    assert lane.count == len(whole) - ends


@pytest.mark.failure("C8")
@given(
    st.data(),
    st.lists(entries, max_size=4),
    st.lists(st.lists(entries, min_size=1, max_size=4), min_size=2, max_size=4),
)
def test_forks_settle_the_same_in_any_order(
    data: st.DataObject, stem: list[Entry], branches: list[list[Entry]]
) -> None:
    """Several contents of one lane: every order of arrival gives one whole branch of one hand."""
    pieces = []
    for branch in branches:
        whole = stem + branch
        pieces += [piece(KEY, whole, a, b) for a, b in data.draw(cut(whole))]
    lanes = []
    for _ in range(3):
        lane = new_lane()
        for one in data.draw(st.permutations(pieces)):
            lane.merge(one)
        lanes.append(lane)
    assert lanes[0].entries == lanes[1].entries == lanes[2].entries
    written = [stem + branch for branch in branches]
    assert any(lanes[0].entries == whole[: len(lanes[0].entries)] for whole in written)
    assert lanes[0].entries in written
    differing = {tuple(map(repr, whole)) for whole in written}
    prefix_free = any(
        a[: len(b)] != b and b[: len(a)] != a for a in differing for b in differing if a != b
    )
    assert lanes[0].forked == prefix_free


@pytest.mark.failure("X7")
@given(st.lists(entries, max_size=6), st.lists(entries, min_size=1, max_size=6), st.data())
def test_a_retry_changes_nothing(
    held: list[Entry], fresh: list[Entry], data: st.DataObject
) -> None:
    """Any stretch of what is held, and what follows: the first is a duplicate, the rest new."""
    lane = new_lane()
    if held:
        lane.merge(piece(KEY, held, 0, len(held)))
    seq = data.draw(st.integers(0, len(held)))
    admitted = lane.admit(seq, tuple(held[seq:] + fresh))
    assert admitted.seq == len(held)
    assert admitted.fresh == tuple(fresh)
    assert admitted.duplicates == len(held) - seq


def refusal(lane: Lane, seq: int, *fresh: Entry, pending: tuple[Entry, ...] = ()) -> Refusal:
    with pytest.raises(Refusal) as caught:
        lane.admit(seq, fresh, pending)
    return caught.value


def test_refusals_of_a_lane() -> None:
    """Gap, conflict, ended: with what is held and with what the same batch has admitted."""
    lane = new_lane()
    lane.merge(piece(KEY, ["a", "b"], 0, 2))
    gap = refusal(lane, 4, "x")
    assert (gap.code, gap.extra["expected"]) == ("gap", 2)
    assert refusal(lane, 1, "x").code == "conflict"
    assert refusal(lane, 3, "y", pending=("c", End("complete"))).code == "ended"
    assert refusal(lane, 2, "y", pending=("c",)).code == "conflict"
    assert lane.admit(2, ("c", "d"), ("c",)).fresh == ("d",)
    whole: list[Entry] = ["a", "b", End("complete")]
    lane.merge(piece(KEY, whole, 0, 3))
    assert lane.admit(1, ("b", End("complete"))) == (3, (), 1)
    assert refusal(lane, 2, "c").code == "ended"
    assert refusal(lane, 2, End("failed")).code == "ended"
    assert refusal(lane, 9, "c").code == "ended"


@pytest.mark.failure("C8")
def test_a_forked_lane_takes_nothing_more() -> None:
    """A broken producer must take a new epoch."""
    lane = new_lane()
    lane.merge(piece(KEY, ["a", "b"], 0, 2))
    lane.merge(piece(KEY, ["a", "x"], 0, 2))
    assert lane.forked
    assert lane.quarantined == 1
    assert refusal(lane, 2, "c").code == "conflict"


def test_stability_follows_the_other_regions_disks() -> None:
    """Entries are stable up to the first piece of our own that no other region has reported."""
    lane = new_lane()
    whole: list[Entry] = ["a", "b", "c", "d"]
    for lsn, (start, stop) in enumerate([(0, 1), (2, 3)], 1):
        lane.own(start, Place(ORIGIN, lsn))
        lane.merge(piece(KEY, whole, start, stop))
    lane.merge(piece(KEY, whole, 1, 2))
    assert lane.stable_entries({}) == 0
    assert lane.stable_entries({ORIGIN: 1}) == 2
    assert lane.stable_entries({ORIGIN: 2}) == 3
    lane.merge(piece(KEY, whole, 3, 4))
    assert lane.stable_entries({ORIGIN: 2}) == 4
