"""Readers go on at another region with their cursor: over scripted streams and real sockets."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import httpx2
import pytest
from sdk.python.tests.conftest import EU, US, Stream, Time

from perdure_client import Client, Deleted, Event, Invalid, PerdureError, SessionView
from perdure_client.transports import SILENCE_S_MAX

SNAPSHOT = {
    "messages": [
        {
            "id": "m",
            "serial": "0.m",
            "role": "assistant",
            "status": "streaming",
            "length": 0,
            "parts": [],
        }
    ],
    "metadata": {},
    "more": False,
}


def sse(name: str, cursor: str, data: Any) -> bytes:
    return f"event: {name}\nid: {cursor}\ndata: {json.dumps(data)}\n\n".encode()


def append(from_: int, text: str) -> dict[str, Any]:
    return {"message": "m", "part": 0, "from": from_, "to": from_ + 1, "text": text}


Script = list[bytes | Exception] | httpx2.Response | Exception


class Scripted:
    """Connections in order: the pieces of each, an answer, or an error."""

    def __init__(self, *connections: Script) -> None:
        self.connections = list(connections)
        self.asked: list[tuple[str, str | None]] = []
        self.time = Time()
        self.streams: list[Stream] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        region = f"http://{request.url.host}"
        self.asked.append((region, request.headers.get("last-event-id")))
        script = self.connections.pop(0)
        if isinstance(script, Exception):
            raise script
        if isinstance(script, httpx2.Response):
            return script
        self.streams.append(Stream(script))
        kind = {"content-type": "text/event-stream"}
        return httpx2.Response(200, headers=kind, stream=self.streams[-1])

    def client(self) -> Client:
        return Client(
            [EU, US],
            http=httpx2.MockTransport(self),
            jitter=random.Random(1),
            sleep=self.time.sleep,
            clock=lambda: self.time.now,
        )


async def read_all(script: Scripted, last: str, view: SessionView | None = None) -> SessionView:
    """Read until the cursor ``last``."""
    async with script.client() as client, aclosing(client.session("s").read(view)) as views:
        async for seen in views:
            if seen.cursor == last:
                return seen
    raise AssertionError("the reading has ended")


@pytest.mark.failure("N8")
@pytest.mark.parametrize(
    "death", [httpx2.ReadError("reset"), httpx2.ReadTimeout("silent"), ValueError("cut")]
)
async def test_goes_on_at_another_region_with_its_cursor(death: Exception) -> None:
    """In the middle of an event, by reset or silence; the piece of the event counts for nothing."""
    head = [sse("snapshot", "c0", SNAPSHOT), sse("append", "c1", append(0, "Hel"))]
    script = Scripted(
        [*head, b"event: append\nid: c2\nda", death],
        httpx2.ConnectError("refused"),
        [sse("append", "c2", append(1, "lo"))],
    )
    view = await read_all(script, "c2")
    assert (view.messages[0].text, view.region) == ("Hello", EU)
    assert script.asked == [(EU, None), (US, "c1"), (EU, "c1")]
    assert all(stream.closed for stream in script.streams)


async def test_an_end_of_the_stream_is_a_failure_too() -> None:
    """A region that closes is left; only ``deleted`` ends the reading."""
    script = Scripted([sse("snapshot", "c0", SNAPSHOT)], [sse("ready", "c1", {})])
    view = await read_all(script, "c1")
    assert view.ready and [region for region, _ in script.asked] == [EU, US]


async def test_a_region_that_is_read_from_is_not_avoided() -> None:
    """It had failed before: what is asked next goes there again."""
    script = Scripted([sse("ready", "c1", {})])
    async with script.client() as client:
        client.regions.failed(EU, "")
        client.regions.failed(US, "")
        async for _ in client.session("s").events():
            break
        client.regions.worked(US)
        assert client.regions.pick() == EU
    assert [region for region, _ in script.asked] == [EU]


async def test_a_saved_view_goes_on_from_its_cursor() -> None:
    """After a restart of the client only what is missing is asked for."""
    script = Scripted([sse("ready", "c8", {})])
    await read_all(script, "c8", SessionView("s", cursor="c7"))
    assert script.asked == [(EU, "c7")]


async def test_what_does_not_fit_starts_over() -> None:
    """Without a cursor, so that a snapshot comes; and it is counted."""
    script = Scripted(
        [sse("snapshot", "c0", SNAPSHOT), sse("append", "c1", append(5, "?"))],
        [sse("snapshot", "c2", SNAPSHOT), sse("append", "c3", append(0, "ok"))],
    )
    view = await read_all(script, "c3")
    assert view.messages[0].text == "ok"
    assert [cursor for _, cursor in script.asked] == [None, None]


@pytest.mark.failure("X6")
async def test_a_malformed_cursor_is_dropped() -> None:
    """A region that cannot read it says so, and a snapshot is taken instead."""
    problem = httpx2.Response(400, json={"code": "invalid_cursor", "status": 400})
    script = Scripted(problem, [sse("ready", "c1", {})])
    await read_all(script, "c1", SessionView("s", cursor="x"))
    assert [cursor for _, cursor in script.asked] == ["x", None]


async def test_a_region_that_drains_is_left_after_a_share_of_its_time() -> None:
    """Readers that are sent away come back elsewhere, spread over ``retry_ms``."""
    script = Scripted([sse("reconnect", "c1", {"retry_ms": 900})], [sse("ready", "c2", {})])
    await read_all(script, "c2")
    assert script.asked == [(EU, None), (US, "c1")]
    assert len(script.time.slept) == 1 and 0 < script.time.slept[0] <= 0.9


async def test_a_reader_whose_grant_is_over_brings_the_next() -> None:
    """It goes on at the same region, from where it was, with the grant of then: nearly at once."""
    over = [sse("ready", "c1", {}), sse("expired", "c2", {"reason": "expired"})]
    script = Scripted(over, [sse("metadata", "c3", {"metadata": {}})])
    await read_all(script, "c3")
    assert script.asked == [(EU, None), (EU, "c2")]
    assert sum(script.time.slept) < 0.2


async def test_refusals_are_raised_and_5xx_are_not() -> None:
    """A region that is not able now is left; one that refuses speaks for all."""
    script = Scripted(
        httpx2.Response(503, text="<html>"),
        httpx2.Response(401, json={"code": "unauthorized", "status": 401}),
    )
    with pytest.raises(PerdureError, match="unauthorized"):
        await read_all(script, "never")


@pytest.mark.parametrize(
    "script",
    [
        [sse("snapshot", "c0", SNAPSHOT), sse("deleted", "c1", {})],
        httpx2.Response(410, json={"code": "deleted", "status": 410}),
    ],
)
async def test_a_deleted_session_ends_the_reading(script: Script) -> None:
    """Told live, or by 410 to one who comes later."""
    scripted = Scripted(script)
    async with scripted.client() as client:
        views = [view async for view in client.session("s").read()]
    assert views[-1].deleted and views[-1].messages == []


async def test_events_of_a_deleted_session_are_refused() -> None:
    """``events`` has no view to say it in, so it raises."""
    scripted = Scripted(httpx2.Response(410, json={"code": "deleted", "status": 410}))
    async with scripted.client() as client:
        with pytest.raises(Deleted):
            await anext(client.session("s").events())


class DyingRegion:
    """A region on a real socket that says what it is told to and then cuts every connection."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces
        self._server: asyncio.Server | None = None
        self.cursors: list[str] = []
        self.url = ""

    async def __aenter__(self) -> "DyingRegion":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        names = [line.split(": ", 1) for line in head.split("\r\n")[1:-2]]
        self.cursors += [value for name, value in names if name == "last-event-id"]
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n")
        writer.write(b"transfer-encoding: chunked\r\n\r\n")
        for piece in self._pieces:
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        await writer.drain()
        writer.transport.abort()


