"""``pipe()``: a model's answer as a message; with the vendors' own SDKs, against real regions."""

import asyncio
import http.server
import json
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anthropic
import openai
import pytest

from perdure_client import Cancelled, Deleted, Invalid, VendorError
from perdure_client.pipes import adapter_of, feed

from .conftest import World
from .test_adapters import COMPLETED, RECORDINGS, START, STOP, added, block, chunk, done, recorded

CHAT = [chunk({"content": "Hello "}), chunk({"content": "there"}), chunk({}, "stop")]
MESSAGES = [
    START,
    *block(0, "thinking", {"type": "thinking_delta", "thinking": "hm"}, thinking="", signature=""),
    *block(1, "text", {"type": "text_delta", "text": "Hello there"}, text=""),
    *STOP,
]
AT = {"output_index": 0, "content_index": 0, "item_id": "m"}
RESPONSES = [
    {"type": "response.created", "response": {"id": "r", "output": []}},
    added(0, "message", id="m", role="assistant", content=[], status="in_progress"),
    {"type": "response.output_text.delta", **AT, "delta": "Hello there", "logprobs": []},
    done(0, "message", id="m", role="assistant", content=[], status="completed"),
    COMPLETED,
]
# What the SDKs' helpers need to put an answer together.
MESSAGE = {
    "id": "msg",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [],
    "stop_reason": None,
    "stop_sequence": None,
    "usage": {"input_tokens": 1, "output_tokens": 1},
}
HELPED = [
    {"type": "message_start", "message": MESSAGE},
    *block(0, "text", *({"type": "text_delta", "text": t} for t in ("Hello", " there")), text=""),
    {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": None},
        "usage": {"output_tokens": 2},
    },
    {"type": "message_stop"},
]
CHUNKS = [{**event, "id": "c", "created": 1} for event in CHAT]
STREAMS = {
    "/helped": HELPED,
    "/chunks": CHUNKS,
    "/chat": CHAT,
    "/messages": MESSAGES,
    "/responses": RESPONSES,
}


class Vendor(http.server.BaseHTTPRequestHandler):
    """A vendor's server: the path says which stream it sends."""

    protocol_version = "HTTP/1.0"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        stream, _, rest = self.path.removeprefix("/").partition("/")
        events = STREAMS.get(f"/{stream}") or recorded(RECORDINGS / f"{stream}.sse")
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        for event in events:
            name = f"event: {event['type']}\n" if "type" in event else ""
            self.wfile.write(f"{name}data: {json.dumps(event)}\n\n".encode())
        if "chat/completions" in rest:
            self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def vendor() -> Iterator[str]:
    """Its URL."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Vendor)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


ASK: Any = [{"role": "user", "content": "Hello"}]
NAMES = {
    "openai-chat": ["chat", "openai-chat-short", "deepseek-chat-reasoning"],
    "openai-responses": ["responses", "openai-responses-mcp-tool", "openai-responses-reasoning"],
    "anthropic": ["messages", "anthropic-messages-thinking", "anthropic-messages-web-search"],
}


async def asked(format: str, url: str, *, sync: bool) -> tuple[Any, Any]:
    """A client of the vendor's SDK, and the stream that it gives."""
    client: Any
    if format == "anthropic":
        make = anthropic.Anthropic if sync else anthropic.AsyncAnthropic
        client = make(api_key="k", base_url=url)
        stream = client.messages.create(model="m", max_tokens=9, messages=ASK, stream=True)
    else:
        maker = openai.OpenAI if sync else openai.AsyncOpenAI
        client = maker(api_key="k", base_url=url)
        if format == "openai-chat":
            stream = client.chat.completions.create(model="m", messages=ASK, stream=True)
        else:
            stream = client.responses.create(model="m", input="Hello", stream=True)
    return client, stream if sync else await stream


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize(
    ("format", "name"), [(kind, name) for kind, names in NAMES.items() for name in names]
)
async def test_streams_of_the_sdks(
    world: World, vendor: str, format: str, name: str, sync: bool
) -> None:
    """What the SDKs give is taken as it is, told by its first event, and becomes the same parts as
    the events that were sent; also at the other region."""
    if f"/{name}" not in STREAMS and not RECORDINGS.is_dir():
        pytest.skip(f"the recordings are not at {RECORDINGS}")
    events = STREAMS.get(f"/{name}") or recorded(RECORDINGS / f"{name}.sse")
    client, stream = await asked(format, f"{vendor}/{name}", sync=sync)
    async with world.client() as ours:
        writer = await ours.session("s").open(id="m")
        assert await writer.pipe(stream) == "complete"
        await world.gossip()
        await writer.aclose()
        found = world.us.node.message("s", "m")
    closing = client.close()
    if closing is not None:
        await closing
    adapter = adapter_of(format)  # type: ignore[arg-type]
    sent = [item for event in events for item in feed(adapter, event)]
    sent += adapter.finish()
    assert found["status"] == "complete" and found["length"] == len(sent)
    whole = found["parts"][-1]
    assert (whole["type"], whole["name"]) == ("data", "response")
    text = "".join(i for i in sent if isinstance(i, str))
    assert "".join(part["text"] for part in found["parts"]) == text


