"""``python -m tests.bench``: see ``--help``."""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from perdure.regions.cluster import Cluster, free_ports

from tests.bench import report
from tests.bench import rows as measured
from tests.bench.accounting import machine
from tests.bench.disk import encryption_rows
from tests.bench.fairness import fairness_rows
from tests.bench.report import number
from tests.bench.rows import Bench, Row

GROUPS = {**measured.GROUPS, "encryption": encryption_rows, "fairness": fairness_rows}
_TEXT = """Measure three regions on this machine, on real disks and sockets. CPU is what the kernel
counts, of the accepting region (server), of its two peers together, and of the load client; a row
in which one of these processes had no CPU left is marked as saturated. What was measured is kept in
docs/performance.json, in the place of what was there of the same groups, and docs/PERFORMANCE.md
and its plots are made from that. Exit codes: 0 done, 1 a region or the load client died, 2 wrong
arguments."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=_TEXT)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument(
        "--quick", action="store_true", help="a short look at every row; nothing is written"
    )
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), metavar="GROUP")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where performance.json, PERFORMANCE.md and its plots are (docs)",
    )
    parser.add_argument(
        "--page", action="store_true", help="measure nothing: the page and plots from the JSON"
    )
    options = parser.parse_args()
    if options.out is None and not options.quick:
        options.out = report.DOCS
    if options.page:
        report.write(report.load(options.out or report.DOCS), options.out or report.DOCS)
        return 0
    return asyncio.run(run(options))


async def run(options: argparse.Namespace) -> int:
    """Measure what is asked for. Only what was measured to its end is written."""
    found: dict[str, list[Row]] = {}
    about = {**machine(), "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"}
    with tempfile.TemporaryDirectory(prefix="perdure-bench-") as directory:
        ports = free_ports(6)
        pairs = list(zip(ports[::2], ports[1::2], strict=True))
        idle = "2" if options.quick else "10"
        async with Cluster(Path(directory), pairs, ["--evict-idle-s", idle]) as cluster:
            bench = Bench(cluster, quick=options.quick)
            began = time.monotonic()
            try:
                for number, group in enumerate(options.only, 1):
                    spent = time.monotonic() - began
                    say(f"[{number}/{len(options.only)}] {group} … ({spent:.0f} s so far)")
                    found[group] = []
                    async for row in GROUPS[group](bench):
                        found[group].append(row)
                        say(f"  {line(row)}")
            except RuntimeError as error:
                say(f"the benchmark ends here, and nothing is written: {error}")
                return 1
    rows = [row for of in found.values() for row in of]
    if options.out is not None:
        measured = {group: [asdict(row) for row in of] for group, of in found.items()}
        kept = report.merged(report.load(options.out), about, measured, list(GROUPS))
        report.write(kept, options.out)
        say(f"written: {options.out / report.KEPT}, {options.out / report.PAGE} and its plots")
    if options.json:
        print(json.dumps({"machine": about, "rows": [asdict(row) for row in rows]}, indent=1))
    else:
        print(table(about, rows))
    return 0


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def line(row: Row) -> str:
    figures = ", ".join(f"{name} {number(value)}" for name, value in row.figures.items())
    verdict = "" if row.met is None else (" ok" if row.met else " MISSES")
    aim = f" [{row.aim}{verdict}]" if row.aim else ""
    saturated = f" (saturated: {', '.join(row.saturated)})" if row.saturated else ""
    return f"{row.name}: {figures}{aim}{saturated}"


def table(about: dict[str, str], rows: list[Row]) -> str:
    lines = [f"{name}: {value}" for name, value in about.items()] + [""]
    lines += ["| row | figures | aim | |", "|---|---|---|---|"]
    for row in rows:
        figures = ", ".join(f"{name} {number(value)}" for name, value in row.figures.items())
        verdict = "" if row.met is None else ("ok" if row.met else "misses")
        saturated = f" saturated: {', '.join(row.saturated)}" if row.saturated else ""
        lines.append(f"| {row.name} | {figures} | {row.aim} | {verdict}{saturated} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
