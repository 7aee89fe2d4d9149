"""What a worker makes of answers that real regions give seldom: against scripted ones."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import httpx2
import pytest
from sdk.python.tests.conftest import EU, US, Time, until

from perdure_client import Client, Conflict, Fenced, Invalid, PerdureError, Turn, Unavailable
from perdure_client.regions import Regions
from perdure_client.transports import POLL_WAIT_MS, Event
from perdure_client.waiting_runs import WaitingRuns

EPOCH = "2-0123456789abcdef"
Answer = httpx2.Response | Exception


def run(id_: str = "r", status: str = "requested", **fields: Any) -> dict[str, Any]:
    value = {"id": id_, "session": "s", "status": status, "agent": "bot", "message": id_}
    return value | {"attempt": 0, "epoch": None, "inputs": []} | fields


def claimed(id_: str = "r", **fields: Any) -> httpx2.Response:
    held = run(id_, "running", attempt=1, epoch=EPOCH, **fields)
    value = {"run": held, "inputs": [], "epoch": EPOCH, "header": "h", "base": 0, "next": 0}
    return httpx2.Response(200, json=value | {"length": 0, "text": "", "parts": []})


def problem(status: int, code: str, **fields: Any) -> httpx2.Response:
    headers = {"retry-after": str(fields.pop("after"))} if "after" in fields else {}
    value = {"code": code, "status": status, "detail": code} | fields
    return httpx2.Response(status, json=value, headers=headers)


class Feed(httpx2.AsyncByteStream):
    """An agent's feed that says what it is told to, and ends when its region does."""

    def __init__(self, *runs: dict[str, Any]) -> None:
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.say("runs", all=list(runs))

    def say(self, name: str, **data: Any) -> None:
        self._queue.put_nowait(f"event: {name}\ndata: {json.dumps(data)}\n\n".encode())

    def end(self) -> None:
        self._queue.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (piece := await self._queue.get()) is not None:
            yield piece


class Scripted:
    """Two regions. ``answers``: by the last word of a path (with ``@eu`` or ``@us`` for one of them
    alone), what is answered in turn, the last again and again; or a function of the request."""

    def __init__(self, *runs: dict[str, Any], **answers: list[Answer]) -> None:
        self.feeds: list[Feed] = []
        self.runs = runs
        self.answers: dict[str, list[Answer] | Callable[[httpx2.Request], Answer]] = {
            "claim": [claimed()],
            "lease": [httpx2.Response(200, json=run("r", "running", epoch=EPOCH))],
            "tokens": appended,
        }
        self.answers |= answers
        self.asked: list[tuple[str, str, Any]] = []
        self.time = Time()

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        region = str(request.url.host)
        word = request.url.path.rpartition("/")[2]
        body = json.loads(request.content) if request.content else None
        self.asked.append((region, word, body))
        if request.url.path.startswith("/v1/agents/") and "runs" not in self.answers:
            self.feeds.append(Feed(*self.runs))
            kind = {"content-type": "text/event-stream"}
            return httpx2.Response(200, headers=kind, stream=self.feeds[-1])
        answers = self.answers.get(f"{word}@{region}") or self.answers[word]
        if callable(answers):
            answer = answers(request)
        else:
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return httpx2.Response(answer.status_code, headers=answer.headers, content=answer.content)

    def bodies(self, word: str) -> list[tuple[str, Any]]:
        return [(region, body) for region, name, body in self.asked if name == word]

    def client(self, **options: Any) -> Client:
        return Client(
            [EU, US],
            http=httpx2.MockTransport(self),
            jitter=random.Random(1),
            sleep=self.time.sleep,
            clock=lambda: self.time.now,
            **options,
        )


def appended(request: httpx2.Request) -> httpx2.Response:
    body = json.loads(request.content)
    count = int(request.headers["producer-seq"]) + len(body["tokens"])
    value = {"next": count, "accepted": count, "stable": count, "duplicates": 0}
    return httpx2.Response(200, json=value | {"ended": "stable" if body.get("end") else None})


async def first(client: Client, **options: Any) -> Turn:
    async with aclosing(client.agent("bot", **options).turns()) as turns:
        return await anext(turns)


