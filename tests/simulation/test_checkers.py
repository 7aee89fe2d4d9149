"""Each checker passes a good history and rejects broken ones; none passes on nothing."""

import asyncio
from collections.abc import Callable
from random import Random

import pytest

from tests.simulation import checkers
from tests.simulation.checkers import TooLittle, judge
from tests.simulation.clients import Surroundings
from tests.simulation.history import (
    Acked,
    Asked,
    Called,
    CarriedOut,
    Claimed,
    Disturbed,
    History,
    Looked,
    Seen,
    Shown,
    Stopped,
    Waited,
    Writer,
)
from tests.simulation.loop import VirtualLoop, run
from tests.simulation.restless import Watcher
from tests.simulation.test_broken_histories import NAMES

M, C = "s0-m0", "s0-c0"
W, V = f"{M}-w0", f"{M}-w2"


def tokens(writer: str, count: int) -> list[str]:
    return [f"{writer}.{number};" for number in range(count)]


def text(writer: str, count: int) -> str:
    return "".join(tokens(writer, count))


def shown(at_s: float, event: str, value: str | None, reason: str | None = None) -> Shown:
    return Shown(at_s, "s0-r0", "eu", event, reason, M, value, "streaming", 0.0)


def good() -> History:
    """A message of three tokens that one writer finished and one reader followed; and a whole one
    beside it."""
    history = History(["eu", "us"], ["s0"])
    writer = Writer(W, M, tokens(W, 3), opens=True, finished=True)
    history.writers = {W: writer, C: Writer(C, C, ["hello"], opens=True, finished=True)}
    history.acked = [
        Acked(1.0, W, M, 2, 0, None, "eu/1"),
        Acked(2.0, W, M, 3, 3, "stable", "eu/1"),
        Acked(2.0, C, C, 1, 1, "accepted", "us/1"),
    ]
    history.shown = [
        shown(1.0, "message", text(W, 1)),
        shown(2.0, "append", text(W, 2)),
        shown(3.0, "append", text(W, 3)),
        shown(3.1, "end", text(W, 3)),
    ]
    seen = {M: Seen(text(W, 3), "complete", 3), C: Seen("hello", "complete", 1)}
    history.final = {"eu": dict(seen), "us": dict(seen)}
    history.final_readers = {"s0-r0": dict(seen)}
    history.equal_after_s, history.calls = 1.0, 9
    history.verified = {"equal": True}
    return history


def test_a_good_history_passes() -> None:
    """Nothing is found where nothing is wrong."""
    assert judge(good()) == []


Break = Callable[[History], None]
BROKEN: list[tuple[str, str, Break]] = []


def broken(check: str, what: str) -> Callable[[Break], Break]:
    """A way to break the good history, and the checker that must see it."""

    def register(spoil: Break) -> Break:
        BROKEN.append((check, what, spoil))
        return spoil

    return register


def show_in_the_end(history: History, message: str, seen: Seen | None) -> None:
    for view in (*history.final.values(), *history.final_readers.values()):
        if seen is None:
            view.pop(message, None)
        else:
            view[message] = seen


def take_over(
    history: History, writer: str, at_s: float, after: str, count: int, *, finished: bool = False
) -> None:
    """A takeover that ``eu`` answered, and ``count`` tokens that it acknowledged then."""
    new = Writer(writer, M, tokens(writer, 3), opens=False, mode="continue", finished=finished)
    history.writers[writer] = new
    began_s = at_s - 0.1
    history.claimed.append(Claimed(at_s, writer, M, after, "continue", "eu/1", began_s))
    history.carried_out.append(CarriedOut(began_s, writer, M, "eu/1"))
    if count:
        history.acked.append(Acked(at_s + 1, writer, M, count, 0, None, "eu/1", at_s + 0.5, count))


@broken("written", "nobody wrote")
def a_stranger_writes(history: History) -> None:
    show_in_the_end(history, M, Seen(text(f"{M}-w9", 3), "complete", 3))


