"""Does somebody who is busy slow others down?

One region alone, so that what is measured is its own doing: on a machine with few cores, other
regions would be one more neighbour. Each row is measured between two stretches in which the quiet
sessions are by themselves, for such a machine is not the same from minute to minute.
"""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from perdure.regions.cluster import Cluster, free_ports

from tests.bench.rows import Bench, Row

# What the busy tenant may do. Without grants it is known by its address.
LIMITS = ("--limit", "session=1000/s,burst=2000", "--limit", "address=2000/s,burst=4000")
SOURCE = "127.0.0.2"
SLOWER_MAX = 2.0
# The neighbour is at work before the quiet ones are measured, and a little after.
HEAD_START_S = 1.0


async def fairness_rows(bench: Bench) -> AsyncIterator[Row]:
    """Quiet sessions, alone and beside a hot one, and beside a tenant with many busy ones."""
    readers, busy = (50, 20) if bench.quick else (2_000, 200)
    neighbours = {
        f"hot-session-{readers}-readers": ("hot", {"session": "hot", "readers": readers}),
        f"tenant-{busy}-busy-sessions": (
            "busy",
            {"label": "busy", "sessions": busy, "source": SOURCE},
        ),
    }
    async with alone(bench) as own:
        seconds = 0.6 if bench.quick else 6.0
        async with own.load(
            "quiet",
            url=own.eu.url,
            label="quiet",
            sessions=20,
            rate=10,
            seconds=seconds,
            pid=own.pid("eu"),
        ) as quiet:
            await quiet.go(quiet=False)
            before, _ = await quiet.go(quiet=False)
            for name, (kind, parameters) in neighbours.items():
                lasts = seconds + 2 * HEAD_START_S
                async with own.load(kind, url=own.eu.url, seconds=lasts, **parameters) as load:
                    working = asyncio.create_task(load.go(quiet=False))
                    await asyncio.sleep(HEAD_START_S)
                    beside, _ = await quiet.go(quiet=False)
                    worked, usage = await working
                after, _ = await quiet.go(quiet=False)
                yield compared(name, before, beside, after, worked | {"wall_s": usage.wall_s})
                before = after


def compared(
    name: str, before: dict[str, Any], beside: dict[str, Any], after: dict[str, Any], worked: Any
) -> Row:
    """The row of one neighbour."""
    figures: dict[str, Any] = {"tokens_per_s": worked["tokens"] / worked["wall_s"]}
    figures |= {key: worked[key] for key in ("deliveries", "refused") if key in worked}
    slower = 0.0
    for what in ("acked", "read", "worked"):
        for part in ("p50", "p99"):
            key = f"{what}_{part}_ms"
            base = (before[key] + after[key]) / 2
            figures[f"{what}_{part}_alone_ms"], figures[key] = base, beside[key]
            figures[f"{what}_{part}_times"] = beside[key] / base
        if what != "worked":
            slower = max(slower, figures[f"{what}_p99_times"])
    figures["wrong"] = beside["wrong"]
    aim = f"p99 ≤ {SLOWER_MAX:g} times as long"
    return Row(f"fairness-beside-{name}", figures, aim, slower <= SLOWER_MAX)


@contextlib.asynccontextmanager
async def alone(bench: Bench) -> AsyncIterator[Bench]:
    """One region without peers, with limits."""
    ports = free_ports(6)
    pairs = list(zip(ports[::2], ports[1::2], strict=True))
    with tempfile.TemporaryDirectory(prefix="perdure-bench-") as directory:
        cluster = Cluster(Path(directory), pairs, LIMITS)
        for name in [name for name in cluster.regions if name != "eu"]:
            del cluster.regions[name]
        async with cluster:
            yield Bench(cluster, quick=bench.quick)
