"""Which region next, how long to wait, and one request that survives a death."""

import asyncio
import random
from typing import Any

import httpx2
import pytest
from sdk.python.tests.conftest import EU, US, Time, World

from perdure_client import Client, Conflict, Deleted, Invalid, NotFound, PerdureError, Unavailable
from perdure_client.regions import (
    AVOID_S,
    BACKOFF_S_MAX,
    FIRST_RETRY_S_MAX,
    GIVE_UP_S,
    REQUESTS_AT_ONCE_MAX,
    RETRY_STATUSES,
    Pause,
)


@pytest.mark.parametrize(
    ("urls", "words"),
    [
        ([], "at least one"),
        ("http://eu", "a list of regions' URLs"),
        (["localhost:7101"], "'localhost:7101' must be a URL like http://127.0.0.1:7101"),
        (["http://"], "must be a URL like"),
        (["http://eu:x"], "must be a URL like"),
        (["http://[eu"], "must be a URL like"),
        ([EU, None], "None must be a URL like"),
        (["ws://eu"], "must be a URL like"),
        (["http://eu/v1"], "'http://eu/v1' .* without a path"),
        (["http://eu?x=1"], "without a path or a query"),
    ],
)
def test_wrong_urls_are_refused_in_the_callers_words(urls: Any, words: str) -> None:
    """Before anything is sent, as the ``ValueError`` that it is."""
    with pytest.raises(ValueError, match=words):
        Client(urls)


async def test_a_slash_at_the_end_of_a_url_changes_nothing(world: World) -> None:
    """People copy URLs from browsers."""
    assert Client([EU + "/"]).regions.urls == [EU]


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
    regions.failed(EU, "")
    assert regions.pick() == US
    regions.failed(US, "")
    assert regions.pick() == EU, "all have failed: the one that failed first"
    world.time.now += AVOID_S
    assert regions.pick() == EU
    regions.failed(EU, "")
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
    """After a minute, or as long as the caller said, ``Unavailable``, with the last cause."""
    world.eu.fate = world.us.fate = lambda _: "before"
    for options, most in (({}, GIVE_UP_S), ({"give_up_s": 2.0}, 2.0)):
        world.time.now = 0.0
        async with world.client(**options) as client:
            with pytest.raises(Unavailable, match=r"http://.*ConnectError refused"):
                await client.session("s").snapshot()
        assert most - BACKOFF_S_MAX <= world.time.now <= most


async def test_an_answer_that_is_no_json_is_a_failure() -> None:
    """A proxy's page with status 200 is not taken for an answer, nor JSON that is no object."""
    bad = [httpx2.Response(200, html="<p>hello"), httpx2.Response(200, json=["no", "answer"])]
    script = Script(*bad, httpx2.Response(200, json={"id": "s"}))
    async with script.client(EU, US) as client:
        assert await client.session("s").snapshot() == {"id": "s"}
    assert [region for _, region in script.asked] == [EU, US, EU]


async def test_every_body_is_declared_as_json() -> None:
    """Also an empty one; and a request without a body declares nothing."""
    script = Script(*(httpx2.Response(200, json={"metadata": {}}) for _ in range(2)))
    async with script.client(EU) as client:
        await client.session("s").metadata({})
        await client.session("s").metadata()
    kinds = [request.headers.get("content-type") for request in script.requests]
    assert kinds == ["application/json", None]
    assert [request.content for request in script.requests] == [b"{}", b""]


class Script:
    """Answers in order, whichever region is asked; what was asked, and when."""

    def __init__(self, *answers: httpx2.Response) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[float, str]] = []
        self.requests: list[httpx2.Request] = []
        self.time = Time()

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append((self.time.now, f"http://{request.url.host}"))
        self.requests.append(request)
        return self.answers.pop(0)

    def client(self, *urls: str, **options: Any) -> Client:
        return Client(
            list(urls),
            http=httpx2.MockTransport(self),
            sleep=self.time.sleep,
            clock=lambda: self.time.now,
            **options,
        )


def busy(after: str) -> httpx2.Response:
    problem = {"code": "storage_full", "status": 507, "detail": "no room"}
    return httpx2.Response(507, json=problem, headers={"retry-after": after})


async def test_a_region_is_not_asked_before_it_said() -> None:
    """``Retry-After`` is honoured where there is no other region, and no further than the minute
    that a wrong one could cost."""
    for after, least, most in [("7", 7, 7), ("999999999999", 60, 60), ("tomorrow", 0, 1)]:
        script = Script(busy(after), httpx2.Response(200, json={"id": "s"}))
        async with script.client(EU, give_up_s=100) as client:
            await client.session("s").snapshot()
        assert least <= script.asked[1][0] <= most + 0.01


async def test_another_region_need_not_wait() -> None:
    """What one region said is not of the others; it comes back into use when it said."""
    ok = [httpx2.Response(200, json={"id": "s"}) for _ in range(3)]
    script = Script(busy("30"), *ok)
    async with script.client(EU, US) as client:
        await client.session("s").snapshot()
        assert script.asked[1][0] <= FIRST_RETRY_S_MAX
        script.time.now = 29.0
        await client.session("s").snapshot()
        script.time.now = 31.0
        await client.session("s").snapshot()
    assert [region for _, region in script.asked] == [EU, US, US, EU]


