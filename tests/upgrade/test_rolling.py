"""A rolling upgrade from a build that speaks an older version of the wire."""

from pathlib import Path

import pytest

from tests.upgrade.rolling import OLDER, THIS, breaches, roll


@pytest.mark.failure("C6")
async def test_regions_are_replaced_while_a_text_is_written(tmp_path: Path) -> None:
    """A link speaks the newest version that both of its ends know; writer and reader go on
    elsewhere meanwhile, and nothing is lost, doubled or refused."""
    outcome = await roll(tmp_path, {"eu": OLDER, "us": THIS}, THIS)
    assert outcome.wires == [{"eu>us": one, "us>eu": one} for one in (1, 2)]
    assert breaches(outcome) == []
    assert outcome.tokens > 10
