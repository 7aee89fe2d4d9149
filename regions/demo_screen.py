"""What the demo draws: three readers side by side with the writer, in place on a terminal, and a
line a second where the output is no terminal."""

import shutil
from typing import TextIO
from unicodedata import category, east_asian_width

_LINES_A_REGION = 4
_PLAIN_EVERY_DRAWS = 10


def _width(character: str) -> int:
    if category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if east_asian_width(character) in "WF" else 1


def tail(text: str, columns: int, lines: int) -> list[str]:
    """The end of a text, in lines of so many columns."""
    out: list[str] = [""]
    used = 0
    for character in text[-columns * lines * 2 :]:
        width = _width(character)
        if character == "\n" or used + width > columns:
            out.append("")
            used = 0
        if character.isprintable() or width == 0:
            out[-1] += character
            used += width
    return ([""] * lines + [line for line in out if line])[-lines:]


class Screen:
    """Draws to a stream. ``written``, ``stable`` and ``writer`` are the agent's."""

    def __init__(self, out: TextIO) -> None:
        self.written = 0
        self.stable = 0
        self.writer = "eu"
        self._out = out
        self._terminal = out.isatty()
        self._drawn = 0
        self._draws = 0

    def say(self, text: str) -> None:
        """A line that stays."""
        self._erase()
        print(f"• {text}", file=self._out, flush=True)

    def _erase(self) -> None:
        if self._drawn:
            print(f"\x1b[{self._drawn}F\x1b[J", end="", file=self._out)
            self._drawn = 0

    def draw(self, readers: dict[str, tuple[list[str], int, str]]) -> None:
        """The state now: for each reader where it is connected, its tokens, its text."""
        self._draws += 1
        if not self._terminal:
            if self._draws % _PLAIN_EVERY_DRAWS == 1:
                counts = ", ".join(f"{name} {held}" for name, (_, held, _) in readers.items())
                self._line(f"  agent at {self.writer}: {self.written} written; readers: {counts}")
            return
        columns = min(100, shutil.get_terminal_size().columns) - 4
        self._erase()
        lines = [f"agent → {self.writer}   {self.written} written, {self.stable} in two regions"]
        for name, (region, held, text) in readers.items():
            where = region[0] if region else "…"
            moved = f" (reads at {where})" if where != name else ""
            lines.append(f"\x1b[1m{name}\x1b[0m{moved}  {held} tokens")
            lines += [f"  \x1b[2m{line}\x1b[0m" for line in tail(text, columns, _LINES_A_REGION)]
        for line in lines:
            self._line(line)
        self._drawn = len(lines)

    def _line(self, text: str) -> None:
        print(text, file=self._out, flush=True)

    def close(self, tokens: int) -> None:
        """Leave the last picture standing."""
        self._drawn = 0
        self.written = tokens
