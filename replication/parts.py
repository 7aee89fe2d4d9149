"""Items → parts and text, and the ``append`` events that carry them.

A ``{"part": …}`` mark opens a part; tokens add to the text of the open part; ``{"set": …}`` adds
fields to it. Without a part, the first token or set opens a ``text`` part. Everything here grows at
its end only; when shown items are replaced, the assembly is built anew.
"""

from bisect import bisect_right
from collections.abc import Iterator
from typing import Any, NamedTuple

from perdure.replication.ids import canonical
from perdure.replication.items import Item, Mark
from perdure.replication.limits import MARK_BYTES_MAX

# Of a text that is cut into tokens: at most four bytes each.
_TOKEN_CHARS = 65_536


class Segment(NamedTuple):
    """A run of items that one ``append`` event carries: all tokens, or all marks, of one part."""

    part: int
    start: int
    stop: int
    text: str | None
    marks: list[dict[str, Any]] | None


class _Part:
    """One part: its fields, and its text in chunks that are joined when somebody reads."""

    __slots__ = ("chunks", "fields", "start")

    def __init__(self, fields: dict[str, Any], start: int) -> None:
        self.fields = fields
        self.chunks: list[str] = []
        self.start = start

    def text(self) -> str:
        if len(self.chunks) > 1:
            self.chunks = ["".join(self.chunks)]
        return self.chunks[0] if self.chunks else ""


class Assembly:
    """The shown items of a message as parts."""

    def __init__(self) -> None:
        self.length = 0
        self._parts: list[_Part] = []

    def push(self, item: Item) -> None:
        """Add the next shown item."""
        if isinstance(item, str):
            self._open().chunks.append(item)
        elif "part" in item.value:
            self._parts.append(_Part(dict(item.value["part"]), self.length))
        else:
            self._open().fields.update(item.value["set"])
        self.length += 1

    def _open(self) -> _Part:
        if not self._parts:
            self._parts.append(_Part({"type": "text"}, self.length))
        return self._parts[-1]

    def parts(self) -> list[dict[str, Any]]:
        """The parts as JSON values, each with its ``text``."""
        return [{**part.fields, "text": part.text()} for part in self._parts]

    def text(self) -> str:
        """The text of the parts of type ``text``, joined."""
        return "".join(part.text() for part in self._parts if part.fields["type"] == "text")

    def segments(self, items: list[Item], start: int) -> Iterator[Segment]:
        """Cut ``items``, which stand at ``start`` of the shown ones, into ``append`` segments.

        The items must have been pushed already. A segment never spans parts.
        """
        at = start
        while at < start + len(items):
            part = max(0, bisect_right([p.start for p in self._parts], at) - 1)
            last = self._parts[part + 1].start if part + 1 < len(self._parts) else self.length
            stop = at + 1
            marks = isinstance(items[at - start], Mark)
            end = min(last, start + len(items))
            while stop < end and isinstance(items[stop - start], Mark) == marks:
                stop += 1
            run = items[at - start : stop - start]
            if marks:
                values = [item.value for item in run if isinstance(item, Mark)]
                yield Segment(part, at, stop, None, values)
            else:
                yield Segment(part, at, stop, "".join(i for i in run if isinstance(i, str)), None)
            at = stop


def items_of(parts: list[dict[str, Any]]) -> Iterator[str | dict[str, Any]]:
    """Tokens and marks, as clients append them, that show these parts."""
    for number, part in enumerate(parts):
        text = part["text"]
        fields = {name: value for name, value in part.items() if name != "text"}
        if number or not text or fields != {"type": "text"}:
            # Longer than a mark may be, it came from several.
            is_long = len(canonical(fields).encode()) > MARK_BYTES_MAX // 2
            named = {name: fields[name] for name in ("type", "id") if name in fields}
            yield {"part": named if is_long else fields}
            if is_long:
                rest = fields.keys() - named.keys()
                yield from ({"set": {name: fields[name]}} for name in sorted(rest))
        for start in range(0, len(text), _TOKEN_CHARS):
            yield text[start : start + _TOKEN_CHARS]
