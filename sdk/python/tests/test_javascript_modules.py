"""The JavaScript modules for React, for the AI SDK and for other clients, through the death of the
region that they read at: three real processes, one of which is killed."""

import asyncio
import json
import os
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from perdure.regions.cluster import Cluster, free_ports

from perdure_client import Client, Turn

FOLDER = Path(__file__).parents[2] / "javascript"
PROGRAM_S_MAX = 60
WORDS = [f"word-{number} " for number in range(60)]
TEXT = "".join(WORDS)
FIRST = 20
KILL_BEHIND = f"word-{FIRST - 1} "

CHAT = """
import { Chat } from "@ai-sdk/react";
import { Client } from "./perdure.js";
import { PerdureChatTransport, toUIMessages } from "./ai.js";
const client = new Client(URLS, { transport: "sse" });
const transport = new PerdureChatTransport(client, { agent: "bot", author: "ann" });
const chat = new Chat({ id: "s", transport });
const asking = chat.sendMessage({ text: "Go on?" });
const textOf = (message) => (message?.parts ?? []).map(({ text }) => text).join("");
while (!textOf(chat.messages.at(-1)).includes(BEHIND)) {
  await new Promise((resolve) => setTimeout(resolve, 5));
}
console.log(JSON.stringify({ kill: true }));
await asking;
const held = toUIMessages(await client.session("s").snapshot());
console.log(JSON.stringify({
  text: textOf(chat.messages.at(-1)),
  status: chat.status,
  error: chat.error?.message ?? null,
  same: JSON.stringify(held.map(textOf)) === JSON.stringify(chat.messages.map(textOf)),
}));
"""

STOP = """
import { Chat } from "@ai-sdk/react";
import { Client } from "./perdure.js";
import { PerdureChatTransport } from "./ai.js";
const client = new Client(URLS, { transport: "sse" });
const transport = new PerdureChatTransport(client, { agent: "bot" });
const chat = new Chat({ id: "s", transport });
const textOf = (message) => (message?.parts ?? []).map(({ text }) => text).join("");
const begun = async () => {
  while (!textOf(chat.messages.at(-1)).includes(BEHIND)) {
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
};
let asking = chat.sendMessage({ text: "Go on?" });
await begun();
await chat.stop();
await asking;
const left = chat.messages.at(-1).id;
const { status: whileLeft } = await client.session("s").run(left);
asking = chat.resumeStream();
await begun();
const { status } = await transport.stop("s");
await asking;
const none = await transport.stop("s");
const { length } = (await client.session("s").messages()).messages;
console.log(JSON.stringify({ whileLeft, status, chat: chat.status, length, none }));
"""

HOOKS = """
import React from "react";
import renderer from "react-test-renderer";
import { Client } from "./perdure.js";
import { usePresence, useSession } from "./react.js";
const client = new Client(URLS, { transport: "sse" });
const run = await client.session("s").requestRun("bot");
let isKilled = false;
function Answer() {
  const message = useSession(client, "s", { presence: "ann" }).messages.at(-1);
  if (!isKilled && message?.text.includes(BEHIND)) {
    isKilled = true;
    console.log(JSON.stringify({ kill: true }));
  }
  if (message?.status === "complete") done(message.text);
  return message?.text ?? null;
}
let here = [];
function Here() {
  here = usePresence(client, "s").map(({ member }) => member);
  return here.join();
}
let done;
const over = new Promise((resolve) => (done = resolve));
const both = [Answer, Here].map((each) => React.createElement(each, { key: each.name }));
const root = renderer.create(both);
const text = await over;
here = here.filter((member) => member === "ann");
console.log(JSON.stringify({ text, here, shown: root.toJSON()[0] }));
root.unmount();
"""

FETCH = """
import { EventParser, apply, newView } from "./perdure.js";
import { durableFetch } from "./fetch.js";
const fetch = durableFetch(URLS);
const headers = { "content-type": "application/json" };
const post = (path, fields) =>
  fetch("/v1/sessions/s" + path, { method: "POST", headers, body: JSON.stringify(fields) });
await post("/runs", { id: "r", agent: "bot" });
const { body } = await fetch("/v1/sessions/s/events");
const parser = new EventParser();
let view = newView("s");
let isKilled = false;
for await (const bytes of body) {
  // `apply` throws for an event that comes twice, and for what follows one that is missing.
  for (const { event, data } of parser.feed(bytes)) view = apply(view, event, JSON.parse(data));
  const [message] = view.messages;
  if (!isKilled && message?.text.includes(BEHIND)) {
    isKilled = true;
    console.log(JSON.stringify({ kill: true }));
  }
  if (message?.status === "complete") break;
}
const sent = await post("/messages", { id: "m", role: "user", text: "Thanks." });
const region = sent.headers.get("perdure-region");
console.log(JSON.stringify({ text: view.messages[0].text, sent: sent.status, region }));
"""


