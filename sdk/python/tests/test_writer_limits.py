"""Where a writer stops: what it does not take, when it is closed, and when it gives up."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from sdk.python.tests.conftest import EU, US, Time, World, until

from perdure_client import Client, Conflict, Invalid, Unavailable, Writer
from perdure_client.items import MARK_BYTES_MAX, TOKEN_BYTES_MAX
from perdure_client.regions import BACKOFF_S_MAX, GIVE_UP_S

OPENED = {"epoch": "1-0", "header": "h", "next": 0}
Answer = Callable[[httpx2.Request], httpx2.Response]


def refusal(status: int, code: str, **more: Any) -> httpx2.Response:
    return httpx2.Response(status, json={"code": code, "status": status, **more})


def acknowledged(count: int, stable: int | None) -> httpx2.Response:
    ack = {"next": count, "accepted": count, "stable": stable, "duplicates": 0, "ended": None}
    return httpx2.Response(200, json=ack)


class Lane:
    """Regions that open everything and answer appends as the test says."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.time = Time()
        self.asked: list[tuple[float, str, str]] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        seq = request.headers.get("producer-seq", "open")
        self.asked.append((self.time.now, str(request.url.host), seq))
        return httpx2.Response(201, json=OPENED) if seq == "open" else self.answer(request)

    def client(self, *urls: str) -> Client:
        return Client(
            list(urls),
            http=httpx2.MockTransport(self),
            sleep=self.time.sleep,
            clock=lambda: self.time.now,
        )


