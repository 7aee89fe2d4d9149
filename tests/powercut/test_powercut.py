"""A slice of the rounds: a region on what ships, whose power goes again and again."""

import json
import os
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.powercut.__main__ import main
from tests.powercut.mutants import MUTANTS
from tests.powercut.rounds import play
from tests.regions.faulty_disk import library
from tests.seeded import printed, quiet, run_all

pytestmark = pytest.mark.skipif(
    library() is None, reason="this Python hides its SQLite: its calls cannot be replaced"
)

ROOT = Path(__file__).parents[2]
# `make powercut` runs more.
SLICE = range(40)
# Those that are caught soonest, with rounds of which one catches each, so that a disk which has
# gone blind is noticed. `make powercut ARGS=--mutants` hunts all, from the first round on.
HUNTED = {
    "synchronous_off": range(1, 3),
    "synchronous_normal": range(1, 3),
    "acknowledged_first": range(2, 5),
    "one_folder_synced": range(4, 7),
}


@pytest.mark.failure("P6")
def test_a_slice_of_the_rounds() -> None:
    """No acknowledged operation is lost, nothing is there twice, it always opens; and the power
    went in many different places."""
    met: Counter[str] = Counter()
    for outcome in run_all(play, SLICE, os.cpu_count() or 1):
        again = f"again: make powercut SEED={outcome.seed}\n"
        assert not outcome.breaches, again + "\n".join(outcome.breaches)
        met += outcome.counts
    assert met["acknowledged"] > 1_000
    assert met["cut in recovery"] > 3
    assert min(met[name] for name in ("checkpointed", "truncated", "evictions", "loads")) > 0
    assert len([name for name in met if name.startswith("at.")]) >= 8, met
    assert len([name for name in met if name.startswith("found.")]) == 7, met


@pytest.mark.parametrize("name", HUNTED)
def test_power_cuts_find(name: str) -> None:
    """A deliberate bug is caught within a few rounds."""
    assert name in MUTANTS
    with quiet():
        assert any(play(seed, name).breaches for seed in HUNTED[name]), f"{name} was not caught"


def test_the_same_seed_is_the_same_round() -> None:
    """To the last call, whatever order the interpreter gives to sets."""
    code = (
        "import logging; logging.disable(50)\n"
        "from tests.powercut.rounds import play\n"
        "for seed in (6, 8, 12):\n"
        "    o = play(seed); print(seed, o.trace, o.lives, o.breaches)\n"
    )
    assert len(printed(code)) == 1


def test_the_command_tells(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As JSON for programs, and one round again; the exit code is 0 where all is well, 1 where it
    is not."""
    program = ["python -m tests.powercut", "--jobs", "1"]
    monkeypatch.setattr(sys, "argv", [*program, "--rounds", "2", "--first", "3", "--json"])
    assert main() == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["rounds"], told["first"], told["failed"]) == (2, 3, [])
    monkeypatch.setattr(sys, "argv", [*program, "--seed", "3"])
    assert main() == 0
    assert "life 1: " in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*program, "--rounds", "2", "--only", "no_transactions"])
    code = main()
    assert ("NOT CAUGHT" in capsys.readouterr().out) == (code == 1)
