"""What operators see of three regions, on virtual time: the matrix, lag, clocks, one timeline."""

import asyncio
from typing import Any

import pytest
from perdure.regions import timeline
from perdure.regions.searching import Asked
from perdure.replication.admission import Draft
from perdure.replication.errors import Refusal

from tests.simulation.stage import Stage
from tests.simulation.test_scenes import append, everywhere, open_, played

EU_ALONE = ("eu-us", "eu-ap")


async def look(stage: Stage, at: str = "eu") -> dict[str, dict[str, Any]]:
    """What somebody sees who looks at a region for some seconds, by region."""
    oversight = stage.node(at).oversight
    for _ in range(4):
        await stage.ask(at, oversight.refreshed())
        await asyncio.sleep(2.1)
    await stage.ask(at, oversight.refreshed())
    return {view["region"]: view for view in oversight.overview.value()["regions"]}


def seen(view: dict[str, Any], other: str) -> dict[str, Any]:
    """How a region sees another."""
    found: dict[str, Any] = next(one for one in view["sees"] if one["region"] == other)
    return found


def codes(view: dict[str, Any]) -> list[str]:
    return [problem["code"] for problem in view["problems"]]


def test_a_region_is_killed_and_comes_back() -> None:
    """All is well; then one does not answer, is shown as it was with its age, and both others say
    how far it is behind; then all is well again, with another incarnation."""

    async def scene(stage: Stage) -> None:
        epoch, _ = await open_(stage, "eu")
        await append(stage, "eu", epoch, 0, "a", "b")
        await everywhere(stage)
        views = await look(stage)
        assert [codes(view) for view in views.values()] == [[], [], []]
        for name, view in views.items():
            assert view["reachable"] and view["wire"] == [1, 2] and view["sessions"] == 1
            for one in view["sees"]:
                assert (one["state"], one["wire"], one["digests"]) == ("up", 2, "equal"), name
                assert one["behind_operations"] == one["behind_bytes"] == one["behind_s"] == 0
                assert 0 < one["rtt_ms"] < 100 and abs(one["clock_offset_ms"]) <= one["rtt_ms"] / 2
        before = views["ap"]["incarnation"]
        stage.kill("ap")
        await asyncio.sleep(11)
        await append(stage, "eu", epoch, 2, "c" * 1_000)
        await asyncio.sleep(1)
        views = await look(stage)
        assert not views["ap"]["reachable"] and views["ap"]["incarnation"] == before
        assert codes(views["ap"]) == ["unreachable"] and views["ap"]["age_ms"] >= 11_000
        for name in ("eu", "us"):
            one = seen(views[name], "ap")
            assert (one["state"], one["behind_operations"], one["wire"]) == ("down", 1, None)
            assert 1_000 < one["behind_bytes"] < 1_200 and 8 < one["behind_s"] < 12
            assert one["clock_offset_ms"] is None and one["digests"] == "unknown"
            assert codes(views[name]) == ["link_down", "behind"]
        stage.boot("ap")
        await everywhere(stage)
        await asyncio.sleep(6)
        views = await look(stage)
        assert views["ap"]["reachable"] and views["ap"]["incarnation"] != before
        assert [codes(view) for view in views.values()] == [[], [], []]
        assert seen(views["eu"], "ap")["digests"] == seen(views["ap"], "eu")["digests"] == "equal"

    played(scene)


def test_one_line_is_broken() -> None:
    """Where two regions do not hear each other the third tells it from a dead region: both are
    reachable there, and each says whom it does not hear."""

    async def scene(stage: Stage) -> None:
        await open_(stage, "eu")
        await everywhere(stage)
        stage.cut("eu-ap")
        await asyncio.sleep(12)
        views = await look(stage, "us")
        assert all(view["reachable"] for view in views.values())
        assert codes(views["eu"]) == ["link_down"] and codes(views["us"]) == []
        assert seen(views["eu"], "ap")["state"] == seen(views["ap"], "eu")["state"] == "down"

    played(scene)


def test_clocks_apart() -> None:
    """A clock that is a second ahead is told by how much, and by those who see it."""

    async def scene(stage: Stage) -> None:
        await open_(stage, "eu")
        await everywhere(stage)
        stage.offsets["us"][0] = 1_000
        views = await look(stage)
        for name, other, ahead in (("eu", "us", 1_000), ("us", "eu", -1_000), ("ap", "eu", 0)):
            for _ in range(2):
                offset = seen(views[name], other)["clock_offset_ms"]
            assert name != "eu" or abs(offset - ahead) < 60, (name, offset)
        assert codes(views["eu"]) == ["clocks_apart"]

    played(scene)


