"""Server-sent events from bytes (WHATWG HTML, 9.2.6), incrementally and bounded."""

import codecs
from typing import NamedTuple

# A snapshot is one event: as large as 200 messages may be.
EVENT_CHARS_MAX = 268_435_456


class ServerEvent(NamedTuple):
    """One event as it stood on the wire."""

    event: str
    id: str
    data: str


class EventParser:
    """Feed it bytes as they come; it gives whole events, of ``event_chars_max`` at most."""

    def __init__(self, event_chars_max: int | None = None) -> None:
        self._event_chars_max = event_chars_max or EVENT_CHARS_MAX
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self._pending: list[str] = []
        self._size = 0
        self._after_cr = False
        self._last_id = ""
        self._clear()

    def _clear(self) -> None:
        self._event = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        """The events that these bytes complete. ``ValueError`` for an event without end."""
        text = self._decoder.decode(chunk)
        if text:
            # The LF of a CR LF that was cut: its line has ended already.
            skip = self._after_cr and text.startswith("\n")
            self._after_cr = text.endswith("\r")
            text = text[1:] if skip else text
        lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        events: list[ServerEvent] = []
        for line in lines[:-1]:
            self._pending.append(line)
            whole = "".join(self._pending)
            self._pending = []
            event = self._line(whole)
            if event is not None:
                events.append(event)
        self._pending.append(lines[-1])
        self._size += len(text)
        if self._size > self._event_chars_max:
            raise ValueError("an event is too long")
        return events

    def _line(self, line: str) -> ServerEvent | None:
        if not line:
            event = None
            if self._data:
                name = self._event or "message"
                event = ServerEvent(name, self._last_id, "\n".join(self._data))
            self._clear()
            self._size = 0
            return event
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            self._event = value
        elif name == "data":
            self._data.append(value)
        elif name == "id" and "\0" not in value:
            self._last_id = value
        return None
