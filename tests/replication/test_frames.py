"""Frames between regions: authentic and in turn, or refused; nothing else is ever raised."""

import hmac
import json
import struct
import zlib
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from perdure.replication.frames import (
    FRAME_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    RECORD_BYTES_MAX,
    VERSIONS,
    Channel,
    FrameError,
    Kind,
    decode_json,
    decode_records,
    encode_json,
    encode_records,
    fitting,
    hello_key,
    link_key,
    vector_from_json,
    vector_to_json,
)
from perdure.replication.limits import ID_CHARS_MAX
from perdure.replication.records import LSN_MAX, Origin, Record, intact, seal

SECRET = b"s" * 32
KEY = link_key(SECRET, ("a" * 64, "b" * 64), ("eu/0", "us/0"))
origins = st.builds(Origin, st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.integers(0, 2**64 - 1))
records = st.builds(seal, origins, st.integers(1, LSN_MAX), st.binary(max_size=60))


NEWEST = VERSIONS[-1]


def pair(
    secret: bytes = SECRET, *, established: bool = True, version: int = NEWEST
) -> tuple[Channel, Channel]:
    dialer, acceptor = Channel("d", secret), Channel("a", secret)
    if established:
        dialer.establish(KEY, version)
        acceptor.establish(KEY, version)
    return dialer, acceptor


def refused(channel: Channel, data: bytes) -> str:
    with pytest.raises(FrameError) as error:
        channel.decode(data)
    return error.value.code


@given(st.lists(st.tuples(st.sampled_from(list(Kind)), st.binary(max_size=100)), max_size=6))
def test_round_trip(frames: list[tuple[Kind, bytes]]) -> None:
    """Every frame arrives as it was sent, in both directions."""
    dialer, acceptor = pair()
    for kind, payload in frames:
        there = acceptor.decode(dialer.encode(kind, payload))
        back = dialer.decode(acceptor.encode(kind, payload))
        assert (there.kind, there.payload) == (back.kind, back.payload) == (kind, payload)


@pytest.mark.failure("S8")
@given(st.binary(min_size=1, max_size=40), st.data())
def test_every_change_of_a_byte_is_refused(payload: bytes, data: st.DataObject) -> None:
    """No bit of a frame can be changed, and a frame cannot be cut or lengthened."""
    dialer, acceptor = pair()
    frame = dialer.encode(Kind.OPERATIONS, payload)
    at = data.draw(st.integers(0, len(frame) - 1))
    changed = bytes([frame[at] ^ data.draw(st.integers(1, 255))])
    refused(acceptor, frame[:at] + changed + frame[at + 1 :])
    refused(acceptor, frame[:at])
    refused(acceptor, frame + changed)
    assert acceptor.decode(frame).payload == payload


@pytest.mark.failure("C6")
@pytest.mark.parametrize("version", VERSIONS)
def test_frames_that_open_a_link_say_version_1_for_ever(version: int) -> None:
    """Whatever the link then speaks: an older build must be able to read them. The others say the
    version of their link, and one of another version is refused."""
    dialer, acceptor = pair(version=version)
    assert [dialer.encode(kind, b"{}")[2] for kind in (Kind.CHALLENGE, Kind.HELLO)] == [1, 1]
    assert acceptor.encode(Kind.REFUSED, b"{}")[2] == 1
    assert acceptor.encode(Kind.WELCOME, b"{}")[2] == version
    frame = pair(version=3 - version)[0].encode(Kind.VECTOR, b"{}")
    assert refused(pair(version=version)[1], frame) == "version"


@pytest.mark.failure("C6")
@pytest.mark.parametrize("kind", [Kind.ASK_STATUS, Kind.STATUS])
def test_a_kind_that_the_version_has_not_is_neither_sent_nor_taken(kind: Kind) -> None:
    """A link of version 1 carries nothing that version 1 does not know."""
    dialer, acceptor = pair(version=1)
    assert not dialer.knows(kind) and pair(version=2)[0].knows(kind)
    with pytest.raises(ValueError, match="version 1 has no"):
        dialer.encode(kind, b"{}")
    assert refused(acceptor, framed(kind, 0, 2, b"{}", KEY, 1)) == "kind"


@given(st.binary(max_size=120))
def test_noise_is_refused(noise: bytes) -> None:
    """Whatever comes, before or after the link is established."""
    refused(pair()[1], noise)
    refused(pair(established=False)[1], noise)


