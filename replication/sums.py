"""Sums over the messages of a session, from which cursors and digests are made.

Two numbers a message: its *content* (what it shows, 40 bits) and its *whole* (all that is known of
it, 128 bits). The newest messages change with every token, so they are summed only when asked for.
"""

from collections.abc import Callable, Collection, Iterable

from perdure.replication.message import Message


class Sums:
    """The sums, and the parts of them that are at hand. ``elsewhere`` gives the content of a shown
    message that is not at hand."""

    def __init__(
        self,
        contents: int,
        wholes: int,
        loaded: dict[str, Message],
        elsewhere: Callable[[str], int],
    ) -> None:
        self._loaded = loaded
        self._elsewhere = elsewhere
        self._contents_sum = contents
        self._contents: dict[str, int] = {}
        self._changed: set[str] = set()
        self._wholes_sum = wholes
        self._wholes: dict[str, int] = {}
        self._stale: set[str] = set()

    def lists(self, id_: str) -> bool:
        """Whether the content of the message is at hand."""
        return id_ in self._contents

    def at_hand(self, id_: str, content: int | None, whole: int) -> None:
        """These are parts of the sums already."""
        self._wholes.setdefault(id_, whole)
        if content is not None:
            self._contents[id_] = content

    def elsewhere(self, id_: str) -> None:
        """The whole of this message is at hand no more; it is still a part of the sum."""
        self._wholes.pop(id_, None)

    def only_at_hand(self) -> None:
        """Nothing else is a part of the sums."""
        self._contents_sum = sum(self._contents.values())
        self._wholes_sum = sum(self._wholes.values())

    def changed(self, id_: str) -> None:
        """What the message shows has changed."""
        self._changed.add(id_)

    def touched(self, id_: str) -> None:
        """What is known of the message, which is in memory, has changed."""
        self._stale.add(id_)

    def drop_content(self, id_: str, content: int = 0) -> None:
        """The message is shown no more; it showed ``content`` if that is not at hand."""
        self._contents_sum -= self._contents.pop(id_, content)
        self._changed.discard(id_)

    def drop_whole(self, id_: str, whole: int = 0) -> None:
        """Nothing is known of the message any more; ``whole`` as for :meth:`drop_content`."""
        self._wholes_sum -= self._wholes.pop(id_, whole)
        self._stale.discard(id_)

    def contents_without(self, ids: Collection[str]) -> int:
        """The sum of what all shown messages but these show."""
        self._sum_up(id_ for id_ in list(self._changed) if id_ not in ids)
        return self._contents_sum - sum(map(self._summed, ids))

    def _summed(self, id_: str) -> int:
        """What of the message is in the sum."""
        if id_ in self._contents:
            return self._contents[id_]
        return 0 if id_ in self._changed else self._elsewhere(id_)

    def content(self, id_: str) -> int:
        """What a shown message adds to the sum."""
        if id_ in self._changed:
            self._sum_up((id_,))
        return self._summed(id_)

    def _sum_up(self, ids: Iterable[str]) -> None:
        for id_ in ids:
            self._changed.discard(id_)
            content = int.from_bytes(self._loaded[id_].content(), "big")
            self._contents_sum += content - self._contents.get(id_, 0)
            self._contents[id_] = content

    def wholes(self) -> int:
        """The sum of everything that is known of every message that is not deleted."""
        for id_ in self._stale:
            whole = int.from_bytes(self._loaded[id_].whole(), "big")
            self._wholes_sum += whole - self._wholes.get(id_, 0)
            self._wholes[id_] = whole
        self._stale.clear()
        return self._wholes_sum

    def whole(self, id_: str) -> int:
        """What a message in memory adds to that sum."""
        self.wholes()
        return self._wholes[id_]
