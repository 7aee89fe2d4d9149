"""Links between real regions: real sockets, real disks, and dialers that misbehave."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from perdure.regions.node import Node
from perdure.regions.transport_dialing import (
    BACKOFF_S_MAX,
    BACKOFF_S_MIN,
    STEADY_S,
    Backoff,
)
from perdure.regions.transport_wire import PATH
from perdure.replication.admission import Draft
from perdure.replication.frames import Channel, Kind, encode_json, encode_records
from perdure.replication.handshake import Identity, answer, challenge, check_hello, establish
from perdure.replication.peers import FORWARD_DELAY_MS
from perdure.replication.records import Origin, Record, seal

from tests.regions.linked import SECRET, Linked, linked

PAIR = {"eu": ["us"], "us": ["eu"]}
MESH = {"eu": ["us", "ap"], "us": ["eu", "ap"], "ap": ["eu", "us"]}


async def send(node: Node, id_: str = "m", text: str = "hello") -> None:
    await node.send("s", Draft("user", id=id_, text=text))


def texts(node: Node) -> list[str]:
    return [m["text"] for m in node.snapshot("s")["messages"]]


async def test_what_one_region_accepts_all_come_to_have(tmp_path: Path) -> None:
    """Pushed at once, acknowledged when it is on disk there: it becomes stable."""
    async with linked(tmp_path, MESH) as regions:
        eu = regions.nodes["eu"]
        sent = await eu.send("s", Draft("user", id="m", text="hello"), 10_000)
        assert sent.stable is True
        await regions.until(regions.same)
        assert [texts(node) for node in regions.nodes.values()] == [["hello"]] * 3
        assert regions.state("us", "eu") == "up"


async def test_a_region_that_was_away_catches_up(tmp_path: Path) -> None:
    """What was written meanwhile is read from the log, far more than a batch of it; and what it
    alone had accepted before it went reaches the others."""
    async with linked(tmp_path, PAIR, start=False) as regions:
        us = await regions.start("us")
        await send(us, "alone")
        await regions.stop("us")
        eu = await regions.start("eu")
        for number in range(40):
            await send(eu, f"m{number}", "x" * 5_000)
        await regions.stop("eu")
        await regions.start("eu")
        await regions.start("us")
        await regions.until(regions.same)
        assert len(texts(regions.nodes["us"])) == len(texts(regions.nodes["eu"])) == 41
        assert regions.counters("eu")["log_reads"] > 0


@pytest.mark.failure("N3")
async def test_a_third_region_carries_what_two_cannot_tell_each_other(tmp_path: Path) -> None:
    """Eu and ap are not configured to reach each other."""
    chain = {"eu": ["us"], "us": ["eu", "ap"], "ap": ["us"]}
    async with linked(tmp_path, chain) as regions:
        await send(regions.nodes["eu"], "from-eu")
        await send(regions.nodes["ap"], "from-ap")
        await regions.until(lambda: len(regions.nodes["us"].gossip.vector) == 2)
        regions.clock.shift_ms += FORWARD_DELAY_MS
        regions.peers["us"].wake()
        await regions.until(regions.same)
        assert all(len(texts(node)) == 2 for node in regions.nodes.values())


@pytest.mark.failure("P13")
async def test_a_flush_ends_when_the_others_have_it(tmp_path: Path) -> None:
    """For a drain: everything this region was first to accept is elsewhere; a peer that is away is
    not waited for."""
    async with linked(tmp_path, PAIR) as regions:
        eu = regions.nodes["eu"]
        await regions.until(lambda: eu.gossip.peers["us"].connected)
        for number in range(20):
            await send(eu, f"m{number}")
        assert await regions.peers["eu"].flush(20)
        assert regions.nodes["us"].gossip.vector == eu.gossip.vector
        await regions.stop("us")
        await regions.until(lambda: not eu.gossip.peers["us"].connected)
        await send(eu, "alone")
        assert await regions.peers["eu"].flush(0.1)


# Dialers that misbehave


class Dialer:
    """A raw WebSocket to a region's peer port."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, channel: Channel) -> None:
        self.socket = socket
        self.channel = channel

    async def hello(self, me: Identity, **changes: Any) -> None:
        """Answer the challenge, perhaps with other fields than the right ones."""
        challenge = self.channel.decode(await self.socket.receive_bytes()).payload
        them, hello = answer(me, challenge, "eu", {})
        payload = json.dumps({**json.loads(hello), **changes}).encode()
        await self.send(Kind.HELLO, payload)
        establish(self.channel, SECRET, me, them)

    async def send(self, kind: Kind, payload: bytes) -> None:
        await self.socket.send_bytes(self.channel.encode(kind, payload))

    async def closed(self) -> None:
        """Until the region has closed the link."""
        async with asyncio.timeout(20):
            async for _ in self.socket:
                pass
        assert self.socket.closed


