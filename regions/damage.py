"""What a storage has found damaged: counted once, and to be put into quarantine."""

# (what is damaged: a record, a head, a row, a body, the sums; that a session has lost its name, or
# that something is missing; row; name).
Found = tuple[str, int, str]


class Damage:
    """Until it is in quarantine, what is found again is not news."""

    def __init__(self) -> None:
        self.count = 0
        self._waiting: list[Found] = []
        self._known: set[tuple[str, int]] = set()
        self._sessions: set[str] = set()

    def note(self, what: str, number: int, name: str) -> None:
        """Something was found; ``name`` is the session, or begins with it and a slash."""
        if what == "missing" and name in self._sessions:
            # That is why.
            return
        if (what, number) not in self._known:
            self._known.add((what, number))
            # A damaged name may be no text.
            printable = name.encode("utf-8", "backslashreplace").decode()
            self._waiting.append((what, number, printable))
            self.count += 1
            if what not in ("record", "lost", "sums"):
                self._sessions.add(name.partition("/")[0])

    def take_sessions(self) -> set[str]:
        """The sessions that were hit since this was last asked."""
        taken, self._sessions = self._sessions, set()
        return taken

    def take(self) -> list[Found]:
        """What is to be put into quarantine now; see :meth:`put_back` and :meth:`done`."""
        taken, self._waiting = self._waiting, []
        return taken

    def put_back(self, found: list[Found]) -> None:
        """It could not be."""
        self._waiting = found + self._waiting

    def done(self, found: list[Found]) -> None:
        """It is there."""
        self._known.difference_update((what, number) for what, number, _ in found)