@broken("written", "in place")
def a_gap(history: History) -> None:
    history.shown.insert(1, shown(1.5, "replace", f"{W}.0;{W}.2;", "fenced"))


@broken("written", "in place")
def a_duplicate(history: History) -> None:
    history.shown.insert(1, shown(1.5, "append", f"{W}.0;{W}.0;"))


@broken("written", "in place")
def a_reordering(history: History) -> None:
    history.shown.insert(1, shown(1.5, "replace", f"{W}.1;{W}.0;", "fenced"))


@broken("written", "no tokens of anybody")
def a_torn_token(history: History) -> None:
    history.shown[2] = shown(3.0, "append", text(W, 2) + f"{W}.")


@broken("written", "nobody wrote")
def a_longer_text_than_was_written(history: History) -> None:
    history.shown.append(shown(4.0, "append", text(W, 4)))


@broken("written", "nobody wrote")
def another_whole_text(history: History) -> None:
    show_in_the_end(history, C, Seen("hullo", "complete", 1))


@broken("written", "a writer comes twice")
def a_text_twice(history: History) -> None:
    history.writers[V] = Writer(V, M, tokens(V, 1), opens=False, mode="continue")
    both = text(W, 1) + text(V, 1) + text(W, 1)
    history.shown.insert(1, shown(1.5, "replace", both, "fenced"))


@broken("written", "two branches")
def a_mixture_of_branches(history: History) -> None:
    history.counts[f"broken.{M}"] = 1
    history.shown.append(shown(4.0, "replace", f"{W}.0!;{W}.1;", "conflict"))


@broken("written", "the other text")
def another_text_under_the_same_numbers(history: History) -> None:
    history.shown.append(shown(4.0, "replace", f"{W}.0;{W}.1!;", "conflict"))


@broken("written", "given again after a delete")
def a_deleted_id_again(history: History) -> None:
    history.asked.append(Asked(2.5, "delete", M, True, "us/1"))
    show_in_the_end(history, M, Seen("written after the delete", "complete", 1))


@broken("answers", "and then 1")
def a_disk_says_less_than_it_has_said(history: History) -> None:
    history.acked.insert(2, Acked(2.5, W, M, 1, 0, None, "eu/1"))


@broken("answers", "was told 3 of 2")
def more_is_stable_than_accepted(history: History) -> None:
    history.acked[0] = Acked(1.0, W, M, 2, 3, None, "eu/1")


@broken("answers", "was told 0 of 3 of 2")
def more_is_accepted_than_was_made(history: History) -> None:
    history.acked[0] = Acked(1.0, W, M, 3, 0, None, "eu/1", 0.9, 2)


@broken("consistent", "is complete")
def complete_with_half_of_its_text(history: History) -> None:
    history.writers[W].finished = False
    history.acked = [Acked(1.0, W, M, 2, 2, None, "eu/1"), history.acked[2]]
    show_in_the_end(history, M, Seen(text(W, 2), "complete", 2))


@broken("consistent", "has 7 items")
def a_length_that_is_not_that_of_the_text(history: History) -> None:
    show_in_the_end(history, M, Seen(text(W, 3), "complete", 7))


@broken("consistent", "is failed")
def a_status_that_nobody_gave(history: History) -> None:
    history.writers[W].finished = False
    show_in_the_end(history, M, Seen(text(W, 3), "failed", 3))


@broken("acknowledged", "are shown")
def a_second_takeover_drops_all_of_the_first(history: History) -> None:
    take_over(history, V, 3.0, text(W, 3), 3)
    take_over(history, f"{M}-w3", 5.0, text(W, 3), 3)
    other = f"{M}-w3"
    show_in_the_end(history, M, Seen(text(W, 3) + text(other, 3), "complete", 6))


@broken("equal", "show different things")
def regions_list_messages_in_other_orders(history: History) -> None:
    history.final["us"] = dict(reversed(history.final["us"].items()))


