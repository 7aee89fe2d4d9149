"""Making what was deleted gone: which operations say nothing but what is to be forgotten, what
stands in their place, and which regions have said that it is done.

Rule of this file: nothing here decides that something is deleted, tombstones do. An operation on
what has a tombstone is replaced by one that says only that there was one: whoever is told that
instead, before the delete or after it, comes to hold the same.
"""

import re
from collections.abc import Callable, Iterable, Iterator

from perdure.replication.coding import decode, encode
from perdure.replication.errors import Malformed
from perdure.replication.operations import (
    Absorb,
    Delete,
    Discard,
    Edit,
    Erased,
    OfMessage,
    Open,
    Operation,
    Single,
)
from perdure.replication.records import Record, Vector, seal
from perdure.replication.session import Session
from perdure.replication.subjects import Subject

# The canonical beginning of a body: its kind and session, whether this version knows the kind or
# not, and what comes next, if that is a name.
_HEAD = re.compile(rb'\["([a-z_]+)","([A-Za-z0-9._~:-]+)"(?:,"([A-Za-z0-9._~-]+)"[,\]])?')
# They name what is deleted and say nothing of it.
_BARE = frozenset({b"delete", b"discard", b"erased"})


IsGone = Callable[[Subject], bool]


def is_gone(session: Session, subject: Subject) -> bool:
    """Whether there is a tombstone for it."""
    if session.deleted:
        return True
    if subject.message is not None:
        return session.messages.is_buried(subject.message)
    return subject.document is not None and session.documents.is_discarded(subject.document)


def deletions(operation: Operation | None) -> Iterator[Subject]:
    """What an operation deletes."""
    match operation:
        case Delete():
            yield Subject(operation.session, operation.message)
        case Discard():
            yield Subject(operation.session, None, operation.document)
        case Erased():
            yield Subject(operation.session, operation.message, operation.document)
        case Absorb():
            for told in operation.operations:
                yield from deletions(told)


def is_original(operation: Operation | None) -> bool:
    """Whether it is the delete itself: whoever has it, and has carried it out, has done so for
    good. What stands in the place of another operation says nothing about who has that."""
    return isinstance(operation, Delete | Discard)


def deleting(subject: Subject) -> Delete | Discard:
    """The operation that deletes it."""
    session, message, document = subject
    return Delete(session, message) if document is None else Discard(session, document)


# What stands in its place


def without(body: bytes, is_gone: IsGone) -> bytes | None:
    """What is to stand in the place of a record's body; None: it may stay as it is."""
    head = _HEAD.match(body)
    if head is None:
        return _without_strange(body, is_gone)
    kind, session, name = head[1], head[2].decode(), head[3]
    if kind in _BARE:
        return None
    if is_gone(Subject(session)):
        stub = Erased(session, None, None, None)
        bare = encode(Absorb(session, (stub,), ()) if kind == b"absorb" else stub)
        return bare if bare != body else None
    if kind == b"absorb":
        return _absorbed_without(body, is_gone)
    if name is None:
        return None
    subject = Subject(session, None, name.decode())
    if kind != b"document":
        subject = Subject(session, name.decode())
    if not is_gone(subject):
        return None
    try:
        found = _stub(decode(body), is_gone)
    except Malformed:
        # A kind that this version does not know: its third field may be anything.
        return None
    return None if found is None else encode(found)


def _without_strange(body: bytes, is_gone: IsGone) -> bytes | None:
    """Of a body that is not canonical, or none at all."""
    try:
        canonical = encode(decode(body))
    except Malformed:
        return None
    return without(canonical, is_gone) if canonical != body else None


def _absorbed_without(body: bytes, is_gone: IsGone) -> bytes | None:
    try:
        piece = decode(body)
    except Malformed:
        return None
    if not isinstance(piece, Absorb):
        return None
    kept: list[Single] = []
    for told in piece.operations:
        instead = _stub(told, is_gone) or told
        if instead not in kept[-1:]:
            kept.append(instead)
    left = Absorb(piece.session, tuple(kept), piece.origins)
    return encode(left) if left != piece else None


def _stub(operation: Operation, is_gone: IsGone) -> Erased | None:
    if isinstance(operation, Edit):
        subject = Subject(operation.session, None, operation.document)
    elif isinstance(operation, OfMessage):
        subject = Subject(operation.session, operation.message)
    else:
        return None
    if not is_gone(subject):
        return None
    born = operation.header.created if isinstance(operation, Open) else None
    return Erased(*subject, born)


def erased(record: Record, is_gone: IsGone) -> Record:
    """The record with what may stay of it; its origin and lsn do."""
    body = without(record.body, is_gone)
    return record if body is None else seal(record.origin, record.lsn, body)


def session_of(body: bytes) -> str | None:
    """The session that a body is about, where it says one in the canonical way."""
    head = _HEAD.match(body)
    return None if head is None else head[2].decode()


class Gone:
    """These subjects, with all that is of them. Called, it says whether another is among that."""

    def __init__(self, subjects: Iterable[Subject]) -> None:
        self._subjects = frozenset(subjects)
        self._sessions = frozenset(subject.session.encode() for subject in self._subjects)

    def __call__(self, subject: Subject) -> bool:
        """Whether it is one of these, or of a session that is."""
        return subject in self._subjects or Subject(subject.session) in self._subjects

    def without(self, body: bytes) -> bytes | None:
        """As :func:`without`; most bodies are of other sessions, and looked at for a moment."""
        head = _HEAD.match(body)
        if head is not None and head[2] not in self._sessions:
            return None
        return without(body, self)

    def erased(self, record: Record) -> Record:
        """As :func:`erased`."""
        body = self.without(record.body)
        return record if body is None else seal(record.origin, record.lsn, body)


# Who has said that it is done


def covers(said: Vector, places: Vector) -> bool:
    """Whether a region that has said "whatever is deleted up to here is gone" has said so of all
    these places; of none, nobody has."""
    return bool(places) and all(said.get(origin, 0) >= lsn for origin, lsn in places.items())
