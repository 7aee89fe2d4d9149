"""The shared documents of one session."""

from collections.abc import Mapping
from typing import Any

from perdure.replication.document import SharedDocument
from perdure.replication.errors import Damaged
from perdure.replication.lib0 import YjsError
from perdure.replication.operations import Edit


class Documents:
    """The documents of a session, by id. There is one once something of it is known."""

    def __init__(self) -> None:
        self._held: dict[str, SharedDocument] = {}
        # Updates that were applied since the last :meth:`take_news`, with their documents.
        self._news: list[tuple[str, bytes]] = []

    def __len__(self) -> int:
        """How many there are."""
        return len(self._held)

    def get(self, id_: str) -> SharedDocument | None:
        """The document, where anything is known of it."""
        return self._held.get(id_)

    def ids(self) -> list[str]:
        """Their ids, in order."""
        return sorted(self._held)

    def apply(self, op: Edit) -> None:
        """Merge an update that is on disk. One that fits nowhere is as if it were not there, and
        would be at every start."""
        document = self._held.get(op.document) or SharedDocument(op.document)
        try:
            applied = document.take(op.update)
        except YjsError:
            return
        self._held[op.document] = document
        self._news += [(op.document, update) for update in applied]

    def take_news(self) -> list[tuple[str, bytes]]:
        """What was applied since the last call, in order."""
        news, self._news = self._news, []
        return news

    def clear(self) -> None:
        """The session is deleted."""
        self._held.clear()
        self._news.clear()

    # Storing and telling

    def restore(self, stored: Mapping[str, Mapping[str, Any]]) -> None:
        """Take back what :meth:`stored` gave; ``Damaged`` for anything else."""
        try:
            self._held = {id_: SharedDocument(id_, fields) for id_, fields in stored.items()}
        except (ValueError, TypeError, KeyError) as error:
            raise Damaged("a stored document is none") from error

    def stored(self) -> dict[str, dict[str, Any]]:
        """What is to be stored, and under which key of the head; nothing for none."""
        found = {id_: self._held[id_].stored() for id_ in self.ids()}
        return {"documents": found} if found else {}

    def wholes(self) -> list[str]:
        """The digests of all."""
        return [self._held[id_].version() for id_ in self.ids()]

    def retell(self, session: str) -> list[Edit]:
        """Operations that say the same as those that made them."""
        return [
            Edit(session, id_, update) for id_ in self.ids() for update in self._held[id_].told()
        ]
