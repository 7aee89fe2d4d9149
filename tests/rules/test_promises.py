"""The rules of the token log and of resume, as a model, against the promises.

A schedule is a seed, so a failure prints the seed that replays it. ``PERDURE_RULES_SCHEDULES``
makes the search longer than the slice that the suite runs.
"""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.rules.model import WRONG_RULES
from tests.rules.world import Violation, World

SCHEDULES = int(os.environ.get("PERDURE_RULES_SCHEDULES", "1500"))
TRIES_TO_CATCH = 3_000


@settings(max_examples=SCHEDULES, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), steps=st.integers(5, 60))
def test_promises_hold_in_every_schedule(seed: int, steps: int) -> None:
    """Complete, in order, exactly once; nothing nobody wrote; regions equal after healing."""
    World(seed).run(steps)


@settings(max_examples=SCHEDULES // 2, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), steps=st.integers(5, 60))
def test_a_broken_producer_is_settled_the_same_everywhere(seed: int, steps: int) -> None:
    """Two contents for one seq: every region ends with the same one, and readers with it."""
    World(seed, broken_producer=True).run(steps)


@pytest.mark.parametrize("wrong", WRONG_RULES)
def test_every_wrong_rule_is_caught(wrong: str) -> None:
    """The checks can fail: each wrong rule breaks a promise within a bounded number of seeds."""
    for seed in range(TRIES_TO_CATCH):
        try:
            World(seed, wrong=wrong, broken_producer=wrong == "fork_item_by_item").run(40)
        except Violation:
            return
    pytest.fail(f"{wrong} was not caught within {TRIES_TO_CATCH} schedules")
