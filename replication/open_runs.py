"""The runs of a session that are not over, however old they are and wherever they are held."""

from collections.abc import Iterable

from perdure.replication.message import Message
from perdure.replication.rows import Row


class OpenRuns:
    """Their ids. They need not be in the window: a run may wait while a whole chat goes by."""

    def __init__(self, stored: Iterable[Row] = ()) -> None:
        self._serials = {row.id: row.serial for row in stored}

    def note(self, message: Message) -> None:
        """The message was refreshed."""
        if message.is_open_run:
            self._serials[message.id] = message.serial
        else:
            self.drop(message.id)

    def drop(self, id_: str) -> None:
        """The message is gone."""
        self._serials.pop(id_, None)

    def ids(self) -> list[str]:
        """The oldest first."""
        return sorted(self._serials, key=self._serials.__getitem__)