def test_a_takeover_with_retries_at_two_regions() -> None:
    """The timeline has who opened, claimed and ended with the times of who admitted it, retries and
    the fenced writer where they were met, and who came back; it is the same at each region; after
    a restart of all what was decided is still there, and the rest is not."""

    async def scene(stage: Stage) -> None:
        epoch, _ = await open_(stage, "eu")
        await append(stage, "eu", epoch, 0, "a", "b")
        await append(stage, "eu", epoch, 0, "a", "b")
        await append(stage, "eu", epoch, 1, "b")
        reader = stage.node("eu").subscribe("s", None)
        cursor = (await reader.next() or [])[-1].cursor
        reader.close()
        await everywhere(stage)
        claimed = await stage.ask(
            "us", stage.node("us").claim("s", "m", "q", "claim-0002", "continue")
        )
        other = claimed["epoch"]
        await asyncio.sleep(0.1)
        for _ in range(2):
            await stage.ask("us", stage.node("us").append("s", "m", "q", other, 0, ["c"], None))
        await asyncio.sleep(0.1)
        stage.node("ap").subscribe("s", cursor).close()
        await everywhere(stage)
        with pytest.raises(Refusal, match="later claim"):
            await append(stage, "eu", epoch, 2, "x")
        end = stage.node("us").append("s", "m", "q", other, 1, [], "complete")
        await stage.ask("us", end)
        await everywhere(stage)
        found = []
        for name in ("eu", "us", "ap"):
            page = await stage.ask(name, stage.node(name).oversight.timeline("s", None, 100))
            assert page["asked"] == ["ap", "eu", "us"] and page["next"] is None
            found.append(page["entries"])
        assert found[0] == found[1] == found[2]
        told = [(e["kind"], e["region"], e["producer"], e["epoch"]) for e in found[0][::-1]]
        assert sorted(told[:2]) == [("opened", "eu", "p", epoch), ("retry", "eu", "p", epoch)]
        assert told[2:] == [
            ("claimed", "us", "q", other),
            ("retry", "us", "q", other),
            ("resumed", "ap", None, None),
            ("fenced", "eu", "p", epoch),
            ("ended", "us", "q", other),
        ]
        assert all(e["at_ms"] for e in found[0])
        retry = next(e for e in found[0] if e["kind"] == "retry" and e["region"] == "eu")
        assert retry["detail"] == {"items": 3, "times": 2}
        for name in ("eu", "us", "ap"):
            stage.kill(name)
        stage.boot("eu", "us", "ap")
        await everywhere(stage)
        page = await stage.ask("ap", stage.node("ap").oversight.timeline("s", None, 100))
        kinds = [(e["kind"], e["at_ms"] is None) for e in page["entries"]]
        assert kinds == [("ended", True), ("claimed", True), ("opened", False)]

    played(scene)


def test_where_a_session_is_behind() -> None:
    """A list says of each session whether the others hold the same; who cannot be asked is
    unknown."""

    async def scene(stage: Stage) -> None:
        epoch, _ = await open_(stage, "eu")
        await everywhere(stage)

        async def positions() -> Any:
            oversight = stage.node("eu").oversight
            found = await stage.ask("eu", oversight.searching.search(Asked()))
            (row,) = await stage.ask("eu", oversight.rows(found.ids))
            return row["positions"]

        assert await positions() == {"us": "equal", "ap": "equal"}
        stage.kill("ap")
        stage.cut("eu>us")
        await append(stage, "eu", epoch, 0, "a")
        assert (await positions())["us"] in ("behind", "unknown")
        stage.heal("eu>us")
        await asyncio.sleep(3)
        assert await positions() == {"us": "equal", "ap": "unknown"}

    played(scene)


def test_nobody_looks_and_nobody_asks() -> None:
    """Views are asked for only while somebody looks: regions do not keep each other at it."""

    async def scene(stage: Stage) -> None:
        await open_(stage, "eu")
        await everywhere(stage)
        await look(stage)
        await asyncio.sleep(3)
        asked = [
            (name, peer, stage.node(name).oversight.peers.of(peer).asked_ms)
            for name in ("eu", "us", "ap")
            for peer in ("eu", "us", "ap")
        ]
        await asyncio.sleep(20)
        for name, peer, asked_ms in asked:
            assert stage.node(name).oversight.peers.of(peer).asked_ms == asked_ms
            assert name == "eu" or asked_ms is None

    played(scene)