async def test_over_real_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """A region dies in the middle of an event; the other is asked from the last whole one on. And
    the way there is the URL that was given, whatever the environment says."""
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    first = DyingRegion(
        sse("snapshot", "c0", SNAPSHOT) + sse("append", "c1", append(0, "Hel")), b"event: app"
    )
    second = DyingRegion(sse("append", "c2", append(1, "lo 🌍")))
    async with first, second, Client([first.url, second.url]) as client:
        events: AsyncIterator[Event] = client.session("s").events()
        got = [await anext(events) for _ in range(3)]
        await events.aclose()  # type: ignore[attr-defined]
    assert [(event.id, event.region) for event in got] == [
        ("c0", first.url),
        ("c1", first.url),
        ("c2", second.url),
    ]
    assert second.cursors == ["c1"]


async def test_what_one_connection_held_another_need_not() -> None:
    """``held`` is of the region that is read; after a move it is what the new one says."""
    script = Scripted(
        [sse("snapshot", "c0", SNAPSHOT), sse("stale", "c1", {"message": "m", "held": True})],
        [sse("ready", "c2", {})],
    )
    view = await read_all(script, "c2")
    assert [message.held for message in view.messages] == [False]


async def test_regions_that_cut_early_are_asked_with_growing_pauses() -> None:
    """One event is no proof that a region is well."""
    script = Scripted(*([sse("ready", f"c{number}", {})] for number in range(9)))
    await read_all(script, "c8")
    assert script.time.slept[-1] > 1.0


