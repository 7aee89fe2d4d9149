"""Chaos on real processes: ``python -m tests.chaos --rounds 20``."""

import argparse
import asyncio
import json
import shutil
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from tests.chaos.namespaces import Namespaces, NoNamespaces
from tests.chaos.regions import NAMES, Regions
from tests.chaos.rounds import Outcome, Told, campaign
from tests.seeded import commit

_TEXT = """Run three regions as processes on this machine, with proxies between them, and clients
over HTTP; kill, stop, pause, wipe, cut and fill up, and judge what the clients saw. The seed of a
round draws its clients and its faults; processes and the network are the machine's. Exit codes:
0 every promise held, 1 one was broken (the logs and disks are kept), 2 wrong arguments, 130 it was
stopped before the end."""


class Console(Told):
    """Says on stderr what happens."""

    def on_begin(self, regions: Regions) -> None:
        if not regions.small.mounted:
            _say("no small file system can be mounted here: no disk is filled up")

    def on_round(self, outcome: Outcome) -> None:
        counts = outcome.history.counts
        _say(
            f"round {outcome.seed}: {', '.join(['kill', *outcome.faults])};"
            f" {counts['resumes']} resumes ({counts['resumes_elsewhere']} elsewhere),"
            f" equal {outcome.history.converged_s:.1f} s after the last token"
        )
        for breach in outcome.breaches[:5]:
            _say(f"  BREACH {breach[:1_000]}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def summary(outcomes: list[Outcome]) -> dict[str, Any]:
    """Figures of all rounds."""
    counts: Counter[str] = Counter()
    for outcome in outcomes:
        counts.update(outcome.history.counts)
    equal = sorted(o.history.converged_s for o in outcomes)
    return {
        "commit": commit(),
        "rounds": len(outcomes),
        "failed": [o.seed for o in outcomes if o.breaches],
        "kills": counts["fault.kill"],
        "resumes": counts["resumes"],
        "resumes_elsewhere": counts["resumes_elsewhere"],
        "requests": sum(o.history.calls for o in outcomes),
        "acknowledgements": sum(len(o.history.acked) for o in outcomes),
        "events": sum(len(o.history.shown) for o in outcomes),
        "equal_after_s_median": round(equal[len(equal) // 2], 1),
        "equal_after_s_max": round(equal[-1], 1),
        "seconds": round(sum(o.seconds for o in outcomes)),
        "faults": {n[6:]: c for n, c in sorted(counts.items()) if n.startswith("fault.")},
    }


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make chaos", description=_TEXT)
    parser.add_argument("--rounds", type=int, default=20, help="how many (default 20)")
    parser.add_argument("--first", type=int, default=0, help="the first round (default 0)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument(
        "--namespaces",
        action="store_true",
        help="regions in network namespaces of their own, where links lose packets; as root",
    )
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("--rounds: at least 1")
    namespaces = Namespaces(NAMES) if options.namespaces else None
    if namespaces is not None:
        try:
            namespaces.make()
        except NoNamespaces as error:
            parser.error(f"--namespaces: {error}")
    directory = Path(tempfile.mkdtemp(prefix="perdure-chaos-"))
    seeds = range(options.first, options.first + options.rounds)
    outcomes: list[Outcome] = []
    try:
        whole = asyncio.run(_played(directory, seeds, outcomes, namespaces))
    finally:
        if namespaces is not None:
            namespaces.remove()
    if not outcomes:
        _say(f"stopped; what the regions printed is in {directory}")
        return 130
    told = summary(outcomes)
    if not whole:
        _say(f"stopped after {len(outcomes)} rounds")
    if told["failed"]:
        _say(f"what the regions printed and stored is kept in {directory}")
    else:
        shutil.rmtree(directory)
    if options.json:
        print(json.dumps(told))
    else:
        print("\n".join(f"{name.replace('_', ' ')}: {value}" for name, value in told.items()))
    return 1 if told["failed"] else 0 if whole else 130


async def _played(
    directory: Path, seeds: range, outcomes: list[Outcome], namespaces: Namespaces | None
) -> bool:
    """Whether all were played: SIGINT and SIGTERM end the campaign, and the regions with it."""
    playing = asyncio.create_task(campaign(directory, seeds, Console(), outcomes, namespaces))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, playing.cancel)
    try:
        await playing
    except asyncio.CancelledError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
