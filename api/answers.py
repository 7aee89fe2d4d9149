"""What the FastAPI routes share: strict bodies in, JSON out."""

from typing import Any

from fastapi import Request, Response
from perdure.api.bodies import check_media_type, header, parse_object, read_body
from perdure.api.fields import query
from perdure.api.hot import JSON, encode_json
from perdure.replication.errors import Refusal


def answer(value: Any, status: int = 200) -> Response:
    """An answer as JSON."""
    return Response(encode_json(value), status, media_type=JSON)


async def read_object(request: Request, *, empty: bool = False) -> dict[str, Any]:
    """The object that a request brings; with ``empty``, nothing is an empty one."""
    check_media_type(request.scope, JSON)
    return parse_object(await read_body(request.scope, request.receive), empty=empty)


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
