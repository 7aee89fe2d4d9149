"""Many sessions in which both sides of a split wrote, at the moment of the heal."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

import httpx2

from perdure_client import Client
from tests.chaos.proxy import Way
from tests.chaos.regions import Regions
from tests.hotspots.waiting import equal_after_s, regions_of

WRITERS = 32
MESSAGES_A_SIDE = 3
# By then what is at rest is stored, and the log let go of.
TRUNCATED_S = 15.0


@dataclass
class Diverged:
    """What came of it."""

    sessions: int
    messages: int
    wrote_s: float
    equal_s: float
    jumps: int


async def diverged(regions: Regions, sessions: int, *, forgotten: bool = False) -> Diverged:
    """``eu`` on one side, ``us`` and ``ap`` on the other; then all are one again.

    ``forgotten``: with regions whose logs are short; when they have let go of what was written,
    all start anew, so that nothing is in memory and they must compare what they hold.
    """
    loop = asyncio.get_running_loop()
    split = [*regions.ways("eu", "us"), *regions.ways("eu", "ap")]
    for proxy in split:
        proxy.set(Way.CUT)
    began = loop.time()
    sides = [Client([regions.all[name].url]) for name in ("eu", "us")]
    try:
        await asyncio.gather(*(_write(client, sessions) for client in sides))
    finally:
        for client in sides:
            await client.aclose()
    wrote_s = loop.time() - began
    if forgotten:
        await asyncio.sleep(TRUNCATED_S)
        for name in regions.all:
            await regions.stop(name)
            await regions.start(name)
        await asyncio.gather(*(regions.answers(name) for name in regions.all))
    for proxy in split:
        proxy.set(Way.OPEN)
    equal_s = await equal_after_s(regions)
    async with httpx2.AsyncClient(trust_env=False) as http:
        told = [await regions_of(http, regions, name) for name in regions.all]
    jumps = sum(about["counters"].get("jumps", 0) for about in told)
    return Diverged(sessions, 2 * sessions * MESSAGES_A_SIDE, wrote_s, equal_s, jumps)


async def _write(client: Client, sessions: int) -> None:
    work = iter([n for _ in range(MESSAGES_A_SIDE) for n in range(sessions)])
    await asyncio.gather(*(_some(client, work) for _ in range(WRITERS)))


async def _some(client: Client, work: Iterable[int]) -> None:
    for number in work:
        await client.session(f"diverged{number}").send("user", f"one of {number}")
