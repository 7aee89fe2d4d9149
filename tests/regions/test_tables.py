"""Tables fit the terminal, and nothing in them can control it."""

import pytest
from perdure.regions.tables import (
    bars,
    columns_of,
    cut,
    harmless,
    moment,
    number,
    size,
    span,
    table,
)


def test_a_table() -> None:
    """Texts to the left, numbers to the right; what is not known is a dash."""
    rows = [("a", 7, None, True), ("long", 1_234, 0.5, False)]
    assert table(("NAME", "N", "SHARE", "IS"), rows) == [
        "NAME      N  SHARE  IS",
        "a         7      -  yes",
        "long  1,234    0.5  no",
    ]
    assert table(("A", "B"), []) == ["A  B"]
    assert table(("VERSION", "UP"), [("0.1.0", "1 min 3 s"), ("0.10.0", "9 s")]) == [
        "VERSION         UP",
        "0.1.0    1 min 3 s",
        "0.10.0         9 s",
    ]


@pytest.mark.parametrize("width", [20, 40, 60, 100])
def test_it_fits(width: int) -> None:
    """The widest cells are cut, also those of characters that take two columns."""
    rows = [("漢" * 30, "b" * 50, 12, "é" * 9), ("short", "🙂" * 20, 3, "")]
    lines = table(("FIRST", "SECOND", "N", "X"), rows, width)
    assert all(columns_of(line) <= max(width, 16 + 6) for line in lines)
    assert "…" in lines[1] or width == 100 or len(lines[1]) <= width
    assert "short" in lines[2] or width < 40


def test_nothing_in_a_text_controls_a_terminal() -> None:
    """Neither escapes nor new lines, nor what turns the writing round, nor halves of characters."""
    bad = "a\x1b[31m\r\n\tb\x9b\u202e\u2066\ud800\u2028c\x7f"
    assert harmless(bad) == "a\ufffd[31m\ufffd\ufffd\ufffdb\ufffd\ufffd\ufffd\ufffd\ufffdc\ufffd"
    assert harmless("漢字 é 🙂") == "漢字 é 🙂"
    (_, row) = table(("X",), [(bad,)])
    assert row.isprintable() or "\ufffd" in row


def test_cut() -> None:
    """So that it has room with its ellipsis, never half of a wide character."""
    assert cut("abc", 3) == "abc"
    assert cut("abcd", 3) == "ab…"
    assert cut("漢字漢", 4) == "漢…"
    assert columns_of("e\u0301") == 1


def test_units() -> None:
    """The one that suits; nothing for what is not known."""
    assert [size(n) for n in (None, 0, 1_023, 1_024, 5 * 1_024**3)] == [
        None, "0 B", "1023 B", "1.0 KiB", "5.0 GiB",
    ]  # fmt: skip
    assert [span(s) for s in (None, 0.004, 59, 61, 3_700, 90_000)] == [
        None, "4 ms", "59 s", "1 min 1 s", "1 h 1 min", "1 d 1 h",
    ]  # fmt: skip
    assert [number(n) for n in (0, 0.5, 9.999, 12_345.6)] == ["0", "0.5", "10", "12,346"]
    assert (moment(None), moment(61_000)) == (None, "01-01 00:01:01")


def test_bars() -> None:
    """The newest values, the highest of them at the top; gaps stay gaps."""
    assert bars([9, 0, 4, None, 8], 4) == "▁▄ █"
    assert bars([0, None, 0], 9) == "▁ ▁"
    assert bars([], 9) == ""
