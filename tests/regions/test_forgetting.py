"""Erasing a subject: in every session of a tenant, in every region, also in one that was away."""

from pathlib import Path

import pytest
from perdure.regions import forgetting
from perdure.regions.forgetting import Forgetter
from perdure.regions.node import Node
from perdure.replication.admission import Draft
from perdure.replication.errors import Refusal

from .linked import linked


async def say(node: Node, session: str, id_: str, author: str | None, text: str = "x") -> None:
    await node.send(session, Draft("user", id=id_, author=author, text=text))


def held(node: Node, session: str) -> list[str]:
    return [message["id"] for message in node.snapshot(session)["messages"]]


def contents(path: Path) -> list[bytes]:
    return [file.read_bytes() for file in path.rglob("*") if file.is_file()]


async def test_what_somebody_has_written_goes(tmp_path: Path) -> None:
    """By author or producer, under all names that are theirs, in every session of the tenant and in
    every region; what others have written, and what comes later, stays."""
    async with linked(tmp_path, {"eu": ["us"], "us": ["eu"]}) as regions:
        eu, us = regions.nodes["eu"], regions.nodes["us"]
        at = {node.region: Forgetter(node) for node in (eu, us)}
        for session in ("acme:a", "acme:b", "umbrella:a", "c"):
            await say(eu, session, "mine", "ana")
            await say(us, session, "phone", "ana~phone", "a marker of ana's")
            await say(us, session, "other", "anabel")
        draft = Draft("assistant", id="bot", producer="ana~bot", claim_id="claim-0001")
        await eu.open("acme:a", draft)
        await regions.until(lambda: all(len(held(n, "acme:a")) == 4 for n in (eu, us)))
        asked = await at["eu"].ask("acme", "ana", "root")
        assert asked["state"] == "under_way" and asked["by"] == "root"
        await regions.until(lambda: at["us"]._ledger.get(asked["id"]) is not None)
        # Something comes while it is under way.
        regions.clock.shift_ms += 5
        await say(us, "acme:b", "later", "ana")

        def is_done() -> bool:
            for node in (eu, us):
                node.tick()
            return all(f.told("acme", asked["id"])["state"] == "done" for f in at.values())

        await regions.until(is_done)
        for node in (eu, us):
            assert held(node, "acme:a") == ["other"]
            assert sorted(held(node, "acme:b")) == ["later", "other"]
            assert len(held(node, "umbrella:a")) == len(held(node, "c")) == 3
        told = at["us"].told("acme", asked["id"])
        assert told["regions"] == {"eu": "done", "us": "done"}
        assert told["messages"] >= 5
        with pytest.raises(Refusal, match="not_found"):
            at["us"].told("umbrella", asked["id"])


async def test_a_region_that_was_away_erases_what_it_alone_has(tmp_path: Path) -> None:
    """It hears of the request when it is back, and is waited for. No file has the text then."""
    async with linked(tmp_path, {"eu": ["us"], "us": ["eu"]}) as regions:
        eu, us = regions.nodes["eu"], regions.nodes["us"]
        await say(eu, "s", "shared", "ana", "MARKER-SHARED")
        await regions.until(lambda: us.state.find("s") is not None and held(us, "s") == ["shared"])
        await regions.stop("eu")
        await say(us, "s", "alone", "ana", "MARKER-ALONE")
        await regions.stop("us")
        eu = await regions.start("eu")
        forget = Forgetter(eu)
        asked = await forget.ask("", "ana", "root")
        for _ in range(50):
            eu.tick()
            await regions.until(lambda: True)
        assert forget.told("", asked["id"])["regions"]["us"] == "waiting"
        us = await regions.start("us")
        again = Forgetter(us)

        def is_done() -> bool:
            for node in (eu, us):
                node.tick()
            return again.told("", asked["id"])["state"] == "done" if known() else False

        def known() -> bool:
            return again._ledger.get(asked["id"]) is not None

        await regions.until(is_done)
        assert held(eu, "s") == held(us, "s") == []
        await regions.stop("eu")
        await regions.stop("us")
    assert not any(b"MARKER-" in data for data in contents(tmp_path))


async def test_it_goes_on_after_a_restart(tmp_path: Path) -> None:
    """A request that was not carried out when the process ended is carried out by the next."""
    async with linked(tmp_path, {"eu": []}) as regions:
        eu = regions.nodes["eu"]
        await say(eu, "s", "m", "ana")
        asked = await Forgetter(eu).ask("", "ana", "root")
        await regions.stop("eu")
        eu = await regions.start("eu")
        forget = Forgetter(eu)

        def is_done() -> bool:
            eu.tick()
            return bool(forget.told("", asked["id"])["state"] == "done")

        await regions.until(is_done)
        assert held(eu, "s") == []


async def test_many_sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them, however many there are in a page."""
    monkeypatch.setattr(forgetting, "FORGET_SESSIONS_PER_S_MAX", 2)
    async with linked(tmp_path, {"eu": []}) as regions:
        eu = regions.nodes["eu"]
        for number in range(5):
            await say(eu, f"s{number}", "m", "ana" if number % 2 else "ben")
        forget = Forgetter(eu)
        seen = [name async for name in forget._sessions("")]
        assert seen == [f"s{number}" for number in range(5)]


async def test_who_deletes_the_same_does_not_end_it(tmp_path: Path) -> None:
    """A message that is deleted between being found and being deleted is one that is gone; and what
    has run beside the region is kept by nobody."""
    async with linked(tmp_path, {"eu": []}) as regions:
        eu = regions.nodes["eu"]
        for id_ in ("m", "n"):
            await say(eu, "s", id_, "ana")
        forget = Forgetter(eu)
        await eu.delete("s", "m")
        assert not await forget._delete("s", "m")
        assert await forget._delete("s", "n")
        kept = len(eu._tasks)
        asked = await forget.ask("", "ana", "root")

        def is_done() -> bool:
            eu.tick()
            return bool(forget.told("", asked["id"])["state"] == "done")

        await regions.until(is_done)
        await regions.until(lambda: len(eu._tasks) <= kept)
