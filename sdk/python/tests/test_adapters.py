"""Vendors' streams as items: what each event becomes, and that nothing is lost or mixed."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from perdure.replication.items import make_items
from perdure.replication.parts import Assembly

from perdure_client.pipes import EventBytes, adapter_of, feed, format_of
from perdure_client.vendor_parts import HELD_BYTES_MAX, Item, Parts, VendorError

RECORDINGS = Path(__file__).parents[4] / "shared" / "data" / "llm-streams"


def through(events: list[dict[str, Any]], format: Any = None) -> tuple[list[Item], str]:
    """All items of a stream, and how the message ends."""
    adapter = adapter_of(format or format_of(events[0]))
    items: list[Item] = []
    for event in events:
        items += feed(adapter, event)
    return items + adapter.finish(), adapter.status


def parts(items: list[Item]) -> list[dict[str, Any]]:
    """The parts as a region would assemble them; it refuses what it would refuse."""
    assembly = Assembly()
    for item in make_items(list(items)):
        assembly.push(item)
    return assembly.parts()


def told(events: list[dict[str, Any]], format: Any = None) -> list[tuple[str, str]]:
    """(type, text) of every part but the last, which is about the whole."""
    return [(part["type"], part["text"]) for part in parts(through(events, format)[0])[:-1]]


def whole(events: list[dict[str, Any]], format: Any = None) -> dict[str, Any]:
    """What is said of the whole, and how it ends."""
    items, status = through(events, format)
    return {**parts(items)[-1], "status": status}


# Recordings of real answers


def spelled(events: list[dict[str, Any]]) -> tuple[str, str]:
    """Text and reasoning as the deltas of a recording spell them, by the vendors' definitions."""
    text, reasoning = "", ""
    for event in events:
        delta = event.get("delta")
        if event.get("type") == "content_block_delta":
            text += delta["text"] if delta["type"] == "text_delta" else ""
            reasoning += delta["thinking"] if delta["type"] == "thinking_delta" else ""
        elif event.get("type") == "response.output_text.delta":
            text += delta
        elif event.get("type") == "response.reasoning_summary_text.delta":
            reasoning += delta
        for choice in event.get("choices", ()):
            text += choice["delta"].get("content") or ""
            reasoning += choice["delta"].get("reasoning_content") or ""
    return text, reasoning


