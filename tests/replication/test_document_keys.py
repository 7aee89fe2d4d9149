"""Appends that are asked for again, here and elsewhere; documents that are discarded."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from perdure.replication import document_admission, document_keys
from perdure.replication.coding import decode, encode
from perdure.replication.document_admission import admit_append, admit_discard
from perdure.replication.document_value import appending
from perdure.replication.errors import Malformed, Refusal
from perdure.replication.operations import Edit

from tests.replication.test_document import Replica

KEYS = [f"key-000{n}" for n in range(4)]


def append(replica: Replica, text: str, key: str | None = None) -> None:
    session = replica.session
    replica.accept(admit_append(session, "d", text, key, replica.draw, replica.site()))


def text_of(replica: Replica) -> str:
    found = replica.session.documents.get("d")
    return "" if found is None else found.text()


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_an_append_is_made_once(data: st.DataObject) -> None:
    """Whoever asks for it again, in regions that have heard of it or not; told in any order, twice,
    late, around absorbed sessions and stays out of memory. Only where it was made twice is it there
    twice, until that is known."""
    replicas = [Replica(name) for name in ("eu", "us", "ap")]
    asked: set[str] = set()
    for number in range(data.draw(st.integers(1, 14))):
        replica = data.draw(st.sampled_from(replicas))
        other = data.draw(st.sampled_from(replicas))
        match data.draw(st.sampled_from(["keyed", "keyed", "plain", "gossip", "sleep", "learn"])):
            case "keyed":
                key = data.draw(st.sampled_from(KEYS))
                asked.add(key)
                append(replica, f"<{key}>", key)
            case "plain":
                append(replica, f"({number})")
            case "gossip" if other.log:
                for body in data.draw(st.lists(st.sampled_from(other.log), max_size=6)):
                    replica.take(body)
            case "sleep":
                replica.sleep()
            case "learn":
                replica.learn(other)
    logs = [body for replica in replicas for body in replica.log]
    for replica in replicas:
        for body in data.draw(st.permutations(logs)):
            replica.take(body)
    assert len({replica.session.whole() for replica in replicas}) == 1
    for replica in replicas:
        for key in asked:
            assert text_of(replica).count(f"<{key}>") == 1
        append(replica, "<x>", "key-once")
        replica.sleep()
        append(replica, "<x>", "key-once")
        assert text_of(replica).count("<x>") == 1


def test_another_text_under_a_key_is_refused() -> None:
    """Where the first is known."""
    eu = Replica("eu")
    append(eu, "a", KEYS[0])
    with pytest.raises(Refusal) as refused:
        append(eu, "b", KEYS[0])
    assert refused.value.code == "conflict"
    assert text_of(eu) == "a"


def test_two_texts_under_one_key_both_stay() -> None:
    """In regions that had not heard of each other both were acknowledged."""
    eu, us = Replica("eu"), Replica("us")
    append(eu, "[one]", KEYS[0])
    append(us, "[other]", KEYS[0])
    for one, other in ((eu, us), (us, eu)):
        for body in list(other.log):
            one.take(body)
    assert text_of(eu) == text_of(us)
    assert sorted(text_of(eu).replace("][", "] [").split()) == ["[one]", "[other]"]
    assert eu.session.whole() == us.session.whole()
    append(eu, "[other]", KEYS[0])
    assert text_of(eu).count("[other]") == 1


def test_keys_are_remembered_within_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest give way, and what they inserted stays."""
    monkeypatch.setattr(document_keys, "DOCUMENT_KEYS_MAX", 2)
    eu = Replica("eu")
    for key in KEYS[:3]:
        append(eu, key, key)
    held = eu.session.documents.get("d")
    assert held is not None
    assert [known.key for known in held.keys.all()] == KEYS[1:3]
    assert held.text() == "".join(KEYS[:3])


def test_a_discarded_document_stays_so() -> None:
    """Whatever comes late; out of memory and back; and told to who absorbs the session."""
    eu, us = Replica("eu"), Replica("us")
    append(eu, "a")
    for body in eu.log:
        us.take(body)
    us.accept(admit_discard(us.session, "d"))
    append(eu, "b")
    for body in (*eu.log, *us.log):
        us.take(body)
        eu.take(body)
    eu.sleep()
    for replica in (eu, us):
        assert replica.session.documents.ids() == []
        assert replica.session.whole() == eu.session.whole()
        with pytest.raises(Refusal) as refused:
            append(replica, "c")
        with pytest.raises(Refusal) as again:
            admit_discard(replica.session, "d")
        assert (refused.value.code, again.value.code) == ("deleted", "deleted")
    ap = Replica("ap")
    ap.learn(eu)
    assert ap.session.whole() == eu.session.whole()
    ap.take(eu.log[-1])
    assert ap.session.documents.is_discarded("d")


def test_a_session_remembers_so_many_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    """Discarded ones too: their ids are never free again."""
    monkeypatch.setattr(document_admission, "DOCUMENTS_EVER_MAX", 2)
    eu = Replica("eu")
    for id_ in ("a", "b"):
        eu.edit(appending("text", "x"), id_=id_)
        eu.accept(admit_discard(eu.session, id_))
    with pytest.raises(Refusal) as refused:
        append(eu, "c")
    assert (refused.value.code, refused.value.extra["limit_items"]) == ("too_large", 2)
    with pytest.raises(Refusal) as unknown:
        admit_discard(Replica("us").session, "nowhere")
    assert unknown.value.code == "not_found"


def test_operations_with_keys_are_canonical() -> None:
    """They come back as they were; what is no key is refused."""
    eu = Replica("eu")
    append(eu, "a", KEYS[0])
    body = eu.log[-1]
    operation = decode(body)
    assert isinstance(operation, Edit)
    assert [keyed.key for keyed in operation.keyed] == [KEYS[0]]
    assert encode(operation) == body
    for wrong in (b"[]", b'[["k"]]', b'[["key-0000","t",1,2,2]]', b'[["key 0000","t",1,2,3]]'):
        head = body[: body.index(b",[[")]
        with pytest.raises(Malformed):
            decode(head + b"," + wrong + b"]")
