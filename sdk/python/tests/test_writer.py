"""The writer keeps what is not stable and repeats it elsewhere: against two real regions."""

import asyncio
import json
from typing import Any

import httpx2
import pytest
from sdk.python.tests.conftest import EU, US, FakeRegion, World, until

from perdure_client import (
    BufferLost,
    Cancelled,
    Client,
    Conflict,
    Deleted,
    Ended,
    Fenced,
    PerdureError,
    Writer,
)
from perdure_client.writer import APPEND_ITEMS_MAX


async def text(client: Client, region: FakeRegion, message: str) -> str:
    return str(region.node.message("s", message)["text"])


def appends(region: FakeRegion) -> list[int]:
    """The seq of each append that reached a region."""
    heads = [r.headers.get("producer-seq") for r in region.requests]
    return [int(seq) for seq in heads if seq is not None]


async def test_a_message_from_open_to_stable(world: World) -> None:
    """The block ends when all of it, and the end, is in two regions; tokens and marks in order."""
    client = world.client()
    async with client, client.session("s").open(id="m", author="bot") as writer:
        for token in ("Hel", "lo"):
            await writer.write(token)
        await writer.mark({"part": {"type": "reasoning"}})
        await writer.write("hm")
        await writer.flush()
        assert (writer.next, writer.accepted, writer.stable_count) == (4, 4, 0)
        await writer.end()
        await world.gossip()
    value = world.us.node.message("s", "m")
    assert (value["text"], value["status"], value["author"]) == ("Hello", "complete", "bot")
    assert [part["text"] for part in value["parts"]] == ["Hello", "hm"]
    assert writer.stable_count == 4


@pytest.mark.failure("P4")
@pytest.mark.parametrize("fate", ["before", "after", 503, 507])
async def test_what_is_not_stable_is_repeated_elsewhere(world: World, fate: str | int) -> None:
    """The region dies with tokens that it had acknowledged and told nobody: they are sent again,
    after the message was made known, and nothing is there twice when it comes back."""
    async with world.client() as client:
        writer = await client.session("s").open(id="m")
        await writer.write("a")
        await writer.flush()
        world.eu.fate = lambda _: fate
        await writer.write("b")
        await writer.flush()
        assert writer.region == US and writer.moves == 1
        assert await text(client, world.us, "m") == "ab"
        await world.gossip()
        await writer.write("c")
        await writer.end()
        await world.gossip()
        await writer.stable()
        await writer.aclose()
        assert await text(client, world.eu, "m") == await text(client, world.us, "m") == "abc"
    assert appends(world.us)[0] == 0


async def test_what_is_stable_is_not_repeated(world: World) -> None:
    """The buffer lets go of what two regions have; another region is sent only the rest."""
    async with world.client() as client:
        writer = await client.session("s").open(id="m")
        for token in "abc":
            await writer.write(token)
        await writer.flush()
        await world.gossip()
        await writer.stable()
        world.eu.fate = lambda _: "before"
        await writer.write("d")
        await writer.flush()
        await writer.aclose()
        assert await text(client, world.us, "m") == "abcd"
    assert appends(world.us) == [3]


async def test_an_open_whose_answer_was_lost_is_the_same_message(world: World) -> None:
    """Carried out in two regions, it is one lane."""
    world.eu.fate = lambda _: "after"
    async with world.client() as client:
        writer = await client.session("s").open(id="m")
        await writer.write("x")
        await writer.flush()
        await world.gossip()
        await writer.aclose()
    messages = world.eu.node.snapshot("s")["messages"]
    assert [(m["id"], m["text"]) for m in messages] == [("m", "x")]


async def test_an_end_whose_answer_was_lost_is_repeated(world: World) -> None:
    """It ends once, as it ended first."""
    async with world.client() as client:
        writer = await client.session("s").open(id="m")
        await writer.write("x")
        await writer.flush()
        world.eu.fate = lambda _: "after"
        await writer.end("failed")
        await writer.end("complete")
        await writer.aclose()
        await world.gossip()
    statuses = {r.node.message("s", "m")["status"] for r in (world.eu, world.us)}
    assert statuses == {"failed"}


async def test_a_message_is_stable_when_its_end_is(world: World) -> None:
    """All its tokens are, and the end is on one disk: that is not enough."""
    async with world.client() as client:
        writer = await client.session("s").open(id="m")
        await writer.write("x")
        await writer.flush()
        await world.gossip()
        await writer.stable()
        await writer.end()
        waiting = asyncio.create_task(writer.stable())
        polls = len(world.time.slept)
        await until(lambda: len(world.time.slept) > polls + 3)
        assert not waiting.done()
        await world.gossip()
        await waiting
        await writer.aclose()