def named(region: str) -> Identity:
    return Identity(Origin(region, 7), 1_000, "a" * 64)


US = named("us")


async def misbehave(
    tmp_path: Path, act: Callable[[Dialer], Awaitable[None]], secret: bytes = SECRET
) -> dict[str, int]:
    """A dialer acts, its link is closed; the region goes on, also with its real peer. The counters
    that count a refusal."""
    async with linked(tmp_path, MESH, start=False) as regions:
        eu = await regions.start("eu")
        await regions.start("ap")
        url = f"http://127.0.0.1:{regions.ports['eu']}{PATH}"
        async with aiohttp.ClientSession() as http, http.ws_connect(url) as socket:
            dialer = Dialer(socket, Channel("d", secret))
            await act(dialer)
            await dialer.closed()
        await send(eu)
        await regions.until(lambda: regions.same("eu", "ap"))
        counters = regions.counters("eu")
        return {name: count for name, count in counters.items() if "refused." in name}


@pytest.mark.failure("S8")
async def test_another_secret_opens_nothing(tmp_path: Path) -> None:
    """A hello that is not signed with the regions' secret."""

    async def act(dialer: Dialer) -> None:
        await dialer.socket.receive_bytes()
        await dialer.send(Kind.HELLO, b"{}")

    assert await misbehave(tmp_path, act, b"t" * 32) == {"frames_refused.mac": 1}


@pytest.mark.failure("S8")
async def test_a_stranger_is_refused(tmp_path: Path) -> None:
    """A region that is not configured here, though it knows the secret."""

    async def act(dialer: Dialer) -> None:
        await dialer.hello(named("xx"))

    assert await misbehave(tmp_path, act) == {"links_refused.foreign": 1}


async def test_a_namesake_is_refused(tmp_path: Path) -> None:
    """It says that it is this very region."""

    async def act(dialer: Dialer) -> None:
        await dialer.hello(named("eu"))

    assert await misbehave(tmp_path, act) == {"links_refused.name_in_use": 1}


@pytest.mark.failure("S8")
async def test_an_answer_to_another_challenge_is_refused(tmp_path: Path) -> None:
    """A recorded hello."""

    async def act(dialer: Dialer) -> None:
        await dialer.hello(US, answers="b" * 64)

    assert await misbehave(tmp_path, act) == {"frames_refused.unauthenticated": 1}


@pytest.mark.failure("S8", "C7")
async def test_noise_is_refused(tmp_path: Path) -> None:
    """Bytes that are no frame, and a text message."""

    async def noise(dialer: Dialer) -> None:
        await dialer.socket.send_bytes(b"noise" * 20)

    async def text(dialer: Dialer) -> None:
        await dialer.socket.send_str("hello")

    assert await misbehave(tmp_path / "1", noise) == {"frames_refused.not_a_frame": 1}
    assert await misbehave(tmp_path / "2", text) == {"frames_refused.not_binary": 1}


@pytest.mark.failure("C7")
@pytest.mark.parametrize(
    ("kind", "payload", "code"),
    [
        (Kind.OPERATIONS, b"\x01", "payload"),
        (Kind.OPERATIONS, encode_records([Record(US.origin, 1, b"x", 0)]), "record"),
        (Kind.VECTOR, b'{"vector":{"us/1":1}}', "payload"),
        (Kind.VECTOR, b"[" * 100_000, "payload"),
        (Kind.ASK_DIGESTS, b'{"ask":1,"buckets":["x"]}', "payload"),
        (Kind.ASK_DIGESTS, b'{"ask":1,"session":7}', "payload"),
        (Kind.WELCOME, b"{}", "unexpected"),
        (Kind.DIGESTS, b"{}", "unexpected"),
    ],
)
async def test_a_peer_that_sends_nonsense_loses_its_link_only(
    tmp_path: Path, kind: Kind, payload: bytes, code: str
) -> None:
    """Also after a proper handshake: it is counted by its code, and the others go on."""

    async def act(dialer: Dialer) -> None:
        await dialer.hello(US)
        await dialer.send(kind, payload)

    assert await misbehave(tmp_path, act) == {f"frames_refused.{code}": 1}


