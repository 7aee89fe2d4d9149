"""Shared documents over REST: what the client asks of regions, and what it makes of events."""

from collections.abc import AsyncGenerator
from typing import Any

import httpx2
import pytest
from sdk.python.tests.conftest import EU, US, World

from perdure_client import Deleted, DocumentValue, Event, Invalid, NotFound
from perdure_client.documents import Document


async def test_read_write_append(world: World) -> None:
    """What one region holds is read there, and at the other once that has been told."""
    async with world.client() as client:
        session = client.session("s")
        doc = session.document("draft")
        assert await session.documents() == []
        with pytest.raises(NotFound):
            await doc.read()
        written = await doc.write(text="Hello", json={"a": {"b": 1}})
        assert written == DocumentValue("draft", "Hello", {"a": {"b": 1}}, written.version)
        patched = await doc.write(json={"a": None, "c": 2})
        assert (patched.text, patched.json) == ("Hello", {"c": 2})
        assert (await doc.append(" world")).text == "Hello world"
        await world.gossip()
        world.eu.fate = lambda _: "before"
        read = await doc.read()
        assert (read.text, read.json) == ("Hello world", {"c": 2})
        assert await session.documents() == [{"id": "draft", "version": read.version}]
        with pytest.raises(Invalid):
            session.document("a/b")


async def test_an_append_keeps_its_key(world: World) -> None:
    """One key for all tries of a call, another for the next call."""
    async with world.client() as client:
        doc = client.session("s").document("draft")
        world.eu.fate = lambda _: "after"
        await doc.append("a")
        await doc.append("b")
    first, second, third = [
        each.headers["idempotency-key"] for each in [*world.eu.requests, *world.us.requests]
    ]
    assert first == second != third
    assert 8 <= len(first) <= 128


def following(world: World, events: list[Event | Exception]) -> Document:
    """A document of a session with these events."""

    async def told() -> AsyncGenerator[Event, None]:
        for event in events:
            if isinstance(event, Exception):
                raise event
            yield event

    regions = world.client().regions
    return Document(regions, "/v1/sessions/s", "d", told, dict)


def answering(world: World, answers: list[tuple[int, dict[str, Any]]]) -> list[str]:
    """Have reads answered so, one after the other; the regions that are asked."""
    asked: list[str] = []

    async def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(f"http://{request.url.host}")
        status, body = answers.pop(0)
        return httpx2.Response(status, json=body, request=request)

    for region in (world.eu, world.us):
        region.answer = answer  # type: ignore[method-assign]
    return asked


def document(text: str) -> tuple[int, dict[str, Any]]:
    return 200, {"id": "d", "text": text, "json": {}, "version": f"v-{text}"}


def told(data: dict[str, Any], name: str = "document") -> Event:
    return Event(name, "", data, US)


async def test_deleting_again_is_nothing(world: World) -> None:
    """A delete whose answer was lost is repeated elsewhere, and what is gone is gone."""
    asked = answering(world, [(503, {"code": "draining"}), (204, {}), (410, {"code": "deleted"})])
    async with world.client() as client:
        doc = client.session("s").document("draft")
        await doc.delete()
        await doc.delete()
    assert asked == [EU, US, US]


async def test_follow_shows_each_state(world: World) -> None:
    """It is read where it was told of, and shown when it is another: with a snapshot, by an event,
    and after a move, when all are told."""
    same = {"document": "d", "version": "v-b"}
    doc = following(
        world,
        [
            told({"documents": [{"id": "d", "version": "v-a"}]}, "snapshot"),
            told({}, "ready"),
            told({"document": "e", "version": "v-e"}),
            told({"document": "d", "version": "v-b"}),
            told(same),
            told({"all": [{"id": "d", "version": "v-b"}]}),
            told({"all": [{"id": "d", "version": "v-c"}]}),
            told({"document": "d", "deleted": True}),
            told({"document": "d", "version": "v-z"}),
        ],
    )
    asked = answering(world, [document("a"), document("b"), document("c")])
    assert [value.text async for value in doc.follow()] == ["a", "b", "c"]
    assert asked == [US] * 3


async def test_follow_waits_and_goes_elsewhere(world: World) -> None:
    """It waits for a document that is not there, reads elsewhere where a region fails, and shows
    nothing twice that was read ahead of its event."""
    doc = following(
        world,
        [
            told({"all": []}),
            told({"document": "d", "version": "v-a"}),
            told({"document": "d", "version": "v-a2"}),
            told({"document": "d", "version": "v-b"}),
        ],
    )
    behind = (404, {"code": "not_found", "detail": ""})
    asked = answering(world, [behind, (503, {"code": "draining"}), document("b"), document("b")])
    assert [value.text async for value in doc.follow()] == ["b"]
    assert len(asked) == 3
    assert set(asked) == {US, "http://eu"}


@pytest.mark.parametrize("last", [(410, {"code": "deleted", "detail": ""}), None])
async def test_follow_ends_with_what_it_follows(
    world: World, last: tuple[int, dict[str, Any]] | None
) -> None:
    """Deleted while its reader was away: it is not among all, or the session is gone."""
    gone = Deleted({"code": "deleted", "status": 410, "detail": ""})
    events = [told({"document": "d", "version": "v-a"}), told({"all": []}) if last else gone]
    doc = following(world, events)
    answering(world, [document("a"), *([last] if last else [])])
    assert [value.text async for value in doc.follow()] == ["a"]
