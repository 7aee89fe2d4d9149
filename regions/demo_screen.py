"""What the demo draws: three readers side by side with the writer, in place on a terminal, and a
line a second where the output is no terminal."""

import shutil
from collections.abc import Iterator
from typing import TextIO
from unicodedata import category, east_asian_width

_REGIONS = 3
_LINES_A_REGION_MAX = 4
_COLUMNS_MIN = 20
_COLUMNS_MAX = 100
_PLAIN_EVERY_DRAWS = 10
_BOLD, _DIM, _NORMAL = "\x1b[1m", "\x1b[2m", "\x1b[0m"


def _width(character: str) -> int:
    if category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if east_asian_width(character) in "WF" else 1


def tail(text: str, columns: int, lines: int) -> list[str]:
    """The end of a text, in exactly so many lines of at most so many columns."""
    if lines == 0:
        return []
    # From the beginning of a line of the text: else what is drawn would move with each character.
    start = text.rfind("\n", 0, max(0, len(text) - columns * lines * 2)) + 1
    out: list[str] = [""]
    used = 0
    for character in text[start:]:
        width = _width(character)
        if character == "\n" or used + width > columns:
            out.append("")
            used = 0
        if character.isprintable() or width == 0:
            out[-1] += character
            used += width
    return ([""] * lines + [line for line in out if line])[-lines:]


def clip(text: str, columns: int) -> str:
    """The beginning of a line, in at most so many columns."""
    used = 0
    for index, character in enumerate(text):
        used += _width(character)
        if used > columns:
            return text[:index]
    return text


class Screen:
    """Draws to a stream. ``written``, ``stable`` and ``writer`` are the agent's."""

    def __init__(self, out: TextIO) -> None:
        self.written = 0
        self.stable = 0
        self.writer = "eu"
        self._out = out
        self._terminal = out.isatty()
        self._picture: list[str] = []
        self._draws = 0

    def say(self, text: str) -> None:
        """A line that stays, above the picture."""
        self._put([f"• {text}", *self._picture])

    def draw(self, readers: dict[str, tuple[list[str], int, str]]) -> None:
        """The state now: for each reader where it is connected, its tokens, its text."""
        self._draws += 1
        if self._terminal:
            picture = list(self._lines(readers))
            self._put(picture)
            self._picture = picture
        elif self._draws % _PLAIN_EVERY_DRAWS == 1:
            counts = ", ".join(f"{name} {held}" for name, (_, held, _) in readers.items())
            self._put([f"  agent at {self.writer}: {self.written} written; readers: {counts}"])

    def _lines(self, readers: dict[str, tuple[list[str], int, str]]) -> Iterator[str]:
        """A picture that no terminal has to wrap or scroll: then it could not be drawn over."""
        size = shutil.get_terminal_size()
        columns = max(_COLUMNS_MIN, min(_COLUMNS_MAX, size.columns) - 1)
        free = (size.lines - 2) // _REGIONS - 1
        lines = max(0, min(_LINES_A_REGION_MAX, free))
        agent = f"agent → {self.writer}   {self.written} written, {self.stable} in two regions"
        yield clip(agent, columns)
        for name, (region, held, text) in readers.items():
            where = region[0] if region else "…"
            moved = f" (reads at {where})" if where != name else ""
            head = clip(f"{name}{moved}  {held} tokens", columns)
            yield f"{_BOLD}{name}{_NORMAL}{head.removeprefix(name)}"
            for line in tail(text, columns - 2, lines):
                yield f"  {_DIM}{line}{_NORMAL}"

    def _put(self, lines: list[str]) -> None:
        """Write lines over the last picture. At once: half a picture would flicker."""
        up = f"\x1b[{len(self._picture)}F" if self._picture else ""
        end_of_line, end_of_screen = ("\x1b[K", "\x1b[J") if self._terminal else ("", "")
        body = "".join(f"{line}{end_of_line}\n" for line in lines)
        self._out.write(up + body + end_of_screen)
        self._out.flush()
