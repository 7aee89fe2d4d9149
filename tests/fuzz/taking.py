"""Takes the inputs of a campaign in chunks, and judges each by what it costs and what it raises."""

import gc
import resource
import time
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Protocol

INPUT_CPU_MS_MAX = 50
# What a target keeps begins anew after so many inputs.
CHUNK_INPUTS = 100


class Broken(Exception):
    """Something did not come as it must."""


class Numbered(Protocol):
    """The inputs of a campaign, by their numbers."""

    def __getitem__(self, number: int) -> bytes: ...


@dataclass
class Figures:
    """What came of some inputs."""

    inputs: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    worst_ms: float = 0.0
    worst_input: int = -1
    failures: list[tuple[int, str]] = field(default_factory=list)
    rss_kib: int = 0

    def add(self, other: "Figures") -> None:
        """Put the figures of later inputs to these."""
        self.inputs += other.inputs
        self.codes += other.codes
        self.failures += other.failures
        self.rss_kib = other.rss_kib
        if other.worst_ms > self.worst_ms:
            self.worst_ms, self.worst_input = other.worst_ms, other.worst_input


class Target(ABC):
    """What inputs are put into; made anew in the process that takes them."""

    inputs: Numbered

    @abstractmethod
    def begin(self) -> None:
        """Forget the inputs of earlier chunks, or of one that failed."""

    @abstractmethod
    def put(self, data: bytes) -> str:
        """``taken``, or how the input was refused. Whatever this raises is a failure."""

    def run(self, numbers: range, begin: Any) -> Figures:
        """Put in a chunk; ``begin.value`` says meanwhile which input is being put in."""
        figures = Figures()
        self.begin()
        gc.disable()
        for number in numbers:
            begin.value = number
            data = self.inputs[number]
            before = time.process_time()
            try:
                code = self.put(data)
            except BaseException as error:  # pycrdt's panics are no Exceptions
                if isinstance(error, KeyboardInterrupt | SystemExit):
                    raise
                code = "failed"
                figures.failures.append((number, f"{type(error).__name__}: {error}"[:500]))
                self.begin()
            spent_ms = (time.process_time() - before) * 1_000
            figures.inputs += 1
            figures.codes[code] += 1
            if spent_ms > figures.worst_ms:
                figures.worst_ms, figures.worst_input = spent_ms, number
            if spent_ms > INPUT_CPU_MS_MAX:
                figures.failures.append((number, f"{spent_ms:.0f} ms of CPU"))
        begin.value = -1
        gc.enable()
        gc.collect(1)
        figures.rss_kib = _rss_kib()
        return figures


def _rss_kib() -> int:
    with open("/proc/self/statm") as lines:
        return int(lines.read().split()[1]) * resource.getpagesize() // 1_024
