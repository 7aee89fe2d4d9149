"""What faults make hot: ``python -m tests.hotspots``."""

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.chaos.regions import Regions
from tests.hotspots.diverged import diverged
from tests.hotspots.flapping import flapping
from tests.hotspots.storm import storm
from tests.seeded import commit

_TEXT = """Three regions as processes on this machine. A region dies under many readers, and all
come back elsewhere; many sessions have diverged when a split heals, with logs that reach back and
with logs that do not; and a link breaks and comes back every second, for minutes."""
_SHORT_LOGS = ("--log-bytes-max", "3000", "--evict-idle-s", "5")


async def measure(readers: int, light: int, sessions: int, flaps: int) -> dict[str, Any]:
    """The figures; times in seconds, memory in KiB."""
    told: dict[str, Any] = {"commit": commit()}
    with tempfile.TemporaryDirectory(prefix="perdure-hotspots-") as directory:
        path = Path(directory)
        for name, count in (("storm", readers), ("storm_light", light)):
            if count:
                async with Regions(path / name) as regions:
                    _say(f"{count} readers ({name}); their region is killed")
                    found = await storm(regions, count, light=name == "storm_light")
                told[name] = {
                    "readers": found.readers,
                    "back_s": {share: round(found.share_s(s), 2) for share, s in _SHARES.items()},
                    "answers": found.answers,
                    "errors": found.errors,
                    "not_back": found.missing,
                    "wrong": found.wrong,
                    "steps_lost": found.steps_lost,
                }
        for name, limits in (("diverged", ()), ("diverged_below_logs", _SHORT_LOGS)):
            if sessions:
                async with Regions(path / name, lambda limits=limits: limits) as regions:
                    _say(f"{sessions} sessions diverge; {' '.join(limits) or 'usual logs'}")
                    healed = await diverged(regions, sessions, forgotten=bool(limits))
                told[name] = {
                    "sessions": healed.sessions,
                    "messages": healed.messages,
                    "equal_s": round(healed.equal_s, 1),
                    "jumps": healed.jumps,
                }
        if flaps:
            async with Regions(path / "flapping") as regions:
                _say(f"a link flaps {flaps} times, once a second")
                flapped = await flapping(regions, flaps)
            told["flapping"] = {
                "flaps": flapped.flaps,
                "tokens": flapped.tokens,
                "memory_kib": {n: [b // 1024 for b in m] for n, m in flapped.memory.items()},
                "grown_kib": {n: flapped.grown_bytes(n) // 1024 for n in flapped.memory},
                "dials": flapped.dials,
                "equal_s": round(flapped.equal_s, 1),
            }
    return told


_SHARES = {"p50": 0.5, "p99": 0.99, "max": 1.0}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make hotspots", description=_TEXT)
    parser.add_argument("--readers", type=int, default=1_000, help="of one region (default 1000)")
    parser.add_argument(
        "--light", type=int, default=5_000, help="readers that are less than a client (5000)"
    )
    parser.add_argument("--sessions", type=int, default=1_000, help="that diverge (default 1000)")
    parser.add_argument("--flaps", type=int, default=60, help="of a link (default 60)")
    options = parser.parse_args(arguments)
    numbers = (options.readers, options.light, options.sessions, options.flaps)
    if min(numbers) < 0:
        parser.error("numbers must not be negative")
    told = asyncio.run(measure(*numbers))
    print(json.dumps(told, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
