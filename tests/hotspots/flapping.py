"""A link that breaks and comes back every second, under writes, for as long as one wants."""

import asyncio
from dataclasses import dataclass, field

import httpx2

from perdure_client import Client
from tests.bench.accounting import memory_bytes
from tests.chaos.proxy import Way
from tests.chaos.regions import Regions
from tests.hotspots.waiting import equal_after_s, regions_of

WRITERS = 4
TOKENS_A_MESSAGE = 100
TOKEN_EVERY_S = 0.04
FLAP_S = 1.0
SAMPLE_S = 10.0


@dataclass
class Flapping:
    """What came of it. Memory in bytes, of the two regions at the ends of the link, over time."""

    flaps: int = 0
    tokens: int = 0
    memory: dict[str, list[int]] = field(default_factory=dict)
    dials: dict[str, int] = field(default_factory=dict)
    equal_s: float = 0.0

    def grown_bytes(self, name: str) -> int:
        """From the end of the first third, when everything has been used once, to the end."""
        samples = self.memory[name]
        return samples[-1] - samples[len(samples) // 3]


async def flapping(regions: Regions, flaps: int) -> Flapping:
    """``eu`` and ``us`` lose each other every second, half of the time by broken connections and
    half by silence; an agent streams at ``eu`` all the while. The third region reaches neither."""
    found = Flapping(memory={"eu": [], "us": []})
    for name in ("eu", "us"):
        for proxy in regions.ways("ap", name):
            proxy.set(Way.CUT)
    before = await _dials(regions)
    client = Client([regions.all["eu"].url])
    writing = asyncio.gather(*(_write(client, found) for _ in range(WRITERS)))
    sampling = asyncio.create_task(_sample(regions, found))
    try:
        for number in range(flaps):
            for way in (Way.HOLE if number % 2 else Way.CUT, Way.OPEN):
                for proxy in regions.ways("eu", "us"):
                    proxy.set(way)
                await asyncio.sleep(FLAP_S / 2)
                if writing.done():
                    writing.result()
            found.flaps += 1
    finally:
        writing.cancel()
        sampling.cancel()
        await asyncio.gather(writing, sampling, return_exceptions=True)
        await client.aclose()
    _look(regions, found)
    after = await _dials(regions)
    found.dials = {name: after[name] - before[name] for name in ("eu", "us")}
    await regions.heal()
    found.equal_s = await equal_after_s(regions)
    return found


async def _write(client: Client, found: Flapping) -> None:
    session = client.session("flapping")
    while True:
        async with session.open(on_full="release") as writer:
            for number in range(TOKENS_A_MESSAGE):
                await writer.write(f"{number} ")
                found.tokens += 1
                await asyncio.sleep(TOKEN_EVERY_S)


async def _sample(regions: Regions, found: Flapping) -> None:
    while True:
        _look(regions, found)
        await asyncio.sleep(SAMPLE_S)


def _look(regions: Regions, found: Flapping) -> None:
    for name, samples in found.memory.items():
        process = regions.all[name].process
        assert process is not None
        samples.append(memory_bytes(process.pid))


async def _dials(regions: Regions) -> dict[str, int]:
    async with httpx2.AsyncClient(trust_env=False) as http:
        told = {name: await regions_of(http, regions, name) for name in ("eu", "us")}
    return {
        name: about["counters"].get("links_opened", 0) + about["counters"].get("links_failed", 0)
        for name, about in told.items()
    }
