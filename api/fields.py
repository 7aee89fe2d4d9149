"""Fields of request bodies and queries, checked in the caller's words."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from perdure.api.bodies import parse_json
from perdure.replication.errors import Refusal
from perdure.replication.limits import (
    ACK_WAIT_MS_MAX,
    PAGE_ITEMS_DEFAULT,
    PAGE_ITEMS_MAX,
    POLL_WAIT_MS_DEFAULT,
    POLL_WAIT_MS_MAX,
    PRESENCE_TTL_S_MAX,
)

# A cursor, and a member with its data, of which each byte may take three characters.
_QUERY_CHARS_MAX = 16_384


class Fields:
    """The fields of an object; every one is asked for by name, and none may be left over."""

    def __init__(self, value: Mapping[str, Any], known: frozenset[str]) -> None:
        for name in value:
            if name not in known:
                raise Refusal("invalid_body", f"unknown field {name[:64]!r}", field=name[:64])
        self._value = value

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self._value.get(name) is not None

    def text(self, name: str) -> str | None:
        """A string, or None when it is absent or null."""
        value = self._value.get(name)
        if value is not None and not isinstance(value, str):
            raise Refusal("invalid_body", f"{name} must be a string", field=name)
        return value

    def needed(self, name: str) -> str:
        """A string that must be there."""
        value = self.text(name)
        if value is None:
            raise Refusal("invalid_body", f"{name} is missing", field=name)
        return value

    def flag(self, name: str) -> bool:
        """True or false; false when it is absent or null."""
        value = self._value.get(name)
        if value is not None and not isinstance(value, bool):
            raise Refusal("invalid_body", f"{name} must be true or false", field=name)
        return bool(value)

    def value(self, name: str) -> Any:
        """Whatever it is; None when it is absent."""
        return self._value.get(name)

    def object(self, name: str) -> dict[str, Any]:
        """An object; empty when it is absent or null."""
        value = self._value.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise Refusal("invalid_body", f"{name} must be an object", field=name)
        return value


def query(raw: bytes, *known: str) -> dict[str, str]:
    """The query's parameters; ``Refusal`` ``invalid_query`` for unknown and repeated ones."""
    if len(raw) > _QUERY_CHARS_MAX:
        raise Refusal("invalid_query", "the query is too long")
    try:
        pairs = parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict")
    except ValueError as error:
        raise Refusal("invalid_query", "the query is malformed") from error
    values: dict[str, str] = {}
    for name, value in pairs:
        if name not in known:
            raise Refusal("invalid_query", f"unknown parameter {name[:64]!r}", field=name[:64])
        if name in values:
            raise Refusal("invalid_query", f"{name} is given twice", field=name)
        values[name] = value
    return values


def member_of(values: Mapping[str, str]) -> tuple[str | None, Any]:
    """The member that a connection brings, and its data; ``Refusal`` ``invalid_query``."""
    member, text = values.get("presence"), values.get("presence_data")
    if text is None:
        return member, None
    if member is None:
        raise Refusal(
            "invalid_query", "presence_data needs presence, a member", field="presence_data"
        )
    try:
        return member, parse_json(text.encode())
    except Refusal as refusal:
        raise Refusal(
            "invalid_query", f"presence_data is no JSON: {refusal.detail}", field="presence_data"
        ) from refusal


def whole(value: Any, name: str, least: int, most: int, *, needed: bool = False) -> int | None:
    """A whole number of a body, None when it is absent; ``Refusal`` ``invalid_body``."""
    if value is None and not needed:
        return None
    if type(value) is not int or not least <= value <= most:
        detail = f"{name} must be a whole number from {least} to {most}"
        raise Refusal("invalid_body", detail, field=name)
    return value


def check_ttl_s(value: Any) -> int | None:
    """The length of a lease, or None; ``Refusal`` ``invalid_body``."""
    return whole(value, "ttl_s", 1, PRESENCE_TTL_S_MAX)


def limit(values: Mapping[str, str]) -> int:
    """The ``limit`` of a page: 1 to 1,000, 100 when it is absent."""
    return whole_of(values, "limit", 1, PAGE_ITEMS_MAX, PAGE_ITEMS_DEFAULT)


def ack_wait_ms(values: Mapping[str, str]) -> int | None:
    """How long to wait for stable; None when only ``accepted`` is asked for."""
    ack = values.get("ack", "accepted")
    if ack not in ("accepted", "stable"):
        raise Refusal("invalid_query", "ack must be accepted or stable", field="ack")
    wait_ms = whole_of(values, "wait_ms", 0, ACK_WAIT_MS_MAX, ACK_WAIT_MS_MAX)
    return wait_ms if ack == "stable" else None


def poll_wait_ms(values: Mapping[str, str]) -> int:
    """How long a poll waits for something to tell."""
    return whole_of(values, "wait_ms", 0, POLL_WAIT_MS_MAX, POLL_WAIT_MS_DEFAULT)


def whole_of(values: Mapping[str, str], name: str, least: int, most: int, default: int) -> int:
    """A whole number of a query, or the default; ``Refusal`` ``invalid_query``."""
    text = values.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise Refusal("invalid_query", f"{name} must be a whole number", field=name)
    if not least <= int(text) <= most:
        raise Refusal("invalid_query", f"{name} must be {least} to {most}", field=name)
    return int(text)
