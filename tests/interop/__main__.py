"""``python -m tests.interop``: see ``--help``."""

import argparse
import asyncio
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from perdure.regions.cluster import Cluster, free_ports

_TEXT = """Unmodified clients of y-websocket edit a shared document at three regions, beside agents
over REST. Needs Node 18 or newer, and npm with a registry: yjs, y-websocket and ws are installed
into a folder of their own, which is removed (or kept and used again: --modules). Exit codes: 0 it
works, 1 it does not, 2 wrong arguments or nothing to run it with."""
_PACKAGES = ("yjs@13.6.33", "y-websocket@3.1.0", "ws@8")
_SCRIPT = Path(__file__).with_name("regions.mjs")
_LIMIT_S = 120


def install(folder: Path) -> None:
    """The clients, as their registry has them."""
    if not (folder / "node_modules" / "y-websocket").exists():
        (folder / "package.json").write_text('{"private": true}')
        command = ["npm", "install", "--no-audit", "--no-fund", "--silent", *_PACKAGES]
        subprocess.run(command, cwd=folder, check=True)
    shutil.copy(_SCRIPT, folder)


async def run(folder: Path) -> int:
    """The script against three fresh regions; its exit code."""
    with tempfile.TemporaryDirectory(prefix="perdure-interop-") as data:
        ports = free_ports(6)
        async with Cluster(Path(data), list(zip(ports[::2], ports[1::2], strict=True))) as cluster:
            urls = [region.url for region in cluster.regions.values()]
            process = await asyncio.create_subprocess_exec("node", _SCRIPT.name, *urls, cwd=folder)
            try:
                async with asyncio.timeout(_LIMIT_S):
                    return await process.wait()
            except TimeoutError:
                process.kill()
                return await process.wait()


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.interop", description=_TEXT)
    parser.add_argument("--modules", type=Path, help="a folder to install into, and to keep")
    given: Path | None = parser.parse_args().modules
    if shutil.which("node") is None or shutil.which("npm") is None:
        print("this needs node and npm", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="perdure-modules-") as made:
        folder = given or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            install(folder)
        except subprocess.CalledProcessError:
            print("npm could not install the clients: is there a registry?", file=sys.stderr)
            return 2
        return min(1, abs(asyncio.run(run(folder))))


if __name__ == "__main__":
    sys.exit(main())
