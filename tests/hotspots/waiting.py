"""Until the regions hold the same, as they themselves say it."""

import asyncio
from typing import Any

import httpx2

from tests.chaos.regions import Regions

EQUAL_S_MAX = 120.0
_POLL_S = 0.1


async def regions_of(http: httpx2.AsyncClient, regions: Regions, name: str) -> dict[str, Any]:
    """What a region says of itself and its peers."""
    answer = await http.get(f"{regions.all[name].url}/v1/regions")
    answer.raise_for_status()
    about: dict[str, Any] = answer.json()
    return about


async def equal_after_s(regions: Regions) -> float:
    """Seconds from now until every region says, by digests of everything, that all hold the same.

    Raises ``TimeoutError`` after ``EQUAL_S_MAX``.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with (
        httpx2.AsyncClient(trust_env=False, timeout=30) as http,
        asyncio.timeout(EQUAL_S_MAX),
    ):
        for region in regions.all.values():
            while not await _is_equal(http, region.url):
                await asyncio.sleep(_POLL_S)
    return loop.time() - began


async def _is_equal(http: httpx2.AsyncClient, url: str) -> bool:
    try:
        answer = await http.get(f"{url}/v1/verify")
    except httpx2.RequestError:
        return False
    return answer.status_code == 200 and bool(answer.json()["equal"])
