"""The chat demo at the terminal, and its scripted agent; the page in a browser is in tests/page."""

import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from perdure.regions.cluster import NAMES, free_ports
from perdure.regions.demo_agent import AGENT, ScriptedAgent, answer_to, wants_line
from perdure.regions.demo_chat import SESSION
from perdure.regions.main import main

from perdure_client import Client
from tests.regions.processes import COMMAND, Served, started


def names_in(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


def three_ports() -> int:
    """The first of three ports in a row that nothing listens on just now."""
    while True:
        (first,) = free_ports(1)
        try:
            for port in (first, first + 1, first + 2):
                socket.create_server(("127.0.0.1", port)).close()
        except (OSError, OverflowError):
            continue
        return first


async def test_the_demo_at_the_terminal(tmp_path: Path) -> None:
    """It tells of the pages and the processes, kills and starts regions as it is told to, and
    leaves nothing behind when it is left."""
    port = three_ports()
    command = (*COMMAND, "demo", "chat", "--port", port)
    async with started(*command, environment={"TMPDIR": str(tmp_path)}) as running:
        pids = {}
        for number, name in enumerate(NAMES):
            line = await running.line_with(f"http://127.0.0.1:{port + number}/demo/chat?name=")
            assert line.split()[0] == name
            pids[name] = int(line.split("pid ")[1])
        await running.line_with("Ctrl-C ends everything")
        await running.write(b"kill\n")
        await running.line_with("type  kill NAME")
        await running.write(b"start us\n")
        await running.line_with("us runs")
        await running.write(b"kill e")
        await running.write(b"u\n\n")
        await running.line_with("eu has stopped (exit code -9)")
        await running.write(b"start eu\n")
        pids["eu"] = int((await running.line_with("eu is back")).split("pid ")[1])
        running.signal(signal.SIGINT)
        ended = await running.end()
    assert (ended.code, ended.out, ended.err) == (0, "stopping\n", "")
    for pid in pids.values():
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert names_in(tmp_path) == []


async def test_a_port_that_is_taken(tmp_path: Path) -> None:
    """Is told of, and the regions that did start are stopped."""
    port = three_ports()
    with socket.create_server(("127.0.0.1", port + 1)):
        command = (*COMMAND, "demo", "chat", "--port", port)
        async with started(*command, environment={"TMPDIR": str(tmp_path)}) as running:
            ended = await running.end()
    assert ended.code == 1 and "region us did not start" in ended.err
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("port", ["0", "-1", "65534", "x"])
def test_wrong_ports(port: str) -> None:
    """There are three in a row, and none is chosen for somebody who wants to type an address."""
    try:
        code = main(["demo", "chat", f"--port={port}"])
    except SystemExit as exit_:
        code = exit_.code
    assert code == 2


def test_the_agent_says_the_same_to_the_same() -> None:
    """So that another attempt goes on in the middle of it; and it hears what is asked."""
    assert answer_to("Tell me a STORY!") == answer_to("a long one") != answer_to("Hello")
    assert answer_to("history") == answer_to("")
    assert [wants_line(text) for text in ("add to the draft", "Write!", "a story")] == [
        True,
        True,
        False,
    ]


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    """Of one served region."""
    served = Served(tmp_path / "eu")
    async with served.serve("--bootstrap"), Client([served.url]) as client:
        yield client


async def test_the_agent_goes_on_in_what_was_said(client: Client) -> None:
    """An answer that another worker has begun is continued behind its last word; the line in the
    draft, which that one wrote, is not written again; and somebody who watches is told."""
    told: list[str] = []
    agent = ScriptedAgent(client, told.append, words_per_s=1e6)
    session = client.session(SESSION)
    prompt = await session.send("user", "A note for the draft, please")
    run = await session.request_run(AGENT, input=prompt["id"])
    whole = answer_to(prompt["text"])
    begun = whole[:25]
    path = f"/v1/sessions/{SESSION}/documents/draft"
    await client.regions.request("PATCH", path, {"text": "What is here"})
    # lease_s 1: soon it may be claimed by another.
    async for turn in client.agent(AGENT, lease_s=1).turns():
        await agent._add_line(turn)
        await turn.writer.write(begun)
        await turn.writer.flush()
        await turn.aclose()
        break
    async for turn in client.agent(AGENT, lease_s=1).turns():
        assert turn.text == begun
        await agent._answer(turn)
        break
    message = await session.message(run["id"])
    assert (message["text"], message["status"]) == (whole, "complete")
    document, _ = await client.regions.request("GET", path)
    first, line, end = document["text"].split("\n")
    assert (first, end) == ("What is here", "") and line.startswith(f"{AGENT}, ")
    assert told == [f"{AGENT}: answers in session {SESSION} again", f"{AGENT}: complete"]
