"""Server-sent events from bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure_client import sse
from perdure_client.sse import EventParser, ServerEvent

STREAM = (
    ': hello\n\nevent: append\nid: c1\ndata: {"text":"é漢🙂"}\n\n'
    "retry: 5\nid: c2\ndata:two\ndata: lines\n\n:\n\nevent: empty\n\nid\ndata: x\n\n"
)
EVENTS = [
    ServerEvent("append", "c1", '{"text":"é漢🙂"}'),
    ServerEvent("message", "c2", "two\nlines"),
    ServerEvent("message", "", "x"),
]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_wherever_the_bytes_are_cut(newline: str) -> None:
    """The same events for every cut, and byte by byte, with each of the three line ends."""
    whole = STREAM.replace("\n", newline).encode()
    for cut in range(len(whole) + 1):
        parser = EventParser()
        assert parser.feed(whole[:cut]) + parser.feed(whole[cut:]) == EVENTS
    single = EventParser()
    assert [e for n in range(len(whole)) for e in single.feed(whole[n : n + 1])] == EVENTS


def test_a_blank_line_after_a_cut_line_end_counts() -> None:
    """CR LF cut in two, then a line that ends with LF alone."""
    parser = EventParser()
    raw = b"data: 1\r\n\ndata: 2\n\n"
    events = [event for at in range(len(raw)) for event in parser.feed(raw[at : at + 1])]
    assert [event.data for event in events] == ["1", "2"]


@given(st.lists(st.binary(max_size=40), max_size=10))
def test_noise_never_raises(chunks: list[bytes]) -> None:
    """Whatever comes, it is events or it is nothing."""
    parser = EventParser()
    for chunk in chunks:
        parser.feed(chunk)


def test_an_id_holds_until_the_next() -> None:
    """And one with NUL in it is ignored."""
    raw = b"id: a\ndata: 1\n\ndata: 2\n\nid: b\0\ndata: 3\n\n"
    assert [event.id for event in EventParser().feed(raw)] == ["a", "a", "a"]


@pytest.mark.parametrize("raw", [b"data: " + b"a" * 40, b"data: aaaaaaaa\n" * 10])
def test_an_event_without_end_is_refused(monkeypatch: pytest.MonkeyPatch, raw: bytes) -> None:
    """One endless line, or endless lines, are bounded."""
    monkeypatch.setattr(sse, "EVENT_CHARS_MAX", 30)
    with pytest.raises(ValueError, match="too long"):
        EventParser().feed(raw)


def test_a_byte_order_mark_is_no_part_of_the_first_line() -> None:
    """A proxy may add one; cut anywhere, it is left out."""
    raw = b"\xef\xbb\xbfdata: 1\n\n"
    for cut in range(len(raw)):
        parser = EventParser()
        events = parser.feed(raw[:cut]) + parser.feed(raw[cut:])
        assert [event.data for event in events] == ["1"]


def test_the_limit_is_for_one_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep-alives and short events for ever never reach it."""
    monkeypatch.setattr(sse, "EVENT_CHARS_MAX", 30)
    parser = EventParser()
    for _ in range(50):
        assert parser.feed(b": \n\n") == []
        assert len(parser.feed(b"data: 1234567890\n\n")) == 1
