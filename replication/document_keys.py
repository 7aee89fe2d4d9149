"""Appends to a document that may be asked for again, by the keys that their clients gave them.

Asked for in two regions that have not heard of each other, an append is made twice, as two edits.
Whoever knows both keeps the one of the smaller (client, clock), and takes the other's text out;
where they are of one text. Two texts under one key are a client's mistake: both stay.
That follows from what is known, so it is not logged: every region that reads both edits does the
same, and taking out merges with everything else.

The keys are a memory of limited size, and no part of the document: they say what is asked for again
soon. What was taken out stays so.
"""

from collections.abc import Iterable

from perdure.replication.ids import digest
from perdure.replication.lib0 import encode_uints
from perdure.replication.limits import DOCUMENT_KEYS_MAX
from perdure.replication.operations import Keyed

_TAG_BYTES = 8


def tag_of(text: str) -> str:
    """Names the text of an append."""
    return digest(_TAG_BYTES, text).hex()


def taking_out(append: Keyed) -> bytes:
    """The Yjs update that deletes what an append inserted."""
    structs, clients, ranges = 0, 1, 1
    length = append.end - append.start
    return encode_uints((structs, clients, append.client, ranges, append.start, length))


class AppendKeys:
    """The newest keyed appends of one document."""

    def __init__(self, known: Iterable[Keyed] = ()) -> None:
        self._held = {(append.key, append.tag): append for append in known}

    def tags(self, key: str) -> set[str]:
        """The texts that are known to have been added under this key."""
        return {tag for known, tag in self._held if known == key}

    def all(self) -> tuple[Keyed, ...]:
        """All of them, by key."""
        return tuple(self._held[key] for key in sorted(self._held))

    def note(self, append: Keyed) -> Keyed | None:
        """It is known; which one of two with this key and text is to be taken out, if there are
        two."""
        name = (append.key, append.tag)
        known = self._held.setdefault(name, append)
        while len(self._held) > DOCUMENT_KEYS_MAX:
            del self._held[next(iter(self._held))]
        if known == append:
            return None
        stays, goes = sorted((known, append), key=lambda one: (one.client, one.start))
        self._held[name] = stays
        return goes
