"""Run seeds: ``python -m tests.simulation --seeds 2000``, or one again with ``--seed``."""

import argparse
import json
import os
import sys
import time
import traceback
from collections import Counter
from contextlib import nullcontext
from typing import NamedTuple

from tests.seeded import commit, quiet, report, run_all
from tests.simulation import (
    document_mutants,
    erasure_mutants,
    mutants,
    presence_mutants,
    run_mutants,
)
from tests.simulation.checkers import TooLittle, judge
from tests.simulation.world import simulate

MUTANTS = (
    mutants.MUTANTS
    | presence_mutants.MUTANTS
    | run_mutants.MUTANTS
    | document_mutants.MUTANTS
    | erasure_mutants.MUTANTS
)

# Every so many-th seed runs through the ASGI application, on SQLite.
REAL_EVERY = 50
MUTANT_SEEDS_MAX = 500
# The share of seeds in which too little may be seen to judge.
LITTLE_MAX = 0.01


class Result(NamedTuple):
    """What came of one seed. ``trace``: a digest of everything that happened."""

    seed: int
    breaches: list[str]
    trace: str
    counts: dict[str, int]
    equal_after_s: float | None
    steps: int
    virtual_s: float
    cpu_s: float
    little: bool = False


def is_real(seed: int) -> bool:
    """Whether a seed is of the sample that runs on what ships."""
    return seed % REAL_EVERY == REAL_EVERY - 1


def run_seed(seed: int, mutant: str | None = None) -> Result:
    """One seed, judged; an exception is a breach too."""
    began = time.process_time()
    try:
        with MUTANTS[mutant]() if mutant else nullcontext():
            outcome = simulate(seed, real=mutant is None and is_real(seed))
        history = outcome.history
    except Exception as error:
        trace = traceback.format_exc(limit=-4)
        breach = f"crash: {type(error).__name__}: {error}\n{trace}"
        return Result(seed, [breach], "", {}, None, 0, 0.0, time.process_time() - began)
    little, breaches = False, []
    try:
        breaches = judge(history)
    except TooLittle:
        little = True
    return Result(
        seed,
        breaches,
        outcome.trace,
        dict(history.counts),
        history.equal_after_s,
        outcome.steps,
        outcome.virtual_s,
        time.process_time() - began,
        little,
    )


def replay(seed: int) -> int:
    """One seed again, with everything that happened."""
    with quiet():
        outcome = simulate(seed, tracing=True, real=is_real(seed))
    for line in outcome.lines:
        print(line)
    breaches = judge(outcome.history)
    print(f"seed {seed}, commit {commit()}, faults: {', '.join(outcome.faults)}")
    print(f"trace {outcome.trace}, {outcome.steps} steps, {outcome.virtual_s:.0f} s of its time")
    for breach in breaches:
        print(f"BREACH {breach}")
    return 1 if breaches else 0


def campaign(first: int, count: int, jobs: int, as_json: bool) -> int:
    """Many seeds; tells of each that fails at once, and in the end what was met."""
    began = time.monotonic()
    counts: Counter[str] = Counter()
    failed: list[int] = []
    slowest = cpu_s = virtual_s = 0.0
    little = 0
    for done, result in enumerate(run_all(run_seed, range(first, first + count), jobs), 1):
        counts.update(result.counts)
        little += result.little
        slowest = max(slowest, result.equal_after_s or 0.0)
        cpu_s, virtual_s = cpu_s + result.cpu_s, virtual_s + result.virtual_s
        if result.breaches:
            failed.append(result.seed)
            print(f"seed {result.seed} (commit {commit()}) breaks a promise:", file=sys.stderr)
            for breach in result.breaches[:5]:
                print(f"  {breach[:1000]}", file=sys.stderr)
            print(f"  again: make simulate SEED={result.seed}", file=sys.stderr)
        if done % 500 == 0 and not as_json:
            print(f"{done} of {count} seeds, {len(failed)} failed", file=sys.stderr, flush=True)
    told = {
        "commit": commit(),
        "seeds": [first, first + count - 1],
        "failed": failed,
        "too_little": little,
        "seconds": round(time.monotonic() - began, 1),
        "cpu_ms_a_seed": round(1000 * cpu_s / count),
        "virtual_hours": round(virtual_s / 3600, 1),
        "equal_after_s_max": round(slowest, 1),
    }
    met = {k: v for k, v in sorted(counts.items()) if not k.startswith("broken.")}
    print(json.dumps({**told, "met": met}) if as_json else report(told, met))
    return 1 if failed or little > count * LITTLE_MAX else 0


def hunt(names: list[str], jobs: int, seeds_max: int) -> int:
    """Every mutant, until a seed catches it."""
    missed = 0
    print(f"{'mutant':34} {'seed':>5}  caught by")
    for name in names:
        caught = None
        for result in run_all(run_seed, range(seeds_max), jobs, name):
            if result.breaches:
                caught = result
                break
        if caught is None:
            missed += 1
            print(f"{name:34} {'-':>5}  NOT CAUGHT in {seeds_max} seeds", flush=True)
        else:
            what = caught.breaches[0].split("\n")[0]
            print(f"{name:34} {caught.seed:5}  {what[:110]}", flush=True)
    print(f"{len(names) - missed} of {len(names)} caught; commit {commit()}")
    return 1 if missed else 0


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2000, help="how many (default 2000)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default 0)")
    parser.add_argument("--seed", type=int, help="one seed again, with its trace")
    parser.add_argument("--mutants", action="store_true", help="the deliberate bugs instead")
    parser.add_argument("--only", action="append", choices=sorted(MUTANTS), help="one mutant")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--json", action="store_true", help="the report as JSON")
    options = parser.parse_args()
    if options.seed is not None:
        return replay(options.seed)
    if options.mutants or options.only:
        seeds_max = min(options.seeds, MUTANT_SEEDS_MAX)
        return hunt(options.only or list(MUTANTS), options.jobs, seeds_max)
    return campaign(options.first, options.seeds, options.jobs, options.json)


if __name__ == "__main__":
    sys.exit(main())