def recorded(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    data = [line.removeprefix("data:").strip() for line in lines if line.startswith("data:")]
    return [json.loads(text) for text in data if text != "[DONE]"]


@pytest.mark.skipif(not RECORDINGS.is_dir(), reason=f"the recordings are not at {RECORDINGS}")
@pytest.mark.parametrize("path", sorted(RECORDINGS.glob("*.sse")), ids=lambda path: path.stem)
def test_a_recorded_answer_is_whole(path: Path) -> None:
    """Text and reasoning are what the recording's own deltas spell, and it ends as complete; from
    its bytes too, however they are cut."""
    events = recorded(path)
    items, status = through(events)
    found = parts(items)
    text = "".join(part["text"] for part in found if part["type"] == "text")
    reasoning = "".join(part["text"] for part in found if part["type"] == "reasoning")
    assert ((text, reasoning), status) == (spelled(events), "complete")
    assert text and found[-1]["usage"] and found[-1]["model"] and found[-1]["finish_reason"]
    raw = path.read_bytes()
    for size in (1_000, 7):
        parser = EventBytes()
        cut = [e for at in range(0, len(raw), size) for e in parser.feed(raw[at : at + size])]
        assert [*cut, *parser.feed(b"", final=True)] == events


# Anthropic


def block(index: int, kind: str, *deltas: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    start = {"type": "content_block_start", "index": index}
    return [
        {**start, "content_block": {"type": kind, **fields}},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


START = {"type": "message_start", "message": {"id": "msg", "model": "m", "usage": {"input": 1}}}
STOP: list[dict[str, Any]] = [
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output": 2}},
    {"type": "message_stop"},
]


def test_anthropic_thinking_tools_and_text() -> None:
    """Each block is a part; signatures and whole inputs are fields; usage is that of both ends."""
    events = [
        START,
        *block(
            0,
            "thinking",
            {"type": "thinking_delta", "thinking": "hm"},
            {"type": "signature_delta", "signature": "sig"},
        ),
        *block(1, "redacted_thinking", data="secret"),
        *block(2, "text", {"type": "text_delta", "text": "Hi"}, text=""),
        *block(
            3,
            "tool_use",
            {"type": "input_json_delta", "partial_json": '{"a":'},
            {"type": "input_json_delta", "partial_json": "1}"},
            id="t1",
            name="f",
            input={},
        ),
        *block(4, "tool_use", id="t2", name="g", input={"given": "at once"}),
        {"type": "a later kind"},
        *STOP,
    ]
    found = parts(through(events)[0])
    assert found[0] == {"type": "reasoning", "text": "hm", "signature": "sig"}
    assert found[1] == {"type": "reasoning", "text": "", "redacted": "secret"}
    assert found[3] == {"type": "tool-call", "id": "t1", "name": "f", "text": '{"a":1}'}
    assert found[4]["input"] == {"given": "at once"}
    assert whole(events) == {
        "type": "data",
        "name": "response",
        "text": "",
        "id": "msg",
        "model": "m",
        "finish_reason": "end_turn",
        "usage": {"input": 1, "output": 2},
        "status": "complete",
    }


def test_anthropic_results_are_added_to_their_call_and_give_sources() -> None:
    """The output is a field of the call where it comes after it; else a part of its own; each URL
    is a source once, also when it is cited later."""
    result = [{"type": "web_search_result", "url": "https://a", "title": "A"}]
    cite = {"type": "citations_delta", "citation": {"url": "https://a", "cited_text": "x"}}
    other = {"type": "citations_delta", "citation": {"url": "https://b", "title": "B"}}
    events = [
        START,
        *block(0, "server_tool_use", id="t", name="web_search", input={}),
        *block(1, "web_search_tool_result", tool_use_id="t", content=result),
        *block(2, "text", {"type": "text_delta", "text": "so"}, cite, other),
        *block(3, "web_search_tool_result", tool_use_id="t", content="late"),
        *STOP,
    ]
    found = parts(through(events)[0])
    assert [part["type"] for part in found[:-1]] == [
        *("tool-call", "source", "text", "source", "data")
    ]
    assert found[0]["output"] == result
    assert (found[1]["url"], found[3]["url"]) == ("https://a", "https://b")
    assert [c["url"] for c in found[2]["citations"]] == ["https://a", "https://b"]
    assert (found[4]["call"], found[4]["output"]) == ("t", "late")


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([START, *block(0, "text", {"type": "text_delta", "text": "x"})], "ended before"),
        ([START, {"type": "error", "error": {"message": "Overloaded"}}], "Overloaded"),
    ],
)
def test_an_answer_that_breaks_off_has_failed(events: list[Any], message: str) -> None:
    """What came is kept, and why it is not whole is said."""
    found = whole(events)
    assert found["status"] == "failed" and message in found["error"]["message"]


# OpenAI's chat completions


def chunk(delta: dict[str, Any], reason: str | None = None, index: int = 0) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "finish_reason": reason}
    return {"object": "chat.completion.chunk", "model": "m", "choices": [choice]}


def call(index: int, arguments: str, **fields: Any) -> dict[str, Any]:
    named = {"name": fields.pop("name")} if "name" in fields else {}
    function = {"arguments": arguments, **named}
    return chunk({"tool_calls": [{"index": index, "function": function, **fields}]})


def test_parallel_calls_are_not_mixed() -> None:
    """Streamed side by side, each is one part with its own arguments."""
    events = [
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": "Let me "}),
        chunk({"content": "look."}),
        call(0, '{"a"', id="c0", name="f"),
        call(1, '{"b"', id="c1", name="g"),
        call(0, ":1}"),
        call(1, ":2}"),
        chunk({}, "tool_calls"),
        {"object": "chat.completion.chunk", "choices": [], "usage": {"total_tokens": 3}},
    ]
    found = parts(through(events)[0])
    assert [(p["type"], p.get("id"), p["text"]) for p in found[:-1]] == [
        ("text", None, "Let me look."),
        ("tool-call", "c0", '{"a":1}'),
        ("tool-call", "c1", '{"b":2}'),
    ]
    assert (found[-1]["usage"], found[-1]["finish_reason"]) == ({"total_tokens": 3}, "tool_calls")


