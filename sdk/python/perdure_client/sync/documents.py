"""A shared document, for threads. Made by ``make sync-client``: change
``perdure_client/documents.py`` instead."""

from typing import Any

from perdure_client import documents as asynchronous
from perdure_client.documents import DocumentValue
from perdure_client.sync.portal import Iteration, Portal


class Document:
    """One shared document of a session, which need not be there yet. Edits of others at the same
    time, in any region, merge."""

    def __init__(self, portal: Portal, it: asynchronous.Document) -> None:
        self._portal = portal
        self._it = it

    @property
    def id(self) -> str:
        """As the class says."""
        return self._it.id

    def read(self) -> DocumentValue:
        """The document, as the first region that answers has it. Raises ``NotFound`` where there
        is none, and ``Deleted``."""
        return self._portal.call(self._it.read())

    def write(
        self, *, text: str | None = None, json: dict[str, Any] | None = None
    ) -> DocumentValue:
        """Make the text this one, where it differs, or patch the map with ``json`` (RFC 7396: None
        deletes), or both; the document as it is then. Makes the document where there is none."""
        return self._portal.call(self._it.write(text=text, json=json))

    def append(self, text: str) -> DocumentValue:
        """Add to the end of the text, once, whichever regions it is tried at; the document as it is
        then."""
        return self._portal.call(self._it.append(text))

    def delete(self) -> None:
        """Delete it, for ever; again: nothing."""
        self._portal.call(self._it.delete())

    def follow(self) -> Iteration[DocumentValue]:
        """The document as it is now, once it is there, and each time that it has changed, across
        regions, until it or its session is deleted.

        States that follow one another quickly may come as one. Raises :class:`PerdureError` for
        what every region would refuse.
        """
        return Iteration(self._portal, self._it.follow(), lambda it: it)
