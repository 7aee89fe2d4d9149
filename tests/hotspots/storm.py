"""A region dies under many readers, and all of them come back elsewhere at once."""

import asyncio
import contextlib
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any

import httpx2

from perdure_client import Client
from perdure_client.reducer import SessionView
from tests.chaos.regions import Regions
from tests.hotspots.light import LightReader

READERS_A_SESSION = 20
ARRIVE_AT_ONCE = 50
MESSAGE_EVERY_S = 5.0
STEADY_S = 2.0
BACK_S_MAX = 60.0


class Counting(httpx2.AsyncBaseTransport):
    """One client's connections; what it is answered is counted."""

    def __init__(self, answers: Counter[str]) -> None:
        self._inner = httpx2.AsyncHTTPTransport(verify=False)
        self._answers = answers

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        try:
            answer = await self._inner.handle_async_request(request)
        except httpx2.RequestError as error:
            self._answers[type(error).__name__] += 1
            raise
        after = " with Retry-After" if "retry-after" in answer.headers else ""
        self._answers[f"{answer.status_code}{after}"] += 1
        return answer

    async def aclose(self) -> None:
        await self._inner.aclose()


class Reader:
    """Somebody who follows a session with the Python client; ``back_s`` when an event came from
    another region than the one that died."""

    def __init__(self, urls: list[str], session: str, seed: str, answers: Counter[str]) -> None:
        self.view = SessionView(session)
        self.region = ""
        self.left: str | None = None
        self.back_s: float | None = None
        self.session = session
        self._client = Client(urls, http=Counting(answers), jitter=Random(seed))
        self._session = self._client.session(session)
        self.steps_lost = 0

    async def run(self) -> None:
        """Until it is cancelled."""
        try:
            async for view in self._session.read(self.view):
                self.region = view.region or ""
                if self.left not in (None, self.region) and self.back_s is None:
                    self.back_s = asyncio.get_running_loop().time()
        finally:
            self.steps_lost = self._session.steps_lost
            await self._client.aclose()

    def holds(self, messages: list[dict[str, Any]]) -> bool:
        """Whether it holds just these."""
        held = [(m.id, m.text, m.status, m.length) for m in self.view.messages]
        return held == [(m["id"], m["text"], m["status"], m["length"]) for m in messages]


@dataclass
class Storm:
    """What came of one. Times in seconds after the region was killed."""

    readers: int
    back_s: list[float] = field(default_factory=list)
    answers: dict[str, int] = field(default_factory=dict)
    missing: int = 0
    wrong: int = 0
    steps_lost: int = 0

    def share_s(self, share: float) -> float:
        """When so many were back."""
        return self.back_s[min(len(self.back_s) - 1, int(share * len(self.back_s)))]

    @property
    def errors(self) -> dict[str, int]:
        """Answers that no reader should get. A connection that was not made in time is none."""
        broken = ("ConnectError", "ConnectTimeout", "ReadError", "RemoteProtocolError")
        fine = ("200", "503 with Retry-After", *broken)
        return {name: count for name, count in self.answers.items() if name not in fine}


async def storm(regions: Regions, readers: int, *, light: bool = False) -> Storm:
    """Kill ``eu`` under its readers; judge what they hold when all are back. ``light``: readers
    that are less than a client, for numbers with which one process could not keep up."""
    sessions = [f"storm{n}" for n in range(max(1, readers // READERS_A_SESSION))]
    urls = {name: region.url for name, region in regions.all.items()}
    answers: Counter[str] = Counter()
    orders = [[urls["eu"], urls[a], urls[b]] for a, b in (("us", "ap"), ("ap", "us"))]
    kind = LightReader if light else Reader
    crowd: list[Reader | LightReader] = [
        kind(orders[n % 2], sessions[n % len(sessions)], f"reader {n}", answers)
        for n in range(readers)
    ]
    writer = Client([urls["us"], urls["ap"]])
    writing = asyncio.create_task(_write(writer, sessions))
    reading: list[asyncio.Task[None]] = []
    try:
        for start in range(0, readers, ARRIVE_AT_ONCE):
            arriving = crowd[start : start + ARRIVE_AT_ONCE]
            reading += [asyncio.create_task(reader.run()) for reader in arriving]
            await _until(lambda arriving=arriving: all(reader.region for reader in arriving))
        await asyncio.sleep(STEADY_S)
        found = await _kill(regions, crowd, answers)
        await asyncio.sleep(STEADY_S)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        await _judge(writer, sessions, crowd, found)
    finally:
        for task in (writing, *reading):
            task.cancel()
        await asyncio.gather(writing, *reading, return_exceptions=True)
        await writer.aclose()
    found.steps_lost = sum(r.steps_lost for r in crowd if isinstance(r, Reader))
    return found


async def _kill(
    regions: Regions, crowd: list[Reader | LightReader], answers: Counter[str]
) -> Storm:
    crowd = [reader for reader in crowd if reader.region == regions.all["eu"].url]
    for reader in crowd:
        reader.left = reader.region
    killed_s = asyncio.get_running_loop().time()
    answers.clear()
    await regions.kill("eu")
    with contextlib.suppress(TimeoutError):
        await _until(lambda: all(reader.back_s is not None for reader in crowd))
    found = Storm(len(crowd))
    found.back_s = sorted(r.back_s - killed_s for r in crowd if r.back_s is not None)
    found.missing = len(crowd) - len(found.back_s)
    found.answers = dict(answers)
    return found


async def _write(client: Client, sessions: list[str]) -> None:
    """A message now and then in each session, for ever."""
    number = 0
    while True:
        began = asyncio.get_running_loop().time()
        for session in sessions:
            text = f"message {number} of {session}"
            await client.session(session).send("user", text, id=f"x{number}")
        number += 1
        took = asyncio.get_running_loop().time() - began
        await asyncio.sleep(max(0.0, MESSAGE_EVERY_S - took))


async def _judge(
    client: Client, sessions: list[str], crowd: list[Reader | LightReader], found: Storm
) -> None:
    """Whether everybody holds just what the regions hold, soon."""
    final: dict[str, list[dict[str, Any]]] = {}
    for session in sessions:
        page: dict[str, Any] = await client.session(session).messages(limit=1_000)
        final[session] = page["messages"]

    def wrong() -> int:
        return sum(not reader.holds(final[reader.session]) for reader in crowd)

    with contextlib.suppress(TimeoutError):
        await _until(lambda: not wrong())
    found.wrong = wrong()


async def _until(done: Any) -> None:
    async with asyncio.timeout(BACK_S_MAX):
        while not done():
            await asyncio.sleep(0.05)
