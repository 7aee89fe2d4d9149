"""Documents that are edited live: the talk with a region, and real regions that are killed."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from perdure.regions.cluster import Cluster, free_ports
from pycrdt import Doc, Map, Text, create_awareness_message, create_sync_message

from perdure_client import Client, Deleted, Invalid, PerdureError, Unavailable
from perdure_client.live import Live, ended
from perdure_client.yjs_exchange import UNSENT_MAX, NotYjs, YjsExchange

WAIT_S = 30


def text_of(doc: "Doc[Any]") -> Text:
    return doc.get("text", type=Text)


# The talk, without sockets


def pair() -> tuple[YjsExchange, YjsExchange]:
    """Two clients; each takes the other for its region."""
    return YjsExchange(Doc(), lambda: None), YjsExchange(Doc(), lambda: None)


def talk(one: YjsExchange, other: YjsExchange) -> int:
    """Carry what is to be said until nothing is; the number of messages."""
    count = 0
    while True:
        messages = [(other, each) for each in one.said()] + [(one, each) for each in other.said()]
        if not messages:
            return count
        count += len(messages)
        for to, message in messages:
            to.take(message)


def begin(one: YjsExchange, other: YjsExchange) -> None:
    for to, messages in ((other, one.begin()), (one, other.begin())):
        for message in messages:
            to.take(message)
    talk(one, other)


def test_what_was_edited_apart_comes_together() -> None:
    """Each has edits that the other lacks when they meet; then each edit is one message."""
    one, other = pair()
    text_of(one.doc).insert(0, "one ")
    text_of(other.doc).insert(0, "other ")
    begin(one, other)
    assert one.is_synced
    assert other.is_synced
    assert str(text_of(one.doc)) == str(text_of(other.doc))
    text_of(one.doc).insert(0, "x")
    assert len(one.said()) == 1
    assert one.said() == []


def test_what_is_kept_is_known_when_it_is_asked_for() -> None:
    """An answer says that what was sent before the question was taken; a new socket begins anew."""
    one, other = pair()
    begin(one, other)
    before = one.edits
    text_of(one.doc).insert(0, "x")
    assert talk(one, other) == 1
    assert (one.edits, one.kept) == (before + 1, before)
    one.ask()
    talk(one, other)
    assert one.kept == one.edits
    text_of(one.doc).insert(0, "y")
    one.ask()
    # Said, and lost with the socket.
    one.said()
    begin(one, other)
    talk(one, other)
    assert one.kept == one.edits == before + 2
    assert str(text_of(other.doc)) == "yx"


def test_nothing_is_said_before_the_region_has_asked() -> None:
    """Edits and who is here wait for its question, whose answer has the edits."""
    one, other = pair()
    one.begin()
    text_of(one.doc).insert(0, "x")
    one.ask()
    assert one.said() == []
    one.take(create_sync_message(other.doc))
    step_2, present = one.said()
    assert (step_2[:2], present[:1]) == (b"\0\1", b"\1")


def test_many_edits_wait_as_one() -> None:
    """What a slow socket has not taken is bounded by the document."""
    one, other = pair()
    begin(one, other)
    for _ in range(3 * UNSENT_MAX):
        text_of(one.doc).insert(0, "x")
    assert len(one._unsent) <= UNSENT_MAX
    assert talk(one, other) == 1
    assert len(str(text_of(other.doc))) == 3 * UNSENT_MAX


def test_who_is_here() -> None:
    """States come across; what is heard of others is not said again."""
    one, other = pair()
    begin(one, other)
    one.awareness.set_local_state({"name": "Änne"})
    assert talk(one, other) == 1
    assert other.awareness.states[one.doc.client_id] == {"name": "Änne"}
    # Somebody says that this one has left: it is still here, and says so.
    gone = YjsExchange(Doc(client_id=one.doc.client_id), lambda: None)
    for state in ({}, {"a": 1}, None):
        gone.awareness.set_local_state(state)
    update = gone.awareness.encode_awareness_update([one.doc.client_id])
    one.take(create_awareness_message(update))
    assert len(one.said()) == 1


@pytest.mark.parametrize(
    "message",
    [b"", b"\0", b"\0\1", b"\0\2\5ab", b"\0\2\2\xff\xff", b"\1\4\1\1\1", b"\0\0", b"\0\3\0", b"\5"],
)
def test_what_is_no_message_is_refused(message: bytes) -> None:
    """It ends the socket, and not the client."""
    one, _ = pair()
    one.begin()
    with pytest.raises(NotYjs):
        one.take(message)


def test_what_closing_codes_say() -> None:
    """Those of A.8 that refuse are errors with the region's code; the others can be tried again."""
    for code, reason, kind, said in (
        (4400, "invalid", Invalid, "invalid_update"),
        (4413, "too_long", Invalid, "too_large"),
        (1009, None, Invalid, "too_large"),
        (4410, "deleted", Deleted, "deleted"),
        (4429, "too_many", PerdureError, "too_many"),
        (4507, "storage_full", PerdureError, "storage_full"),
    ):
        with pytest.raises(kind) as found:
            ended(code, reason)
        assert found.value.code == said
    for code in (1000, 1006, 1012, 1013, None):
        assert "closed" in ended(code, None)


