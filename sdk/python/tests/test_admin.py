"""What operators ask: any region answers a question, one region alone takes an action."""

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

import httpx2
import pytest

from perdure_client import Client, NotFound, PerdureError, sync
from perdure_client.errors import Unavailable

EU, US = "http://127.0.0.1:1", "http://127.0.0.1:2"
Answers = Callable[[httpx2.Request], httpx2.Response]


async def at_once(_seconds: float) -> None:
    pass


def client(answers: Answers) -> Client:
    return Client([EU, US], http=httpx2.MockTransport(answers), sleep=at_once, give_up_s=1)


async def test_any_region_answers_a_question() -> None:
    """What is not given is left out; a region that fails is passed over."""
    asked: list[str] = []

    def answers(request: httpx2.Request) -> httpx2.Response:
        asked.append(str(request.url))
        return httpx2.Response(200 if request.url.port == 2 else 503, json={"a": 1})

    async with client(answers) as one:
        assert await one.admin.get("sessions", search="a b", after=None, limit=3) == {"a": 1}
    assert asked == [f"{url}/admin/api/sessions?search=a+b&limit=3" for url in (EU, US)]


async def test_an_action_is_taken_at_one_region() -> None:
    """Where it does not answer, that is said, and no other region is drained in its place."""
    asked: list[tuple[str, str, bytes]] = []

    def answers(request: httpx2.Request) -> httpx2.Response:
        asked.append((request.method, str(request.url), request.content))
        return httpx2.Response(503, json={"detail": "it stops"})

    async with client(answers) as one:
        with pytest.raises(Unavailable, match="it stops"):
            await one.admin.post("drain", {"undo": True})
    assert asked == [("POST", f"{EU}/admin/api/drain", b'{"undo": true}')]


async def test_other_verbs_and_refusals() -> None:
    """They raise what any refusal does."""

    def answers(request: httpx2.Request) -> httpx2.Response:
        codes = {"PUT": (403, "forbidden"), "DELETE": (404, "not_found"), "POST": (200, "")}
        status, code = codes[request.method]
        return httpx2.Response(status, json={"code": code, "detail": "no", "status": status})

    async with client(answers) as one:
        with pytest.raises(PerdureError, match="no") as refused:
            await one.admin.put("retention/-", {})
        assert refused.value.code == "forbidden"
        with pytest.raises(NotFound):
            await one.admin.delete("retention/-")
        assert (await one.admin.post("verify"))["status"] == 200


class Cut(httpx2.AsyncByteStream):
    """Some bytes, and then the connection is gone."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._raw
        raise httpx2.ReadError("gone")


async def test_the_live_view_goes_on_at_the_next_region() -> None:
    """Keep-alives are no events; a refusal that every region would give ends it."""
    event = b': hello\n\nevent: overview\ndata: {"n": %d}\n\n'

    def answers(request: httpx2.Request) -> httpx2.Response:
        port = request.url.port or 0
        headers = {"perdure-region": {1: "eu", 2: "us"}[port]}
        return httpx2.Response(200, headers=headers, stream=Cut(event % port))

    async with client(answers) as one, aclosing(one.admin.live()) as events:
        seen = [await anext(events) for _ in range(3)]
    assert [(each.event, each.data["n"], each.region) for each in seen] == [
        ("overview", 1, "eu"),
        ("overview", 2, "us"),
        ("overview", 1, "eu"),
    ]
    refusal = {"code": "forbidden", "detail": "no operator", "status": 403}
    async with client(lambda _: httpx2.Response(403, json=refusal)) as one:
        with pytest.raises(PerdureError, match="no operator"):
            await anext(one.admin.live())


def test_for_threads() -> None:
    """The same without await."""
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, json={"region": "eu"}))
    with sync.Client([EU], http=transport) as one:
        assert one.admin.get("overview") == {"region": "eu"}