@broken("takeovers", "starts anew")
def a_restart_keeps_the_old_text(history: History) -> None:
    take_over(history, V, 3.0, text(W, 3), 0)
    history.claimed[0] = history.claimed[0]._replace(mode="restart")


@broken("takeovers", "its end was acknowledged there")
def what_has_ended_is_taken_over(history: History) -> None:
    history.acked[1] = Acked(2.0, W, M, 3, 3, "stable", "eu/1", 1.9, 3)
    take_over(history, V, 3.0, text(W, 3), 0)


@broken("refused", "nobody is the cause")
def fenced_before_anybody_came(history: History) -> None:
    take_over(history, V, 50.0, text(W, 3), 0)
    history.stopped.append(Stopped(1.0, W, M, "fenced"))


@broken("remembered", "shows 0 of")
def a_later_takeover_excuses_nothing(history: History) -> None:
    a_region_forgets_the_text_of_a_message(history)
    take_over(history, V, 50.0, text(W, 3), 0)


@broken("acknowledged", "3 were acknowledged")
def a_stable_token_is_lost(history: History) -> None:
    history.lost_disks["eu/1"] = 5.0
    show_in_the_end(history, M, Seen(text(W, 2), "complete", 2))


@broken("acknowledged", "2 were acknowledged")
def an_accepted_token_is_lost(history: History) -> None:
    history.acked = history.acked[:1] + history.acked[2:]
    show_in_the_end(history, M, Seen(text(W, 1), "complete", 1))


@broken("acknowledged", "is gone")
def a_whole_message_is_lost(history: History) -> None:
    show_in_the_end(history, C, None)


@broken("acknowledged", "are shown")
def a_takeover_excuses_only_what_it_did_not_go_on_after(history: History) -> None:
    take_over(history, V, 0.6, text(W, 3), 1)
    show_in_the_end(history, M, Seen(text(W, 2) + text(V, 1), "streaming", 3))


@broken("acknowledged", "are shown")
def a_takeover_that_was_refused_excuses_nothing(history: History) -> None:
    history.writers[V] = Writer(V, M, tokens(V, 3), opens=False, mode="continue")
    history.stopped.append(Stopped(3.0, V, M, "ended"))
    history.shown.append(shown(5.0, "replace", "", "fenced"))
    show_in_the_end(history, M, Seen("", "streaming", 0))


@broken("acknowledged", "are shown")
def two_takeovers_excuse_each_other(history: History) -> None:
    take_over(history, V, 3.0, text(W, 3), 3)
    take_over(history, f"{M}-w3", 5.0, text(W, 3) + text(V, 3), 3)
    show_in_the_end(history, M, Seen(text(W, 3) + text(V, 1), "streaming", 4))


@broken("acknowledged", "are shown")
def both_rivals_are_lost(history: History) -> None:
    other = f"{M}-w1"
    history.writers[other] = Writer(other, M, tokens(other, 3), opens=True, finished=True)
    history.acked.append(Acked(2.0, other, M, 3, 3, "stable", "us/1"))
    history.shown.append(shown(5.0, "replace", "", "conflict"))
    show_in_the_end(history, M, Seen("", "streaming", 0))


@broken("acknowledged", "nothing of")
def both_branches_are_lost(history: History) -> None:
    history.counts[f"broken.{M}"] = 1
    history.shown.append(shown(5.0, "replace", "", "conflict"))
    show_in_the_end(history, M, Seen("", "streaming", 0))


@broken("finished", "finished")
def a_finished_message_streams(history: History) -> None:
    show_in_the_end(history, M, Seen(text(W, 3), "streaming", 3))


@broken("finished", "is streaming")
def a_takeover_that_finished_streams(history: History) -> None:
    take_over(history, V, 3.0, text(W, 3), 3, finished=True)
    show_in_the_end(history, M, Seen(text(W, 3) + text(V, 3), "streaming", 6))


@broken("forward", "nobody has deleted it")
def a_message_is_gone_for_a_while(history: History) -> None:
    history.shown.insert(3, shown(2.6, "delete", None))


