"""Bodies of requests: bounded, in time, and strict JSON.

Never ``json.loads`` on what comes from outside: it takes lone surrogates, NaN and numbers of any
length. The parser here is pydantic's, with our own limits on depth and integers.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from pydantic_core import from_json

from perdure.replication.errors import Refusal
from perdure.replication.limits import BODY_BYTES_MAX, BODY_READ_S_MAX, JSON_DEPTH_MAX

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1
_DIGITS_MAX = 64


class Disconnected(Exception):
    """The client went away in the middle of its request."""


def header(scope: Scope, name: bytes) -> str | None:
    """The value of a header; None when it is absent. Raises ``ValueError`` when it is given twice
    or is not ASCII."""
    values = [value for key, value in scope["headers"] if key == name]
    if len(values) > 1:
        raise ValueError("given twice")
    return values[0].decode("ascii") if values else None


def check_media_type(scope: Scope, *allowed: str) -> None:
    """Raises ``Refusal`` ``unsupported_media_type`` for a body that is declared as another type."""
    for key, value in scope["headers"]:
        if key == b"content-type":
            kind = value.split(b";")[0].strip().lower().decode("latin-1")
            if kind and kind not in allowed and not kind.endswith("+json"):
                raise Refusal("unsupported_media_type", f"send {allowed[0]}")


async def read_body(scope: Scope, receive: Receive) -> bytes:
    """The whole body. Raises ``Refusal``: ``too_large``, ``timeout``; and ``Disconnected``."""
    for key, value in scope["headers"]:
        if key == b"content-length" and value.isdigit() and int(value) > BODY_BYTES_MAX:
            raise _too_large()
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_READ_S_MAX):
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
    except TimeoutError as error:
        raise Refusal("timeout", f"the body did not arrive within {BODY_READ_S_MAX} s") from error


def _too_large() -> Refusal:
    return Refusal("too_large", "the body is too large", limit_bytes=BODY_BYTES_MAX)


def parse_json(raw: bytes) -> Any:
    """The value of a JSON text, or ``Refusal`` ``invalid_json``."""
    _check_depth(raw)
    try:
        value = from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        raise Refusal("invalid_json", f"the body is not JSON: {str(error)[:200]}") from error
    _check_numbers(value)
    return value


def _check_depth(raw: bytes) -> None:
    """Refuse nesting before the parser meets it; brackets in strings do not count."""
    if raw.count(b"[") + raw.count(b"{") <= JSON_DEPTH_MAX:
        return
    depth = 0
    in_string = escaped = False
    for byte in raw:
        if in_string:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                in_string = False
        elif byte == 0x22:
            in_string = True
        elif byte in (0x5B, 0x7B):
            depth += 1
            if depth > JSON_DEPTH_MAX:
                raise Refusal("invalid_json", f"nested deeper than {JSON_DEPTH_MAX}")
        elif byte in (0x5D, 0x7D):
            depth -= 1


def _check_numbers(value: Any) -> None:
    """Integers within 64 bits: greater ones would not survive other JSON readers."""
    stack = [value]
    while stack:
        at = stack.pop()
        if isinstance(at, dict):
            stack.extend(at.values())
        elif isinstance(at, list):
            stack.extend(at)
        elif isinstance(at, int) and not _INT_MIN <= at <= _INT_MAX:
            raise Refusal("invalid_json", "an integer is beyond 64 bits")


def parse_object(raw: bytes, *, empty: bool = False) -> dict[str, Any]:
    """The object of a body; with ``empty`` no body is an empty object."""
    if empty and not raw.strip():
        return {}
    value = parse_json(raw)
    if not isinstance(value, dict):
        raise Refusal("invalid_body", "the body must be a JSON object")
    return value
