"""What is known of a run: the order in which it is heard makes no difference."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st
from perdure.replication.ids import Epoch, LaneKey
from perdure.replication.images import pack, retell, unpack
from perdure.replication.message import Message
from perdure.replication.operations import Header, Input, Lapse, OfRun, Open, Request, Step
from perdure.replication.runs import Sight, status_of
from perdure.replication.turn import Turn

LANES = [LaneKey("a", Epoch(2, 1)), LaneKey("b", Epoch(3, 2))]
numbers = st.integers(0, 3)
operations: st.SearchStrategy[OfRun] = st.one_of(
    st.builds(
        Step,
        st.just("s"),
        st.just("r"),
        st.sampled_from(LANES),
        numbers,
        st.sampled_from(["running", "suspended"]),
        st.sampled_from(["null", "1"]),
    ),
    st.builds(Lapse, st.just("s"), st.just("r"), st.sampled_from(LANES), numbers, numbers),
    st.builds(Input, st.just("s"), st.just("r"), numbers, st.sampled_from(["m", "n"])),
)


def turn_of(heard: list[OfRun]) -> Turn:
    turn = Turn()
    for operation in heard:
        turn.apply(operation)
    return turn


@given(st.lists(operations), st.randoms(use_true_random=False))
def test_order_and_repetition_make_no_difference(heard: list[OfRun], random: Random) -> None:
    """Whatever is heard again, in whatever order, says the same."""
    again = [*heard, *random.choices(heard, k=3)] if heard else []
    random.shuffle(again)
    assert turn_of(again).parts() == turn_of(heard).parts()


@given(st.lists(operations), st.lists(operations))
def test_what_is_told_again_says_the_same(heard: list[OfRun], known: list[OfRun]) -> None:
    """By operations, to somebody who knows other things already."""
    told = list(turn_of(heard).operations("s", "r"))
    assert turn_of([*known, *told]).parts() == turn_of([*known, *heard]).parts()
    assert turn_of(told).parts() == turn_of(heard).parts()


@given(st.lists(operations))
def test_nothing_of_it_is_lost_on_disk_or_in_telling(heard: list[OfRun]) -> None:
    """A stored run comes back as it was, and so does one that another region tells of."""
    message = Message("s", "r")
    lane = LaneKey("~run", Epoch(1, 9))
    header = Header("assistant", "bot", 5, lane, "{}", None, (), Request("bot", None, "m"))
    message.apply_open(Open("s", "r", header), None)
    for operation in heard:
        message.apply_of_run(operation, None)
    message.refresh()
    again = unpack("s", "r", pack(message, {}))
    assert again.whole() == message.whole()
    assert again.header is not None and again.header.run == header.run
    other = Message("s", "r")
    for told in retell(message):
        if isinstance(told, Open):
            other.apply_open(told, None)
        else:
            assert isinstance(told, Step | Lapse | Input)
            other.apply_of_run(told, None)
    other.refresh()
    assert other.whole() == message.whole()
    assert status_of(other, Sight.SEEN) == "requested"


def test_a_lapse_counts_while_nothing_has_happened_since() -> None:
    """Neither an item nor a word; and two lapses of which none is greater both count."""
    turn = turn_of([Lapse("s", "r", LANES[0], 5, 0), Lapse("s", "r", LANES[0], 3, 1)])
    assert turn.has_lapsed(LANES[0], 5)
    assert not turn.has_lapsed(LANES[0], 6)
    assert not turn.has_lapsed(LANES[1], 0)
    turn.apply(Step("s", "r", LANES[0], 1, "running", "null"))
    assert not turn.has_lapsed(LANES[0], 4)
    assert turn.has_lapsed(LANES[0], 3)
