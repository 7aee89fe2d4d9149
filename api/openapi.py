"""The OpenAPI description: FastAPI's for its own routes, and the hot paths beside them."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from perdure.api.admin_schemas import (
    ADMIN_ANSWERS,
    ADMIN_BODIES,
    ADMIN_OPTIONAL,
    ADMIN_SCHEMAS,
    describe_admin,
)
from perdure.api.edge import KEYED_PATHS, OPEN_PATHS
from perdure.api.keeping_schemas import (
    KEEPING_ANSWERS,
    KEEPING_BODIES,
    KEEPING_QUERIES,
    describe_exports,
)
from perdure.api.schemas import SCHEMAS, ref
from perdure.api.shapes import POLL_WAIT_MS, parameter

_PROBLEM = {
    "description": "A refusal (RFC 9457); `code` is stable and listed in docs/PROTOCOL.md A.1",
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
}
_UNREADY = {"ready": {"type": "boolean"}, "reason": {"type": "string"}}
_BODIES = {
    ("/v1/sessions/{s}", "put"): "Create",
    ("/v1/sessions/{s}/metadata", "patch"): "Patch",
    ("/v1/sessions/{s}/messages", "post"): "Draft",
    ("/v1/sessions/{s}/messages/{m}/claim", "post"): "Claim",
    ("/v1/sessions/{s}/presence/{member}", "put"): "Put",
    ("/v1/sessions/{s}/runs", "post"): "RunDraft",
    ("/v1/sessions/{s}/runs/{r}/claim", "post"): "TakeRun",
    ("/v1/sessions/{s}/runs/{r}/lease", "post"): "Lease",
    ("/v1/sessions/{s}/runs/{r}/state", "post"): "State",
    ("/v1/sessions/{s}/signals", "post"): "Signal",
    ("/v1/sessions/{s}/documents/{d}", "patch"): "PatchDocument",
    ("/v1/sessions/{s}/documents/{d}/append", "post"): "AppendDocument",
    ("/v1/grants/renew", "post"): "Renew",
    ("/v1/tokens", "post"): "Mint",
    ("/v1/keys", "post"): "MakeKey",
    ("/v1/revocations", "post"): "Revoke",
    ("/v1/erasures", "post"): "EraseSubject",
    **ADMIN_BODIES,
    **KEEPING_BODIES,
}
# Bodies that may be left out.
_OPTIONAL = frozenset({"Create", "Put", "Mint"}) | ADMIN_OPTIONAL
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
    ("/v1/sessions/{s}/presence", "get"): "Presence",
    ("/v1/sessions/{s}/presence/{member}", "put"): "Member",
    ("/v1/sessions/{s}/runs", "get"): "Runs",
    ("/v1/sessions/{s}/runs", "post"): "Run",
    ("/v1/sessions/{s}/runs/{r}", "get"): "Run",
    ("/v1/sessions/{s}/runs/{r}/claim", "post"): "Taken",
    ("/v1/sessions/{s}/runs/{r}/lease", "post"): "Run",
    ("/v1/sessions/{s}/runs/{r}/state", "post"): "Run",
    ("/v1/sessions/{s}/runs/{r}/cancel", "post"): "Run",
    ("/v1/sessions/{s}/signals", "post"): "Nothing",
    ("/v1/sessions/{s}/documents", "get"): "Documents",
    ("/v1/sessions/{s}/documents/{d}", "get"): "Document",
    ("/v1/sessions/{s}/documents/{d}", "patch"): "Document",
    ("/v1/sessions/{s}/documents/{d}/append", "post"): "Document",
    ("/v1/sessions/{s}/tickets", "post"): "Ticket",
    ("/v1/grants/renew", "post"): "Renewed",
    ("/v1/tokens", "post"): "Minted",
    ("/v1/keys", "post"): "MadeKey",
    ("/v1/keys", "get"): "Keys",
    ("/v1/revocations", "post"): "Revocation",
    ("/v1/revocations", "get"): "Revocations",
    ("/v1/audit", "get"): "Audited",
    ("/v1/erasures", "post"): "SubjectErasure",
    ("/v1/erasures/{e}", "get"): "SubjectErasure",
    ("/v1/sessions/{s}/erasure", "get"): "Erasure",
    ("/v1/sessions/{s}/messages/{m}/erasure", "get"): "Erasure",
    ("/v1/sessions/{s}/documents/{d}/erasure", "get"): "Erasure",
    **ADMIN_ANSWERS,
    **KEEPING_ANSWERS,
}
_NEW_OR_KNOWN = (
    ("/v1/sessions/{s}", "put"),
    ("/v1/sessions/{s}/messages", "post"),
    ("/v1/sessions/{s}/runs", "post"),
)
# Where a request that is repeated with the same key is done once.
_KEYED = (
    ("/v1/sessions/{s}/messages", "post"),
    ("/v1/sessions/{s}/runs", "post"),
    ("/v1/sessions/{s}/documents/{d}/append", "post"),
)
# What a connection may bring.
_BROUGHT = (
    parameter("presence", "query", required=False, text="a member that it brings"),
    parameter("presence_data", "query", required=False, text="its data, as JSON"),
)
_QUERIES = {
    ("/v1/sessions", "get"): ("after", "limit"),
    ("/v1/sessions/{s}/messages", "get"): ("before", "limit"),
    ("/v1/sessions/{s}/runs", "get"): ("before", "limit"),
    ("/v1/sessions/{s}/messages", "post"): ("ack", "wait_ms"),
    ("/v1/verify", "get"): ("session",),
    ("/v1/audit", "get"): ("after", "limit"),
    ("/v1/erasures/{e}", "get"): ("tenant",),
    ("/v1/keys", "get"): ("tenant",),
    ("/v1/keys/{k}", "delete"): ("tenant",),
    ("/v1/revocations", "get"): ("tenant",),
    **KEEPING_QUERIES,
}


def _json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": ref(schema)}}


def _events(session: dict[str, Any]) -> dict[str, Any]:
    return {
        "operationId": "events",
        "summary": "Follow the session as server-sent events",
        "parameters": [
            session,
            parameter("Last-Event-ID", "header", required=False, text="wins"),
            parameter("cursor", "query", required=False, text="resume position"),
            *_BROUGHT,
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
            parameter("cursor", "query", required=False, text="of the last answer"),
            parameter("poll", "query", required=False, text="of the last answer"),
            *_BROUGHT,
            parameter("wait_ms", "query", required=False, schema=POLL_WAIT_MS),
        ],
        "responses": {
            "200": {"description": "docs/PROTOCOL.md A.7", "content": _json("Polled")},
            "default": _PROBLEM,
        },
    }


def _hot_paths() -> dict[str, Any]:
    session, message = parameter("s", "path"), parameter("m", "path")
    producer = [
        parameter("Producer-Id", "header"),
        parameter("Producer-Epoch", "header", text="as it was given"),
    ]
    seq = parameter("Producer-Seq", "header", text="the position of the first item")
    return {
        "/v1/sessions/{s}/messages/{m}/tokens": {
            "post": {
                "operationId": "append_tokens",
                "summary": "Append items, and perhaps the end",
                "parameters": [
                    *(session, message, *producer, seq),
                    parameter("ack", "query", required=False, text="accepted or stable"),
                    parameter("wait_ms", "query", required=False, text="0 to 10000"),
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
        "/v1/agents/{a}/runs": {"get": _feed()},
    }


def _feed() -> dict[str, Any]:
    return {
        "operationId": "agent_feed",
        "summary": "An agent's runs that are not over, in all sessions",
        "parameters": [
            parameter("a", "path"),
            parameter("wait_ms", "query", required=False, schema=POLL_WAIT_MS),
            parameter("cursor", "query", required=False, text="of the last answer"),
            parameter("worker", "query", required=False, text="a producer that is at work"),
        ],
        "responses": {
            "200": {
                "description": "docs/PROTOCOL.md A.4",
                "content": {
                    **_json("Feed"),
                    "text/event-stream": {"schema": {"type": "string"}},
                },
            },
            "default": _PROBLEM,
        },
    }


def describe(routes: FastAPI) -> None:
    """Give the application a description of all its operations."""

    def schema() -> dict[str, Any]:
        if routes.openapi_schema is None:
            routes.openapi_schema = _describe(routes)
        return routes.openapi_schema

    setattr(routes, "openapi", schema)  # noqa: B010 - mypy refuses to assign to a method


def _describe_path(operation: dict[str, Any]) -> None:
    """The ids of a path as they are; FastAPI knows them as any text."""
    names = [given["name"] for given in operation.get("parameters", ())]
    if names:
        operation["parameters"] = [parameter(name, "path") for name in names]


def _describe(routes: FastAPI) -> dict[str, Any]:
    value = get_openapi(title=routes.title, version=routes.version, routes=routes.routes)
    for operations in value["paths"].values():
        for operation in operations.values():
            _describe_path(operation)
    for (path, method), name in _BODIES.items():
        operation = value["paths"][path][method]
        operation["requestBody"] = {"required": name not in _OPTIONAL, "content": _json(name)}
    for (path, method), names in _QUERIES.items():
        operation = value["paths"][path][method]
        operation.setdefault("parameters", [])
        operation["parameters"] += [parameter(name, "query", required=False) for name in names]
    for path, method in _KEYED:
        key = parameter("Idempotency-Key", "header", required=False, text="of a repeated request")
        value["paths"][path][method]["parameters"].append(key)
    for (path, method), name in _ANSWERS.items():
        responses = value["paths"][path][method]["responses"]
        for response in responses.values():
            response["content"] = _json(name)
        if (path, method) in _NEW_OR_KNOWN:
            responses["200"] = {"description": "It was here already", "content": _json(name)}
    describe_admin(value["paths"])
    describe_exports(value["paths"])
    value["paths"].update(_hot_paths())
    unready = {"type": "object", "required": ["ready", "reason"], "properties": _UNREADY}
    value["paths"]["/readyz"]["get"]["responses"]["503"] = {
        "description": "It takes no requests now",
        "content": {"application/json": {"schema": unready}},
    }
    text = {"schema": {"type": "string"}}
    value["paths"]["/metrics"]["get"]["responses"]["200"]["content"] = {
        "application/openmetrics-text": text,
        "text/plain": text,
    }
    for operations in value["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            operation["responses"].setdefault("default", _PROBLEM)
    value.setdefault("components", {})["schemas"] = {**SCHEMAS, **ADMIN_SCHEMAS}
    value["components"]["securitySchemes"] = {
        "grant": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
        "key": {"type": "http", "scheme": "bearer", "bearerFormat": "API key"},
    }
    value["security"] = [{"grant": []}]
    for path in OPEN_PATHS:
        value["paths"][path]["get"]["security"] = []
    for path in KEYED_PATHS:
        value["paths"][path]["post"]["security"] = [{"key": []}]
    return value
