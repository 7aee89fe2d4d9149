"""A reader's grant is followed by the next one while its stream goes on."""

import asyncio
import time
from contextlib import aclosing

import httpx2
import jwt
import pytest

from perdure_client import Client
from perdure_client.renewing import left_s

SECRET = "s" * 32


def grant(seconds: float, **more: object) -> str:
    return jwt.encode({"sub": "ana", "exp": int(time.time() + seconds), **more}, SECRET)


@pytest.mark.parametrize("text", ["", "Bearer x", "Bearer a.b.c", "Bearer a.e30.c", "x.y.z.w"])
def test_what_says_no_end_has_none(text: str) -> None:
    """An opaque grant is left alone."""
    assert left_s(text, 0) is None
    assert left_s(f"Bearer {grant(100)}", time.time()) == pytest.approx(100, abs=2)


class Region:
    """One stream that goes on, and what is asked meanwhile."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, bytes]] = []
        self.is_renewed = asyncio.Event()

    async def stream(self):
        yield b"event: ready\nid: c1\ndata: {}\n\n"
        await self.is_renewed.wait()
        yield b'event: metadata\nid: c2\ndata: {"metadata":{}}\n\n'

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        own = request.headers["authorization"]
        self.asked.append(
            (request.url.path, own, request.content if request.method == "POST" else b"")
        )
        if request.method == "POST":
            self.is_renewed.set()
            return httpx2.Response(200, json={"renewed": 1, "expires": "x"})
        kind = {"content-type": "text/event-stream"}
        return httpx2.Response(200, headers=kind, content=self.stream())


async def test_it_is_renewed_in_place() -> None:
    """Before its end the region is told of the next grant, by the name of the one before; the
    stream is opened once."""
    old, new = grant(60), grant(600)
    grants = [old]
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        grants.append(new)
        await asyncio.sleep(0)

    region = Region()
    client = Client(
        ["http://eu"],
        lambda: grants[-1],
        http=httpx2.MockTransport(region),
        sleep=sleep,
        transport="sse",
    )
    async with client, aclosing(client.session("s").events()) as events:
        async for event in events:
            if event.event == "metadata":
                break
    assert [path for path, _, _ in region.asked][:2] == [
        "/v1/sessions/s/events",
        "/v1/grants/renew",
    ]
    assert region.asked[0][1] == f"Bearer {old}"
    assert region.asked[1][1] == f"Bearer {new}"
    assert old.encode() in region.asked[1][2]
    assert 40 < slept[0] < 46
