"""Operations keep their bytes, and nothing else is taken for one."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from perdure.replication.coding import decode, encode
from perdure.replication.errors import Malformed
from perdure.replication.items import End, Entry
from perdure.replication.operations import (
    Cancel,
    Claim,
    Create,
    Delete,
    Erased,
    Header,
    Items,
    Metadata,
    Open,
    Operation,
)

from tests.replication.strategies import entries, lane_key, root

ONE, TWO = lane_key(1, "p", 1), lane_key(2, "q", 2)
HEADER = Header("assistant", "ann", 5, ONE, '{"a":[1,"é"]}', None)
SAMPLES: list[Operation] = [
    Create("s", 5, "eu", '{"title":"x"}'),
    Open("s", "m", HEADER),
    Open("s", "m", Header("user", None, 5, ONE, "{}", "old", ("hi", End("complete")))),
    Items("s", "m", ONE, 0, root(ONE), ("a", End("failed"))),
    Claim("s", "m", TWO, 77, ONE, ONE, 3),
    Claim("s", "m", TWO, 77, ONE, None, 0),
    Cancel("s", "m", ONE),
    Delete("s", "m"),
    Delete("s", None),
    Metadata("s", 9, "us", '{"k":null}'),
    Erased("s", None, None, None),
    Erased("s", "m", None, 7),
    Erased("s", None, "d", None),
]


@pytest.mark.parametrize("operation", SAMPLES, ids=lambda op: type(op).__name__)
def test_round_trip(operation: Operation) -> None:
    """Decoding gives the operation back, and encoding that gives the same bytes."""
    assert decode(encode(operation)) == operation
    assert encode(decode(encode(operation))) == encode(operation)


@pytest.mark.failure("X3")
@given(st.lists(entries, min_size=1, max_size=6))
def test_content_is_kept_byte_for_byte(content: list[Entry]) -> None:
    """Emoji, combining marks, CR, CRLF, NUL, U+2028: what goes in comes out."""
    operation = Items("s", "m", ONE, 3, root(ONE), tuple(content))
    assert decode(encode(operation)) == operation


@pytest.mark.failure("C7")
@pytest.mark.parametrize("operation", SAMPLES, ids=lambda op: type(op).__name__)
def test_mutilated_operations_are_malformed(operation: Operation) -> None:
    """Every missing, extra or exchanged field is refused as malformed, and by nothing else."""
    fields = json.loads(encode(operation))
    wrong = [fields[:at] + fields[at + 1 :] for at in range(len(fields))]
    wrong += [
        [*fields, 1],
        *(
            [*fields[:at], value, *fields[at + 1 :]]
            for at in range(len(fields))
            for value in ([], {"a": []}, -1, 2**70, "\ud800", True)
        ),
    ]
    refused = 0
    for case in wrong:
        try:
            decode(json.dumps(case).encode())
        except Malformed:
            refused += 1
    assert refused > len(wrong) // 2


@pytest.mark.failure("C7")
@given(st.binary(max_size=60))
def test_noise_is_malformed(noise: bytes) -> None:
    """Random bytes are refused as malformed, and by nothing else."""
    with pytest.raises(Malformed):
        decode(noise)


@pytest.mark.failure("C7")
def test_deep_json_is_malformed() -> None:
    """Nesting beyond the parser's depth is refused, and does not end the process."""
    with pytest.raises(Malformed):
        decode(b"[" * 100_000)


@pytest.mark.failure("C7")
@pytest.mark.parametrize("reach", [0.5, [], None, "eu", True])
def test_a_piece_of_a_session_says_where_its_messages_stand(reach: object) -> None:
    """In an object of places by origin; anything else in its stead is malformed, and by nothing
    else: what a peer tells must not end who reads it."""
    with pytest.raises(Malformed):
        decode(json.dumps(["absorb", "s", [], [["m", reach, None]]]).encode())


@pytest.mark.failure("C7")
@pytest.mark.parametrize("origin", [{}, None, 1, [], "eu", "eu/1"])
def test_a_piece_of_a_session_says_where_its_messages_were_opened(origin: object) -> None:
    """At a place of a log that has a name; anything else is malformed, and by nothing else."""
    with pytest.raises(Malformed):
        decode(json.dumps(["absorb", "s", [], [["m", {}, [origin, 1]]]]).encode())