@pytest.mark.failure("N8")
async def test_only_whole_and_meaningful_events_count() -> None:
    """A page with status 200, data that is no JSON, or no object: the region is left, and the
    cursor stays that of the last good event."""
    page = httpx2.Response(200, html="event: ready\nid: c9\ndata: {}\n\n")
    script = Scripted(
        page,
        [sse("snapshot", "c0", SNAPSHOT), b"event: append\nid: c1\ndata: {\n\n"],
        [b"event: ready\nid: c1\ndata: []\n\n"],
        [sse("ready", "c9", {})],
    )
    await read_all(script, "c9")
    assert script.asked == [(EU, None), (US, None), (EU, "c0"), (US, "c0")]


async def test_bytes_that_cannot_be_decoded_are_a_failure() -> None:
    """A proxy that compresses wrongly."""
    kinds = {"content-type": "text/event-stream", "content-encoding": "gzip"}
    broken = httpx2.Response(200, headers=kinds, stream=Stream([b"no gzip"]))
    await read_all(Scripted(broken, [sse("ready", "c1", {})]), "c1")


async def test_a_reader_that_is_too_many_comes_back_when_it_may() -> None:
    """``Retry-After`` of the only region is honoured; of two, the other is asked at once."""
    full = {"code": "too_many", "status": 429}
    script = Scripted(
        httpx2.Response(429, json=full, headers={"retry-after": "8"}),
        httpx2.Response(429, json=full, headers={"retry-after": "20"}),
        [sse("ready", "c1", {})],
    )
    await read_all(script, "c1")
    assert [region for region, _ in script.asked] == [EU, US, EU]
    assert 8 <= script.time.now < 9


async def test_no_region_keeps_a_reader_away_for_long() -> None:
    """A ``retry_ms`` beyond reason is cut to a minute."""
    script = Scripted([sse("reconnect", "c1", {"retry_ms": 10**12})], [sse("ready", "c2", {})])
    await read_all(script, "c2")
    assert 0 < script.time.now <= 60


async def test_events_without_a_cursor_keep_the_last_one() -> None:
    """A view never loses where it is."""
    bare = b"event: metadata\nid:\ndata: " + json.dumps({"metadata": {"a": 1}}).encode() + b"\n\n"
    script = Scripted([sse("ready", "c1", {}), bare], [sse("ready", "c2", {})])
    cursors = []
    async with script.client() as client, aclosing(client.session("s").read()) as views:
        async for seen in views:
            cursors.append(seen.cursor)
            if seen.cursor == "c2":
                break
    assert cursors == ["c1", "c1", "c2"]
    assert script.asked == [(EU, None), (US, "c1")]


async def test_a_cursor_that_nobody_gave_is_no_reason_to_go_on() -> None:
    """``invalid_cursor`` without a cursor would be the same for ever."""
    problem = httpx2.Response(400, json={"code": "invalid_cursor", "status": 400})
    with pytest.raises(Invalid, match="invalid_cursor"):
        await read_all(Scripted(problem), "never")


@pytest.mark.failure("N8")
async def test_silence_is_bounded() -> None:
    """Keep-alives come every 10 s; the time without a byte that is waited for is given with the
    request, and is longer than two of them."""
    script = Scripted([sse("ready", "c1", {})])
    waits: list[dict[str, Any]] = []

    def route(request: httpx2.Request) -> httpx2.Response:
        waits.append(request.extensions["timeout"])
        return script(request)

    async with Client([EU], http=httpx2.MockTransport(route)) as client:
        async for _ in client.session("s").events():
            break
    assert waits[0]["read"] == SILENCE_S_MAX == 25


async def test_a_connection_that_held_begins_a_new_series() -> None:
    """After a steady time the next failure is not the tenth of a long one."""
    script = Scripted(*([] for _ in range(8)), [sse("ready", "c1", {})], [sse("ready", "c2", {})])
    steady = script.connections[8]
    assert isinstance(steady, list)

    class Later(list[bytes | Exception]):
        def __iter__(self) -> Any:
            script.time.now += 60
            return super().__iter__()

    script.connections[8] = Later(steady)
    await read_all(script, "c2")
    assert script.time.slept[7] > 1 and script.time.slept[8] < 0.06
