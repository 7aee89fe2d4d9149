"""The OpenAPI description: FastAPI's for its own routes, and the hot paths beside them."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from perdure.api.edge import OPEN_PATHS

_PROBLEM = {
    "description": "A refusal (RFC 9457); `code` is stable and listed in docs/PROTOCOL.md A.1",
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
}
_ITEM = {
    "oneOf": [
        {"type": "string", "description": "a token"},
        {"type": "object", "description": 'a mark: {"part": {…}} or {"set": {…}}'},
    ]
}
_UNREADY = {"ready": {"type": "boolean"}, "reason": {"type": "string"}}
_END = {"type": "string", "enum": ["complete", "failed", "cancelled"]}
_DRAFT_TEXTS = (
    *("id", "role", "text", "author", "after"),
    *("replaces", "producer", "claim_id", "header"),
)


def _object(**properties: Any) -> dict[str, Any]:
    """An object that has all of these; a plain word is the name of a JSON type."""
    kinds = {
        name: {"type": kind} if isinstance(kind, str) else kind for name, kind in properties.items()
    }
    return {"type": "object", "required": list(kinds), "properties": kinds}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _list(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of}


def _message() -> dict[str, Any]:
    message = _object(
        id="string",
        serial="string",
        role="string",
        author={"type": ["string", "null"]},
        status={"enum": ["streaming", "complete", "failed", "cancelled"]},
        text="string",
        parts=_list(_ref("Part")),
        length="integer",
        created={"type": "string", "format": "date-time"},
        metadata="object",
    )
    message["properties"]["replaces"] = {"type": "string"}
    return message


def _polled() -> dict[str, Any]:
    polled = _object(
        events=_list(_object(event="string", id="string", data="object")), cursor="string"
    )
    handle = {"type": "string", "description": "give it back with the next poll"}
    polled["properties"]["poll"] = handle
    return polled


def _answers() -> dict[str, Any]:
    opened = _object(id="string", serial="string", epoch="string", header="string", next="integer")
    stable = {"stable": {"type": ["boolean", "null"]}}
    created = {"type": "string", "format": "date-time"}
    return {
        "Part": {
            **_object(type="string", text="string"),
            "additionalProperties": True,
            "description": "text, reasoning, tool-call, source, file, data, and others",
        },
        "Message": _message(),
        "Sent": {
            "oneOf": [
                {"allOf": [_ref("Message"), {"type": "object", "properties": stable}]},
                _ref("Opened"),
            ]
        },
        "Opened": {
            **opened,
            "description": "epoch and header are opaque: give them back as they are",
        },
        "Claimed": _object(
            epoch="string",
            header="string",
            base="integer",
            next="integer",
            length="integer",
            text="string",
            parts=_list(_ref("Part")),
        ),
        "Session": _object(
            id="string",
            cursor="string",
            created=created,
            metadata="object",
            messages=_list(_ref("Message")),
            more="boolean",
            presence={"type": "array"},
            runs={"type": "array"},
        ),
        "Sessions": _object(
            sessions=_list(
                _object(id="string", created=created, messages="integer", cursor="string")
            ),
            next={"type": ["string", "null"]},
        ),
        "Messages": _object(messages=_list(_ref("Message")), more="boolean"),
        "Metadata": _object(metadata="object"),
        "Transports": _object(transports=_list(_object(name="string", path="string"))),
        "Polled": _polled(),
        "Status": _object(status="string"),
    }


_SCHEMAS: dict[str, Any] = {
    "Problem": {
        "type": "object",
        "required": ["type", "title", "status", "detail", "code"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "code": {"type": "string"},
            "expected": {"type": "integer", "description": "with gap: the next seq"},
            "field": {"type": "string", "description": "what was wrong"},
        },
    },
    "Ack": {
        "type": "object",
        "required": ["next", "accepted", "stable", "duplicates", "ended"],
        "properties": {
            "next": {"type": "integer", "description": "the next seq of the lane"},
            "accepted": {"type": "integer", "description": "items on disk here"},
            "stable": {
                "type": ["integer", "null"],
                "description": "items on disk in another region too; null: none is configured",
            },
            "duplicates": {"type": "integer", "description": "items that were here already"},
            "ended": {"enum": [None, "accepted", "stable"]},
        },
    },
    "Append": {
        "type": "object",
        "additionalProperties": False,
        "properties": {"tokens": {"type": "array", "items": _ITEM, "maxItems": 4096}, "end": _END},
    },
    "Draft": {
        "type": "object",
        "additionalProperties": False,
        "description": "with text: a complete message; without: opens a streaming one; or header",
        "properties": {name: {"type": "string"} for name in _DRAFT_TEXTS}
        | {"metadata": {"type": "object"}},
    },
    "Claim": {
        "type": "object",
        "additionalProperties": False,
        "required": ["producer", "claim_id", "mode"],
        "properties": {
            "producer": {"type": "string"},
            "claim_id": {"type": "string", "minLength": 8},
            "mode": {"enum": ["continue", "restart"]},
        },
    },
    "Create": {
        "type": "object",
        "additionalProperties": False,
        "properties": {"metadata": {"type": "object"}},
    },
    "Patch": {"type": "object", "description": "top-level keys; null deletes"},
    **_answers(),
}
_BODIES = {
    ("/v1/sessions/{s}", "put"): "Create",
    ("/v1/sessions/{s}/metadata", "patch"): "Patch",
    ("/v1/sessions/{s}/messages", "post"): "Draft",
    ("/v1/sessions/{s}/messages/{m}/claim", "post"): "Claim",
}
_ANSWERS = {
    ("/v1/transports", "get"): "Transports",
    ("/v1/sessions", "get"): "Sessions",
    ("/v1/sessions/{s}", "get"): "Session",
    ("/v1/sessions/{s}", "put"): "Session",
    ("/v1/sessions/{s}/metadata", "get"): "Metadata",
    ("/v1/sessions/{s}/metadata", "patch"): "Metadata",
    ("/v1/sessions/{s}/messages", "get"): "Messages",
    ("/v1/sessions/{s}/messages", "post"): "Sent",
    ("/v1/sessions/{s}/messages/{m}", "get"): "Message",
    ("/v1/sessions/{s}/messages/{m}/claim", "post"): "Claimed",
    ("/v1/sessions/{s}/messages/{m}/cancel", "post"): "Status",
}
_NEW_OR_KNOWN = ("/v1/sessions/{s}", "put"), ("/v1/sessions/{s}/messages", "post")
_QUERIES = {
    ("/v1/sessions", "get"): ("after", "limit"),
    ("/v1/sessions/{s}/messages", "get"): ("before", "limit"),
    ("/v1/sessions/{s}/messages", "post"): ("ack", "wait_ms"),
    ("/v1/verify", "get"): ("session",),
}


def _parameter(name: str, where: str, *, required: bool = True, text: str = "") -> dict[str, Any]:
    return {
        "name": name,
        "in": where,
        "required": required,
        "description": text,
        "schema": {"type": "string"},
    }


def _json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": _ref(schema)}}


def _events(session: dict[str, Any]) -> dict[str, Any]:
    return {
        "operationId": "events",
        "summary": "Follow the session as server-sent events",
        "parameters": [
            session,
            _parameter("Last-Event-ID", "header", required=False, text="wins"),
            _parameter("cursor", "query", required=False, text="resume position"),
        ],
        "responses": {
            "200": {
                "description": "docs/PROTOCOL.md A.5",
                "content": {"text/event-stream": {"schema": {"type": "string"}}},
            },
            "default": _PROBLEM,
        },
    }


def _poll(session: dict[str, Any]) -> dict[str, Any]:
    return {
        "operationId": "poll",
        "summary": "Follow the session by long poll",
        "parameters": [
            session,
            _parameter("cursor", "query", required=False, text="of the last answer"),
            _parameter("poll", "query", required=False, text="of the last answer"),
            _parameter("wait_ms", "query", required=False, text="0 to 25000"),
        ],
        "responses": {
            "200": {"description": "docs/PROTOCOL.md A.7", "content": _json("Polled")},
            "default": _PROBLEM,
        },
    }


def _hot_paths() -> dict[str, Any]:
    session, message = _parameter("s", "path"), _parameter("m", "path")
    producer = [
        _parameter("Producer-Id", "header"),
        _parameter("Producer-Epoch", "header", text="as it was given"),
    ]
    seq = _parameter("Producer-Seq", "header", text="the position of the first item")
    return {
        "/v1/sessions/{s}/messages/{m}/tokens": {
            "post": {
                "operationId": "append_tokens",
                "summary": "Append items, and perhaps the end",
                "parameters": [
                    *(session, message, *producer, seq),
                    _parameter("ack", "query", required=False, text="accepted or stable"),
                    _parameter("wait_ms", "query", required=False, text="0 to 10000"),
                ],
                "requestBody": {"required": True, "content": _json("Append")},
                "responses": {
                    "200": {"description": "on disk here", "content": _json("Ack")},
                    "default": _PROBLEM,
                },
            }
        },
        "/v1/sessions/{s}/messages/{m}/stream": {
            "post": {
                "operationId": "stream",
                "summary": "One long append: lines in, acknowledgements out",
                "parameters": [session, message, *producer, {**seq, "required": False}],
                "requestBody": {
                    "required": True,
                    "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
                },
                "responses": {
                    "200": {
                        "description": "Ack objects, a line each; a refusal is one Problem, last",
                        "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
                    },
                    "default": _PROBLEM,
                },
            }
        },
        "/v1/sessions/{s}/events": {"get": _events(session)},
        "/v1/sessions/{s}/poll": {"get": _poll(session)},
    }


def describe(routes: FastAPI) -> None:
    """Give the application a description of all its operations."""

    def schema() -> dict[str, Any]:
        if routes.openapi_schema is None:
            routes.openapi_schema = _describe(routes)
        return routes.openapi_schema

    setattr(routes, "openapi", schema)  # noqa: B010 - mypy refuses to assign to a method


def _describe(routes: FastAPI) -> dict[str, Any]:
    value = get_openapi(title=routes.title, version=routes.version, routes=routes.routes)
    for (path, method), name in _BODIES.items():
        operation = value["paths"][path][method]
        operation["requestBody"] = {"required": name != "Create", "content": _json(name)}
    for (path, method), names in _QUERIES.items():
        operation = value["paths"][path][method]
        operation.setdefault("parameters", [])
        operation["parameters"] += [_parameter(name, "query", required=False) for name in names]
    for (path, method), name in _ANSWERS.items():
        responses = value["paths"][path][method]["responses"]
        for response in responses.values():
            response["content"] = _json(name)
        if (path, method) in _NEW_OR_KNOWN:
            responses["200"] = {"description": "It was here already", "content": _json(name)}
    value["paths"].update(_hot_paths())
    unready = {"type": "object", "required": ["ready", "reason"], "properties": _UNREADY}
    value["paths"]["/readyz"]["get"]["responses"]["503"] = {
        "description": "It takes no requests now",
        "content": {"application/json": {"schema": unready}},
    }
    for operations in value["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            operation["responses"].setdefault("default", _PROBLEM)
    value.setdefault("components", {})["schemas"] = _SCHEMAS
    value["components"]["securitySchemes"] = {
        "grant": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
    }
    value["security"] = [{"grant": []}]
    for path in OPEN_PATHS:
        value["paths"][path]["get"]["security"] = []
    return value
