"""What Yjs clients write is read and described as it is; all else is refused, with a code."""

from contextlib import suppress
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from perdure.replication.lib0 import Reader, YjsError, encode_text, encode_uint
from perdure.replication.yjs_outline import YJS_TYPES_DEPTH_MAX, Holds, Outline
from perdure.replication.yjs_parser import (
    YJS_CLIENTS_MAX,
    YJS_CLOCK_MAX,
    YJS_STRUCTS_MAX,
    YJS_UPDATE_BYTES_MAX,
    Kind,
    Type,
    missing,
    parse_update,
    parse_vector,
)
from perdure.replication.yjs_sync import encode_vector
from pycrdt import Array, Doc, Map, Text

from tests.fuzz.corpus import history
from tests.fuzz.making import (
    NONE,
    binary,
    deleted,
    deleting,
    embed,
    format_,
    gc,
    item,
    skip,
    string,
    type_,
    update,
    values,
)
from tests.replication.yjs_made import STATES, YJS

CLIENT = 7


def one(*structs: bytes, clock: int = 0) -> bytes:
    return update((CLIENT, clock, structs))


def code(data: bytes) -> str:
    with pytest.raises(YjsError) as refused:
        parse_update(data)
    return refused.value.code


def fit_code(outline: Outline, data: bytes) -> str:
    with pytest.raises(YjsError) as refused:
        outline.fit(parse_update(data))
    return refused.value.code


def outline_of(*updates: bytes) -> Outline:
    outline = Outline()
    for data in updates:
        outline.add(outline.fit(parse_update(data)))
    return outline


