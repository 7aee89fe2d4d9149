"""Vendors' streams where they are odd: side by side, cut, repeated, too large, or no stream."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure_client.pipes import EventBytes, Incoming, adapter_of
from perdure_client.vendor_parts import HELD_BYTES_MAX, MARK_BYTES_MAX, Parts, VendorError

from .test_adapters import (
    COMPLETED,
    START,
    STOP,
    added,
    block,
    call,
    chunk,
    done,
    parts,
    through,
    told,
    whole,
)

PIECES = st.lists(st.lists(st.text(max_size=5), max_size=5), min_size=1, max_size=4)


def schedule(data: st.DataObject, pieces: list[list[str]]) -> list[tuple[int, str]]:
    """The pieces of several blocks in some order that keeps each block's own."""
    left = [list(each) for each in pieces]
    order = []
    while any(left):
        index = data.draw(st.sampled_from([i for i, each in enumerate(left) if each]))
        order.append((index, left[index].pop(0)))
    return order


# Side by side


@given(PIECES, st.data())
def test_parallel_calls_of_chat_completions_in_any_order(
    pieces: list[list[str]], data: st.DataObject
) -> None:
    """The text of each part is what its own deltas spell, however they are interleaved."""
    begun: set[int] = set()
    events = []
    for index, piece in schedule(data, pieces):
        fields = {} if index in begun else {"id": f"c{index}", "name": "f"}
        begun.add(index)
        events.append(call(index, piece, **fields))
    found = parts(through([*events, chunk({}, "tool_calls")], "openai-chat")[0])[:-1]
    assert {part["id"]: part["text"] for part in found} == {
        f"c{index}": "".join(pieces[index]) for index in begun
    }


@given(PIECES, st.data())
def test_blocks_and_items_in_any_order(pieces: list[list[str]], data: st.DataObject) -> None:
    """As before, for blocks of Anthropic's and items of OpenAI's responses; parts are in the order
    in which the vendor began them."""
    numbers = range(len(pieces))
    order = schedule(data, pieces)
    ends = data.draw(st.permutations(list(numbers)))
    kind = "response.function_call_arguments.delta"
    anthropic: list[dict[str, Any]] = [block(n, "text")[0] for n in numbers]
    responses = [added(n, "function_call", call_id=f"c{n}", name="f") for n in numbers]
    for index, piece in order:
        delta = {"type": "text_delta", "text": piece}
        anthropic.append({"type": "content_block_delta", "index": index, "delta": delta})
        responses.append({"type": kind, "output_index": index, "delta": piece})
    for n in ends:
        anthropic.append({"type": "content_block_stop", "index": n})
        responses.append(done(n, "function_call", call_id=f"c{n}", name="f"))
    spelled = ["".join(each) for each in pieces]
    assert [text for _, text in told([START, *anthropic, *STOP])] == spelled
    assert [text for _, text in told([*responses, COMPLETED], "openai-responses")] == spelled


def test_a_new_id_is_a_new_call_also_under_the_same_index() -> None:
    """Some servers give every call the index 0, or none; others repeat the id with each piece."""
    events = [
        call(0, '{"a":1}', id="c0", name="f"),
        call(0, '{"b"', id="c1", name="g"),
        call(0, ":2}", id="c1"),
        chunk({"tool_calls": [{"id": "c2", "function": {"name": "h", "arguments": "{}"}}]}),
        chunk({}, "tool_calls"),
    ]
    found = parts(through(events)[0])[:-1]
    assert [(part["id"], part["name"], part["text"]) for part in found] == [
        ("c0", "f", '{"a":1}'),
        ("c1", "g", '{"b":2}'),
        ("c2", "h", "{}"),
    ]


