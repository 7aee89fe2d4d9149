"""A slice of what `make hotspots` measures: what must hold whatever the machine."""

from pathlib import Path

import pytest

from tests.chaos.regions import Regions
from tests.hotspots.diverged import diverged
from tests.hotspots.flapping import flapping
from tests.hotspots.storm import storm

GROWN_BYTES_MAX = 8_388_608


@pytest.mark.failure("L2")
@pytest.mark.parametrize(("readers", "light"), [(100, False), (1_000, True)])
async def test_readers_of_a_region_that_died_are_back_elsewhere(
    tmp_path: Path, readers: int, light: bool
) -> None:
    """All of them, within a minute, with all that there is; none is told anything but to come
    back."""
    async with Regions(tmp_path) as regions:
        found = await storm(regions, readers, light=light)
    assert (
        found.readers > readers // 2
        and not found.missing
        and not found.wrong
        and not found.steps_lost
    )
    assert found.errors == {}


@pytest.mark.failure("N1")
async def test_diverged_sessions_are_one_again(tmp_path: Path) -> None:
    """Both sides of a split wrote in each of them; a region that did not come to hold the same in
    time raises."""
    async with Regions(tmp_path) as regions:
        await diverged(regions, 100)


@pytest.mark.failure("N4")
async def test_a_link_that_flaps_costs_little(tmp_path: Path) -> None:
    """Memory does not grow with it, the link is not dialled more often than it breaks (and a little
    more, for each side dials), and what was written is everywhere after, or this raises."""
    async with Regions(tmp_path) as regions:
        found = await flapping(regions, 8)
    assert found.tokens > 30
    assert all(found.grown_bytes(name) < GROWN_BYTES_MAX for name in found.memory)
    assert all(dials < 6 * found.flaps for dials in found.dials.values())
