"""What is in a shared document as JSON, and edits of it that a region makes itself.

An edit is made on a copy, by a client id that nobody else uses, and becomes an update like any
other. Numbers are those of JavaScript: a whole one of up to 53 bits is shown without a fraction.
"""

import base64
import math
from collections.abc import Callable
from typing import Any

from perdure.replication.ids import canonical
from pycrdt import Array, Doc, Map, Text, TransactionEvent

_WHOLE_MAX = 2**53


def value_of(value: Any) -> Any:
    """The JSON value of what is in a document. Bytes are shown as base64, XML as its text, and
    what JSON has no number for as null."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int | float):
        return _number(float(value))
    if isinstance(value, Map):
        return {key: value_of(one) for key, one in value.items()}
    if isinstance(value, dict):
        return {key: value_of(one) for key, one in value.items()}
    if isinstance(value, Array | list):
        return [value_of(one) for one in value]
    if isinstance(value, bytes | bytearray):
        return base64.b64encode(value).decode()
    return str(value)


def _number(value: float) -> int | float | None:
    if not math.isfinite(value):
        return None
    return int(value) if value.is_integer() and abs(value) <= _WHOLE_MAX else value


def _content(value: Any) -> Any:
    """A JSON value as it goes into a document: every number is one of JavaScript, none a BigInt."""
    if isinstance(value, dict):
        return {key: _content(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_content(one) for one in value]
    return float(value) if type(value) is int else value


Change = Callable[[Doc[Any]], None]


def edit(snapshot: bytes, client: int, changes: list[Change]) -> bytes | None:
    """The update that makes these changes to the document of a snapshot; None for none.

    ``client`` must not have written anything that the snapshot does not have.
    """
    doc: Doc[Any] = Doc(client_id=client)
    doc.apply_update(snapshot)
    made: list[bytes] = []

    def note(event: TransactionEvent) -> None:
        made.append(event.update)

    observed = doc.observe(note)
    with doc.transaction():
        for change in changes:
            change(doc)
    doc.unobserve(observed)
    return made[0] if made else None


def replacing(root: str, text: str) -> Change:
    """Make a text this one: what is the same at both ends stays."""

    def change(doc: Doc[Any]) -> None:
        held = doc.get(root, type=Text)
        before = str(held)
        start = _common(before, text)
        rest = min(len(before), len(text)) - start
        end = min(rest, _common(before[::-1], text[::-1]))
        pieces = [content for content, _ in held.diff()]
        if len(before) > start + end:
            first, last = _index(pieces, start), _index(pieces, len(before) - end, before=True)
            del held[first:last]
        else:
            first = _index(pieces, start)
        if inserted := text[start : len(text) - end]:
            held.insert(first, inserted)

    return change


def _index(pieces: list[Any], at: int, *, before: bool = False) -> int:
    """Where in a text a place in its characters is, after what is embedded there, or before it.
    pycrdt counts in bytes of UTF-8, and what is embedded as one."""
    index = 0
    for piece in pieces:
        if before and at == 0:
            break
        if not isinstance(piece, str):
            index += 1
            continue
        if at < len(piece):
            return index + len(piece[:at].encode())
        at -= len(piece)
        index += len(piece.encode())
    return index


def _common(one: str, other: str) -> int:
    """How long the common beginning is."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[:middle] == other[:middle] else (low, middle - 1)
    return low


def appending(root: str, text: str) -> Change:
    """Add to the end of a text."""

    def change(doc: Doc[Any]) -> None:
        held = doc.get(root, type=Text)
        held.insert(len(held), text)

    return change


def merging(root: str, patch: dict[str, Any]) -> Change:
    """A JSON merge patch (RFC 7396). Objects become maps, so that edits of two keys merge."""
    return lambda doc: _merge(doc.get(root, type=Map), patch)


def _merge(held: Map[Any], patch: dict[str, Any]) -> None:
    for key, value in patch.items():
        there = held.get(key)
        if value is None:
            if key in held:
                del held[key]
        elif not isinstance(value, dict):
            if canonical(value_of(there)) != canonical(value_of(value)):
                held[key] = _content(value)
        elif isinstance(there, Map):
            _merge(there, value)
        elif isinstance(there, dict):
            # An object that a client put there as one value.
            merged = _merged(value_of(there), value)
            if canonical(merged) != canonical(value_of(there)):
                held[key] = _content(merged)
        else:
            held[key] = Map()
            _merge(held[key], value)


def _merged(there: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    merged = dict(there)
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            below = merged.get(key)
            merged[key] = _merged(below if isinstance(below, dict) else {}, value)
        else:
            merged[key] = value
    return merged
