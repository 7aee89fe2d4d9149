"""The bytes of operations (``docs/PROTOCOL.md`` B.2).

Rule of this file: the bytes are canonical, so the same operation made in two regions has the same
bytes; and whatever is not an operation raises ``Malformed``, nothing else.
"""

import base64
import json
from collections.abc import Callable
from typing import Any

from perdure.replication.errors import Malformed
from perdure.replication.ids import LaneKey, canonical, is_id, parse_epoch
from perdure.replication.items import DIGEST_BYTES, ENDS, End, Entry, Item, from_wire, to_wire
from perdure.replication.lib0 import UINT_MAX
from perdure.replication.operations import (
    Absorb,
    Cancel,
    Claim,
    Create,
    Delete,
    Discard,
    Edit,
    Erased,
    Fork,
    Header,
    Input,
    Items,
    Keyed,
    Lapse,
    Metadata,
    Open,
    Operation,
    Origins,
    Request,
    Single,
    Step,
)
from perdure.replication.records import LSN_MAX, parse_origin
from perdure.replication.tenants import is_session
from perdure.replication.traces import carried, told
from perdure.replication.yjs_parser import YJS_CLOCK_MAX

_HLC_MAX = 2**64 - 1
# What an agent says of its run.
STATES = ("running", "suspended")


def encode(operation: Operation) -> bytes:
    """The canonical bytes of an operation."""
    return canonical(fields(operation)).encode()


def fields(op: Operation) -> list[Any]:
    """An operation as a JSON array."""
    match op:
        case Items():
            items, end = _split(op.entries)
            wire = [str(op.lane.epoch), op.seq, op.before.hex(), items, end]
            return ["items", op.session, op.message, op.lane.producer, *wire]
        case Open():
            return ["open", op.session, op.message, header_fields(op.header) | told(op.trace)]
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
        case Fork():
            return ["fork", op.session, op.message, *_lane_fields(op.lane), op.seq]
        case Step() | Lapse() | Input():
            return [_OF_RUN[type(op)], op.session, op.message, *of_run_fields(op)]
        case Edit():
            keyed = [[list(one) for one in op.keyed]] if op.keyed else []
            update = base64.b64encode(op.update).decode()
            return ["document", op.session, op.document, update, *keyed]
        case Discard():
            return ["discard", op.session, op.document]
        case Erased():
            return ["erased", op.session, op.message, op.document, op.born]
        case Absorb():
            return [
                "absorb",
                op.session,
                [fields(told) for told in op.operations],
                [_origins_fields(origins) for origins in op.origins],
            ]


_OF_RUN: dict[type, str] = {Step: "step", Lapse: "lapse", Input: "input"}


def of_run_fields(op: Step | Lapse | Input) -> list[Any]:
    """The fields of an operation on a run after session and message."""
    match op:
        case Step():
            return [*_lane_fields(op.lane), op.n, op.state, json.loads(op.detail)]
        case Lapse():
            return [*_lane_fields(op.lane), op.items, op.n]
        case Input():
            return [op.hlc, op.input]


def _origins_fields(origins: Origins) -> list[Any]:
    opened = origins.opened_at
    reach = {str(origin): lsn for origin, lsn in origins.reach}
    return [origins.message, reach, None if opened is None else [str(opened[0]), opened[1]]]


def _lane_fields(lane: LaneKey) -> list[str]:
    return [lane.producer, str(lane.epoch)]


def _split(entries: tuple[Entry, ...]) -> tuple[list[Any], str | None]:
    if entries and isinstance(last := entries[-1], End):
        return to_wire(_items(entries[:-1])), last.status
    return to_wire(_items(entries)), None


def _items(entries: tuple[Entry, ...]) -> tuple[Item, ...]:
    return tuple(entry for entry in entries if not isinstance(entry, End))


