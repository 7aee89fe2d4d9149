"""The doctor finds out what lies between a client and a region, by following a session."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from perdure.regions import doctor_probes
from perdure.regions.doctor import Finding
from perdure.regions.doctor_probes import Probes
from sdk.python.tests.between import between
from sdk.python.tests.served import Served, served

NOW_MS = 1_000_000_000


@pytest.fixture
async def region(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path) as regions:
        yield regions[0]


async def asked(url: str) -> dict[str, Finding]:
    probes = Probes([url], None, lambda: NOW_MS)
    return {finding.check: finding async for finding in probes.findings()}


async def test_events_that_a_proxy_holds_back(
    region: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that gathers answers, and passes no upgrade on, is found out by following a session;
    without it, both come through."""
    monkeypatch.setattr(doctor_probes, "FIRST_EVENT_S_MAX", 2.0)
    found = await asked(region.url)
    assert (found["sse"].level, found["websocket"].level) == ("ok", "ok")
    assert found["reach"].text.startswith(f"{region.url} is region eu")
    monkeypatch.setattr(doctor_probes, "FIRST_EVENT_S_MAX", 0.4)
    async with between(region.url, "buffers") as proxy:
        found = await asked(proxy.url)
    assert (found["sse"].level, found["websocket"].level) == ("warn", "warn")
    assert "proxy_buffering off" in (found["sse"].advice or "")
    assert "Upgrade" in (found["websocket"].advice or "")
