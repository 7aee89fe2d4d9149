"""Shared documents: what clients read and edit, and what their Yjs says (PROTOCOL A.4, A.8)."""

from collections.abc import Mapping
from typing import Any

from perdure.regions.documents import DocumentDesk, Name, Seat
from perdure.regions.ports import Entropy
from perdure.regions.running import Running
from perdure.replication import admission
from perdure.replication.admission import Pending
from perdure.replication.document import JSON, TEXT, SharedDocument
from perdure.replication.document_admission import admit_edit, admit_update
from perdure.replication.document_value import Change, appending, merging, replacing
from perdure.replication.errors import Refusal
from perdure.replication.ids import check_id
from perdure.replication.lib0 import YjsError
from perdure.replication.operations import Operation
from perdure.replication.session import Session
from perdure.replication.yjs_parser import Update
from perdure.replication.yjs_sync import encode_step_1, encode_step_2, encode_vector

_WRITER_BITS = 53


class Sharing(Running):
    """The side of documents of a :class:`~perdure.regions.node.Node`, which brings the desk."""

    shared: DocumentDesk
    _entropy: Entropy

    def documents(self, session: str) -> dict[str, Any]:
        """The documents of a session, by id."""
        held = self._existing(session).documents
        found = [(id_, held.get(id_)) for id_ in held.ids()]
        return {
            "documents": [
                {"id": id_, "version": document.version()}
                for id_, document in found
                if document is not None
            ]
        }

    def document(self, session: str, id_: str) -> dict[str, Any]:
        """One document. Raises ``Refusal``: ``not_found``, ``deleted``."""
        check_id(id_, "document")
        found = self._existing(session).documents.get(id_)
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
        return await self._edit(session, id_, changes)

    async def append_document(self, session: str, id_: str, text: str) -> dict[str, Any]:
        """Add to the end of the text; the document as it is then."""
        return await self._edit(session, id_, [appending(TEXT, text)])

    async def _edit(self, session: str, id_: str, changes: list[Change]) -> dict[str, Any]:
        self._check_open()
        check_id(session, "session")
        check_id(id_, "document")

        def admit(state: Session, _: Pending) -> list[Operation]:
            return admit_edit(state, id_, changes, self._draw, self._site())

        await self._writer.write(session, admit)
        found = self._existing(session).documents.get(id_)
        # Nothing was put into a document that there was not.
        return (found or SharedDocument(id_)).value()

    def _draw(self) -> int:
        return self._entropy.token(_WRITER_BITS)

    # Yjs clients

    def _tell_present(self, name: Name, awareness: bytes) -> None:
        self.desk.signals.tell_present(name, awareness)
        self.desk.wake()

    def join_document(self, session: str, id_: str) -> Seat:
        """A seat at a document, which need not be there yet; it is asked for what is lacking here.

        Raises ``Refusal``: ``deleted``, ``draining``, ``too_many``.
        """
        self._check_open()
        check_id(session, "session")
        check_id(id_, "document")
        state = self.state.find(session)
        if state is not None:
            admission.check_live(state)
        seat = self.shared.join((session, id_))
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
        document = self._shared(seat)
        known = {client: vector[client] for client in document.vector if client in vector}
        seat.push(encode_step_2(document.since(encode_vector(known))))

    async def take_update(self, seat: Seat, data: bytes, update: Update) -> None:
        """An update of a Yjs client: on disk when this returns, or nothing that is new.

        What builds on something that is missing here is not taken: the client is asked for all
        that is missing, at once and when more has come.
        Raises ``YjsError`` for what the document does not take, and ``Refusal``.
        """
        self._check_open()
        session, id_ = seat.name

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
