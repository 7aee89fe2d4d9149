"""One link of a name, limits, and what may go wrong on a link without ending its dialer."""

import asyncio
import contextlib
import json
import sqlite3
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from perdure.regions import transport_accepting
from perdure.regions.links import PeerUnreachable
from perdure.regions.node import Node
from perdure.regions.transport_accepting import HANDSHAKES_MAX, HANDSHAKES_OF_ADDRESS_MAX
from perdure.regions.transport_asking import ASK_S_MAX
from perdure.regions.transport_dialing import BACKOFF_S_MIN
from perdure.regions.transport_wire import PATH
from perdure.replication.admission import Draft
from perdure.replication.frames import (
    PAYLOAD_BYTES_MAX,
    RECORD_BYTES_MAX,
    Channel,
    Kind,
    encode_json,
    encode_records,
)
from perdure.replication.handshake import Identity, challenge
from perdure.replication.peers import FORWARD_DELAY_MS
from perdure.replication.records import Origin, seal

from tests.regions.linked import (
    US,
    LoopTime,
    QuickEntropy,
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


# One link of a name


@pytest.mark.failure("N6")
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


@pytest.mark.failure("C3")
async def test_the_newer_of_two_is_told_also_when_it_came_first(tmp_path: Path) -> None:
    """The older one's link takes the place of the newer one's, which learns why when it dials
    again."""
    newer = Identity(Origin("us", 8), US.started_ms + 1, "b" * 64)
    async with linked(tmp_path, PAIR, start=False) as regions:
        regions.clock.stand_still()
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


@pytest.mark.failure("S8")
async def test_regions_of_two_secrets_do_not_talk(tmp_path: Path) -> None:
    """Neither believes the other, whoever dials."""
    async with linked(tmp_path, PAIR, start=False) as regions:
        eu = await regions.start("eu")
        us = await regions.start("us", secret=b"t" * 32)
        await send(eu)
        for name in PAIR:
            await regions.until(lambda name=name: regions.counters(name)["frames_refused.mac"] > 0)
        assert us.gossip.vector == {}
        for name, peer in (("eu", "us"), ("us", "eu")):
            assert regions.state(name, peer) == "down"
            assert regions.counters(name)["links_opened"] == 0


@pytest.mark.failure("N10")
async def test_a_port_where_nobody_listens_is_left_in_peace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is dialled again when the back-off is over, with the jitter that was drawn."""
    monkeypatch.setattr(QuickEntropy, "uniform", lambda _: 0.5)
    async with linked(tmp_path, PAIR, start=False) as regions:
        # Its own time passes too: what is left of the wait must be more than that.
        time = LoopTime()
        monkeypatch.setattr(time, "_time", lambda: 0.0)
        await regions.start("eu")

        def failed() -> int:
            return regions.counters("eu")["links_failed"]

        wait_s = BACKOFF_S_MIN / 2
        for attempt in range(1, 5):
            await regions.until(lambda attempt=attempt: failed() == attempt)
            time.shift_s += wait_s * 0.9
            await turns()
            assert failed() == attempt
            time.shift_s += wait_s * 0.1 + 0.001
            wait_s *= 2
        await regions.stop("eu")


# Limits


async def test_handshakes_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Strangers who open links and say nothing; when they go, there is room again."""
    monkeypatch.setattr(transport_accepting, "HANDSHAKES_OF_ADDRESS_MAX", HANDSHAKES_MAX)
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


async def test_a_stranger_does_not_take_the_places_of_the_peers(tmp_path: Path) -> None:
    """However many links an address opens and says nothing over, there is room for others."""
    async with linked(tmp_path, PAIR, start=False) as regions:
        await regions.start("eu")
        url = f"http://127.0.0.1:{regions.ports['eu']}{PATH}"
        connector = aiohttp.TCPConnector(local_addr=("127.0.0.2", 0), limit=0)
        async with aiohttp.ClientSession(connector=connector) as http:
            asked = [http.ws_connect(url) for _ in range(HANDSHAKES_MAX + 4)]
            told = await asyncio.gather(*asked, return_exceptions=True)
            refused = [one for one in told if isinstance(one, aiohttp.WSServerHandshakeError)]
            assert len(told) - len(refused) == HANDSHAKES_OF_ADDRESS_MAX
            async with dialer(regions) as (socket, _):
                await socket.receive_bytes()
        await regions.until(lambda: regions.peers["eu"]._acceptor._under_way == {})


async def test_what_asks_for_no_websocket_gets_a_plain_answer(tmp_path: Path) -> None:
    """A browser or a probe on the peer port; it costs no place among the handshakes, is counted,
    and is told nothing but that it is none of the regions."""
    async with linked(tmp_path, PAIR, start=False) as regions:
        await regions.start("eu")
        url = f"http://127.0.0.1:{regions.ports['eu']}"
        async with aiohttp.ClientSession() as http:
            for _ in range(HANDSHAKES_MAX + 1):
                async with http.get(url + PATH) as answered:
                    assert answered.status == 401
            for method, path in (("GET", "/"), ("POST", PATH), ("HEAD", PATH), ("DELETE", "/x/y")):
                async with http.request(method, url + path) as answered:
                    assert (answered.status, await answered.read()) == (401, b"")
                    assert "Server" not in answered.headers
        assert regions.counters("eu")["links_refused.not_a_peer"] == HANDSHAKES_MAX + 5


@pytest.mark.failure("L5", "C7")
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


@pytest.mark.failure("P9")
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
            before_s = time.shift_s
            with pytest.raises(PeerUnreachable):
                await time.until_done(asking)
            assert time.shift_s - before_s < ASK_S_MAX / 2
            assert links._dialed["us"].questions._asks == {}
            await regions.stop("eu")
