"""What a region may accept for a shared document from a client, and as which operations."""

from collections.abc import Callable
from dataclasses import replace

from perdure.replication.admission import Site, admit_create, check_live
from perdure.replication.document import SILENT_CLIENT, TEXT, SharedDocument
from perdure.replication.document_keys import tag_of
from perdure.replication.document_value import Change, appending, edit
from perdure.replication.errors import Refusal
from perdure.replication.lib0 import YjsError
from perdure.replication.limits import (
    DOCUMENT_BYTES_MAX,
    DOCUMENT_UPDATE_BYTES_MAX,
    DOCUMENTS_EVER_MAX,
    DOCUMENTS_MAX,
)
from perdure.replication.operations import Discard, Edit, Keyed, Operation
from perdure.replication.session import Session
from perdure.replication.yjs_parser import Update, parse_logged, parse_update


def document_of(session: Session, id_: str) -> SharedDocument:
    """The document, or a blank one. ``Refusal``: ``deleted``, and ``too_large`` for one more than
    a session may have."""
    check_there(session, id_)
    documents = session.documents
    found = documents.get(id_)
    if found is None and len(documents) >= DOCUMENTS_MAX:
        detail = "this session has as many documents as it may"
        raise Refusal("too_large", detail, limit_items=DOCUMENTS_MAX)
    if found is None and documents.ever >= DOCUMENTS_EVER_MAX:
        detail = "this session has had as many documents as it may, deleted ones too"
        raise Refusal("too_large", detail, limit_items=DOCUMENTS_EVER_MAX)
    return found or SharedDocument(id_)


def check_there(session: Session, id_: str) -> None:
    """``Refusal`` ``deleted`` when the session or the document is gone."""
    check_live(session)
    if session.documents.is_discarded(id_):
        raise Refusal("deleted", "this document was deleted")


def admit_discard(session: Session, id_: str) -> list[Operation]:
    """The document is to be gone for ever. ``Refusal``: ``deleted``, ``not_found``."""
    check_there(session, id_)
    if session.documents.get(id_) is None:
        raise Refusal("not_found", f"this region knows no document {id_}")
    return [Discard(session.id, id_)]


def admit_append(
    session: Session, id_: str, text: str, key: str | None, draw: Callable[[], int], site: Site
) -> list[Operation]:
    """Add to the end of the text; nothing when that was done under this key. ``Refusal``: also
    ``conflict`` for another text under the same key."""
    document = document_of(session, id_)
    if key is not None and (known := document.keys.tags(key)):
        if tag_of(text) not in known:
            raise Refusal("conflict", "another text was added under this Idempotency-Key")
        return []
    operations = admit_edit(session, id_, [appending(TEXT, text)], draw, site)
    if key is not None and operations:
        *before, made = operations
        assert isinstance(made, Edit)
        (block,) = parse_logged(made.update).blocks
        keyed = Keyed(key, tag_of(text), block.client, block.start, block.end)
        return [*before, replace(made, keyed=(keyed,))]
    return operations


def admit_update(
    session: Session, id_: str, data: bytes, update: Update, site: Site
) -> list[Operation]:
    """An update of a Yjs client; nothing when it brings nothing new.

    Raises ``YjsError`` when the document does not take it (``gap``: not yet), and ``Refusal``.
    """
    document = document_of(session, id_)
    known = document.vector.get(document.writer, 0) if document.writer is not None else 0
    if any(block.client == document.writer and block.end > known for block in update.blocks):
        raise YjsError("client", "of the region's own edits")
    return _admit(session, document, data, update, site)


def _admit(
    session: Session, document: SharedDocument, data: bytes, update: Update, site: Site
) -> list[Operation]:
    document.check(update)
    if not document.is_news(update):
        return []
    return [*admit_create(session, {}, site), Edit(session.id, document.id, data)]


def admit_edit(
    session: Session, id_: str, changes: list[Change], draw: Callable[[], int], site: Site
) -> list[Operation]:
    """An edit that the region makes for a client; nothing when it changes nothing.

    The region writes to a document under one client id as long as that stays in memory, and then
    under another: nothing may be logged by this id that has not been applied. ``draw`` gives a
    fresh one. Raises ``Refusal``.
    """
    document = document_of(session, id_)
    while document.writer is None:
        drawn = draw()
        document.writer = None if drawn in document.vector or drawn == SILENT_CLIENT else drawn
    data = _made(document, document.writer, changes)
    if data is None:
        return []
    try:
        return _admit(session, document, data, parse_update(data), site)
    except YjsError as error:
        if error.code == "too_large" or len(data) > DOCUMENT_UPDATE_BYTES_MAX:
            detail = "the document would be too large"
            raise Refusal("too_large", detail, limit_bytes=DOCUMENT_BYTES_MAX) from error
        detail = f"the document does not take this: {error}"
        raise Refusal("invalid_body", detail) from error


def _made(document: SharedDocument, writer: int, changes: list[Change]) -> bytes | None:
    try:
        return edit(document.since(), writer, changes)
    except (TypeError, ValueError, RuntimeError) as error:
        # Its roots are something else, as some client made them.
        detail = "the document's roots are no text and map"
        raise Refusal("invalid_body", detail) from error
