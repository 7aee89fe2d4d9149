"""Readers end with the same text, whatever lies between them and the region."""

import asyncio
import gc
import json
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import httpx2
import pytest
from sdk.python.tests.between import IDLE_S, Kind, between
from sdk.python.tests.conftest import EU, Time, until
from sdk.python.tests.served import Served

from perdure_client import (
    Client,
    Event,
    Invalid,
    PerdureError,
    SessionView,
    apply,
    following,
    transports,
)
from perdure_client.transports import HeldBack, Transports

WORDS = [f"word{number} " for number in range(60)]
TEXT = "".join(WORDS)


class Reading:
    """A reader in a task of its own, until message ``m`` has ended."""

    def __init__(self, client: Client, cursor: str | None = None) -> None:
        self.view = SessionView("s", cursor=cursor)
        self.events: list[Event] = []
        self.task = asyncio.create_task(self._read(client, cursor))

    async def _read(self, client: Client, cursor: str | None) -> None:
        async with aclosing(client.session("s").events(cursor)) as events:
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


async def write_through(
    region: Served, readings: list[Reading], pause: Callable[[], Awaitable[None]]
) -> None:
    """An agent that writes word by word, and rests twice."""
    async with Client([region.url]) as agent, agent.session("s").open(id="m") as writer:
        for number, word in enumerate(WORDS):
            await writer.write(word)
            if number in (20, 40):
                await writer.flush()
                await until(lambda: all(reading.length > 10 for reading in readings))
                await pause()
    async with asyncio.timeout(20):
        await asyncio.gather(*(reading.task for reading in readings))


async def at_once() -> None:
    """No rest."""


def text(reading: Reading) -> str:
    message = reading.view.message("m")
    assert message is not None
    return message.text


@pytest.mark.parametrize("transport", ["websocket", "sse", "poll", "auto"])
async def test_every_transport_ends_with_the_same_text(
    regions: tuple[Served, Served], transport: Any
) -> None:
    """Alone, each carries everything, in order, once."""
    async with between(regions[0].url, "plain") as proxy:
        async with Client([proxy.url], transport=transport) as client:
            reading = Reading(client)
            await until(lambda: bool(reading.events))
            await write_through(regions[0], [reading], at_once)
        asked = {"websocket": "ws", "sse": "events", "poll": "poll", "auto": "ws"}[transport]
        assert set(proxy.asked) == {asked}
    assert text(reading) == TEXT
    starts = [e.data["from"] for e in reading.events if e.event == "append"]
    assert starts == sorted(set(starts))


