"""What regions say to each other, of every kind: the frames that a campaign begins with."""

import json
from typing import Any

from perdure.replication.coding import encode
from perdure.replication.frames import (
    Kind,
    encode_json,
    encode_piece,
    encode_records,
    vector_to_json,
)
from perdure.replication.handshake import Identity, answer, challenge
from perdure.replication.ids import Epoch, LaneKey
from perdure.replication.items import End, Mark
from perdure.replication.lane import root_digest
from perdure.replication.operations import (
    Absorb,
    Cancel,
    Claim,
    Create,
    Delete,
    Discard,
    Edit,
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
    Step,
)
from perdure.replication.presence import Presence
from perdure.replication.presence_gossip import PresenceGossip
from perdure.replication.presence_view import Key
from perdure.replication.presence_wire import encode_delta, encode_digest
from perdure.replication.records import Origin, seal

EU, US = Origin("eu", 1), Origin("us", 2**63 + 7)
ONE, TWO = LaneKey("p", Epoch(1, 7)), LaneKey("q", Epoch(2, 2**40))
DIALER = Identity(EU, 1_000, "a" * 64)
ACCEPTOR = Identity(US, 2_000, "b" * 64)
VECTOR = {EU: 12, US: 2**40}
_ROOT = root_digest("s", "m", ONE)
_HEADER = Header("assistant", "ann", 5, ONE, '{"a":[1,"é"]}', None, (), Request("bot", None, "m0"))
_TOKENS = ("a", "é😀", Mark('{"part":{"type":"data"}}'), "\0", End("failed"))
_SINGLE: list[Any] = [
    Create("s", 5, "eu", '{"title":"x"}'),
    Open("s", "m", _HEADER),
    Open("s", "n", Header("user", None, 5, ONE, "{}", "old", ("hi", End("complete")))),
    Items("s", "m", ONE, 0, _ROOT, _TOKENS),
    Items("s", "m", ONE, 2**31, _ROOT, tuple(f"token {n} " for n in range(60))),
    Claim("s", "m", TWO, 77, ONE, ONE, 3),
    Claim("s", "m", TWO, 2**63, ONE, None, 0),
    Cancel("s", "m", ONE),
    Delete("s", "m"),
    Delete("s", None),
    Metadata("s", 9, "us", '{"deep":{"k":[1,2.5,null]},"k":null}'),
    Fork("s", "m", ONE, 3),
    Step("s", "m", ONE, 4, "suspended", '{"waits":"for you"}'),
    Lapse("s", "m", ONE, 7, 2),
    Input("s", "m", 2**60, "n"),
    Edit("s", "d", bytes(range(40)), (Keyed("key-0001", "tag", 5, 0, 3),)),
    Edit("s", "d", b"\x00\x00"),
    Discard("s", "d"),
]
OPERATIONS: list[Operation] = [
    *_SINGLE,
    Absorb(
        "s", tuple(_SINGLE), (Origins("m", ((EU, 3), (US, 4)), (EU, 1)), Origins("n", (), None))
    ),
]


def records(bodies: list[bytes]) -> bytes:
    """The payload that brings these operations, of two origins, with true checksums."""
    return encode_records([seal(EU if n % 3 else US, n + 1, body) for n, body in enumerate(bodies)])


def _presence() -> list[tuple[Kind, bytes]]:
    presence = Presence(US)
    gossip = PresenceGossip(presence, ["eu"])
    gossip.linked("eu")
    gossip.accepted("eu")
    found = []
    for number, data in enumerate((None, '{"x":[1]}', '"é😀"', "0")):
        key = Key("s", f"member{number}", "c" * number)
        _, dots = presence.add(key, data, number + 1, 1, 60 * number)
        gossip.changed(dots)
        if number % 2:
            delta = gossip.next("eu")
            assert delta is not None
            found.append((Kind.PRESENCE, encode_delta(delta)))
    presence.remove([entry.dot for entry in presence.entries_in("s", "member1")])
    found.append((Kind.PRESENCE_DIGEST, encode_digest(gossip.digest(5))))
    asked = json.dumps({"ask": {str(US): [1, [[3, 4]]], str(EU): [0, []]}, "dead": [str(EU)]})
    found.append((Kind.ASK_PRESENCE, asked.encode()))
    return found


def payloads() -> list[tuple[Kind, bytes]]:
    """At least one of each kind."""
    _, hello = answer(DIALER, challenge(ACCEPTOR), "us", VECTOR)
    vector = vector_to_json(VECTOR)
    signal = {"session": "s", "signal": "typing", "data": {"on": True}, "from": "ann"}
    # The awareness of a client 1, at its clock 3: {"a":1}.
    seen = {"session": "s", "document": "d", "signal": "present", "data": "AQEDB3siYSI6MX0="}
    bodies = [encode(operation) for operation in OPERATIONS]
    return [
        (Kind.CHALLENGE, challenge(ACCEPTOR)),
        (Kind.HELLO, hello),
        (Kind.WELCOME, encode_json({"vector": vector})),
        (Kind.REFUSED, encode_json({"code": "name_in_use", "detail": "another is eu"})),
        (Kind.OPERATIONS, records(bodies)),
        (Kind.OPERATIONS, records(bodies[:2])),
        (Kind.VECTOR, encode_json({"vector": vector, "full": True, "gap": True, "below": True})),
        (Kind.ASK_DIGESTS, encode_json({"ask": 1, "session": "s"})),
        (Kind.ASK_DIGESTS, encode_json({"ask": 2, "buckets": [0, 7, 255]})),
        (Kind.DIGESTS, encode_json({"ask": 1, "buckets": ["0" * 16] * 8})),
        (Kind.DIGESTS, encode_json({"ask": 2, "sessions": {"s": "ab" * 8, "t": "cd" * 8}})),
        (Kind.ASK_SESSIONS, encode_json({"ask": 3, "sessions": ["s", "t"]})),
        (Kind.SESSIONS, encode_piece(3, bodies[-1])),
        (Kind.SESSIONS, encode_piece(3, b"")),
        (Kind.SIGNAL, encode_json(signal)),
        (Kind.SIGNAL, encode_json({**seen, "from": None})),
        *_presence(),
    ]