@pytest.mark.parametrize("value", ["\ud83d", "é" * (TOKEN_BYTES_MAX // 2) + "é"])
async def test_a_bad_token_does_not_cost_the_message(world: World, value: str) -> None:
    """It is refused where it is written; what comes after it is taken."""
    async with world.client() as client:
        writer = await client.session("s").open(id="m")
        with pytest.raises(Invalid):
            await writer.write(value)
        await writer.write("x")
        await writer.flush()
        await writer.aclose()
    assert world.eu.node.message("s", "m")["text"] == "x"


@pytest.mark.parametrize(
    "mark",
    [
        {},
        {"part": {"type": "text"}, "set": {}},
        {"other": {}},
        {"part": "text"},
        {"set": {"x": float("inf")}},
        {"set": {"x": "\ud800"}},
        {"set": {"x": "a" * MARK_BYTES_MAX}},
    ],
)
async def test_a_bad_mark_does_not_cost_the_message(world: World, mark: dict[str, Any]) -> None:
    """As for tokens."""
    async with world.client() as client:
        writer = await client.session("s").open(id="m")
        with pytest.raises(Invalid):
            await writer.mark(mark)
        await writer.mark({"set": {"x": "a" * (MARK_BYTES_MAX - 100)}})
        await writer.flush()
        await writer.aclose()
    assert world.eu.node.message("s", "m")["length"] == 1


async def test_wrong_types_and_ends_are_the_callers_mistake(world: World) -> None:
    """Said at once, and nothing is sent."""
    async with world.client() as client:
        writer = await client.session("s").open(id="m")
        token: Any = b"x"
        with pytest.raises(TypeError, match="not bytes"):
            await writer.write(token)
        with pytest.raises(TypeError):
            await writer.mark({"set": {"x": object()}})
        status: Any = "done"
        with pytest.raises(Invalid, match="'done' is no end"):
            await writer.end(status)
        await writer.end("cancelled")
        await writer.aclose()
    assert world.eu.node.message("s", "m")["status"] == "cancelled"


@pytest.mark.failure("X1")
async def test_tokens_of_the_largest_size_arrive(world: World) -> None:
    """Also where JSON makes them longer; they are not sent together."""
    text = "\x01" * TOKEN_BYTES_MAX
    async with world.client() as client:
        writer = await client.session("s").open(id="m")
        await writer.write(text)
        await writer.write("🙂" * (TOKEN_BYTES_MAX // 4))
        await writer.flush()
        await writer.aclose()
    assert world.eu.node.message("s", "m")["text"] == text + "🙂" * (TOKEN_BYTES_MAX // 4)
    appends = [r for r in world.eu.requests if "producer-seq" in r.headers]
    assert [r.headers["producer-seq"] for r in appends] == ["0", "1"]


async def test_an_empty_token_is_nothing(world: World) -> None:
    """Models send them; they are no items."""
    async with world.client() as client:
        writer = await client.session("s").open(id="m")
        for token in ("", "a", ""):
            await writer.write(token)
        assert writer.next == 1
        await writer.aclose()


async def test_a_mark_is_what_it_was_when_it_was_written(world: World) -> None:
    """The caller goes on to change it; what is sent again elsewhere is still the same."""
    async with world.client() as client:
        writer = await client.session("s").open(id="m")
        mark: dict[str, Any] = {"part": {"type": "data", "deep": {"n": 1}}}
        await writer.mark(mark)
        await writer.flush()
        mark["part"]["deep"]["n"] = 2
        world.eu.fate = lambda _: "before"
        await writer.write("x")
        await writer.flush()
        await world.gossip()
        await writer.aclose()
    expected = [{"type": "data", "deep": {"n": 1}, "text": "x"}]
    assert world.us.node.message("s", "m")["parts"] == expected
    assert world.eu.node.message("s", "m")["parts"] == expected


async def test_a_closed_writer_says_so(world: World) -> None:
    """It takes nothing more, nobody waits for it, and who waits already is told."""
    async with world.client() as client:
        writer = await client.session("s").open(id="m")
        await writer.write("x")
        await writer.flush()
        waiting = asyncio.create_task(writer.stable())
        await until(lambda: len(world.time.slept) > 0)
        await writer.aclose()
        for method in (waiting, writer.stable(), writer.write("y"), writer.end()):
            with pytest.raises(RuntimeError, match="closed"):
                await method
        await writer.flush()
        await writer.aclose()


async def test_a_block_that_closes_leaves_the_message_open(world: World) -> None:
    """``aclose`` in it is what the caller wants, also when the block then raises."""
    async with world.client() as client:

        async def closing(id_: str, error: Exception | None) -> None:
            async with client.session("s").open(id=id_) as writer:
                await writer.write("x")
                await writer.flush()
                await writer.aclose()
                if error is not None:
                    raise error

        await closing("m", None)
        with pytest.raises(LookupError):
            await closing("n", LookupError())
    for message in ("m", "n"):
        assert world.eu.node.message("s", message)["status"] == "streaming"


async def test_after_the_block_everything_is_still_there_to_read(world: World) -> None:
    """A message that has ended and is stable needs no more; asking for it is no mistake."""
    async with world.client() as client:
        async with client.session("s").open(id="m") as writer:
            await writer.write("x")
            await writer.end()
            await world.gossip()
        await writer.flush()
        await writer.stable()
        await writer.end()
        with pytest.raises(ValueError, match="ended"):
            await writer.write("y")


async def test_whatever_stops_the_sending_reaches_the_producer(world: World) -> None:
    """Here the client was closed under it: nobody waits for ever."""
    client = world.client()
    writer = await client.session("s").open(id="m")
    await client.aclose()
    await writer.write("x")
    for method in (writer.flush, writer.stable, writer.end):
        with pytest.raises(RuntimeError, match="the client has been closed"):
            await method()
    await writer.aclose()


async def test_what_went_wrong_first_is_what_the_caller_hears() -> None:
    """The model fails, and then the region refuses the end: the model's error counts."""
    lane = Lane(lambda _: refusal(409, "conflict"))

    async def agent() -> None:
        async with client.session("s").open(id="m"):
            raise LookupError("the model has failed")

    async with lane.client(EU) as client:
        with pytest.raises(LookupError, match="the model"):
            await agent()
    assert lane.asked[-1][2] == "0"


async def test_a_refusal_in_the_block_is_the_blocks_error() -> None:
    """No end is tried after it."""
    lane = Lane(lambda _: refusal(409, "conflict"))

    async def agent() -> None:
        async with client.session("s").open(id="m") as writer:
            await writer.write("x")
            await writer.flush()

    async with lane.client(EU) as client:
        with pytest.raises(Conflict):
            await agent()
    assert [seq for _, _, seq in lane.asked] == ["open", "0"]


async def test_a_cancelled_write_has_not_written(world: World) -> None:
    """A producer that stops waiting for room may write the token again, once."""
    async with world.client() as client:
        writer = await client.session("s").open(id="m", buffer_bytes_max=1)
        await writer.write("a")
        waiting = asyncio.create_task(writer.write("b"))
        await until(lambda: len(world.time.slept) > 0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await world.gossip()
        await writer.write("b")
        await writer.flush()
        await writer.aclose()
    assert world.eu.node.message("s", "m")["text"] == "ab"


async def failed(client: Client, kind: type[Exception]) -> Writer:
    """A writer whose flush has raised."""
    writer = await client.session("s").open(id="m")
    await writer.write("x")
    with pytest.raises(kind):
        await writer.flush()
    await writer.aclose()
    return writer


def unanswered(request: httpx2.Request) -> httpx2.Response:
    raise httpx2.ConnectError("refused", request=request)


@pytest.mark.parametrize(
    "answer",
    [
        unanswered,
        lambda _: refusal(503, "draining"),
        lambda _: refusal(409, "unknown_epoch"),
        lambda _: refusal(409, "gap", expected=0),
    ],
)
async def test_a_writer_gives_up_too(answer: Answer) -> None:
    """No region has taken anything for a minute, whatever they say. Until then it goes from one to
    the other, with growing pauses and never in a circle."""
    lane = Lane(answer)
    async with lane.client(EU, US) as client:
        await failed(client, Unavailable)
    assert GIVE_UP_S - BACKOFF_S_MAX <= lane.time.now <= GIVE_UP_S
    assert {host for _, host, _ in lane.asked} == {"eu", "us"}
    assert len(lane.asked) < 100


async def test_an_acknowledgement_begins_a_new_minute() -> None:
    """A writer gives up only when nothing at all goes on."""
    lane = Lane(unanswered)

    def sometimes(request: httpx2.Request) -> httpx2.Response:
        count = sum(seq != "open" for _, _, seq in lane.asked)
        if count % 8:
            return unanswered(request)
        tokens = json.loads(request.content)["tokens"]
        return acknowledged(int(request.headers["producer-seq"]) + len(tokens), 0)

    lane.answer = sometimes
    async with lane.client(EU) as client:
        writer = await client.session("s").open(id="m")
        for _ in range(20):
            await writer.write("x")
            await writer.flush()
        await writer.aclose()
    assert lane.time.now > 2 * GIVE_UP_S


async def test_each_region_is_made_to_know_the_message_at_once() -> None:
    """The first refusal of each is mended without a pause."""
    lane = Lane(unanswered)
    known: set[str] = set()

    def answer(request: httpx2.Request) -> httpx2.Response:
        host = str(request.url.host)
        tries = sum((at, seq) == (host, "0") for _, at, seq in lane.asked)
        if host == "eu" and tries == 2:
            return refusal(503, "draining")
        if host not in known:
            known.add(host)
            return refusal(409, "unknown_epoch")
        return acknowledged(1, 1)

    lane.answer = answer
    async with lane.client(EU, US) as client:
        writer = await client.session("s").open(id="m")
        await writer.write("x")
        await writer.flush()
        await writer.aclose()
    hosts = [(host, seq) for _, host, seq in lane.asked[1:]]
    each = ["0", "open", "0"]
    assert hosts == [("eu", seq) for seq in each] + [("us", seq) for seq in each]
    assert len(lane.time.slept) == 1


async def test_a_region_that_has_lost_what_it_accepted_gets_it_again() -> None:
    """The only one, come back with an empty disk: open and buffer are repeated."""
    answers = [acknowledged(1, 0), refusal(409, "unknown_epoch"), acknowledged(1, 1)]
    lane = Lane(lambda _: answers.pop(0))
    async with lane.client(EU) as client:
        writer = await client.session("s").open(id="m")
        await writer.write("x")
        await writer.stable()
        await writer.aclose()
    assert [seq for _, _, seq in lane.asked] == ["open", "0", "1", "open", "0"]


async def test_a_writer_comes_back_when_the_region_said() -> None:
    """``Retry-After`` of the only region."""
    lane = Lane(unanswered)

    def answer(_: httpx2.Request) -> httpx2.Response:
        if lane.time.now >= 9:
            return acknowledged(1, None)
        problem = {"code": "storage_full", "status": 507}
        return httpx2.Response(507, json=problem, headers={"retry-after": "9"})

    lane.answer = answer
    async with lane.client(EU) as client:
        writer = await client.session("s").open(id="m")
        await writer.write("x")
        await writer.stable()
        await writer.aclose()
    assert [seq for _, _, seq in lane.asked] == ["open", "0", "0"]
    assert writer.moves == 0


@pytest.mark.failure("C11")
async def test_a_claim_goes_on_where_its_region_died(world: World) -> None:
    """Base and all: what it continues was in the dead region alone, and its header carries it."""
    async with world.client() as client:
        session = client.session("s")
        old = await session.open(id="m")
        await old.write("Hello")
        await old.flush()
        await old.aclose()
        new = await session.claim("m")
        world.eu.fate = lambda _: "before"
        await new.write(" again")
        await new.flush()
        assert (new.text, new.region, new.moves) == ("Hello", US, 1)
        assert world.us.node.message("s", "m")["text"] == "Hello again"
        await world.gossip()
        await new.end()
        await world.gossip()
        await new.aclose()
    assert world.eu.node.message("s", "m")["text"] == "Hello again"


async def test_a_claim_whose_answer_was_lost_is_asked_again_with_its_id(world: World) -> None:
    """At another region, which knows the message; the two epochs of one claim fence nobody."""
    async with world.client() as client:
        session = client.session("s")
        old = await session.open(id="m")
        await old.write("a")
        await old.flush()
        await old.aclose()
        await world.gossip()
        world.eu.fate = lambda _: "after"
        new = await session.claim("m")
        assert (new.region, new.text) == (US, "a")
        await new.write("b")
        await new.flush()
        world.eu.fate = lambda _: ""
        await world.gossip()
        await new.write("c")
        await new.flush()
        await world.gossip()
        await new.aclose()
    assert world.eu.node.message("s", "m")["text"] == "abc"
    assert world.us.node.message("s", "m")["text"] == "abc"