def header_fields(header: Header) -> dict[str, Any]:
    """A header as a JSON object."""
    items, end = _split(header.entries)
    run = {} if header.run is None else {"run": list(header.run)}
    return {
        **run,
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
        return _decode_fields(fields)
    except Malformed:
        raise
    except (ValueError, TypeError, IndexError, KeyError, RecursionError) as error:
        raise Malformed(f"not an operation: {type(error).__name__}") from error


def _decode_fields(fields: Any) -> Operation:
    if not isinstance(fields, list) or not fields:
        raise Malformed("an operation is a list")
    decoder = _DECODERS.get(fields[0]) if isinstance(fields[0], str) else None
    if decoder is None:
        raise Malformed(f"unknown operation {str(fields[0])[:32]!r}")
    if not is_session(fields[1]):
        raise Malformed("an operation needs a session")
    return decoder(fields[1:])


def _message(value: Any) -> str:
    if not is_id(value):
        raise Malformed("an operation needs a message")
    return str(value)


def _number(value: Any, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise Malformed("a number is out of range")
    return value


def lane_of(producer: Any, epoch: Any) -> LaneKey:
    """The lane of its two fields, or ``Malformed``."""
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
    lane = lane_of(producer, epoch)
    return Items(session, _message(message), lane, _number(seq, 2**53), digest_before, entries)


def _decode_open(fields: list[Any]) -> Operation:
    session, message, wire = _exactly(fields, 3)
    return Open(session, _message(message), header_of(wire), carried(wire))


def header_of(wire: Any) -> Header:
    """The header of its JSON object, or ``Malformed``."""
    if not isinstance(wire["role"], str) or not isinstance(wire["metadata"], dict):
        raise Malformed("a header needs a role and metadata")
    for name in ("author", "replaces"):
        if wire[name] is not None and not is_id(wire[name]):
            raise Malformed(f"{name} is no id")
    return Header(
        role=wire["role"],
        author=wire["author"],
        created=_number(wire["created"], _HLC_MAX),
        lane=lane_of(wire["producer"], wire["epoch"]),
        metadata=canonical(wire["metadata"]),
        replaces=wire["replaces"],
        entries=_entries(wire["items"], wire["end"]),
        run=_request(wire.get("run")),
    )


def _request(wire: Any) -> Request | None:
    if wire is None:
        return None
    agent, by, answers = _exactly(wire, 3)
    if not is_id(agent) or not all(name is None or is_id(name) for name in (by, answers)):
        raise Malformed("a run names an agent, who asks, and a message")
    return Request(agent, by, answers)


def of_run(kind: str, session: str, message: str, fields: list[Any]) -> Step | Lapse | Input:
    """The operation on a run of its fields after session and message, or ``Malformed``."""
    if kind == "step":
        producer, epoch, n, state, detail = _exactly(fields, 5)
        if state not in STATES:
            raise Malformed("unknown state")
        lane = lane_of(producer, epoch)
        return Step(session, message, lane, _number(n, 2**53), state, canonical(detail))
    if kind == "lapse":
        producer, epoch, items, n = _exactly(fields, 4)
        lane = lane_of(producer, epoch)
        return Lapse(session, message, lane, _number(items, 2**53), _number(n, 2**53))
    hlc, answers = _exactly(fields, 2)
    return Input(session, message, _number(hlc, _HLC_MAX), _message(answers))


def _decode_of_run(kind: str) -> Callable[[list[Any]], Operation]:
    def decode(fields: list[Any]) -> Operation:
        session, message, *rest = fields
        return of_run(kind, session, _message(message), rest)

    return decode


def _decode_claim(fields: list[Any]) -> Operation:
    session, message, *rest = fields
    return claim_of(session, _message(message), rest)


def claim_of(session: str, message: str, fields: list[Any]) -> Claim:
    """The claim of its fields after session and message, or ``Malformed``."""
    producer, epoch, tag, root, root_epoch, prev, prev_epoch, base = _exactly(fields, 8)
    return Claim(
        session,
        message,
        lane_of(producer, epoch),
        int(tag, 16),
        lane_of(root, root_epoch),
        None if prev is None else lane_of(prev, prev_epoch),
        _number(base, 2**53),
    )


def _decode_cancel(fields: list[Any]) -> Operation:
    session, message, producer, epoch = _exactly(fields, 4)
    return Cancel(session, _message(message), lane_of(producer, epoch))


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


def _decode_fork(fields: list[Any]) -> Operation:
    session, message, producer, epoch, seq = _exactly(fields, 5)
    return Fork(session, _message(message), lane_of(producer, epoch), _number(seq, 2**53))


def _decode_edit(fields: list[Any]) -> Operation:
    keyed: tuple[Keyed, ...] = ()
    if len(fields) == 4:
        *fields, found = fields
        keyed = tuple(_keyed(one) for one in found)
        if not keyed:
            raise Malformed("no keys are not told")
    session, document, update = _exactly(fields, 3)
    if not is_id(document):
        raise Malformed("an edit needs a document")
    data = base64.b64decode(update, validate=True)
    if base64.b64encode(data).decode() != update:
        raise Malformed("bits after the end of an update")
    return Edit(session, document, data, keyed)


def _keyed(fields: Any) -> Keyed:
    key, tag, client, start, end = _exactly(fields, 5)
    if not is_id(key) or not is_id(tag):
        raise Malformed("an append has a key and a tag")
    start, end = _number(start, YJS_CLOCK_MAX), _number(end, YJS_CLOCK_MAX)
    if start >= end:
        raise Malformed("an append of nothing has no key")
    return Keyed(key, tag, _number(client, UINT_MAX), start, end)


def _decode_discard(fields: list[Any]) -> Operation:
    session, document = _exactly(fields, 2)
    if not is_id(document):
        raise Malformed("what is discarded is a document")
    return Discard(session, document)


def _decode_erased(fields: list[Any]) -> Operation:
    session, message, document, born = _exactly(fields, 4)
    if document is not None and (message, born) != (None, None):
        raise Malformed("what is erased is a session, or a message, or a document of it")
    message, document = (None if name is None else _message(name) for name in (message, document))
    return Erased(session, message, document, None if born is None else _number(born, _HLC_MAX))


def _decode_absorb(fields: list[Any]) -> Operation:
    session, wires, notes = _exactly(fields, 3)
    operations: list[Single] = []
    for wire in wires:
        told = _decode_fields(wire)
        if isinstance(told, Absorb) or told.session != session:
            raise Malformed("a piece of a session holds operations of that session")
        operations.append(told)
    return Absorb(session, tuple(operations), tuple(_origins(note) for note in notes))


def _origins(note: Any) -> Origins:
    message, reach, opened = _exactly(note, 3)
    if not isinstance(reach, dict):
        raise Malformed("the places of a message are an object")
    places = tuple((parse_origin(o), _number(lsn, LSN_MAX)) for o, lsn in reach.items())
    at = None if opened is None else (parse_origin(opened[0]), _number(opened[1], LSN_MAX))
    return Origins(_message(message), places, at)


_DECODERS: dict[str, Callable[[list[Any]], Operation]] = {
    "items": _decode_items,
    "open": _decode_open,
    "claim": _decode_claim,
    "cancel": _decode_cancel,
    "delete": _decode_delete,
    "metadata": _decode_metadata,
    "create": _decode_create,
    "fork": _decode_fork,
    "step": _decode_of_run("step"),
    "lapse": _decode_of_run("lapse"),
    "input": _decode_of_run("input"),
    "document": _decode_edit,
    "discard": _decode_discard,
    "erased": _decode_erased,
    "absorb": _decode_absorb,
}
