"""The messages of y-websocket are read whole or refused, and who is here follows y-protocols."""

import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from perdure.replication.lib0 import YjsError, encode_octets, encode_uint
from perdure.replication.yjs_parser import YJS_CLOCK_MAX, parse_update
from perdure.replication.yjs_sync import (
    YJS_AWARENESS_CLIENTS_MAX,
    YJS_AWARENESS_STATE_BYTES_MAX,
    YJS_MESSAGE_BYTES_MAX,
    Awareness,
    AwarenessUpdate,
    Moved,
    PermissionDenied,
    Presence,
    QueryAwareness,
    SyncStep1,
    SyncStep2,
    SyncUpdate,
    decode_awareness,
    decode_message,
    encode_awareness,
    encode_awareness_message,
    encode_permission_denied,
    encode_query_awareness,
    encode_step_1,
    encode_step_2,
    encode_sync_update,
)
from pycrdt import Doc, Text, create_sync_message, create_update_message, handle_sync_message

from tests.replication.yjs_made import AWARENESS, STEP_1, STEP_2, SYNC_UPDATE

clients = st.integers(0, 2**53 - 1)
clocks = st.integers(0, YJS_CLOCK_MAX)
states = st.one_of(
    st.none(),
    st.dictionaries(st.text(max_size=4), st.one_of(st.text(max_size=4), st.integers()), max_size=3),
)
presences = st.lists(
    st.builds(
        lambda client, clock, state: Presence(
            client, clock, None if state is None else json.dumps(state, ensure_ascii=False)
        ),
        *(clients, clocks, states),
    ),
    max_size=4,
    unique_by=lambda entry: entry.client,
)


def code(data: bytes) -> str:
    with pytest.raises(YjsError) as refused:
        decode_message(data)
    return refused.value.code


def told(*entries: tuple[int, int, str]) -> bytes:
    """An awareness message of these states, whatever they are."""
    return encode_awareness_message([Presence(*entry) for entry in entries])


# Messages


def test_what_y_protocols_wrote_comes_back() -> None:
    """Read, and written again in the same bytes."""
    first = decode_message(bytes.fromhex(STEP_1))
    assert first == SyncStep1({11: 2})
    assert encode_step_1(first.vector).hex() == STEP_1
    second = decode_message(bytes.fromhex(STEP_2))
    assert isinstance(second, SyncStep2)
    assert second.update == parse_update(second.data)
    assert encode_step_2(second.data).hex() == STEP_2
    edit = decode_message(bytes.fromhex(SYNC_UPDATE))
    assert isinstance(edit, SyncUpdate)
    assert edit.update.clients == {11}
    assert encode_sync_update(edit.data).hex() == SYNC_UPDATE


def test_what_pycrdt_writes_comes_back() -> None:
    """Its sync messages, and the whole exchange between one of its documents and ours."""
    mine, theirs = Doc(client_id=1), Doc(client_id=2)
    theirs.get("t", type=Text).insert(0, "hello")
    asked = decode_message(create_sync_message(theirs))
    assert asked == SyncStep1({2: 5})
    reply = handle_sync_message(encode_step_1({})[1:], theirs)
    assert reply is not None
    answered = decode_message(reply)
    assert isinstance(answered, SyncStep2)
    mine.apply_update(answered.data)
    assert str(mine.get("t", type=Text)) == "hello"
    assert decode_message(create_update_message(answered.data)) == SyncUpdate(*answered)


def test_awareness_as_y_protocols_wrote_it() -> None:
    """A client comes, moves its cursor, leaves; written again in the same bytes."""
    here = Awareness()
    moves = []
    for text in AWARENESS:
        entries = decode_awareness(bytes.fromhex(text))
        assert encode_awareness(entries).hex() == text
        moves.append(here.apply(entries))
    assert moves == [Moved(added=(11,)), Moved(updated=(11,)), Moved(removed=(11,))]
    assert len(here) == 0


@given(presences)
def test_awareness_comes_back(entries: list[Presence]) -> None:
    """Any states, in their own words."""
    expected = AwarenessUpdate(tuple(entries))
    assert decode_message(encode_awareness_message(entries)) == expected