def test_each_refusal_has_its_code() -> None:
    """They become labels of counters."""
    dialer, acceptor = pair()
    frame = dialer.encode(Kind.VECTOR, b"{}")
    assert refused(acceptor, b"x" * (FRAME_BYTES_MAX + 1)) == "too_long"
    assert refused(acceptor, frame[:10]) == "too_short"
    assert refused(acceptor, b"XX" + frame[2:]) == "not_a_frame"
    assert refused(acceptor, frame[:2] + b"\x09" + frame[3:]) == "version"
    assert refused(acceptor, frame + b"x") == "length"
    assert refused(acceptor, frame[:-20] + b"XXXX" + frame[-16:]) == "crc"
    assert refused(acceptor, frame[:-16] + b"x" * 16) == "mac"


@pytest.mark.failure("S8", "N7")
def test_a_frame_counts_once_and_in_its_turn() -> None:
    """Replayed, reordered, or with one missing before it: refused."""
    dialer, acceptor = pair()
    first, second, third = (dialer.encode(Kind.VECTOR, b"{}") for _ in range(3))
    assert refused(acceptor, second) == "number"
    acceptor.decode(first)
    assert refused(acceptor, first) == "number"
    assert refused(acceptor, third) == "number"
    acceptor.decode(second)


@pytest.mark.failure("S8")
def test_a_frame_is_good_for_one_direction_of_one_link_of_one_secret() -> None:
    """Not sent back to its sender, not on another link, not with another secret."""
    dialer, acceptor = pair()
    frame = dialer.encode(Kind.VECTOR, b"{}")
    assert refused(pair()[0], frame) == "mac"
    other = Channel("a", SECRET)
    other.establish(link_key(SECRET, ("a" * 64, "c" * 64), ("eu/0", "us/0")), NEWEST)
    assert refused(other, frame) == "mac"
    hello = pair(established=False)[0].encode(Kind.HELLO, b"{}")
    assert refused(pair(b"t" * 32, established=False)[1], hello) == "mac"
    acceptor.decode(frame)


def test_nothing_but_the_opening_before_the_link_is_established() -> None:
    """Neither sent nor taken."""
    dialer, acceptor = pair(version=1)
    early = pair(established=False)[1]
    assert refused(early, dialer.encode(Kind.OPERATIONS, b"")) == "too_early"
    with pytest.raises(FrameError, match="too_early"):
        pair(established=False)[0].encode(Kind.VECTOR, b"{}")
    acceptor.decode(pair(established=False)[0].encode(Kind.HELLO, b"{}"))


def test_a_frame_that_is_too_long_is_not_sent() -> None:
    """That is our own mistake, not the peer's."""
    with pytest.raises(ValueError, match="too long"):
        pair()[0].encode(Kind.OPERATIONS, b"x" * FRAME_BYTES_MAX)


# Payloads


@given(st.lists(records, max_size=8))
def test_records_round_trip(batch: list[Record]) -> None:
    """With origin, lsn, body and the checksum that is stored with them."""
    assert decode_records(encode_records(batch)) == batch


@pytest.mark.failure("P9", "C7")
@given(st.lists(records, min_size=1, max_size=4), st.data())
def test_a_damaged_record_is_refused(batch: list[Record], data: st.DataObject) -> None:
    """A wrong byte in the payload is never taken for an operation."""
    payload = encode_records(batch)
    at = data.draw(st.integers(0, len(payload) - 1))
    changed = payload[:at] + bytes([payload[at] ^ 1]) + payload[at + 1 :]
    try:
        found = decode_records(changed)
    except FrameError:
        return
    assert found == batch, "only an unused origin's name may differ"


@given(st.binary(max_size=80))
def test_noise_is_no_records(noise: bytes) -> None:
    """Refused, or what would be written for what it says."""
    try:
        decode_records(noise)
    except FrameError:
        return


@given(st.lists(records, min_size=1, max_size=4), st.data())
def test_what_was_torn_apart_is_no_records(batch: list[Record], data: st.DataObject) -> None:
    """Cut, doubled, or with bytes put in between: refused, or the very records; never anything
    else, and never another error."""
    payload = encode_records(batch)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(payload)))
        stop = data.draw(st.integers(start, len(payload)))
        payload = payload[:start] + data.draw(st.binary(max_size=12)) + payload[stop:]
    try:
        found = decode_records(payload)
    except FrameError:
        return
    assert all(intact(record) and 1 <= record.lsn <= LSN_MAX for record in found)


def framed(kind: int, number: int, length: int, payload: bytes, key: bytes, version: int) -> bytes:
    """A frame that is right in itself, whatever it says."""
    head = struct.pack(">2sBBQI", b"PD", version, kind, number, length) + payload
    head += struct.pack(">I", zlib.crc32(head))
    return head + hmac.new(key, b"d" + head, sha256).digest()[:16]


