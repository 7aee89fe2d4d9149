"""The log of a process, a line for each record, for programs (JSON) or for people (text).

Rule of this file: nothing in a record can begin a line of its own, end one, or say to a terminal
what it is to do. What is known of the place comes as fields: ``extra={"session": …}``, or ``run``
or ``peer``, or ``trace`` where a request says that it is a part of one; the region is that of the
process.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

FORMATS = ("json", "text")
# What a record may say, and its traceback; a path or an exception could say much more.
LOG_TEXT_CHARS_MAX = 16_384
_FIELDS = ("session", "run", "peer", "trace", "left_out")
# Of one kind, whoever causes them; how many there were besides is told when the time is over.
LINES_OF_A_KIND_MAX = 100
LINES_OF_A_KIND_S = 10.0
KINDS_MAX = 1_000
log = logging.getLogger("perdure")


def start_logging(format_: str, level: int, region: str | None = None) -> None:
    """Have everything that is logged go to standard error in this format; where somebody has seen
    to that already, it stays as it is."""
    if logging.root.handlers:
        return
    lines = JsonLines(region) if format_ == "json" else TextLines()
    handler: logging.StreamHandler[TextIO] = logging.StreamHandler(sys.stderr)
    handler.setFormatter(lines)
    handler.addFilter(Flood())
    logging.basicConfig(level=level, handlers=[handler])
    # Else what the interpreter warns of would be lines of its own.
    logging.captureWarnings(True)


def default_format() -> str:
    """Text where a person reads it, else JSON."""
    return "text" if sys.stderr.isatty() else "json"


def last_words(text: str) -> None:
    """Why this process ends, as a line of its log, or as a person is told."""
    if any(isinstance(handler.formatter, JsonLines) for handler in logging.root.handlers):
        log.critical("%s", text)
    else:
        print(f"perdure: {text}", file=sys.stderr, flush=True)


def _time(record: logging.LogRecord) -> str:
    when = datetime.fromtimestamp(record.created, UTC)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _short(text: str) -> str:
    if len(text) <= LOG_TEXT_CHARS_MAX:
        return text
    # The end of a traceback says what happened, the beginning of a message does.
    half = LOG_TEXT_CHARS_MAX // 2
    return f"{text[:half]} … {len(text) - 2 * half} characters … {text[-half:]}"


class Flood(logging.Filter):
    """Lets so many records of a kind pass in a time: who sends rubbish must not fill the disk, nor
    hide what else is said. A record's kind is its logger and its text before anything is put in."""

    def __init__(self) -> None:
        super().__init__()
        # When the time of a kind began, and how many records it has had.
        self._kinds: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it passes; ``left_out`` says how many like it did not, before it."""
        kind = (record.name, str(record.msg)[:LOG_TEXT_CHARS_MAX])
        began, count = self._kinds.pop(kind, (record.created, 0))
        if not 0 <= record.created - began < LINES_OF_A_KIND_S:
            if count > LINES_OF_A_KIND_MAX:
                record.left_out = count - LINES_OF_A_KIND_MAX
            began, count = record.created, 0
        self._kinds[kind] = (began, count + 1)
        if len(self._kinds) > KINDS_MAX:
            del self._kinds[next(iter(self._kinds))]
        return count < LINES_OF_A_KIND_MAX


class JsonLines(logging.Formatter):
    """One JSON object a line, in ASCII: ``time``, ``level``, ``logger``, ``message``, ``region``;
    ``session``, ``run``, ``peer``, ``trace`` where they are known; ``left_out``, how many like it
    were not written; ``error``, a traceback."""

    def __init__(self, region: str | None = None) -> None:
        super().__init__()
        self._region = {} if region is None else {"region": region}

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        value: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _short(record.getMessage()),
            **self._region,
        }
        for name in _FIELDS:
            if (known := getattr(record, name, None)) is not None:
                value[name] = known if type(known) is int else _short(str(known))
        if record.exc_info:
            value["error"] = _short(self.formatException(record.exc_info))
        return json.dumps(value)


class TextLines(logging.Formatter):
    """``<time> <LEVEL> <logger> <message> [session=… …]``; the lines of a traceback follow,
    indented."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, and those of a traceback, without the last end."""
        known = [(name, getattr(record, name, None)) for name in _FIELDS]
        fields = "".join(f" {name}={value}" for name, value in known if value is not None)
        text = _printable(_short(f"{record.getMessage()}{fields}"))
        first = f"{_time(record)} {record.levelname} {record.name} {text}"
        if not record.exc_info:
            return first
        lines = _short(self.formatException(record.exc_info)).split("\n")
        return "\n".join([first, *(f"    {_printable(line)}" for line in lines)])


def _printable(text: str) -> str:
    """The same with escapes for what would be no text on a terminal."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )
