"""A worker and shared documents in JavaScript, through the death of the region that they are at:
three real processes, one of which is killed."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from perdure.regions.cluster import Cluster
from sdk.python.tests.test_javascript_modules import (
    FOLDER,
    KILL_BEHIND,
    PROGRAM_S_MAX,
    TEXT,
    WORDS,
    cluster,
    needs,
    node,
)

from perdure_client import Cancelled, Client

assert cluster
assert node

WORK = """
import { Client } from "./perdure.js";
const client = new Client(URLS, { transport: TRANSPORT });
const leaving = new AbortController();
let killed;
const isKilled = new Promise((resolve) => (killed = resolve));
process.stdin.once("data", killed);
const words = WORDS;
async function* model(begun) {
  for (const [number, word] of words.entries()) {
    if (number < begun) continue;
    if (number === 20) {
      console.log(JSON.stringify({ kill: true }));
      await isKilled;
    }
    yield word;
  }
}
const done = [];
await client.agent("bot", { lease_s: 3 }).work(async (turn) => {
  const asked = await turn.session.message(turn.run.input);
  await turn.pipe(model(turn.text.split(" ").length - 1));
  done.push([asked.text, turn.writer.moves, turn.attempt]);
  leaving.abort();
}, { signal: leaving.signal });
console.log(JSON.stringify({ done }));
"""

FOLLOW = """
import { Client } from "./perdure.js";
const draft = new Client(URLS).session("s").document("d");
for await (const { text } of draft.follow()) console.log(JSON.stringify({ text }));
console.log(JSON.stringify({ over: true }));
"""

STOPS = """
import { Client } from "./perdure.js";
const client = new Client(URLS, { transport: "sse" });
const leaving = new AbortController();
const said = [];
await client.agent("bot", { lease_s: 3 }).work(async (turn) => {
  if (turn.run.detail === null && turn.attempt === 1 && turn.run.by === "asks") {
    await turn.writer.write("You said ");
    await turn.suspend({ asks: "Sure?" });
    console.log(JSON.stringify({ suspended: true }));
    for await (const message of turn.newInputs()) {
      await turn.resume();
      await turn.pipe([message.text]);
      return;
    }
  }
  if (turn.run.by === "fails") throw new Error("no model");
  let isClosed = false;
  async function* endless() {
    try {
      yield "begun ";
      console.log(JSON.stringify({ begun: true }));
      await new Promise((resolve) => turn.signal.addEventListener("abort", resolve));
      yield "too late";
    } finally {
      isClosed = true;
    }
  }
  try {
    await turn.pipe(endless());
  } catch (error) {
    await new Promise((resolve) => setTimeout(resolve, 0));
    said.push([error.code, turn.error.code, isClosed]);
    leaving.abort();
    throw error;
  }
}, { signal: leaving.signal, onError: (turn, error) => said.push([turn.run.by, error.message]) });
console.log(JSON.stringify({ said }));
"""

LIVE = """
import WebSocket from "ws";
import { WebsocketProvider } from "y-websocket";
import * as Y from "yjs";
import { Client } from "./perdure.js";
import { live } from "./yjs.js";
const options = { WebsocketProvider, WebSocketPolyfill: WebSocket, disableBc: true };
const at = (urls) =>
  live(new Client(urls).session("s").document("d"), { ...options, doc: new Y.Doc() });
