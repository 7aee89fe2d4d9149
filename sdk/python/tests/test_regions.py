"""Which region next, how long to wait, and one request that survives a death."""

import random
from typing import Any

import httpx2
import pytest
from sdk.python.tests.conftest import EU, US, Time, World

from perdure_client import Client, Conflict, NotFound, PerdureError, Unavailable
from perdure_client.regions import (
    AVOID_S,
    BACKOFF_S_MAX,
    FIRST_RETRY_S_MAX,
    GIVE_UP_S,
    RETRY_STATUSES,
    Pause,
)


@pytest.mark.parametrize("urls", [[], ["localhost:7101"], ["http://"], ["eu"], "http://eu"])
def test_wrong_urls_are_refused_in_the_callers_words(urls: Any) -> None:
    """Before anything is sent."""
    with pytest.raises(ValueError, match="URL"):
        Client(urls)


def test_every_region_is_tried_once_before_waiting() -> None:
    """Then the wait doubles up to its limit, and starts over when something worked."""
    pause = Pause(random.Random(7), 3)
    first, second, *later = [pause.next_s() for _ in range(12)]
    assert first <= FIRST_RETRY_S_MAX and second <= FIRST_RETRY_S_MAX
    bounds = [min(BACKOFF_S_MAX, 0.1 * 2**n) for n in range(10)]
    assert all(most / 2 <= wait <= most for wait, most in zip(later, bounds, strict=True))
    pause.reset()
    assert pause.next_s() <= FIRST_RETRY_S_MAX


async def test_the_first_region_that_has_not_failed_lately(world: World) -> None:
    """In the order of preference; after 5 s the preferred one is tried again."""
    regions = world.client().regions
    assert regions.pick() == EU
    assert regions.pick(EU) == US
    regions.failed(EU)
    assert regions.pick() == US
    regions.failed(US)
    assert regions.pick() == EU, "all have failed: the one that failed first"
    world.time.now += AVOID_S
    assert regions.pick() == EU
    regions.failed(EU)
    regions.worked(EU)
    assert regions.pick() == EU


@pytest.mark.parametrize("fate", ["before", "after", *sorted(RETRY_STATUSES)])
async def test_a_prompt_arrives_once(world: World, fate: str | int) -> None:
    """Whether the first region died before it, after it, or was not able to: the message is the
    same one at the next region, and one when both are known."""
    world.eu.fate = lambda _: fate
    async with world.client() as client:
        sent = await client.session("s").send("user", "hi")
        await world.gossip()
        snapshot = await client.session("s").snapshot()
    assert [m["id"] for m in snapshot["messages"]] == [sent["id"]]
    assert len(world.eu.requests) == 1


async def test_a_refusal_is_raised_at_once(world: World) -> None:
    """It would be the same at every region, so no other is asked."""
    async with world.client() as client:
        await client.session("s").send("user", "hi", id="m")
        with pytest.raises(Conflict) as conflict:
            await client.session("s").send("user", "other", id="m")
        with pytest.raises(NotFound, match="no session"):
            await client.session("none").snapshot()
        with pytest.raises(PerdureError, match="invalid_id"):
            await client.session("s").send("user", "hi", id="a b")
    assert (conflict.value.code, conflict.value.status) == ("conflict", 409)
    assert world.us.requests == []


async def test_nobody_answers(world: World) -> None:
    """After a minute, or as long as the caller said, ``Unavailable``."""
    world.eu.fate = world.us.fate = lambda _: "before"
    for options, most in (({}, GIVE_UP_S), ({"give_up_s": 2.0}, 2.0)):
        world.time.now = 0.0
        async with world.client(**options) as client:
            with pytest.raises(Unavailable):
                await client.session("s").snapshot()
        assert most <= world.time.now <= most + BACKOFF_S_MAX


async def test_an_answer_that_is_no_json_is_a_failure() -> None:
    """A proxy's page with status 200 is not taken for an answer."""
    time = Time()

    def route(request: httpx2.Request) -> httpx2.Response:
        page = httpx2.Response(200, html="<p>hello")
        return page if request.url.host == "eu" else httpx2.Response(200, json={"id": "s"})

    client = Client(
        [EU, US],
        transport=httpx2.MockTransport(route),
        sleep=time.sleep,
        clock=lambda: time.now,
    )
    async with client:
        assert await client.session("s").snapshot() == {"id": "s"}


async def test_every_operation(world: World) -> None:
    """Create, metadata, pages, cancel, delete: against a real region."""
    async with world.client() as client:
        session = client.session("s")
        assert (await session.create({"a": 1}))["metadata"] == {"a": 1}
        assert await session.metadata({"a": None, "b": 2}) == {"b": 2}
        assert await session.metadata() == {"b": 2}
        for number in range(3):
            await session.send("user", "x", id=f"m{number}", author="ann", metadata={"n": number})
        page = await session.messages(limit=2)
        assert ([m["id"] for m in page["messages"]], page["more"]) == (["m1", "m2"], True)
        older = await session.messages(before=page["messages"][0]["serial"])
        assert [m["id"] for m in older["messages"]] == ["m0"]
        writer = await session.open(id="a")
        assert await session.cancel("a") == "cancelled"
        await writer.aclose()
        await session.delete("m0")
        await session.delete("m0")
        assert (await client.sessions())["sessions"][0]["id"] == "s"
        assert (await client.peers())["region"] == "eu"
        assert (await client.verify("s"))["regions"] == {"us": "unreachable"}
        await session.delete()
