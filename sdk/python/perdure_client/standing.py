"""Which messages of a conversation still stand, where some were edited or answered anew."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from perdure_client.reducer import MessageView

M = TypeVar("M", MessageView, dict[str, Any])


def standing(messages: Iterable[M]) -> list[M]:
    """The messages that still stand, of some in their order: what another one replaces is gone,
    with all that followed it up to there, as in a chat whose message was edited, or whose answer
    was asked for anew."""
    stand: list[M] = []
    # Where each one stood, also what does not any more: an edited message may be edited again.
    places: dict[str, int] = {}
    for message in messages:
        id_, replaces = _names(message)
        if replaces in places:
            del stand[places[replaces] :]
        places[id_] = len(stand)
        stand.append(message)
    return stand


def _names(message: MessageView | Mapping[str, Any]) -> tuple[str, str]:
    if isinstance(message, MessageView):
        return message.id, message.replaces or ""
    return message["id"], message.get("replaces", "")