@broken("forward", "without a cause")
def a_conflict_of_one_producer(history: History) -> None:
    take_over(history, V, 0.5, text(W, 1), 0)
    history.shown.insert(2, shown(2.5, "replace", "", "conflict"))


@broken("forward", "without a cause")
def another_serial_of_what_was_opened_once(history: History) -> None:
    take_over(history, V, 0.5, text(W, 1), 0)
    history.opened = [CarriedOut(at_s, W, M, "eu/1") for at_s in (0.1, 0.2)]
    history.opened.append(CarriedOut(2.6, W, M, "us/1"))
    history.shown.insert(2, shown(2.5, "message", "", "conflict"))


@broken("forward", "without a cause")
def a_conflict_of_what_was_opened_twice(history: History) -> None:
    take_over(history, V, 0.5, text(W, 1), 0)
    history.opened = [CarriedOut(0.1, W, M, disk) for disk in ("eu/1", "us/1")]
    history.shown.insert(2, shown(2.5, "replace", "", "conflict"))


@broken("forward", "without a cause")
def text_is_taken_back_with_a_serial(history: History) -> None:
    history.opened = [CarriedOut(0.1, W, M, disk) for disk in ("eu/1", "us/1")]
    history.shown.insert(2, shown(2.5, "message", text(W, 1), "conflict"))


@broken("forward", "without a cause")
def text_is_taken_back(history: History) -> None:
    history.shown.insert(2, shown(2.5, "replace", text(W, 1), "fenced"))


@broken("forward", "does not go on")
def an_append_that_does_not_go_on(history: History) -> None:
    history.shown.insert(2, shown(2.5, "append", text(W, 1)))


@broken("forward", "after")
def behind_before_the_hold_is_over(history: History) -> None:
    history.shown.insert(2, shown(2.5, "replace", text(W, 1), "behind"))


@broken("forward", "by an older snapshot")
def an_older_snapshot(history: History) -> None:
    take_over(history, V, 0.5, "", 0)
    history.shown.insert(2, shown(2.5, "snapshot", text(W, 1)))


@broken("in_step", "goes on at")
def an_event_that_does_not_fit(history: History) -> None:
    history.out_of_step.append("s0-r0: goes on at 4, 3 are held")


@broken("equal", "do not come to be equal")
def regions_stay_different(history: History) -> None:
    history.equal_after_s = None


@broken("equal", "after the heal")
def regions_take_for_ever(history: History) -> None:
    history.equal_after_s = 1_000.0


@broken("equal", "after the last token")
def regions_take_long_for_the_last_token(history: History) -> None:
    history.converged_s = 59.0


@broken("equal", "show different things")
def a_region_shows_nothing(history: History) -> None:
    history.final["us"] = {}


@broken("equal", "cannot finish")
def a_client_cannot_finish(history: History) -> None:
    history.counts["unfinished"] = 1


@broken("equal", "verify says")
def digests_differ(history: History) -> None:
    history.verified = {"equal": False}


@broken("readers", "ends with")
def a_reader_lacks_a_message(history: History) -> None:
    del history.final_readers["s0-r0"][C]


@broken("readers", "ends with")
def a_reader_does_not_hear_of_the_end(history: History) -> None:
    history.final_readers["s0-r0"][M] = Seen(text(W, 3), "streaming", 3)


@broken("cancelled", "was cancelled, and streams")
def a_cancel_is_forgotten(history: History) -> None:
    history.writers[W].finished = False
    history.asked.append(Asked(2.0, "cancel", M, True, "us/1"))
    show_in_the_end(history, M, Seen(text(W, 3), "streaming", 3))


@broken("cancelled", "was deleted, and is there")
def a_delete_is_forgotten(history: History) -> None:
    history.asked.append(Asked(2.0, "delete", M, True, "us/1"))


@broken("erased", "waiting for ['eu']")
def a_region_never_says_that_it_is_gone(history: History) -> None:
    history.erasures["us", M] = "waiting for ['eu']"


