"""The messages of a session, from the newest back, a page at a time."""

from collections.abc import Iterator

from perdure.replication.message import Message
from perdure.replication.session import Session


def newest_first(session: Session | None, at_once: int) -> Iterator[Message]:
    """Every message that is shown; of none where there is no session. A page of which nothing can
    be read, for it is damaged, ends it: what it is asked for is asked again when that is mended."""
    before: str | None = None
    more = session is not None
    while session is not None and more:
        began = before
        ids, more = session.messages.page(before, at_once)
        for id_ in reversed(ids):
            message = session.visible(id_)
            if message is not None:
                before = message.serial
                yield message
        more = more and before != began
