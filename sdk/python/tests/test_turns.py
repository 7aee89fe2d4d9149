"""Workers carry out an agent's runs: over real sockets, links and disks, in two regions."""

import asyncio
import re
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import jwt
import pytest
from sdk.python.tests.conftest import until
from sdk.python.tests.served import Served, served
from sdk.python.tests.test_failover import PROGRAM_S_MAX, program

from perdure_client import (
    Cancelled,
    Client,
    Ended,
    Fenced,
    Invalid,
    NotFound,
    Session,
    SessionView,
    Turn,
    standing,
)
from perdure_client.agents import Agent

Regions = tuple[Served, Served]


# A worker with a model that goes on for ever, and blocks while it thinks.
BLOCKING = """
import threading
from perdure_client.sync import Client

def model():
    yield "Hel"
    print("begun", flush=True)
    while True:
        threading.Event().wait(0.05)
        yield "."

with Client(URLS) as client:
    client.agent("bot").work(lambda turn: turn.pipe(model()))
"""


@pytest.fixture
async def regions(tmp_path: Path) -> AsyncIterator[Regions]:
    async with served(tmp_path) as pair:
        yield pair


@pytest.fixture
async def client(regions: Regions) -> AsyncIterator[Client]:
    async with Client([region.url for region in regions]) as client:
        yield client


async def first(agent: Agent) -> Turn:
    """The next turn; it is held, and its agent's feed is followed no more."""
    async with asyncio.timeout(20), aclosing(agent.turns()) as turns:
        return await anext(turns)


class Model:
    """A stream that gives these tokens and is then silent, until it is closed."""

    def __init__(self, *tokens: str) -> None:
        self.tokens = tokens
        self.begun = asyncio.Event()
        self.closed = False

    async def stream(self) -> AsyncGenerator[str, None]:
        try:
            for token in self.tokens:
                yield token
            self.begun.set()
            await asyncio.Event().wait()
        finally:
            self.closed = True


async def text_of(session: Session, id_: str) -> tuple[str, str]:
    message = await session.message(id_)
    return message["text"], message["status"]


@pytest.mark.parametrize("transport", ["auto", "sse", "poll"])
async def test_a_turn_from_request_to_end(regions: Regions, transport: Any) -> None:
    """What was asked for in one region is carried out by a worker of the other: its message grows,
    and the run is over with it."""
    eu, us = regions
    async with Client([eu.url]) as asking, Client([us.url], transport=transport) as working:
        session = asking.session("s")
        prompt = await session.send("user", "Hello?")
        run = await session.request_run("bot", input=prompt["id"], by="ann", metadata={"a": 1})
        assert (run["status"], run["attempt"], run["producer"]) == ("requested", 0, None)
        agent = working.agent("bot")
        async with asyncio.timeout(20), aclosing(agent.turns()) as turns:
            async for turn in turns:
                assert turn.id == run["id"]
                assert (turn.attempt, turn.text, turn.parts, turn.inputs) == (1, "", [], [])
                assert turn.run["input"] == prompt["id"]
                asked = await turn.session.message(turn.run["input"])
                assert await turn.pipe([f"You said: {asked['text']}"]) == "complete"
                assert turn.is_over
                assert turn.error is None
                break
        assert await text_of(session, run["id"]) == ("You said: Hello?", "complete")
        assert (await session.run(run["id"]))["status"] == "complete"
        assert [each["id"] for each in (await session.runs())["runs"]] == [run["id"]]
        assert await agent.runs() == []