def test_reasoning_text_refusals_and_other_choices() -> None:
    """Reasoning under either name, once; text that alternates with it begins a part each time; only
    the first choice is of this message, and how many others there were is said."""
    events = [
        chunk({"reasoning_content": "a", "reasoning": "a"}),
        chunk({"reasoning": "b"}),
        chunk({"content": "c"}),
        chunk({"content": "not this"}, index=1),
        chunk({"reasoning": "d"}),
        chunk({"refusal": "no"}),
        chunk({"annotations": [{"url_citation": {"url": "https://a", "title": "A"}}]}),
        chunk({}, "stop"),
    ]
    assert told(events) == [
        *(("reasoning", "ab"), ("text", "c"), ("reasoning", "d"), ("refusal", "no")),
        ("source", ""),
    ]
    assert whole(events)["other_choices"] == 1


def test_an_error_in_a_chat_stream_fails_it() -> None:
    """As some servers send it in the middle; and a stream without its end is not complete."""
    assert whole([chunk({"content": "x"}), {"error": {"message": "gone"}}])["status"] == "failed"
    assert whole([chunk({"content": "x"})])["status"] == "failed"


# OpenAI's responses


def item(index: int, kind: str, **fields: Any) -> dict[str, Any]:
    return {"output_index": index, "item": {"type": kind, **fields}}


