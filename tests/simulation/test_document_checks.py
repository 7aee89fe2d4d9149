"""The checks of shared documents pass a good history and reject broken ones."""

from collections.abc import Callable

from tests.simulation.document_checks import drafts, edits, numbers
from tests.simulation.history import Draft, Edited, History

TEXT = "s0-y0.1;s0-e0.1.0;"


def good() -> History:
    """One token was added by a request, one live, and one live that was taken out again."""
    history = History(["eu", "us"], ["s0"])
    history.tokens = {"s0": {"s0-y0.1;", "s0-y0.2;", "s0-e0.1.0;"}}
    history.edited = [Edited(1.0, "s0", "s0-e0", "s0-e0.1.0;", "eu/1")]
    history.live = [("s0", "s0-y0.1;"), ("s0", "s0-y0.2;")]
    history.dropped = {"s0-y0.2;"}
    history.numbered = {("s0", "s0-e0"): 2}
    for region in history.regions:
        history.drafts["s0", region] = Draft(TEXT, {"s0-e0": 2}, "v1")
    history.drafts["s0", "s0-y0"] = Draft(TEXT, {}, "")
    return history


def breaches(history: History) -> list[str]:
    return [breach for check in (drafts, edits, numbers) for breach in check(history)]


def show(history: History, text: str) -> None:
    for where, draft in history.drafts.items():
        history.drafts[where] = draft._replace(text=text)


def test_a_good_history_passes() -> None:
    """And one in which what was acknowledged was on a disk that was lost."""
    assert breaches(good()) == []
    history = good()
    show(history, "s0-y0.1;")
    history.lost_disks["eu/1"] = 5.0
    assert breaches(history) == []


def _other_text(history: History) -> None:
    history.drafts["s0", "us"] = Draft("s0-e0.1.0;s0-y0.1;", {"s0-e0": 2}, "v1")


def _other_version(history: History) -> None:
    history.drafts["s0", "us"] = Draft(TEXT, {"s0-e0": 2}, "v2")


def _editor_left_behind(history: History) -> None:
    history.drafts["s0", "s0-y0"] = Draft("s0-y0.1;", {}, "")


def _acknowledged_and_lost(history: History) -> None:
    show(history, "s0-y0.1;")


def _written_live_and_lost(history: History) -> None:
    show(history, "s0-e0.1.0;")


def _doubled(history: History) -> None:
    show(history, TEXT + "s0-e0.1.0;")


def _torn(history: History) -> None:
    show(history, "s0-y0.1;s0-e0.s0-y0.1.0;")


def _without_its_end(history: History) -> None:
    show(history, TEXT + "s0")


def _taken_out_and_there(history: History) -> None:
    show(history, TEXT + "s0-y0.2;")


def _an_older_number(history: History) -> None:
    for region in history.regions:
        history.drafts["s0", region] = Draft(TEXT, {"s0-e0": 1}, "v1")


BROKEN: list[tuple[Callable[[History], None], Callable[[History], object]]] = [
    (_other_text, drafts),
    (_other_version, drafts),
    (_editor_left_behind, drafts),
    (_acknowledged_and_lost, edits),
    (_written_live_and_lost, edits),
    (_doubled, edits),
    (_torn, edits),
    (_without_its_end, edits),
    (_taken_out_and_there, edits),
    (_an_older_number, numbers),
]
