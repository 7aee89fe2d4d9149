"""Messages as they are stored, and as they are told to another region.

Rule of this file: nothing is lost. A body holds all that is known of a message, compact (the
entries of a lane as one list, its digests as the last alone), and :func:`unpack` gives the message
back as it was. A row holds what cursors and orders need without the body.
"""

import json
from collections.abc import Iterator
from typing import Any

from perdure.replication import coding
from perdure.replication.errors import Damaged, Malformed
from perdure.replication.ids import LaneKey, canonical
from perdure.replication.items import End, Entry, entry_bytes, from_wire, to_wire
from perdure.replication.lane import Lane, Piece, Place
from perdure.replication.limits import ITEMS_BYTES_TARGET
from perdure.replication.message import Message
from perdure.replication.operations import Cancel, Fork, Items, Open, Origins, Single, stamped
from perdure.replication.records import Vector, parse_origin
from perdure.replication.rows import Row, hidden_serial


def row_of(message: Message, content: int, whole: int, settled: bool, arrived: int) -> Row:
    """The row of a message that is not deleted. It must be refreshed."""
    tip, shown = message.tip, message.shown
    if tip is None or shown is None:
        blank = (message.id, hidden_serial(message.id), 0, 0, "", 0, 0)
        return Row(*blank, whole, False, False, 0, dict(message.reach))
    return Row(
        id=message.id,
        serial=message.serial,
        tag=message.tag(),
        counter=tip.epoch.counter,
        status=shown.status,
        length=shown.length,
        content=content,
        whole=whole,
        settled=settled,
        over=message.is_over,
        arrived=arrived,
        reach=dict(message.reach),
        run=message.header is not None and message.header.run is not None,
    )


# Bodies


def pack(message: Message, stable: Vector) -> bytes:
    """All that is known of a message. What this region alone has is said by ``stable``."""
    fields: dict[str, Any] = {
        "headers": [[stamps, coding.header_fields(header)] for header, stamps in message.headers()],
        "claims": [coding.fields(claim)[3:] for claim in message.claims.all()],
        "cancels": [_lane_name(lane) for lane in message.cancels],
        "lanes": [_lane(message, lane, stable) for lane in message.lanes.values()],
        **_turn(message),
        "reach": {str(origin): lsn for origin, lsn in message.reach.items()},
    }
    if message.opened_at is not None:
        fields["opened"] = _place(message.opened_at)
    return canonical(fields).encode()


def _turn(message: Message) -> dict[str, Any]:
    said = [coding.fields(op) for op in message.turn.operations(message.session, message.id)]
    return {"turn": [[op[0], *op[3:]] for op in said]} if said else {}


def _lane_name(key: LaneKey) -> list[str]:
    return [key.producer, str(key.epoch)]


def _place(place: Place) -> list[Any]:
    return [str(place.origin), place.lsn]


def _wire(entries: list[Entry]) -> tuple[list[Any], str | None]:
    if entries and isinstance(end := entries[-1], End):
        return to_wire([e for e in entries if not isinstance(e, End)]), end.status
    return to_wire([e for e in entries if not isinstance(e, End)]), None


def _lane(message: Message, lane: Lane, stable: Vector) -> dict[str, Any]:
    fields: dict[str, Any] = {"lane": _lane_name(lane.key)}
    if not _is_in_header(message, lane):
        fields["items"], fields["end"] = _wire(lane.entries)
    fields["digest"] = lane.digest_at(len(lane.entries)).hex()
    if lane.forked_at is not None:
        fields["forked"] = lane.forked_at
    if lane.quarantined:
        fields["quarantined"] = lane.quarantined
    if unstable := lane.unstable(stable):
        fields["unstable"] = [[seq, *_place(place)] for seq, place in unstable]
    if lane.pieces_parked:
        fields["parked"] = [
            [piece.seq, piece.before.hex(), *_wire(list(piece.entries))]
            for piece in lane.pieces_parked
        ]
    return fields


def _is_in_header(message: Message, lane: Lane) -> bool:
    """Whether the lane is what the header of a complete message says, and no more."""
    return not (lane.forked or lane.quarantined) and any(
        header.lane == lane.key and header.entries and tuple(lane.entries) == header.entries
        for header, _ in message.headers()
    )


