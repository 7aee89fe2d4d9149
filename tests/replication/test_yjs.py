"""The Yjs updates that are built here are those of pycrdt, and a document can be rebuilt."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from perdure.replication.ids import client_id
from perdure.replication.items import End, Entry, Mark
from perdure.replication.yjs import ROOT, LiveDocument, encode_update
from pycrdt import Array, Doc

from tests.replication.strategies import entries, lane_key


def as_value(entry: Entry) -> object:
    if isinstance(entry, Mark):
        return {"mark": entry.text}
    return {"end": entry.status} if isinstance(entry, End) else entry


@given(st.lists(st.lists(entries, min_size=1, max_size=5), min_size=1, max_size=5))
def test_updates_are_byte_identical_to_pycrdts(batches: list[list[Entry]]) -> None:
    """Each batch, inserted by pycrdt with the same client id, gives the bytes that we build."""
    client = client_id(lane_key())
    doc: Doc[Array[object]] = Doc(client_id=client)
    array: Array[object] = doc.get(ROOT, type=Array)
    updates: list[bytes] = []
    doc.observe(lambda event: updates.append(event.update))
    clock = 0
    for batch in batches:
        with doc.transaction():
            array.extend([as_value(entry) for entry in batch])
        origin = (client, clock - 1) if clock else None
        assert encode_update(client, clock, tuple(batch), origin) == updates[-1]
        clock += len(batch)


@given(st.lists(entries, min_size=1, max_size=10), st.data())
def test_a_rebuilt_document_equals_the_live_one(whole: list[Entry], data: st.DataObject) -> None:
    """In pieces, repeated and in any order, or at once: the same sequence, byte for byte."""
    key = lane_key()
    edges = sorted({0, len(whole), *data.draw(st.lists(st.integers(0, len(whole)), max_size=4))})
    spans = list(pairwise(edges))
    live = LiveDocument()
    for start, stop in data.draw(st.permutations(spans + spans[:1])):
        live.insert(key, start, tuple(whole[start:stop]))
    rebuilt = LiveDocument()
    rebuilt.insert(key, 0, tuple(whole))
    assert live.entries() == rebuilt.entries() == whole
    assert live.update() == rebuilt.update()


@given(
    st.lists(entries, min_size=1, max_size=6),
    st.lists(entries, min_size=1, max_size=4),
    st.data(),
)
def test_a_claim_stands_right_of_its_base(
    first: list[Entry], second: list[Entry], data: st.DataObject
) -> None:
    """I1: a claim's first item has its base for a left origin; a zombie's later items converge."""
    base = data.draw(st.integers(1, len(first)))
    one, two = lane_key(1, "p", 1), lane_key(2, "q", 2)
    inserts = [(one, 0, tuple(first), None), (two, 0, tuple(second), (one, base))]
    documents = []
    for order in (inserts, inserts[::-1]):
        document = LiveDocument()
        for lane, seq, content, origin in order:
            document.insert(lane, seq, content, origin)
        documents.append(document)
    assert documents[0].entries() == documents[1].entries()
    held = documents[0].entries()
    assert held[:base] == first[:base]
    assert sorted(map(repr, held)) == sorted(map(repr, first + second))
