"""The checks of runs pass a good history and reject broken ones."""

from collections.abc import Callable

from tests.simulation.history import Claimed, Disturbed, History, Ran, Sign
from tests.simulation.run_checks import ended, inputs, kept, seen

RUN, W, V = "s0-m50", "s0-m50-w1", "s0-m50-w2"


def good() -> History:
    """One agent claims, writes and falls silent; another goes on and ends it."""
    history = History(["eu", "us"], ["s0"])
    history.requested = {RUN: "eu/1"}
    history.claimed = [
        Claimed(20.1, W, RUN, "", "continue", "eu/1", 20.0),
        Claimed(60.1, V, RUN, "", "continue", "us/1", 60.0),
    ]
    history.signs = [
        *(Sign(at_s, RUN, W, "eu") for at_s in (20.1, 24.0, 28.0)),
        *(Sign(at_s, RUN, V, "us") for at_s in (60.1, 63.0)),
    ]
    history.ran = [
        Ran(30.0, 30.1, "us", {RUN: ("running", W)}),
        Ran(50.0, 50.1, "us", {RUN: ("interrupted", W)}),
        Ran(63.9, 64.0, "eu", {RUN: ("running", V)}),
        Ran(70.0, 70.1, "eu", {RUN: ("complete", V)}),
    ]
    history.inputs = [(RUN, "more", "eu/1")]
    run = {"status": "complete", "producer": V, "inputs": ["more"]}
    history.final_runs = {"eu": {RUN: dict(run)}, "us": {RUN: dict(run)}}
    return history


def breaches(history: History) -> list[str]:
    return [breach for check in (ended, inputs, kept, seen) for breach in check(history)]


def test_a_good_history_passes() -> None:
    """And one in which something goes wrong while it is looked at."""
    assert breaches(good()) == []
    history = good()
    _interrupted_at_work(history)
    _taken_from_who_works(history)
    history.disturbed.append(Disturbed("eu", 10.0, 100.0, "crash"))
    assert breaches(history) == []


def _streams_for_ever(history: History) -> None:
    for runs in history.final_runs.values():
        runs[RUN]["status"] = "running"


def _not_known(history: History) -> None:
    del history.final_runs["us"][RUN]


def _different(history: History) -> None:
    history.final_runs["us"][RUN]["producer"] = W


def _not_handed_on(history: History) -> None:
    for runs in history.final_runs.values():
        runs[RUN]["inputs"] = []


def _taken_from_who_works(history: History) -> None:
    history.signs.append(Sign(58.5, RUN, W, "eu"))


def _interrupted_at_work(history: History) -> None:
    history.ran.append(Ran(65.0, 65.1, "us", {RUN: ("interrupted", V)}))


def _running_and_dead(history: History) -> None:
    history.ran.append(Ran(50.0, 50.1, "us", {RUN: ("running", W)}))


BROKEN: list[tuple[Callable[[History], None], Callable[[History], object]]] = [
    (_streams_for_ever, ended),
    (_not_known, ended),
    (_different, ended),
    (_not_handed_on, inputs),
    (_taken_from_who_works, kept),
    (_interrupted_at_work, seen),
    (_running_and_dead, seen),
]
