"""The JavaScript client and a Python worker meet in two real regions."""

import asyncio
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from sdk.python.tests.served import Served

from perdure_client import Client, Turn

MODULE = Path(__file__).parents[2] / "javascript" / "perdure.js"
PROGRAM_S_MAX = 30
PROGRAM = """
import { Client, statusOf } from MODULE;
const [urls, transport] = [URLS, TRANSPORT];
const session = new Client(urls, { transport }).session("s");
const prompt = await session.send("user", "Hello?");
let run = null;
let seen = [];
const here = { presence: "ann", presenceData: { name: "Ann" } };
for await (const view of session.read(here)) {
  if (view.ready && run === null) {
    run = await session.requestRun("bot", { input: prompt.id, by: "ann" });
    await session.signal("typing", null, { from: "ann" });
  }
  const message = run && view.messages.find(({ id }) => id === run.id);
  if (!message) continue;
  const suspended = view.runs.some((each) => each.status === "suspended");
  if (suspended && !seen.includes("suspended")) {
    seen.push("suspended");
    await session.send("user", "Yes.", { run: run.id });
  }
  if (statusOf(view, message) !== "streaming") {
    const members = view.presence.map(({ member, data }) => [member, data?.name ?? null]);
    const told = await session.run(run.id);
    const text = message.text;
    console.log(JSON.stringify({ text, status: message.status, told: told.status, seen, members }));
    break;
  }
}
run = await session.requestRun("nobody");
console.log(JSON.stringify((await session.cancelRun(run.id)).status));
"""


def node(transport: str) -> list[str]:
    """The program with its options, or a skip."""
    found = shutil.which("node")
    if found is None:
        assert os.environ.get("CI") != "true", "the JavaScript client needs Node 18 or newer"
        pytest.skip("no node here: the JavaScript client did not meet a region")
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True)
    major = int(version.stdout.removeprefix("v").partition(".")[0])
    if transport == "websocket" and major < 20:
        pytest.skip("this Node has no WebSocket")
    return [found, "--experimental-websocket", "--no-warnings"] if major in (20, 21) else [found]


async def printed_by(command: list[str], program: str) -> str:
    """What a module prints; it must succeed."""
    process = await asyncio.create_subprocess_exec(
        *(*command, "--input-type=module", "--eval", program),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PROGRAM_S_MAX):
        printed, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return printed.decode()


async def answer(turn: Turn) -> None:
    """Asks for a word before it answers."""
    await turn.writer.write("You said ")
    await turn.suspend({"asks": "Sure?"})
    async for message in turn.new_inputs():
        await turn.resume()
        await turn.pipe([message["text"]])
        return


@pytest.mark.parametrize("transport", ["websocket", "sse", "poll"])
async def test_a_browser_asks_and_a_worker_answers(
    regions: tuple[Served, Served], transport: str
) -> None:
    """Over every transport: who reads is a member meanwhile, sees the run wait, and gives it what
    it waits for; the worker is in the other region."""
    eu, us = regions
    values: dict[str, Any] = {"MODULE": MODULE.as_uri(), "URLS": [eu.url], "TRANSPORT": transport}
    text = PROGRAM
    for name, value in values.items():
        text = text.replace(name, json.dumps(value))
    async with Client([us.url, eu.url]) as client:
        working = asyncio.create_task(client.agent("bot").work(answer))
        printed = await printed_by(node(transport), text)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
    said, stopped = map(json.loads, printed.splitlines())
    assert stopped == "cancelled"
    assert ["ann", "Ann"] in said.pop("members")
    assert said == {
        "text": "You said Yes.",
        "status": "complete",
        "told": "complete",
        "seen": ["suspended"],
    }


async def test_the_reader_of_the_readme(regions: tuple[Served, Served]) -> None:
    """As it stands there, it shows who reads, and a message that waits for its agent."""
    readme = (MODULE.parent / "README.md").read_text(encoding="utf-8")
    (snippet,) = (
        block for block in re.findall(r"```js\n(.*?)```", readme, re.DOTALL) if "presence:" in block
    )
    urls = [each.url for each in regions]
    head = f"""
      import {{ Client, statusOf }} from {json.dumps(MODULE.as_uri())};
      const session = new Client({json.dumps(urls)}).session("demo");
      await session.requestRun("bot");
      const show = (members, messages) => {{
        if (!members.length) return;
        console.log(JSON.stringify([members.map(({{ data }}) => data), messages]));
        process.exit(0);
      }};
    """
    printed = json.loads(await printed_by(node("auto"), head + snippet))
    assert printed == [[{"name": "Ann"}], [["", "streaming"]]]
