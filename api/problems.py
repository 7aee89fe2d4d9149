"""Refusals as RFC 9457 problems (``docs/PROTOCOL.md`` A.1)."""

import json
from http import HTTPStatus
from typing import Any, NamedTuple

from perdure.regions.ports import StorageError, StorageFull
from perdure.replication.errors import Refusal

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 1
STATUS = {
    "invalid_json": 400,
    "invalid_body": 400,
    "invalid_id": 400,
    "invalid_producer": 400,
    "invalid_cursor": 400,
    "invalid_query": 400,
    "invalid_header": 400,
    "idempotency_key_required": 400,
    "clock_ahead": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "origin_refused": 403,
    "fenced": 403,
    "cancelled": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "timeout": 408,
    "conflict": 409,
    "gap": 409,
    "unknown_epoch": 409,
    "ended": 409,
    "held": 409,
    "deleted": 410,
    "too_large": 413,
    "unsupported_media_type": 415,
    "too_many": 429,
    "internal": 500,
    "storage_failed": 503,
    "draining": 503,
    "catching_up": 503,
    "starting": 503,
    "storage_full": 507,
}
_IN_HEADERS = frozenset({"retry_after_s", "allow", "fields"})
_RETRY = frozenset(
    {"held", "too_many", "storage_failed", "draining", "catching_up", "starting", "storage_full"}
)


class Problem(NamedTuple):
    """A problem, ready to be sent."""

    status: int
    body: dict[str, Any]
    headers: list[tuple[str, str]]

    def encode(self) -> bytes:
        """The JSON of the problem."""
        return json.dumps(self.body, ensure_ascii=False).encode()


def as_refusal(error: Exception) -> Refusal:
    """An exception in the caller's words; an unexpected one tells nothing."""
    if isinstance(error, StorageFull):
        return Refusal("storage_full", "the disk of this region is full")
    if isinstance(error, StorageError):
        return Refusal("storage_failed", "the disk of this region has failed")
    if not isinstance(error, Refusal):
        return Refusal("internal", "an internal error; it was logged")
    return error


def problem(error: Exception) -> Problem:
    """The problem of an exception; of an unexpected one it tells nothing."""
    error = as_refusal(error)
    status = STATUS[error.code]
    body = {
        # First, so that no detail of a refusal can stand in for what every problem says.
        **{key: value for key, value in error.extra.items() if key not in _IN_HEADERS},
        "type": f"urn:perdure:problem:{error.code}",
        "title": _title(status),
        "status": status,
        "detail": _in_words(error),
        "code": error.code,
    }
    headers = [("content-type", MEDIA_TYPE)]
    if error.code in _RETRY:
        headers.append(("retry-after", str(error.extra.get("retry_after_s", RETRY_AFTER_S))))
    if error.code == "unauthorized":
        headers.append(("www-authenticate", "Bearer"))
    if "allow" in error.extra:
        headers.append(("allow", error.extra["allow"]))
    headers += [(name.decode(), value.decode()) for name, value in error.extra.get("fields", ())]
    return Problem(status, body, headers)


def _in_words(refusal: Refusal) -> str:
    """The detail, with what it is that its numbers say: people see the detail alone, in the
    exceptions of clients."""
    extra = refusal.extra
    if refusal.code == "gap" and "expected" in extra:
        return f"{refusal.detail}: send from {extra['expected']} on"
    if "limit_bytes" in extra:
        return f"{refusal.detail}: {extra['limit_bytes']:,} bytes at most"
    if "limit_items" in extra:
        return f"{refusal.detail}: {extra['limit_items']:,} at most"
    return refusal.detail


def _title(status: int) -> str:
    return HTTPStatus(status).phrase
