"""What is counted of requests: by operation and status, by code, and what is open.

Operations are a short list, whatever clients ask for: an id is never part of one.
"""

from collections.abc import Iterator
from typing import Any

from perdure.api.bodies import Scope
from perdure.api.needs import OF_FRAMES, operations
from perdure.api.problems import as_refusal
from perdure.regions.meters import OTHER, Meters
from perdure.regions.node import Node
from perdure.regions.tracing import CURRENT

_TOLD = "perdure.answered"
_OUTSIDE = frozenset(
    {
        *("/livez", "/readyz", "/version", "/metrics", "/openapi.json", "/docs"),
        *("/v1/transports", "/v1/regions", "/v1/verify", "/v1/sessions", "/v1/grants/renew"),
        *("/v1/tokens", "/v1/keys", "/v1/revocations", "/v1/audit", "/v1/erasures"),
    }
)
# What has an id, or several things, below it.
_BELOW = (
    ("/v1/keys/", "/v1/keys/*"),
    ("/v1/erasures/", "/v1/erasures/*"),
    ("/v1/agents/", "/v1/agents/*/runs"),
    ("/admin", "/admin/*"),
    ("/demo", "/demo/*"),
)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})


def _of_sessions() -> Iterator[tuple[tuple[object, ...], str]]:
    """The operations on sessions, by method, number of segments, and those that are no id."""
    for method, shape in operations():
        names = shape.split("/") if shape else []
        key = (method, 4 + len(names), *names[:1], *names[2:])
        yield key, f"{method} /v1/sessions/*/{shape}".rstrip("/")


_OF_SESSIONS = dict(_of_sessions())


class Told:
    """What is known of a request by the time that it is answered."""

    __slots__ = ("error", "parts")

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.error: Exception | None = None

    def place(self) -> dict[str, str]:
        """See :func:`place_of`; and of which trace the request is a part."""
        trace = CURRENT.get()
        traced = {} if trace is None else {"trace": trace.split("-")[1]}
        return {**place_of(self.parts), **traced}


def place_of(parts: list[str]) -> dict[str, str]:
    """What a line of the log that is about a request says of the place: the session, the run."""
    place = dict(zip(("session",), parts[3:4], strict=False))
    return {**place, "run": parts[5]} if parts[4:5] == ["runs"] and len(parts) > 5 else place


def begin(scope: Scope) -> Told:
    """Of one request."""
    told = scope[_TOLD] = Told()
    return told


def refused(scope: Scope, error: Exception) -> None:
    """A request is about to be answered with the problem of an exception."""
    if (told := scope.get(_TOLD)) is not None:
        told.error = error


def operation(method: str, path: str, parts: list[str]) -> str:
    """What a request is counted as."""
    if len(parts) > 3:
        return _OF_SESSIONS.get((method, len(parts), *parts[4:5], *parts[6:]), OTHER)
    if path not in _OUTSIDE:
        path = next((name for begins, name in _BELOW if path.startswith(begins)), OTHER)
    return f"{method} {path}" if path != OTHER and method in _METHODS else OTHER


class Counting:
    """Counts the requests of a region."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._meters = node.meters

    def answered(self, scope: Scope, told: Told, status: int) -> None:
        """The answer to a request begins."""
        op = operation(scope["method"], scope["path"], told.parts)
        self._meters.requests.add(1, op, str(status))
        if told.error is not None:
            count_error(self._node, told.error)

    def shaken(self, status: int, error: Exception | None = None) -> None:
        """A handshake of a WebSocket was answered."""
        self._meters.requests.add(1, "GET /v1/sessions/*/ws", str(status))
        if error is not None:
            count_error(self._node, error)


def count_error(node: Node, error: Exception) -> None:
    """Something was refused, or failed: in the metrics, and for the operators' page."""
    refusal, meters = as_refusal(error), node.meters
    node.oversight.refusals.note(error)
    meters.errors.add(1, refusal.code)
    if refusal.code == "too_many":
        meters.limited.add(1, str(refusal.extra.get("limit", "region")))


def count_frame(meters: Meters, frame: dict[str, Any], status: int) -> None:
    """A frame of a socket was answered."""
    do = frame.get("do")
    op = f"frame {do}" if isinstance(do, str) and do in OF_FRAMES else OTHER
    meters.requests.add(1, op, str(status))
