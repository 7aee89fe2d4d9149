"""What the API of operators takes and answers, for the OpenAPI description.

Answers may have more fields than are named here: who reads them ignores what it does not know.
"""

from typing import Any

from perdure.api.shapes import ID, Schema
from perdure.replication.limits import PAGE_ITEMS_DEFAULT, PAGE_ITEMS_MAX

TAG = "operators"
UNDER = "/admin/api"
_SESSION = f"{UNDER}/sessions/{{s}}"

# A session as the regions call it: with its tenant before it.
SESSION_KEY: Schema = {
    "type": "string",
    "pattern": r"^([a-z0-9][a-z0-9_-]{0,63})?:?[A-Za-z0-9._~-]{1,128}$",
}


def _may(kind: str) -> Schema:
    return {"type": [kind, "null"]}


def _object(**properties: Any) -> Schema:
    """An object that has all of these; a plain word is the name of a JSON type, one that ends in
    ``?`` may be null."""
    kinds = {
        name: (_may(kind[:-1]) if kind.endswith("?") else {"type": kind})
        if isinstance(kind, str)
        else kind
        for name, kind in properties.items()
    }
    return {"type": "object", "required": list(kinds), "properties": kinds}


def _list(of: Schema) -> Schema:
    return {"type": "array", "items": of}


_STRINGS = _list({"type": "string"})
_WHOLES = _list({"type": "integer"})
_PROBLEM = _object(code="string", text="string")
_SEES = _object(
    region="string",
    state={"enum": ["up", "suspect", "down"]},
    rtt_ms="number?",
    behind_operations="integer",
    behind_bytes="integer?",
    behind_s="number?",
    clock_offset_ms="number?",
    last_seen_ms="integer?",
    last_anti_entropy_ms="integer?",
    digests={"enum": ["equal", "different", "unknown"]},
    wire="integer?",
)
_REGION = _object(
    region="string",
    reachable="boolean",
    state="string?",
    version="string?",
    incarnation="string?",
    wire=_WHOLES,
    uptime_s="integer?",
    now_ms="integer?",
    url="string?",
    is_gone="boolean",
    age_ms="integer?",
    sees=_list(_SEES),
    sessions="integer?",
    in_memory="integer?",
    readers="integer?",
    connections="integer?",
    open_runs="integer?",
    present="integer?",
    tokens_per_s="number?",
    events_per_s="number?",
    log_bytes="integer?",
    disk_free_bytes="integer?",
    problems=_list(_PROBLEM),
)
_ROW: dict[str, Any] = {
    "session": "string",
    "tenant": "string",
    "messages": "integer",
    "bytes": "integer",
    "members": "integer",
    "readers": "integer",
    "active_runs": "integer",
    "tokens_per_s": "number",
    "updated": "integer?",
    "positions": {
        "type": "object",
        "additionalProperties": {"enum": ["equal", "behind", "unknown"]},
    },
}
_ENTRY = _object(
    at_ms="integer?",
    region="string?",
    kind="string",
    message="string?",
    run="string?",
    epoch="string?",
    producer="string?",
    detail="object",
)
_CONNECTION = _object(
    id="string",
    kind={"enum": ["sse", "websocket", "poll", "stream", "work", "document"]},
    session="string?",
    subject="string",
    address="string",
    member="string?",
    since_ms="integer",
    waiting_events="integer",
    waiting_bytes="integer",
    sent_events="integer",
    last_taken_ms="integer?",
)
_LOG = _object(origin="string", records="integer", bytes="integer", oldest_ms="integer?")
_CODE = _object(code="string", count="integer", last_ms="integer?", last_text="string?")

