"""Peers that stall: a link ends in bounded time, with bounded memory, and without the others."""

import asyncio
import contextlib
import json
import socket as sockets
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar

import aiohttp
import pytest
from aiohttp import web
from perdure.regions import transport
from perdure.regions.links import PeerUnreachable
from perdure.regions.node import Node
from perdure.regions.transport_accepting import HANDSHAKES_MAX
from perdure.regions.transport_dialing import ASK_S_MAX, Socket
from perdure.regions.transport_wire import (
    CLOSE_S_MAX,
    HANDSHAKE_S_MAX,
    IDLE_S_MAX,
    PATH,
    take_leave,
    until_one_ends,
)
from perdure.replication.admission import Draft
from perdure.replication.frames import (
    PAYLOAD_BYTES_MAX,
    RECORD_BYTES_MAX,
    Channel,
    Kind,
    encode_json,
    encode_records,
)
from perdure.replication.gossip import FORWARD_DELAY_MS
from perdure.replication.handshake import Identity, answer, challenge, check_hello, establish
from perdure.replication.records import Origin, seal

from tests.regions.linked import SECRET, Linked, LoopTime, linked

PAIR = {"eu": ["us"], "us": ["eu"]}
MESH = {"eu": ["us", "ap"], "us": ["eu", "ap"], "ap": ["eu", "us"]}
US = Identity(Origin("us", 7), 1_000, "a" * 64)
Act = Callable[[web.WebSocketResponse, Channel, web.Request], Awaitable[None]]


async def send(node: Node, id_: str = "m", text: str = "hello") -> None:
    await node.send("s", Draft("user", id=id_, text=text))


@contextlib.asynccontextmanager
async def acceptor(port: int, act: Act, rcvbuf_bytes: int | None = None) -> AsyncIterator[None]:
    """A peer ``us`` that accepts links and then does as it likes."""

    async def handle(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(timeout=0.01, max_msg_size=2**25)
        await socket.prepare(request)
        await act(socket, Channel("a", SECRET), request)
        return socket

    app = web.Application()
    app.router.add_get(PATH, handle)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    listener = sockets.socket()
    listener.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEADDR, 1)
    if rcvbuf_bytes is not None:
        listener.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, rcvbuf_bytes)
    listener.bind(("127.0.0.1", port))
    await web.SockSite(runner, listener).start()
    try:
        yield
    finally:
        await runner.cleanup()


async def welcome(socket: web.WebSocketResponse, channel: Channel) -> None:
    await socket.send_bytes(channel.encode(Kind.CHALLENGE, challenge(US)))
    hello = channel.decode(await socket.receive_bytes())
    them, _ = check_hello(US, hello.payload)
    establish(channel, SECRET, them, US)
    await socket.send_bytes(channel.encode(Kind.WELCOME, encode_json({"vector": {}})))


@contextlib.asynccontextmanager
async def dialer(
    regions: Linked, me: Identity = US, to: str = "eu"
) -> AsyncIterator[tuple[Socket, Channel]]:
    """A link from ``us`` that the test speaks for."""
    url = f"http://127.0.0.1:{regions.ports[to]}{PATH}"
    timeout = aiohttp.ClientWSTimeout(ws_close=0.01)
    async with aiohttp.ClientSession(ws_response_class=Socket) as http:
        socket = await http.ws_connect(url, timeout=timeout)
        assert isinstance(socket, Socket)
        channel = Channel("d", SECRET)
        opening = channel.decode(await socket.receive_bytes()).payload
        them, hello = answer(me, opening, to, {})
        await socket.send_bytes(channel.encode(Kind.HELLO, hello))
        establish(channel, SECRET, me, them)
        try:
            yield socket, channel
        finally:
            assert socket.transport is not None
            socket.transport.abort()
            await socket.close()


async def ended(socket: aiohttp.ClientWebSocketResponse) -> None:
    """Until the region has closed the link."""
    async with asyncio.timeout(20):
        async for _ in socket:
            pass


async def turns(count: int = 200) -> None:
    """Let everything that can go on go on."""
    for _ in range(count):
        await asyncio.sleep(0)