def unpack(session: str, id_: str, body: bytes) -> Message:
    """The message of a body, refreshed; ``Damaged`` when it is none."""
    try:
        fields = json.loads(body)
        message = Message(session, id_)
        for stamps, wire in fields["headers"]:
            for created in stamps:
                header = coding.header_of({**wire, "created": created})
                message.apply_open(Open(session, id_, header), None)
        for wire in fields["claims"]:
            message.apply_claim(coding.claim_of(session, id_, wire), None)
        for producer, epoch in fields["cancels"]:
            lane = coding.lane_of(producer, epoch)
            message.apply_cancel(Cancel(session, id_, lane), None)
        for wire in fields["lanes"]:
            _restore(message, wire)
        for kind, *wire in fields.get("turn", ()):
            message.apply_of_run(coding.of_run(kind, session, id_, wire), None)
        reach = [(parse_origin(origin), lsn) for origin, lsn in fields["reach"].items()]
        opened = fields.get("opened")
        message.stands(reach, Place(parse_origin(opened[0]), opened[1]) if opened else None)
        message.refresh()
        return message
    except (Malformed, ValueError, TypeError, KeyError, IndexError) as error:
        raise Damaged(f"the body of message {id_} is none: {error}") from error


def _restore(message: Message, wire: dict[str, Any]) -> None:
    lane = message.lane(coding.lane_of(*wire["lane"]))
    if "items" in wire:
        lane.restore(
            _entries(wire["items"], wire["end"]),
            bytes.fromhex(wire["digest"]),
            wire.get("forked"),
            wire.get("quarantined", 0),
            [(seq, Place(parse_origin(o), lsn)) for seq, o, lsn in wire.get("unstable", ())],
        )
    elif lane.digest_at(len(lane.entries)).hex() != wire["digest"]:
        raise Damaged(f"the header of message {message.id} is not what was stored")
    for seq, before, items, end in wire.get("parked", ()):
        lane.park(Piece(seq, bytes.fromhex(before), tuple(_entries(items, end))))


def _entries(items: Any, end: str | None) -> list[Entry]:
    entries: list[Entry] = list(from_wire(items))
    return entries if end is None else [*entries, End(end)]


# What another region is told


def retell(message: Message) -> Iterator[Single]:
    """Operations that say the same as those that made the message, each small enough for a frame.

    Raises ``Damaged`` when the entries are not those that the lane's digest was made of.
    """
    session, id_ = message.session, message.id
    for header, stamps in message.headers():
        for created in stamps:
            yield Open(session, id_, stamped(header, created))
    yield from message.claims.all()
    for lane in sorted(message.cancels):
        yield Cancel(session, id_, lane)
    yield from message.turn.operations(session, id_)
    for lane in sorted(message.lanes):
        yield from _retell_lane(message, message.lanes[lane])


def _retell_lane(message: Message, lane: Lane) -> Iterator[Single]:
    lane.digest_at(0)
    pieces = [Piece(0, lane.digest_at(0), tuple(lane.entries)), *lane.pieces_parked]
    if not lane.entries or _is_in_header(message, lane):
        pieces = lane.pieces_parked
    for piece in pieces:
        for start, entries in _cut(piece.entries):
            seq = piece.seq + start
            before = piece.before if start == 0 else lane.digest_at(seq)
            yield Items(message.session, message.id, lane.key, seq, before, entries)
    if lane.forked_at is not None:
        yield Fork(message.session, message.id, lane.key, lane.forked_at)


def _cut(entries: tuple[Entry, ...]) -> Iterator[tuple[int, tuple[Entry, ...]]]:
    start = size = 0
    for at, entry in enumerate(entries):
        length = len(entry_bytes(entry))
        if at > start and size + length > ITEMS_BYTES_TARGET:
            yield start, entries[start:at]
            start, size = at, 0
        size += length
    if start < len(entries):
        yield start, entries[start:]


def origins_of(message: Message) -> Origins:
    """Where the operations of a message stand."""
    return Origins(message.id, tuple(sorted(message.reach.items())), message.opened_at)