const one = at(URLS);
const two = at([...URLS].reverse());
await Promise.all([one.synced(), two.synced()]);
const texts = () => [one, two].map(({ doc }) => doc.getText("text").toString());
const until = async (done) => {
  while (!done()) await new Promise((resolve) => setTimeout(resolve, 5));
};
one.awareness.setLocalState({ name: "ann" });
const type = (from, to) => {
  for (let n = from; n < to; n += 1) {
    one.doc.getText("text").insert(0, `a${n} `);
    two.doc.getText("text").insert(0, `b${n} `);
  }
};
type(0, 20);
const killed = new Promise((resolve) => process.stdin.once("data", resolve));
console.log(JSON.stringify({ kill: true }));
await killed;
type(20, 40);
const isWhole = (text, other) => text === other && text.split(" ").length === 81;
await until(() => one.moves > 0 && isWhole(...texts()));
await until(() => two.awareness.getStates().get(one.doc.clientID)?.name === "ann");
const [text] = texts();
const { region, moves } = one;
one.close();
two.close();
console.log(JSON.stringify({ text, region, moves, other: two.moves }));
process.exit(0);
"""

REFUSED = """
import WebSocket from "ws";
import { WebsocketProvider } from "y-websocket";
import * as Y from "yjs";
import { Client } from "./perdure.js";
import { live } from "./yjs.js";
const session = new Client(URLS).session("s");
const heard = [];
const open = (id) => {
  let onError;
  const refused = new Promise((resolve) => (onError = ({ code }) => resolve(heard.push(code))));
  const options = { WebsocketProvider, WebSocketPolyfill: WebSocket, disableBc: true, onError };
  return { ...{ refused }, it: live(session.document(id), { ...options, doc: new Y.Doc() }) };
};
const large = open("large");
await large.it.synced();
large.it.doc.getText("text").insert(0, "x".repeat(600_000));
await large.refused;
const gone = open("gone");
await gone.it.synced();
await session.delete();
await gone.refused;
const never = open("never");
await never.refused;
const code = await never.it.synced().catch((error) => error.code);
console.log(JSON.stringify({ heard, code }));
process.exit(0);
"""


class Program:
    """A module that runs, and says lines of JSON."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def line(self) -> dict[str, Any]:
        """The next that it says."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        text = await self.process.stdout.readline()
        assert text, (await self.process.stderr.read()).decode()
        value: dict[str, Any] = json.loads(text)
        return value

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"on\n")
        self.process.stdin.close()


@asynccontextmanager
async def running(command: str, program: str, **values: Any) -> AsyncIterator[Program]:
    """The program, with these values in the place of their names; it must succeed, in time."""
    for name, value in values.items():
        program = program.replace(name, json.dumps(value))
    process = await asyncio.create_subprocess_exec(
        *(command, "--input-type=module", "--eval", program),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=Path(FOLDER),
    )
    try:
        async with asyncio.timeout(PROGRAM_S_MAX):
            yield Program(process)
            await process.wait()
        assert process.returncode == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize("transport", ["sse", "poll"])
async def test_a_worker_outlives_its_region(cluster: Cluster, node: str, transport: str) -> None:
    """Asked for in one region, worked on at another, which is killed in the middle: the answer is
    there whole and once, in the same attempt."""
    urls = [each.url for each in cluster.regions.values()]
    values = {"URLS": urls, "TRANSPORT": transport, "WORDS": WORDS}
    async with Client([urls[2], urls[1]]) as client, running(node, WORK, **values) as program:
        session = client.session("s")
        prompt = await session.send("user", "Go on?")
        run = await session.request_run("bot", input=prompt["id"])
        assert await program.line() == {"kill": True}
        async for view in session.read():
            answer = view.message(run["id"])
            if answer is not None and answer.text.endswith(KILL_BEHIND):
                break
        await cluster.kill("eu")
        program.go_on()
        async for view in session.read():
            answer = view.message(run["id"])
            if answer is not None and answer.status == "complete":
                break
        assert answer is not None
        assert answer.text == TEXT
        assert await program.line() == {"done": [["Go on?", 1, 1]]}
        assert (await session.run(run["id"]))["status"] == "complete"


async def test_a_document_is_followed_through_a_death(cluster: Cluster, node: str) -> None:
    """Each new state is heard of, in both languages, also after the region that told of them has
    been killed; and that the document was deleted ends it."""
    urls = [each.url for each in cluster.regions.values()]
    heard: asyncio.Queue[str] = asyncio.Queue()
    async with (
        Client(urls) as near,
        Client(urls[1:]) as far,
        running(node, FOLLOW, URLS=urls) as js,
    ):

        async def follow() -> None:
            async for value in near.session("s").document("d").follow():
                await heard.put(value.text)

        async def both_hear(text: str) -> None:
            assert await js.line() == {"text": text}
            async with asyncio.timeout(PROGRAM_S_MAX):
                assert await heard.get() == text

        draft = far.session("s").document("d")
        await draft.append("a")
        following = asyncio.create_task(follow())
        await both_hear("a")
        await draft.append("b")
        await both_hear("ab")
        await cluster.kill("eu")
        await draft.append("c")
        await both_hear("abc")
        await draft.delete()
        assert await js.line() == {"over": True}
        async with asyncio.timeout(PROGRAM_S_MAX):
            await following
    assert heard.empty()


async def test_a_worker_waits_fails_and_is_stopped(cluster: Cluster, node: str) -> None:
    """A run that waits for a word gets it; one whose handler throws has failed; one that is
    cancelled elsewhere ends the handler's stream while that waits for its next token."""
    urls = [each.url for each in cluster.regions.values()]
    async with Client(urls[1:]) as client, running(node, STOPS, URLS=urls) as program:
        session = client.session("s")
        asks = await session.request_run("bot", by="asks")
        assert await program.line() == {"suspended": True}
        await session.send("user", "Yes.", run=asks["id"])
        async for view in session.read():
            answer = view.message(asks["id"])
            if answer is not None and answer.status == "complete":
                break
        assert answer is not None
        assert answer.text == "You said Yes."
        fails = await session.request_run("bot", by="fails")
        async for view in session.read():
            answer = view.message(fails["id"])
            if answer is not None and answer.status == "failed":
                break
        stops = await session.request_run("bot", by="stops")
        assert await program.line() == {"begun": True}
        await session.cancel_run(stops["id"])
        said = (await program.line())["said"]
        assert said == [["fails", "no model"], ["cancelled", "cancelled", True]]
        assert (await session.run(stops["id"]))["status"] == "cancelled"
        with pytest.raises(Cancelled):
            await session.claim(stops["id"])


