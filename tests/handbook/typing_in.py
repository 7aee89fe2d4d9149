"""Types what a text tells people to type: in a folder like a checkout, at regions that run."""

import asyncio
import contextlib
import os
import re
import shlex
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

from perdure.regions.cluster import Cluster

from tests.handbook.blocks import Block, blocks
from tests.handbook.staging import ROOT

BLOCK_S_MAX = 40
STOP_S_MAX = 10
# Commands that go on until somebody stops them are stopped as soon as there is something to see.
# A first look may be too short on a machine that is busy; then the next is longer.
BEGIN = r"""
set -euo pipefail
shopt -s expand_aliases
some() {
  local seconds out
  for seconds in 1 4 15; do
    out=$(timeout -s INT $seconds "$@" 2>&1) || true
    if [ -n "$out" ]; then printf '%s\n' "$out"; return 0; fi
  done
  echo "nothing came of: $*" >&2
  return 1
}
curl() {
  case " $* " in
    *" -N "*) some curl -sS "$@" ;;
    *) command curl -sS --fail-with-body --max-time 20 "$@"; echo ;;
  esac
}
perdure() {
  case $1 in
    tail) some .venv/bin/perdure "$@" ;;
    *) command .venv/bin/perdure "$@" ;;
  esac
}
.venv/bin/perdure() { perdure "$@"; }
"""
# The commands that talk to a region talk to the first of the quickstart, unless they are told.
COMMAND = r"""#!/bin/sh
exec {python} -c '
import sys
from perdure.regions import client_command, doctor_command
client_command.DEFAULT_URL = doctor_command.DEFAULT_URL = "{url}"
from perdure.regions.main import main
sys.exit(main())' "$@"
"""
PROGRAM = """import asyncio
from perdure_client import Client

REGIONS = ["http://127.0.0.1:7101", "http://127.0.0.1:7102", "http://127.0.0.1:7103"]


async def main():
{body}


asyncio.run(main())
"""


class Wrong(AssertionError):
    """A block did not do what its text says."""


class Desk:
    """A folder like a checkout, for one text after another."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self.folder = folder
        self._cluster = cluster
        self._environment = {
            name: text for name, text in os.environ.items() if not name.startswith("PERDURE_")
        }
        binaries = folder / ".venv/bin"
        binaries.mkdir(parents=True)
        eu = cluster.regions["eu"].url
        for name, text in {
            "perdure": COMMAND.format(python=shlex.quote(sys.executable), url=eu),
            "python": f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n',
        }.items():
            (binaries / name).write_text(text)
            (binaries / name).chmod(0o755)
        for name in ("sdk", "deploy", "docs"):
            (folder / name).symlink_to(ROOT / name)
        data = folder / ".data/dev"
        data.mkdir(parents=True)
        # As ``perdure dev`` leaves them.
        grant = cluster.grant or ""
        (data / "curl").write_text(f'header = "Authorization: Bearer {grant}"\n')
        (data / "env").write_text(f"export PERDURE_GRANT={grant}\n")
        self._granted = {**self._environment, "PERDURE_GRANT": grant}

    def here(self, text: str) -> str:
        """The text with the ports of these regions."""
        for number, region in enumerate(self._cluster.regions.values()):
            text = text.replace(f"127.0.0.1:{7101 + number}", f"127.0.0.1:{region.port}")
        return text

    async def type_in(self, text: str) -> int:
        """Do what a text says, from its beginning; how many blocks were run. Raises
        :class:`Wrong`."""
        count = 0
        async with contextlib.AsyncExitStack() as stack:
            shell = await stack.enter_async_context(self._shell())
            for block in blocks(text):
                how = block.how
                if how is None or not (how.is_run or how.saved):
                    continue
                source = self.here(block.text)
                if how.name is not None:
                    (self.folder / how.name).write_text(source, encoding="utf-8")
                if how.meanwhile:
                    await stack.enter_async_context(self._going_on(str(how.name)))
                elif not how.saved:
                    printed = await self._run(block, source, shell)
                    if how.prints is not None and how.prints not in printed:
                        raise Wrong(f"line {block.line}: no {how.prints!r} in:\n{printed}")
                count += 1
        return count

    async def _run(self, block: Block, source: str, shell: asyncio.subprocess.Process) -> str:
        try:
            async with asyncio.timeout(BLOCK_S_MAX):
                if block.language == "sh":
                    return await self._in_shell(block, source, shell)
                if block.language == "python":
                    return await self._in_python(block, source)
        except TimeoutError:
            raise Wrong(f"line {block.line}: it goes on for more than {BLOCK_S_MAX} s") from None
        raise Wrong(f"line {block.line}: {block.language} cannot be run here: name a test")

    @contextlib.asynccontextmanager
    async def _shell(self) -> AsyncIterator[asyncio.subprocess.Process]:
        """One shell for a text: what one block exports, the next one has."""
        process = await asyncio.create_subprocess_exec(
            *("bash", "--norc", "-s"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=self.folder,
            env=self._environment,
        )
        assert process.stdin is not None
        process.stdin.write(BEGIN.encode())
        try:
            yield process
        finally:
            process.stdin.close()
            try:
                async with asyncio.timeout(STOP_S_MAX):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()

    async def _in_shell(self, block: Block, source: str, shell: asyncio.subprocess.Process) -> str:
        path = self.folder / f".block-{block.line}.sh"
        path.write_text(source, encoding="utf-8")
        assert shell.stdin is not None and shell.stdout is not None
        over = f"-- block {block.line} is over --"
        # A command that reads its input must not read the script.
        shell.stdin.write(f". ./{path.name} </dev/null; echo; echo '{over}'\n".encode())
        printed: list[str] = []
        while line := (await shell.stdout.readline()).decode():
            if line.strip() == over:
                return "".join(printed)
            printed.append(line)
        raise Wrong(f"line {block.line}: it failed, after:\n{''.join(printed)}")

    async def _in_python(self, block: Block, source: str) -> str:
        if "asyncio.run(" not in source and re.search(r"\b(await|async) ", source):
            source = self.here(PROGRAM.format(body=textwrap.indent(source, "    ")))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=self.folder,
            env=self._granted,
        )
        try:
            out, _ = await process.communicate(source.encode())
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0:
            raise Wrong(f"line {block.line}: it failed:\n{out.decode()}")
        return out.decode()

    @contextlib.asynccontextmanager
    async def _going_on(self, name: str) -> AsyncIterator[None]:
        """A program that goes on until the text is over, and must not have ended before."""
        with (self.folder / f"{name}.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, name),
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=self._granted,
            )
        try:
            yield
            if process.returncode is not None:
                said = (self.folder / f"{name}.log").read_text()
                raise Wrong(f"{name} ended before its text:\n{said}")
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