# What clients write


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**9), st.integers(1, 40))
def test_everything_that_pycrdt_makes_is_taken(seed: int, steps: int) -> None:
    """Edits of every kind, merges and differences: taken, in place, and described rightly."""
    docs, logs = history(Random(seed), steps)
    for doc, log in zip(docs, logs, strict=True):
        outline = Outline()
        for data in log:
            parsed = parse_update(data)
            assert missing(parsed, outline.state) == {}
            outline.add(outline.fit(parsed))
        assert outline.state == parse_vector(doc.get_state())
        whole = parse_update(doc.get_update())
        assert {block.client: block.end for block in whole.blocks} == outline.state
        assert all(block.start == 0 for block in whole.blocks)
        assert outline_of(doc.get_update()).state == outline.state
        assert set(outline.roots) <= {"t", "a", "m", "x"}


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**9), st.integers(4, 30))
def test_differences_begin_where_the_vector_ends(seed: int, steps: int) -> None:
    """A difference against a state vector fits on top of that state, and not below it."""
    docs, logs = history(Random(seed), steps)
    older = Doc(client_id=99)
    for data in logs[0][: len(logs[0]) // 2]:
        older.apply_update(data)
    state = parse_vector(older.get_state())
    parsed = parse_update(docs[0].get_update(older.get_state()))
    assert missing(parsed, state) == {}
    for block in parsed.blocks:
        assert block.start == state.get(block.client, 0)
    outline = outline_of(older.get_update())
    outline.add(outline.fit(parsed))
    assert outline.state == parse_vector(docs[0].get_state())


@pytest.mark.parametrize("name", ["text", "array", "map", "xml", "undo", "merge", "nogc", "empty"])
def test_what_yjs_wrote_is_taken(name: str) -> None:
    """Real updates, one by one and as a whole; pycrdt then has the state that we say."""
    outline, doc = Outline(), Doc(client_id=1)
    for text in YJS[name]:
        data = bytes.fromhex(text)
        outline.add(outline.fit(parse_update(data)))
        doc.apply_update(data)
    assert parse_vector(doc.get_state()) == outline.state
    if name in STATES:
        assert parse_vector(bytes.fromhex(STATES[name])) == outline.state
        assert encode_vector(outline.state).hex() == STATES[name]


def test_the_roots_of_what_yjs_wrote() -> None:
    """What each root holds is known, so that it can be read as what it is."""
    held = {name: outline_of(*map(bytes.fromhex, YJS[name])).roots for name in STATES}
    assert held["text"] == {"t": Holds.TEXT | Holds.KEYS}
    assert held["array"] == {"a": Holds.VALUES | Holds.TYPES}
    assert held["map"] == {"m": Holds.KEYS}
    assert held["xml"] == {"x": Holds.TYPES}


def test_the_summary_says_what_there_is() -> None:
    """Clients, ranges, kinds, roots, bytes and deletions, of an update made by hand."""
    parsed = parse_update(
        update(
            (9, 3, [string("a😀", parent="t"), format_("b", "true", left=(9, 5))]),
            (8, 0, [type_(1, parent="a"), values(NONE, b"\x77\x01q", parent=(8, 0), key="k")]),
            deletes=deleting((9, [(3, 1), (5, 1)]), (4, [(0, 2)])),
        )
    )
    assert parsed.clients == {8, 9}
    assert [(block.client, block.start, block.end) for block in parsed.blocks] == [
        (9, 3, 7),
        (8, 0, 3),
    ]
    assert parsed.structs == 4
    assert parsed.kinds == {Kind.STRING, Kind.FORMAT, Kind.TYPE, Kind.ANY}
    assert parsed.roots == {"t", "a"}
    assert parsed.content_bytes == 6 + 7 + 1 + 5
    assert parsed.values == 3  # of the format, and two
    assert parsed.deletes == ((9, ((3, 1), (5, 1))), (4, ((0, 2),)))
    text, mark = parsed.blocks[0].structs
    assert (text.length, text.halves, text.parent) == (3, (5,), "t")
    assert (mark.left, mark.parent) == ((9, 5), None)
    map_, entry = parsed.blocks[1].structs
    assert (map_.type, entry.parent, entry.key) == (Type.MAP, (8, 0), "k")


def test_every_any_value_is_read() -> None:
    """All types of lib0, nested."""
    tags = [b"\x7f", b"\x7e", b"\x79", b"\x78", b"\x7c" + bytes(4), b"\x7b" + bytes(8)]
    tags += [b"\x7a" + b"\xff" * 8, b"\x7d\x7f", b"\x7d\xff\xff\xff\xff\x0f", b"\x77\x02\xc3\xa9"]
    tags += [b"\x74\x03\x00\xff\x80", b"\x75\x02\x7f\x75\x00", b"\x76\x01\x01k\x76\x00"]
    parsed = parse_update(one(values(*tags)))
    assert parsed.blocks[0].end == len(tags)
    assert parsed.values == len(tags) + 3


# What is refused: each is the smallest of its kind


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "truncated"),
        (b"\x00", "truncated"),
        (b"\x00\x00\x00", "trailing"),
        (bytes.fromhex("0100050000"), "truncated"),  # pycrdt panics
        (bytes.fromhex("010005000000000000"), "empty"),  # and here, with more bytes
        (b"\x01" + b"\x01\x05\x00", "truncated"),
        (b"\xff\xff\xff\xff\x0f", "too_many"),  # pycrdt reserves memory for so many clients
        (encode_uint(YJS_CLIENTS_MAX) + b"\x00", "truncated"),
        (b"\x80" * 9 + b"\x00\x00", "number"),
        (b"\x80\x00\x00", "number"),  # more bytes than it takes
        (one(item(7, b"\x80\x00")), "number"),  # pycrdt reads one byte
        (one(values(b"\x7d\xbf\x00")), "number"),
        (update((CLIENT, 0, [gc(1)]), (CLIENT, 1, [gc(1)])), "client"),
        (one(gc(0)), "empty"),
        (one(skip(0)), "empty"),
        (one(deleted(0)), "empty"),
        (one(string("")), "empty"),
        (one(values()), "empty"),
        (one(b"\x80\x01"), "kind"),  # a flag on what was collected
        (one(item(2, b"\x01" + encode_text("1"))), "kind"),  # JSON: pycrdt reads beyond it
        (bytes.fromhex(YJS["subdoc"][0]), "kind"),
        (one(item(11, b"\x00\x07\x00")), "kind"),  # a move
        (one(item(12, b"\x00")), "kind"),
        (one(item(4 | 0x10, encode_text("a"))), "kind"),
        (bytes.fromhex(YJS["hook"][0]), "type"),
        (one(type_(7)), "type"),  # a weak link
        (one(type_(9)), "type"),
        (one(type_(15)), "type"),
        (one(gc(1), clock=YJS_CLOCK_MAX), "clock"),
        (one(gc(YJS_CLOCK_MAX), gc(1)), "clock"),
        (one(gc(2**32)), "number"),
        (one(string("a", left=(CLIENT, 0))), "reference"),
        (one(string("a", right=(CLIENT, 5))), "reference"),
        (one(type_(0, parent=(CLIENT, 0))), "reference"),
        (one(b"\x04\x02\x01x\x01a"), "parent"),
        (one(item(4, b"\x01\xff")), "utf8"),
        (one(item(4, b"\x03\xed\xa0\x80")), "utf8"),  # half a surrogate pair
        (one(item(4, b"\xff\xff\xff\x07a")), "truncated"),
        (one(embed("")), "json"),
        (one(embed("NaN")), "json"),
        (one(embed("1e999")), "json"),
        (one(embed('"\\ud800"')), "json"),
        (one(embed("[" * 100_000)), "json"),
        (one(embed("[" * 65 + "]" * 65)), "too_deep"),
        (one(embed("[" + "0," * 70_000 + "0]")), "too_many"),
        (one(format_("b", "undefined")), "json"),
        (one(values(b"\x00")), "any"),
        (one(values(b"\x76\x02\x01k\x7f\x01k\x7f")), "any"),
        (one(values(b"\x75\x01" * 65 + b"\x7f")), "too_deep"),
        (one(item(8, b"\x01\x75\xff\xff\x03")), "truncated"),
        (one(item(8, encode_uint(70_000) + b"\x7f" * 70_000)), "too_many"),
        (one(string("a", parent="r" * 4_097)), "too_long"),
        (update(deletes=deleting((CLIENT, [])) + b"\x00\x00"), "empty"),
        (update(deletes=deleting((CLIENT, [(0, 0)]))), "deletes"),
        (update(deletes=deleting((CLIENT, [(4, 2), (0, 1)]))), "deletes"),
        (update(deletes=deleting((CLIENT, [(0, 3), (2, 1)]))), "deletes"),
        (update(deletes=deleting((CLIENT, [(0, 1)]), (CLIENT, [(3, 1)]))), "client"),
        (update(deletes=deleting((CLIENT, [(YJS_CLOCK_MAX, 1)]))), "clock"),
        (b"\x00\x01\x05\xff\xff\xff\x0f", "too_many"),
        (b"\x00" * (YJS_UPDATE_BYTES_MAX + 1), "too_long"),
    ],
)
def test_what_no_client_writes_is_refused(data: bytes, expected: str) -> None:
    """With a code that is stable."""
    assert code(data) == expected


