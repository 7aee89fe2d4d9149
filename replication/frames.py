"""Frames between regions (``docs/PROTOCOL.md`` B.1): bytes in, frames out.

Rule of this file: every byte sequence is either a frame of this protocol, authentic and in turn, or
raises :class:`FrameError`; nothing else is ever raised. The caller owns the socket.
"""

import hmac
import json
import struct
import zlib
from collections.abc import Sequence
from enum import IntEnum
from hashlib import sha256
from typing import Any, NamedTuple

from perdure.replication.errors import Malformed
from perdure.replication.ids import canonical
from perdure.replication.limits import ID_CHARS_MAX
from perdure.replication.records import (
    INCARNATION_MAX,
    LSN_MAX,
    Origin,
    Record,
    Vector,
    intact,
    parse_origin,
)

VERSIONS = (1, 2)
# The frames that open a link say this version for ever: who reads them may be any build.
OPENING_VERSION = 1
FRAME_BYTES_MAX = 16_777_216
SECRET_BYTES_MIN = 32
ORIGINS_MAX = 255
_MAGIC = b"PD"
_HEAD = struct.Struct(">2sBBQI")
_CRC = struct.Struct(">I")
_MAC_BYTES = 16
_RECORD = struct.Struct(">BQII")
_ANSWER = struct.Struct(">Q")
FRAME_OVERHEAD_BYTES = _HEAD.size + _CRC.size + _MAC_BYTES
PAYLOAD_BYTES_MAX = FRAME_BYTES_MAX - FRAME_OVERHEAD_BYTES
_COUNTS_BYTES = 1 + 4
_ORIGIN_BYTES = 1 + 8  # and the name
# An operation up to this size fits into a frame, whatever the name of its origin.
RECORD_BYTES_MAX = PAYLOAD_BYTES_MAX - _COUNTS_BYTES - _ORIGIN_BYTES - ID_CHARS_MAX - _RECORD.size


