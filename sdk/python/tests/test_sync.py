"""The blocking client: made from the asynchronous one, and at work against two real regions."""

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sdk.python import make_sync
from sdk.python.tests.served import Served, served

import perdure_client
from perdure_client import Cancelled, Invalid, SessionView, sync
from perdure_client.sync.portal import Iteration, Portal

WAIT_S = 20
TWINS = ("Agent", "Client", "Document", "Session", "Turn", "Writer")


@pytest.fixture
def urls(tmp_path: Path) -> Iterator[list[str]]:
    """Two regions, on a loop in another thread: these tests block."""
    over, began = asyncio.Event(), threading.Event()
    regions: list[Served] = []
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        async with served(tmp_path) as pair:
            regions.extend(pair)
            began.set()
            await over.wait()

    serving = threading.Thread(target=asyncio.run, args=(serve(),))
    serving.start()
    assert began.wait(WAIT_S)
    yield [region.url for region in regions]
    loops[0].call_soon_threadsafe(over.set)
    serving.join(WAIT_S)
    assert not serving.is_alive()


@pytest.fixture
def client(urls: list[str]) -> Iterator[sync.Client]:
    with sync.Client(urls) as client:
        yield client


@pytest.fixture
def beside() -> Iterator[Callable[..., Any]]:
    """Carries something out in another thread: a future of it."""
    with ThreadPoolExecutor() as threads:
        yield threads.submit


def test_it_is_made_from_the_asynchronous_one() -> None:
    """What is there is what ``make sync-client`` writes."""
    for path, text in make_sync.made().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: make sync-client"


@pytest.mark.parametrize("name", TWINS)
def test_nothing_is_missing(name: str) -> None:
    """Everything public that the asynchronous class has, but for what is the client's own, has its
    twin; with a docstring, and with types."""
    twin, model = getattr(sync, name), getattr(perdure_client, name)
    public = {each for each in vars(model) if not each.startswith("_")}
    inside = {each.partition(".")[2] for each in make_sync.INSIDE if each.startswith(name)}
    expected = (public - inside - {"aclose"}) | ({"close"} if "aclose" in public else set())
    assert expected <= vars(twin).keys()
    for each in vars(twin).keys() - {"__module__", "__doc__"}:
        value = inspect.getattr_static(twin, each)
        made = value.fget if isinstance(value, property) else value
        if inspect.isfunction(made) and not each.startswith("_"):
            assert made.__doc__
            assert "return" in made.__annotations__
    assert twin.__doc__


def test_a_message_and_its_reader(client: sync.Client, beside: Callable[..., Any]) -> None:
    """Written step by step and as a block, read in another thread; each is in two regions."""

    def read() -> SessionView:
        with client.session("s").read() as views:
            for view in views:
                if [message.status for message in view.messages] == ["complete"] * 3:
                    return view
        raise AssertionError("it goes on for ever")

    reading = beside(read)
    session = client.session("s")
    session.create({"title": "t"})
    session.send("user", "Hello?", id="p")
    with session.open(id="m") as writer:
        writer.write("Hel")
        writer.mark({"part": {"type": "reasoning"}})
        writer.write("hm")
        writer.flush()
        assert (writer.next, writer.accepted, writer.message) == (3, 3, "m")
    assert writer.stable_count == 3
    first = session.open(id="n")
    first.write("He")
    first.flush()
    first.close()
    second = session.claim("n")
    assert (second.text, second.parts) == ("He", [{"type": "text", "text": "He"}])
    assert second.pipe(iter(["l", "lo"])) == "complete"
    second.stable()
    view = reading.result(WAIT_S)
    assert [message.text for message in view.messages] == ["Hello?", "Hel", "Hello"]
    assert session.metadata({"title": None}) == {}
    assert session.signal("typing")
    assert [each["id"] for each in client.sessions()["sessions"]] == ["s"]
    assert (session.id, session.steps_lost) == ("s", 0)


def write_on(writer: sync.Writer, do: Callable[[], object]) -> None:
    do()
    while True:
        writer.write("x")
        writer.flush()


def test_blocks_that_raise(client: sync.Client) -> None:
    """End the message as failed; one that is interrupted leaves it open."""
    session = client.session("s")
    with pytest.raises(KeyError), session.open(id="m"):
        raise KeyError("x")
    with pytest.raises(KeyboardInterrupt), session.open(id="n"):
        raise KeyboardInterrupt
    assert session.message("m")["status"] == "failed"
    assert session.message("n")["status"] == "streaming"
    with pytest.raises(Cancelled), session.open(id="o") as writer:
        write_on(writer, lambda: session.cancel("o"))


