"""The payloads of presence between regions (``docs/PROTOCOL.md`` B.4).

Rule of this file: whatever is not such a payload raises ``FrameError``, and nothing else.
"""

import json
from collections.abc import Callable
from typing import Any, TypeVar

from perdure.replication.dots import Dot, Range, Seen, check_number, check_ranges, ranges_of
from perdure.replication.errors import Malformed
from perdure.replication.frames import FrameError, decode_json, encode_json
from perdure.replication.ids import canonical, is_id
from perdure.replication.limits import (
    PRESENCE_CONNECTION_CHARS_MAX,
    PRESENCE_DATA_BYTES_MAX,
    PRESENCE_TTL_S_MAX,
)
from perdure.replication.presence import Delta, Known, Summary
from perdure.replication.presence_gossip import Ask, Digest
from perdure.replication.presence_view import Entry, Key
from perdure.replication.records import Origin, parse_origin
from perdure.replication.tenants import is_session

# Dots that one payload may hold, however few bytes their ranges are.
PAYLOAD_DOTS_MAX = 1_048_576
# And of those that it says were told, each of which is looked at: some 25 ms. A region tells 4,096
# changes at once, and answers in pieces that hold less.
CLOUD_DOTS_MAX = 16_384
_STAMP_MAX = 2**64 - 1
T = TypeVar("T")


def encode_delta(delta: Delta) -> bytes:
    """The payload of a ``presence`` frame."""
    origins = {entry.dot.origin for entry in delta.entries} | {dot.origin for dot in delta.cloud}
    names = sorted(origins | {known.origin for known in delta.known})
    index = {origin: number for number, origin in enumerate(names)}
    cloud: dict[Origin, list[int]] = {}
    for dot in delta.cloud:
        cloud.setdefault(dot.origin, []).append(dot.n)
    return encode_json(
        {
            "origins": [str(origin) for origin in names],
            "entries": [
                [index[dot.origin], dot.n, *key, stamp, since, ttl_s, data]
                for dot, key, data, stamp, since, ttl_s in delta.entries
            ],
            "cloud": [[index[origin], ranges_of(cloud[origin])] for origin in sorted(cloud)],
            "known": [[index[origin], *rest] for origin, *rest in delta.known],
            "dead": [str(origin) for origin in delta.dead],
        }
    )


def decode_delta(payload: bytes) -> Delta:
    """What a ``presence`` frame tells."""
    return _decoded(payload, _delta)


def _decoded(payload: bytes, read: Callable[[dict[str, Any]], T]) -> T:
    value = decode_json(payload)
    try:
        return read(value)
    except (Malformed, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise FrameError("payload", "not of presence") from error


def _delta(value: dict[str, Any]) -> Delta:
    origins = [parse_origin(text) for text in value["origins"]]
    entries = tuple(_entry(origins, fields) for fields in value["entries"])
    left = CLOUD_DOTS_MAX
    cloud: set[Dot] = set()
    for number, wire in value["cloud"]:
        for first, last in (ranges := check_ranges(wire, left)):
            cloud.update(Dot(_at(origins, number), n) for n in range(first, last + 1))
        left -= _count(ranges)
    left = PAYLOAD_DOTS_MAX
    known: list[Known] = []
    for number, n, *wires in value["known"]:
        beyond, alive = (tuple(check_ranges(wire, left)) for wire in wires)
        left -= _count(beyond) + _count(alive)
        known.append(Known(_at(origins, number), check_number(n), beyond, alive))
    if not {entry.dot for entry in entries} <= cloud:
        raise Malformed("an entry's dot is in the cloud")
    return Delta(entries, frozenset(cloud), tuple(known), _origins(value["dead"]))


def _count(ranges: list[Range] | tuple[Range, ...]) -> int:
    return sum(last - first + 1 for first, last in ranges)


def _at(origins: list[Origin], number: object) -> Origin:
    return origins[check_number(number)]


def _origins(wire: list[str]) -> tuple[Origin, ...]:
    if not isinstance(wire, list):
        raise Malformed("origins are a list")
    return tuple(parse_origin(text) for text in wire)


def _entry(origins: list[Origin], fields: list[Any]) -> Entry:
    number, n, session, member, connection, stamp, since, ttl_s, data = fields
    if not (is_session(session) and is_id(member) and isinstance(connection, str)):
        raise Malformed("an entry needs a session, a member and a connection")
    if len(connection) > PRESENCE_CONNECTION_CHARS_MAX:
        raise Malformed("a connection is too long")
    for reading in (stamp, since):
        if type(reading) is not int or not 0 <= reading <= _STAMP_MAX:
            raise Malformed("a stamp is out of range")
    if type(ttl_s) is not int or not 0 <= ttl_s <= PRESENCE_TTL_S_MAX:
        raise Malformed("a lease is out of range")
    dot = Dot(_at(origins, number), check_number(n))
    return Entry(dot, Key(session, member, connection), _data(data), stamp, since, ttl_s)


def _data(text: object) -> str | None:
    if text is None:
        return None
    if not isinstance(text, str) or len(text.encode()) > PRESENCE_DATA_BYTES_MAX:
        raise Malformed("data is no text within its limit")
    # A NaN, or a lone surrogate, would end the stream of everybody who is told of it.
    if canonical(json.loads(text, parse_constant=_refuse_constant)) != text:
        raise Malformed("data is not canonical")
    return text


def _refuse_constant(name: str) -> None:
    raise Malformed(f"{name} is no JSON")


def encode_digest(digest: Digest) -> bytes:
    """The payload of a ``presence_digest`` frame."""
    return encode_json(
        {
            "me": str(digest.me),
            "origins": {str(origin): list(s) for origin, s in digest.origins.items()},
            "heard": {str(origin): age for origin, age in digest.heard.items()},
        }
    )


def decode_digest(payload: bytes) -> Digest:
    """What a ``presence_digest`` frame says."""
    return _decoded(payload, _digest)


def _digest(value: dict[str, Any]) -> Digest:
    origins = {
        parse_origin(text): Summary(check_number(n), check_number(beyond), _sum(total))
        for text, (n, beyond, total) in value["origins"].items()
    }
    heard = {parse_origin(text): check_number(age) for text, age in value["heard"].items()}
    return Digest(parse_origin(value["me"]), origins, heard)


def _sum(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**64:
        raise Malformed("a sum is out of range")
    return value


def encode_ask(ask: Ask) -> bytes:
    """The payload of an ``ask_presence`` frame."""
    seen = {str(origin): [seen.n, seen.ranges()] for origin, seen in ask.seen.items()}
    return encode_json({"ask": seen, "dead": [str(origin) for origin in ask.dead]})


def decode_ask(payload: bytes) -> Ask:
    """What an ``ask_presence`` frame asks for."""
    return _decoded(payload, _ask)


def _ask(value: dict[str, Any]) -> Ask:
    left = PAYLOAD_DOTS_MAX
    seen: dict[Origin, Seen] = {}
    for text, (n, wire) in value["ask"].items():
        ranges = check_ranges(wire, left)
        left -= _count(ranges)
        seen[parse_origin(text)] = Seen(check_number(n), ranges)
    return Ask(seen, _origins(value["dead"]))
