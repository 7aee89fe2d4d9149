"""Which documents of a session readers are to be told of: at once, and then once a second."""

from collections.abc import Callable


class DocumentNews:
    """The documents of one session. ``tell`` tells readers that one has changed."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        # Those that readers were told of in this second; True: something has changed since.
        self._told: dict[str, bool] = {}

    def changed(self, id_: str) -> None:
        """One has changed."""
        if id_ in self._told:
            self._told[id_] = True
        else:
            self._told[id_] = False
            self._tell(id_)

    def tick(self, *, is_over: bool) -> None:
        """A second has passed; ``is_over``: readers are told nothing more."""
        for id_, more in list(self._told.items()):
            if more and not is_over:
                self._told[id_] = False
                self._tell(id_)
            else:
                del self._told[id_]

    @property
    def owes(self) -> bool:
        """Whether readers have not yet been told of one that has changed."""
        return any(self._told.values())