async def test_an_end_that_died_with_its_region_is_repeated(world: World) -> None:
    """It was acknowledged, and told nobody: whoever waits until it is stable sees to it that it is
    said again elsewhere."""
    async with world.client() as client:
        writer = await client.session("s").open(id="m")
        await writer.write("x")
        await writer.end()
        world.eu.fate = lambda _: "before"
        waiting = asyncio.create_task(writer.stable())
        await until(lambda: writer.region == US and len(appends(world.us)) > 0)
        await world.gossip()
        await waiting
        await writer.aclose()
    value = world.us.node.message("s", "m")
    assert (value["text"], value["status"]) == ("x", "complete")
    assert len(appends(world.us)) > 0


async def test_a_gap_is_filled_from_the_buffer(world: World) -> None:
    """A region that lacks the beginning asks for it by ``expected``."""
    async with world.client() as client:
        writer = await client.session("s").open(id="m")
        await world.gossip()
        for token in "abc":
            await writer.write(token)
        await writer.flush()
        writer._sent = 2
        world.eu.fate = lambda _: "before"
        writer.region = US
        await writer.write("d")
        await until(lambda: writer.accepted == 4)
        await writer.aclose()
        assert await text(client, world.us, "m") == "abcd"


async def test_what_was_let_go_is_awaited_and_then_given_up(world: World) -> None:
    """A region lacks tokens that two others have: they will come by gossip. After a minute that
    they have not, the writer says so instead of leaving a hole."""
    async with world.client() as client:
        writer = await client.session("s").open(id="m")
        await writer.write("a")
        await writer.flush()
        header = writer._header
        await client.regions.once(US, "POST", "/v1/sessions/s/messages", {"header": header})
        vector = dict(world.eu.node.gossip.vector)
        world.eu.node.gossip.heard("us", vector, True, 0)  # Not so: it has nothing on disk.
        world.eu.node.peers_changed()
        await writer.stable()
        world.eu.fate = lambda _: "before"
        await writer.write("b")
        with pytest.raises(BufferLost):
            await writer.flush()
        await writer.aclose()
        assert await text(client, world.us, "m") == ""


async def refused(writer: Writer, kind: type[PerdureError]) -> None:
    """Every method says so from then on."""
    await writer.write("x")
    with pytest.raises(kind):
        await writer.flush()
    for method in (writer.write("y"), writer.end(), writer.stable(), writer.flush()):
        with pytest.raises(kind):
            await method
    await writer.aclose()


async def test_a_takeover_fences_the_writer(world: World) -> None:
    """And the new one continues the text it was given."""
    async with world.client() as client:
        session = client.session("s")
        old = await session.open(id="m")
        await old.write("Hello")
        await old.flush()
        new = await session.claim("m")
        assert (new.text, new.parts, new.accepted) == (
            "Hello",
            [{"type": "text", "text": "Hello"}],
            0,
        )
        await new.write(" again")
        await new.flush()
        await refused(old, Fenced)
        restarted = await session.claim("m", mode="restart")
        assert restarted.text == ""
        await restarted.write("new")
        await restarted.flush()
        await refused(new, Fenced)
        await restarted.aclose()
        assert await text(client, world.eu, "m") == "new"


@pytest.mark.failure("C8")
async def test_refusals_reach_the_producer(world: World) -> None:
    """Cancelled, deleted, ended by somebody else's hand, another text for the same seq."""
    async with world.client() as client:
        session = client.session("s")
        writer = await session.open(id="cancelled")
        await session.cancel("cancelled")
        await refused(writer, Cancelled)
        writer = await session.open(id="deleted")
        await session.delete("deleted")
        await refused(writer, Deleted)
        writer = await session.open(id="twice", producer="p")
        await world.eu.node.append("s", "twice", "p", writer.epoch, 0, ["other"])
        await refused(writer, Conflict)
        writer = await session.open(id="ended", producer="p")
        await world.eu.node.append("s", "ended", "p", writer.epoch, 0, [], "complete")
        await refused(writer, Ended)


async def test_a_block_that_raises_ends_failed(world: World) -> None:
    """And a block that is cancelled leaves the message open, for another producer to claim."""
    async with world.client() as client:

        async def raising(id_: str, error: BaseException) -> None:
            async with client.session("s").open(id=id_) as writer:
                await writer.write("x")
                await writer.flush()
                raise error

        with pytest.raises(RuntimeError, match="the model"):
            await raising("m", RuntimeError("the model has failed"))
        assert world.eu.node.message("s", "m")["status"] == "failed"
        for id_, stop in (("n", asyncio.CancelledError()), ("o", KeyboardInterrupt())):
            with pytest.raises(type(stop)):
                await raising(id_, stop)
            assert world.eu.node.message("s", id_)["status"] == "streaming"


async def test_nothing_is_written_after_the_end(world: World) -> None:
    """That is the caller's mistake, and no request is made."""
    async with world.client() as client:
        writer = await client.session("s").open(id="m")
        await writer.end()
        with pytest.raises(ValueError, match="ended"):
            await writer.write("x")
        await writer.aclose()