ADMIN_SCHEMAS: dict[str, Schema] = {
    "AdminOverview": _object(
        region="string",
        version="string",
        incarnation="string",
        wire=_WHOLES,
        started_ms="integer",
        now_ms="integer",
        state="string?",
        regions=_list(_REGION),
        summary="object",
    ),
    "AdminHistory": _object(step_s="integer", names=_STRINGS, samples=_list(_list(_may("number")))),
    "AdminSessions": _object(sessions=_list(_object(**_ROW)), next="string?", complete="boolean"),
    "AdminSession": _object(
        **_ROW,
        runs=_list({"$ref": "#/components/schemas/Run"}),
        presence=_list(_object(member="string", regions=_STRINGS, connections="integer")),
        timeline=_list(_ENTRY),
        next="string?",
        asked=_STRINGS,
    ),
    "AdminTimeline": _object(entries=_list(_ENTRY), next="string?", asked=_STRINGS),
    "AdminConnections": _object(connections=_list(_CONNECTION), count="integer"),
    "AdminStorage": _object(
        log_bytes="integer",
        logs=_list(_LOG),
        database_bytes="integer",
        wal_bytes="integer",
        free_bytes="integer?",
        commits="integer",
        commit_p50_s="number?",
        commit_p99_s="number?",
        writes_per_commit="number?",
        sealed="integer",
        evicted="integer",
        in_memory="integer",
        dirty="integer",
        damaged="integer",
        undecodable="integer",
        encrypted="boolean",
        last_checkpoint_ms="integer?",
        last_backup_ms="integer?",
    ),
    "AdminErrors": _object(since_ms="integer", codes=_list(_CODE), links=_list(_CODE)),
    "AdminDrained": _object(
        region="string", state="string?", flushed="boolean?", readers="integer"
    ),
    "AdminForgotten": _object(region="string", at="string", by="string"),
    "AdminVerified": _object(
        equal="boolean", regions="object", sessions="integer", different=_STRINGS
    ),
    "AdminCancelled": _object(status="string"),
    "AdminDisconnected": _object(id="string", kind="string", session="string?"),
    "AdminDrain": {
        "type": "object",
        "additionalProperties": False,
        "properties": {"undo": {"type": "boolean"}},
    },
    "AdminForget": {
        "type": "object",
        "additionalProperties": False,
        "required": ["confirm"],
        "properties": {"confirm": ID, "force": {"type": "boolean"}},
    },
    "AdminVerify": {
        "type": "object",
        "additionalProperties": False,
        "properties": {"session": SESSION_KEY},
    },
    "AdminCancel": {
        "type": "object",
        "additionalProperties": False,
        "required": ["message"],
        "properties": {"message": ID},
    },
    "AdminNothing": {"type": "object", "additionalProperties": False},
}
ADMIN_BODIES = {
    (f"{UNDER}/drain", "post"): "AdminDrain",
    (f"{UNDER}/regions/{{r}}/forget", "post"): "AdminForget",
    (f"{UNDER}/verify", "post"): "AdminVerify",
    (f"{_SESSION}/cancel", "post"): "AdminCancel",
    (f"{UNDER}/connections/{{c}}/disconnect", "post"): "AdminNothing",
}
# Bodies that may be left out.
ADMIN_OPTIONAL = frozenset({"AdminDrain", "AdminVerify", "AdminNothing"})
ADMIN_ANSWERS = {
    (f"{UNDER}/overview", "get"): "AdminOverview",
    (f"{UNDER}/history", "get"): "AdminHistory",
    (f"{UNDER}/sessions", "get"): "AdminSessions",
    (_SESSION, "get"): "AdminSession",
    (f"{_SESSION}/timeline", "get"): "AdminTimeline",
    (f"{UNDER}/connections", "get"): "AdminConnections",
    (f"{UNDER}/storage", "get"): "AdminStorage",
    (f"{UNDER}/errors", "get"): "AdminErrors",
    (f"{UNDER}/drain", "post"): "AdminDrained",
    (f"{UNDER}/regions/{{r}}/forget", "post"): "AdminForgotten",
    (f"{UNDER}/verify", "post"): "AdminVerified",
    (f"{_SESSION}/cancel", "post"): "AdminCancelled",
    (f"{UNDER}/connections/{{c}}/disconnect", "post"): "AdminDisconnected",
}


def _query(name: str, schema: Schema) -> Schema:
    return {"name": name, "in": "query", "required": False, "description": "", "schema": schema}


_TEXT = {"type": "string", "maxLength": 256}
_LIMIT = {"type": "integer", "minimum": 1, "maximum": PAGE_ITEMS_MAX, "default": PAGE_ITEMS_DEFAULT}
_QUERIES: dict[str, list[Schema]] = {
    f"{UNDER}/history": [_query("minutes", {"type": "integer", "minimum": 1, "maximum": 15})],
    f"{UNDER}/sessions": [
        *(_query(name, _TEXT) for name in ("search", "prefix", "after")),
        _query("sort", {"enum": ["recent", "id", "size", "readers"]}),
        _query("limit", _LIMIT),
        _query("own", {"enum": ["false", "true"]}),
    ],
    f"{_SESSION}/events": [_query("cursor", _TEXT)],
    f"{_SESSION}/timeline": [_query("before", _TEXT), _query("limit", _LIMIT)],
    f"{UNDER}/connections": [
        _query("sort", {"enum": ["slowest", "recent"]}),
        _query("limit", _LIMIT),
    ],
}


def describe_admin(paths: dict[str, Any]) -> None:
    """Bring what FastAPI says of these routes to what they are."""
    for path, operations in paths.items():
        if not path.startswith(UNDER):
            continue
        for method, operation in operations.items():
            operation["tags"] = [TAG]
            for given in operation.get("parameters", ()):
                if given["name"] == "s":
                    given["schema"] = SESSION_KEY
            if method == "get" and path in _QUERIES:
                operation["parameters"] = [*operation.get("parameters", ()), *_QUERIES[path]]
    for path in (f"{UNDER}/live", f"{_SESSION}/events"):
        stream = paths[path]["get"]["responses"]["200"]
        stream["content"] = {"text/event-stream": {"schema": {"type": "string"}}}