def test_a_call_that_is_named_later_and_one_of_the_old_kind() -> None:
    """The name becomes a field; ``function_call`` is a call without id."""
    events = [
        call(0, "", id="c0"),
        call(0, "{}", name="f"),
        chunk({"function_call": {"name": "g", "arguments": "{"}}),
        chunk({"function_call": {"arguments": "}"}}),
        chunk({}, "function_call"),
    ]
    found = parts(through(events)[0])[:-1]
    assert [(part["name"], part["text"]) for part in found] == [("f", "{}"), ("g", "{}")]


def test_what_waits_is_counted_once() -> None:
    """Blocks that have had their turn make room for others, whatever their characters."""
    held = Parts()
    text = "é" * (HELD_BYTES_MAX // 32)
    for turn in range(40):
        held.open(("live", turn), "text")
        held.open(("held", turn), "text")
        held.text(("held", turn), text)
        held.close(("live", turn))
        held.close(("held", turn))
    sent = held.take()
    assert sum(len(item) for item in sent if isinstance(item, str)) == 40 * len(text)


# Cut, repeated, odd


def test_citations_of_text_in_chat_completions() -> None:
    """They are fields of the text, which goes on; a URL that is cited twice is a source once."""
    cited = [{"type": "url_citation", "url_citation": {"url": "https://a", "title": "A"}}]
    file = {"type": "file_citation", "file": "f"}
    events = [
        chunk({"content": "so", "annotations": cited}),
        chunk({"content": " it is", "annotations": cited}),
        chunk({}, "stop"),
        chunk({"annotations": [file]}),
    ]
    found = parts(through(events)[0])[:-1]
    assert [(part["type"], part["text"]) for part in found] == [
        *(("text", "so it is"), ("source", ""), ("data", "")),
    ]
    assert (found[0]["citations"], found[1]["url"]) == ([*cited, *cited], "https://a")
    assert found[2]["citations"] == [file]


def test_anthropic_says_more_about_its_blocks_and_its_end() -> None:
    """What came with the block's start; usage that is null later; why it stopped; a failed tool."""
    start = {**START, "message": {**START["message"], "usage": {"cache": 5, "output": 1}}}
    events = [
        start,
        *block(0, "thinking", thinking="given", signature="sig"),
        *block(1, "tool_use", id="t", name="click", toolset_name="browser", input={"x": 1}),
        *block(2, "text", text="Hi", citations=[{"url": "https://a"}]),
        *block(3, "mcp_tool_result", tool_use_id="t", content="no", is_error=True),
        *block(4, "web_fetch_tool_result", tool_use_id="u", content={"url": "https://b"}),
        *block(5, "compaction", {"type": "compaction_delta", "content": "short"}, content=None),
        *block(6, "container_upload", file_id="f"),
        {
            "type": "message_delta",
            "delta": {"stop_reason": "refusal", "stop_details": {"category": "bio"}},
            "usage": {"cache": None, "output": 9},
        },
        STOP[1],
    ]
    found = parts(through(events)[0])
    assert found[0] == {"type": "reasoning", "text": "given", "signature": "sig"}
    assert (found[1]["toolset"], found[1]["input"]) == ("browser", {"x": 1})
    assert found[2]["citations"] == [{"url": "https://a"}]
    kinds = [(part["type"], part.get("name") or part.get("url")) for part in found[3:-1]]
    assert kinds == [
        *(("source", "https://a"), ("data", "tool-output"), ("data", "tool-output")),
        *(("source", "https://b"), ("data", "compaction"), ("data", "container_upload")),
    ]
    assert (found[4]["is_error"], found[7]["text"]) == (True, "short")
    assert found[8]["block"] == {"file_id": "f"}
    assert found[-1]["usage"] == {"cache": 5, "output": 9}
    assert (found[-1]["finish_reason"], found[-1]["stop_details"]) == (
        *("refusal", {"category": "bio"}),
    )


def test_what_was_kept_for_a_blocks_end_is_not_lost_when_that_is_cut() -> None:
    """Citations and inputs that came before the stream broke off."""
    cite = {"type": "citations_delta", "citation": {"url": "https://a"}}
    text = block(0, "text", {"type": "text_delta", "text": "so"}, cite)[:-1]
    found = parts(through([START, *text])[0])
    assert found[0]["citations"] == [{"url": "https://a"}]
    use = block(0, "tool_use", id="t", name="f", input={"x": 1})[:-1]
    assert parts(through([START, *use])[0])[0]["input"] == {"x": 1}
    at = {"output_index": 0, "content_index": 0}
    events = [
        added(0, "message", id="m"),
        {"type": "response.output_text.delta", **at, "delta": "so"},
        {"type": "response.output_text.annotation.added", **at, "annotation": {"file": "f"}},
    ]
    assert parts(through(events, "openai-responses")[0])[0]["citations"] == [{"file": "f"}]


def test_reasoning_text_of_responses_is_no_text() -> None:
    """Models that show their reasoning itself send it as content of a reasoning item."""
    at = {"output_index": 0, "content_index": 0, "item_id": "r"}
    summary = {"output_index": 0, "summary_index": 0, "item_id": "r"}
    events = [
        added(0, "reasoning", id="r"),
        {"type": "response.reasoning_text.delta", **at, "delta": "hm"},
        {
            "type": "response.content_part.done",
            **at,
            "part": {"type": "reasoning_text", "text": "hm"},
        },
        {"type": "response.reasoning_summary_text.delta", **summary, "delta": "short"},
        {"type": "response.reasoning_summary_part.done", **summary, "part": {"text": "short"}},
        done(0, "reasoning", id="r", summary=[{"text": "short"}], encrypted_content="e"),
        COMPLETED,
    ]
    items, _ = through(events, "openai-responses")
    found = parts(items)[:-1]
    assert [(part["type"], part["text"]) for part in found] == [
        *(("reasoning", "hm"), ("reasoning", "short")),
    ]
    assert (found[0]["id"], found[1]["encrypted"]) == ("r", "e")


def test_a_responses_item_that_was_not_streamed_is_whole() -> None:
    """Servers that speak the same may send an item at its end only; one that was streamed is not
    repeated."""
    at = {"output_index": 1, "content_index": 0, "item_id": "m"}
    content = [
        {"type": "output_text", "text": "Hello", "annotations": [{"url": "https://a"}]},
        {"type": "refusal", "refusal": "no"},
        {"type": "a later kind", "x": 1},
    ]
    events = [
        done(0, "reasoning", id="r", summary=[{"type": "summary_text", "text": "hm"}]),
        added(1, "message", id="m"),
        {"type": "response.output_text.delta", **at, "delta": "Hello"},
        done(1, "message", id="m", content=content),
        COMPLETED,
    ]
    assert told(events, "openai-responses") == [
        *(("reasoning", "hm"), ("text", "Hello"), ("source", "")),
        *(("refusal", "no"), ("data", "")),
    ]


def test_items_of_responses_that_are_neither_calls_nor_text() -> None:
    """They become data with their fields; sources of a search are sources; what an action is,
    nobody assumes."""
    search = {"type": "search", "query": "q", "sources": [{"type": "url", "url": "https://a"}]}
    events = [
        done(0, "compaction", id="i0", encrypted_content="e"),
        done(1, "custom_tool_call_output", id="i1", call_id="c", output="out"),
        done(2, "web_search_call", id="i2", status="completed", action=search),
        done(3, "image_generation_call", id="i3", action="generate", result="aGk="),
        done(4, "mcp_approval_request", id="i4", name="f", arguments="{}"),
        done(5, "tool_search_call", id="i5", arguments={"q": 1}),
        COMPLETED,
    ]
    found = parts(through(events, "openai-responses")[0])[:-1]
    assert [(part["type"], part.get("name")) for part in found] == [
        *(("data", "compaction"), ("data", "custom_tool_call_output")),
        *(("tool-call", "web_search"), ("source", None), ("tool-call", "image_generation")),
        *(("tool-call", "f"), ("tool-call", "tool_search")),
    ]
    assert (found[0]["encrypted_content"], found[1]["call"]) == ("e", "c")
    assert (found[1]["output"], found[2]["action"]) == ("out", search)
    assert (found[4]["result"], found[5]["text"], found[6]["input"]) == ("aGk=", "{}", {"q": 1})


@pytest.mark.parametrize(
    "error",
    [
        {"type": "error", "code": "rate_limit", "message": "slower"},
        {"type": "error", "error": {"code": "rate_limit", "message": "slower"}},
    ],
)
def test_an_error_of_responses_in_both_of_its_forms(error: dict[str, Any]) -> None:
    """As it is documented, and as it is sent."""
    found = whole([{"type": "response.created", "response": {}}, error])
    assert found["status"] == "failed"
    assert found["error"] == {"code": "rate_limit", "message": "slower"}


@pytest.mark.parametrize(
    ("format", "event"),
    [
        ("openai-chat", {"object": "chat.completion", "choices": [{"message": {"content": "x"}}]}),
        ("openai-chat", {"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]}),
        ("openai-chat", {"choices": [{"text": "x", "finish_reason": "stop"}]}),
        ("openai-chat", {"choices": [{"delta": {"content": [{"text": "x"}]}}]}),
        ("anthropic", {"type": "message", "content": [{"type": "text", "text": "x"}]}),
        ("openai-responses", {"object": "response", "output": []}),
    ],
)
def test_an_answer_that_would_be_lost_is_refused(format: Any, event: dict[str, Any]) -> None:
    """One that is no stream, or whose text is not where the format says, is not taken for a whole
    and empty one."""
    with pytest.raises(VendorError):
        through([event], format)


class Whole:
    """A model of a vendor's SDK, which gives its fields to who iterates over it."""

    def model_dump(self, **_: Any) -> dict[str, Any]:
        return {"object": "response"}

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter([("object", "response")])


async def answering() -> None:
    """What a vendor's method gives before it was awaited."""


@pytest.mark.parametrize(
    ("stream", "error", "says"),
    [
        (contextlib.AsyncExitStack(), TypeError, "enter it first, and pipe what that gives"),
        (None, TypeError, "NoneType is no stream: it cannot be iterated"),
        (Whole(), VendorError, "this is a whole answer and no stream"),
        ([("x", {})], VendorError, "tuple is no event .* pipe the texts"),
        ([{"type": "AIMessageChunk"}], VendorError, "cannot tell the format .* the texts of it"),
    ],
)
async def test_what_is_no_stream_is_told_with_what_to_do(
    stream: Any, error: type[Exception], says: str
) -> None:
    """A manager that was not entered, a coroutine that was not awaited, a whole answer, the events
    of another library."""
    with pytest.raises(error, match=says):
        async for _ in Incoming(stream, None).items():
            pass
    waiting = answering()
    with pytest.raises(TypeError, match="coroutine is no stream: await it first"):
        async for _ in Incoming(waiting, None).items():
            pass
    waiting.close()


def test_unknown_events_and_deltas_are_counted() -> None:
    """And change nothing; pings, and what repeats the rest, are not counted."""
    adapter = adapter_of("anthropic")
    for event in (START, {"type": "ping"}, {"type": "text", "text": "x"}, {"type": "new"}):
        adapter.feed(event)
    adapter.feed(block(0, "text")[0])
    adapter.feed({"type": "content_block_delta", "index": 0, "delta": {"type": "new"}})
    assert adapter.unknown == 2
    responses = adapter_of("openai-responses")
    for name in ("output_text.done", "mcp_call.failed", "web_search_call.searching", "new"):
        responses.feed({"type": f"response.{name}"})
    assert responses.unknown == 1
    chat = adapter_of("openai-chat")
    assert (chat.feed({"object": "new"}), chat.unknown) == ([], 1)


# What no region would take as it is


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"in": value}
    return value


@pytest.mark.parametrize("value", [nested(70), 2**64 - 1, -(2**70), float("inf"), "y" * 300_000])
def test_what_no_mark_takes_travels_as_text(value: Any) -> None:
    """Too deep, too great or too large: in a part that says whose it is, also of a block that had
    to wait; a region takes all that there is."""
    events = [
        added(0, "function_call", call_id="live", name="f"),
        added(1, "mcp_call", id="waits", name="g"),
        done(1, "mcp_call", id="waits", name="g", output=value, status="completed"),
        done(0, "function_call", call_id="live", name="f", arguments="{}"),
        COMPLETED,
    ]
    found = parts(through(events, "openai-responses")[0])
    assert [part.get("id") for part in found[:2]] == ["live", "waits"]
    assert found[1]["status"] == "completed"
    assert (found[2]["type"], found[2]["of"], found[2]["name"]) == ("data", "waits", "output")
    text = found[2]["text"]
    assert text == value if isinstance(value, str) else json.loads(text) == value


def test_long_text_is_cut_into_tokens() -> None:
    """A call whose input came at once may be larger than a token; its text is the same."""
    arguments = "é" * 1_000_000
    events = [done(0, "function_call", call_id="c", name="f", arguments=arguments), COMPLETED]
    items, _ = through(events, "openai-responses")
    assert parts(items)[0]["text"] == arguments
    assert max(len(item.encode()) for item in items if isinstance(item, str)) <= MARK_BYTES_MAX


def test_fields_that_are_the_services_own_get_another_name() -> None:
    """``text``, ``type`` and ``id`` of a part are the service's; an id that is a number is text."""
    events = [done(0, "a later kind", id=7, text="x"), COMPLETED]
    found = parts(through(events, "openai-responses")[0])
    assert (found[0]["id"], found[0]["text"], found[0]["vendor_text"]) == ("7", "", "x")


# Bytes


@given(
    st.lists(st.integers(1, 40), max_size=8),
    st.sampled_from([b"data: {oops\n\n", b"data: [1]\n\n", b""]),
    st.booleans(),
)
def test_any_cut_of_the_bytes_gives_the_same_items(
    cuts: list[int], bad: bytes, lines: bool
) -> None:
    """Also of a stream with something wrong in it: what came before that is there."""
    good = [chunk({"content": text}) for text in ("a", "é", "c")]
    if lines:
        bad = bad.removeprefix(b"data: ")
        raw = "".join(json.dumps(event) + "\n" for event in good).encode()
    else:
        raw = "".join(f"data: {json.dumps(event)}\n\n" for event in good).encode()
    raw += bad + raw
    parser, adapter = EventBytes(), adapter_of("openai-chat")
    items, failed, at = [], False, 0
    try:
        for cut in [*cuts, len(raw)]:
            for event in parser.feed(raw[at : at + cut]):
                items += adapter.feed(event)
            at += cut
    except VendorError:
        failed = True
    text = "".join(item for item in items if isinstance(item, str))
    assert (text, failed) == ("aéc" if bad else "aécaéc", bool(bad))


@pytest.mark.parametrize("first", [b"data: ", b'{"a": "', b"{\n"])
def test_an_event_without_end_is_refused(monkeypatch: Any, first: bytes) -> None:
    """A stream of one endless line, or of one endless object, does not fill the memory."""
    monkeypatch.setattr("perdure_client.pipes.EVENT_CHARS_MAX", 1_000)
    parser = EventBytes()
    pieces = [first, *[b"x" * 100] * 20]
    events = (event for piece in pieces for event in parser.feed(piece))
    with pytest.raises(VendorError, match="1000 characters"):
        list(events)


def test_lines_that_are_cut_and_json_that_is_too_deep() -> None:
    """The last line may be cut; a depth that Python cannot read is refused in words."""
    parser = EventBytes()
    assert list(parser.feed(b'\n \n{"type":"ping"}\n{"type":')) == [{"type": "ping"}]
    assert list(parser.feed(b"", final=True)) == []
    with pytest.raises(VendorError, match="no JSON"):
        list(EventBytes().feed(b"data: " + b"[" * 100_000 + b"\n\n"))
