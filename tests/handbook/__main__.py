"""``python -m tests.handbook``: build the site of the documentation into ``site/``."""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.handbook.staging import ROOT, stage

BUILD_S_MAX = 120
COLOURS = re.compile(r"\x1b\[[\d;]*m")


def build(out: Path) -> str:
    """Build the site into a folder, which is made anew; what was said where links are broken, and
    the folder is then left as it was."""
    with tempfile.TemporaryDirectory(prefix="perdure-docs-") as made:
        folder = Path(made)
        stage(folder)
        command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
        done = subprocess.run(
            [*command, "-f", "zensical.toml"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=BUILD_S_MAX,
            check=False,
        )
        if done.returncode:
            return COLOURS.sub("", done.stdout + done.stderr)
        shutil.rmtree(out, ignore_errors=True)
        shutil.move(folder / "site", out)
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="make docs",
        description="Build the site of the documentation. Broken links are errors."
        " Exit codes: 0 built, 1 a link is broken or a page cannot be read, 2 wrong arguments.",
    )
    parser.add_argument("--out", type=Path, default=ROOT / "site", metavar="DIR")
    out: Path = parser.parse_args().out
    if said := build(out):
        print(said, file=sys.stderr)
        return 1
    print(f"{out}/index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