async def test_a_claim_is_repeated_as_it_was() -> None:
    """Its answer is lost, so it goes elsewhere under the same name and is one claim; the next turn
    is another claim, of another producer."""
    lost = httpx2.ReadError("lost")
    world = Scripted(run("r"), run("q"), **{"claim@eu": [lost], "claim": [claimed(), claimed("q")]})
    async with world.client() as client:
        async with aclosing(client.agent("bot", lease_s=9).turns()) as turns:
            held = [await anext(turns), await anext(turns)]
        assert [turn.id for turn in held] == ["r", "q"]
        for turn in held:
            await turn.aclose()
    (eu, one), (us, again), (there, other), *_ = world.bodies("claim")
    assert (eu, us, there) == ("eu", "us", "us")
    assert one == again
    assert (one["mode"], one["lease_s"]) == ("continue", 9)
    assert one["claim_id"] != other["claim_id"]
    assert one["producer"] == held[0].writer.producer != other["producer"]


@pytest.mark.parametrize(
    ("refusal", "waits_s"),
    [
        (problem(409, "held", after=7), 7.0),
        (problem(409, "held"), 1.0),
        (problem(409, "conflict"), 1.0),
        (problem(404, "not_found"), 1.0),
        (claimed(), None),
    ],
)
async def test_what_cannot_be_claimed_now(refusal: httpx2.Response, waits_s: float | None) -> None:
    """The next run is taken, and this one tried again: when the lease of who has it is over, or a
    second later where the region has not been told of it."""
    if waits_s is None:
        value = json.loads(refusal.content)
        value["run"]["epoch"] = "3-0123456789abcdef"
        refusal, waits_s = httpx2.Response(200, json=value), 1.0
    world = Scripted(run("r"), run("q"), claim=[refusal, claimed("q"), claimed("r")])
    async with world.client() as client:
        async with aclosing(client.agent("bot").turns()) as turns:
            one = await anext(turns)
            await one.aclose()
            began = world.time.now
            other = await anext(turns)
            await other.aclose()
        assert (one.id, other.id) == ("q", "r")
        assert world.time.now - began == pytest.approx(waits_s)


@pytest.mark.parametrize(
    "refusal", [problem(409, "ended"), problem(403, "cancelled"), problem(410, "deleted")]
)
async def test_what_is_over_is_left(refusal: httpx2.Response) -> None:
    """It is not claimed again, until the feed says that it is to be."""
    world = Scripted(run("r"), claim=[refusal, claimed("q"), claimed("r")])
    async with world.client() as client, aclosing(client.agent("bot").turns()) as turns:
        taking = asyncio.ensure_future(anext(turns))
        await until(lambda: bool(world.bodies("claim")))
        world.feeds[0].say("run", run=run("q"))
        turn = await taking
        assert turn.id == "q"
        await turn.aclose()
        assert len(world.bodies("claim")) == 2


async def test_a_feed_that_is_refused() -> None:
    """Is raised to who asks for turns; so is a claim that every region would refuse."""
    world = Scripted(run(), runs=[problem(401, "unauthorized")])
    async with world.client() as client:
        with pytest.raises(PerdureError, match="unauthorized"):
            await first(client)
        with pytest.raises(PerdureError, match="unauthorized"):
            await client.agent("bot").work(lambda _: asyncio.sleep(0))
    world = Scripted(run(), claim=[problem(400, "invalid_body")])
    async with world.client() as client:
        with pytest.raises(Invalid):
            await first(client)


async def test_a_feed_that_ends_goes_on_elsewhere() -> None:
    """It begins with everything, so what was missed is known."""
    world = Scripted()
    async with world.client() as client, aclosing(client.agent("bot").turns()) as turns:
        taking = asyncio.ensure_future(anext(turns))
        await until(lambda: bool(world.feeds))
        world.runs = (run("r"),)
        world.feeds[0].end()
        turn = await taking
        await turn.aclose()
        assert [region for region, word, _ in world.asked if word == "runs"] == ["eu", "us"]


async def test_a_feed_by_long_poll() -> None:
    """Everything each time: what the worker is told is what has changed, and no poll waits without
    a cursor."""
    lists = [[run("r")], [run("r")], [run("q")]]
    polls: list[dict[str, str]] = []
    over = asyncio.Event()

    async def answer(request: httpx2.Request) -> httpx2.Response:
        polls.append(dict(request.url.params))
        if not lists:
            await over.wait()
        runs = lists.pop(0)
        return httpx2.Response(200, json={"runs": runs, "cursor": f"c{runs[0]['id']}"})

    time = Time()
    http = httpx2.MockTransport(answer)
    async with Client([EU], http=http, transport="poll", sleep=time.sleep) as client:
        heard: list[Event] = []
        async with aclosing(client.agent("bot", worker="w").events()) as events:
            async for event in events:
                heard.append(event)
                if len(heard) == 2:
                    break
    assert [[each["id"] for each in event.data["all"]] for event in heard] == [["r"], ["q"]]
    wait = {"worker": "w", "wait_ms": str(POLL_WAIT_MS), "cursor": "cr"}
    assert polls == [{"worker": "w", "wait_ms": "0"}, wait, wait]


