"""Inputs in a process with a watchdog: what ends it, and what does not end."""

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.fuzz.cursors import CursorTarget
from tests.fuzz.peer_frames import FramesTarget
from tests.fuzz.taking import CHUNK_INPUTS, Figures, Target
from tests.fuzz.yjs import YjsTarget

HANG_CPU_S_MAX = 5.0
# After the first chunks everything that is kept has been made; what grows then is a leak.
RSS_GROWTH_KIB_MAX = 65_536
WARM_CHUNKS = 20
REPORT_EVERY_S = 15
# What bytes are put into, by the name that the command line knows.
TARGETS: Mapping[str, Callable[[int], Target]] = {
    "yjs": YjsTarget,
    "frames": FramesTarget,
    "cursors": CursorTarget,
}
# Whoever needs that many processes has seen enough.
RESTARTS_MAX = 50


def _work(name: str, seed: int, first: int, inputs: int, begin: Any, pipe: Connection) -> None:
    target = TARGETS[name](seed)
    for start in range(first, first + inputs, CHUNK_INPUTS):
        pipe.send(target.run(range(start, min(start + CHUNK_INPUTS, first + inputs)), begin))
    pipe.close()


class Watched:
    """The process that takes the inputs, from ``first`` on."""

    def __init__(self, name: str, seed: int, first: int, inputs: int) -> None:
        forking = multiprocessing.get_context("fork")
        self._begin = forking.Value("q", -1, lock=False)
        self._pipe, theirs = forking.Pipe(duplex=False)
        self._process = forking.Process(
            target=_work, args=(name, seed, first, inputs, self._begin, theirs), daemon=True
        )
        self._process.start()
        theirs.close()
        self._seen = (-1, 0.0)

    def next(self) -> Figures | str | None:
        """The figures of a chunk, None after the last, or what ended the process."""
        while True:
            if self._pipe.poll(0.2):
                try:
                    figures: Figures = self._pipe.recv()
                except EOFError:
                    self._process.join()
                    code = self._process.exitcode
                    return None if code == 0 else f"the process ended with {code}"
                return figures
            number, cpu_s = self._begin.value, self._cpu_s()
            if number != self._seen[0] or number < 0:
                self._seen = (number, cpu_s)
            elif cpu_s - self._seen[1] > HANG_CPU_S_MAX:
                self._process.kill()
                self._process.join()
                return f"more than {HANG_CPU_S_MAX} s of CPU"

    @property
    def at(self) -> int:
        """The input that was being put in."""
        return int(self._begin.value)

    def _cpu_s(self) -> float:
        try:
            stat = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="ascii")
        except OSError:
            return 0.0
        fields = stat.rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Campaign:
    """All inputs, over as many processes as it takes."""

    def __init__(self, name: str, seed: int, first: int, inputs: int) -> None:
        self.figures = Figures()
        self.rss_kib: tuple[int, int] = (0, 0)
        self.restarts = 0
        self.name = name
        self._seed, self._first, self._end = seed, first, first + inputs
        self._told = time.monotonic()

    def run(self) -> None:
        """Until every input has been put in, or too many have ended the process."""
        at = self._first
        while at < self._end and self.restarts < RESTARTS_MAX:
            at = self._run_from(at)

    def _run_from(self, first: int) -> int:
        watched = Watched(self.name, self._seed, first, self._end - first)
        at, chunks, warm_kib = first, 0, 0
        while isinstance(result := watched.next(), Figures):
            at += result.inputs
            chunks += 1
            self.figures.add(result)
            for number, why in result.failures:
                print(f"input {number}: {why}", file=sys.stderr, flush=True)
            if chunks <= WARM_CHUNKS or warm_kib == 0:
                warm_kib = max(warm_kib, result.rss_kib)
            self.rss_kib = (warm_kib, result.rss_kib)
            self._tell()
        if result is None:
            if self.rss_kib[1] - warm_kib > RSS_GROWTH_KIB_MAX:
                self.figures.failures.append((at - 1, f"{self.rss_kib} KiB of memory"))
            return self._end
        self.restarts += 1
        self.figures.failures.append((max(watched.at, at), result))
        return max(watched.at, at) + 1

    def _tell(self) -> None:
        if time.monotonic() - self._told < REPORT_EVERY_S:
            return
        self._told = time.monotonic()
        figures = self.figures
        print(
            f"{self.name}: {figures.inputs} inputs, {figures.codes['taken']} taken, worst"
            f" {figures.worst_ms:.1f} ms, {figures.rss_kib} KiB, {len(figures.failures)} failures",
            file=sys.stderr,
            flush=True,
        )