class FrameError(Exception):
    """The other side sent what is no frame; ``code`` is stable and fit for a counter's label."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code


class Kind(IntEnum):
    """The types of frames."""

    CHALLENGE = 1
    HELLO = 2
    WELCOME = 3
    REFUSED = 4
    OPERATIONS = 5
    VECTOR = 6
    ASK_DIGESTS = 7
    DIGESTS = 8
    ASK_SESSIONS = 9
    SESSIONS = 10
    PRESENCE = 11
    PRESENCE_DIGEST = 12
    ASK_PRESENCE = 13
    SIGNAL = 14
    ASK_STATUS = 15
    STATUS = 16


# Sent before both sides have shown that they know the secret.
_OPENING = frozenset({Kind.CHALLENGE, Kind.HELLO, Kind.REFUSED})
# The version of a link from which on there are these kinds; the others were there from the first.
_SINCE = {Kind.ASK_STATUS: 2, Kind.STATUS: 2}


class Frame(NamedTuple):
    """A frame that has been found authentic."""

    kind: Kind
    payload: bytes


def hello_key(secret: bytes) -> bytes:
    """The key of the frames that open a link."""
    return hmac.new(secret, b"perdure hello", sha256).digest()


def header_key(secret: bytes) -> bytes:
    """The key of the headers that producers carry between regions."""
    return hmac.new(secret, b"perdure header", sha256).digest()


def link_key(secret: bytes, nonces: tuple[str, str], names: tuple[str, str]) -> bytes:
    """The key of one link; both pairs are (dialer's, acceptor's)."""
    text = "\n".join(("perdure link", *nonces, *names)).encode()
    return hmac.new(secret, text, sha256).digest()


class Channel:
    """The framing of one link, for one side of it. ``role`` is ``d`` (dialer) or ``a``.

    This side opens with ``secret``; the other may do so with any of ``accepted`` too.
    """

    def __init__(self, role: str, secret: bytes, accepted: Sequence[bytes] = ()) -> None:
        # Which secret the other side's opening was signed with, once it has come.
        self.proven = secret
        # Of the link, once it is established.
        self.version = OPENING_VERSION
        self._mine = role.encode()
        self._theirs = b"a" if role == "d" else b"d"
        self._hello_keys = {one: hello_key(one) for one in (secret, *accepted)}
        self._hello_key = self._hello_keys[secret]
        self._link_key: bytes | None = None
        self._sent = 0
        self._received = 0

    def establish(self, key: bytes, version: int = OPENING_VERSION) -> None:
        """From now on everything but the opening frames carries the link's key and version."""
        self._link_key, self.version = key, version

    def knows(self, kind: Kind) -> bool:
        """Whether both sides know frames of this kind, by the version of the link."""
        return _SINCE.get(kind, OPENING_VERSION) <= self.version

    def encode(self, kind: Kind, payload: bytes) -> bytes:
        """The next frame of this side."""
        if len(payload) > PAYLOAD_BYTES_MAX:
            raise ValueError("the frame is too long")
        if not self.knows(kind):
            raise ValueError(f"a link of version {self.version} has no {kind.name.lower()}")
        version = self._version_of(kind)
        head = _HEAD.pack(_MAGIC, version, kind, self._sent, len(payload)) + payload
        head += _CRC.pack(zlib.crc32(head))
        self._sent += 1
        return head + _mac(self._key(kind), self._mine + head)

    def decode(self, data: bytes) -> Frame:
        """The next frame of the other side, or ``FrameError``."""
        if len(data) > FRAME_BYTES_MAX:
            raise FrameError("too_long", f"{len(data)} bytes")
        if len(data) < FRAME_OVERHEAD_BYTES:
            raise FrameError("too_short", f"{len(data)} bytes")
        magic, version, kind, number, length = _HEAD.unpack_from(data)
        if magic != _MAGIC:
            raise FrameError("not_a_frame")
        if version not in (OPENING_VERSION, self.version):
            raise FrameError("version", f"version {version}")
        if length != len(data) - FRAME_OVERHEAD_BYTES:
            raise FrameError("length")
        body = data[:-_MAC_BYTES]
        if zlib.crc32(body[: -_CRC.size]) != _CRC.unpack_from(body, len(body) - _CRC.size)[0]:
            raise FrameError("crc")
        if kind not in Kind.__members__.values():
            raise FrameError("kind", f"type {kind}")
        kind = Kind(kind)
        if version != self._version_of(kind):
            raise FrameError("version", f"{kind.name.lower()} of version {version}")
        if not self.knows(kind):
            raise FrameError("kind", f"type {kind} on a link of version {self.version}")
        self._authenticate(kind, self._theirs + body, data[-_MAC_BYTES:])
        if number != self._received:
            raise FrameError("number", f"frame {number} instead of {self._received}")
        self._received += 1
        return Frame(kind, bytes(body[_HEAD.size : -_CRC.size]))

    def _authenticate(self, kind: Kind, signed: bytes, mac: bytes) -> None:
        if kind not in _OPENING:
            if not hmac.compare_digest(_mac(self._key(kind), signed), mac):
                raise FrameError("mac")
            return
        for secret, key in self._hello_keys.items():
            if hmac.compare_digest(_mac(key, signed), mac):
                self.proven = secret
                return
        raise FrameError("mac")

    def _version_of(self, kind: Kind) -> int:
        return OPENING_VERSION if kind in _OPENING else self.version

    def _key(self, kind: Kind) -> bytes:
        key = self._hello_key if kind in _OPENING else self._link_key
        if key is None:
            raise FrameError("too_early", f"{kind.name.lower()} before the link is established")
        return key


def _mac(key: bytes, signed: bytes) -> bytes:
    return hmac.new(key, signed, sha256).digest()[:_MAC_BYTES]


# Payloads


def encode_json(value: dict[str, Any]) -> bytes:
    """A control payload."""
    return canonical(value).encode()