# Peers that say nothing


async def test_a_port_that_answers_nothing_is_tried_again(tmp_path: Path) -> None:
    """It accepts the connection, and then there is no answer to the request for a WebSocket."""
    async with linked(tmp_path, PAIR, start=False) as regions:
        time, connections = LoopTime(), []

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connections.append(writer)
            await reader.read()
            writer.close()

        server = await asyncio.start_server(silent, "127.0.0.1", regions.ports["us"])
        async with server:
            await regions.start("eu")
            await regions.until(lambda: len(connections) == 1)
            await turns()
            assert len(connections) == 1
            time.shift_s += HANDSHAKE_S_MAX
            await regions.until(lambda: len(connections) == 2)
            assert regions.counters("eu")["links_failed"] == 1
            await regions.stop("eu")


async def test_a_peer_that_never_introduces_itself_is_left(tmp_path: Path) -> None:
    """On either side: no challenge comes, or no hello."""
    async with linked(tmp_path, PAIR, start=False) as regions:
        time, links = LoopTime(), []

        async def silent(socket: web.WebSocketResponse, _: Channel, __: web.Request) -> None:
            links.append(socket)
            await socket.receive()

        async with acceptor(regions.ports["us"], silent):
            await regions.start("eu")
            await regions.until(lambda: len(links) == 1)
            url = f"http://127.0.0.1:{regions.ports['eu']}{PATH}"
            async with aiohttp.ClientSession() as http, http.ws_connect(url) as socket:
                await socket.receive_bytes()
                time.shift_s += HANDSHAKE_S_MAX
                await ended(socket)
            await regions.until(lambda: len(links) == 2)
            assert regions.counters("eu")["links_failed"] == 1
            assert regions.counters("eu")["links_dropped"] == 1
            await regions.stop("eu")


async def test_a_half_open_link_ends(tmp_path: Path) -> None:
    """Nothing is heard any more, on the link that was dialled and on the one that was accepted."""
    async with linked(tmp_path, PAIR, start=False) as regions:
        time, links = LoopTime(), []

        async def silent(socket: web.WebSocketResponse, channel: Channel, _: web.Request) -> None:
            links.append(socket)
            await welcome(socket, channel)
            while not socket.closed:
                await socket.receive()

        async with acceptor(regions.ports["us"], silent):
            eu = await regions.start("eu")
            async with dialer(regions) as (socket, _):
                await socket.receive_bytes()
                await regions.until(lambda: eu.gossip.peers["us"].connected)
                await turns()
                assert len(links) == 1
                time.shift_s += IDLE_S_MAX
                await ended(socket)
                await regions.until(lambda: len(links) == 2)
            assert regions.counters("eu")["links_failed"] == 1
            assert regions.counters("eu")["links_dropped"] == 1
            await regions.stop("eu")


# Peers that do not read


async def fill(node: Node) -> None:
    """One operation that is larger than what the kernel takes for a peer that does not read."""
    await node.send("s", Draft("user", id="small", text="hello"))
    opened = await node.open("s", Draft("agent", id="m", producer="p", claim_id="claim-0001"))
    await node.append("s", "m", "p", opened.epoch, 0, ["x" * 1_000_000] * 8)


class Watched(Socket):
    """A dialled WebSocket that the test can look into."""

    made: ClassVar[list["Watched"]] = []

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.made.append(self)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[Watched]:
    """The WebSockets that regions dial, in the order in which they open."""
    monkeypatch.setattr(Watched, "made", [])
    monkeypatch.setattr(transport, "Socket", Watched)
    return Watched.made


def waits(dialed: list[Watched]) -> bool:
    """Whether much waits in this process for the peer to read it."""
    transport = dialed[0].transport
    return transport is not None and transport.get_write_buffer_size() > 1_000_000


