"""Tables that fit a terminal, of texts that cannot control it."""

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from unicodedata import category, combining, east_asian_width

CELL_COLUMNS_MIN = 4
_BARS = "▁▂▃▄▅▆▇█"
_GAP = "  "
# A number, with a unit or two; a version is none.
_NUMBER = re.compile(r"-?\d[\d,]*(\.\d+)?( [A-Za-z]+( \d+ [a-z]+)?)?")
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def harmless(text: object) -> str:
    """On one line, without anything that controls a terminal or turns the writing round."""
    return "".join(
        "\ufffd" if category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") else character
        for character in str(text)
    )


def columns_of(text: str) -> int:
    """How many columns of a terminal it takes."""
    return sum(
        0 if combining(character) else 2 if east_asian_width(character) in "WF" else 1
        for character in text
    )


def cut(text: str, columns: int) -> str:
    """So much of it as has room, with an ellipsis where something is missing."""
    if columns_of(text) <= columns:
        return text
    kept, used = [], 1
    for character in text:
        used += columns_of(character)
        if used > columns:
            break
        kept.append(character)
    return "".join(kept) + "…"


def table(
    head: Sequence[str], rows: Iterable[Sequence[object]], width: int | None = None
) -> list[str]:
    """The lines of a table. ``width``: the columns that there are; the widest cells are cut until
    it fits. Numbers stand to the right."""
    cells = [[_shown(cell) for cell in row] for row in rows]
    is_number = [
        bool(cells) and all(_is_number(row[at]) or row[at] == "-" for row in cells)
        for at in range(len(head))
    ]
    every = [list(head), *cells]
    widths = [max(columns_of(row[at]) for row in every) for at in range(len(head))]
    if width is not None:
        _fit(widths, width)
    lines = []
    for row in every:
        parts = []
        for cell, columns, right in zip(row, widths, is_number, strict=True):
            text = cut(cell, columns)
            space = " " * (columns - columns_of(text))
            parts.append(space + text if right else text + space)
        lines.append(_GAP.join(parts).rstrip())
    return lines


def _fit(widths: list[int], width: int) -> None:
    """Take from the widest, one column after the other."""
    over = sum(widths) + len(_GAP) * (len(widths) - 1) - width
    while over > 0 and max(widths) > CELL_COLUMNS_MIN:
        widths[widths.index(max(widths))] -= 1
        over -= 1


def _shown(cell: object) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, float):
        return number(cell)
    if isinstance(cell, int):
        return f"{cell:,}"
    return harmless(cell)


def _is_number(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None


def number(value: float) -> str:
    """With as many digits as tell something."""
    if value and abs(value) < 10:
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return f"{value:,.0f}"


def size(count: int | None) -> str | None:
    """Bytes, in the unit that suits them."""
    if count is None:
        return None
    value, at = float(count), 0
    while abs(value) >= 1024 and at < len(_UNITS) - 1:
        value, at = value / 1024, at + 1
    return f"{value:.0f} {_UNITS[at]}" if at == 0 else f"{value:.1f} {_UNITS[at]}"


def span(seconds: float | None) -> str | None:
    """A time, in the two units that suit it."""
    if seconds is None:
        return None
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3_600:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    if seconds < 86_400:
        return f"{seconds // 3_600:.0f} h {seconds % 3_600 // 60:.0f} min"
    return f"{seconds // 86_400:.0f} d {seconds % 86_400 // 3_600:.0f} h"


def moment(at_ms: float | None) -> str | None:
    """A time of a clock, in UTC."""
    return None if at_ms is None else f"{datetime.fromtimestamp(at_ms / 1000, UTC):%m-%d %H:%M:%S}"


def bars(values: Sequence[float | None], columns: int) -> str:
    """The newest of the values as a line of bars, the highest of them for the greatest."""
    newest = list(values)[-columns:]
    most = max((value for value in newest if value is not None), default=0.0)
    if most <= 0:
        return "".join(" " if value is None else _BARS[0] for value in newest)
    return "".join(
        " " if value is None else _BARS[min(7, int(max(0.0, value) / most * 7.999))]
        for value in newest
    )
