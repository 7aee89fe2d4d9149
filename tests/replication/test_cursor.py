"""Cursors: bounded, canonical, and nothing else decodes."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from perdure.replication.cursor import Entry, Position, decode, encode
from perdure.replication.errors import Refusal
from perdure.replication.items import STATUSES
from perdure.replication.limits import CURSOR_CHARS_MAX, CURSOR_ENTRIES_HELD_MAX

u32 = st.integers(0, 2**32 - 1)
cursor_entries = st.builds(
    Entry,
    u32,
    u32,
    st.integers(0, 2**31 - 1),
    st.sampled_from(STATUSES),
    st.integers(0, 2_000_000_000),
)
positions = st.builds(
    Position,
    st.integers(0, 2**16 - 1),
    st.lists(cursor_entries, max_size=CURSOR_ENTRIES_HELD_MAX, unique_by=lambda e: e.slot).map(
        tuple
    ),
    st.integers(0, 2**40),
    st.integers(0, 2**40 - 1),
)


@given(positions)
def test_round_trip(position: Position) -> None:
    """A position survives its text, and the text is in the alphabet and within the limit."""
    text = encode(position)
    assert decode(text) == position
    assert len(text) <= CURSOR_CHARS_MAX
    assert text.replace("-", "").replace("_", "").isalnum()


def test_size_with_three_messages_in_flight(capsys: pytest.CaptureFixture[str]) -> None:
    """At most 64 characters with three messages in flight, however long the session is."""
    entries = tuple(Entry(2**32 - 1 - n, 2**32 - 1, 31, "cancelled", 2_000_000) for n in range(3))
    text = encode(Position(2**16 - 1, entries, 2_000_000, 2**40 - 1))
    largest = tuple(
        Entry(2**32 - 1 - n, 2**32 - 1, 2**31 - 1, "failed", 2_000_000_000)
        for n in range(CURSOR_ENTRIES_HELD_MAX)
    )
    most = encode(Position(2**16 - 1, largest, 2**40, 2**40 - 1))
    with capsys.disabled():
        print(f"\ncursor: {len(text)} characters with 3 messages in flight, {len(most)} at most")
    assert len(text) <= 64
    assert len(most) <= CURSOR_CHARS_MAX


@pytest.mark.failure("X6")
@given(st.one_of(st.text(max_size=80), st.binary(max_size=60).map(
    lambda raw: base64.urlsafe_b64encode(raw).rstrip(b"=").decode())))  # fmt: skip
def test_noise_is_refused_or_canonical(text: str) -> None:
    """What decodes is exactly what would be encoded; everything else is ``invalid_cursor``."""
    try:
        position = decode(text)
    except Refusal as refusal:
        code = refusal.code
    else:
        code = "invalid_cursor" if encode(position) == text else "not canonical"
    assert code == "invalid_cursor"


@pytest.mark.failure("X6")
def test_oversized_is_refused() -> None:
    """A long text is refused before it is looked at."""
    with pytest.raises(Refusal, match="invalid_cursor"):
        decode("A" * (CURSOR_CHARS_MAX + 1))