class Deaf:
    """An acceptor that says welcome, stops reading, and in the end reads what is left."""

    def __init__(self) -> None:
        self.paused = asyncio.Event()
        self.resume = asyncio.Event()
        self.longest_bytes = 0
        self.left = asyncio.Event()

    async def act(self, socket: web.WebSocketResponse, channel: Channel, r: web.Request) -> None:
        await welcome(socket, channel)
        transport = r.transport
        assert transport is not None
        transport.pause_reading()
        self.paused.set()
        await self.resume.wait()
        if not transport.is_closing():
            transport.resume_reading()
        async for message in socket:
            self.longest_bytes = max(self.longest_bytes, len(message.data))
        self.left.set()


async def test_what_a_deaf_peer_did_not_take_is_let_go(
    tmp_path: Path, watched: list[Watched]
) -> None:
    """With the link, not when the peer reads at last: else each new link to a peer that stopped
    reading would cost its window anew."""
    async with linked(tmp_path, PAIR, start=False) as regions:
        deaf, time = Deaf(), LoopTime()
        async with acceptor(regions.ports["us"], deaf.act, rcvbuf_bytes=4_096):
            eu = await regions.start("eu")
            await deaf.paused.wait()
            await regions.until(lambda: eu.gossip.peers["us"].connected)
            await fill(eu)
            await regions.until(lambda: waits(watched))
            time.shift_s += IDLE_S_MAX
            await regions.until(lambda: regions.counters("eu").get("links_failed", 0) == 1)
            deaf.resume.set()
            await deaf.left.wait()
            assert deaf.longest_bytes < 8_000_000
            await regions.stop("eu")


async def test_a_deaf_peer_does_not_hold_up_a_drain(tmp_path: Path, watched: list[Watched]) -> None:
    """Of the links that this region dialled: the goodbye has a limit."""
    async with linked(tmp_path, PAIR, start=False) as regions:
        deaf, time = Deaf(), LoopTime()
        async with acceptor(regions.ports["us"], deaf.act, rcvbuf_bytes=4_096):
            eu = await regions.start("eu")
            await deaf.paused.wait()
            await regions.until(lambda: eu.gossip.peers["us"].connected)
            await fill(eu)
            await regions.until(lambda: waits(watched))
            took_s = await time.until_done(asyncio.create_task(regions.stop("eu")))
            assert took_s <= 2 * CLOSE_S_MAX
            deaf.resume.set()


async def deafen(regions: Linked, socket: Socket, channel: Channel) -> None:
    """Ask for more than the kernel and this process take, and read nothing."""
    eu, answered = regions.nodes["eu"], []
    digests = eu.digests
    eu.digests = lambda *asked: answered.append(1) or digests(*asked)  # type: ignore
    assert socket.transport is not None
    socket.transport.pause_reading()
    question = encode_json({"ask": 1})
    asked = 400
    for _ in range(asked):
        await socket.send_bytes(channel.encode(Kind.ASK_DIGESTS, question))
    before = -1
    while before != len(answered):
        before = len(answered)
        await turns()
    assert 0 < before < asked, "it does not take in what it cannot answer"


async def test_a_peer_that_asks_and_never_reads_loses_its_link(tmp_path: Path) -> None:
    """Its answers are not gathered; the link ends although it still sends."""
    async with linked(tmp_path, PAIR, start=False) as regions:
        await regions.start("eu")
        time = LoopTime()
        async with dialer(regions) as (socket, channel):
            await deafen(regions, socket, channel)
            time.shift_s += IDLE_S_MAX
            await turns()
            time.shift_s += CLOSE_S_MAX
            await regions.until(lambda: regions.counters("eu").get("links_dropped", 0) == 1)
            assert regions.peers["eu"]._acceptor._links == {}


async def test_a_dialer_that_never_reads_does_not_hold_up_a_drain(tmp_path: Path) -> None:
    """Of the links that this region accepted."""
    async with linked(tmp_path, PAIR, start=False) as regions:
        await regions.start("eu")
        time = LoopTime()
        async with dialer(regions) as (socket, channel):
            await deafen(regions, socket, channel)
            took_s = await time.until_done(asyncio.create_task(regions.stop("eu")))
            assert took_s <= 2 * CLOSE_S_MAX


