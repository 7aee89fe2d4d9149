"""What the adapters of vendors' streams have in common: parts in order, one open at a time.

A message is one sequence of items, and a part cannot be opened again, while a vendor may stream
several blocks at once (parallel tool calls). So one block is live, and what belongs to another is
held back until the live one has ended. The text of a part is always what its own deltas spell.
"""

import json
from collections.abc import Hashable, Iterator, Mapping
from math import isfinite
from typing import Any, Literal, Protocol

Item = str | dict[str, Any]
End = Literal["complete", "failed", "cancelled"]
# Held back of blocks that are not live; a vendor that sends more of them has failed.
HELD_BYTES_MAX = 8_388_608
# A mark may have 256 KiB (the service's MARK_BYTES_MAX) and JSON of 64 levels, with integers of 64
# bits; what goes beyond that travels as text.
MARK_BYTES_MAX = 262_144
FIELD_DEPTH_MAX = 48
TEXT_CHARS_MAX = 65_536
_INTEGER_MAX = 2**63 - 1
_MARK_OVERHEAD_BYTES = 512
# The service's own words in a part; a vendor's field of such a name gets another.
_RESERVED = frozenset({"id", "text", "type"})
# Longer fields are set, not given with the part.
_SHORT_BYTES_MAX = 8_192


class VendorError(Exception):
    """A vendor's stream is not what its format says."""


class Adapter(Protocol):
    """Turns the events of one vendor's stream into items. Unknown events are counted, and change
    nothing; one that contradicts the format raises ``VendorError``."""

    unknown: int

    @property
    def status(self) -> End:
        """How the message ends, once the stream has ended."""

    def feed(self, event: Mapping[str, Any]) -> list[Item]:
        """The items of one event."""

    def finish(self) -> list[Item]:
        """The stream has ended: what is still held back, and what is known of the whole."""


class Parts:
    """The parts of one message, by the vendor's name for each block (its *key*)."""

    def __init__(self) -> None:
        self._live: Hashable = None
        self._waiting: dict[Hashable, list[Item]] = {}
        self._closed: set[Hashable] = set()
        self._held_bytes = 0
        self._out: list[Item] = []
        self._ids: dict[Hashable, str | None] = {}
        # The id of the part that a ``set`` reaches now.
        self.open_id: str | None = None

    def take(self) -> list[Item]:
        """The items that may go out now."""
        out, self._out = self._out, []
        return out

    @property
    def live(self) -> Hashable:
        """The key whose items go out at once."""
        return self._live

    def open(self, key: Hashable, type_: str, /, **fields: Any) -> None:
        """Begin a part. Without a live one it is live at once."""
        given = {name: value for name, value in fields.items() if value is not None}
        if "id" in given:
            given["id"] = str(given["id"])
        self._ids[key] = given.get("id")
        if self._live is None:
            self._live = key
        else:
            self._waiting.setdefault(key, [])
        self._put(key, {"part": {"type": type_, **given}})

    def text(self, key: Hashable, text: str) -> None:
        """Text of a part; an empty one is nothing. One that no token has room for becomes more."""
        if not isinstance(text, str):
            raise VendorError(f"text is no string, but {type(text).__name__}")
        for start in range(0, len(text), TEXT_CHARS_MAX):
            self._put(key, text[start : start + TEXT_CHARS_MAX])

    def set(self, key: Hashable, /, **fields: Any) -> None:
        """Fields of a part. One that no mark has room for becomes a part of its own, as text."""
        large: dict[str, Any] = {}
        for name, value in fields.items():
            if value is None:
                continue
            field = f"vendor_{name}" if name in _RESERVED else name
            if _fits_mark(value):
                self._put(key, {"set": {field: value}})
            else:
                large[field] = value
        # Last, for what follows them would be added to them.
        for name, value in large.items():
            self._put_large(key, name, value)

    def _put_large(self, key: Hashable, name: str, value: Any) -> None:
        of = self._ids.get(key)
        self._put(key, {"part": {"type": "data", "name": name, **({"of": of} if of else {})}})
        self.text(key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))

    def _put(self, key: Hashable, item: Item) -> None:
        if key == self._live:
            self._send(item)
            return
        if key in self._closed:
            raise VendorError(f"block {key!r} goes on after its end")
        if key not in self._waiting:
            raise VendorError(f"block {key!r} was not begun")
        self._waiting[key].append(item)
        self._held_bytes += _json_bytes(item)
        if self._held_bytes > HELD_BYTES_MAX:
            raise VendorError(
                f"more than {HELD_BYTES_MAX} bytes of blocks that are streamed at once"
            )

    def _send(self, item: Item) -> None:
        if isinstance(item, dict) and "part" in item:
            self.open_id = item["part"].get("id")
        self._out.append(item)

    def close(self, key: Hashable) -> None:
        """The part has ended; the next that waits is live."""
        self._closed.add(key)
        while self._live is not None and self._live in self._closed:
            self._live = next(iter(self._waiting), None)
            if self._live is not None:
                for item in self._waiting.pop(self._live):
                    self._held_bytes -= _json_bytes(item)
                    self._send(item)

    def is_open(self, key: Hashable) -> bool:
        """Whether this part was begun and has not ended."""
        return key not in self._closed and (key == self._live or key in self._waiting)

    def close_all(self) -> None:
        """Every part has ended."""
        while self._live is not None:
            self.close(self._live)

    def reaches(self, id_: str | None) -> bool:
        """Whether the part of this id is the last that was begun, so that a ``set`` reaches it."""
        return id_ is not None and self._live is None and self.open_id == id_

    def once(self, type_: str, /, **fields: Any) -> None:
        """A part that is whole."""
        key = object()
        large = {n: v for n, v in fields.items() if not _is_short(v)}
        small = {n: v for n, v in fields.items() if n not in large}
        self.open(key, type_, **small)
        self.set(key, **large)
        self.close(key)

    def after(self, /, **fields: Any) -> None:
        """Fields of the part that :meth:`reaches` said a ``set`` reaches."""
        key = object()
        self._live, self._ids[key] = key, self.open_id
        self.set(key, **fields)
        self.close(key)


