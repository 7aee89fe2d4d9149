"""The shared documents of one session."""

from collections.abc import Iterator, Mapping
from typing import Any

from perdure.replication.document import SharedDocument
from perdure.replication.document_keys import taking_out
from perdure.replication.errors import Damaged
from perdure.replication.ids import digest
from perdure.replication.items import DIGEST_BYTES
from perdure.replication.lib0 import YjsError
from perdure.replication.operations import Discard, Edit, OfDocument


class Documents:
    """The documents of a session, by id. There is one once something of it is known, and until it
    is discarded, which nothing undoes."""

    def __init__(self) -> None:
        self._held: dict[str, SharedDocument] = {}
        self._discarded: set[str] = set()
        # Updates that were applied since the last :meth:`take_news`, with their documents; None for
        # one that was discarded, or of which more is known that waits.
        self._news: list[tuple[str, bytes | None]] = []

    def __len__(self) -> int:
        """How many there are."""
        return len(self._held)

    def get(self, id_: str) -> SharedDocument | None:
        """The document, where anything is known of it."""
        return self._held.get(id_)

    def ids(self) -> list[str]:
        """Their ids, in order."""
        return sorted(self._held)

    @property
    def ever(self) -> int:
        """How many there are, and were."""
        return len(self._held) + len(self._discarded)

    def is_discarded(self, id_: str) -> bool:
        """Whether it is gone for ever."""
        return id_ in self._discarded

    def apply(self, op: OfDocument) -> None:
        """Merge what is on disk, in any order."""
        if op.document in self._discarded:
            return
        if isinstance(op, Discard):
            self._held.pop(op.document, None)
            self._discarded.add(op.document)
            self._news.append((op.document, None))
        else:
            self._edit(op)

    def _edit(self, op: Edit) -> None:
        """An update that fits nowhere is as if it were not there, and would be at every start."""
        document = self._held.get(op.document) or SharedDocument(op.document)
        try:
            applied = document.take(op.update)
            for append in op.keyed:
                if (goes := document.keys.note(append)) is not None:
                    applied = [*applied, *document.take(taking_out(goes))]
        except YjsError:
            return
        self._held[op.document] = document
        self._news += [(op.document, update) for update in applied or (None,)]

    def take_news(self) -> list[tuple[str, bytes | None]]:
        """What was applied since the last call, in order."""
        news, self._news = self._news, []
        return news

    def clear(self) -> None:
        """The session is deleted."""
        self._held.clear()
        self._discarded.clear()
        self._news.clear()

    # Storing and telling

    def restore(self, head: Mapping[str, Any]) -> None:
        """Take back what :meth:`stored` gave; ``Damaged`` for anything else."""
        try:
            stored = head.get("documents", {})
            self._held = {id_: SharedDocument(id_, fields) for id_, fields in stored.items()}
            self._discarded = set(head.get("discarded", ()))
        except (ValueError, TypeError, KeyError) as error:
            raise Damaged("a stored document is none") from error

    def stored(self) -> dict[str, Any]:
        """What is to be stored, and under which keys of the head; nothing for none."""
        found = {id_: self._held[id_].stored() for id_ in self.ids()}
        gone = sorted(self._discarded)
        return {**({"documents": found} if found else {}), **({"discarded": gone} if gone else {})}

    def wholes(self) -> list[str]:
        """The digests of all."""
        gone = [digest(DIGEST_BYTES, "discarded", id_).hex() for id_ in sorted(self._discarded)]
        return [*(self._held[id_].version() for id_ in self.ids()), *gone]

    def versions(self) -> list[dict[str, str]]:
        """What there is, as readers are told."""
        return [{"id": id_, "version": self._held[id_].version()} for id_ in self.ids()]

    def retell(self, session: str) -> Iterator[OfDocument]:
        """Operations that say the same as those that made them."""
        for id_ in sorted(self._discarded):
            yield Discard(session, id_)
        for id_ in self.ids():
            whole, *parked = self._held[id_].told()
            yield Edit(session, id_, whole, self._held[id_].keys.all())
            for update in parked:
                yield Edit(session, id_, update)
