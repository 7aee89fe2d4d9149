"""Recorded, altered, reordered and oversized traffic on real links, by who sits between regions."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from perdure.regions.transport_wire import PATH
from perdure.replication.admission import Draft
from perdure.replication.frames import (
    FRAME_BYTES_MAX,
    Channel,
    Kind,
    encode_json,
    encode_records,
)
from perdure.replication.handshake import challenge, check_hello, establish
from perdure.replication.records import seal

from tests.regions.linked import SECRET, US, acceptor, dialer, ended, linked

PAIR = {"eu": ["us"], "us": ["eu"]}
Frames = Callable[[Channel], list[bytes]]


def records(channel: Channel, *lsns: int) -> list[bytes]:
    return [
        channel.encode(Kind.OPERATIONS, encode_records([seal(US.origin, lsn, b"[]")]))
        for lsn in lsns
    ]


def replayed(channel: Channel) -> list[bytes]:
    (first,) = records(channel, 1)
    return [first, first]


def reordered(channel: Channel) -> list[bytes]:
    return records(channel, 1, 2)[::-1]


def left_out(channel: Channel) -> list[bytes]:
    first, _, third = records(channel, 1, 2, 3)
    return [first, third]


def altered(channel: Channel) -> list[bytes]:
    (frame,) = records(channel, 1)
    # In the middle of the record, where only the checksum and the signature would notice.
    at = len(frame) // 2
    return [frame[:at] + bytes([frame[at] ^ 1]) + frame[at + 1 :]]


def signed_by_another(channel: Channel) -> list[bytes]:
    (frame,) = records(channel, 1)
    return [frame[:-16] + bytes(16)]


def oversized(_: Channel) -> list[bytes]:
    return [b"PD" + bytes(FRAME_BYTES_MAX - 1)]


@pytest.mark.failure("S8", "L5")
@pytest.mark.parametrize(
    ("make", "code", "kept"),
    [
        (replayed, "number", 1),
        (reordered, "number", 0),
        (left_out, "number", 1),
        (altered, "crc", 0),
        (signed_by_another, "mac", 0),
        (oversized, "too_long", 0),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_what_is_not_as_it_was_sent_closes_the_link(
    tmp_path: Path, make: Frames, code: str, kept: int
) -> None:
    """After a proper handshake: refused once, counted by its code, the link is closed, and nothing
    of it or after it is stored."""
    async with linked(tmp_path, PAIR, start=False) as regions:
        eu = await regions.start("eu")
        async with dialer(regions) as (socket, channel):
            with contextlib.suppress(OSError, aiohttp.ClientError):
                for frame in make(channel):
                    await socket.send_bytes(frame)
            await ended(socket)
        await regions.until(lambda: regions.counters("eu")["frames_refused"] == 1)
        assert regions.counters("eu")[f"frames_refused.{code}"] == 1
        assert eu.gossip.vector == ({US.origin: kept} if kept else {})
        assert "us" not in regions.peers["eu"]._acceptor._links


@pytest.mark.failure("S8")
async def test_a_recorded_link_opens_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that a dialer once said, said again word by word: it answers another nonce."""
    async with linked(tmp_path, PAIR, start=False) as regions:
        eu = await regions.start("eu")
        said: list[bytes] = []
        encode = Channel.encode

        def record(channel: Channel, kind: Kind, payload: bytes) -> bytes:
            frame = encode(channel, kind, payload)
            if channel._mine == b"d":
                said.append(frame)
            return frame

        with monkeypatch.context() as recording:
            recording.setattr(Channel, "encode", record)
            async with dialer(regions) as (socket, channel):
                await socket.send_bytes(*records(channel, 1))
                await regions.until(lambda: eu.gossip.vector == {US.origin: 1})
        assert len(said) >= 2
        url = f"http://127.0.0.1:{regions.ports['eu']}{PATH}"
        async with aiohttp.ClientSession() as http, http.ws_connect(url) as again:
            for frame in said[-2:]:
                await again.send_bytes(frame)
            await ended(again)
        await regions.until(lambda: regions.counters("eu")["frames_refused"] == 1)
        assert regions.counters("eu")["frames_refused.unauthenticated"] == 1
        assert eu.gossip.vector == {US.origin: 1}


@pytest.mark.failure("S8")
async def test_a_recorded_acceptor_is_told_nothing(tmp_path: Path) -> None:
    """Who took a peer's address and plays what it once said: the dialer's nonce is new, so the
    welcome of then is not signed for this link."""
    async with linked(tmp_path, PAIR, start=False) as regions:
        heard: list[Any] = []
        opening: list[bytes] = []

        async def act(socket: web.WebSocketResponse, channel: Channel, _: web.Request) -> None:
            if not opening:
                opening.append(channel.encode(Kind.CHALLENGE, challenge(US)))
                await socket.send_bytes(opening[0])
                hello = channel.decode(await socket.receive_bytes())
                them, _vector = check_hello(US, hello.payload)
                establish(channel, SECRET, them, US)
                opening.append(channel.encode(Kind.WELCOME, encode_json({"vector": {}})))
                return
            for frame in opening:
                await socket.send_bytes(frame)
            heard.extend([message.data async for message in socket][1:])

        async with acceptor(regions.ports["us"], act):
            eu = await regions.start("eu")
            await eu.send("s", Draft("user", id="m", text="hello"))
            await regions.until(lambda: regions.counters("eu")["frames_refused.mac"] >= 2)
        assert heard == []
        assert regions.counters("eu")["links_opened"] == 0