async def test_a_turn_knows_the_conversation_that_it_answers(client: Client) -> None:
    """Oldest first, up to its own place, without what was edited or answered anew; and it waits for
    a message that has not come to its region, which it is told wherever that stands."""
    session = client.session("s")
    await session.send("user", "One", id="u1")
    await session.send("assistant", "1", id="a1")
    await session.send("user", "Uno", id="u2", replaces="u1")
    await session.send("assistant", "2", id="a2")
    await session.request_run("bot", id="r", input="u3", replaces="a2")
    await session.send("user", "Later", id="later")
    async with await first(client.agent("bot")) as turn:
        telling = asyncio.create_task(turn.history())
        await asyncio.sleep(0)
        await session.send("user", "Three", id="u3")
        assert [message["id"] for message in await telling] == ["u2", "u3"]
        assert (await session.message("r"))["replaces"] == "a2"
        view = await anext(aiter(session.read()))
        assert [message.id for message in standing(view.messages)] == ["u2", "r", "later", "u3"]


async def test_a_turn_is_not_told_what_an_edit_of_something_older_left_out(client: Client) -> None:
    """Also where the message that was edited is older than what is asked for; one that was deleted
    leaves nothing out."""
    session = client.session("s")
    for number in range(4):
        await session.send("user", str(number), id=f"u{number}")
    await session.send("user", "gone", id="u4", replaces="none")
    await session.send("user", "Zero", id="edited", replaces="u0")
    await session.send("user", "more", id="u5", replaces="none")
    await session.request_run("bot", id="r")
    async with await first(client.agent("bot")) as turn:
        for limit, ids in ((4, ["edited", "u5"]), (1, ["u5"]), (100, ["edited", "u5"])):
            assert [message["id"] for message in await turn.history(limit)] == ids


async def test_a_turn_whose_prompt_was_deleted_comes_to_its_end(client: Client) -> None:
    """The conversation is told without it: else its worker would let go of the run, and claim it
    again, for ever."""
    session = client.session("s")
    await session.send("user", "One", id="u1")
    await session.send("user", "Two", id="u2")
    await session.request_run("bot", id="r", input="u2")
    await session.delete("u2")
    told: list[list[str]] = []

    async def handler(turn: Turn) -> None:
        told.append([message["id"] for message in await turn.history()])

    working = asyncio.create_task(client.agent("bot").work(handler))
    try:
        async with asyncio.timeout(10):
            async for view in session.read():
                if (shown := view.message("r")) is not None and shown.status == "complete":
                    break
    finally:
        working.cancel()
    assert told == [["u1"]]


async def test_workers_that_would_have_one_name_are_told(regions: Regions) -> None:
    """A producer is not kept from what it holds itself: they would take runs from each other, and
    each would ask its model."""
    grant = jwt.encode({"sub": "me", "as": ["bot"], "exp": 4_000_000_000}, "s" * 32)
    async with Client([regions[0].url], grant=grant) as client:
        await client.session("s").request_run("bot", id="r")
        with pytest.raises(Invalid, match=r"list bot~\* in its as, or name the workers"):
            await first(client.agent("bot"))
        async with await first(client.agent("bot", worker="bot")) as turn:
            assert turn.run["producer"] == "bot"


async def test_every_run_is_one_workers(client: Client) -> None:
    """Two workers share twelve runs, some asked for before they came and some after: each is
    carried out once, by the one that claimed it first."""
    done: list[tuple[int, str]] = []
    session = client.session("s")
    for number in range(6):
        await session.request_run("bot", id=f"r{number}")

    async def work(worker: int) -> None:
        async def answer(turn: Turn) -> None:
            await turn.pipe(["done"])
            done.append((worker, turn.id))

        await client.agent("bot").work(answer, concurrency=2)

    workers = [asyncio.create_task(work(number)) for number in (1, 2)]
    await until(lambda: bool(done))
    for number in range(6, 12):
        await session.request_run("bot", id=f"r{number}")
    await until(lambda: len(done) == 12)
    async with asyncio.timeout(20):
        while await client.agent("bot").runs():
            await asyncio.sleep(0)
    for task in workers:
        task.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
    assert sorted(id_ for _, id_ in done) == sorted(f"r{number}" for number in range(12))
    assert {run["attempt"] for run in (await session.runs())["runs"]} == {1}
    messages = (await session.messages())["messages"]
    assert [(message["text"], message["status"]) for message in messages] == [
        ("done", "complete")
    ] * 12


