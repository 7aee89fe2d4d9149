"""Cases that are drawn from a region's own description: ``python -m tests.schemathesis``."""

import argparse
import asyncio
import json
import logging
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from tests.regions.processes import COMMAND, ENVIRONMENT, Served
from tests.seeded import ROOT, commit

_TEXT = """Start a region (perdure serve --dev-no-auth) and have schemathesis draw requests from its
/openapi.json, good and bad, until there were so many. Nothing may come that the description does
not tell: statuses, media types, schemas; no 5xx but 503 and 507 with Retry-After; every refusal a
problem, every answer with its guarding headers. Exit codes: 0 so it was, 1 it was not (its report
is printed, with the request), 2 wrong arguments."""
_HOOKS = "tests.schemathesis.hooks"
_HERE = Path(__file__).parent
# Operations, and cases that each round begins with: the edges of what is described.
_OPERATIONS = 38
_BEGINNING = 1_100
_OUTCOMES = ("accepted", "unreachable", "conflicts", "rejected")
PHASES = "coverage,fuzzing,stateful"
ROUNDS_MAX = 100
_REPORT_CHARS_MAX = 20_000
ROUND_S_MAX = 3_600


class Campaign:
    """Rounds against one region, and what came of them."""

    def __init__(self, directory: Path, cases: int, seed: int, phases: str = PHASES) -> None:
        self.served = Served(directory / "eu")
        self.counts: Counter[str] = Counter()
        self.generated = 0
        self.failed = 0
        self.rounds = 0
        self._directory, self._cases, self._seed = directory, cases, seed
        self._phases = phases

    async def run(self) -> bool:
        """Until there were enough cases; whether all were as they must be."""
        log_path = self._directory / "eu.log"
        # A file: a pipe that nobody reads would stop the region.
        with log_path.open("wb") as log:
            region = await asyncio.create_subprocess_exec(
                *COMMAND,
                *self.served.arguments("--bootstrap"),
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=ENVIRONMENT,
            )
            assert region.stdout is not None
            try:
                said = await region.stdout.readline()
                assert said, log_path.read_text()
                good = await self._rounds()
            finally:
                lived = region.returncode is None
                if lived:
                    region.terminate()
                code = await region.wait()
        logged = _said(log_path)
        print(logged, end="")
        if not (lived and code == 0):
            print(f"FAILED: the region ended with {code}, alive until then: {lived}")
        return good and lived and code == 0 and not logged

    async def _rounds(self) -> bool:
        while self.generated < self._cases and self.rounds < ROUNDS_MAX:
            left = min(self._cases - self.generated, 20_000) - _BEGINNING
            if not await self._round(max(5, left // _OPERATIONS)):
                return False
            print(f"{self.generated} cases, {self.failed} failed", file=sys.stderr, flush=True)
        return True

    async def _round(self, examples: int) -> bool:
        report = self._directory / "report.json"
        command = [sys.executable, "-m", "schemathesis.cli"]
        command += ["--config-file", str(_HERE / "schemathesis.toml"), "run"]
        command += [f"{self.served.url}/openapi.json", "--max-examples", str(examples)]
        command += ["--seed", str(self._seed + self.rounds), "--warnings", "off", "--no-color"]
        command += ["--phases", self._phases, "--report", "json", "--report-json-path", str(report)]
        process = await asyncio.create_subprocess_exec(
            *command,
            # What it notes for its next run is forgotten.
            cwd=self._directory,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "SCHEMATHESIS_HOOKS": _HOOKS,
                "SCHEMATHESIS_ROUND": str(self.rounds),
            },
        )
        try:
            async with asyncio.timeout(ROUND_S_MAX):
                out, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        self.rounds += 1
        if not report.exists():
            print(out.decode()[-_REPORT_CHARS_MAX:])
            return False
        told = json.loads(report.read_text())
        report.unlink()
        self._note(told)
        if process.returncode != 0 or not told["complete"]:
            print(out.decode()[-_REPORT_CHARS_MAX:])
            return False
        return True

    def _note(self, told: dict[str, Any]) -> None:
        self.generated += told["test_cases"]["generated"]
        self.failed += told["test_cases"]["with_failures"]
        for phases in told["valid_rates"].values():
            for outcomes in phases.values():
                self.counts.update(outcomes)


def _said(path: Path) -> str:
    """What a region logs of errors of its own: of those there are none."""
    lines = path.read_text(encoding="utf-8").splitlines()
    wrong = [line for line in lines if json.loads(line)["level"] in ("error", "critical")]
    return "".join(f"LOGGED {line}\n" for line in wrong[:20])


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make schemathesis", description=_TEXT)
    parser.add_argument("--cases", type=int, default=1_000, help="at least so many (1000)")
    parser.add_argument("--seed", type=int, default=1, help="of the first round (1)")
    parser.add_argument("--phases", default=PHASES, help=f"of each round ({PHASES})")
    options = parser.parse_args(arguments)
    if options.cases < 1:
        parser.error("--cases: at least 1")
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory(prefix="perdure-schemathesis-") as directory:
        campaign = Campaign(Path(directory), options.cases, options.seed, options.phases)
        good = asyncio.run(campaign.run())
    told: dict[str, Any] = {
        "commit": commit(),
        "seeds": f"{options.seed} to {options.seed + campaign.rounds - 1}",
        "cases": campaign.generated,
        "failed": campaign.failed,
        # Of those that the description says are good.
        **{f"good_{name}": campaign.counts[name] for name in _OUTCOMES},
    }
    print("\n".join(f"{name.replace('_', ' ')}: {value}" for name, value in told.items()))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
