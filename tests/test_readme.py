"""The programs in the README run, as they stand there, against three real regions."""

import asyncio
import json
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from perdure.api.grants import Grants
from perdure.regions.cluster import Cluster, Issuer, free_ports

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROGRAM_S_MAX = 30
ANSWER = "Nothing is lost."


def block(language: str, containing: str) -> str:
    """The one code block of a language that contains this."""
    blocks = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    (found,) = [text for text in blocks if containing in text]
    return str(found)


@pytest.fixture
async def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cluster]:
    ports = free_ports(6)
    pairs = list(zip(ports[::2], ports[1::2], strict=True))
    # As ``perdure dev`` runs them, and its file for the shell gives the grant to what is run here.
    async with Cluster(tmp_path, pairs, issuer=Issuer(mint)) as cluster:
        monkeypatch.setenv("PERDURE_GRANT", cluster.grant or "")
        yield cluster


def mint(secret: bytes, claims: Mapping[str, Any]) -> str:
    return Grants(secret).mint(claims)


def here(text: str, cluster: Cluster) -> str:
    """The text with this cluster's ports in the place of 7101 to 7103."""
    for number, region in enumerate(cluster.regions.values()):
        text = text.replace(f"127.0.0.1:{7101 + number}", f"127.0.0.1:{region.port}")
    return text


async def run(*command: str | Path, stdin: str = "") -> str:
    """What a program prints; it must succeed."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    async with asyncio.timeout(PROGRAM_S_MAX):
        out, errors = await process.communicate(stdin.encode())
    assert process.returncode == 0, errors.decode()
    return out.decode()


async def publish_agent(cluster: Cluster, tmp_path: Path) -> None:
    program = tmp_path / "agent.py"
    program.write_text(here(block("python", "session"), cluster))
    await run(sys.executable, program)


async def test_the_agent(cluster: Cluster, tmp_path: Path) -> None:
    """Ten lines of Python; every region then holds the whole answer."""
    await publish_agent(cluster, tmp_path)
    for region in cluster.regions.values():
        command = [sys.executable, "-m", "perdure.regions.main", "tail", "demo", "--json"]
        process = await asyncio.create_subprocess_exec(
            *command, "--url", region.url, stdout=asyncio.subprocess.PIPE, cwd=ROOT
        )
        assert process.stdout is not None
        async with asyncio.timeout(PROGRAM_S_MAX):
            snapshot = json.loads(await process.stdout.readline())
            process.terminate()
            await process.wait()
        assert [m["text"] for m in snapshot["data"]["messages"]] == [ANSWER]
    verified = await run(
        sys.executable,
        *("-m", "perdure.regions.main", "verify", "demo", "--json"),
        *("--url", cluster.regions["ap"].url),
    )
    assert json.loads(verified)["equal"] is True


async def test_the_browser_reader(cluster: Cluster, tmp_path: Path) -> None:
    """The module of the page, with a document of one element."""
    node = shutil.which("node")
    if node is None:
        assert os.environ.get("CI") != "true", "the browser reader needs Node 18 or newer"
        pytest.skip("no node here: the README's browser reader was not run")
    page = block("html", "perdure.js")
    module = page[page.index('<script type="module">') + 22 : page.index("</script>")]
    module = here(module, cluster).replace(
        '"./sdk/javascript/perdure.js"',
        json.dumps((ROOT / "sdk/javascript/perdure.js").as_uri()),
    )
    document = f"""
      globalThis.location = {{ hash: "#{cluster.grant}" }};
      globalThis.document = {{ querySelector: () => ({{
        set textContent(text) {{
          if (text === "assistant: {ANSWER}") {{ console.log(text); process.exit(0); }}
        }},
      }}) }};
    """
    program = tmp_path / "reader.mjs"
    program.write_text(document + module)
    reading = asyncio.create_task(run(node, program))
    await publish_agent(cluster, tmp_path)
    assert await reading == f"assistant: {ANSWER}\n"


async def test_the_commands(cluster: Cluster) -> None:
    """A prompt from standard input, with what every machine has."""
    (line,) = [line for line in block("sh", "publish").splitlines() if "| .venv" in line]
    command = here(line.split("|")[1].strip(), cluster).split()
    assert command[:2] == [".venv/bin/perdure", "publish"]
    url = cluster.regions["eu"].url
    printed = await run(
        sys.executable,
        *("-m", "perdure.regions.main", *command[1:], "--url", url),
        stdin="What survives?",
    )
    assert "1 tokens" in printed
