"""What a client of Yjs says over one socket after another, by the protocol of y-websocket: bytes
in, bytes out. A document is kept in sync, and who is here is told; where is another's matter."""

from collections.abc import Callable
from typing import Any

from pycrdt import (
    Awareness,
    Decoder,
    Doc,
    TransactionEvent,
    YMessageType,
    YSyncMessageType,
    create_awareness_message,
    create_sync_message,
    create_update_message,
    merge_updates,
)

# Updates that wait to be sent, each by itself; beyond that they are merged into one.
UNSENT_MAX = 256
# The update that brings nothing.
NOTHING = b"\0\0"
_UPDATES = (YSyncMessageType.SYNC_STEP2, YSyncMessageType.SYNC_UPDATE)


class NotYjs(ValueError):
    """The bytes are no message of y-websocket, or do not fit the document."""


class YjsExchange:
    """Both sides of the talk about one document; ``wake`` is called when something is to be said.

    A region asks for what it lacks when a socket begins, and is answered; then it is told each
    edit. It takes one message after the other, so its answer to a step 1 says that all that was
    sent before is on its disk.
    """

    def __init__(self, doc: "Doc[Any]", wake: Callable[[], None]) -> None:
        self.doc = doc
        self.awareness = Awareness(doc)
        self._wake = wake
        self._taking = False
        # How many edits were made here; how many were said over this socket; were kept by a region.
        # What the document has at first counts as one.
        self.edits = 1
        self._said = 0
        self.kept = 0
        # Whether the region's first question was answered; its newest one that was not.
        self._is_answered = False
        self._vector: bytes | None = None
        self._unsent: list[bytes] = []
        # What was said before each step 1 that is not answered.
        self._asked: list[int] = []
        self._is_asking = False
        self.is_synced = False
        self._present: set[int] = set()
        self._observed = doc.observe(self._edited)
        self._watched = self.awareness.observe(self._moved)

    def close(self) -> None:
        """Let go of the document."""
        self.doc.unobserve(self._observed)
        self.awareness.unobserve(self._watched)

    def begin(self) -> list[bytes]:
        """A new socket: what is said at once."""
        self._is_answered = self.is_synced = False
        # Whoever waits for what another region was told asks this one.
        self._is_asking = self.kept < self.edits
        self._vector = None
        self._unsent = []
        self._said = self.kept
        self._asked = [self.kept]
        self._present = {self.doc.client_id}
        return [create_sync_message(self.doc)]

    def ask(self) -> None:
        """Find out what the region has kept."""
        self._is_asking = True
        self._wake()

    def said(self) -> list[bytes]:
        """What is to be said now."""
        messages = []
        if self._vector is not None:
            update = self.doc.get_update(self._vector)
            messages.append(_sync(YSyncMessageType.SYNC_STEP2, update))
            self._vector, self._unsent = None, []
            self._is_answered = True
            self._said = self.edits
        elif self._unsent:
            messages.append(create_update_message(merge_updates(*self._unsent)))
            self._unsent = []
            self._said = self.edits
        if self._present and self._is_answered:
            present, self._present = sorted(self._present), set()
            states = self.awareness.encode_awareness_update(present)
            messages.append(create_awareness_message(states))
        if self._is_asking and self._is_answered and not self._asked:
            self._is_asking = False
            self._asked.append(self._said)
            messages.append(create_sync_message(self.doc))
        return messages

    def take(self, message: bytes) -> None:
        """A message of the region. Raises :class:`NotYjs`."""
        self._taking = True
        try:
            self._take(message)
        except (RuntimeError, ValueError, IndexError, TypeError, AssertionError) as error:
            raise NotYjs(f"it says what is no message of y-websocket: {error!r}") from error
        finally:
            self._taking = False

    def _take(self, message: bytes) -> None:
        kind, body = message[0], message[1:]
        if kind == YMessageType.AWARENESS:
            self.awareness.apply_awareness_update(_whole(body), self)
        elif kind == YMessageType.SYNC and body[0] == YSyncMessageType.SYNC_STEP1:
            self._vector = _whole(body[1:])
            self._wake()
        elif kind == YMessageType.SYNC and body[0] in _UPDATES:
            self.doc.apply_update(_whole(body[1:]))
            if body[0] == YSyncMessageType.SYNC_STEP2 and self._asked:
                self.is_synced = True
                self.kept = max(self.kept, self._asked.pop(0))
                self._wake()
        else:
            raise ValueError(f"type {kind}")

    # What happens here

    def _edited(self, event: TransactionEvent) -> None:
        if self._taking or event.update == NOTHING:
            return
        self.edits += 1
        if self._is_answered:
            self._unsent.append(event.update)
            if len(self._unsent) > UNSENT_MAX:
                self._unsent = [merge_updates(*self._unsent)]
        self._wake()

    def _moved(self, topic: str, change: tuple[dict[str, Any], Any]) -> None:
        changes, _ = change
        mine = self.doc.client_id
        if topic == "update" and any(mine in ids for ids in changes.values()):
            self._present.add(mine)
        self._wake()


def _sync(kind: YSyncMessageType, data: bytes) -> bytes:
    """A message of the sync protocol."""
    return bytes([YMessageType.SYNC, kind]) + create_awareness_message(data)[1:]


def _whole(data: bytes) -> bytes:
    """The one piece of a message that is its length and it."""
    decoder = Decoder(data)
    length = decoder.read_var_uint()
    piece = data[decoder.i0 :]
    if len(piece) != length:
        raise ValueError(f"{len(piece)} bytes of {length}")
    return piece