@broken("erased", "has a body of")
def a_disk_keeps_what_was_deleted(history: History) -> None:
    history.erasures["us", M] = "done"
    history.remains.append(f"us/1 has a body of {M} of s0")


@broken("cancelled", "after a cancel")
def a_cancelled_producer_goes_on(history: History) -> None:
    history.asked.append(Asked(0.5, "cancel", M, True, "eu/1"))
    history.acked = [
        Acked(1.0, W, M, 1, 0, None, "eu/1", 0.9, 1),
        Acked(2.0, W, M, 3, 3, "stable", "eu/1", 1.9, 3),
        history.acked[2],
    ]


@broken("refused", "nobody is the cause")
def refused_for_a_fault_of_the_service(history: History) -> None:
    history.stopped.append(Stopped(2.0, W, M, "internal_error"))


@broken("refused", "nobody is the cause")
def fenced_by_who_never_came(history: History) -> None:
    history.writers[V] = Writer(V, M, tokens(V, 1), opens=False, mode="continue")
    history.stopped.append(Stopped(2.0, W, M, "fenced"))


@broken("refused", "nobody is the cause")
def fenced_by_nobody(history: History) -> None:
    history.stopped.append(Stopped(2.0, W, M, "fenced"))


@broken("takeovers", "had taken over there")
def a_producer_goes_on_after_a_takeover(history: History) -> None:
    take_over(history, V, 2.5, text(W, 2), 1)
    history.acked.append(Acked(4.0, W, M, 2, 0, None, "eu/1", 3.9, 2))
    history.acked.append(Acked(5.0, W, M, 3, 0, None, "eu/1", 4.9, 3))


@broken("takeovers", "is shown")
def an_older_takeover_has_the_message(history: History) -> None:
    take_over(history, V, 2.5, text(W, 2), 2)
    take_over(history, f"{M}-w3", 4.5, text(W, 2) + text(V, 1), 2)
    show_in_the_end(history, M, Seen(text(W, 2) + text(V, 2), "complete", 4))


@broken("takeovers", "to go on after")
def a_takeover_from_nothing(history: History) -> None:
    take_over(history, V, 3.0, "", 3)
    show_in_the_end(history, M, Seen(text(V, 3), "complete", 3))


@broken("elsewhere", "was told nothing at us")
def another_disk_was_lost(history: History) -> None:
    history.lost_disks["ap/1"] = 0.0
    history.waited.append(Waited(40.0, "s0-r0", "s0", "us", 30.0))


@broken("elsewhere", "was told nothing at us")
def a_cursor_that_does_not_work_elsewhere(history: History) -> None:
    history.waited.append(Waited(40.0, "s0-r0", "s0", "us", 30.0))


@broken("remembered", "shows nothing of")
def a_region_that_lost_its_disk_does_not_know(history: History) -> None:
    history.looked.append(Looked(3.0, "s0", "eu", "eu/1", dict(history.final["eu"])))
    history.looked.append(Looked(9.0, "s0", "eu", "", {}))


@broken("remembered", "shows 0 of")
def a_region_forgets_the_text_of_a_message(history: History) -> None:
    history.looked.append(Looked(3.0, "s0", "eu", "eu/1", dict(history.final["eu"])))
    forgot = {**history.final["eu"], M: Seen("", "streaming", 0)}
    history.looked.append(Looked(4.0, "s0", "eu", "eu/1", forgot))


@broken("remembered", "shows 0 of")
def a_region_forgets_before_the_takeover_comes(history: History) -> None:
    history.looked.append(Looked(3.0, "s0", "eu", "eu/1", dict(history.final["eu"]), 2.9))
    forgot = {**history.final["eu"], M: Seen("", "streaming", 0)}
    history.looked.append(Looked(4.8, "s0", "eu", "eu/1", forgot, 4.0))
    take_over(history, V, 5.0, "", 0)


@broken("alive", "ended by itself")
def a_region_dies_at_its_start(history: History) -> None:
    history.deaths.append((3.0, "eu", "ended by itself with 1"))


