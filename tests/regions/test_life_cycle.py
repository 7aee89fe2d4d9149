"""The recipes of docs/operating/life-cycle.md, run as they stand there."""

import asyncio
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from perdure.regions.cluster import free_ports

from tests.regions.processes import ENVIRONMENT

GUIDE = Path(__file__).parents[2] / "docs/operating/life-cycle.md"
PORTS = ("7101", "7102", "7201", "7202")
STORY_S_MAX = 120
BEGIN = "set -eux\ntrap 'kill $(jobs -p) 2> /dev/null || true' EXIT\n"


def story() -> str:
    """All commands of the guide, in their order, on ports that are free."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) == 7
    commands = "".join(blocks)
    for port, free in zip(PORTS, free_ports(len(PORTS)), strict=True):
        commands = commands.replace(port, str(free))
    return BEGIN + commands


@pytest.mark.failure("C2", "C4", "P13")
async def test_the_recipes_of_the_guide(tmp_path: Path) -> None:
    """A region is added while another runs, drained and taken back, restarted, replaced with an
    empty disk, removed for good, and started once more by mistake."""
    assert shutil.which("curl"), "the guide asks for it"
    path = f"{Path(sys.executable).parent}{os.pathsep}{ENVIRONMENT['PATH']}"
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", story()),
        cwd=tmp_path,
        env={**ENVIRONMENT, "PATH": path},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(STORY_S_MAX):
            out, err = (text.decode() for text in await process.communicate())
    finally:
        if process.returncode is None:
            os.killpg(process.pid, 9)
            await process.wait()
    assert process.returncode == 0, err
    assert out.count("equal: ") == 3 and "NOT equal" not in out, out
    assert "us is draining: 0 readers are still here" in out
    assert "us is not drained any more: ready" in out
    assert "us is removed for good, since 20" in out
    assert err.count("this region was removed for good, so it stops") == 2
    last = out.rpartition("since 20")[2]
    assert "eu *" in last and " up " not in last and "down" not in last