async def test_a_cancel_stops_the_model(client: Client) -> None:
    """From the other region, while the model says nothing: the stream is closed, the worker hears
    of it, and what was written stays."""
    session = client.session("s")
    model = Model("Hel", "lo")
    run = await session.request_run("bot")
    turns = client.agent("bot").turns()
    async with asyncio.timeout(20), aclosing(turns):
        turn = await anext(turns)
        piping = asyncio.create_task(turn.pipe(model.stream()))
        await model.begun.wait()
        await turn.writer.flush()
        assert (await session.cancel_run(run["id"]))["status"] == "cancelled"
        with pytest.raises(Cancelled):
            await piping
        assert model.closed
        assert isinstance(turn.error, Cancelled)
        with pytest.raises(Cancelled):
            await turn.writer.write("more")
        with pytest.raises(Cancelled):
            await turn.suspend()
    assert await text_of(session, run["id"]) == ("Hello", "cancelled")


async def test_a_lease_alone_tells_of_a_cancel(client: Client) -> None:
    """Where nobody follows the feed any more."""
    session = client.session("s")
    run = await session.request_run("bot")
    turn = await first(client.agent("bot", lease_s=1))
    await session.cancel_run(run["id"])
    async with asyncio.timeout(20):
        await turn.stopped()
    assert isinstance(turn.error, Cancelled | Ended)
    await turn.aclose()


async def test_what_is_let_go_is_continued(client: Client) -> None:
    """When its lease is over another worker goes on where it stopped, in a reader's eyes too; who
    let it go and comes back is fenced."""
    session = client.session("s")
    view = SessionView("s")
    statuses: list[str] = []

    async def read() -> None:
        async for _ in session.read(view):
            message = view.message("r")
            statuses.append("" if message is None else message.status)

    reading = asyncio.create_task(read())
    await session.request_run("bot", id="r")
    turn = await first(client.agent("bot", lease_s=1))
    await turn.writer.write("Hel")
    await turn.writer.stable()
    await turn.aclose()
    await until(lambda: "interrupted" in statuses)
    again = await first(client.agent("bot"))
    assert (again.attempt, again.text, again.id) == (2, "Hel", "r")
    assert again.writer.epoch != turn.writer.epoch
    with pytest.raises(Fenced):
        await turn._ask("lease", {"producer": turn.writer.producer, "epoch": turn.writer.epoch})
    assert await again.pipe(["lo"]) == "complete"
    await until(lambda: statuses[-1] == "complete" and not view.runs)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    assert await text_of(session, "r") == ("Hello", "complete")


async def test_a_turn_is_held_for_as_long_as_it_takes(client: Client) -> None:
    """Longer than its lease, without a word: others are told that it is held; and the mode is the
    worker's."""
    session = client.session("s")
    await session.request_run("bot", id="r")
    turn = await first(client.agent("bot", lease_s=1))
    await turn.writer.write("Hel")
    await turn.writer.flush()
    loop = asyncio.get_running_loop()
    end = loop.time() + 2.5
    await until(lambda: loop.time() > end)
    assert (await session.run("r"))["status"] == "running"
    assert [member["member"] for member in await session.presence()] == ["bot"]
    await turn.aclose()
    again = await first(client.agent("bot", mode="restart"))
    assert (again.text, again.attempt) == ("", 2)
    async with again:
        await again.writer.write("New")
    assert await text_of(session, "r") == ("New", "complete")


async def test_a_worker_that_was_only_slow(client: Client) -> None:
    """Its lease is over, which is noted for all; it comes back before anybody else, and is at work
    again though it has nothing to write."""
    asleep = asyncio.Event()

    async def sleep(seconds: float) -> None:
        await (asleep.wait() if seconds == pytest.approx(1 / 3) else asyncio.sleep(0))

    session = client.session("s")
    await session.request_run("bot", id="r")
    async with Client(client.regions.urls, sleep=sleep) as slow, asyncio.timeout(20):
        turn = await first(slow.agent("bot", lease_s=1))
        while (await session.run("r"))["status"] != "interrupted":
            await asyncio.sleep(0)
        asleep.set()
        while (await session.run("r"))["status"] != "running":
            await asyncio.sleep(0)
        assert (await session.run("r"))["attempt"] == 1
        await turn.end()


