"""What a message is made of, tokens and marks, and what a region takes of them."""

import json
from typing import Any

from perdure_client.errors import invalid
from perdure_client.regions import encoded

# What a region takes (its protocol, A.2). Found here, a mistake does not cost the message.
TOKEN_BYTES_MAX = 1_048_576
MARK_BYTES_MAX = 262_144
Item = str | dict[str, Any]


def size_max_of(item: Item) -> int:
    """No fewer than the bytes of an item in UTF-8."""
    return len(item) * 4 if isinstance(item, str) else len(json.dumps(item))


def check_token(token: str) -> None:
    """Raises ``Invalid`` for a lone surrogate, and for a token that is too large."""
    if not isinstance(token, str):
        raise TypeError(f"a token is a string, not {type(token).__name__}")
    if not token.isascii() or len(token) > TOKEN_BYTES_MAX:
        _check_size(token, TOKEN_BYTES_MAX)


def check_mark(mark: dict[str, Any]) -> None:
    """Raises ``Invalid`` for what is no mark, or one that is too large."""
    (content,) = mark.values() if len(mark) == 1 else (None,)
    if not mark.keys() & {"part", "set"} or not isinstance(content, dict):
        raise invalid("invalid_body", 'a mark is {"part": {…}} or {"set": {…}}')
    _check_size(mark, MARK_BYTES_MAX)


def _check_size(item: Item, bytes_max: int) -> None:
    # The quotes of a string are not counted, nor what JSON escapes in it.
    size = len(encoded(item)) if isinstance(item, dict) else len(_utf8(item))
    if size > bytes_max:
        raise invalid("too_large", f"an item of {size} bytes; {bytes_max} are the limit")


def _utf8(token: str) -> bytes:
    try:
        return token.encode()
    except UnicodeEncodeError as error:
        raise invalid("invalid_json", f"a token must be text in UTF-8: {error}") from error
