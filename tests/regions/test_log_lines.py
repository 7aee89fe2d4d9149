"""The log of a process: a line for each record, whatever the record says."""

import io
import json
import logging
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from perdure.regions import log_lines
from perdure.regions.log_lines import (
    LOG_TEXT_CHARS_MAX,
    JsonLines,
    TextLines,
    default_format,
    last_words,
    start_logging,
)

from tests.regions.processes import Served, perdure

FORGED = "x\r\n2026-01-01T00:00:00.000Z CRITICAL perdure forged\u2028\x1b[31m\x85\0\ud800"


def record(message: str, *arguments: Any, error: BaseException | None = None, **more: Any) -> Any:
    """A record as a logger makes it."""
    info = None if error is None else (type(error), error, error.__traceback__)
    made = logging.LogRecord("perdure.x", logging.ERROR, "x.py", 1, message, arguments, info)
    made.created = 0.25
    vars(made).update(more)
    return made


def raised(text: str) -> BaseException:
    try:
        raise ValueError(text)
    except ValueError as error:
        return error


def test_a_line_is_an_object() -> None:
    """With what it is, and where; a traceback is a field of it."""
    line = JsonLines("eu").format(record("a %s", "b", session="s", run="r", peer="us"))
    assert json.loads(line) == {
        "time": "1970-01-01T00:00:00.250Z",
        "level": "error",
        "logger": "perdure.x",
        "message": "a b",
        "region": "eu",
        "session": "s",
        "run": "r",
        "peer": "us",
    }
    told = json.loads(JsonLines().format(record("a", error=raised("boom"))))
    assert told.keys() == {"time", "level", "logger", "message", "error"}
    assert told["error"].startswith("Traceback") and told["error"].endswith("ValueError: boom")


def test_a_line_of_text_has_its_fields() -> None:
    """Behind the message, and the traceback indented below it."""
    first, *rest = TextLines().format(record("a", session="s", error=raised("boom"))).split("\n")
    assert first == "1970-01-01T00:00:00.250Z ERROR perdure.x a session=s"
    assert rest[0] == "    Traceback (most recent call last):"
    assert rest[-1] == "    ValueError: boom"


@pytest.mark.failure("S12")
@given(st.one_of(st.just(FORGED), st.text()))
def test_nothing_forges_a_line(text: str) -> None:
    """Neither a message, nor a field, nor an exception: each record is one line of JSON in ASCII;
    of text the first line alone begins with a time, and no line says anything to a terminal."""
    made = record("%s", text, session=text, peer=text, error=raised(text))
    line = JsonLines("eu").format(made)
    assert line.isascii() and line.isprintable() and line.startswith("{")
    told = json.loads(line)
    assert told["message"] == told["session"] == told["peer"] == text
    first, *rest = TextLines().format(made).split("\n")
    assert all(line.isprintable() for line in (first, *rest))
    assert all(line.startswith("    ") for line in rest)


def test_a_record_has_a_greatest_size() -> None:
    """Of something enormous the beginning and the end are told, and how much is left out."""
    made = record("a" * 10**6 + "z", session="s" * 10**6, error=raised("e" * 10**6))
    told = json.loads(JsonLines("eu").format(made))
    for name in ("message", "session", "error"):
        assert len(told[name]) < LOG_TEXT_CHARS_MAX + 100
        assert "characters" in told[name]
    assert told["message"].endswith("z") and told["error"].startswith("Traceback")
    assert len(TextLines().format(made)) < 3 * LOG_TEXT_CHARS_MAX