def test_turns_one_after_the_other(client: sync.Client) -> None:
    """The shortest worker there is; what is suspended gets its input."""
    session = client.session("s")
    run = session.request_run("bot", id="r", by="ann")
    with client.agent("bot").turns() as turns:
        turn = next(turns)
        assert (turn.id, turn.attempt, turn.text, turn.inputs) == (run["id"], 1, "", [])
        turn.suspend("asks")
        assert turn.session.run("r")["status"] == "suspended"
        session.send("user", "Yes.", run="r")
        with turn.new_inputs() as inputs:
            assert next(inputs)["text"] == "Yes."
        turn.resume()
        assert turn.pipe(["Hel", "lo"]) == "complete"
        assert (turn.is_over, turn.error) == (True, None)
    assert session.run("r")["status"] == "complete"
    assert [message["text"] for message in session.messages()["messages"]] == ["Hello", "Yes."]
    assert client.agent("bot").runs() == []


def test_work(client: sync.Client, urls: list[str], beside: Callable[..., Any]) -> None:
    """More handlers at once than there are cores, each reading a model in a thread; errors are
    told; a cancelled run ends its model; and closing the client ends the work."""
    session = client.session("s")
    barrier, silent = threading.Barrier(8), threading.Event()
    errors: list[str] = []
    stopped: list[str] = []
    written = threading.Semaphore(0)

    def model(turn: sync.Turn) -> Iterator[str]:
        barrier.wait(WAIT_S)
        yield "Hello"

    def handler(turn: sync.Turn) -> None:
        if turn.id == "bad":
            raise ValueError("no idea")
        if turn.id == "slow":
            try:
                write_on(turn.writer, silent.set)
            except Cancelled:
                stopped.append(turn.id)
                raise
        turn.pipe(model(turn))
        written.release()

    def note(turn: sync.Turn, error: Exception) -> None:
        errors.append(f"{turn.id}: {error}")
        with pytest.raises(RuntimeError, match="callback"):
            turn.suspend()

    working = sync.Client(urls)
    work = beside(lambda: working.agent("bot").work(handler, concurrency=8, on_error=note))
    for id_ in ("bad", "slow"):
        session.request_run("bot", id=id_)
    assert silent.wait(WAIT_S)
    session.cancel_run("slow")
    for number in range(8):
        session.request_run("bot", id=f"r{number}")
    with client.agent("bot").events() as events:
        for event in events:
            if not client.agent("bot").runs():
                break
            assert event.event in ("runs", "run")
    statuses = [run["status"] for run in session.runs()["runs"]]
    assert statuses == ["failed", "cancelled", *["complete"] * 8]
    # A run is complete for everybody a moment before its handler hears of it.
    assert all(written.acquire(timeout=WAIT_S) for _ in range(8))
    told = list(errors)
    working.close()
    with pytest.raises(RuntimeError, match="closed"):
        work.result(WAIT_S)
    assert (told, stopped) == (["bad: no idea"], ["slow"])


def test_a_closed_client() -> None:
    """Says so; closing it again is nothing; and one that is refused leaves no thread behind."""
    before = threading.active_count()
    with pytest.raises(Invalid):
        sync.Client([])
    client = sync.Client(["http://127.0.0.1:9"])
    session = client.session("s")
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        session.create()
    assert threading.active_count() == before


def test_a_wait_that_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancels what it waited for; and an iteration that is dropped is closed by and by."""
    portal = Portal()
    cancelled, closed = threading.Event(), threading.Event()

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async def numbers() -> Any:
        try:
            yield 1
            yield 2
        finally:
            closed.set()

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    values: Iteration[int] = Iteration(portal, numbers(), lambda it: it)
    assert next(values) == 1
    del values
    assert closed.wait(WAIT_S)
    assert list(Iteration(portal, numbers(), lambda it: it)) == [1, 2]

    async def nothing() -> None:
        return

    with monkeypatch.context() as patched:
        patched.setattr("concurrent.futures.Future.result", interrupted)
        with pytest.raises(KeyboardInterrupt):
            portal.call(endless())
    portal.close(nothing)
    assert cancelled.is_set()
