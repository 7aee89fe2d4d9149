"""Shared documents: what is merged in any order is the same, stored or not, told or logged."""

from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from perdure.replication import document, document_admission, limits
from perdure.replication.admission import Site
from perdure.replication.coding import decode, encode
from perdure.replication.document_admission import admit_discard, admit_edit, admit_update
from perdure.replication.document_value import appending, merging, replacing, value_of
from perdure.replication.errors import Malformed, Refusal
from perdure.replication.hlc import HybridClock
from perdure.replication.lib0 import YjsError
from perdure.replication.operations import Delete, Edit, Operation
from perdure.replication.retelling import tell
from perdure.replication.session import Session
from perdure.replication.yjs_parser import parse_update, parse_vector
from pycrdt import Array, Doc, Map, Text, XmlElement, XmlFragment, XmlText

from tests.fuzz.corpus import history
from tests.fuzz.making import string, update
from tests.replication.memory_archive import MemoryArchive, store, wake

NOW_MS = 1_800_000_000_000
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda below: st.lists(below, max_size=2) | st.dictionaries(st.text(max_size=2), below),
    max_leaves=4,
)
PATCHES = st.dictionaries(st.sampled_from("abc"), JSON, max_size=2)
DEEDS = ["text", "append", "json", "gossip", "sleep", "learn", "discard"]
TEXTS = st.text(st.sampled_from("ab é😀\n"), max_size=6)


@dataclass
class Replica:
    """A session in one region, and the operations that it has."""

    region: str
    session: Session = field(default_factory=lambda: Session("s"))
    archive: MemoryArchive = field(default_factory=MemoryArchive)
    clock: HybridClock = field(default_factory=HybridClock)
    log: list[bytes] = field(default_factory=list)
    drawn: int = 0

    def site(self) -> Site:
        return Site(self.region, self.clock, NOW_MS)

    def draw(self) -> int:
        self.drawn += 1
        return {"eu": 1, "us": 2, "ap": 3}[self.region] * 1_000_000 + self.drawn

    def edit(self, *changes: Any, id_: str = "d") -> None:
        self.accept(admit_edit(self.session, id_, list(changes), self.draw, self.site()))

    def update(self, data: bytes, id_: str = "d") -> bool:
        """An update of a client; whether it was news."""
        operations = admit_update(self.session, id_, data, parse_update(data), self.site())
        self.accept(operations)
        return bool(operations)

    def accept(self, operations: list[Operation]) -> None:
        for operation in operations:
            self.take(encode(operation))

    def take(self, body: bytes) -> None:
        self.log.append(body)
        self.session.apply(decode(body), None)

    def sleep(self) -> None:
        """Leave memory, and come back."""
        whole, view = self.session.whole(), self.view()
        store(self.session, self.archive)
        self.session = wake(self.session, self.archive)
        assert self.session.whole() == whole
        assert self.view() == view
        assert self.session.whole() == whole

    def learn(self, other: "Replica") -> None:
        """Absorb all of the other's session."""
        if not other.session.is_blank:
            store(other.session, other.archive)
            for piece in tell(other.session, other.region):
                self.take(encode(piece))

    def view(self) -> list[Any]:
        documents = self.session.documents
        found = (documents.get(id_) for id_ in documents.ids())
        return [held.value() for held in found if held is not None]


def document_of(data: st.DataObject, replica: Replica) -> str:
    """One that was not discarded there."""
    ids = [id_ for id_ in "de" if not replica.session.documents.is_discarded(id_)]
    return data.draw(st.sampled_from(ids or ["f"]))


