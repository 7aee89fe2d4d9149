"""What schemathesis is told besides the description: where something is, and what must be so.

Loaded by its command line (``SCHEMATHESIS_HOOKS``). What it draws for an id is mostly one that
nobody has used: here most of them become one of a few that are there, and a producer's requests
carry the epoch that it was given. Which do follows from what was drawn.
"""

import os
import zlib
from typing import Any

import requests
import schemathesis
from perdure.api.problems import STATUS
from perdure.regions.guard_headers import GUARDS

# Of so many values one stays as it was drawn.
_KEPT_OF = 5
# What is deleted stays deleted: after so many requests another session takes its place.
_REQUESTS_OF_A_SESSION = 20
_WAIT_MS = 20
_WAITS = ("/poll", "/agents/{a}/runs")
# Rounds at one region are in sessions of their own.
_ROUND = os.environ.get("SCHEMATHESIS_ROUND", "0")
# What is drawn for lines of a stream is a text, and goes as it is.
schemathesis.serializer.alias("application/x-ndjson", "text/plain")


class Place:
    """The session that requests go to, and who writes its messages and runs."""

    def __init__(self) -> None:
        self.requests = 0
        # By the id of a message or run: its producer and epoch, and how far it has written.
        self.lanes: dict[str, tuple[str, str]] = {}
        self.next: dict[str, int] = {}

    @property
    def session(self) -> str:
        return f"s{_ROUND}.{self.requests // _REQUESTS_OF_A_SESSION}"

    def furnish(self, url: str) -> None:
        """A new session, with two of everything."""
        self.lanes, self.next = {}, {}
        with requests.Session() as http:
            http.trust_env = False
            for path, body in _FURNITURE:
                answer = http.request(
                    "PATCH" if "documents" in path else "PUT" if "presence" in path else "POST",
                    f"{url}/v1/sessions/{self.session}/{path}",
                    json=body,
                    timeout=10,
                )
                assert answer.ok, answer.text
                if "epoch" in (value := answer.json()) and "producer" in body:
                    self.lanes[value.get("id", "r0")] = (body["producer"], value["epoch"])


_OPEN = {"role": "assistant", "producer": "p", "claim_id": "claim-0001"}
_FURNITURE: tuple[tuple[str, dict[str, Any]], ...] = (
    ("messages", {"id": "m0", "role": "user", "text": "hello"}),
    ("messages", {"id": "m1", **_OPEN}),
    ("messages", {"id": "m2", **_OPEN}),
    ("runs", {"id": "r0", "agent": "a0"}),
    ("runs", {"id": "r1", "agent": "a1"}),
    ("runs/r0/claim", {"producer": "p", "claim_id": "claim-0001"}),
    ("documents/d0", {"text": "hello", "json": {"k": 1}}),
    ("documents/d1", {"text": "é"}),
    ("presence/member0", {"data": {"x": 1}}),
)
_place = Place()


def _sum(value: Any) -> int:
    return zlib.crc32(repr(value).encode("utf-8", "surrogatepass"))


def _known(name: str, value: Any) -> Any:
    """The id of something that is there, for most values."""
    drawn = _sum((name, value))
    if drawn % _KEPT_OF == 0:
        return value
    return _place.session if name == "s" else f"{name}{drawn % 3}"


@schemathesis.hook
def before_call(_: Any, case: Any, kwargs: Any) -> None:
    """Have a case meet what is there."""
    if _place.requests % _REQUESTS_OF_A_SESSION == 0:
        _place.furnish(case.operation.base_url.rstrip("/"))
    for name, value in (case.path_parameters or {}).items():
        case.path_parameters[name] = _known(name, value)
    if isinstance(before := (case.query or {}).get("before"), str):
        case.query = {**case.query, "before": _known("m", before)}
    if case.operation.path.endswith(_WAITS):
        _hasten(case)
    if isinstance(case.body, dict):
        _refer(case.body)
    _write_as_producer(case)
    _place.requests += 1


def _hasten(case: Any) -> None:
    """Nothing is waited for, unless the wait will be refused."""
    wait = (case.query or {}).get("wait_ms", 20_000)
    if isinstance(wait, int) and _WAIT_MS < wait <= 25_000:
        case.query = {**(case.query or {}), "wait_ms": _WAIT_MS}


def _refer(body: dict[str, Any]) -> None:
    names = {"after": "m", "replaces": "m", "input": "m", "run": "r", "agent": "a"}
    for field, name in names.items():
        if isinstance(body.get(field), str):
            body[field] = _known(name, body[field])
    if "role" in body and _sum(body) % _KEPT_OF:
        # Else most would lack it, for a key may stand in for it.
        body.setdefault("id", f"n{_sum(body) % 100}")


def _write_as_producer(case: Any) -> None:
    """Carry the epoch of who writes, mostly."""
    path, body = case.operation.path, case.body
    parameters = case.path_parameters or {}
    id_ = parameters.get("m", parameters.get("r"))
    known = _place.lanes.get(str(id_))
    if known is None or _sum((parameters, body)) % _KEPT_OF == 0:
        return
    producer, epoch = known
    if path.endswith(("/tokens", "/stream")):
        lane = {"Producer-Id": producer, "Producer-Epoch": epoch}
        lane["Producer-Seq"] = str(_place.next.get(str(id_), 0))
        case.headers = {**(case.headers or {}), **lane}
    elif path.endswith(("/lease", "/state")) and isinstance(body, dict):
        body |= {"producer": producer, "epoch": epoch}


@schemathesis.hook
def after_call(_: Any, case: Any, response: Any) -> None:
    """Note how far a message was written, and that a session is gone."""
    if case.method == "DELETE" and case.path_parameters == {"s": _place.session}:
        _place.requests += -_place.requests % _REQUESTS_OF_A_SESSION
    if case.operation.path.endswith("/tokens") and response.status_code == 200:
        _place.next[case.path_parameters["m"]] = response.json()["next"]


@schemathesis.check
def refusals_are_problems(_: Any, response: Any, case: Any) -> None:
    """Whatever is refused is a problem with a code of its status; the server's part are 503 and
    507 alone, with ``Retry-After``. What is refused before it is a request is text."""
    status = response.status_code
    if status < 400:
        return
    content = response.headers.get("content-type", [""])[0]
    assert status < 500 or status in (503, 507), f"{status}: {response.text[:300]}"
    if status >= 500:
        assert response.headers.get("retry-after"), f"{status} without Retry-After"
    if status == 400 and content == "text/plain; charset=utf-8":
        assert response.text == "Invalid HTTP request received."
        return
    assert content == "application/problem+json", f"{status} {content}"
    assert STATUS[response.json()["code"]] == status


@schemathesis.check
def answers_are_guarded(_: Any, response: Any, case: Any) -> None:
    """Each guard once, on every answer."""
    is_stream = "event-stream" in str(response.headers.get("content-type"))
    for name, value in GUARDS:
        expected = value.decode() + (", no-transform" if is_stream and value == b"no-store" else "")
        found = response.headers.get(name.decode(), [])
        assert found == [expected], f"{name.decode()}: {found}"