async def test_suspended_for_a_person(client: Client) -> None:
    """It says for what it waits; the answer that is addressed to the run comes to it, though the
    region that has it is another one; and it goes on."""
    session = client.session("s")
    run = await session.request_run("bot")
    await session.send("user", "Before.", run=run["id"])
    turns = client.agent("bot").turns()
    async with asyncio.timeout(20), aclosing(turns), await anext(turns) as turn:
        assert [message["text"] for message in turn.inputs] == ["Before."]
        await turn.suspend({"asks": "May I?"})
        told = await session.run(run["id"])
        assert (told["status"], told["detail"]) == ("suspended", {"asks": "May I?"})
        async with Client([client.regions.urls[1]]) as elsewhere:
            there = elsewhere.session("s")
            while True:
                try:
                    await there.send("user", "Yes.", id="yes", run=run["id"])
                    break
                except NotFound:
                    await asyncio.sleep(0)
        async with aclosing(turn.new_inputs()) as inputs:
            assert (await anext(inputs))["text"] == "Yes."
        await turn.resume()
        assert (await session.run(run["id"]))["status"] == "running"
    assert (await session.run(run["id"]))["status"] == "complete"
    with pytest.raises(Ended):
        await session.send("user", "Late.", run=run["id"])


async def test_a_suspended_run_is_taken_up_by_its_input(client: Client) -> None:
    """Its worker is gone, and nobody takes it before there is something new for it."""
    session = client.session("s")
    run = await session.request_run("bot")
    turn = await first(client.agent("bot", lease_s=1))
    await turn.suspend()
    await turn.aclose()
    taking = asyncio.create_task(first(client.agent("bot")))
    async with asyncio.timeout(20):
        while await session.presence():
            await asyncio.sleep(0)
    assert not taking.done()
    await session.send("user", "Go on.", run=run["id"])
    turn = await taking
    assert [message["text"] for message in turn.inputs] == ["Go on."]
    await turn.end("failed")
    assert (await session.run(run["id"]))["status"] == "failed"


@pytest.mark.failure("P4")
async def test_a_region_dies_under_a_worker(regions: Regions) -> None:
    """The turn goes on at the other region, with its lease and its words, and so does the feed."""
    eu, us = regions
    async with Client([eu.url, us.url]) as client:
        session = client.session("s")
        await session.request_run("bot", id="r")
        turns = client.agent("bot", lease_s=3).turns()
        async with asyncio.timeout(30), aclosing(turns):
            turn = await anext(turns)
            await turn.writer.write("Hel")
            await turn.suspend("waits")
            await turn.writer.stable()
            await eu.die()
            await turn.resume()
            await turn.writer.write("lo")
            await turn.writer.flush()
            assert turn.writer.region == us.url
            await session.request_run("bot", id="q")
            other = await anext(turns)
            assert other.id == "q"
            assert (await session.run("r"))["status"] == "running"
            await turn.writer.end()
            await other.writer.end()
        assert await text_of(session, "r") == ("Hello", "complete")
        for each in (turn, other):
            await each.aclose()


async def test_what_a_handler_raises(client: Client) -> None:
    """It fails its run, is told to whoever wants to know, and the worker goes on. A run that is
    cancelled takes its handler with it, which is no error."""
    told: list[tuple[str, str]] = []
    session = client.session("s")
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def answer(turn: Turn) -> None:
        if turn.id == "bad":
            raise ValueError("no idea")
        if turn.id == "slow":
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
        await turn.pipe(["fine"])

    def note(turn: Turn, error: Exception) -> None:
        told.append((turn.id, str(error)))

    for id_ in ("bad", "slow", "good"):
        await session.request_run("bot", id=id_)
    working = asyncio.create_task(client.agent("bot").work(answer, on_error=note))
    async with asyncio.timeout(20):
        await begun.wait()
        await session.cancel_run("slow")
        await cancelled.wait()
        while await client.agent("bot").runs():
            await asyncio.sleep(0)
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    statuses = {run["id"]: run["status"] for run in (await session.runs())["runs"]}
    assert statuses == {"bad": "failed", "slow": "cancelled", "good": "complete"}
    assert told == [("bad", "no idea")]