class Whole:
    """What is known of the answer as a whole; it becomes the last part, of type ``data``."""

    def __init__(self) -> None:
        self.fields: dict[str, Any] = {}
        self.error: Any = None
        self.ended = False

    def note(self, /, **fields: Any) -> None:
        """Something that is known now; later notes of a name win."""
        self.fields |= {name: value for name, value in fields.items() if value is not None}

    @property
    def status(self) -> End:
        """``failed`` after an error, and for a stream without its end."""
        return "complete" if self.ended and self.error is None else "failed"

    def write(self, parts: Parts) -> None:
        """The last part."""
        if not self.ended and self.error is None:
            self.error = {"message": "the stream ended before the answer did"}
        if self.error is not None:
            self.fields["error"] = self.error
        parts.once("data", name="response", **self.fields)


def _json_bytes(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False).encode(errors="replace"))


def _is_short(value: Any) -> bool:
    return _fits_mark(value) and _json_bytes(value) <= _SHORT_BYTES_MAX


def _fits_mark(value: Any) -> bool:
    """Whether a mark may hold this value of a vendor's, by its size, its depth and its numbers."""
    return _json_bytes(value) + _MARK_OVERHEAD_BYTES <= MARK_BYTES_MAX and all(
        depth <= FIELD_DEPTH_MAX and _is_portable(at) for depth, at in _walk(value)
    )


def _walk(value: Any) -> Iterator[tuple[int, Any]]:
    """Every value within a value, and how deep it lies."""
    waiting = [(0, value)]
    while waiting:
        depth, at = waiting.pop()
        yield depth, at
        if depth <= FIELD_DEPTH_MAX and isinstance(at, dict | list):
            inner = at.values() if isinstance(at, dict) else at
            waiting += [(depth + 1, each) for each in inner]


def _is_portable(value: Any) -> bool:
    if isinstance(value, int):
        return abs(value) <= _INTEGER_MAX
    return not isinstance(value, float) or isfinite(value)
