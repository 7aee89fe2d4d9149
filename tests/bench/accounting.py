"""CPU and memory of processes, as the kernel counts them."""

import os
import platform
import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("uvicorn", "uvloop", "httptools", "fastapi", "aiohttp", "pycrdt", "sqlalchemy")


def cpu_ns(pid: int) -> int:
    """The time that a process has spent on a CPU, all threads, in nanoseconds
    (``/proc/PID/task/*/schedstat``: the scheduler's, not the 10 ms ticks of ``stat``)."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            total += int((task / "schedstat").read_text().split()[0])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total


def memory_bytes(pid: int) -> int:
    """What a process has in memory for itself: private pages (``smaps_rollup``)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    private = (line.split() for line in lines if line.startswith("Private_"))
    return sum(int(fields[1]) for fields in private) * 1024


@dataclass
class Usage:
    """CPU of one measured stretch, in nanoseconds, and how long it took. ``us`` and ``ap`` are the
    accepting region's two peers."""

    server_ns: int
    us_ns: int
    ap_ns: int
    load_ns: int
    wall_s: float

    @property
    def peers_ns(self) -> int:
        return self.us_ns + self.ap_ns

    def share(self, ns: int) -> float:
        """Of one CPU, from 0 on."""
        return ns / 1e9 / self.wall_s if self.wall_s else 0.0


def machine() -> dict[str, str]:
    """Where and of what the figures are."""
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    models = [line.partition(":")[2] for line in cpuinfo.splitlines() if "model name" in line]
    return {
        "cpu": (models or ["unknown"])[0].strip(),
        "cores": str(os.cpu_count()),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
        "commit": _commit(),
        "load": _load(),
    }


def _load() -> str:
    """How busy the machine is before anything is measured."""
    return " ".join(f"{load:.2f}" for load in os.getloadavg()) + " (over 1, 5 and 15 minutes)"


def _commit() -> str:
    try:
        commit = _git("rev-parse", "--short", "HEAD")
        return commit + ("+changes" if _git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()
