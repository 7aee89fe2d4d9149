"""A rolling upgrade from a build of the history: ``python -m tests.upgrade --rev REV``."""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.upgrade.rolling import NAMES, OLDER, THIS, Build, breaches, roll

_TEXT = """Run three regions of an older build, and replace one after the other by this one, while
a text is written and read through them. Without --rev the older build is this one, on the first
version of the wire. Exit codes: 0 nothing was lost, doubled or refused, and all are equal; 1 not
so, or a region did not start; 2 wrong arguments."""
_ROOT = Path(__file__).parents[2]
# The parts of the package, and where they are in the repository.
_PARTS = {
    "replication": "replication",
    "regions": "regions",
    "api": "api",
    "page": "page",
    "browser": "sdk/javascript",
}


def build_of(rev: str, into: Path) -> Build:
    """A checkout of a revision, run with what is installed here."""
    tree = into / "tree"
    git = ("git", "-C", str(_ROOT))
    found = subprocess.run(
        [*git, "rev-parse", "--short", f"{rev}^{{commit}}"], capture_output=True, text=True
    )
    if found.returncode:
        raise SystemExit(f"no such revision here: {rev}")
    archive = subprocess.run([*git, "archive", rev], capture_output=True, check=True).stdout
    tree.mkdir()
    subprocess.run(["tar", "-x", "-C", str(tree)], input=archive, check=True)
    package = into / "packages" / "perdure"
    package.mkdir(parents=True)
    for name, place in _PARTS.items():
        (package / name).symlink_to(tree / place)
    (package.parent / "perdure_client").symlink_to(tree / "sdk/python/perdure_client")
    return Build(found.stdout.strip(), environment={"PYTHONPATH": str(package.parent)})


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="make upgrade", description=_TEXT)
    parser.add_argument("--rev", help="a commit that this repository has")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="perdure-upgrade-") as directory:
        path = Path(directory)
        older = OLDER if options.rev is None else build_of(options.rev, path)
        print(f"from {older.name} to {THIS.name}", file=sys.stderr, flush=True)
        began_s = time.monotonic()
        outcome = asyncio.run(roll(path / "data", dict.fromkeys(NAMES, older), THIS))
    found = breaches(outcome)
    print(f"{len(NAMES)} regions replaced in {time.monotonic() - began_s:.1f} s")
    print(f"{outcome.tokens} tokens written, {len(outcome.read.split())} read")
    print(f"the reader was at {', '.join(outcome.regions)} after each")
    for step, wires in zip(("before", *NAMES), outcome.wires, strict=True):
        said = " ".join(f"{way}:{'-' if v is None else v}" for way, v in wires.items())
        print(f"links {'before' if step == 'before' else f'after {step}':<9} {said}")
    print(f"regions {outcome.verified['regions']}")
    for breach in found:
        print(f"BREACH {breach}")
    print("nothing was lost, doubled or refused" if not found else f"{len(found)} promises broken")
    return 1 if found else 0


if __name__ == "__main__":
    os.environ.pop("PYTHONPATH", None)
    sys.exit(main())
