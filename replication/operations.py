"""The replicated operations and their bytes (``docs/PROTOCOL.md`` B.2).

Rule of this file: an operation is immutable, names itself completely, and its bytes are canonical;
the same operation made in two regions has the same bytes. What an operation *means* is said in
``message.py`` and ``session.py``.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from perdure.replication.errors import Malformed
from perdure.replication.ids import LaneKey, canonical, digest, is_id, parse_epoch
from perdure.replication.items import (
    DIGEST_BYTES,
    ENDS,
    End,
    Entry,
    Item,
    entry_bytes,
    from_wire,
    to_wire,
)

_HLC_MAX = 2**64 - 1


@dataclass(frozen=True)
class Header:
    """What a message is, as its author gave it. ``entries`` are those of a complete message."""

    role: str
    author: str | None
    created: int
    lane: LaneKey
    metadata: str
    replaces: str | None
    entries: tuple[Entry, ...] = ()
    identity: bytes = field(init=False)

    def __post_init__(self) -> None:
        """``identity`` leaves ``created`` out: two regions that carry out the same open give it
        different times, and it is still the same message."""
        parts: tuple[str | bytes, ...] = (
            self.role,
            canonical([self.author, self.replaces]),
            str(self.lane),
            self.metadata,
            *(entry_bytes(entry) for entry in self.entries),
        )
        object.__setattr__(self, "identity", digest(DIGEST_BYTES, *parts))


@dataclass(frozen=True)
class Create:
    """A session was created, with metadata (canonical JSON)."""

    session: str
    hlc: int
    region: str
    metadata: str


@dataclass(frozen=True)
class Open:
    """A message was opened, or sent complete."""

    session: str
    message: str
    header: Header


@dataclass(frozen=True)
class Items:
    """Entries of a lane from ``seq`` on; ``before`` is the lane's digest before the first."""

    session: str
    message: str
    lane: LaneKey
    seq: int
    before: bytes
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Claim:
    """A producer took the message over: ``lane`` continues ``base`` items of ``previous``.

    ``root`` is the lane of the header that was claimed; ``tag`` names the claim itself.
    """

    session: str
    message: str
    lane: LaneKey
    tag: int
    root: LaneKey
    previous: LaneKey | None
    base: int


@dataclass(frozen=True)
class Cancel:
    """Nothing more is admitted from this lane."""

    session: str
    message: str
    lane: LaneKey


@dataclass(frozen=True)
class Delete:
    """The message, or the whole session (``message`` None), is gone for ever."""

    session: str
    message: str | None


@dataclass(frozen=True)
class Metadata:
    """Values of top-level keys of the session's metadata (canonical JSON object)."""

    session: str
    hlc: int
    region: str
    values: str


Operation: TypeAlias = Create | Open | Items | Claim | Cancel | Delete | Metadata


def encode(operation: Operation) -> bytes:
    """The canonical bytes of an operation."""
    return canonical(_fields(operation)).encode()


def _fields(op: Operation) -> list[Any]:
    match op:
        case Items():
            items, end = _split(op.entries)
            wire = [str(op.lane.epoch), op.seq, op.before.hex(), items, end]
            return ["items", op.session, op.message, op.lane.producer, *wire]
        case Open():
            return ["open", op.session, op.message, _header_fields(op.header)]
        case Claim():
            previous = _lane_fields(op.previous) if op.previous else [None, None]
            wire = [f"{op.tag:016x}", *_lane_fields(op.root), *previous, op.base]
            return ["claim", op.session, op.message, *_lane_fields(op.lane), *wire]
        case Cancel():
            return ["cancel", op.session, op.message, *_lane_fields(op.lane)]
        case Delete():
            return ["delete", op.session, op.message]
        case Metadata():
            return ["metadata", op.session, op.hlc, op.region, json.loads(op.values)]
        case Create():
            return ["create", op.session, op.hlc, op.region, json.loads(op.metadata)]


def _lane_fields(lane: LaneKey) -> list[str]:
    return [lane.producer, str(lane.epoch)]


def _split(entries: tuple[Entry, ...]) -> tuple[list[Any], str | None]:
    if entries and isinstance(last := entries[-1], End):
        return to_wire(_items(entries[:-1])), last.status
    return to_wire(_items(entries)), None


def _items(entries: tuple[Entry, ...]) -> tuple[Item, ...]:
    return tuple(entry for entry in entries if not isinstance(entry, End))


def _header_fields(header: Header) -> dict[str, Any]:
    items, end = _split(header.entries)
    return {
        "role": header.role,
        "author": header.author,
        "created": header.created,
        "producer": header.lane.producer,
        "epoch": str(header.lane.epoch),
        "metadata": json.loads(header.metadata),
        "replaces": header.replaces,
        "items": items,
        "end": end,
    }


