"""Two regions find out that they may talk."""

import json
from typing import Any

import pytest
from perdure.replication.frames import Channel, Frame, FrameError, Kind
from perdure.replication.handshake import (
    Identity,
    LinkRefused,
    answer,
    challenge,
    check_hello,
    establish,
    expect,
)
from perdure.replication.records import Origin

SECRET = b"s" * 32
EU = Identity(Origin("eu", 1), 1_000, "e" * 64)
US = Identity(Origin("us", 2), 2_000, "a" * 64)
VECTOR = {Origin("eu", 1): 7}


def changed(payload: bytes, **fields: Any) -> bytes:
    return json.dumps({**json.loads(payload), **fields}).encode()


def test_both_come_to_know_each_other() -> None:
    """Names, incarnations, what the dialer holds; and then share a key that no other link has."""
    them, hello = answer(EU, challenge(US), "us", VECTOR)
    assert them == US
    assert check_hello(US, hello) == (EU, VECTOR)
    dialer, acceptor = Channel("d", SECRET), Channel("a", SECRET)
    establish(dialer, SECRET, EU, US)
    establish(acceptor, SECRET, EU, US)
    assert acceptor.decode(dialer.encode(Kind.VECTOR, b"{}")).payload == b"{}"


@pytest.mark.failure("C6")
def test_the_highest_common_version_is_chosen() -> None:
    """Versions that this region does not know do not matter while one is common."""
    for theirs, mine, chosen in (
        ([99, 1, "x", None], (1, 2), 1),
        ([1, 2, 3], (1, 2), 2),
        ([2, 1], (1,), 1),
        ([1], (1, 2), 1),
    ):
        them, hello = answer(EU, changed(challenge(US), versions=theirs), "us", {}, mine)
        assert json.loads(hello)["version"] == them.version == chosen
        assert check_hello(US, hello, (1, 2))[0].version == chosen


@pytest.mark.failure("C6")
@pytest.mark.parametrize("mine", [(1,), (1, 2)])
@pytest.mark.parametrize("theirs", [(1,), (1, 2)])
def test_both_sides_of_a_link_speak_the_same(mine: tuple[int], theirs: tuple[int]) -> None:
    """Whichever of the two is the older one."""
    them, hello = answer(EU, challenge(US, theirs), "us", {}, mine)
    met, _ = check_hello(US, hello, theirs)
    dialer, acceptor = Channel("d", SECRET), Channel("a", SECRET)
    establish(dialer, SECRET, EU, them)
    establish(acceptor, SECRET, met, US)
    assert dialer.version == acceptor.version == min(max(mine), max(theirs))
    assert acceptor.decode(dialer.encode(Kind.VECTOR, b"{}")).kind is Kind.VECTOR


@pytest.mark.failure("C6")
@pytest.mark.parametrize("versions", [[], [3], None, "1", {"1": 1}, [[1]]])
def test_without_a_common_version_there_is_no_link(versions: Any) -> None:
    """And it says so."""
    with pytest.raises(FrameError, match="no version in common"):
        answer(EU, changed(challenge(US), versions=versions), "us", {})


def test_a_region_of_another_name_is_not_the_peer() -> None:
    """A URL that leads to the wrong region is noticed by the dialer."""
    with pytest.raises(FrameError, match="foreign"):
        answer(EU, challenge(US), "ap", {})


@pytest.mark.failure("S8")
def test_a_recorded_hello_opens_nothing() -> None:
    """It answers another challenge than the acceptor's of today."""
    _, hello = answer(EU, challenge(US), "us", VECTOR)
    today = Identity(US.origin, US.started_ms, "b" * 64)
    with pytest.raises(FrameError, match="unauthenticated"):
        check_hello(today, hello)


@pytest.mark.failure("S8", "C7")
@pytest.mark.parametrize(
    "fields",
    [
        {"version": 3},
        {"version": True},
        {"version": 1.0},
        {"version": None},
        {"answers": None},
        {"answers": 1},
        {"region": "e u"},
        {"region": None},
        {"incarnation": "1"},
        {"incarnation": "0x0000000000001"},
        {"started_ms": -1},
        {"started_ms": 1.5},
        {"started_ms": True},
        {"started_ms": 2**54},
        {"nonce": "short"},
        {"nonce": "e" * 63 + "\n"},
        {"nonce": "E" * 64},
        {"nonce": "e" * 200},
        {"nonce": None},
        {"vector": None},
        {"vector": {"eu": 1}},
    ],
)
def test_a_malformed_hello_is_refused(fields: dict[str, Any]) -> None:
    """Every field is checked before anything is believed."""
    _, hello = answer(EU, challenge(US), "us", VECTOR)
    with pytest.raises(FrameError):
        check_hello(US, changed(hello, **fields))


def test_a_refusal_is_told_apart_from_a_wrong_frame() -> None:
    """With its code where this version knows it: a peer cannot invent labels of counters."""
    known = Frame(Kind.REFUSED, b'{"code":"name_in_use","detail":"x"}')
    with pytest.raises(LinkRefused) as refused:
        expect(known, Kind.WELCOME)
    assert refused.value.code == "name_in_use"
    for code in ('"anything"', "1", "null", "[]"):
        with pytest.raises(LinkRefused) as other:
            expect(Frame(Kind.REFUSED, b'{"code":%s}' % code.encode()), Kind.WELCOME)
        assert other.value.code == "other"
    with pytest.raises(FrameError, match="unexpected"):
        expect(Frame(Kind.VECTOR, b"{}"), Kind.WELCOME)
    assert expect(Frame(Kind.WELCOME, b"x"), Kind.WELCOME) == b"x"