# Real regions


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """Three regions in processes of their own."""
    ports = free_ports(6)
    async with Cluster(tmp_path, list(zip(ports[::2], ports[1::2], strict=True))) as cluster:
        yield cluster


async def until(live: Live, is_so: Callable[[], bool]) -> None:
    """As the document changes, until it is so."""
    async with asyncio.timeout(WAIT_S):
        while not is_so():
            await live.changed()


async def test_edits_at_both_sides_of_a_death_end_equal(cluster: Cluster) -> None:
    """Two people and an agent edit at two regions; one region is killed while they type. All that
    was typed is there once, at both and over REST; who is here is known again."""
    eu, us, ap = (each.url for each in cluster.regions.values())
    async with AsyncExitStack() as stack:
        first, second = [
            await stack.enter_async_context(Client(urls)) for urls in ([eu, us, ap], [us, ap, eu])
        ]
        ann = await stack.enter_async_context(first.session("s").document("d").live())
        bob = await stack.enter_async_context(second.session("s").document("d").live())
        ann.awareness.set_local_state({"name": "Ann"})
        await until(bob, lambda: {"name": "Ann"} in bob.awareness.states.values())
        for number in range(20):
            text_of(ann.doc).insert(0, f"a{number} ")
            text_of(bob.doc).insert(0, f"b{number} ")
            await asyncio.sleep(0)
        await cluster.kill("eu")
        for number in range(20, 40):
            text_of(ann.doc).insert(0, f"a{number} ")
            text_of(bob.doc).insert(0, f"b{number} ")
            await asyncio.sleep(0)
        ann.doc.get("json", type=Map)["done"] = True
        async with asyncio.timeout(WAIT_S):
            await ann.saved()
            await bob.saved()
        words = {f"{who}{number}" for who in "ab" for number in range(40)}
        for live in (ann, bob):
            await until(live, lambda live=live: len(str(text_of(live.doc)).split()) >= 80)
        texts = [str(text_of(live.doc)) for live in (ann, bob)]
        assert texts[0] == texts[1]
        assert sorted(texts[0].split()) == sorted(words)
        assert (ann.region, ann.moves) == (us, 1)
        assert (bob.region, bob.moves) == (us, 0)
        value = await second.session("s").document("d").read()
        assert (value.text, value.json) == (texts[0], {"done": True})
        bob.awareness.set_local_state({"name": "Bob"})
        await until(ann, lambda: {"name": "Bob"} in ann.awareness.states.values())


async def test_edits_of_a_block_are_kept_at_its_end(cluster: Cluster) -> None:
    """The block ends when a region has them on its disk; a document goes on in the next block."""
    urls = [each.url for each in cluster.regions.values()]
    async with Client(urls) as client:
        document = client.session("s").document("d")
        async with document.live() as live:
            text_of(live.doc).insert(0, "Hello")
        assert (await document.read()).text == "Hello"
        # While nobody is connected.
        text_of(live.doc).insert(5, " world")
        async with document.live(live.doc) as again:
            assert again.doc is live.doc
        assert (await document.read()).text == "Hello world"
        with pytest.raises(RuntimeError, match="mine"):
            async with document.live():
                raise RuntimeError("mine")


async def test_what_no_region_would_take_is_said(cluster: Cluster) -> None:
    """A document beyond its limit, and a session that is gone, raise what the region says."""
    urls = [each.url for each in cluster.regions.values()]
    async with Client(urls) as client:
        session = client.session("s")
        with pytest.raises(Invalid, match="too_large"):
            async with session.document("large").live() as live:
                text_of(live.doc).insert(0, "x" * 600_000)
        async with session.document("d").live() as live:
            text_of(live.doc).insert(0, "x")
            await live.saved()
            await session.delete()
            with pytest.raises(Deleted):
                await until(live, lambda: False)
            await live.aclose()
        with pytest.raises(Deleted):
            async with session.document("d").live():
                raise AssertionError("it has begun")


async def test_no_region_in_reach() -> None:
    """The block does not begin, and says so, after as long as a request is tried."""
    (port,) = free_ports(1)
    async with Client([f"http://127.0.0.1:{port}"], give_up_s=0.2) as client:
        with pytest.raises(Unavailable):
            async with client.session("s").document("d").live():
                raise AssertionError("it has begun")


async def test_a_grant_that_fails_is_heard(cluster: Cluster) -> None:
    """What the caller's own function raises is raised, and not tried for ever."""

    def grant() -> str:
        raise RuntimeError("no grant")

    urls = [each.url for each in cluster.regions.values()]
    async with Client(urls, grant) as client:
        with pytest.raises(RuntimeError, match="no grant"):
            async with client.session("s").document("d").live():
                raise AssertionError("it has begun")