@broken("available", "was catching_up")
def a_region_catches_up_for_ever(history: History) -> None:
    history.called.append(Called(900.0, 901.0, W, "eu", "append", "catching_up"))


@broken("available", "was catching_up")
def a_region_catches_up_that_had_done_so(history: History) -> None:
    for at_s in (3.0, 9.0):
        history.looked.append(Looked(at_s, "s0", "eu", "eu/1", dict(history.final["eu"])))
    history.disturbed.append(Disturbed("eu", 10.0, 20.0, "crash"))
    history.called.append(Called(15.0, 16.0, W, "eu", "append", "catching_up"))


@broken("available", "was lost")
def a_healthy_region_does_not_answer(history: History) -> None:
    history.disturbed.append(Disturbed("us", 0.0, 9.0, "crash"))
    history.called.append(Called(1.0, 2.0, W, "eu", "append", "lost"))


@broken("available", "storage_full")
def a_fault_excuses_only_its_time(history: History) -> None:
    history.disturbed.append(Disturbed("eu", 0.0, 9.0, "disk_full"))
    history.called.append(Called(20.0, 21.0, W, "eu", "append", "storage_full"))


@pytest.mark.parametrize(
    ("check", "what", "spoil"), BROKEN, ids=[spoil.__name__ for _, _, spoil in BROKEN]
)
def test_a_broken_history_is_rejected(check: str, what: str, spoil: Break) -> None:
    """By the checker whose matter it is, in words that say what is wrong."""
    history = good()
    spoil(history)
    found = [breach for breach in judge(history) if breach.startswith(f"{check}: ")]
    assert any(what in breach for breach in found), judge(history)


def test_every_checker_has_a_history_that_it_rejects() -> None:
    """None of them can be one that always passes."""
    assert {check for check, _, _ in BROKEN} | NAMES == set(checkers.CHECKS)


EXCUSED: list[tuple[str, Break]] = []


def excuse(change: Break) -> Break:
    """Registers a change after which a history still breaks no promise."""
    EXCUSED.append((change.__name__, change))
    return change


@excuse
def lost_with_its_disk(history: History) -> None:
    history.acked = [Acked(1.0, W, M, 3, 2, None, "eu/1"), history.acked[2]]
    history.lost_disks["eu/1"] = 5.0
    history.writers[W].finished = False
    history.shown = [shown(1.0, "message", text(W, 2))]
    show_in_the_end(history, M, Seen(text(W, 2), "streaming", 2))


@excuse
def cut_by_a_takeover(history: History) -> None:
    take_over(history, V, 0.6, text(W, 1), 3)
    both = text(W, 1) + text(V, 3)
    history.shown.append(shown(4.0, "replace", both, "fenced"))
    show_in_the_end(history, M, Seen(both, "complete", 4))


@excuse
def cut_by_a_takeover_under_another_serial(history: History) -> None:
    cut_by_a_takeover(history)
    history.shown[-1] = history.shown[-1]._replace(event="message", reason="conflict")
    history.opened = [CarriedOut(0.1, W, M, "eu/1")]
    history.called.append(Called(0.1, 0.2, W, "us", "open", "left"))


@excuse
def a_takeover_that_others_know_later(history: History) -> None:
    history.acked[:2] = [ack._replace(disk="us/1") for ack in history.acked[:2]]
    take_over(history, V, 2.5, text(W, 2), 3)
    take_over(history, f"{M}-w3", 2.6, text(W, 1), 2)
    history.acked.append(Acked(4.0, W, M, 2, 0, None, "ap/1", 3.9, 3))
    history.acked.append(Acked(5.0, W, M, 3, 0, None, "ap/1", 4.9, 3))
    history.shown.append(shown(6.0, "replace", text(W, 2) + text(V, 3), "fenced"))
    show_in_the_end(history, M, Seen(text(W, 2) + text(V, 3), "complete", 5))
    history.writers[W].finished = False