@pytest.mark.failure("N8")
@pytest.mark.parametrize(
    ("kind", "asked"),
    [
        ("forbids", ["ws", "events"]),
        ("buffers", ["ws", "events", "transports", "poll"]),
        ("swallows", ["ws", "transports", "events"]),
    ],
)
async def test_what_does_not_get_through_is_left(
    regions: tuple[Served, Served], kind: Kind, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next transport is taken, with the cursor; what got through is remembered, so the next
    reader begins with it; and the text is the same."""
    monkeypatch.setattr(transports, "FIRST_S_MAX", 0.3)
    async with between(regions[0].url, kind) as proxy, Client([proxy.url]) as client:
        first = Reading(client)
        await until(lambda: bool(first.events))
        begun = list(dict.fromkeys(proxy.asked))
        assert begun == asked
        proxy.asked.clear()
        second = Reading(client)
        await until(lambda: bool(second.events))
        assert set(proxy.asked) <= {asked[-1]}
        await write_through(regions[0], [first, second], at_once)
        assert text(first) == text(second) == TEXT
        assert client.regions.pick() == proxy.url
        assert set(proxy.asked) <= {asked[-1]}


@pytest.mark.failure("N8")
@pytest.mark.parametrize("transport", ["websocket", "sse", "poll", "auto"])
async def test_a_proxy_that_cuts_what_is_idle(
    regions: tuple[Served, Served], transport: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before any keep-alive comes: the reader is back with its cursor, and loses nothing."""
    monkeypatch.setattr(transports, "POLL_WAIT_MS_MIN", 100)
    async with between(regions[0].url, "cuts") as proxy:
        async with Client([proxy.url], transport=transport) as client:
            reading = Reading(client)

            async def cut() -> None:
                before = proxy.cuts
                known = client._transports
                polls = transport == "poll"
                await until(lambda: known.poll_wait_ms < 400 if polls else proxy.cuts > before)

            await write_through(regions[0], [reading], cut)
            if transport == "poll":
                assert 100 <= client._transports.poll_wait_ms < 400
        assert proxy.cuts > 0
    assert text(reading) == TEXT


@pytest.mark.failure("N8")
async def test_keep_alives_get_over_idle_times(regions: tuple[Served, Served]) -> None:
    """What the region says while nothing happens keeps such a proxy from cutting."""
    loop = asyncio.get_running_loop()
    async with (
        between(regions[0].url, "cuts") as proxy,
        Client([proxy.url], transport="sse") as client,
    ):
        reading = Reading(client)
        await until(lambda: [e.event for e in reading.events][-1:] == ["ready"])
        end = loop.time() + 3 * IDLE_S

        def idle() -> bool:
            if loop.time() * 20 % 1 < 0.2:
                regions[0].node.fanout.keep_alive()
            return loop.time() > end

        await until(idle)
        assert proxy.cuts == 0
        await write_through(regions[0], [reading], at_once)
    assert text(reading) == TEXT


async def test_a_cursor_goes_from_transport_to_transport(regions: tuple[Served, Served]) -> None:
    """A reader stops after some events and goes on over another, at another region: exactly what
    is missing comes."""
    eu, us = regions
    async with Client([eu.url]) as agent, agent.session("s").open(id="m") as writer:
        for word in WORDS:
            await writer.write(word)
    seen = SessionView("s")
    cursor = None
    turns: list[tuple[Any, Served]] = [("poll", eu), ("websocket", us), ("sse", eu), ("poll", us)]
    for transport, region in turns:
        async with (
            Client([region.url], transport=transport) as client,
            aclosing(client.session("s").events(cursor)) as events,
        ):
            async for event in events:
                apply(seen, event.event, event.data)
                cursor = event.id
                if event.event == "ready":
                    break
    message = seen.message("m")
    assert message is not None and message.text == TEXT


@pytest.mark.failure("P4")
@pytest.mark.parametrize("transport", ["websocket", "poll"])
async def test_a_region_dies(regions: tuple[Served, Served], transport: Any) -> None:
    """Over these transports too a reader goes on at the other region, where its agent goes on."""
    eu, us = regions
    async with (
        Client([eu.url, us.url]) as agent,
        Client([eu.url, us.url], transport=transport) as client,
    ):
        reading = Reading(client)
        writer = await agent.session("s").open(id="m")
        for word in WORDS[:30]:
            await writer.write(word)
        await writer.stable()
        await until(lambda: reading.length == 30)
        await eu.die()
        for word in WORDS[30:]:
            await writer.write(word)
        await writer.end("complete")
        await writer.aclose()
        async with asyncio.timeout(20):
            await reading.task
    assert text(reading) == TEXT
    assert {event.region for event in reading.events} == {eu.url, us.url}
    assert "replace" not in [event.event for event in reading.events]


async def test_a_region_that_is_away_is_no_proxy(regions: tuple[Served, Served]) -> None:
    """The other region is read, over the best transport, and nothing is remembered of the first."""
    async with Client(["http://127.0.0.1:9", regions[1].url]) as client:
        async with aclosing(client.session("s").events()) as events:
            event = await anext(events)
        assert event.region == regions[1].url
        assert client._transports.of("http://127.0.0.1:9") == "websocket"
        assert client._transports.of(regions[1].url) == "websocket"


@pytest.mark.failure("N6")
async def test_a_region_that_hangs_is_left(
    regions: tuple[Served, Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes connections and says nothing to anybody: the other is read, over the best transport,
    before every other has been tried in vain."""
    monkeypatch.setattr(transports, "FIRST_S_MAX", 0.2)
    monkeypatch.setattr(following, "FIRST_S_MAX", 0.2)
    asked: list[bytes] = []

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        await reader.read()
        writer.close()

    async with await asyncio.start_server(hang, "127.0.0.1", 0) as server, asyncio.timeout(10):
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with Client([url, regions[1].url]) as client:
            async with aclosing(client.session("s").events()) as events:
                event = await anext(events)
            assert client._transports.of(url) == "websocket"
    assert event.region == regions[1].url
    assert [line.split()[1] for line in asked] == [b"/v1/sessions/s/ws", b"/v1/transports"]


@pytest.mark.parametrize("transport", ["websocket", "poll", "auto"])
async def test_refusals_are_the_regions(regions: tuple[Served, Served], transport: Any) -> None:
    """A deleted session is refused over every transport with the region's own words."""
    async with Client([regions[0].url], transport=transport) as client:
        await client.session("s").create()
        await client.session("s").delete()
        with pytest.raises(PerdureError, match="deleted"):
            await anext(client.session("s").events())
        views = [view async for view in client.session("s").read()]
        assert views[-1].deleted
        # A cursor that cannot be read is dropped.
        async with aclosing(client.session("t").events("x")) as events:
            assert (await anext(events)).event == "snapshot"


async def test_transports_of_a_region(regions: tuple[Served, Served]) -> None:
    """The client can ask what there is."""
    async with Client([regions[0].url]) as client:
        names = [each["name"] for each in (await client.transports())["transports"]]
    assert names == ["websocket", "sse", "poll"]


def test_unknown_transport() -> None:
    """Is refused where it is given."""
    with pytest.raises(Invalid, match="invalid_transport"):
        Client([EU], transport="pigeon")  # type: ignore[arg-type]


def test_what_is_remembered() -> None:
    """One that is held back is left only when the next is known to get through; and for a time."""
    now = 0.0
    known = Transports("auto", sockets=True, clock=lambda: now)
    assert known.of(EU) == "websocket"
    assert known.held_back(EU, "websocket")
    assert known.of(EU) == "sse"
    known.failed(EU)
    assert known.of(EU) == "websocket"
    known.held_back(EU, "websocket")
    known.held_back(EU, "sse")
    known.worked(EU, "poll")
    assert known.of(EU) == "poll"
    assert not known.held_back(EU, "poll")
    known.cut(known.poll_wait_ms)
    known.cut(known.poll_wait_ms)
    assert known.poll_wait_ms == transports.POLL_WAIT_MS // 4
    now = transports.FORGET_S + 1
    assert known.of(EU) == "websocket"
    assert known.poll_wait_ms == transports.POLL_WAIT_MS
    alone = Transports("sse", sockets=True, clock=lambda: now)
    assert not alone.held_back(EU, "sse")
    assert HeldBack("x").args == ("x",)


async def test_a_first_poll_waits_for_nothing() -> None:
    """Its answer is there at once: a region that gives none is not waited for longer than that."""
    time = Time()
    asked: list[tuple[str, float]] = []

    def route(request: httpx2.Request) -> httpx2.Response:
        asked.append((request.url.params["wait_ms"], request.extensions["timeout"]["read"]))
        good = {"events": [{"event": "ready", "id": "c", "data": {}}], "cursor": "c", "poll": "p"}
        return httpx2.Response(200, json=good)

    http = httpx2.MockTransport(route)
    async with (
        Client([EU], transport="poll", http=http, sleep=time.sleep) as client,
        aclosing(client.session("s").events()) as events,
    ):
        await anext(events)
        await anext(events)
    assert asked == [("0", 15.0), ("20000", 35.0)]


@pytest.mark.parametrize(
    "body", [b"[]", b"{}", b'{"events":7}', b'{"events":[{}],"cursor":""}', b"<html>"]
)
async def test_an_answer_that_is_none(body: bytes) -> None:
    """A poll that is answered with something else is a failure of that region."""
    time = Time()
    good = {"events": [{"event": "ready", "id": "c", "data": {}}], "cursor": "c"}
    answers = [body, json.dumps(good).encode()]

    def route(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, content=answers.pop(0))

    http = httpx2.MockTransport(route)
    async with (
        Client([EU], transport="poll", http=http, sleep=time.sleep) as client,
        aclosing(client.session("s").events()) as events,
    ):
        assert (await anext(events)).event == "ready"
    assert not answers


@pytest.mark.parametrize("transport", ["websocket", "sse", "poll"])
async def test_a_program_that_leaves_its_reader_ends_without_complaints(
    regions: tuple[Served, Served], transport: Any
) -> None:
    """A loop that is left, the block of the client, and the event loop: nothing is left behind
    that the next one complains of."""
    complaints: list[dict[str, Any]] = []

    async def program() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, said: complaints.append(said))
        async with Client([regions[0].url], transport=transport) as client:
            async for view in client.session("s").read():
                if view.ready:
                    break

    await asyncio.to_thread(asyncio.run, program())
    gc.collect()
    assert complaints == []
