"""Regions of one build, replaced by another one after the other, while a text is being written."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from perdure.replication.frames import VERSIONS

from perdure_client import Client, SessionView
from tests.regions.processes import Running, Served

NAMES = ("eu", "us", "ap")
# What makes a process one of a build that knows the first version of the wire alone.
FIRST_WIRE = "import perdure.replication.frames as frames\nframes.VERSIONS = (1,)"
LOOK_EVERY_S = 0.1
READY_S_MAX = 30
TOKEN_EVERY_S = 0.02


@dataclass(frozen=True)
class Build:
    """How a build is run. ``code``: Python that runs in its process first."""

    name: str
    code: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


THIS = Build("this build")
OLDER = Build("this build on the first wire", FIRST_WIRE)


@dataclass
class Outcome:
    """What came of it."""

    tokens: int
    text: str
    read: str
    verified: dict[str, Any]
    regions: list[str]
    # The versions that links spoke: before, after each region was replaced.
    wires: list[dict[str, int | None]]
    counters: dict[str, dict[str, int]]


class Fleet:
    """Three regions that know each other, each of some build."""

    def __init__(self, path: Path, names: tuple[str, ...]) -> None:
        self.regions = {name: Served(path / name, name) for name in names}
        self._http = httpx2.AsyncClient(trust_env=False, verify=False, timeout=READY_S_MAX)
        self._running: dict[str, tuple[Running, contextlib.AsyncExitStack]] = {}

    @property
    def urls(self) -> list[str]:
        return [region.url for region in self.regions.values()]

    async def start(self, name: str, build: Build) -> None:
        region, stack = self.regions[name], contextlib.AsyncExitStack()
        peers = [
            part
            for other in self.regions.values()
            if other.name != name
            for part in ("--peer", f"{other.name}=http://127.0.0.1:{other.peer_port}")
        ]
        serving = region.serve(*peers, code=build.code, environment=build.environment)
        self._running[name] = await stack.enter_async_context(serving), stack

    async def stop(self, name: str) -> None:
        """As a supervisor does: SIGTERM, and it drains by itself."""
        running, stack = self._running.pop(name)
        running.signal(signal.SIGTERM)
        ended = await running.end()
        assert ended.code == 0, ended
        await stack.aclose()

    async def kill(self) -> None:
        for _, stack in self._running.values():
            await stack.aclose()
        await self._http.aclose()

    async def known(self, name: str) -> dict[str, Any]:
        answer = await self._http.get(f"{self.regions[name].url}/v1/regions")
        known: dict[str, Any] = answer.raise_for_status().json()
        return known

    async def until_whole(self) -> None:
        """Until every region that runs is ready, and sees all others."""
        async with asyncio.timeout(READY_S_MAX):
            for name in self._running:
                while not await self._is_whole(name):
                    await asyncio.sleep(LOOK_EVERY_S)

    async def _is_whole(self, name: str) -> bool:
        if not (await self._http.get(f"{self.regions[name].url}/readyz")).is_success:
            return False
        return all(peer["state"] == "up" for peer in (await self.known(name))["peers"])


@contextlib.asynccontextmanager
async def fleet(path: Path, builds: Mapping[str, Build]) -> AsyncIterator[Fleet]:
    """Regions of these builds, killed at the end."""
    regions = Fleet(path, tuple(builds))
    try:
        await asyncio.gather(*(regions.start(name, build) for name, build in builds.items()))
        await regions.until_whole()
        yield regions
    finally:
        await regions.kill()


async def roll(path: Path, builds: Mapping[str, Build], newer: Build) -> Outcome:
    """Replace those of these regions that are of another build, one after the other, while one
    text goes on."""
    async with fleet(path, builds) as regions, asyncio.timeout(READY_S_MAX * 6):
        over = asyncio.Event()
        wires = [await _wires(regions)]
        async with Client(regions.urls) as agent, Client(regions.urls[::-1]) as client:
            view = SessionView("s")
            writing = asyncio.create_task(_write(agent, over))
            reading = asyncio.create_task(_read(client, view))
            seen: list[str] = []
            for name in [name for name, build in builds.items() if build != newer]:
                await regions.stop(name)
                await regions.start(name, newer)
                await regions.until_whole()
                wires.append(await _wires(regions))
                seen.append(view.region or "")
            over.set()
            tokens = await writing
            await reading
            verified = await agent.verify()
            while not verified["equal"]:
                await asyncio.sleep(LOOK_EVERY_S)
                verified = await agent.verify()
            text = (await agent.session("s").message("m"))["text"]
        message = view.message("m")
        assert message is not None
        counters = {name: (await regions.known(name))["counters"] for name in builds}
        return Outcome(tokens, text, message.text, verified, seen, wires, counters)


async def _write(agent: Client, over: asyncio.Event) -> int:
    count = 0
    async with await agent.session("s").open(id="m") as writer:
        while not over.is_set():
            await writer.write(f"{count} ")
            count += 1
            await asyncio.sleep(TOKEN_EVERY_S)
    return count


async def _read(client: Client, view: SessionView) -> None:
    async with aclosing(client.session("s").read(view)) as views:
        async for now in views:
            message = now.message("m")
            if message is not None and message.status != "streaming":
                return


async def _wires(regions: Fleet) -> dict[str, int | None]:
    """The version of each link; an older build says nothing of it."""
    return {
        f"{name}>{peer['region']}": peer.get("wire")
        for name in regions.regions
        for peer in (await regions.known(name))["peers"]
    }


def breaches(outcome: Outcome) -> list[str]:
    """What of the promises was not kept."""
    expected = "".join(f"{number} " for number in range(outcome.tokens))
    found = []
    if outcome.text != expected:
        found.append("the text is not what was written")
    if outcome.read != expected:
        found.append("the reader has something else than what was written")
    if set(outcome.verified["regions"].values()) != {"equal"}:
        found.append(f"the regions differ: {outcome.verified}")
    for name, counters in outcome.counters.items():
        if refused := counters.get("frames_refused", 0):
            found.append(f"{name} has refused {refused} frames")
    last = outcome.wires[-1]
    if any(version not in (None, VERSIONS[-1]) for version in last.values()):
        found.append(f"links speak {last} at the end")
    return found