def added(index: int, kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": "response.output_item.added", **item(index, kind, **fields)}


def done(index: int, kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": "response.output_item.done", **item(index, kind, **fields)}


COMPLETED = {"type": "response.completed", "response": {"status": "completed", "id": "r"}}


def test_responses_calls_text_and_sources() -> None:
    """Side by side too; a call whose arguments came at once; outputs; annotations as sources."""
    arguments = "response.function_call_arguments.delta"
    at = {"output_index": 2, "content_index": 0, "item_id": "m"}
    cited = [{"type": "url_citation", "url": "https://a", "title": "A"}]
    events = [
        {"type": "response.created", "response": {"model": "o"}},
        added(0, "function_call", id="i0", call_id="c0", name="f"),
        {"type": arguments, "output_index": 0, "delta": "{"},
        added(1, "mcp_call", id="i1", name="g", server_label="s"),
        {"type": arguments, "output_index": 0, "delta": "}"},
        done(0, "function_call", id="i0", call_id="c0", name="f", arguments="{}"),
        done(1, "mcp_call", id="i1", name="g", arguments='{"x":1}', output="out"),
        added(2, "message", id="m"),
        {"type": "response.output_text.delta", **at, "delta": "Hello"},
        {"type": "response.content_part.done", **at, "part": {"annotations": cited}},
        done(2, "message", id="m"),
        added(3, "reasoning", id="r"),
        done(3, "reasoning", id="r", encrypted_content="e"),
        COMPLETED,
    ]
    found = parts(through(events)[0])
    assert [(p["type"], p.get("id"), p["text"]) for p in found[:-1]] == [
        ("tool-call", "c0", "{}"),
        ("tool-call", "i1", '{"x":1}'),
        ("text", None, "Hello"),
        ("source", None, ""),
        ("reasoning", "r", ""),
    ]
    assert (found[1]["output"], found[1]["server"]) == ("out", "s")
    assert (found[2]["citations"], found[4]["encrypted"]) == (cited, "e")
    assert whole(events)["finish_reason"] == "completed"


@pytest.mark.parametrize(
    ("last", "status", "reason"),
    [
        ({"type": "response.failed", "response": {"error": {"message": "x"}}}, "failed", None),
        ({"type": "error", "message": "x"}, "failed", None),
        (
            {
                "type": "response.incomplete",
                "response": {"incomplete_details": {"reason": "max_output_tokens"}},
            },
            "complete",
            "max_output_tokens",
        ),
    ],
)
def test_how_a_response_may_end(last: dict[str, Any], status: str, reason: str | None) -> None:
    """Failed with its error; an answer that was cut by its limit is complete and says so."""
    found = whole([{"type": "response.created", "response": {}}, last])
    assert (found["status"], found.get("finish_reason")) == (status, reason)


# What they have in common


def test_what_is_too_large_for_a_mark_travels_as_text() -> None:
    """In a part of its own, which says whose it is; nothing is lost."""
    output = "y" * 300_000
    events = [
        added(0, "mcp_call", id="i", name="g"),
        done(0, "mcp_call", id="i", name="g", output=output),
        COMPLETED,
    ]
    found = parts(through(events, "openai-responses")[0])
    assert (found[1]["of"], found[1]["name"], found[1]["text"]) == ("i", "output", output)


def test_what_waits_has_a_limit() -> None:
    """A vendor that never ends its first block does not fill the memory."""
    held = Parts()
    held.open("a", "text")
    held.open("b", "text")
    for _ in range(8):
        held.text("b", "x" * (HELD_BYTES_MAX // 9))
    with pytest.raises(VendorError, match=str(HELD_BYTES_MAX)):
        held.text("b", "x" * (HELD_BYTES_MAX // 4))


@pytest.mark.parametrize(
    "event",
    [
        {"type": "content_block_delta", "index": 7, "delta": {"type": "text_delta", "text": "x"}},
        {"type": "content_block_start"},
        {"type": "content_block_delta", "index": 0},
        {"type": "response.output_item.done", "output_index": 0},
        {"choices": [{"delta": {"tool_calls": [1]}}]},
    ],
)
def test_an_event_that_contradicts_its_format_is_refused(event: dict[str, Any]) -> None:
    """In words, and not by whatever happens first."""
    with pytest.raises(VendorError):
        through([event])


def test_a_format_that_cannot_be_told_is_asked_for() -> None:
    """With what there is to choose from."""
    with pytest.raises(VendorError, match="openai-chat"):
        format_of({"hello": 1})
    with pytest.raises(ValueError, match="no format"):
        adapter_of("grok")  # type: ignore[arg-type]


# Bytes

STREAM = [{"type": "ping"}, {"type": "x", "text": "é\n"}, {"choices": []}]


def as_sse(newline: str) -> bytes:
    lines: list[str] = [": hello", ""]
    for event in STREAM:
        lines += ["event: e", "data:" + json.dumps(event, ensure_ascii=False), ""]
    return newline.join([*lines, "data: [DONE]", "", ""]).encode()


@given(
    st.sampled_from(["\n", "\r\n", "\r", "json"]),
    st.lists(st.integers(1, 200), max_size=8),
    st.booleans(),
)
def test_any_cut_of_the_bytes_gives_the_same_events(
    newline: str, cuts: list[int], mark: bool
) -> None:
    """As server-sent events with any line ends, and as JSON lines; with a byte order mark."""
    raw = as_sse(newline)
    if newline == "json":
        raw = "".join(json.dumps(event) + "\n" for event in STREAM).encode()
    raw = (b"\xef\xbb\xbf" if mark else b"") + raw
    parser = EventBytes()
    found, at = [], 0
    for cut in cuts:
        found += parser.feed(raw[at : at + cut])
        at += cut
    assert [*found, *parser.feed(raw[at:]), *parser.feed(b"", final=True)] == STREAM


def test_a_body_that_is_no_stream_is_one_event() -> None:
    """As vendors refuse: JSON over many lines."""
    parser = EventBytes()
    body = json.dumps({"error": {"message": "no"}}, indent=2).encode()
    assert list(parser.feed(body[:9])) == []
    found = [*parser.feed(body[9:]), *parser.feed(b"", final=True)]
    assert found == [{"error": {"message": "no"}}]


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (b"data: {not json}\n\n", VendorError),
        (b"data: [1]\n\n", VendorError),
        (b"data: \xff\n\n", UnicodeDecodeError),
    ],
)
def test_bytes_that_are_no_stream_are_refused(raw: bytes, error: type[Exception]) -> None:
    """Not JSON, not an object, not UTF-8."""
    with pytest.raises(error):
        list(EventBytes().feed(raw))


def test_an_event_that_the_end_cuts_is_left_out() -> None:
    """The adapter then says that the stream has ended early."""
    parser = EventBytes()
    assert list(parser.feed(b'data: {"type":"ping"}\n\ndata: {"type":')) == [{"type": "ping"}]
    assert list(parser.feed(b"", final=True)) == []
