"""Bodies of requests: bounded, in time, and strict JSON.

Never ``json.loads`` on what comes from outside: it takes lone surrogates, NaN and numbers of any
length. The parser here is pydantic's, with our own limits on depth and integers.
"""

import re
from collections.abc import Awaitable, Callable, MutableMapping
from math import isfinite
from typing import Any

from perdure.api.pace import cost_of, pace_of
from perdure.api.patience import within
from perdure.replication.errors import Refusal
from perdure.replication.limits import BODY_BYTES_MAX, BODY_READ_S_MAX, JSON_DEPTH_MAX, UNIT_BYTES
from perdure.replication.traces import sampled
from pydantic_core import from_json

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1
# A string of a valid JSON text.
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)


class Disconnected(Exception):
    """The client went away in the middle of its request."""


class Unread(Refusal):
    """A refusal while the rest of the body is still on its way."""


def header(scope: Scope, name: bytes) -> str | None:
    """The value of a header; None when it is absent. Raises ``ValueError`` when it is given twice
    or is not ASCII."""
    values = [value for key, value in scope["headers"] if key == name]
    if len(values) > 1:
        raise ValueError("given twice")
    return values[0].decode("ascii") if values else None


def trace_of(scope: Scope) -> str | None:
    """The trace that a request is a part of, where that is recorded. One that is malformed is
    ignored, as W3C Trace Context has it."""
    found = [value for key, value in scope["headers"] if key == b"traceparent"]
    return sampled(found[0].decode("latin-1")) if len(found) == 1 else None


def check_media_type(scope: Scope, *allowed: str) -> None:
    """Raises ``Refusal`` ``unsupported_media_type`` for a body that is declared as another type, or
    as compressed: what it would become is nobody's to find out here."""
    for key, value in scope["headers"]:
        if key == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            raise Refusal("unsupported_media_type", "send the body as it is, without an encoding")
        if key == b"content-type":
            kind = value.split(b";")[0].strip().lower().decode("latin-1")
            if kind and kind not in allowed and not kind.endswith("+json"):
                raise Refusal("unsupported_media_type", f"send {allowed[0]}")


async def read_body(scope: Scope, receive: Receive) -> bytes:
    """The whole body. Raises ``Unread``: ``too_large``, ``timeout``; and ``Disconnected``."""
    if _declared_bytes(scope) > BODY_BYTES_MAX:
        raise _too_large()
    try:
        body = await within(BODY_READ_S_MAX, _read(receive))
    except TimeoutError as error:
        raise Unread("timeout", f"the body did not arrive within {BODY_READ_S_MAX} s") from error
    if len(body) > UNIT_BYTES and (pace := pace_of(scope)) is not None:
        pace.owe(cost_of(0, len(body)))
    return body


async def _read(receive: Receive) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > BODY_BYTES_MAX:
            raise _too_large()
        chunks.append(chunk)
        if not message.get("more_body"):
            return b"".join(chunks)


def _declared_bytes(scope: Scope) -> int:
    """What ``Content-Length`` says; 0 without one. (The server has refused malformed ones.)"""
    for key, value in scope["headers"]:
        if key == b"content-length":
            return int(value) if value.isdigit() and len(value) < 20 else BODY_BYTES_MAX + 1
    return 0


def _too_large() -> Unread:
    return Unread("too_large", "the body is too large", limit_bytes=BODY_BYTES_MAX)


def parse_json(raw: bytes) -> Any:
    """The value of a JSON text, or ``Refusal`` ``invalid_json``.

    Refused beside what is no JSON: nesting beyond ``JSON_DEPTH_MAX``, integers beyond 64 bits,
    numbers that no double holds, and a key that an object has twice.
    """
    try:
        # The parser gives up at a depth of 200, before it could run out of stack.
        value = from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        raise _invalid(f"the body is not JSON: {str(error)[:200]}") from error
    keys = _check_values(value)
    # Every key has its colon: with as many keys as colons none was overwritten. More colons stand
    # in strings, mostly, so only then is it worth it to take the strings away and count again.
    if raw.count(b":") != keys and _STRING.sub(b"", raw).count(b":") != keys:
        raise _invalid("a key is given twice in one object")
    return value


def _check_values(value: Any) -> int:
    """Refuse what other JSON readers could not take, level by level; how many keys there are."""
    keys = 0
    level: list[Any] = [[value]]
    for _ in range(JSON_DEPTH_MAX + 1):
        deeper: list[Any] = []
        for container in level:
            is_object = type(container) is dict
            keys += len(container) if is_object else 0
            for at in container.values() if is_object else container:
                kind = type(at)
                if kind is dict or kind is list:
                    deeper.append(at)
                elif kind is int and not _INT_MIN <= at <= _INT_MAX:
                    raise _invalid("an integer is beyond 64 bits")
                elif kind is float and not isfinite(at):
                    raise _invalid("a number is too large")
        if not deeper:
            return keys
        level = deeper
    raise _invalid(f"nested deeper than {JSON_DEPTH_MAX}")


def _invalid(detail: str) -> Refusal:
    return Refusal("invalid_json", detail)


def parse_object(raw: bytes, *, empty: bool = False) -> dict[str, Any]:
    """The object of a body; with ``empty`` no body is an empty object."""
    if empty and not raw.strip():
        return {}
    value = parse_json(raw)
    if not isinstance(value, dict):
        raise Refusal("invalid_body", "the body must be a JSON object")
    return value


async def until_gone(receive: Receive) -> None:
    """Until the client has left; whatever else comes is passed over."""
    while (await receive())["type"] != "http.disconnect":
        pass