async def test_a_full_buffer_blocks_until_it_is_stable(world: World) -> None:
    """``on_full="block"``: the producer waits for the second region."""
    async with world.client() as client:
        writer = await client.session("s").open(id="m", buffer_bytes_max=10)
        await writer.write("abcd")
        await writer.flush()
        waiting = asyncio.create_task(writer.write("e"))
        await until(lambda: writer.accepted == 1)
        assert not waiting.done()
        await world.gossip()
        await waiting
        await writer.aclose()


async def test_a_full_buffer_may_let_go_of_what_is_accepted(world: World) -> None:
    """``on_full="release"``: one region is enough when there is no room."""
    async with world.client() as client:
        options: dict[str, Any] = {"buffer_bytes_max": 40, "on_full": "release"}
        writer = await client.session("s").open(id="m", **options)
        await writer.write("abcd")
        await writer.write("efgh")
        await writer.flush()
        # Its region is gone, and the other lacks what it alone had: it is full again.
        world.eu.fate = lambda _: "before"
        await writer.write("ijkl")
        await writer.write("mnop")
        await until(lambda: len(appends(world.us)) > 0)
        world.eu.fate = lambda _: ""
        await writer.end()
        await writer.aclose()
        assert await text(client, world.eu, "m") == "abcdefghijklmnop"
    assert set(appends(world.us)) == {2}


async def test_what_is_let_go_is_only_what_is_accepted(world: World) -> None:
    """With no room and nothing accepted, ``release`` waits as ``block`` does."""
    world.eu.fate = lambda request: 503 if "producer-seq" in request.headers else ""
    world.us.fate = lambda _: 503
    async with world.client() as client:
        options: dict[str, Any] = {"buffer_bytes_max": 1, "on_full": "release"}
        writer = await client.session("s").open(id="m", **options)
        await writer.write("a")
        waiting = asyncio.create_task(writer.write("b"))
        await until(lambda: len(appends(world.eu)) > 3)
        assert not waiting.done()
        world.eu.fate = lambda _: ""
        await waiting
        await writer.flush()
        await writer.aclose()
        assert await text(client, world.eu, "m") == "ab"


async def test_what_gathers_is_sent_together(world: World) -> None:
    """One request at a time; each carries at most so many items, and the last one the end."""
    async with world.client() as client:
        writer = await client.session("s").open(id="m")
        count = 2 * APPEND_ITEMS_MAX + 1
        for _ in range(count):
            await writer.write("x")
        await writer.end()
        await writer.aclose()
    seqs = appends(world.eu)
    assert seqs == sorted(set(seqs)) and len(seqs) <= 4
    bodies = [json.loads(r.content) for r in world.eu.requests if "producer-seq" in r.headers]
    assert max(len(body["tokens"]) for body in bodies) == APPEND_ITEMS_MAX
    assert ["end" in body for body in bodies] == [False] * (len(bodies) - 1) + [True]
    assert world.eu.node.message("s", "m")["length"] == count


async def test_a_region_alone_is_enough_when_it_has_no_peers() -> None:
    """``stable`` is null there: accepted is all there is, and the block ends."""
    acks: list[dict[str, Any]] = []

    def route(request: httpx2.Request) -> httpx2.Response:
        if request.url.path.endswith("/tokens"):
            acks.append({"next": 1, "accepted": 1, "stable": None, "ended": "accepted"})
            return httpx2.Response(200, json=acks[-1])
        return httpx2.Response(201, json={"epoch": "1-0", "header": "h", "next": 0})

    client = Client([EU], http=httpx2.MockTransport(route))
    async with client, client.session("s").open(id="m") as writer:
        await writer.write("x")
    assert acks


async def test_a_region_that_never_knows_the_epoch_is_not_asked_in_a_circle() -> None:
    """Each round takes longer, as for a region that does not answer."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 6:
            raise asyncio.CancelledError

    def route(request: httpx2.Request) -> httpx2.Response:
        if request.url.path.endswith("/tokens"):
            return httpx2.Response(409, json={"code": "unknown_epoch", "status": 409})
        return httpx2.Response(201, json={"epoch": "1-0", "header": "h", "next": 0})

    async with Client([EU], http=httpx2.MockTransport(route), sleep=sleep) as client:
        writer = await client.session("s").open(id="m")
        await writer.write("x")
        await until(lambda: len(waits) == 6)
        await writer.aclose()
    assert waits[-1] > waits[0]


async def test_waiting_for_stable_asks_with_growing_pauses(world: World) -> None:
    """The other regions are down: the one that answers is not asked in a circle."""
    async with world.client() as client:
        writer = await client.session("s").open(id="m")
        await writer.write("x")
        await writer.flush()
        waiting = asyncio.create_task(writer.stable())
        await until(lambda: len(world.time.slept) >= 8)
        assert world.time.slept[:8] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]
        assert not waiting.done()
        await world.gossip()
        await waiting
        await writer.aclose()