async def test_a_region_that_answers_again_may_be_asked_again(world: World) -> None:
    """Whatever it said before: another request has shown that it is well."""
    regions = world.client().regions
    regions.failed(US, "", 30)
    regions.worked(US)
    assert await regions.turn(EU, 0.0) == US
    assert world.time.now == 0


async def test_nobody_waits_beyond_the_time() -> None:
    """A region that says a time after it is given up at once; one try there is always."""
    script = Script(busy("30"), busy("1"))
    async with script.client(EU, give_up_s=20) as client:
        with pytest.raises(Unavailable, match="http://eu: no room"):
            await client.session("s").snapshot()
    assert script.time.now < 20
    async with script.client(US, give_up_s=0) as client:
        with pytest.raises(Unavailable):
            await client.session("s").snapshot()
    assert script.answers == []


async def test_a_redirect_is_a_mistake_and_no_answer() -> None:
    """It says where it came from; it would be the same for ever."""
    script = Script(httpx2.Response(307, headers={"location": "http://elsewhere"}))
    async with script.client(EU) as client:
        with pytest.raises(PerdureError, match="http://eu/v1/sessions/s answers 307") as error:
            await client.session("s").snapshot()
    assert error.value.status == 307


async def test_grants_are_asked_for_each_request() -> None:
    """They expire while a client lives."""
    script = Script(*(httpx2.Response(200, json={}) for _ in range(3)))
    grants = iter(["one", "two"])
    async with script.client(EU, grant=lambda: next(grants)) as client:
        await client.peers()
        await client.peers()
    async with script.client(EU, grant="fixed") as client:
        await client.peers()
    heads = [request.headers["authorization"] for request in script.requests]
    assert heads == ["Bearer one", "Bearer two", "Bearer fixed"]


async def test_no_grant_is_no_header() -> None:
    """And nothing is taken from the environment."""
    script = Script(httpx2.Response(200, json={}))
    async with script.client(EU) as client:
        await client.peers()
    assert "authorization" not in script.requests[0].headers


@pytest.mark.parametrize("id_", ["", ".", "..", "a/b", "a b", "é", "a" * 129, "a\n", None])
async def test_what_is_no_id_is_refused_here(id_: Any) -> None:
    """In a path it would reach something else."""
    script = Script()
    async with script.client(EU) as client:
        with pytest.raises(Invalid, match="invalid_id"):
            client.session(id_)
        session = client.session("~.-_9")
        for refused in (
            lambda: session.claim(id_),
            lambda: session.cancel(id_),
            lambda: session.delete("" if id_ is None else id_),
            lambda: session.open(id=id_ or "/"),
            lambda: session.send("user", "x", id=id_ or "/"),
        ):
            with pytest.raises(ValueError, match="is no id"):
                await refused()


async def test_what_is_no_json_is_refused_here() -> None:
    """And is no reason to try other regions."""
    async with Script().client(EU) as client:
        session = client.session("s")
        for value in (float("nan"), "\ud800"):
            with pytest.raises(Invalid, match="invalid_json"):
                await session.send("user", "x", metadata={"a": value})


async def test_values_in_queries_are_quoted() -> None:
    """A serial or an id never becomes another parameter."""
    script = Script(httpx2.Response(200, json={}), httpx2.Response(200, json={}))
    async with script.client(EU) as client:
        await client.sessions(after="a&b=c")
        await client.session("s").messages(before="1 ?", limit=3)
    assert [dict(request.url.params) for request in script.requests] == [
        {"limit": "100", "after": "a&b=c"},
        {"limit": "3", "before": "1 ?"},
    ]


async def test_every_operation(world: World) -> None:
    """Create, metadata, pages, cancel, delete: against a real region."""
    async with world.client() as client:
        session = client.session("s")
        assert (await session.create({"a": 1}))["metadata"] == {"a": 1}
        assert await session.metadata({"a": None, "b": 2}) == {"b": 2}
        assert await session.metadata() == await session.metadata({}) == {"b": 2}
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
        await session.delete()
        with pytest.raises(Deleted):
            await session.snapshot()


async def test_so_many_requests_at_once_wait_for_their_turn() -> None:
    """A program that asks for thousands of things at once gets all of them: neither the region nor
    the client's connections are drowned, and one that is away costs only those that are first."""
    under_way, most, refused = 0, 0, 0

    async def answer(request: httpx2.Request) -> httpx2.Response:
        nonlocal under_way, most, refused
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        if request.url.host == "eu":
            refused += 1
            raise httpx2.ConnectError("away")
        return httpx2.Response(201, json={"id": "m"})

    http = httpx2.MockTransport(answer)
    async with Client([EU, US], http=http, sleep=Time().sleep) as client:
        session = client.session("s")
        sends = [session.send("user", str(number)) for number in range(3 * REQUESTS_AT_ONCE_MAX)]
        assert len(await asyncio.gather(*sends)) == 3 * REQUESTS_AT_ONCE_MAX
    assert most <= REQUESTS_AT_ONCE_MAX
    assert refused == REQUESTS_AT_ONCE_MAX
