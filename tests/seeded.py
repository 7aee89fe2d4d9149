"""Many seeds on several processes, for campaigns that judge each: what they share."""

import contextlib
import logging
import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).parents[1]
CHUNK_SEEDS = 8
Result = TypeVar("Result")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What regions log is not shown meanwhile; who calls this in a process of his own hears it
    again afterwards."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _run_chunk(
    run: Callable[[int, str | None], Result], seeds: list[int], mutant: str | None
) -> Any:
    with quiet():
        return [run(seed, mutant) for seed in seeds]


def run_all(
    run: Callable[[int, str | None], Result],
    seeds: Iterable[int],
    jobs: int,
    mutant: str | None = None,
) -> Iterator[Result]:
    """Seeds on several processes, in their order; who stops early leaves little undone."""
    left = iter(seeds)
    waiting: deque[Future[list[Result]]] = deque()
    with ProcessPoolExecutor(jobs) as pool:
        try:
            while True:
                while len(waiting) <= 2 * jobs and (chunk := list(islice(left, CHUNK_SEEDS))):
                    waiting.append(pool.submit(_run_chunk, run, chunk, mutant))
                if not waiting:
                    return
                yield from waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def commit() -> str:
    """The commit that is tested, where it is known."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return found.stdout.strip() or "unknown"


def report(told: dict[str, Any], met: dict[str, int]) -> str:
    """Figures for a person: a line each, and what was met."""
    lines = [f"{name.replace('_', ' ')}: {value}" for name, value in told.items()]
    return "\n".join([*lines, "met: " + ", ".join(f"{k} {v}" for k, v in met.items())])


def printed(code: str) -> set[str]:
    """What a program prints, under two orders that the interpreter gives to sets."""
    return {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": order},
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for order in ("1", "77")
    }
