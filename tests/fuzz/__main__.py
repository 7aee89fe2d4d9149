"""Damaged Yjs updates against the parser and pycrdt: ``python -m tests.fuzz --inputs 100000``."""

import argparse
import json
import sys
from typing import Any

from tests.fuzz.campaign import Campaign
from tests.fuzz.target import CHUNK_INPUTS, INPUT_CPU_MS_MAX, campaign_inputs
from tests.seeded import commit

_TEXT = """Mutate real Yjs updates and make strange ones; put each into the parser, and what is
accepted into pycrdt: into an empty document and into one with content, which are then read whole
and made anew from their own snapshots. All this happens in a process with a watchdog. Exit codes:
0 nothing panicked, hung, differed, took over 50 ms of CPU or kept memory, 1 something did (each
input is printed), 2 wrong arguments."""


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=_TEXT)
    parser.add_argument("--inputs", type=int, default=100_000, help="how many (default 100000)")
    parser.add_argument("--seed", type=int, default=0, help="of the campaign (default 0)")
    parser.add_argument("--first", type=int, default=0, help="number of the first (default 0)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args(arguments)
    if options.inputs < 1 or options.first < 0:
        parser.error("--inputs: at least 1, --first: at least 0")
    campaign = Campaign(options.seed, options.first, options.inputs)
    campaign.run()
    told = summary(campaign, options.seed)
    if options.json:
        print(json.dumps(told))
    else:
        print("\n".join(f"{name.replace('_', ' ')}: {value}" for name, value in told.items()))
    inputs = campaign_inputs(options.seed)
    for number, why in campaign.figures.failures[:20]:
        chunk = options.first + (number - options.first) // CHUNK_INPUTS * CHUNK_INPUTS
        print(f"FAILED seed {options.seed} input {number} (--first {chunk}): {why}")
        print(f"  {inputs[number].hex()}")
    return 1 if campaign.figures.failures else 0


def summary(campaign: Campaign, seed: int) -> dict[str, Any]:
    """The figures of a campaign."""
    figures = campaign.figures
    taken = figures.codes["taken"]
    return {
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