@given(st.dictionaries(clients, clocks, max_size=5), st.text(max_size=20))
def test_small_messages_come_back(vector: dict[int, int], reason: str) -> None:
    """A vector, a reason, a question."""
    assert decode_message(encode_step_1(vector)) == SyncStep1(vector)
    assert decode_message(encode_permission_denied(reason)) == PermissionDenied(reason)
    assert decode_message(encode_query_awareness()) == QueryAwareness()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "truncated"),
        (b"\x04", "message"),
        (b"\x00\x03\x00", "message"),
        (b"\x02\x01", "message"),
        (b"\x03\x00", "trailing"),
        (b"\x00\x00\x01\x00\x00", "trailing"),
        (b"\x00\x00\x05\x00", "truncated"),
        (b"\x00\x02\x02\x00\x00\x00", "trailing"),
        (encode_sync_update(bytes.fromhex("010005000000000000")), "empty"),
        (encode_step_1({})[:2] + encode_octets(b"\xff\xff\xff\x7f"), "too_many"),
        (b"\x02\x00\x01\xff", "utf8"),
        (b"\x01" + encode_octets(encode_uint(YJS_AWARENESS_CLIENTS_MAX + 1)), "too_many"),
        (b"\x01" + encode_octets(b"\x02\x01\x01\x02{}"), "truncated"),
        (told((1, 1, "{}"), (1, 2, "{}")), "client"),
        (told((1, YJS_CLOCK_MAX + 1, "{}")), "number"),
        (told((2**53, 1, "{}")), "number"),
        (told((1, 1, "[]")), "awareness"),
        (told((1, 1, "1")), "awareness"),
        (told((1, 1, "")), "json"),
        (told((1, 1, "undefined")), "json"),
        (told((1, 1, '{"a":NaN}')), "json"),
        (told((1, 1, '{"a":"\\ud800"}')), "json"),
        (told((1, 1, '{"a":' + "[" * 64 + "]" * 64 + "}")), "too_deep"),
        (told((1, 1, json.dumps({"a": "x" * YJS_AWARENESS_STATE_BYTES_MAX}))), "too_long"),
        (bytes(YJS_MESSAGE_BYTES_MAX + 1), "too_long"),
    ],
)
def test_what_is_no_message(data: bytes, expected: str) -> None:
    """Refused, with a code that is stable."""
    assert code(data) == expected


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=40))
def test_nothing_else_is_ever_raised(data: bytes) -> None:
    """Whatever the bytes."""
    with suppress(YjsError):
        decode_message(data)


# Who is here


def one(clock: int, state: str | None = "{}", client: int = 1) -> list[Presence]:
    return [Presence(client, clock, state)]


def test_the_higher_clock_wins() -> None:
    """And nothing else does, but the end at the same clock."""
    here = Awareness()
    assert here.apply(one(0)) == Moved()  # a first state, as y-protocols has it
    assert here.apply(one(2, '{"a":1}')) == Moved(added=(1,))
    assert here.apply(one(2, '{"a":2}')) == Moved()
    assert here.apply(one(1, None)) == Moved()
    assert here.apply(one(3, '{"a":1}')) == Moved(renewed=(1,))
    assert here.apply(one(4, '{"a":2}')) == Moved(updated=(1,))
    assert here.entries() == (Presence(1, 4, '{"a":2}'),)
    assert here.apply(one(4, None)) == Moved(removed=(1,))
    assert here.apply(one(4, None)) == Moved()
    assert here.apply(one(4)) == Moved()
    assert here.entries() == ()
    assert here.entries([1, 9]) == (Presence(1, 4, None),)
    assert here.apply(one(5)) == Moved(added=(1,))


def test_who_is_removed_can_be_told_of() -> None:
    """What follows from a lost connection ends the client everywhere, and not for ever."""
    here, there = Awareness(), Awareness()
    for one_ in (here, there):
        one_.apply([*one(3), *one(1, client=2)])
    moved = here.remove([1, 5])
    assert moved == Moved(removed=(1,))
    assert there.apply(here.entries(moved.removed)) == Moved(removed=(1,))
    assert there.apply(one(4)) == Moved(added=(1,))
    assert here.remove([1]) == Moved()


def test_an_end_that_comes_first_is_kept() -> None:
    """An older state that comes after it brings nobody back."""
    here = Awareness()
    assert here.apply(one(5, None)) == Moved()
    assert here.apply(one(4)) == Moved()


def test_there_is_room_for_so_many() -> None:
    """Who left longest ago is forgotten first; who is here never is."""
    here = Awareness()
    everybody = [Presence(client, 1, "{}") for client in range(YJS_AWARENESS_CLIENTS_MAX)]
    here.apply(everybody)
    with pytest.raises(YjsError) as refused:
        here.apply([*one(2), *one(1, client=9_999)])
    assert refused.value.code == "too_many"
    assert here.entries([1]) == (Presence(1, 1, "{}"),)
    here.remove([7])
    here.remove([3])
    assert here.apply(one(1, client=9_999)) == Moved(added=(9_999,))
    assert here.entries([7, 3]) == (Presence(3, 1, None),)
    assert len(here) == YJS_AWARENESS_CLIENTS_MAX - 1


@given(st.lists(presences, max_size=5), st.randoms(use_true_random=False))
def test_all_end_up_with_the_same(updates: list[list[Presence]], random) -> None:
    """In any order, repeated: the newest of every client, as far as clocks tell them apart."""
    newest: dict[int, Presence] = {}
    seen = set()
    for entry in (entry for update in updates for entry in update):
        if (entry.client, entry.clock) in seen or entry.clock == 0:
            return
        seen.add((entry.client, entry.clock))
        newest[entry.client] = max(newest.get(entry.client, entry), entry, key=lambda e: e.clock)
    here = Awareness()
    shuffled = [*updates, *updates]
    random.shuffle(shuffled)
    for update in shuffled:
        here.apply(update)
    assert set(here.entries(newest)) == set(newest.values())