def test_at_most_so_many_structs() -> None:
    """The limit holds for all clients together."""
    half = [gc(1)] * (YJS_STRUCTS_MAX // 2)
    assert parse_update(update((1, 0, half), (2, 0, half))).structs == YJS_STRUCTS_MAX
    assert code(update((1, 0, half), (2, 0, half), (3, 0, [gc(1), gc(1)]))) == "too_many"


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_nothing_else_is_ever_raised(data: bytes) -> None:
    """Whatever the bytes."""
    for parse in (parse_update, parse_vector):
        with suppress(YjsError):
            parse(data)


# Numbers and vectors


@given(st.integers(0, 2**53 - 1))
def test_numbers_come_back(number: int) -> None:
    """Unsigned ones, of up to 53 bits."""
    reader = Reader(encode_uint(number))
    assert reader.uint() == number
    reader.finish()


@pytest.mark.parametrize(
    ("raw", "number"),
    [
        ("00", 0),
        ("3f", 63),
        ("41", -1),
        ("8001", 64),
        ("ff7f", -8191),
        ("bfffffffffffff7f", None),
        ("8000", None),
    ],
)
def test_signed_numbers(raw: str, number: int | None) -> None:
    """Six bits and a sign, then seven bits a byte."""
    reader = Reader(bytes.fromhex(raw))
    if number is None:
        with pytest.raises(YjsError):
            reader.integer()
    else:
        assert reader.integer() == number


@given(st.dictionaries(st.integers(0, 2**53 - 1), st.integers(0, YJS_CLOCK_MAX)))
def test_vectors_come_back(vector: dict[int, int]) -> None:
    """Any state vector."""
    assert parse_vector(encode_vector(vector)) == vector


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("", "truncated"),
        ("ffffff7f", "too_many"),  # pycrdt reserves 280 MB
        ("8080", "truncated"),
        ("020101", "truncated"),
        ("0201010102", "client"),
        ("0101ffffffff0f", "number"),
        ("000000", "trailing"),
    ],
)
def test_vectors_that_are_none(raw: str, expected: str) -> None:
    """Refused before anything is reserved."""
    with pytest.raises(YjsError) as refused:
        parse_vector(bytes.fromhex(raw))
    assert refused.value.code == expected


