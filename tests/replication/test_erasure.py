"""What stands in the place of what was deleted: it says nothing of it, and changes nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from perdure.replication.coding import decode, encode
from perdure.replication.erasure import (
    Gone,
    covers,
    deletions,
    erased,
    is_gone,
    is_original,
    session_of,
    without,
)
from perdure.replication.ids import canonical
from perdure.replication.items import End
from perdure.replication.lane import Place
from perdure.replication.operations import (
    Absorb,
    Cancel,
    Claim,
    Create,
    Delete,
    Discard,
    Edit,
    Erased,
    Header,
    Input,
    Items,
    Lapse,
    Metadata,
    Open,
    Operation,
    Step,
)
from perdure.replication.records import Origin, intact, seal
from perdure.replication.retelling import tell
from perdure.replication.session import Session
from perdure.replication.subjects import Subject
from pycrdt import Doc, Text

from tests.replication.memory_archive import MemoryArchive, store
from tests.replication.strategies import lane_key, root

MARKER = "xyzzy"
ONE, TWO = lane_key(1, "p", 1), lane_key(2, "q", 2)
ORIGIN = Origin("eu", 1)


def update(text: str) -> bytes:
    doc: Doc = Doc(client_id=len(text) + 1)
    doc["text"] = Text(text)
    return doc.get_update()


def about(message: str, created: int) -> list[Operation]:
    """All that can be said of a message."""
    header = Header("assistant", "ann", created, ONE, canonical({"k": MARKER}), None)
    return [
        Open("s", message, header),
        Items("s", message, ONE, 0, root(ONE), (MARKER, "b", End("complete"))),
        Claim("s", message, TWO, 7, ONE, ONE, 1),
        Items("s", message, TWO, 0, bytes(16), (f"fenced {MARKER}",)),
        Cancel("s", message, ONE),
        Step("s", message, TWO, 1, "running", canonical({"d": MARKER})),
        Lapse("s", message, TWO, 1, 1),
        Input("s", message, 9, "other"),
    ]


SPOKEN: list[Operation] = [
    Create("s", 50, "eu", canonical({"title": MARKER})),
    *about("m", 3),
    *about("n", 40),
    Metadata("s", 60, "us", canonical({"more": MARKER})),
    Edit("s", "d", update(MARKER)),
    Edit("s", "e", update("another")),
]
DELETES: list[Operation] = [Delete("s", "m"), Discard("s", "d"), Delete("s", None)]


def replica(operations: list[Operation], number: int = 0) -> Session:
    session = Session("s")
    for lsn, operation in enumerate(operations, 1):
        session.apply(operation, Place(ORIGIN, number + lsn))
        for _ in session.refresh():
            pass
    return session


def shown(session: Session) -> object:
    if session.deleted:
        return session.whole()
    return session.whole(), session.value("-"), session.summary("-"), session.documents.versions()


@given(st.data())
def test_in_any_order_it_is_as_the_original(data: st.DataObject) -> None:
    """With some deletes, and any of the deleted operations replaced, in any order and any number of
    times, a region comes to hold what one holds that was told all originals first."""
    deletes = data.draw(st.lists(st.sampled_from(DELETES), unique=True, min_size=1))
    gone = Gone(subject for op in deletes for subject in deletions(op))
    told: list[Operation] = []
    for operation in [*SPOKEN, *deletes]:
        body = without(encode(operation), gone)
        replaced = body is not None and data.draw(st.booleans())
        assert body is None or MARKER not in body.decode()
        told.append(decode(body) if replaced and body is not None else operation)
    told = data.draw(st.permutations(told))
    again = data.draw(st.lists(st.sampled_from(told), max_size=5))
    assert shown(replica([*told, *again])) == shown(replica([*SPOKEN, *deletes]))


@pytest.mark.parametrize("deleted", DELETES, ids=["message", "document", "session"])
def test_nothing_of_the_deleted_is_left(deleted: Operation) -> None:
    """No replaced body holds content; what belongs to others stays, byte for byte; the lsn and a
    checksum that fits are kept."""
    session = replica([*SPOKEN, deleted])
    kept = 0
    for lsn, operation in enumerate([*SPOKEN, *DELETES], 1):
        record = seal(ORIGIN, lsn, encode(operation))
        instead = erased(record, lambda subject: is_gone(session, subject))
        assert intact(instead) and instead[:2] == record[:2]
        kept += instead == record
        if instead != record:
            assert isinstance(decode(instead.body), Erased)
            assert erased(instead, lambda subject: is_gone(session, subject)) is instead
    assert kept == {"m": 15, None: 3}.get(getattr(deleted, "message", "d"), 22)


@pytest.mark.parametrize("deleted", DELETES, ids=["message", "document", "session"])
def test_a_piece_of_a_session_keeps_what_is_not_deleted(deleted: Operation) -> None:
    """Told by a region that has not heard of the delete, to one that has: the same as without it,
    and what is stored of it holds nothing that was deleted."""
    teller = replica(SPOKEN)
    store(teller, MemoryArchive())
    gone = Gone(deletions(deleted))
    pieces = [encode(piece) for piece in tell(teller, "us")]
    cut = [without(body, gone) or body for body in pieces]
    assert cut != pieces and [without(body, gone) for body in cut] == [None] * len(cut)
    hearers = [replica([deleted, *map(decode, told)]) for told in (pieces, cut)]
    assert shown(hearers[0]) == shown(hearers[1])
    if deleted == Delete("s", None):
        assert MARKER not in "".join(body.decode() for body in cut)


def test_what_it_does_not_know_goes_with_its_session() -> None:
    """A kind of a newer version is replaced where its session is deleted, and else left alone; so
    is what is no operation at all."""
    strange = b'["newer","s","m",{"text":"xyzzy"}]'
    assert without(strange, Gone([Subject("s")])) == b'["erased","s",null,null,null]'
    assert without(strange, Gone([Subject("s", "m")])) is None
    for body in (b"", b"null", b"[]", b'["open"', b'["open","s"', b"\xff", b'["absorb","s",7,[]]'):
        assert without(body, Gone([Subject("t"), Subject("s", "m")])) is None


def test_a_body_that_is_not_canonical_is_found() -> None:
    """Only a broken region writes one; its spaces must not save what it says."""
    body = b'[ "open", ' + encode(about("m", 3)[0])[8:]
    assert decode(body) == about("m", 3)[0]
    assert without(body, Gone([Subject("s", "m")])) == b'["erased","s","m",null,3]'
    assert without(body, Gone([Subject("s", "n")])) is None


@pytest.mark.parametrize("session", ["acme:s", ":audit", "s"])
def test_sessions_of_tenants(session: str) -> None:
    """Whatever the regions call a session, its operations are found."""
    body = encode(Create(session, 1, "eu", "{}"))
    assert session_of(body) == session
    assert Gone([Subject(session)]).without(body) == encode(Erased(session, None, None, None))
    assert Gone([Subject("another")]).without(body) is None


def test_what_deletes_and_what_only_says_so() -> None:
    """Both name what is gone; only the delete itself has a place that counts."""
    stub = Erased("s", "m", None, 3)
    piece = Absorb("s", (Delete("s", "n"), stub, Erased("s", None, "d", None)), ())
    assert list(deletions(piece)) == [
        Subject("s", "n"),
        Subject("s", "m"),
        Subject("s", None, "d"),
    ]
    assert [is_original(op) for op in (*DELETES, stub, piece)] == [True] * 3 + [False] * 2
    assert session_of(encode(piece)) == "s" and session_of(b"{}") is None


def test_a_word_covers_what_it_names() -> None:
    """All places must be below what a region has said; without a place nothing is known."""
    said = {ORIGIN: 5}
    assert covers(said, {ORIGIN: 5}) and not covers(said, {ORIGIN: 6})
    assert not covers(said, {ORIGIN: 1, Origin("us", 1): 1}) and not covers(said, {})