def decode(body: bytes) -> Operation:
    """The operation of these bytes; raises ``Malformed`` for everything else, whatever it is."""
    try:
        fields = json.loads(body)
        # Lone surrogates pass json.loads and would break every later encode.
        if b"\\u" in body:
            canonical(fields).encode()
        if not isinstance(fields, list) or not fields:
            raise Malformed("an operation is a list")
        decoder = _DECODERS.get(fields[0]) if isinstance(fields[0], str) else None
        if decoder is None:
            raise Malformed(f"unknown operation {str(fields[0])[:32]!r}")
        if not is_id(fields[1]):
            raise Malformed("an operation needs a session")
        return decoder(fields[1:])
    except Malformed:
        raise
    except (ValueError, TypeError, IndexError, KeyError, RecursionError) as error:
        raise Malformed(f"not an operation: {type(error).__name__}") from error


def _message(value: Any) -> str:
    if not is_id(value):
        raise Malformed("an operation needs a message")
    text: str = value
    return text


def _number(value: Any, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise Malformed("a number is out of range")
    return value


def _lane(producer: Any, epoch: Any) -> LaneKey:
    if not is_id(producer) or not isinstance(epoch, str):
        raise Malformed("a lane is a producer and an epoch")
    return LaneKey(producer, parse_epoch(epoch))


def _entries(items: Any, end: Any) -> tuple[Entry, ...]:
    entries: tuple[Entry, ...] = from_wire(items)
    if end is None:
        return entries
    if end not in ENDS:
        raise Malformed("unknown end")
    return (*entries, End(end))


def _exactly(fields: list[Any], count: int) -> list[Any]:
    if len(fields) != count:
        raise Malformed("an operation has the wrong number of fields")
    return fields


def _decode_items(fields: list[Any]) -> Operation:
    session, message, producer, epoch, seq, before, items, end = _exactly(fields, 8)
    digest_before = bytes.fromhex(before)
    entries = _entries(items, end)
    if len(digest_before) != DIGEST_BYTES or not entries:
        raise Malformed("items need a digest and at least one entry")
    lane = _lane(producer, epoch)
    return Items(session, _message(message), lane, _number(seq, 2**53), digest_before, entries)


def _decode_open(fields: list[Any]) -> Operation:
    session, message, wire = _exactly(fields, 3)
    if not isinstance(wire["role"], str) or not isinstance(wire["metadata"], dict):
        raise Malformed("a header needs a role and metadata")
    for name in ("author", "replaces"):
        if wire[name] is not None and not is_id(wire[name]):
            raise Malformed(f"{name} is no id")
    header = Header(
        role=wire["role"],
        author=wire["author"],
        created=_number(wire["created"], _HLC_MAX),
        lane=_lane(wire["producer"], wire["epoch"]),
        metadata=canonical(wire["metadata"]),
        replaces=wire["replaces"],
        entries=_entries(wire["items"], wire["end"]),
    )
    return Open(session, _message(message), header)


def _decode_claim(fields: list[Any]) -> Operation:
    session, message, producer, epoch, tag, root, root_epoch, prev, prev_epoch, base = _exactly(
        fields, 10
    )
    return Claim(
        session,
        _message(message),
        _lane(producer, epoch),
        int(tag, 16),
        _lane(root, root_epoch),
        None if prev is None else _lane(prev, prev_epoch),
        _number(base, 2**53),
    )


def _decode_cancel(fields: list[Any]) -> Operation:
    session, message, producer, epoch = _exactly(fields, 4)
    return Cancel(session, _message(message), _lane(producer, epoch))


def _decode_delete(fields: list[Any]) -> Operation:
    session, message = _exactly(fields, 2)
    return Delete(session, None if message is None else _message(message))


def _stamped(fields: list[Any]) -> tuple[str, int, str, str]:
    session, hlc, region, values = _exactly(fields, 4)
    if not is_id(region) or not isinstance(values, dict):
        raise Malformed("metadata needs a region and an object")
    return session, _number(hlc, _HLC_MAX), region, canonical(values)


def _decode_metadata(fields: list[Any]) -> Operation:
    return Metadata(*_stamped(fields))


def _decode_create(fields: list[Any]) -> Operation:
    return Create(*_stamped(fields))


_DECODERS: dict[str, Callable[[list[Any]], Operation]] = {
    "items": _decode_items,
    "open": _decode_open,
    "claim": _decode_claim,
    "cancel": _decode_cancel,
    "delete": _decode_delete,
    "metadata": _decode_metadata,
    "create": _decode_create,
}