@settings(deadline=None, max_examples=120)
@given(st.data())
def test_replicas_converge(data: st.DataObject) -> None:
    """Edits at three regions, told in any order, twice, late, around absorbed sessions and stays
    out of memory, come to the same documents, the same digests, and nothing that waits."""
    replicas = [Replica(name) for name in ("eu", "us", "ap")]
    for _ in range(data.draw(st.integers(1, 14))):
        replica = data.draw(st.sampled_from(replicas))
        other = data.draw(st.sampled_from(replicas))
        match data.draw(st.sampled_from(DEEDS)):
            case "text":
                replica.edit(replacing("text", data.draw(TEXTS)), id_=document_of(data, replica))
            case "append":
                replica.edit(appending("text", data.draw(TEXTS)), id_=document_of(data, replica))
            case "json":
                replica.edit(merging("json", data.draw(PATCHES)), id_=document_of(data, replica))
            case "gossip" if other.log:
                for body in data.draw(st.lists(st.sampled_from(other.log), max_size=6)):
                    replica.take(body)
            case "sleep":
                replica.sleep()
            case "learn":
                replica.learn(other)
            case "discard" if replica.session.documents.get("d") and data.draw(st.booleans()):
                replica.accept(admit_discard(replica.session, "d"))
    logs = [body for replica in replicas for body in replica.log]
    for replica in replicas:
        for body in data.draw(st.permutations(logs)):
            replica.take(body)
    views = [replica.view() for replica in replicas]
    assert views[0] == views[1] == views[2]
    assert len({replica.session.whole() for replica in replicas}) == 1
    for id_ in replicas[0].session.documents.ids():
        held = replicas[0].session.documents.get(id_)
        assert held is not None
        assert len(held.told()) == 1
    replicas[0].sleep()
    fresh = Replica("ap")
    fresh.learn(replicas[0])
    assert fresh.view() == views[0]
    assert fresh.session.whole() == replicas[1].session.whole()


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**9), st.integers(1, 25))
def test_whatever_clients_of_yjs_do_converges(seed: int, steps: int) -> None:
    """Edits of every kind, nested types, formats, XML, undone ones, in any order and again, with
    stays out of memory in the middle: the same document, as pycrdt merges it."""
    random = Random(seed)
    docs, logs = history(random, steps)
    updates = list(dict.fromkeys(data for log in logs for data in log))
    merged: Doc[Any] = Doc(client_id=99)
    for doc in docs:
        merged.apply_update(doc.get_update())
    wholes = set()
    for region in ("eu", "us", "ap"):
        replica = Replica(region)
        pool = [*updates, *random.choices(updates, k=len(updates) // 3)] if updates else []
        random.shuffle(pool)
        for data in pool:
            replica.take(encode(Edit("s", "d", data)))
            if random.random() < 0.1:
                replica.sleep()
        wholes.add(replica.session.whole())
        held = replica.session.documents.get("d")
        if held is not None:
            assert len(held.told()) == 1
            assert held.vector == parse_vector(merged.get_state())
            again: Doc[Any] = Doc(client_id=98)
            again.apply_update(held.since())
            assert value_of(again.get("json", type=Map)) == value_of(merged.get("json", type=Map))
    assert len(wholes) == 1


@settings(deadline=None, max_examples=60)
@given(TEXTS, TEXTS, PATCHES, PATCHES)
def test_edits_do_what_they_say(before: str, after: str, first: Any, second: Any) -> None:
    """A text becomes the one that is given; a map is patched as RFC 7396 says; again: nothing."""
    replica = Replica("eu")
    replica.edit(replacing("text", before), merging("json", first))
    replica.edit(replacing("text", after), merging("json", second))
    logged = len(replica.log)
    replica.edit(replacing("text", after), merging("json", second))
    assert len(replica.log) == logged
    for shown in replica.view():
        assert shown["text"] == after
        assert shown["json"] == _patched(_patched({}, first), second)


def _patched(value: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    patched = dict(value) if isinstance(value, dict) else {}
    for key, below in patch.items():
        patched.pop(key, None)
        if below is not None:
            patched[key] = _patched(value.get(key) if isinstance(value, dict) else None, below)
    return patched


def test_an_edit_changes_only_what_differs() -> None:
    """Two people's replacements of different words of one text both stay."""
    eu, us = Replica("eu"), Replica("us")
    eu.edit(replacing("text", "one two three"))
    us.learn(eu)
    eu.edit(replacing("text", "one two 3"))
    us.edit(replacing("text", "1 two three"))
    for body in us.log:
        eu.take(body)
    assert eu.view()[0]["text"] == "1 two 3"


@pytest.mark.parametrize(
    ("after", "shown"),
    [
        ("é😀Z", ["é", {"i": 1.0}, "😀Z"]),
        ("éZ😀", ["é", {"i": 1.0}, "Z😀"]),
        ("é", ["é", {"i": 1.0}]),
        ("😀", [{"i": 1.0}, "😀"]),
        ("xy", ["xy"]),
    ],
)
def test_what_is_embedded_stays_in_its_place(after: str, shown: list[Any]) -> None:
    """An edit of the characters around a picture leaves that where it is, unless it is amid what
    is replaced."""
    doc: Doc[Any] = Doc(client_id=9)
    text = doc.get("text", type=Text)
    text += "é😀"
    text.insert_embed(2, {"i": 1})
    text.format(0, 2, {"bold": True})
    replica = Replica("eu")
    replica.update(doc.get_update())
    replica.edit(replacing("text", after))
    held = replica.session.documents.get("d")
    assert held is not None
    doc.apply_update(held.since())
    assert [content for content, _ in text.diff()] == shown
    assert held.text() == after


def test_what_waits_is_stored_and_told() -> None:
    """An update without what it builds on is not shown, and is there when that comes."""
    eu, us = Replica("eu"), Replica("us")
    eu.edit(replacing("text", "a"))
    eu.edit(appending("text", "b"))
    create, first, second = eu.log
    us.take(create)
    us.take(second)
    assert us.view()[0]["text"] == ""
    us.sleep()
    ap = Replica("ap")
    ap.learn(us)
    for late in (us, ap):
        late.take(first)
        assert late.view() == eu.view()
        assert late.session.whole() == eu.session.whole()
        assert [update for _, update in late.session.documents.take_news()][-2:] == [
            decode(first).update,  # type: ignore[union-attr]
            decode(second).update,  # type: ignore[union-attr]
        ]


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest gives way; what another region tells makes up for it."""
    monkeypatch.setattr(document, "DOCUMENT_PARKED_MAX", 2)
    eu, us = Replica("eu"), Replica("us")
    for letter in "abcd":
        eu.edit(appending("text", letter))
    create, first, *rest = eu.log
    for body in (create, *rest, first):
        us.take(body)
    assert us.view()[0]["text"] == "a"
    us.learn(eu)
    assert us.view() == eu.view()
    assert us.session.whole() == eu.session.whole()


def test_what_brings_nothing_is_not_logged() -> None:
    """A client that comes back and tells everything it has, deletions too, costs nothing."""
    eu = Replica("eu")
    eu.edit(replacing("text", "abc"))
    eu.edit(replacing("text", "ac"), merging("json", {"a": 1}))
    held = eu.session.documents.get("d")
    assert held is not None
    client: Doc[Any] = Doc(client_id=9)
    client.apply_update(held.since())
    assert not eu.update(client.get_update())
    del client.get("text", type=Text)[0:1]
    assert eu.update(client.get_update())
    assert not eu.update(client.get_update())
    assert eu.view()[0]["text"] == "c"


def test_everything_of_yjs_can_be_shown() -> None:
    """Nested types, bytes, what JSON has no number for, and XML have a JSON value."""
    doc: Doc[Any] = Doc(client_id=9)
    held = doc.get("json", type=Map)
    held["n"] = [float("inf"), float("nan"), 2.0**60, -1.5, 3.0]
    held["b"] = b"ab"
    held["t"] = Text("x")
    held["a"] = Array([Map({"k": None})])
    held["x"] = XmlFragment([XmlElement("p", {}, [XmlText("hi")])])
    assert value_of(held) == {
        "n": [None, None, 2.0**60, -1.5, 3],
        "b": "YWI=",
        "t": "x",
        "a": [{"k": None}],
        "x": "<p>hi</p>",
    }


# What is refused


def code(replica: Replica, data: bytes) -> str:
    with pytest.raises(YjsError) as refused:
        replica.update(data)
    return refused.value.code


def test_what_does_not_fit_is_refused_and_changes_nothing() -> None:
    """A gap, a limit, and what is written in the name of the region."""
    eu = Replica("eu")
    eu.edit(replacing("text", "ab"))
    eu.edit(appending("text", "c"))
    held = eu.session.documents.get("d")
    assert held is not None
    assert held.writer is not None
    whole = eu.session.whole()
    assert code(eu, update((7, 5, [string("x", left=(7, 4))]))) == "gap"
    assert code(eu, update((held.writer, 1, [string("x", parent="text")]))) == "client"
    assert eu.session.whole() == whole


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("DOCUMENT_BYTES_MAX", 30),
        ("DOCUMENT_STRUCTS_MAX", 3),
        ("DOCUMENT_CLIENTS_MAX", 3),
        ("DOCUMENT_STEPS_MAX", 3),
    ],
)
def test_a_document_stays_within_its_limits(
    name: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients that write at one place come to each limit, and are refused from there on; what
    another region has logged is taken."""
    monkeypatch.setattr(document, name, most)
    eu, us = Replica("eu"), Replica("us")
    refused = 0
    for client in range(2, 40):
        data = update((client, 0, [string("x", parent="text")]))
        try:
            eu.update(data)
        except YjsError as error:
            refused += error.code == "too_large"
            us.take(encode(Edit("s", "d", data)))
    assert refused
    assert len(eu.view()[0]["text"]) + refused == 38
    us.learn(eu)
    assert us.view()[0]["text"] == "x" * 38


def test_edits_are_refused_in_the_callers_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many documents, too large a document, another kind of root, a deleted session."""
    eu = Replica("eu")
    eu.update(update((7, 0, [b"\x08\x01\x04text\x01\x77\x01x"])))
    with pytest.raises(Refusal, match="invalid_body"):
        eu.edit(appending("text", "x"))
    with pytest.raises(Refusal, match="too_large"):
        eu.edit(appending("text", "x" * limits.DOCUMENT_BYTES_MAX), id_="e")
    monkeypatch.setattr(document_admission, "DOCUMENTS_MAX", 1)
    with pytest.raises(Refusal, match="too_large"):
        eu.edit(appending("text", "x"), id_="f")
    eu.take(encode(Delete("s", None)))
    with pytest.raises(Refusal, match="deleted"):
        eu.edit(appending("text", "x"))
    assert eu.view() == []


@pytest.mark.parametrize("wire", ['"AB=="', '"AA"', "7", '"!"'])
def test_an_operation_is_canonical(wire: str) -> None:
    """What is no base64, or not the one way to write it, is no operation."""
    with pytest.raises(Malformed):
        decode(f'["document","s","d",{wire}]'.encode())


def test_a_logged_update_that_fits_nowhere_is_left_out() -> None:
    """It changes nothing, and does not stop what comes after it."""
    eu = Replica("eu")
    for data in (b"", b"\x01\x00\x05\x00\x00", update((7, 0, [string("x", parent=(8, 0))])) + b"x"):
        eu.take(encode(Edit("s", "d", data)))
    assert eu.view() == []
    eu.edit(appending("text", "x"))
    assert eu.view()[0]["text"] == "x"
