"""What can go wrong, by the code that the service gives (its protocol, A.1)."""

from typing import Any


class PerdureError(Exception):
    """A region refused. ``code`` is stable; ``status`` the HTTP status; ``problem`` the whole."""

    def __init__(self, problem: dict[str, Any]) -> None:
        self.problem = problem
        self.code = str(problem.get("code", "internal"))
        self.status = int(problem.get("status", 500))
        super().__init__(f"{self.code}: {problem.get('detail', '')}")


class Invalid(PerdureError, ValueError):
    """What was given is malformed or too large. Some of it is found before anything is sent."""


class Fenced(PerdureError):
    """Another producer has taken the message over."""


class Cancelled(PerdureError):
    """The message was cancelled: nothing more is taken."""


class Conflict(PerdureError):
    """Something else is held under the same name."""


class Deleted(PerdureError):
    """The session or message is gone for ever."""


class Ended(PerdureError):
    """The message has ended."""


class NotFound(PerdureError):
    """This region knows no such session or message."""


class Unavailable(PerdureError):
    """No region could be reached within the time."""


class BufferLost(PerdureError):
    """A region lacks tokens that this writer no longer holds, and they did not arrive in time."""


class OutOfStep(Exception):
    """An event does not fit what the reader holds; it must resume without a cursor."""


_KINDS: dict[str, type[PerdureError]] = {
    "fenced": Fenced,
    "cancelled": Cancelled,
    "conflict": Conflict,
    "deleted": Deleted,
    "ended": Ended,
    "not_found": NotFound,
    "too_large": Invalid,
    "clock_ahead": Invalid,
}


def error_of(problem: dict[str, Any]) -> PerdureError:
    """The error of a problem object."""
    code = str(problem.get("code"))
    kind = Invalid if code.startswith("invalid_") else _KINDS.get(code, PerdureError)
    return kind(problem)


def invalid(code: str, detail: str) -> Invalid:
    """The error of what is refused here, in the words of the service."""
    return Invalid({"code": code, "status": 400, "detail": detail})
