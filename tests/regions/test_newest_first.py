"""The messages of a session from the newest back."""

from pathlib import Path
from types import SimpleNamespace

from perdure.regions.newest_first import newest_first
from perdure.replication.admission import Draft

from .linked import linked


async def test_all_of_them(tmp_path: Path) -> None:
    """However many there are in a page; of no session there are none."""
    async with linked(tmp_path, {"eu": []}) as regions:
        eu = regions.nodes["eu"]
        for number in range(7):
            await eu.send("s", Draft("user", id=f"m{number}", text="x"))
        for at_once in (1, 3, 7, 100):
            found = [message.id for message in newest_first(eu.state.find("s"), at_once)]
            assert found == [f"m{number}" for number in reversed(range(7))]
        assert list(newest_first(None, 10)) == []


def test_a_page_that_cannot_be_read_ends_it() -> None:
    """Else it would be asked for again, for ever."""
    messages = SimpleNamespace(page=lambda _before, _limit: (["a", "b"], True))
    session = SimpleNamespace(messages=messages, visible=lambda _: None)
    assert list(newest_first(session, 2)) == []  # type: ignore[arg-type]
