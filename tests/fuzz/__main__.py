"""Damaged bytes against what decodes them: ``python -m tests.fuzz --inputs 100000``."""

import argparse
import json
import sys
from typing import Any

from tests.fuzz.campaign import TARGETS, Campaign
from tests.fuzz.taking import CHUNK_INPUTS, INPUT_CPU_MS_MAX
from tests.seeded import commit

_TEXT = """yjs: mutate real Yjs updates and make strange ones; put each into the parser, and what is
accepted into pycrdt: into an empty document and into one with content, which are then read whole
and made anew from their own snapshots. frames: mutate what regions say to each other, as a stranger
could, and as one that knows the secret; put each through a link's channel and what it lets pass
into the decoders of its kind. cursors: mutate the cursors of readers. All this happens in a process
with a watchdog. Exit codes: 0 nothing was raised but refusals, hung, differed, took over 50 ms of
CPU or kept memory, 1 something did (each input is printed), 2 wrong arguments."""


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=_TEXT)
    parser.add_argument("--inputs", type=int, default=100_000, help="how many each (100000)")
    names = ", ".join(TARGETS)
    parser.add_argument(
        "--target", action="append", choices=[*TARGETS], help=f"one of {names}; without it all"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the campaign (default 0)")
    parser.add_argument("--first", type=int, default=0, help="number of the first (default 0)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args(arguments)
    if options.inputs < 1 or options.first < 0:
        parser.error("--inputs: at least 1, --first: at least 0")
    names = options.target or list(TARGETS)
    # All of them, also after one that fails.
    failed = [_run(name, options) for name in names]
    return 1 if any(failed) else 0


def _run(name: str, options: argparse.Namespace) -> bool:
    """One campaign, and its figures printed; whether something failed."""
    campaign = Campaign(name, options.seed, options.first, options.inputs)
    campaign.run()
    told = summary(campaign, options.seed)
    if options.json:
        print(json.dumps(told), flush=True)
    else:
        lines = [f"{figure.replace('_', ' ')}: {value}" for figure, value in told.items()]
        print("\n".join(lines), flush=True)
    inputs = TARGETS[name](options.seed).inputs
    for number, why in campaign.figures.failures[:20]:
        chunk = options.first + (number - options.first) // CHUNK_INPUTS * CHUNK_INPUTS
        again = f"--target {name} --seed {options.seed} --first {chunk}"
        print(f"FAILED {name} input {number} ({again}): {why}\n  {inputs[number].hex()}")
    return bool(campaign.figures.failures)


def summary(campaign: Campaign, seed: int) -> dict[str, Any]:
    """The figures of a campaign."""
    figures = campaign.figures
    taken = figures.codes["taken"]
    return {
        "target": campaign.name,
        "commit": commit(),
        "seed": seed,
        "inputs": figures.inputs,
        "taken": taken,
        **{code: count for code, count in figures.codes.most_common() if code != "taken"},
        "worst_cpu_ms": round(figures.worst_ms, 1),
        "limit_cpu_ms": INPUT_CPU_MS_MAX,
        "worst_input": figures.worst_input,
        "rss_kib_warm": campaign.rss_kib[0],
        "rss_kib_end": campaign.rss_kib[1],
        "restarts": campaign.restarts,
        "failures": len(figures.failures),
    }


if __name__ == "__main__":
    sys.exit(main())
