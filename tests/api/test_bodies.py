"""The strict parser by itself: what it takes, what it refuses, and that it is never slow."""

import json
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from perdure.api.bodies import parse_json, parse_object
from perdure.replication.errors import Refusal
from perdure.replication.limits import JSON_DEPTH_MAX

BAD = {
    "empty": b"",
    "half": b'{"a":',
    "trailing": b"{} {}",
    "bare word": b"hello",
    "single quotes": b"{'a':1}",
    "trailing comma": b"[1,]",
    "comment": b"/* */ {}",
    "byte order mark": b"\xef\xbb\xbf{}",
    "utf-16": "{}".encode("utf-16"),
    "invalid utf-8": b'["\xff"]',
    "overlong utf-8": b'["\xc0\x80"]',
    "encoded surrogate": b'["\xed\xa0\x80"]',
    "lone high surrogate": b'["\\ud800"]',
    "lone low surrogate": b'["\\udc00"]',
    "lone surrogate in a key": b'{"\\ud800":1}',
    "raw NUL": b'["\x00"]',
    "raw newline in a string": b'["\n"]',
    "NaN": b"[NaN]",
    "Infinity": b"[Infinity]",
    "-Infinity": b"[-Infinity]",
    "beyond a double": b"[1e999]",
    "beyond a double without e": b"[1" + b"0" * 400 + b".0]",
    "2^63": b"[9223372036854775808]",
    "-2^63-1": b"[-9223372036854775809]",
    "5000 digits": b"[" + b"9" * 5000 + b"]",
    "deep, never closed": b"[" * 100_000,
    "deep lists": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "one too deep": b"[" * (JSON_DEPTH_MAX + 1) + b"]" * (JSON_DEPTH_MAX + 1),
    "a key twice": b'{"a":1,"a":1}',
    "a key twice, once escaped": b'{"a":1,"\\u0061":2}',
    "a key twice below": b'{"a:":[{"b":1,"c":":","b":2}]}',
}


@pytest.mark.failure("X2", "X5")
@pytest.mark.parametrize("raw", BAD.values(), ids=BAD.keys())
def test_refuses(raw):
    """What is not strict JSON is refused as ``invalid_json``, within 50 ms of work."""
    began = process_time()
    with pytest.raises(Refusal) as caught:
        parse_json(raw)
    assert caught.value.code == "invalid_json"
    assert process_time() - began < 0.05


@pytest.mark.failure("X5")
def test_keys_by_the_hundred_thousand():
    """An object of 100,000 keys costs little, and is then refused by who reads its fields."""
    raw = json.dumps({str(number): number for number in range(100_000)}).encode()
    began = process_time()
    assert len(parse_object(raw)) == 100_000
    assert process_time() - began < 0.5


def test_takes_the_limits():
    """The greatest depth and integers that are allowed are taken."""
    deep = parse_json(b"[" * JSON_DEPTH_MAX + b"]" * JSON_DEPTH_MAX)
    assert parse_json(b"[9223372036854775807,-9223372036854775808]") == [2**63 - 1, -(2**63)]
    for _ in range(JSON_DEPTH_MAX - 1):
        (deep,) = deep
    assert deep == []


def test_brackets_in_strings_do_not_count():
    """Depth is of the value, not of the characters."""
    assert parse_json(json.dumps(["[{" * 1000]).encode()) == ["[{" * 1000]


def test_only_objects():
    """A body is an object; none at all is an empty one only where that is allowed."""
    for raw in (b"[]", b"1", b"null", b'"a"'):
        with pytest.raises(Refusal) as caught:
            parse_object(raw)
        assert caught.value.code == "invalid_body"
    assert parse_object(b" ", empty=True) == {}
    with pytest.raises(Refusal):
        parse_object(b"")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda deeper: st.lists(deeper) | st.dictionaries(st.text('a:"\\{é\n'), deeper),
    max_leaves=20,
)


@given(JSON)
def test_takes_every_json(value):
    """Whatever is JSON comes out as it went in, escaped or not."""
    for ascii_only in (True, False):
        assert parse_json(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@given(st.lists(st.tuples(st.text('a:"\\', max_size=3), JSON), max_size=5))
def test_finds_every_key_given_twice(pairs):
    """An object is refused exactly when it has a key twice, whatever colons its strings hold."""
    inside = ",".join(f"{json.dumps(key)}:{json.dumps(value)}" for key, value in pairs)
    raw = f'[{{"x":{{{inside}}}}}]'.encode()
    if len({key for key, _ in pairs}) == len(pairs):
        assert parse_json(raw) == [{"x": dict(pairs)}]
    else:
        with pytest.raises(Refusal, match="twice"):
            parse_json(raw)