async def test_words_that_a_region_lacks() -> None:
    """The region that had them has died: they are said again, in order, before the new one; where
    the epoch is not known either, the region is told of it first."""
    held = httpx2.Response(200, json=run("r", "suspended", epoch=EPOCH))
    world = Scripted(run())
    world.answers |= {
        "state@eu": [held, held, httpx2.ReadError("gone")],
        "state@us": [problem(409, "unknown_epoch"), problem(409, "gap", expected=1), held],
        "messages": [httpx2.Response(201, json={"id": "r", "epoch": EPOCH, "next": 0})],
    }
    async with world.client() as client:
        turn = await first(client)
        await turn.suspend({"asks": 1})
        await turn.resume()
        await turn.suspend({"asks": 2})
        await turn.aclose()
    words = [(region, body["n"]) for region, body in world.bodies("state")]
    assert words == [
        *[("eu", 1), ("eu", 2), ("eu", 3)],
        *[("us", 3), ("us", 3), ("us", 1), ("us", 2), ("us", 3)],
    ]
    assert ("us", {"header": "h"}) in world.bodies("messages")


@pytest.mark.parametrize(
    "refusal",
    [problem(409, "gap", expected=7), problem(409, "conflict"), problem(413, "too_large")],
)
async def test_a_word_that_is_refused(refusal: httpx2.Response) -> None:
    """Is raised, and the next takes its number: the turn goes on."""
    held = httpx2.Response(200, json=run("r", "running", epoch=EPOCH))
    world = Scripted(run(), state=[refusal, held])
    async with world.client() as client:
        turn = await first(client)
        with pytest.raises(PerdureError):
            await turn.suspend("x")
        await turn.resume()
        await turn.aclose()
    assert [body["n"] for _, body in world.bodies("state")] == [1, 1]
    assert turn.error is None


async def test_a_word_too_late() -> None:
    """Another has taken it over: everything says so from then on, and the model is stopped."""
    world = Scripted(run(), state=[problem(403, "fenced")])
    async with world.client() as client:
        turn = await first(client)
        with pytest.raises(Fenced):
            await turn.suspend()
        await turn.stopped()
        with pytest.raises(Fenced):
            await turn.pipe(["x"])
        async with aclosing(turn.new_inputs()) as inputs:
            with pytest.raises(Fenced):
                await anext(inputs)
        with pytest.raises(Fenced):
            async with turn:
                pass


async def test_no_region_answers_for_a_while() -> None:
    """A lease that could not be renewed is no end: who was only slow goes on, and says so."""
    lease = httpx2.Response(200, json=run("r", "interrupted", epoch=EPOCH, detail="x"))
    running = httpx2.Response(200, json=run("r", "running", epoch=EPOCH))
    world = Scripted(run(), state=[running])
    world.answers["lease"] = [*[httpx2.ReadError("gone")] * 30, lease]
    async with world.client(give_up_s=10) as client:
        turn = await first(client)
        await until(lambda: bool(world.bodies("state")))
        said = world.bodies("state")[0][1]
        assert (said["n"], said["state"], said["detail"]) == (1, "running", "x")
        assert not turn.is_over
        assert await turn.pipe(["x"]) == "complete"
    world = Scripted(run(), state=[httpx2.ReadError("gone")])
    async with world.client(give_up_s=1) as client:
        turn = await first(client)
        with pytest.raises(Unavailable):
            await turn.suspend()
        assert turn.error is None
        await turn.aclose()


async def test_another_epoch_on_the_feed() -> None:
    """May be older news: the lease is asked for at once, and tells."""
    world = Scripted(run())
    async with world.client() as client, aclosing(client.agent("bot").turns()) as turns:
        turn = await anext(turns)
        world.feeds[0].say("run", run=run("r", "interrupted", attempt=1, epoch="1-0"))
        await until(lambda: len(world.bodies("lease")) > 3)
        assert turn.error is None
        world.answers["lease"] = [problem(403, "fenced")]
        world.feeds[0].say("run", run=run("r", "running", attempt=2, epoch="3-0"))
        await turn.stopped()
        assert isinstance(turn.error, Fenced)
        await turn.aclose()