@needs("yjs", "y-websocket", "ws")
async def test_a_document_is_edited_through_a_death(cluster: Cluster, node: str) -> None:
    """Two unmodified providers at two regions, one of which is killed while both type: all that was
    typed is at both once, over REST too, and who is here is known again."""
    urls = [each.url for each in cluster.regions.values()]
    async with running(node, LIVE, URLS=urls) as program:
        assert await program.line() == {"kill": True}
        await cluster.kill("eu")
        program.go_on()
        said = await program.line()
    words = {f"{who}{number}" for who in "ab" for number in range(40)}
    assert set(said["text"].split()) == words
    assert (said["region"], said["moves"], said["other"]) == (urls[1], 1, 0)
    async with Client(urls[1:]) as client:
        assert (await client.session("s").document("d").read()).text == said["text"]


@needs("yjs", "y-websocket", "ws")
async def test_what_no_region_would_take_is_said(cluster: Cluster, node: str) -> None:
    """A document beyond its limit, one that goes away, and one that is gone are not tried again."""
    urls = [each.url for each in cluster.regions.values()]
    async with running(node, REFUSED, URLS=urls) as program:
        said = await program.line()
    assert said == {"heard": ["too_large", "deleted", "deleted"], "code": "deleted"}


def snippet(containing: str) -> str:
    """The one program of the README that contains this."""
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    (found,) = (
        block for block in re.findall(r"```js\n(.*?)```", readme, re.DOTALL) if containing in block
    )
    return str(found)


CLIENT = """
import { Client } from "./perdure.js";
const client = new Client(URLS);
"""


async def test_the_worker_of_the_readme(cluster: Cluster, node: str) -> None:
    """As it stands there, it answers who asks in another region."""
    urls = [each.url for each in cluster.regions.values()]
    leaves = """
    const { work } = Object.getPrototypeOf(client.agent("assistant"));
    Object.getPrototypeOf(client.agent("assistant")).work = function (handler) {
      const leaving = new AbortController();
      return work.call(this, (turn) => handler(turn).then(() => leaving.abort()), leaving);
    };
    """
    program = CLIENT + leaves + snippet("agent.work")
    async with Client(urls[1:]) as client, running(node, program, URLS=urls):
        session = client.session("s")
        prompt = await session.send("user", "Hello?")
        run = await session.request_run("assistant", input=prompt["id"])
        async for view in session.read():
            answer = view.message(run["id"])
            if answer is not None and answer.status == "complete":
                break
        assert answer is not None
        assert answer.text == "You said: Hello?"


async def test_the_document_of_the_readme(cluster: Cluster, node: str) -> None:
    """As it stands there, it is written, added to and read."""
    urls = [each.url for each in cluster.regions.values()]
    says = "\nconsole.log(JSON.stringify({ text, json }));"
    async with running(node, CLIENT + snippet("draft.append") + says, URLS=urls) as program:
        said = await program.line()
    assert said == {"text": "# Plan\n1. Ask.\n", "json": {"title": "Plan"}}


@needs("yjs", "y-websocket", "ws")
async def test_the_live_document_of_the_readme(cluster: Cluster, node: str) -> None:
    """As it stands there, where WebSockets are global, what is typed comes to the region."""
    urls = [each.url for each in cluster.regions.values()]
    sockets = 'import WebSocket from "ws";\nglobalThis.WebSocket ??= WebSocket;'
    waits = """
    const draft = client.session("demo").document("draft");
    while (!(await draft.read().catch(() => null))?.text) {
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    process.exit(0);
    """
    imports, _, rest = snippet("editing.synced").partition("const doc")
    program = imports + CLIENT + sockets + "const doc" + rest + waits
    async with running(node, program, URLS=urls):
        pass
    async with Client(urls) as client:
        assert (await client.session("demo").document("draft").read()).text == "# Plan\n"
