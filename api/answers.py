"""What the FastAPI routes share: strict bodies in, JSON out."""

from typing import Any

from fastapi import Request, Response
from perdure.api.authority import Authority
from perdure.api.bodies import check_media_type, header, parse_object, read_body
from perdure.api.fields import query
from perdure.api.hot import JSON, encode_json
from perdure.api.needs import NAMES
from perdure.api.standing import standing_of
from perdure.replication.errors import Refusal


def answer(value: Any, status: int = 200) -> Response:
    """An answer as JSON."""
    return Response(encode_json(value), status, media_type=JSON)


async def read_object(
    request: Request, *, empty: bool = False, is_free: bool = False
) -> dict[str, Any]:
    """The object that a request brings; with ``empty``, nothing is an empty one. Names in it that
    the caller's grant does not allow are refused, unless its keys are the caller's own."""
    check_media_type(request.scope, JSON)
    value = parse_object(await read_body(request.scope, request.receive), empty=empty)
    if not is_free:
        authority_of(request).check_names(value, *NAMES)
    return value


def authority_of(request: Request) -> Authority:
    """Who calls."""
    return standing_of(request.scope).authority


def idempotency_key(request: Request) -> str | None:
    """The ``Idempotency-Key``; ``Refusal`` ``invalid_id``."""
    try:
        return header(request.scope, b"idempotency-key")
    except ValueError as error:
        raise Refusal(
            "invalid_id", "Idempotency-Key is malformed or given twice", field="Idempotency-Key"
        ) from error


def no_query(request: Request) -> None:
    """Raises ``Refusal`` ``invalid_query`` for any parameter."""
    query(request.scope["query_string"])