def decode_json(payload: bytes) -> dict[str, Any]:
    """The object of a control payload, or ``FrameError``."""
    try:
        # Decoded here: json.loads would also take UTF-16, UTF-32 and a byte order mark.
        value = json.loads(payload.decode(), parse_constant=_refuse_constant)
        canonical(value).encode()
    except (ValueError, RecursionError) as error:
        raise FrameError("payload", "not JSON") from error
    if not isinstance(value, dict):
        raise FrameError("payload", "not an object")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def vector_to_json(vector: Vector) -> dict[str, int]:
    """A vector as ``{"<region>/<incarnation>": lsn}``."""
    return {str(origin): lsn for origin, lsn in vector.items()}


def vector_from_json(value: Any) -> Vector:
    """The vector of its JSON form, or ``FrameError``."""
    if not isinstance(value, dict):
        raise FrameError("payload", "a vector is an object")
    vector: Vector = {}
    for text, lsn in value.items():
        if type(lsn) is not int or not 0 <= lsn <= LSN_MAX:
            raise FrameError("payload", "an lsn is out of range")
        try:
            vector[parse_origin(text)] = lsn
        except Malformed as error:
            raise FrameError("payload", "not an origin") from error
    return vector


def encode_records(records: Sequence[Record]) -> bytes:
    """The payload of an ``operations`` frame."""
    origins = list(dict.fromkeys(record.origin for record in records))
    if len(origins) > ORIGINS_MAX:
        raise ValueError("too many origins for one frame")
    index = {origin: number for number, origin in enumerate(origins)}
    parts = [bytes([len(origins)])]
    for origin in origins:
        name = origin.region.encode()
        parts += [bytes([len(name)]), name, origin.incarnation.to_bytes(8, "big")]
    parts.append(len(records).to_bytes(4, "big"))
    for origin, lsn, body, crc in records:
        parts += [_RECORD.pack(index[origin], lsn, len(body), crc), body]
    return b"".join(parts)


def fitting(records: Sequence[Record]) -> list[Record]:
    """As many of the records, from the first on, as one ``operations`` frame has room for; none
    when the first alone is too large."""
    room = PAYLOAD_BYTES_MAX - _COUNTS_BYTES
    origins: set[Origin] = set()
    for index, record in enumerate(records):
        room -= _RECORD.size + len(record.body)
        if record.origin not in origins:
            origins.add(record.origin)
            room -= _ORIGIN_BYTES + len(record.origin.region)
        if room < 0 or len(origins) > ORIGINS_MAX:
            return list(records[:index])
    return list(records)


def decode_records(payload: bytes) -> list[Record]:
    """The records of an ``operations`` frame, each with its checksum verified."""
    try:
        return _decode_records(payload)
    except (struct.error, IndexError, ValueError) as error:
        raise FrameError("payload", "not records") from error


def _decode_records(payload: bytes) -> list[Record]:
    at = 1
    origins: list[Origin] = []
    for _ in range(payload[0]):
        stop = at + 1 + payload[at]
        incarnation = int.from_bytes(payload[stop : stop + 8], "big")
        name = payload[at + 1 : stop].decode("ascii")
        origins.append(parse_origin(f"{name}/{incarnation & INCARNATION_MAX:016x}"))
        at = stop + 8
    count = int.from_bytes(payload[at : at + 4], "big")
    at += 4
    records: list[Record] = []
    for _ in range(count):
        number, lsn, length, crc = _RECORD.unpack_from(payload, at)
        at += _RECORD.size
        body = payload[at : at + length]
        at += length
        record = Record(origins[number], lsn, body, crc)
        if len(body) != length or not 1 <= lsn <= LSN_MAX or not intact(record):
            raise FrameError("record", "a record is damaged")
        records.append(record)
    if at != len(payload):
        raise FrameError("payload", "bytes after the last record")
    return records


def encode_piece(ask: int, piece: bytes) -> bytes:
    """The payload of a ``sessions`` frame: a piece of a session, empty after the last."""
    return _ANSWER.pack(ask) + piece


def decode_piece(payload: bytes) -> tuple[int, bytes]:
    """Which question a ``sessions`` frame answers, and the piece."""
    try:
        (ask,) = _ANSWER.unpack_from(payload)
    except struct.error as error:
        raise FrameError("payload", "no piece of a session") from error
    return ask, payload[_ANSWER.size :]
