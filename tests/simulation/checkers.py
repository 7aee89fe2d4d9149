"""The promises, judged from what clients saw and never from inside.

Each checker is a function of a :class:`History` that gives sentences, one for each breach. Tokens
name their writer and their number, so what is shown tells by itself who wrote it.
"""

from collections.abc import Callable, Iterator

from tests.simulation.document_checks import drafts, edits, numbers
from tests.simulation.erasure_checks import erased
from tests.simulation.history import History
from tests.simulation.presence_checks import ghosts, gone, missing, settled
from tests.simulation.reader_checks import elsewhere, forward, in_step, readers
from tests.simulation.region_checks import alive, available, cancelled, equal, refused
from tests.simulation.run_checks import ended, inputs, kept, seen
from tests.simulation.text_checks import (
    acknowledged,
    answers,
    consistent,
    finished,
    remembered,
    takeovers,
    written,
)

Check = Callable[[History], Iterator[str]]

CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        written,
        answers,
        consistent,
        acknowledged,
        finished,
        forward,
        in_step,
        equal,
        readers,
        cancelled,
        refused,
        takeovers,
        remembered,
        elsewhere,
        alive,
        available,
        missing,
        ghosts,
        gone,
        settled,
        ended,
        inputs,
        kept,
        seen,
        drafts,
        edits,
        numbers,
        erased,
    )
}


class TooLittle(AssertionError):
    """Nothing can be judged: too little was seen."""


def evidence(history: History) -> None:
    """Raises ``TooLittle`` for a history that would pass because nothing happened."""
    seen = {
        "acknowledgements": len(history.acked),
        "events of readers": len(history.shown),
        "regions looked at": len(history.final),
        "readers looked at": len(history.final_readers),
        "requests": history.calls,
    }
    lacking = [what for what, count in seen.items() if not count]
    if lacking or len(history.final) < 2:
        raise TooLittle(f"too little was seen to judge: {', '.join(lacking) or 'one region'}")


def judge(history: History) -> list[str]:
    """Every breach, with the name of the check. Raises ``TooLittle``."""
    evidence(history)
    return [f"{name}: {breach}" for name, check in CHECKS.items() for breach in check(history)]
