"""Deliberate bugs of shared documents: the simulator must catch every one."""

from typing import Any

from perdure.regions.documents import DocumentDesk, Seat
from perdure.replication.document import SharedDocument
from perdure.replication.document_keys import AppendKeys
from perdure.replication.documents import Documents

from tests.simulation.mutation import registry

MUTANTS, mutant = registry()


@mutant(SharedDocument, "is_news")
def taking_out_is_no_news(self: Any, update: Any) -> bool:
    """An update that only takes something out is not logged."""
    state = self.vector
    return any(block.end > state.get(block.client, 0) for block in update.blocks)


@mutant(AppendKeys, "note")
def appends_made_twice_stay(self: Any, append: Any) -> None:
    """What two regions have each added under one key is there twice."""
    self._held.setdefault((append.key, append.tag), append)


_push = Seat.push


@mutant(Seat, "push")
def nothing_is_asked_of_editors(self: Any, message: bytes) -> None:
    """A region does not ask an editor for what it lacks."""
    if message[:2] != b"\x00\x00":
        _push(self, message)


@mutant(Documents, "retell")
def documents_are_not_retold(self: Any, session: str) -> Any:
    """A region that catches up is told of messages only."""
    return []


@mutant(DocumentDesk, "publish")
def editors_are_told_nothing(self: Any, session: Any) -> None:
    """Who is at a document hears of others when it comes back."""
    session.documents.take_news()