@pytest.fixture
def node() -> str:
    """The command, or a skip that says what is missing."""
    found = shutil.which("node")
    if found is None:
        assert os.environ.get("CI") != "true", "the JavaScript client needs Node 18 or newer"
        pytest.skip("no node here: the JavaScript modules did not meet a region")
    return found


def needs(*packages: str) -> pytest.MarkDecorator:
    """Skip where npm has not installed what a program imports."""
    missing = [name for name in packages if not (FOLDER / "node_modules" / name).exists()]
    reason = f"not installed here: {', '.join(missing)} (make setup-js)"
    return pytest.mark.skipif(bool(missing), reason=reason)


@pytest.fixture
async def cluster(tmp_path: Path, node: str) -> AsyncIterator[Cluster]:
    """Three regions, where there is something to try them with."""
    assert node
    ports = free_ports(6)
    async with Cluster(tmp_path, list(zip(ports[::2], ports[1::2], strict=True))) as cluster:
        yield cluster


def answering(killed: asyncio.Event) -> Callable[[Turn], Awaitable[None]]:
    """A handler that writes the first words, and the rest when a region was killed."""

    async def answer(turn: Turn) -> None:
        begun = len(turn.text.split())
        for word in WORDS[begun:FIRST]:
            await turn.writer.write(word)
        await killed.wait()
        for word in WORDS[max(begun, FIRST) :]:
            await turn.writer.write(word)
        await turn.end()

    return answer


async def last_of(program: str, cluster: Cluster, node: str) -> dict[str, Any]:
    """The last line that a program prints, while a worker of another region answers. The region
    that it reads at is killed where the program says so."""
    urls = [region.url for region in cluster.regions.values()]
    for name, value in {"URLS": urls, "BEHIND": KILL_BEHIND}.items():
        program = program.replace(name, json.dumps(value))
    process = await asyncio.create_subprocess_exec(
        *(node, "--input-type=module", "--eval", program),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=FOLDER,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    errors = asyncio.create_task(process.stderr.read())
    said: dict[str, Any] = {}
    killed = asyncio.Event()
    async with Client(urls[::-1]) as client:
        working = asyncio.create_task(client.agent("bot").work(answering(killed)))
        try:
            async with asyncio.timeout(PROGRAM_S_MAX):
                async for line in process.stdout:
                    said = json.loads(line)
                    if said.get("kill"):
                        await cluster.kill(next(iter(cluster.regions)))
                        killed.set()
                await process.wait()
            assert process.returncode == 0, (await errors).decode()
        finally:
            if process.returncode is None:
                process.kill()
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
    return said


@needs("ai", "@ai-sdk/react", "react")
async def test_the_chat_of_the_ai_sdk(cluster: Cluster, node: str) -> None:
    """Its region is killed in the middle of the answer: the chat ends with the whole text, once."""
    said = await last_of(CHAT, cluster, node)
    assert said == {"text": TEXT, "status": "ready", "error": None, "same": True}


@needs("ai", "@ai-sdk/react", "react")
async def test_leaving_a_chat_is_not_stopping_it(cluster: Cluster, node: str) -> None:
    """The SDK's stop ends the reading; the agent goes on, and the transport's stop cancels it."""
    said = await last_of(STOP, cluster, node)
    assert said == {
        "whileLeft": "running",
        "status": "cancelled",
        "chat": "ready",
        "length": 2,
        "none": None,
    }


@needs("react", "react-test-renderer")
async def test_hooks(cluster: Cluster, node: str) -> None:
    """What a component shows goes on elsewhere, and its member was never away."""
    said = await last_of(HOOKS, cluster, node)
    assert said == {"text": TEXT, "here": ["ann"], "shown": TEXT}


async def test_a_fetch_of_another_client(cluster: Cluster, node: str) -> None:
    """One body, across the death of its region: no event twice, and none missing."""
    said = await last_of(FETCH, cluster, node)
    assert said.pop("region") != "eu"
    assert said == {"text": TEXT, "sent": 201}


async def test_the_fetch_of_the_readme(cluster: Cluster, node: str) -> None:
    """As it stands there, its body tells what a session holds."""
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    (snippet,) = (
        block for block in re.findall(r"```js\n(.*?)```", readme, re.DOTALL) if "durable" in block
    )
    for number, region in enumerate(cluster.regions.values()):
        snippet = snippet.replace(f"127.0.0.1:{7101 + number}", f"127.0.0.1:{region.port}")
    shows = """
      const show = (bytes) => {
        const [event] = new TextDecoder().decode(bytes).split("\\n");
        console.log(JSON.stringify({ event }));
        process.exit(0);
      };
    """
    assert await last_of(shows + snippet, cluster, node) == {"event": "event: snapshot"}