async def test_the_helpers_of_the_sdks(world: World, vendor: str) -> None:
    """``stream()`` gives the vendor's events among its own, and each text once."""
    ask: Any = {"model": "m", "messages": ASK}
    async with world.client() as ours, anthropic.AsyncAnthropic(api_key="k") as claude:
        there = claude.with_options(base_url=f"{vendor}/helped")
        async with there.messages.stream(**ask, max_tokens=9) as stream:
            writer = await ours.session("s").open(id="a")
            assert await writer.pipe(stream) == "complete"
            await writer.aclose()
        with (
            anthropic.Anthropic(api_key="k", base_url=f"{vendor}/helped") as client,
            client.messages.stream(**ask, max_tokens=9) as sync_stream,
        ):
            writer = await ours.session("s").open(id="b")
            assert await writer.pipe(sync_stream) == "complete"
            await writer.aclose()
        async with (
            openai.AsyncOpenAI(api_key="k", base_url=f"{vendor}/chunks") as gpt,
            gpt.chat.completions.stream(**ask) as chat_stream,
        ):
            writer = await ours.session("s").open(id="c")
            assert await writer.pipe(chat_stream) == "complete"
            await writer.aclose()
    for name in ("a", "b", "c"):
        found = world.eu.node.message("s", name)
        assert [part["type"] for part in found["parts"]] == ["text", "data"]
        assert found["text"] == "Hello there"


async def test_plain_iterators(world: World) -> None:
    """Of events or of tokens, async or not."""

    async def tokens() -> AsyncIterator[str]:
        for token in ("a", "b"):
            yield token

    async with world.client() as client:
        for number, stream in enumerate((tokens(), ["a", "b"], iter(["a", "b"]))):
            writer = await client.session("s").open(id=f"m{number}")
            assert await writer.pipe(stream) == "complete"
            assert world.eu.node.message("s", f"m{number}")["text"] == "ab"
            await writer.aclose()
        writer = await client.session("s").open(id="events")
        assert await writer.pipe(CHAT, "openai-chat") == "complete"
        assert world.eu.node.message("s", "events")["text"] == "Hello there"
        await writer.aclose()


async def test_an_answer_that_breaks_off_ends_as_failed(world: World) -> None:
    """With what came of it; and what the stream raises is raised."""

    def broken() -> Iterator[dict[str, Any]]:
        yield CHAT[0]
        raise OSError("the line is dead")

    async with world.client() as client:
        writer = await client.session("s").open(id="cut")
        assert await writer.pipe(CHAT[:1]) == "failed"
        await writer.aclose()
        writer = await client.session("s").open(id="raises")
        with pytest.raises(OSError, match="line is dead"):
            await writer.pipe(broken())
        await writer.aclose()
        writer = await client.session("s").open(id="wrong")
        with pytest.raises(VendorError, match="no event"):
            await writer.pipe([1])
        await writer.aclose()
        writer = await client.session("s").open(id="half")
        with pytest.raises(Invalid, match="UTF-8"):
            await writer.pipe(["Hello ", "half of an emoji: \ud83d"])
        await writer.aclose()
    for name in ("cut", "raises", "wrong", "half"):
        assert world.eu.node.message("s", name)["status"] == "failed"
    assert world.eu.node.message("s", "raises")["text"] == "Hello "