def test_same_records_and_other_content() -> None:
    """Regions that have the same records and hold something else say so."""

    async def scene(stage: Stage) -> None:
        await open_(stage, "eu")
        await everywhere(stage)
        # As no region should ever be; a round of repair would mend it.
        stage.node("us").holdings.buckets = lambda: ["1"]  # type: ignore[method-assign]
        views = await look(stage)
        assert seen(views["eu"], "us")["digests"] == "different"
        assert seen(views["eu"], "ap")["digests"] == "equal"
        assert "different" in codes(views["eu"])

    played(scene)


def test_digests_are_compared_while_nobody_looks() -> None:
    """Alerts go by what was found, and nobody looks at a page at night."""

    async def scene(stage: Stage) -> None:
        await open_(stage, "eu")
        await everywhere(stage)
        oversight = stage.node("eu").oversight
        oversight.is_watched = True
        stage.node("us").holdings.buckets = lambda: ["1"]  # type: ignore[method-assign]
        await asyncio.sleep(400)
        found = {one["region"]: one["digests"] for one in oversight.overview.seen()}
        assert found == {"us": "different", "ap": "equal"}

    played(scene)


def test_what_is_sent_is_in_the_timeline_by_pages(monkeypatch) -> None:
    """Pages of any length, one after the other, say what the whole says; a page that none has given
    is refused."""
    monkeypatch.setattr(timeline, "TIMELINE_MESSAGES_MAX", 20)

    async def scene(stage: Stage) -> None:
        for number in range(70):
            draft = Draft("user", id=f"m{number}", text="x")
            await stage.ask("eu", stage.node("eu").send("s", draft))
        await everywhere(stage)
        oversight = stage.node("us").oversight
        for limit in (7, 20, 1_000):
            entries: list[Any] = []
            before = None
            while True:
                page = await stage.ask("us", oversight.timeline("s", before, limit))
                entries += page["entries"]
                if (before := page["next"]) is None:
                    break
            assert [entry["message"] for entry in entries] == [f"m{n}" for n in range(69, -1, -1)]
            assert {entry["kind"] for entry in entries} == {"sent"}
        with pytest.raises(Refusal, match="before must be"):
            await oversight.timeline("s", "yesterday", 10)

    played(scene)


def test_a_region_of_an_older_build() -> None:
    """Where a link speaks version 1 a region is shown from what it says otherwise: up, in step, and
    that it cannot say how it is; nothing is asked of it."""

    async def scene(stage: Stage) -> None:
        for process in stage.running.values():
            process.kill()
        for name in ("eu", "us", "ap"):
            stage.running[name] = process = stage.made(name, stage.disks[name])
            if name == "ap":
                process.links._around.versions = (1,)
            process.start()
        await asyncio.sleep(8)
        await open_(stage, "eu")
        await everywhere(stage)
        views = await look(stage)
        assert views["ap"]["reachable"] and views["ap"]["wire"] == [1]
        assert views["ap"]["incarnation"] == f"{stage.node('ap').origin.incarnation:016x}"
        assert codes(views["ap"]) == ["old_wire"] and codes(views["eu"]) == ["old_wire"]
        one = seen(views["eu"], "ap")
        assert (one["wire"], one["state"], one["behind_operations"]) == (1, "up", 0)
        assert one["rtt_ms"] is None and one["digests"] == "unknown"
        page = await stage.ask("eu", stage.node("eu").oversight.timeline("s", None, 10))
        assert page["asked"] == ["eu", "us"]

    played(scene)


def test_a_region_that_was_removed_is_shown_as_gone() -> None:
    """Nobody waits for it, and nothing is wrong with that."""

    async def scene(stage: Stage) -> None:
        await open_(stage, "eu")
        await everywhere(stage)
        stage.kill("ap")
        await asyncio.sleep(11)
        await stage.ask("eu", stage.node("eu").forget_region("ap", by="op"))
        await asyncio.sleep(2)
        for name in ("eu", "us"):
            views = await look(stage, name)
            assert views["ap"]["is_gone"] and not views["ap"]["reachable"]
            assert [codes(view) for view in views.values()] == [[], [], []]
            assert [one["region"] for one in views[name]["sees"]] == [
                other for other in ("eu", "us") if other != name
            ]

    played(scene)
