"""Cut the power of a region, round after round: ``python -m tests.powercut --rounds 2000``, or one
round again with ``--seed``.

Exit codes: 0 every round kept every promise (with --mutants: every bug was caught); 1 one did not;
2 the command is wrong, or this Python's SQLite cannot be reached.
"""

import argparse
import json
import os
import sys
import time
from collections import Counter

from tests.powercut.mutants import MUTANTS
from tests.powercut.rounds import play
from tests.regions.faulty_disk import library
from tests.seeded import commit, quiet, report, run_all

MUTANT_ROUNDS_MAX = 500
PROGRESS_EVERY = 200


def again(seed: int) -> int:
    """One round again, with how each of its lives ended."""
    with quiet():
        outcome = play(seed)
    print(f"seed {seed}, commit {commit()}")
    for number, life in enumerate(outcome.lives, 1):
        print(f"life {number}: {life}")
    for breach in outcome.breaches:
        print(f"BREACH {breach}")
    print(f"{outcome.counts['acknowledged']} operations acknowledged, trace {outcome.trace:08x}")
    return 1 if outcome.breaches else 0


def campaign(first: int, count: int, jobs: int, as_json: bool) -> int:
    """Many rounds; tells of each that fails at once, and in the end what was met."""
    began = time.monotonic()
    counts: Counter[str] = Counter()
    failed: list[int] = []
    lives = 0
    for done, outcome in enumerate(run_all(play, range(first, first + count), jobs), 1):
        counts.update(outcome.counts)
        lives += len(outcome.lives)
        if outcome.breaches:
            failed.append(outcome.seed)
            print(f"round {outcome.seed} (commit {commit()}) failed:", file=sys.stderr)
            for number, life in enumerate(outcome.lives, 1):
                print(f"  life {number}: {life}", file=sys.stderr)
            for breach in outcome.breaches:
                print(f"  {breach[:2000]}", file=sys.stderr)
            print(f"  again: make powercut SEED={outcome.seed}", file=sys.stderr)
        if done % PROGRESS_EVERY == 0 and not as_json:
            print(f"{done} of {count} rounds, {len(failed)} failed", file=sys.stderr, flush=True)
    told = {
        "commit": commit(),
        "rounds": count,
        "first": first,
        "failed": failed,
        "lives": lives,
        "power_cuts": sum(n for name, n in counts.items() if name.startswith("found."))
        - counts["found.the process was killed"],
        "acknowledged": counts.pop("acknowledged"),
        "seconds": round(time.monotonic() - began, 1),
    }
    met = dict(sorted(counts.items()))
    print(json.dumps({**told, "met": met}) if as_json else report(told, met))
    return 1 if failed else 0


def hunt(names: list[str], jobs: int, rounds_max: int) -> int:
    """Every mutant, until a round catches it."""
    missed = 0
    for name in names:
        found = (o for o in run_all(play, range(rounds_max), jobs, name) if o.breaches)
        caught = next(found, None)
        if caught is None:
            missed += 1
            print(f"{name:24} NOT CAUGHT in {rounds_max} rounds", flush=True)
        else:
            what = caught.breaches[0].strip().split("\n")[-1]
            print(f"{name:24} {caught.seed:4}  {what[:120]}", flush=True)
        found.close()
    print(f"{len(names) - missed} of {len(names)} caught; commit {commit()}")
    return 1 if missed else 0


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.powercut",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=2000, help="how many (default 2000)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default 0)")
    parser.add_argument("--seed", type=int, help="one round again")
    parser.add_argument("--mutants", action="store_true", help="the deliberate bugs instead")
    parser.add_argument("--only", action="append", choices=sorted(MUTANTS), help="one mutant")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--json", action="store_true", help="the report as JSON")
    options = parser.parse_args()
    if library() is None:
        print("this Python hides its SQLite: its system calls cannot be replaced", file=sys.stderr)
        return 2
    if options.seed is not None:
        return again(options.seed)
    if options.mutants or options.only:
        rounds_max = min(options.rounds, MUTANT_ROUNDS_MAX)
        return hunt(options.only or list(MUTANTS), options.jobs, rounds_max)
    return campaign(options.first, options.rounds, options.jobs, options.json)


if __name__ == "__main__":
    sys.exit(main())
