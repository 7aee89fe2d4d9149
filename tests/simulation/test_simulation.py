"""A slice of the seeds: whole regions on a virtual clock, with faults, judged by what was seen."""

import os
from pathlib import Path

import pytest

from tests.seeded import printed, run_all
from tests.simulation.__main__ import MUTANTS, is_real, run_seed

ROOT = Path(__file__).parents[2]
# Long campaigns run by `make simulate`; this many in the suite, and these real ones.
SLICE = range(60)
REAL = (99, 149, 1499)
# Mutants that the suite hunts, with seeds of which one catches it, so that a simulator which has
# gone blind is noticed. `make mutants` hunts all.
HUNTED = {
    "retries_are_new": range(2, 4),
    "cursor_off_by_one": range(2, 4),
    "watermark_past_dirty": range(12, 14),
    "vectors_in_deltas": range(2),
    "inputs_are_dropped": range(2),
    "nothing_is_asked_of_editors": range(6, 7),
}


def kept_seeds() -> list[int]:
    """Seeds that once failed; each line says why."""
    lines = (Path(__file__).parent / "seeds.txt").read_text(encoding="utf-8").splitlines()
    return [int(line.split()[0]) for line in lines if line and not line.startswith("#")]


def told(result: object) -> str:
    return f"again: make simulate SEED={result.seed}\n" + "\n".join(result.breaches)  # type: ignore


@pytest.mark.failure("P4", "P11", "P14", "N2", "N3", "C1", "C2", "C5", "C8", "C9", "C11")
def test_a_slice_of_the_seeds() -> None:
    """Chaos, then healing: every promise holds, in each of them, and they saw enough."""
    jobs = os.cpu_count() or 1
    results = list(run_all(run_seed, (seed for seed in SLICE if not is_real(seed)), jobs))
    for result in results:
        assert not result.breaches, told(result)
    assert not any(result.little for result in results)
    met = {name for result in results for name in result.counts if name.startswith("fault.")}
    assert len(met) >= 20, f"only {met} happened"


@pytest.mark.parametrize("seed", kept_seeds())
def test_seeds_that_once_failed(seed: int) -> None:
    """They stay mended."""
    result = run_seed(seed)
    assert not result.breaches, told(result)


@pytest.mark.parametrize("seed", REAL)
def test_a_sample_on_what_ships(seed: int) -> None:
    """Through the ASGI application, and on SQLite in files."""
    assert is_real(seed)
    result = run_seed(seed)
    assert not result.breaches, told(result)


def test_the_same_seed_is_the_same_run() -> None:
    """To the last step, whatever order the interpreter gives to sets."""
    code = (
        "import logging; logging.disable(50)\n"
        "from tests.simulation.__main__ import run_seed\n"
        "for seed in (3, 38, 99):\n"
        "    r = run_seed(seed); print(seed, r.trace, r.steps, r.virtual_s, r.breaches)\n"
    )
    assert len(printed(code)) == 1


@pytest.mark.parametrize("name", HUNTED)
def test_the_simulator_sees(name: str) -> None:
    """A deliberate bug is caught within a few seeds."""
    assert name in MUTANTS
    assert any(run_seed(seed, name).breaches for seed in HUNTED[name]), f"{name} was not caught"
