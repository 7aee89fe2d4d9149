"""Peers that stall: a link ends in bounded time, with bounded memory, and without the others."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar

import aiohttp
import pytest
from aiohttp import web
from perdure.regions import transport
from perdure.regions.node import Node
from perdure.regions.transport_dialing import Socket
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
    Channel,
    Kind,
    decode_records,
    encode_json,
)
from perdure.replication.limits import TOKEN_BYTES_MAX

from tests.regions.linked import (
    Linked,
    LoopTime,
    acceptor,
    dialer,
    ended,
    linked,
    turns,
    welcome,
)

PAIR = {"eu": ["us"], "us": ["eu"]}


async def send(node: Node, id_: str = "m", text: str = "hello") -> None:
    await node.send("s", Draft("user", id=id_, text=text))


# Peers that say nothing


@pytest.mark.failure("N6")
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


@pytest.mark.failure("N6")
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
    # Of six bytes each in JSON: an append of several tokens would be cut into several records.
    await node.append("s", "m", "p", opened.epoch, 0, ["\0" * TOKEN_BYTES_MAX])


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


@pytest.mark.failure("N5")
async def test_what_a_deaf_peer_did_not_take_is_let_go(
    tmp_path: Path, watched: list[Watched]
) -> None:
    """With the link, not when the peer reads at last: else each new link to a peer that stopped
    reading would cost its window anew."""
    async with linked(tmp_path, PAIR, start=False) as regions:
        deaf, time = Deaf(), LoopTime()
        async with acceptor(regions.ports["us"], deaf.act, rcvbuf_bytes=4_096):
            eu = await regions.start("eu")
            await regions.until(deaf.paused.is_set)
            await regions.until(lambda: eu.gossip.peers["us"].connected)
            await fill(eu)
            await regions.until(lambda: waits(watched))
            time.shift_s += IDLE_S_MAX
            await regions.until(lambda: regions.counters("eu").get("links_failed", 0) == 1)
            deaf.resume.set()
            await regions.until(deaf.left.is_set)
            assert deaf.longest_bytes < 6 * TOKEN_BYTES_MAX
            await regions.stop("eu")


async def test_a_deaf_peer_does_not_hold_up_a_drain(tmp_path: Path, watched: list[Watched]) -> None:
    """Of the links that this region dialled: the goodbye has a limit."""
    async with linked(tmp_path, PAIR, start=False) as regions:
        deaf, time = Deaf(), LoopTime()
        async with acceptor(regions.ports["us"], deaf.act, rcvbuf_bytes=4_096):
            eu = await regions.start("eu")
            await regions.until(deaf.paused.is_set)
            await regions.until(lambda: eu.gossip.peers["us"].connected)
            await fill(eu)
            await regions.until(lambda: waits(watched))
            took_s = await time.until_done(asyncio.create_task(regions.peers["eu"].stop()))
            # A goodbye, and not the patience that a link in use has.
            assert took_s < IDLE_S_MAX / 2
            deaf.resume.set()
            await regions.stop("eu")


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


@pytest.mark.failure("N5")
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
            # A goodbye, and not the patience that a link in use has.
            assert took_s < IDLE_S_MAX / 2


async def test_a_drain_waits_for_what_is_on_its_way_but_not_for_ever(tmp_path: Path) -> None:
    """What was sent is not yet on the peer's disk: the drain ends with the acknowledgement, and
    without one when its time is over."""
    async with linked(tmp_path, PAIR, start=False) as regions:
        time, acknowledge = LoopTime(), asyncio.Event()

        async def act(socket: web.WebSocketResponse, channel: Channel, _: web.Request) -> None:
            await welcome(socket, channel)
            async for message in socket:
                frame = channel.decode(message.data)
                if frame.kind is Kind.OPERATIONS:
                    await acknowledge.wait()
                    acknowledge.clear()
                    last = decode_records(frame.payload)[-1]
                    value = {"vector": {str(last.origin): last.lsn}, "full": True}
                    await socket.send_bytes(channel.encode(Kind.VECTOR, encode_json(value)))

        async with acceptor(regions.ports["us"], act):
            eu = await regions.start("eu")
            await regions.until(lambda: eu.gossip.peers["us"].connected)
            await send(eu, "first")
            flushing = asyncio.create_task(regions.peers["eu"].flush(3.0))
            await turns()
            assert not flushing.done()
            acknowledge.set()
            assert await flushing is True
            await send(eu, "second")
            flushing = asyncio.create_task(regions.peers["eu"].flush(3.0))
            assert 2.5 < await time.until_done(flushing) < 3.5
            assert flushing.result() is False
            acknowledge.set()
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


class Leaving:
    """A link on its way out: its socket, and its transport."""

    def __init__(self, close: Callable[[], Awaitable[Any]]) -> None:
        self.close = close
        self.aborted = 0

    def abort(self) -> None:
        self.aborted += 1


async def test_a_goodbye_that_nobody_takes_has_an_end() -> None:
    """Then the connection is gone, whatever was still on its way."""
    time = LoopTime()
    leaving: Any = Leaving(asyncio.Event().wait)
    task = asyncio.create_task(take_leave(leaving, leaving))
    took_s = await time.until_done(task)
    assert CLOSE_S_MAX * 0.9 < took_s < CLOSE_S_MAX * 1.1
    assert leaving.aborted == 1


async def test_a_goodbye_that_is_cancelled_from_elsewhere_is_over() -> None:
    """Who says goodbye goes on, unless it was cancelled itself; the connection goes either way."""
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