async def test_a_worker_that_leaves_lets_go(client: Client) -> None:
    """Its turns stay open, and are another worker's when their leases are over."""
    session = client.session("s")
    model = Model("Hel")
    await session.request_run("bot", id="r")

    async def answer(turn: Turn) -> None:
        await turn.pipe(model.stream())

    working = asyncio.create_task(client.agent("bot", worker="w1", lease_s=1).work(answer))
    await model.begun.wait()
    async with asyncio.timeout(20):
        while (await text_of(session, "r"))[0] != "Hel":
            await asyncio.sleep(0)
    run = await session.run("r")
    assert (run["producer"], run["status"]) == ("w1", "running")
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    assert model.closed
    assert await text_of(session, "r") == ("Hel", "streaming")
    again = await first(client.agent("bot"))
    assert (again.text, again.attempt) == ("Hel", 2)
    await again.end()


async def test_ctrl_c_of_a_blocking_worker(client: Client) -> None:
    """Ends it and its threads at once, without noise but the interrupt; its run is left open."""
    session = client.session("s")
    await session.request_run("bot", id="r")
    text = BLOCKING.replace("URLS", repr(client.regions.urls))
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", text),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert worker.stdout is not None
    async with asyncio.timeout(PROGRAM_S_MAX):
        assert await worker.stdout.readline() == b"begun\n"
        while not (await text_of(session, "r"))[0].startswith("Hel"):
            await asyncio.sleep(0)
        worker.send_signal(signal.SIGINT)
        _, errors = await worker.communicate()
    assert errors.decode().count("Traceback") == 1
    assert errors.decode().endswith("KeyboardInterrupt\n")
    assert (await session.run("r"))["status"] in ("running", "interrupted")


async def test_signals_reach_who_reads(client: Client) -> None:
    """In both regions, and no view changes."""
    session = client.session("s")
    heard: list[dict[str, Any]] = []
    ready = asyncio.Event()

    async def listen(url: str) -> None:
        async with Client([url]) as listening:
            async for event in listening.session("s").events():
                if event.event == "ready":
                    ready.set()
                if event.event == "signal":
                    heard.append(event.data)
                    return

    tasks = []
    for url in client.regions.urls:
        ready.clear()
        tasks.append(asyncio.create_task(listen(url)))
        await ready.wait()
    async with asyncio.timeout(20):
        while not all(task.done() for task in tasks):
            assert await session.signal("typing", {"at": 7}, by="ann")
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
    assert heard[0]["signal"] == "typing"
    assert {(each["from"], each["data"]["at"]) for each in heard} == {("ann", 7)}


async def test_the_worker_of_the_readme(regions: Regions, tmp_path: Path) -> None:
    """As it stands there, and so does the blocking program that asks it, in processes of their
    own; the worker is told to stop, and does."""
    for name, containing in (("worker", ".work("), ("asking", "perdure_client.sync")):
        text = re.sub(
            r"REGIONS = .*", f"REGIONS = {[each.url for each in regions]}", program(containing)
        )
        (tmp_path / f"{name}.py").write_text(text)
    worker = await asyncio.create_subprocess_exec(sys.executable, tmp_path / "worker.py")
    asking = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", tmp_path / "asking.py"), stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(PROGRAM_S_MAX):
        printed, _ = await asking.communicate()
        worker.send_signal(signal.SIGINT)
        await worker.wait()
    assert (asking.returncode, printed.decode()) == (0, "You said: What survives?\n")
