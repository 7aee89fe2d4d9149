"""Bytes from a peer: what a stranger can send, and what one that knows the secret can."""

import base64
import json
import zlib
from random import Random
from typing import Any

from perdure.replication import frames
from perdure.replication.coding import decode, encode
from perdure.replication.errors import Malformed
from perdure.replication.frames import (
    Channel,
    Frame,
    FrameError,
    Kind,
    decode_json,
    decode_piece,
    decode_records,
    encode_records,
    link_key,
    vector_from_json,
)
from perdure.replication.handshake import LinkRefused, answer, check_hello, expect
from perdure.replication.lib0 import YjsError
from perdure.replication.presence import Presence
from perdure.replication.presence_gossip import PresenceGossip
from perdure.replication.presence_wire import decode_ask, decode_delta, decode_digest, encode_ask
from perdure.replication.yjs_sync import decode_awareness

from tests.fuzz.json_mutations import spoil
from tests.fuzz.mutations import damaged
from tests.fuzz.payloads import ACCEPTOR, DIALER, EU, OPERATIONS, US, payloads, records
from tests.fuzz.taking import Broken, Target

SECRET = b"s" * 32
_KEY = link_key(SECRET, (DIALER.nonce, ACCEPTOR.nonce), (str(EU), str(US)))
# The first byte of an input: as it comes, or to be given the checksum and the MAC that it needs.
STRANGE, SEALED = 0, 1
_MAC_BYTES = 16
_CRC_BYTES = 4
_HEAD_BYTES = 16


def channel(role: str) -> Channel:
    """One side of a link that is established."""
    made = Channel(role, SECRET)
    made.establish(_KEY)
    return made