async def test_an_input_that_is_not_there_yet() -> None:
    """Is asked for again until it is; one that was deleted is left out; and inputs end with the
    turn."""
    inputs = ["a", "b"]
    world = Scripted(run())
    world.answers |= {
        "lease": [httpx2.Response(200, json=run("r", "running", epoch=EPOCH, inputs=inputs))],
        "a": [problem(410, "deleted")],
        "b": [problem(404, "not_found"), httpx2.Response(200, json={"id": "b", "text": "B"})],
    }
    async with world.client() as client:
        turn = await first(client)
        seen = []
        async with aclosing(turn.new_inputs()) as news:
            async for message in news:
                seen.append(message["text"])
                await turn.aclose()
    assert seen == ["B"]


async def test_errors_of_handlers_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """When nobody else wants to hear of them."""

    async def handler(_: Turn) -> None:
        raise Conflict({"code": "conflict", "detail": "mine"})

    world = Scripted(run())
    async with world.client() as client:
        working = asyncio.create_task(client.agent("bot").work(handler))
        await until(lambda: bool(caplog.records))
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
    assert "run r of session s" in caplog.text
    assert "conflict: mine" in caplog.text


@pytest.mark.parametrize(
    ("failure", "words"),
    [(problem(401, "unauthorized"), "unauthorized"), (RuntimeError("no grant now"), "no grant")],
)
async def test_a_lease_that_nobody_renews_is_told(failure: Answer, words: str) -> None:
    """Whatever keeps it from being renewed ends the turn, and is not lost with its handler, which
    is cancelled."""
    world = Scripted(run(), lease=[failure])
    told: list[tuple[str, Exception]] = []

    async def handler(turn: Turn) -> None:
        await asyncio.Event().wait()

    async with world.client() as client, asyncio.timeout(5):
        work = client.agent("bot").work(handler, on_error=lambda t, e: told.append((t.id, e)))
        working = asyncio.create_task(work)
        await until(lambda: bool(told))
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
    assert told[0][0] == "r"
    assert words in str(told[0][1])


async def test_no_turn_at_once_is_refused() -> None:
    """It would wait for ever, and say nothing."""
    async with Scripted().client() as client, asyncio.timeout(5):
        with pytest.raises(ValueError, match="at least 1"):
            await client.agent("bot").work(lambda _: asyncio.sleep(0), concurrency=0)


async def test_signals_are_sent_once() -> None:
    """Nobody else is asked. A region that has enough of them is not left for it; one that is away
    is, or none would arrive for as long as it is."""
    taken = httpx2.Response(202, json={})
    world = Scripted(signals=[taken, problem(429, "too_many", after=9), httpx2.ReadError("gone")])
    async with world.client() as client:
        session = client.session("s")
        assert await session.signal("typing", {"at": 1}, by="ann")
        assert not await session.signal("typing")
        assert client.regions.pick() == EU
        assert not await session.signal("typing")
        assert client.regions.pick() == US
        world.answers["signals"] = [problem(400, "invalid_body")]
        with pytest.raises(Invalid):
            await session.signal("Typing!")
    said = {"signal": "typing", "data": {"at": 1}, "from": "ann"}
    assert world.bodies("signals")[:2] == [("eu", said), ("eu", {"signal": "typing"})]


def test_names_are_checked() -> None:
    """Before anything is sent."""
    client = Scripted().client()
    for make in (lambda: client.agent("a/b"), lambda: client.agent("a", worker="b?")):
        with pytest.raises(Invalid):
            make()


async def test_which_runs_wait() -> None:
    """The oldest first; a change takes back that one was put off; what is missing from ``all`` is
    forgotten; and a suspended one waits only with inputs that were not seen."""
    time = Time()
    async with httpx2.AsyncClient() as http:
        regions = Regions([EU], http, sleep=time.sleep, clock=lambda: time.now)
        waiting = WaitingRuns(regions)

        def heard(name: str, **data: Any) -> None:
            waiting.heard(Event(name, "", data, EU))

        heard("runs", all=[run("a"), run("b", "running"), run("c", "interrupted"), run("d")])
        assert (await waiting.next())["id"] == "a"
        waiting.put_off(("s", "a"), 5)
        assert (await waiting.next())["id"] == "c"
        heard("run", run=run("c", "running"))
        assert (await waiting.next())["id"] == "d"
        heard("run", run=run("a"))
        assert (await waiting.next())["id"] == "d"
        heard("run", run=run("a", "interrupted", attempt=1))
        assert (await waiting.next())["id"] == "a"
        heard("runs", all=[run("e", "suspended"), run("f", "suspended", inputs=["x"])])
        assert (await waiting.next())["id"] == "f"
        heard("unknown")
        waiting.fail(ValueError("no feed"))
        with pytest.raises(ValueError, match="no feed"):
            await waiting.next()
