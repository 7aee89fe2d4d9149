"""A region dies under an agent and its reader: over real sockets, links and disks."""

import asyncio
import re
import sys
import textwrap
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from sdk.python.tests.conftest import until
from sdk.python.tests.served import Served

from perdure_client import Client, Event, SessionView, apply

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
PROGRAM_S_MAX = 30
WORDS = [f"word{number} " for number in range(300)]
TEXT = "".join(WORDS)


class Reading:
    """A reader in a task of its own, and everything that it was told."""

    def __init__(self, client: Client) -> None:
        self.view = SessionView("s")
        self.events: list[Event] = []
        self.task = asyncio.create_task(self._read(client))

    async def _read(self, client: Client) -> None:
        async with aclosing(client.session("s").events()) as events:
            async for event in events:
                apply(self.view, event.event, event.data)
                self.events.append(event)
                message = self.view.message("m")
                if message is not None and message.status != "streaming":
                    return

    @property
    def length(self) -> int:
        message = self.view.message("m")
        return 0 if message is None else message.length

    def names(self) -> list[str]:
        return [event.event for event in self.events]


@pytest.mark.failure("P4")
async def test_everything_arrives_through_the_other_region_exactly_once(
    regions: tuple[Served, Served],
) -> None:
    """The region shows a reader tokens that it has told no other, and dies. The agent repeats them
    at the other region; the reader, who is ahead of it, goes on there: nothing is missing, nothing
    is twice, nothing is taken back."""
    eu, us = regions
    async with Client([eu.url, us.url]) as agent, Client([eu.url, us.url]) as client:
        reading = Reading(client)
        writer = await agent.session("s").open(id="m")
        for word in WORDS[:100]:
            await writer.write(word)
        await writer.stable()
        await eu.isolate()
        for word in WORDS[100:200]:
            await writer.write(word)
        await writer.flush()
        await until(lambda: reading.length == 200)
        assert us.node.message("s", "m")["length"] == 100
        await eu.die()
        for word in WORDS[200:]:
            await writer.write(word)
        await writer.flush()
        assert (writer.region, writer.moves, writer.accepted) == (us.url, 1, 300)
        await writer.end()
        async with asyncio.timeout(30):
            await reading.task
        # Its peer is dead: nothing more becomes stable.
        await writer.aclose()
        held = us.node.message("s", "m")
        assert (held["text"], held["length"], held["status"]) == (TEXT, 300, "complete")
        message = reading.view.message("m")
        assert message is not None and (message.text, message.length) == (TEXT, 300)
        assert reading.names().count("snapshot") == 1 and "replace" not in reading.names()
        assert {event.region for event in reading.events} == {eu.url, us.url}


@pytest.mark.failure("P13")
async def test_a_region_that_drains_sends_everybody_on(regions: tuple[Served, Served]) -> None:
    """Told by ``reconnect`` and by 503, the reader and the agent go on at the other region."""
    eu, us = regions
    async with Client([eu.url, us.url]) as agent, Client([eu.url, us.url]) as client:
        reading = Reading(client)
        async with agent.session("s").open(id="m") as writer:
            await writer.write("Hello")
            await until(lambda: reading.length == 1)
            await eu.node.drain(1.0)
            await writer.write(" world")
            await writer.flush()
            assert writer.region == us.url
        async with asyncio.timeout(30):
            await reading.task
    assert writer.stable_count == 2
    message = reading.view.message("m")
    assert message is not None and (message.text, message.status) == ("Hello world", "complete")
    assert reading.names().count("snapshot") == 1 and "replace" not in reading.names()
    assert reading.view.messages[0].held is False
    assert reading.events[-1].region == us.url


@pytest.mark.failure("P13")
async def test_a_drain_that_is_taken_back_is_served_again(regions: tuple[Served, Served]) -> None:
    """An operator drains one region, takes it back, and drains the other: agent and reader go there
    and back, while both processes stay, and nothing is lost, taken back or told twice."""
    eu, us = regions
    async with Client([eu.url, us.url]) as agent, Client([eu.url, us.url]) as client:
        reading = Reading(client)
        async with agent.session("s").open(id="m") as writer:
            await writer.write(WORDS[0])
            await until(lambda: reading.length == 1)
            for number, (drained, other) in enumerate(((eu, us), (us, eu)), 1):
                async with Client([drained.url]) as operator:
                    told, _ = await operator.regions.request("POST", "/admin/api/drain", {})
                    assert (told["state"], told["flushed"]) == ("draining", True)
                    await writer.write(WORDS[number])
                    await writer.flush()
                    assert writer.region == other.url
                    await until(lambda length=number + 1: reading.length == length)
                    await until(lambda region=drained: region.node.fanout.count == 0)
                    undo = {"undo": True}
                    told, _ = await operator.regions.request("POST", "/admin/api/drain", undo)
                    assert told["state"] is None
        async with asyncio.timeout(30):
            await reading.task
    message = reading.view.message("m")
    assert message is not None and message.text == "".join(WORDS[:3])
    assert reading.names().count("snapshot") == 1 and "replace" not in reading.names()
    assert reading.events[-1].region == eu.url


def program(containing: str) -> str:
    """The one program of the README that contains this."""
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (found,) = [block for block in blocks if containing in block]
    return str(found)


async def test_the_programs_of_the_readme(regions: tuple[Served, Served], tmp_path: Path) -> None:
    """The agent as it stands there, in a process of its own, and the reader, who sees its text."""
    eu, us = regions
    agent = tmp_path / "agent.py"
    agent.write_text(
        re.sub(r"REGIONS = .*", f"REGIONS = {[eu.url, us.url]}", program("write(token)"))
    )
    seen: list[Any] = []
    names: dict[str, Any] = {"Client": Client, "REGIONS": [us.url, eu.url]}
    names["print"] = lambda *values: seen.append(values)
    source = "async def read():\n" + textwrap.indent(program("async for view"), "    ")
    exec(compile(source, "README.md", "exec"), names)
    reader = asyncio.create_task(names["read"]())
    process = await asyncio.create_subprocess_exec(sys.executable, agent)
    async with asyncio.timeout(PROGRAM_S_MAX):
        assert await process.wait() == 0
        await until(lambda: ("Nothing is lost.", "complete") in seen or reader.done())
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader


@pytest.mark.parametrize(
    ("containing", "shown"), [("draft.append", "# Plan\n1. Ask.\n"), (".live()", "2. Write.\n")]
)
async def test_the_documents_of_the_readme(
    regions: tuple[Served, Served], containing: str, shown: str
) -> None:
    """As they stand there, edited over REST and live."""
    eu, us = regions
    seen: list[Any] = []
    names: dict[str, Any] = {"Client": Client, "REGIONS": [eu.url, us.url]}
    names["print"] = lambda *values: seen.append(values)
    source = "async def edit():\n" + textwrap.indent(program(containing), "    ")
    exec(compile(source, "README.md", "exec"), names)
    async with asyncio.timeout(PROGRAM_S_MAX):
        await names["edit"]()
    value = eu.node.document("demo", "draft")
    assert value["text"] == shown
    assert seen in ([], [(shown, {"title": "Plan"}, value["version"])])