# What is missing, and what fits


@pytest.mark.parametrize(
    ("data", "state", "expected"),
    [
        (one(string("a")), {}, {}),
        (one(string("a"), clock=3), {}, {CLIENT: 3}),
        (one(string("a"), clock=3), {CLIENT: 3}, {}),
        (one(string("a"), clock=3), {CLIENT: 9}, {}),
        (one(string("a", left=(8, 4))), {8: 4}, {8: 5}),
        (one(string("a", left=(8, 4))), {8: 5}, {}),
        (one(string("a", left=(8, 4), right=(8, 6))), {}, {8: 7}),
        (one(string("a", left=(8, 4))), {CLIENT: 1}, {}),  # known already
        (one(type_(0, parent=(8, 0))), {}, {8: 1}),
        (one(string("a"), skip(2), string("b", left=(CLIENT, 0))), {}, {CLIENT: 3}),
        (one(string("a"), skip(2), string("b", left=(CLIENT, 0))), {CLIENT: 3}, {}),
        (update(deletes=deleting((8, [(0, 2), (5, 2)]))), {8: 6}, {8: 7}),
        (update((8, 0, [gc(7)]), deletes=deleting((8, [(5, 2)]))), {}, {}),
        (bytes.fromhex(YJS["skip"][0]), {}, {CLIENT: 2}),
        (bytes.fromhex(YJS["pending"][0]), {}, {CLIENT: 2}),
    ],
)
def test_what_is_missing(data: bytes, state: dict[int, int], expected: dict[int, int]) -> None:
    """Up to which clock of whom, so that the update can be parked until then."""
    assert missing(parse_update(data), state) == expected


BASE = update(
    (1, 0, [string("a😀b", parent="t"), values(NONE, parent="a"), type_(1, parent="a")]),
    (2, 0, [type_(0, parent="a"), deleted(2, parent="a"), gc(3)]),
)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (one(string("x", parent=(1, 0))), "parent"),  # pycrdt stops in the middle
        (one(string("x", parent="a")), "content"),  # read as an Array: for ever, if it holds 😀
        (one(string("x", left=(1, 4))), "content"),
        (one(string("x", parent=(2, 0))), "content"),
        (one(values(NONE, parent="t")), "content"),
        (one(values(NONE, parent=(1, 5))), "content"),  # in a Map, without a key
        (one(format_("b", "true", parent=(1, 5), key="k")), "content"),  # to_py raises KeyError
        (one(string("x", left=(1, 1))), "half"),  # pycrdt hands out empty strings
        (one(string("x", right=(1, 2))), "half"),
        (update(deletes=deleting((1, [(2, 1)]))), "half"),
        (update(deletes=deleting((1, [(0, 2)]))), "half"),
        (one(string("x", left=(1, 0), right=(1, 4))), "neighbours"),
        (one(string("x", left=(3, 0))), "gap"),
        (one(string("x", parent="t"), clock=1), "gap"),
        (one(string("x", parent="t"), skip(1), gc(1)), "gap"),
        (update(deletes=deleting((1, [(0, 9)]))), "gap"),
        (update((1, 3, [values(NONE, NONE, NONE, NONE, parent="b")])), "overlap"),
        (
            update((5, 0, [type_(0, parent=(6, 0))]), (6, 0, [type_(0, parent=(5, 0))])),
            "gap",
        ),  # a circle
    ],
)
def test_what_does_not_fit(data: bytes, expected: str) -> None:
    """What the parser cannot know; nothing is changed."""
    outline = outline_of(BASE)
    before = (outline.state, outline.roots)
    assert fit_code(outline, data) == expected
    assert (outline.state, outline.roots) == before


@pytest.mark.parametrize(
    "data",
    [
        one(string("x", left=(1, 2))),
        one(values(NONE, parent=(1, 5), key="k")),
        one(values(NONE, parent=(2, 1))),  # under what was deleted, whatever it was
        one(values(NONE, parent=(2, 4))),
        one(string("x", left=(2, 4))),
        one(binary(b"", parent=(2, 0))),
        update((1, 2, [gc(5)])),
        BASE,
        update((5, 0, [values(NONE, left=(6, 1))]), (6, 0, [type_(0, parent="a"), gc(1)])),
    ],
)
def test_what_fits(data: bytes) -> None:
    """And pycrdt then has the state that the outline says."""
    outline, doc = outline_of(BASE), Doc(client_id=99)
    doc.apply_update(BASE)
    outline.add(outline.fit(parse_update(data)))
    doc.apply_update(data)
    assert parse_vector(doc.get_state()) == outline.state


