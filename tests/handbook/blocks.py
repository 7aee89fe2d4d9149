"""The blocks of code in the texts, and what each says of how it is tried.

A comment before a block says it; a block of a language that can run must have one:

    <!-- run -->                           it is run, in the order of the text
    <!-- run, prints "text" -->            and this is in what it prints
    <!-- run as name.py meanwhile -->      it is saved, and goes on until the text is over
    <!-- saved as name.py -->              it is saved, and another block runs it
    <!-- run by tests/x.py::test_y -->     that test runs it, or the same
    <!-- not run: needs root -->           why not
    <!-- not run below: needs root -->     the same for all that follow and say nothing; likewise
    <!-- run below by tests/x.py::test_y -->
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

CAN_RUN = {"sh", "bash", "console", "python", "py", "js", "mjs", "ts", "jsx", "tsx", "html"}
WORDS = re.compile(
    r"""(?: run (?:\ as\ (?P<name>[\w.-]+))? (?P<meanwhile>\ meanwhile)?
            (?:,\ prints\ "(?P<prints>[^"]+)")?
          | saved\ as\ (?P<saved>[\w.-]+)
          | run(?P<by_below>\ below)?\ by\ (?P<test>[\w/.-]+\.py::\w+)
          | not\ run(?P<below>\ below)?:\ (?P<why>.*\S)
        )$""",
    re.VERBOSE | re.DOTALL,
)


class How(NamedTuple):
    """How a block is tried."""

    name: str | None = None
    meanwhile: bool = False
    prints: str | None = None
    saved: bool = False
    test: str | None = None
    why_not: str | None = None

    @property
    def is_run(self) -> bool:
        """Whether it is run as a part of its text."""
        return self.test is None and self.why_not is None and not self.saved


class Block(NamedTuple):
    """A block, and its line in the text; ``how`` is None where nothing is said."""

    line: int
    language: str
    text: str
    how: How | None


class Unclear(ValueError):
    """A comment that says of a block what nobody understands."""


def understood(comment: str, line: int) -> tuple[How | None, bool]:
    """What a comment says of the next block, if it is about that; and whether of all that follow.
    Raises :class:`Unclear`."""
    if not re.match(r"(run|saved as|not run)\b", comment):
        return None, False
    words = WORDS.match(comment)
    if words is None:
        raise Unclear(f"line {line}: {comment!r} is none of those in tests/handbook/blocks.py")
    said = words.groupdict()
    how = How(
        said["name"] or said["saved"],
        bool(said["meanwhile"]),
        said["prints"],
        bool(said["saved"]),
        said["test"],
        said["why"],
    )
    if how.meanwhile and how.name is None:
        raise Unclear(f"line {line}: what goes on meanwhile needs a name to be saved as")
    return how, bool(said["below"] or said["by_below"])


def blocks(text: str) -> Iterator[Block]:
    """The blocks of a text that can run. Raises :class:`Unclear`."""
    below: How | None = None
    waiting: How | None = None
    lines = iter(enumerate(text.splitlines(), 1))
    for number, line in lines:
        bare = line.strip()
        if comment := re.fullmatch(r"<!-- (.*?) -->", bare):
            how, is_below = understood(comment[1], number)
            below, waiting = (how, None) if is_below else (below, how)
        elif fence := re.fullmatch(r"(`{3,})(\w*).*", bare):
            indent = len(line) - len(line.lstrip())
            inside = []
            for _, within in lines:
                if within.strip() == fence[1]:
                    break
                inside.append(within[indent:] if within[:indent].isspace() else within)
            if fence[2] in CAN_RUN:
                yield Block(number, fence[2], "\n".join(inside) + "\n", waiting or below)
            waiting = None
        elif bare:
            waiting = None


def unsaid(text: str) -> list[str]:
    """What is wrong with a text: blocks that neither run nor say why not."""
    try:
        return [
            f"line {block.line}: a block of {block.language} without a word on how it is tried"
            for block in blocks(text)
            if block.how is None
        ]
    except Unclear as error:
        return [str(error)]
