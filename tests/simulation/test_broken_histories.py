"""The checks of presence, runs and documents reject broken histories, each its own."""

from collections.abc import Callable

import pytest

from tests.simulation import test_document_checks, test_presence_checks, test_run_checks
from tests.simulation.history import History

BROKEN = [
    (module.good, breaks, check)
    for module in (test_presence_checks, test_run_checks, test_document_checks)
    for breaks, check in module.BROKEN
]
NAMES = {check.__name__ for _, _, check in BROKEN}


@pytest.mark.parametrize(("good", "breaks", "check"), BROKEN)
def test_a_broken_history_is_rejected(
    good: Callable[[], History],
    breaks: Callable[[History], None],
    check: Callable[[History], object],
) -> None:
    """By the check that is meant for it."""
    history = good()
    breaks(history)
    assert list(check(history))  # type: ignore[call-overload]