def test_types_lie_only_so_deep() -> None:
    """In one update or over many; pycrdt's reading recurses. What is allowed can be read."""
    types = [type_(0, parent="a")]
    types += [type_(0, parent=(CLIENT, n)) for n in range(YJS_TYPES_DEPTH_MAX - 1)]
    innermost = values(b"\x75\x01" * 63 + NONE, parent=(CLIENT, YJS_TYPES_DEPTH_MAX - 1))
    data = one(*types, innermost)
    outline = outline_of(data)
    deeper = type_(0, parent=(CLIENT, YJS_TYPES_DEPTH_MAX - 1))
    assert fit_code(outline, one(deeper, clock=YJS_TYPES_DEPTH_MAX + 1)) == "too_deep"
    assert fit_code(Outline(), one(*types, deeper)) == "too_deep"
    doc: Doc[Array[object]] = Doc(client_id=99)
    doc.apply_update(data)
    assert str(doc.get("a", type=Array)).count("[") == 1 + YJS_TYPES_DEPTH_MAX + 63
    doc.get("a", type=Array).to_py()


def test_what_another_region_admitted_may_mix_a_root() -> None:
    """When each side of a split took something else; it is then read as Text."""
    outline = outline_of(BASE)
    mixing = one(string("😀", parent="a"))
    assert fit_code(outline, mixing) == "content"
    outline.add(outline.fit(parse_update(mixing), admitted=True))
    assert outline.roots["a"] == Holds.TEXT | Holds.VALUES | Holds.TYPES
    doc: Doc[Text] = Doc(client_id=99)
    doc.apply_update(BASE)
    doc.apply_update(mixing)
    assert str(doc.get("a", type=Text)) == "😀"


def test_nothing_comes_between_values_of_one_key() -> None:
    """A run of overwritten values is one thing."""
    outline = outline_of(one(values(NONE, NONE, NONE, parent="m", key="k")))
    assert fit_code(outline, update((8, 0, [values(NONE, left=(CLIENT, 1))]))) == "half"
    outline.fit(parse_update(update((8, 0, [values(NONE, left=(CLIENT, 2))]))))


def test_half_a_character_as_yjs_deletes_it() -> None:
    """Yjs replaces both halves, pycrdt neither: refused, for the texts would differ."""
    first, second = map(bytes.fromhex, YJS["half_delete"])
    assert fit_code(outline_of(first), second) == "half"


def test_a_merged_struct_goes_on_from_what_is_known() -> None:
    """Clients merge what they wrote one after the other; the known beginning is no fault."""
    outline = outline_of(one(string("ab", parent="t")))
    outline.add(outline.fit(parse_update(one(string("abcd", parent="t"), gc(2)))))
    assert outline.state == {CLIENT: 6}
    again = outline_of(one(gc(2)))
    again.add(again.fit(parse_update(one(string("abcd", parent="t")))))
    assert again.state == {CLIENT: 4}


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**9), st.data())
def test_any_order_that_leaves_no_gap_fits(seed: int, data: st.DataObject) -> None:
    """Updates of three writers, parked until what they need has come, end in one state."""
    docs, logs = history(Random(seed), 12)
    pool = data.draw(st.permutations(list(dict.fromkeys(u for log in logs for u in log))))
    outline, target = Outline(), Doc(client_id=99)
    while pool:
        later = []
        for one_ in pool:
            parsed = parse_update(one_)
            if missing(parsed, outline.state):
                later.append(one_)
                continue
            outline.add(outline.fit(parsed))
            target.apply_update(one_)
        assert len(later) < len(pool)
        pool = later
    for doc in docs:
        docs[0].apply_update(doc.get_update())
    assert parse_vector(target.get_state()) == outline.state
    target.apply_update(docs[0].get_update(target.get_state()))
    for name, shared in (("t", Text), ("a", Array), ("m", Map)):
        assert target.get(name, type=shared).to_py() == docs[0].get(name, type=shared).to_py()
