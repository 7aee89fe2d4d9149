"""Shared documents: what clients read and edit, and what their Yjs says (PROTOCOL A.4, A.8)."""

from collections.abc import Callable, Mapping
from typing import Any

from perdure.regions.documents import DocumentDesk, Name, Seat
from perdure.regions.ports import Entropy
from perdure.regions.running import Running
from perdure.replication import projection
from perdure.replication.admission import Pending
from perdure.replication.document import JSON, TEXT, SharedDocument
from perdure.replication.document_admission import (
    admit_append,
    admit_discard,
    admit_edit,
    admit_update,
    check_there,
)
from perdure.replication.document_value import merging, replacing
from perdure.replication.errors import Refusal
from perdure.replication.ids import check_claim_id, check_id
from perdure.replication.lib0 import YjsError
from perdure.replication.operations import Operation
from perdure.replication.projection import MESSAGES_DOCUMENT, projected
from perdure.replication.session import Session
from perdure.replication.tenants import check_session
from perdure.replication.yjs_parser import Update
from perdure.replication.yjs_sync import encode_step_1, encode_step_2, encode_vector

_WRITER_BITS = 53


class Sharing(Running):
    """The side of documents of a :class:`~perdure.regions.node.Node`, which brings the desk."""

    shared: DocumentDesk
    _entropy: Entropy

    def _beside(self, session: str) -> dict[str, Any]:
        return {**super()._beside(session), **self.documents(session)}

    def documents(self, session: str) -> dict[str, Any]:
        """The documents of a session, by id."""
        return {"documents": self._existing(session).documents.versions()}

    def document(self, session: str, id_: str) -> dict[str, Any]:
        """One document. Raises ``Refusal``: ``not_found``, ``deleted``."""
        check_id(id_, "document")
        state = self._existing(session)
        if id_ == MESSAGES_DOCUMENT:
            return projection.value(state)
        check_there(state, id_)
        found = state.documents.get(id_)
        if found is None:
            raise Refusal("not_found", f"this region knows no document {id_}")
        return found.value()

    async def patch_document(
        self, session: str, id_: str, text: str | None, patch: dict[str, Any] | None
    ) -> dict[str, Any]:
        """Make the text this one, and patch the map; the document as it is then."""
        changes = [] if text is None else [replacing(TEXT, text)]
        if patch is not None:
            changes.append(merging(JSON, patch))

        def admit(state: Session) -> list[Operation]:
            return admit_edit(state, id_, changes, self._draw, self._site())

        return await self._edit(session, id_, admit)

    async def append_document(
        self, session: str, id_: str, text: str, key: str | None = None
    ) -> dict[str, Any]:
        """Add to the end of the text, once for a ``key``; the document as it is then."""
        if key is not None:
            check_claim_id(key, "Idempotency-Key")

        def admit(state: Session) -> list[Operation]:
            return admit_append(state, id_, text, key, self._draw, self._site())

        return await self._edit(session, id_, admit)

    async def _edit(
        self, session: str, id_: str, admit: Callable[[Session], list[Operation]]
    ) -> dict[str, Any]:
        await self._write_document(session, id_, admit)
        state = self._existing(session)
        check_there(state, id_)
        # Nothing was put into a document that there was not.
        return (state.documents.get(id_) or SharedDocument(id_)).value()

    async def discard_document(self, session: str, id_: str) -> None:
        """The document is gone, for ever. Raises ``Refusal``: ``not_found``, ``deleted``."""
        self._existing(session)
        await self._write_document(session, id_, lambda state: admit_discard(state, id_))

    async def _write_document(
        self, session: str, id_: str, admit: Callable[[Session], list[Operation]]
    ) -> None:
        self._check_open()
        check_session(session)
        check_id(id_, "document")
        _check_writable(id_)

        def admitted(state: Session, _: Pending) -> list[Operation]:
            return admit(state)

        await self._writer.write(session, admitted)

    def _draw(self) -> int:
        return self._entropy.token(_WRITER_BITS)

    # Yjs clients

    def _tell_present(self, name: Name, awareness: bytes) -> None:
        self.desk.signals.tell_present(name, awareness)
        self.desk.wake()

    def join_document(
        self, session: str, id_: str, *, may_write: bool = True, is_seen: bool = True
    ) -> Seat:
        """A seat at a document, which need not be there yet; it is asked for what is lacking here,
        where it may write.

        Raises ``Refusal``: ``deleted``, ``draining``, ``too_many``.
        """
        self._check_open()
        check_session(session)
        check_id(id_, "document")
        state = self.state.find(session)
        if state is not None:
            check_there(state, id_)
        seat = self.shared.join((session, id_))
        seat.may_write, seat.is_seen = may_write, is_seen
        if id_ != MESSAGES_DOCUMENT and may_write:
            seat.push(encode_step_1(self._shared(seat).vector))
        seat.show_present()
        return seat

    def _shared(self, seat: Seat) -> SharedDocument:
        session, id_ = seat.name
        state = self.state.find(session)
        found = None if state is None else state.documents.get(id_)
        return found or SharedDocument(id_)

    def tell_document(self, seat: Seat, vector: Mapping[int, int]) -> None:
        """What this client lacks."""
        if seat.name[1] == MESSAGES_DOCUMENT:
            self._tell_messages(seat, vector)
            return
        document = self._shared(seat)
        known = {client: vector[client] for client in document.vector if client in vector}
        seat.push(encode_step_2(document.since(encode_vector(known))))

    def _tell_messages(self, seat: Seat, vector: Mapping[int, int]) -> None:
        seat.has = dict(vector)
        state = self.state.find(seat.name[0])
        found = [] if state is None else projected(state, projection.newest(state))
        seat.push(encode_step_2(seat.lacks(found)))

    async def take_update(self, seat: Seat, data: bytes, update: Update) -> None:
        """An update of a Yjs client: on disk when this returns, or nothing that is new.

        What builds on something that is missing here is not taken: the client is asked for all
        that is missing, at once and when more has come.
        Raises ``YjsError`` for what the document does not take, and ``Refusal``.
        """
        self._check_open()
        session, id_ = seat.name
        _check_writable(id_)
        if not seat.may_write:
            raise Refusal("forbidden", "this may only read the document", needs="write")

        def admit(state: Session, _: Pending) -> list[Operation]:
            return admit_update(state, id_, data, update, self._site())

        try:
            await self._writer.write(session, admit)
            seat.was_asked = False
        except YjsError as error:
            if error.code != "gap":
                raise
            if seat.was_asked:
                seat.waits = True
            else:
                seat.was_asked = True
                seat.push(encode_step_1(self._shared(seat).vector))


def _check_writable(id_: str) -> None:
    if id_ == MESSAGES_DOCUMENT:
        detail = "the messages are only read here; they are written by their own operations"
        raise Refusal("method_not_allowed", detail, allow="GET")