@excuse
def a_lost_text_that_was_written_otherwise(history: History) -> None:
    lost_with_its_disk(history)
    history.counts[f"broken.{M}"] = 1
    for view in history.final_readers.values():
        view[M] = Seen(text(W, 1) + f"{W}.1!;", "streaming", 2)


@excuse
def behind_after_the_hold(history: History) -> None:
    history.shown.append(shown(31.0, "replace", text(W, 1), "behind"))
    history.shown.append(shown(32.0, "append", text(W, 3)))


@excuse
def a_takeover_while_somebody_looked(history: History) -> None:
    history.writers[W].finished = False
    history.acked[1] = Acked(2.0, W, M, 3, 3, None, "eu/1")
    history.looked.append(Looked(3.0, "s0", "eu", "eu/1", dict(history.final["eu"]), 2.9))
    take_over(history, V, 5.0, "", 2)
    history.claimed[0] = history.claimed[0]._replace(mode="restart")
    history.shown.append(shown(6.0, "replace", text(V, 2), "fenced"))
    show_in_the_end(history, M, Seen(text(V, 2), "streaming", 2))
    history.looked.append(Looked(7.0, "s0", "eu", "eu/1", dict(history.final["eu"]), 4.0))


@excuse
def a_disk_lost_while_its_answer_came(history: History) -> None:
    history.looked.append(Looked(7.0, "s0", "eu", "eu/1", dict(history.final["eu"]), 4.0))
    history.lost_disks["eu/1"] = 5.0
    history.disturbed.append(Disturbed("us", 4.0, 20.0, "crash"))
    history.looked.append(Looked(9.0, "s0", "eu", "", {}, 8.9))


@excuse
def deleted(history: History) -> None:
    history.asked.append(Asked(4.0, "delete", M, True, "us/1"))
    show_in_the_end(history, M, None)


@excuse
def a_delete_lost_with_its_disk(history: History) -> None:
    lost_with_its_disk(history)
    history.asked.append(Asked(2.5, "delete", M, True, "eu/1"))
    history.shown = []
    history.shown.append(shown(9.0, "message", "written after the delete"))


@excuse
def region_was_down(history: History) -> None:
    history.disturbed.append(Disturbed("eu", 0.0, 9.0, "crash"))
    history.called.append(Called(1.0, 2.0, W, "eu", "append", "lost"))


@pytest.mark.parametrize(("name", "change"), EXCUSED)
def test_what_the_history_explains_is_no_breach(name: str, change: Break) -> None:
    """The exceptions of the promises, each with its cause in the history."""
    history = good()
    change(history)
    assert judge(history) == [], name


def test_a_look_is_of_the_time_when_it_was_answered() -> None:
    """Not of when it was asked for: an answer may be long on its way, and tells of then."""

    class SlowDoor:
        async def call(self, *_: object) -> object:
            await asyncio.sleep(6.0)
            return {"messages": []}, "eu/1"

    async def main(loop: VirtualLoop) -> None:
        calm, history = asyncio.Event(), History(["eu"], ["s0"])
        around = Surroundings(SlowDoor(), history, ["eu"], Random(1), calm)  # type: ignore[arg-type]
        watching = loop.create_task(Watcher(around, "s0-watcher", "s0", Random(1)).run())
        while not history.looked:
            await asyncio.sleep(0.1)
        calm.set()
        await watching
        looked = history.looked[0]
        assert looked.at_s == pytest.approx(looked.began_s + 6.0)

    run(main)


@pytest.mark.parametrize("lack", ["acked", "shown", "final", "final_readers"])
def test_too_little_is_not_judged(lack: str) -> None:
    """A history in which nothing happened breaks no promise, and proves nothing."""
    history = good()
    getattr(history, lack).clear()
    with pytest.raises(TooLittle):
        judge(history)


def test_one_region_alone_is_too_little() -> None:
    """To be equal takes two."""
    history = good()
    del history.final["us"]
    with pytest.raises(TooLittle, match="one region"):
        judge(history)