@pytest.mark.failure("C6")
async def test_an_operation_of_a_later_version_is_kept_and_handed_on(tmp_path: Path) -> None:
    """Its record is sound, so it is stored, acknowledged and forwarded, and not applied."""
    async with linked(tmp_path, MESH, start=False) as regions:
        await regions.start("eu")
        await regions.start("ap")
        url = f"http://127.0.0.1:{regions.ports['eu']}{PATH}"
        async with aiohttp.ClientSession() as http, http.ws_connect(url) as socket:
            dialer = Dialer(socket, Channel("d", SECRET))
            await dialer.hello(US)
            records = [seal(US.origin, 1, b'["later","s"]'), seal(US.origin, 2, b"\x00\xff")]
            await dialer.send(Kind.OPERATIONS, encode_records(records))
            await regions.until(lambda: regions.nodes["eu"].gossip.vector == {US.origin: 2})
            regions.clock.shift_ms += FORWARD_DELAY_MS
            regions.peers["eu"].wake()
            await regions.until(regions.same)
        assert regions.nodes["ap"].regions()["counters"]["undecodable"] == 2


async def test_a_gap_is_answered_with_the_whole_vector(tmp_path: Path) -> None:
    """So that the dialer goes on from what is there."""
    async with linked(tmp_path, PAIR, start=False) as regions:
        await regions.start("eu")
        url = f"http://127.0.0.1:{regions.ports['eu']}{PATH}"
        async with aiohttp.ClientSession() as http, http.ws_connect(url) as socket:
            dialer = Dialer(socket, Channel("d", SECRET))
            await dialer.hello(US)
            await dialer.send(Kind.OPERATIONS, encode_records([seal(US.origin, 2, b"x")]))
            async with asyncio.timeout(20):
                while True:
                    frame = dialer.channel.decode(await socket.receive_bytes())
                    value = json.loads(frame.payload)
                    if frame.kind is Kind.VECTOR and value["gap"]:
                        break
        assert (value["full"], value["vector"]) == (True, {})


# Names


@pytest.mark.failure("C3")
async def test_the_newer_of_two_nodes_with_one_name_is_told(tmp_path: Path) -> None:
    """A peer that has a link with the older one refuses the newer, which learns why."""
    async with linked(tmp_path, PAIR) as regions:
        await regions.until(lambda: regions.state("us", "eu") == "up")
        twin = Linked(tmp_path, PAIR)
        twin.ports = {**regions.ports, "eu": twin.ports["eu"]}
        twin.clock.wall_ms = lambda: 2**50  # type: ignore[method-assign]
        await twin.start("eu", directory="twin")
        try:
            await regions.until(lambda: twin.peers["eu"].refused() is not None)
            assert "another live node is eu" in str(twin.peers["eu"].refused())
            assert regions.peers["eu"].refused() is None
        finally:
            await twin.stop("eu")


# Backing off


@pytest.mark.failure("N10")
def test_back_off_doubles_with_full_jitter_and_forgets_after_a_steady_link() -> None:
    """Uniform between nothing and a bound that doubles up to 5 s; a link that held starts over."""
    backoff = Backoff()
    bounds = [backoff.after(1.0, lived_s=0.0) for _ in range(8)]
    assert bounds[:3] == [BACKOFF_S_MIN, 2 * BACKOFF_S_MIN, 4 * BACKOFF_S_MIN]
    assert bounds[-1] == BACKOFF_S_MAX
    assert backoff.after(0.0, lived_s=0.0) == 0.0
    assert backoff.after(0.5, lived_s=STEADY_S + 1) == BACKOFF_S_MIN / 2


@pytest.mark.failure("N5")
async def test_a_peer_that_does_not_read_holds_up_no_other(tmp_path: Path) -> None:
    """It accepts the link, says welcome, and then neither reads nor acknowledges: what is on the
    way to it stays bounded, and the other peer has everything at once."""
    async with linked(tmp_path, MESH, start=False) as regions:
        app = web.Application()
        app.router.add_get(PATH, accept_and_be_silent)
        runner = web.AppRunner(app, shutdown_timeout=0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", regions.ports["us"]).start()
        eu = await regions.start("eu")
        await regions.start("ap")
        await regions.until(lambda: eu.gossip.peers["us"].connected)
        for number in range(60):
            await send(eu, f"m{number}", "x" * 20_000)
        await regions.until(lambda: regions.same("eu", "ap"))
        peer = eu.gossip.peers["us"]
        assert 0 < peer.in_flight_bytes <= peer.window_bytes + 2 * 20_100
        await regions.stop("eu")
        await regions.stop("ap")
        await runner.cleanup()


async def accept_and_be_silent(request: web.Request) -> web.StreamResponse:
    """A peer that says welcome, and then nothing."""
    socket = web.WebSocketResponse(timeout=0.1)
    await socket.prepare(request)
    channel = Channel("a", SECRET)
    await socket.send_bytes(channel.encode(Kind.CHALLENGE, challenge(US)))
    hello = channel.decode(await socket.receive_bytes())
    them, _ = check_hello(US, hello.payload)
    establish(channel, SECRET, them, US)
    await socket.send_bytes(channel.encode(Kind.WELCOME, encode_json({"vector": {}})))
    while not socket.closed and request.transport is not None:
        await asyncio.sleep(0)
    return socket