async def test_a_cancelled_message_stops_the_model(world: World) -> None:
    """When the regions refuse, the vendor's stream is closed: nobody pays for what nobody reads."""
    closed = asyncio.Event()

    async def endless() -> AsyncIterator[str]:
        try:
            while True:
                yield "more "
                await asyncio.sleep(0)
        finally:
            closed.set()

    async with world.client() as client:
        writer = await client.session("s").open(id="m")
        piping = asyncio.create_task(writer.pipe(endless()))
        while not world.eu.node.message("s", "m")["length"]:
            await asyncio.sleep(0)
        await world.eu.node.cancel("s", "m")
        with pytest.raises(Cancelled):
            await piping
        assert closed.is_set()
        await writer.aclose()
    assert world.eu.node.message("s", "m")["status"] == "cancelled"


async def test_a_plain_iterator_does_not_stop_the_loop(world: World) -> None:
    """It is read in a thread: while it waits, the loop goes on."""
    may_go_on = threading.Event()

    def slow() -> Iterator[str]:
        yield "a"
        assert may_go_on.wait(10)
        yield "b"

    async with world.client() as client:
        writer = await client.session("s").open(id="m")
        piping = asyncio.create_task(writer.pipe(slow()))
        while world.eu.node.message("s", "m")["length"] != 1:
            await asyncio.sleep(0)
        may_go_on.set()
        assert await piping == "complete"
        assert world.eu.node.message("s", "m")["text"] == "ab"
        await writer.aclose()


class Silent:
    """A model that says nothing after its first word, until it is closed."""

    def __init__(self) -> None:
        self.closed = 0

    async def __aiter__(self) -> AsyncIterator[str]:
        yield "a"
        await asyncio.Event().wait()

    async def close(self) -> None:
        self.closed += 1


async def test_what_stops_the_writer_stops_a_silent_model(world: World) -> None:
    """The stream is closed when the regions refuse, the writer is closed or the task is cancelled,
    also while the model says nothing."""
    async with world.client() as client:

        async def begun(name: str, stream: Any) -> tuple[Any, asyncio.Task[str]]:
            writer = await client.session(name).open(id="m")
            piping = asyncio.create_task(writer.pipe(stream))
            while not world.eu.node.message(name, "m")["length"]:
                await asyncio.sleep(0)
            return writer, piping

        streams = [Silent(), Silent(), Silent()]
        writer, piping = await begun("deleted", streams[0])
        await world.eu.node.delete("deleted")
        with pytest.raises(Deleted):
            await piping
        await writer.aclose()
        writer, piping = await begun("closed", streams[1])
        await writer.aclose()
        with pytest.raises(RuntimeError, match="closed"):
            await piping
        writer, piping = await begun("task", streams[2])
        piping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await piping
        assert world.eu.node.message("task", "m")["status"] == "streaming"
        await writer.aclose()
    assert [stream.closed for stream in streams] == [1, 1, 1]


async def test_a_generator_that_a_thread_is_in_is_closed_by_the_thread(world: World) -> None:
    """Nobody else can close it; it must not hold the vendor's connection for ever."""
    inside, may_go_on, closed = threading.Event(), threading.Event(), threading.Event()

    def slow() -> Iterator[str]:
        try:
            inside.set()
            assert may_go_on.wait(10)
            yield "a"
        finally:
            closed.set()

    async with world.client() as client:
        writer = await client.session("s").open(id="m")
        piping = asyncio.create_task(writer.pipe(slow()))
        assert await asyncio.to_thread(inside.wait, 10)
        piping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await piping
        assert not closed.is_set()
        may_go_on.set()
        assert await asyncio.to_thread(closed.wait, 10)
        await writer.aclose()