class FrameInputs:
    """Half are frames as a stranger could change them; of the others the content is changed, and
    what a link would check first is right."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._payloads = payloads()
        self._frames = true_frames()
        self._bodies = [encode(operation) for operation in OPERATIONS]

    def __getitem__(self, number: int) -> bytes:
        """An input by its number."""
        random = Random(self._seed * 1_000_000_007 + number)
        way = random.random()
        if way < 0.25:
            return bytes([STRANGE]) + self._strange(random)
        if way < 0.35:
            # Whatever the head of a frame says, and whatever its kind brings.
            return bytes([SEALED]) + self._sealed(random, *random.choice(self._payloads), head=True)
        if way < 0.7:
            return bytes([SEALED]) + self._sealed(random, Kind.OPERATIONS, self._records(random))
        kind, payload = random.choice(self._payloads)
        return bytes([SEALED]) + self._sealed(random, kind, self._spoilt(random, payload))

    def _strange(self, random: Random) -> bytes:
        frame = random.choice(self._frames)
        if random.random() < 0.1:
            other = random.choice(self._frames)
            return frame[: random.randint(0, len(frame))] + other[random.randint(0, len(other)) :]
        return damaged(random, frame)

    @staticmethod
    def _sealed(random: Random, kind: Kind, payload: bytes, *, head: bool = False) -> bytes:
        body = bytearray(channel("d").encode(kind, payload)[: -_CRC_BYTES - _MAC_BYTES])
        if head:
            start = damaged(random, bytes(body[:_HEAD_BYTES]))
            body[:_HEAD_BYTES] = start
        return bytes(body)

    def _records(self, random: Random) -> bytes:
        bodies = [
            self._spoilt(random, body) if random.random() < 0.7 else body
            for body in random.choices(self._bodies, k=random.choice((1, 1, 2)))
        ]
        payload = records(bodies)
        return damaged(random, payload) if random.random() < 0.1 else payload

    @staticmethod
    def _spoilt(random: Random, payload: bytes) -> bytes:
        """As JSON, where it is JSON, or as bytes."""
        if payload[:1] in (b"{", b"[") and random.random() < 0.75:
            return spoil(random, payload)
        return damaged(random, payload)


def true_frames() -> list[bytes]:
    """The first frame of a link, of every kind."""
    return [channel("d").encode(kind, payload) for kind, payload in payloads()]


def seal(body: bytes) -> bytes:
    """A frame of this head and payload, with the checksum and the MAC of its kind."""
    text = body + zlib.crc32(body).to_bytes(_CRC_BYTES, "big")
    kind = Kind(body[3]) if len(body) > 3 and body[3] in set(Kind) else Kind.VECTOR
    return text + frames._mac(channel("d")._key(kind), b"d" + text)


class FramesTarget(Target):
    """Each input through the channel of an acceptor, and what it lets pass into the decoders of
    its kind; what is decoded must survive being encoded."""

    def __init__(self, seed: int) -> None:
        self.inputs = FrameInputs(seed)
        self._true = frozenset(true_frames())
        self._gossip = _gossip()

    def begin(self) -> None:
        """Forget who is here."""
        self._gossip = _gossip()

    def put(self, data: bytes) -> str:
        """``taken``, or the code of the refusal."""
        way, rest = data[0], data[1:]
        try:
            if way == STRANGE:
                return self._from_stranger(rest)
            frame = channel("a").decode(seal(rest))
            self._told(frame)
        except FrameError as error:
            return error.code
        except LinkRefused:
            return "link refused"
        except Malformed:
            return "malformed operation"
        return "taken"

    def _from_stranger(self, data: bytes) -> str:
        frame = channel("a").decode(data)
        if data not in self._true:
            raise Broken(f"a frame that nobody made is authentic: {frame.kind.name}")
        return "taken"

    def _told(self, frame: Frame) -> None:
        kind, payload = frame
        if kind is Kind.OPERATIONS:
            self._records(payload)
        elif kind is Kind.CHALLENGE:
            answer(DIALER, payload, "us", {})
        elif kind is Kind.HELLO:
            check_hello(ACCEPTOR, payload)
        elif kind is Kind.REFUSED:
            expect(frame, Kind.WELCOME)
        elif kind in (Kind.WELCOME, Kind.VECTOR):
            vector_from_json(decode_json(payload).get("vector"))
        elif kind is Kind.SESSIONS:
            _, piece = decode_piece(payload)
            if piece:
                _operation(piece)
        elif kind is Kind.SIGNAL:
            _signal(decode_json(payload))
        elif kind in (Kind.PRESENCE, Kind.PRESENCE_DIGEST, Kind.ASK_PRESENCE):
            self._presence(kind, payload)
        else:
            decode_json(payload)

    @staticmethod
    def _records(payload: bytes) -> None:
        found = decode_records(payload)
        if decode_records(encode_records(found)) != found:
            raise Broken("records change on their way on")
        for record in found:
            _operation(record.body)

    def _presence(self, kind: Kind, payload: bytes) -> None:
        if kind is Kind.PRESENCE:
            self._gossip.received("us", decode_delta(payload))
        elif kind is Kind.ASK_PRESENCE:
            self._gossip.asked("us", decode_ask(payload))
        else:
            encode_ask(self._gossip.heard("us", decode_digest(payload), 1_000))
        self._gossip.look(2_000)


def _gossip() -> PresenceGossip:
    gossip = PresenceGossip(Presence(EU), ["us"])
    gossip.linked("us")
    gossip.accepted("us")
    return gossip


def _operation(body: bytes) -> None:
    operation = decode(body)
    again = encode(operation)
    if decode(again) != operation or encode(decode(again)) != again:
        raise Broken(f"an operation changes on its way on: {body[:200]!r}")


def _signal(value: dict[str, Any]) -> None:
    if "document" in value and isinstance(value.get("data"), str):
        try:
            decode_awareness(base64.b64decode(value["data"], validate=True))
        except (YjsError, ValueError) as error:
            raise FrameError("payload", "no awareness") from error
    json.dumps(value, ensure_ascii=False).encode()
