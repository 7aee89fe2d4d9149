"""What a region may accept for a shared document from a client, and as which operations."""

from collections.abc import Callable

from perdure.replication.admission import Site, admit_create, check_live
from perdure.replication.document import SILENT_CLIENT, SharedDocument
from perdure.replication.document_value import Change, edit
from perdure.replication.errors import Refusal
from perdure.replication.lib0 import YjsError
from perdure.replication.limits import DOCUMENT_BYTES_MAX, DOCUMENT_UPDATE_BYTES_MAX, DOCUMENTS_MAX
from perdure.replication.operations import Edit, Operation
from perdure.replication.session import Session
from perdure.replication.yjs_parser import Update, parse_update


def document_of(session: Session, id_: str) -> SharedDocument:
    """The document, or a blank one. ``Refusal``: ``deleted``, and ``too_large`` for one more than
    a session may have."""
    check_live(session)
    found = session.documents.get(id_)
    if found is None and len(session.documents) >= DOCUMENTS_MAX:
        detail = "this session has as many documents as it may"
        raise Refusal("too_large", detail, limit_items=DOCUMENTS_MAX)
    return found or SharedDocument(id_)


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
