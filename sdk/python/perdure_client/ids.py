"""Ids as the service takes them (its protocol, Terms), and their places in a URL."""

import re
import secrets
from typing import Any
from urllib.parse import urlencode

from perdure_client.errors import invalid

_ID = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._~-]{1,128}")
_NEW_ID_BYTES = 12


def new_id() -> str:
    """A random id."""
    return secrets.token_hex(_NEW_ID_BYTES)


def is_id(value: object) -> bool:
    """Whether the service would take it as one."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def checked_id(id_: str) -> str:
    """The id, fit for a path. Raises ``Invalid``: another one would reach another resource."""
    if not is_id(id_):
        raise invalid("invalid_id", f"{id_!r} is no id: 1 to 128 of A-Z a-z 0-9 . _ ~ -")
    return id_


def query(**values: str | int | None) -> str:
    """The query of a URL, of the values that are given."""
    pairs = urlencode({name: value for name, value in values.items() if value is not None})
    return f"?{pairs}" if pairs else ""


def given(**values: Any) -> dict[str, Any]:
    """The fields of a body that have a value."""
    return {name: value for name, value in values.items() if value is not None}