def test_a_flood_of_one_kind_is_cut() -> None:
    """Others are written meanwhile; and when its time is over, how much was left out."""
    flood = log_lines.Flood()
    most = log_lines.LINES_OF_A_KIND_MAX
    passed = [flood.filter(record("%s sends rubbish", n)) for n in range(most + 50)]
    assert passed == [True] * most + [False] * 50
    assert flood.filter(record("something else"))
    later = record("%s sends rubbish", 1)
    later.created += log_lines.LINES_OF_A_KIND_S
    assert flood.filter(later)
    assert json.loads(JsonLines().format(later))["left_out"] == 50
    assert TextLines().format(later).endswith(" left_out=50")
    again = record("%s sends rubbish", 1)
    again.created = later.created
    assert flood.filter(again) and not hasattr(again, "left_out")
    # A clock that is set back begins anew, and what is kept of kinds is bounded.
    assert flood.filter(record("%s sends rubbish", 1))
    for n in range(2 * log_lines.KINDS_MAX):
        flood.filter(record(f"kind {n}"))
    assert len(flood._kinds) == log_lines.KINDS_MAX


def test_json_is_for_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads at a terminal gets text."""
    errors = io.StringIO()
    monkeypatch.setattr(sys, "stderr", errors)
    assert default_format() == "json"
    monkeypatch.setattr(errors, "isatty", lambda: True)
    assert default_format() == "text"


def test_last_words_are_in_the_format_of_the_log(monkeypatch, capsys) -> None:
    """Also what a process says of its own end."""
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging, "captureWarnings", lambda _: None)
    start_logging("json", logging.WARNING, "eu")
    last_words("the disk\nhas failed")
    told = json.loads(capsys.readouterr().err)
    assert (told["level"], told["message"]) == ("critical", "the disk\nhas failed")
    logging.root.handlers = []
    start_logging("text", logging.WARNING, "eu")
    last_words("the disk has failed")
    assert capsys.readouterr().err == "perdure: the disk has failed\n"
    # Who has seen to the log of the process is left alone.
    handlers = list(logging.root.handlers)
    start_logging("json", logging.WARNING, "eu")
    assert logging.root.handlers == handlers
    assert log_lines.FORMATS == ("json", "text")


@pytest.mark.failure("S12")
async def test_all_that_a_region_says_on_standard_error_is_json(tmp_path: Path) -> None:
    """Its own lines, the server's, those of its libraries and the interpreter's warnings: an object
    a line, each with its region; nothing of what strangers send begins a line."""
    eu = Served(tmp_path / "eu")
    code = """
import warnings
from perdure.api import edge
real = edge._parts
def parts(scope):
    if b"broken" in scope["raw_path"]:
        warnings.warn("a warning\\nof two lines", RuntimeWarning)
        raise RuntimeError("a mistake\\n{} of ours")
    return real(scope)
edge._parts = parts
"""
    async with eu.serve("--verbose", code=code) as running:
        await eu.raw(b"GET /broken%0A%7B%7D\x1b[31m HTTP/1.1\r\nhost: localhost\r\n\r\n")
        await eu.raw(b"GET /broken%0A%7B%7D HTTP/1.1\r\nhost: localhost\r\n\r\n")
        await eu.raw(b"nonsense\n{}\n\r\n\r\n")
        running.signal(signal.SIGTERM)
        ended = await running.end()
    lines = [json.loads(line) for line in ended.err.splitlines()]
    assert all(line["region"] == "eu" for line in lines)
    loggers = {line["logger"] for line in lines}
    assert {"perdure.api", "uvicorn.error", "py.warnings"} <= loggers
    (failed,) = [line for line in lines if line["logger"] == "perdure.api"]
    assert failed["message"] == "GET b'/broken%0A%7B%7D' failed"
    assert failed["error"].endswith("RuntimeError: a mistake\n{} of ours")


async def test_text_where_it_is_asked_for(tmp_path: Path) -> None:
    """``--log-format text``; and no other format is known."""
    eu = Served(tmp_path / "eu")
    async with eu.serve("--log-format", "text") as running:
        await eu.raw(b"nonsense\r\n\r\n")
        running.signal(signal.SIGTERM)
        ended = await running.end()
    assert ended.err.endswith("WARNING uvicorn.error Invalid HTTP request received.\n")
    wrong = await perdure(*eu.arguments("--log-format", "xml"))
    assert wrong.code == 2 and "--log-format: invalid choice: 'xml'" in wrong.err
