"""A slice of the campaign, and that it would see what it looks for."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from perdure.regions.guard_headers import GUARDS

from tests.schemathesis.__main__ import _said, main
from tests.schemathesis.hooks import answers_are_guarded, refusals_are_problems

PROBLEM = ("content-type", "application/problem+json")


def test_a_region_answers_as_it_describes_itself(capsys) -> None:
    """A thousand requests and more, good and bad, drawn from its description: it goes on, answers
    what the description tells, and logs no error; a good part of them is taken."""
    assert main(["--cases", "1000", "--phases", "coverage,fuzzing"]) == 0
    told = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())
    assert int(told["cases"]) >= 1_000
    assert told["failed"] == "0"
    assert int(told["good accepted"]) > 150


def answer(status: int, code: str | None, *headers: tuple[str, str]) -> Any:
    """An answer as a check sees it."""
    return SimpleNamespace(
        status_code=status,
        headers={name: [value] for name, value in headers},
        text="?",
        json=lambda: {"code": code},
    )


@pytest.mark.parametrize(
    "wrong",
    [
        answer(500, "internal", PROBLEM),
        answer(503, "draining", PROBLEM),
        answer(404, "not_found", ("content-type", "application/json")),
        answer(409, "not_found", PROBLEM),
        answer(400, None, ("content-type", "text/plain; charset=utf-8")),
    ],
    ids=["5xx", "no Retry-After", "no problem", "another status", "another text"],
)
def test_a_wrong_refusal_is_seen(wrong: Any) -> None:
    """Each of these would fail the campaign."""
    with pytest.raises(AssertionError):
        refusals_are_problems(None, wrong, None)


def test_a_right_refusal_is_none() -> None:
    """Of the client, and of the region."""
    refusals_are_problems(None, answer(404, "not_found", PROBLEM), None)
    refusals_are_problems(None, answer(503, "draining", PROBLEM, ("retry-after", "1")), None)
    refusals_are_problems(None, answer(204, None), None)


def test_a_guard_that_is_missing_is_seen() -> None:
    """Or has another value."""
    guards = [(name.decode(), value.decode()) for name, value in GUARDS]
    answers_are_guarded(None, answer(200, None, *guards), None)
    for index in range(len(guards)):
        with pytest.raises(AssertionError):
            answers_are_guarded(
                None, answer(200, None, *guards[:index], *guards[index + 1 :]), None
            )
        other = (guards[index][0], "other")
        with pytest.raises(AssertionError):
            answers_are_guarded(None, answer(200, None, *guards, other), None)


def test_an_error_that_was_logged_is_seen(tmp_path) -> None:
    """Also where the answer was as it must be."""
    lines = [{"level": "warning", "message": "a"}, {"level": "error", "message": "b"}]
    log = tmp_path / "log"
    log.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert _said(log) == 'LOGGED {"level": "error", "message": "b"}\n'