async def test_a_question_that_a_deaf_peer_does_not_hear_costs_no_link(
    tmp_path: Path, watched: list[Watched]
) -> None:
    """A slow peer still gets what is on the way to it, however often somebody asks and leaves."""
    async with linked(tmp_path, PAIR, start=False) as regions:
        deaf, time = Deaf(), LoopTime()
        async with acceptor(regions.ports["us"], deaf.act, rcvbuf_bytes=4_096):
            eu = await regions.start("eu")
            await deaf.paused.wait()
            await regions.until(lambda: eu.gossip.peers["us"].connected)
            await fill(eu)
            await regions.until(lambda: waits(watched))
            links = regions.peers["eu"]
            left = asyncio.create_task(links.ask_digests("us", None, None))
            asking = asyncio.create_task(links.ask_digests("us", None, None))
            await turns()
            left.cancel()
            time.shift_s += ASK_S_MAX
            with pytest.raises(PeerUnreachable):
                await asking
            deaf.resume.set()
            await regions.until(lambda: deaf.longest_bytes > 8_000_000)
            assert eu.gossip.peers["us"].connected
            assert regions.counters("eu")["links_opened"] == 1
            await regions.stop("eu")


async def cancelled_from_elsewhere() -> None:
    """What all see who wait for a peer to read, when one of them is cancelled."""
    raise asyncio.CancelledError


async def test_a_send_that_is_cancelled_from_elsewhere_ends_its_link_only() -> None:
    """The dialer goes on to dial: it is not told that it was cancelled itself."""
    other = asyncio.Event()

    async def listen() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            other.set()

    with pytest.raises(ConnectionResetError):
        await until_one_ends(cancelled_from_elsewhere(), listen())
    assert other.is_set(), "the other direction is left running"