@given(
    st.integers(0, 255),
    st.integers(0, 2**64 - 1) | st.just(0),
    st.integers(-2, 2),
    st.binary(max_size=20),
    st.sampled_from([0, 1, 1, 1, 2, 2, 3, 255]),
    st.booleans(),
    st.sampled_from(VERSIONS),
)
def test_what_who_knows_the_key_may_say(
    kind: int, number: int, more: int, payload: bytes, version: int, opening: bool, spoken: int
) -> None:
    """A faulty peer can sign anything: it is taken where it is a frame in its turn, and refused
    otherwise; the checks before the signature are not all there is."""
    length = max(0, len(payload) + more)
    key = hello_key(SECRET) if opening else KEY
    data = framed(kind, number, length, payload, key, version)
    right = version == (1 if opening else spoken) and number == 0 and length == len(payload)
    right = right and kind in set(Kind) and (kind in (1, 2, 4)) == opening
    right = right and (kind < 15 or spoken >= 2)
    acceptor = pair(version=spoken)[1]
    if right:
        assert acceptor.decode(data) == (kind, payload)
    else:
        refused(acceptor, data)


def test_the_fitting_records_are_those_that_one_frame_holds() -> None:
    """Exactly: what is said to fit can be sent, and with one byte more it cannot."""
    origin = Origin("e" * ID_CHARS_MAX, 1)
    largest = Record(origin, 1, bytes(RECORD_BYTES_MAX), 0)
    assert fitting([]) == []
    assert fitting([largest]) == [largest]
    assert len(encode_records([largest])) == PAYLOAD_BYTES_MAX
    pair()[0].encode(Kind.OPERATIONS, encode_records([largest]))
    larger = Record(origin, 1, bytes(RECORD_BYTES_MAX + 1), 0)
    assert fitting([larger]) == []
    assert len(encode_records([larger])) == PAYLOAD_BYTES_MAX + 1
    small = seal(origin, 1, b"x")
    assert fitting([small, largest, small]) == [small]
    assert fitting([largest, small]) == [largest]
    many = [seal(Origin("eu", number), 1, b"") for number in range(256)]
    assert fitting(many) == many[:255]
    assert decode_records(encode_records(fitting(many))) == many[:255]


def test_lsns_and_counts_have_bounds() -> None:
    """Zero, beyond the greatest, more records than bytes, and bytes after the last."""
    origin = Origin("eu", 1)
    head = b"\x01\x02eu" + (1).to_bytes(8, "big")
    for lsn in (0, LSN_MAX + 1):
        record = seal(origin, lsn, b"")
        raw = head + (1).to_bytes(4, "big") + struct.pack(">BQII", 0, lsn, 0, record.crc)
        with pytest.raises(FrameError):
            decode_records(raw)
    with pytest.raises(FrameError):
        decode_records(head + (2**32 - 1).to_bytes(4, "big"))
    with pytest.raises(FrameError):
        decode_records(encode_records([]) + b"x")
    with pytest.raises(ValueError, match="too many origins"):
        encode_records([seal(Origin("eu", n), 1, b"") for n in range(256)])


@pytest.mark.failure("C7")
@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"1",
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":"\\ud800"}',
        b"\xef\xbb\xbf{}",
        '{"a":1}'.encode("utf-16"),
        b"\xff",
        b'{"a":' * 100_000,
        b'{"a":1}x',
    ],
)
def test_what_is_no_json_object_is_refused(payload: bytes) -> None:
    """Strictly: no BOM, no other encoding, no lone surrogate, no endless depth."""
    with pytest.raises(FrameError):
        decode_json(payload)


@given(st.dictionaries(origins, st.integers(0, LSN_MAX), max_size=5))
def test_vectors_round_trip(vector: dict[Origin, int]) -> None:
    """Through JSON text."""
    assert vector_from_json(decode_json(encode_json(vector_to_json(vector)))) == vector


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {"eu/1": 1},
        {"eu/" + "0" * 15 + "G": 1},
        {"eu/" + "0" * 15 + "A": 1},
        {"/" + "0" * 16: 1},
        {"e u/" + "0" * 16: 1},
        {"eu/" + "0" * 16: -1},
        {"eu/" + "0" * 16: LSN_MAX + 1},
        {"eu/" + "0" * 16: True},
        {"eu/" + "0" * 16: 1.0},
        {"eu/" + "0" * 16: "1"},
    ],
)
def test_what_is_no_vector_is_refused(value: Any) -> None:
    """Origins have one text only, lsns are whole numbers within bounds."""
    with pytest.raises(FrameError):
        vector_from_json(json.loads(json.dumps(value)))
