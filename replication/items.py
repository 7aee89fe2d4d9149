"""What a lane is made of: tokens, marks, and the end.

A token is a ``str``. A :class:`Mark` is a JSON object, kept as its canonical text so that equality,
digests and bytes on disk agree everywhere. An :class:`End` is the last entry of a lane.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any, TypeAlias

from perdure.replication.errors import Malformed, Refusal
from perdure.replication.ids import canonical
from perdure.replication.limits import MARK_BYTES_MAX, TOKEN_BYTES_MAX

DIGEST_BYTES = 16
STATUSES = ("streaming", "complete", "failed", "cancelled")
ENDS = STATUSES[1:]
# Set by the service from tokens and marks; a mark that wrote them would falsify the text.
_RESERVED_IN_PART = frozenset({"text"})
_RESERVED_IN_SET = frozenset({"text", "type", "id"})
_TYPE_CHARS_MAX = 64


@dataclass(frozen=True)
class Mark:
    """A JSON object among the tokens; ``text`` is its canonical JSON."""

    text: str

    @cached_property
    def value(self) -> dict[str, Any]:
        """The object. Callers must not change it."""
        value: dict[str, Any] = json.loads(self.text)
        return value


@dataclass(frozen=True)
class End:
    """The end of a lane: ``complete``, ``failed`` or ``cancelled``."""

    status: str


Item: TypeAlias = str | Mark
Entry: TypeAlias = str | Mark | End


def entry_bytes(entry: Entry) -> bytes:
    """The bytes of an entry that digests are made of; different entries have different bytes."""
    if isinstance(entry, str):
        return b"t" + entry.encode()
    if isinstance(entry, Mark):
        return b"m" + entry.text.encode()
    return b"e" + entry.status.encode()


def chain_digest(before: bytes, entry: Entry) -> bytes:
    """The running digest of a lane after one more entry."""
    return blake2b(before + entry_bytes(entry), digest_size=DIGEST_BYTES).digest()


def make_mark(value: dict[str, Any], field: str) -> Mark:
    """A mark from a client's object, or ``Refusal`` that names the field.

    ``{"part": {"id"?, "type", …}}`` or ``{"set": {…}}``, nothing else.
    """
    if len(value) != 1 or not ({"part", "set"} & value.keys()):
        raise Refusal("invalid_body", 'a mark is {"part": {…}} or {"set": {…}}', field=field)
    (kind, content), *_ = value.items()
    if not isinstance(content, dict):
        raise Refusal("invalid_body", f"{kind} must be an object", field=field)
    reserved = (_RESERVED_IN_PART if kind == "part" else _RESERVED_IN_SET) & content.keys()
    if reserved:
        raise Refusal("invalid_body", f"{kind} may not give {sorted(reserved)[0]}", field=field)
    if kind == "part":
        _check_part(content, field)
    text = canonical(value)
    if len(text.encode()) > MARK_BYTES_MAX:
        raise Refusal("too_large", "the mark is too large", field=field, limit_bytes=MARK_BYTES_MAX)
    return Mark(text)


def _check_part(content: dict[str, Any], field: str) -> None:
    kind = content.get("type")
    if not isinstance(kind, str) or not 0 < len(kind) <= _TYPE_CHARS_MAX:
        raise Refusal("invalid_body", "a part needs a type of 1 to 64 characters", field=field)
    if "id" in content and not isinstance(content["id"], str):
        raise Refusal("invalid_body", "the id of a part must be a string", field=field)


def make_items(values: list[Any], field: str = "tokens") -> list[Item]:
    """Items from a client's list; ``Refusal`` ``invalid_body`` or ``too_large``."""
    items: list[Item] = []
    for index, value in enumerate(values):
        if isinstance(value, str):
            # A character takes at most four bytes: most tokens are settled without encoding.
            if len(value) * 4 > TOKEN_BYTES_MAX and len(value.encode()) > TOKEN_BYTES_MAX:
                raise Refusal(
                    "too_large",
                    f"the {'token' if field == 'tokens' else field} is too large",
                    field=f"{field}[{index}]" if field == "tokens" else field,
                    limit_bytes=TOKEN_BYTES_MAX,
                )
            items.append(value)
        elif isinstance(value, dict):
            items.append(make_mark(value, f"{field}[{index}]"))
        else:
            raise Refusal(
                "invalid_body", "an item is a string or an object", field=f"{field}[{index}]"
            )
    return items


def to_wire(items: tuple[Item, ...] | list[Item]) -> list[Any]:
    """Items as JSON values."""
    return [item if isinstance(item, str) else item.value for item in items]


def from_wire(values: Any) -> tuple[Item, ...]:
    """Items of an operation's JSON; ``Malformed`` when they are none."""
    if not isinstance(values, list):
        raise Malformed("items must be a list")
    items: list[Item] = []
    for value in values:
        if isinstance(value, str):
            items.append(value)
        elif isinstance(value, dict):
            items.append(_mark_from_wire(value))
        else:
            raise Malformed("an item must be a string or an object")
    return tuple(items)


def _mark_from_wire(value: dict[str, Any]) -> Mark:
    try:
        return make_mark(value, "mark")
    except Refusal as refusal:
        raise Malformed(str(refusal)) from refusal