async def test_a_goodbye_that_is_cancelled_from_elsewhere_is_over() -> None:
    """Who says goodbye goes on, unless it was cancelled itself; the connection goes either way."""

    class Leaving:
        aborted = 0

        def __init__(self, close: Callable[[], Awaitable[Any]]) -> None:
            self.close = close

        def abort(self) -> None:
            self.aborted += 1

    leaving: Any = Leaving(cancelled_from_elsewhere)
    await take_leave(leaving, leaving)
    assert leaving.aborted == 1
    leaving = Leaving(asyncio.Event().wait)
    task = asyncio.create_task(take_leave(leaving, leaving))
    await turns(3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert leaving.aborted == 1


# One link of a name


async def test_a_link_that_is_dialled_again_replaces_the_first(tmp_path: Path) -> None:
    """The first is half open, whatever it looks like."""
    async with linked(tmp_path, PAIR, start=False) as regions:
        await regions.start("eu")
        async with dialer(regions) as (first, _), dialer(regions) as (second, channel):
            await ended(first)
            records = [seal(US.origin, 1, b"[]")]
            await second.send_bytes(channel.encode(Kind.OPERATIONS, encode_records(records)))
            await regions.until(lambda: regions.nodes["eu"].gossip.vector == {US.origin: 1})
            assert not second.closed


async def test_the_newer_of_two_is_told_also_when_it_came_first(tmp_path: Path) -> None:
    """The older one's link takes the place of the newer one's, which learns why when it dials
    again."""
    newer = Identity(Origin("us", 8), US.started_ms + 1, "b" * 64)
    async with linked(tmp_path, PAIR, start=False) as regions:
        await regions.start("eu")
        async with dialer(regions, newer) as (first, _):
            await first.receive_bytes()
            async with dialer(regions, US) as (second, __):
                await ended(first)
                await second.receive_bytes()
                async with dialer(regions, newer) as (third, channel):
                    refused = channel.decode(await third.receive_bytes())
                    assert refused.kind is Kind.REFUSED
                    assert json.loads(refused.payload)["code"] == "name_in_use"
                assert not second.closed


async def test_a_peer_that_is_gone_no_longer_refuses_this_name(tmp_path: Path) -> None:
    """Else a region whose peer went down would take itself for a second one, and stop."""
    async with linked(tmp_path, PAIR, start=False) as regions:

        async def refuse(socket: web.WebSocketResponse, channel: Channel, _: web.Request) -> None:
            await socket.send_bytes(channel.encode(Kind.CHALLENGE, challenge(US)))
            await socket.receive()
            refusal = encode_json({"code": "name_in_use", "detail": "another"})
            await socket.send_bytes(channel.encode(Kind.REFUSED, refusal))

        async with acceptor(regions.ports["us"], refuse):
            await regions.start("eu")
            await regions.until(lambda: regions.peers["eu"].refused() is not None)
        await regions.until(lambda: regions.counters("eu").get("links_failed", 0) > 0)
        assert regions.peers["eu"].refused() is None


# Limits


async def test_handshakes_are_limited(tmp_path: Path) -> None:
    """Strangers who open links and say nothing; when they go, there is room again."""
    async with linked(tmp_path, PAIR, start=False) as regions:
        await regions.start("eu")
        url = f"http://127.0.0.1:{regions.ports['eu']}{PATH}"
        timeout = aiohttp.ClientWSTimeout(ws_close=0.01)
        async with aiohttp.ClientSession() as http:
            idle = [await http.ws_connect(url, timeout=timeout) for _ in range(HANDSHAKES_MAX)]
            for socket in idle:
                await socket.receive_bytes()
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await http.ws_connect(url)
            assert refused.value.status == 503
            assert regions.counters("eu")["links_refused.busy"] == 1
            for socket in idle:
                await socket.close()
            await regions.until(
                lambda: regions.counters("eu").get("links_dropped", 0) == HANDSHAKES_MAX
            )
        async with dialer(regions) as (socket, _):
            await socket.receive_bytes()
        assert regions.counters("eu")["links_refused"] == 1


async def test_what_asks_for_no_websocket_gets_a_plain_answer(tmp_path: Path) -> None:
    """A browser or a probe on the peer port; it costs no place among the handshakes."""
    async with linked(tmp_path, PAIR, start=False) as regions:
        await regions.start("eu")
        url = f"http://127.0.0.1:{regions.ports['eu']}"
        async with aiohttp.ClientSession() as http:
            for _ in range(HANDSHAKES_MAX + 1):
                async with http.get(url + PATH) as answered:
                    assert answered.status == 400
            async with http.get(url + "/") as answered:
                assert answered.status == 404


@pytest.mark.parametrize(("more_bytes", "code"), [(0, "payload"), (1, "too_long")])
async def test_a_frame_may_have_16_mib(tmp_path: Path, more_bytes: int, code: str) -> None:
    """The longest is read (and here found to hold no records), one more byte is not."""
    async with linked(tmp_path, PAIR, start=False) as regions:
        await regions.start("eu")
        async with dialer(regions) as (socket, channel):
            frame = channel.encode(Kind.OPERATIONS, bytes(PAYLOAD_BYTES_MAX))
            # It may be cut off before it has said all.
            with contextlib.suppress(OSError):
                await socket.send_bytes(frame + bytes(more_bytes))
                await ended(socket)
        await regions.until(lambda: "frames_refused" in regions.counters("eu"))
        assert regions.counters("eu")[f"frames_refused.{code}"] == 1


async def test_a_record_that_no_frame_holds_does_not_stop_the_others(tmp_path: Path) -> None:
    """It is counted and left; everything else still goes to the peer, over the same link."""
    async with linked(tmp_path, PAIR) as regions:
        eu, us = regions.nodes["eu"], regions.nodes["us"]
        await regions.until(lambda: eu.gossip.peers["us"].connected)
        elsewhere, other = Origin("elsewhere", 1), Origin("other", 1)
        await eu.receive([seal(elsewhere, 1, b"x"), seal(elsewhere, 2, bytes(RECORD_BYTES_MAX))])
        await eu.receive([seal(elsewhere, 3, bytes(RECORD_BYTES_MAX + 200)), seal(other, 1, b"x")])
        regions.clock.shift_ms += FORWARD_DELAY_MS
        regions.peers["eu"].wake()
        await send(eu)
        reached = {elsewhere: 2, other: 1, eu.origin: 1}
        await regions.until(lambda: us.gossip.vector == reached)
        counters = regions.counters("eu")
        await regions.until(lambda: counters.get("records_too_large", 0) == 1)
        await send(eu, "later")
        await regions.until(lambda: us.gossip.vector.get(eu.origin) == 2)
        assert (counters["records_too_large"], counters["links_opened"]) == (1, 1)


# Mistakes, and disks


async def test_a_mistake_of_ours_ends_a_link_and_not_its_dialer(tmp_path: Path) -> None:
    """On either side: it is counted, and the peer is dialled again."""
    async with linked(tmp_path, PAIR) as regions:
        eu, us = regions.nodes["eu"], regions.nodes["us"]
        await regions.until(lambda: eu.gossip.peers["us"].connected)
        real = eu.gossip.next_batch

        def fail_once(name: str, now_ms: int) -> object:
            eu.gossip.next_batch = real  # type: ignore[method-assign]
            raise KeyError(name, now_ms)

        eu.gossip.next_batch = fail_once  # type: ignore[method-assign, assignment]
        admit = us.gossip.admit

        def refuse_once(records: object) -> object:
            us.gossip.admit = admit  # type: ignore[method-assign]
            raise RecursionError

        us.gossip.admit = refuse_once  # type: ignore[method-assign, assignment]
        await send(eu)
        await regions.until(regions.same)
        assert regions.counters("eu")["links_broken"] == 1
        assert regions.counters("us")["links_broken"] == 1


async def test_a_damaged_log_is_not_read_again_and_again(tmp_path: Path) -> None:
    """A record that went bad after the start: what comes after it of its origin stays here, all
    else goes at once, and the disk is left in peace until the peer comes anew."""
    async with linked(tmp_path, PAIR, start=False) as regions:
        old = await regions.start("eu")
        await send(old, "old")
        await regions.stop("eu")
        eu = await regions.start("eu")
        with contextlib.closing(sqlite3.connect(tmp_path / "eu" / "perdure.sqlite")) as disk, disk:
            disk.execute("UPDATE log SET crc = crc + 1")
        us = await regions.start("us")
        await regions.until(lambda: regions.counters("eu").get("log_reads_empty", 0) == 1)
        for number in range(5):
            await send(eu, f"m{number}")
        await regions.until(lambda: us.gossip.vector == {eu.origin: 5})
        assert regions.counters("eu")["log_reads"] == 1


# Questions


async def test_a_question_ends_with_its_link(tmp_path: Path) -> None:
    """At once, and so does one that the peer never answers, in its time."""
    async with linked(tmp_path, PAIR, start=False) as regions:
        questions, close = asyncio.Queue[bytes](), asyncio.Event()

        async def act(socket: web.WebSocketResponse, channel: Channel, _: web.Request) -> None:
            await welcome(socket, channel)
            closing = asyncio.create_task(close.wait())
            while not close.is_set():
                receiving = asyncio.create_task(socket.receive_bytes())
                await asyncio.wait([receiving, closing], return_when=asyncio.FIRST_COMPLETED)
                if not receiving.done():
                    receiving.cancel()
                    break
                frame = channel.decode(receiving.result())
                if frame.kind is Kind.ASK_DIGESTS:
                    questions.put_nowait(frame.payload)
            closing.cancel()

        async with acceptor(regions.ports["us"], act):
            eu = await regions.start("eu")
            await regions.until(lambda: eu.gossip.peers["us"].connected)
            links, time = regions.peers["eu"], LoopTime()
            asking = asyncio.create_task(links.ask_digests("us", "s", None))
            assert json.loads(await questions.get()) == {"ask": 1, "session": "s"}
            time.shift_s += ASK_S_MAX
            with pytest.raises(PeerUnreachable):
                await asking
            asking = asyncio.create_task(links.ask_digests("us", None, [1, 2]))
            assert json.loads(await questions.get()) == {"ask": 2, "buckets": [1, 2]}
            close.set()
            with pytest.raises(PeerUnreachable):
                await asking
            assert links._dialed["us"]._asks == {}
            await regions.stop("eu")
