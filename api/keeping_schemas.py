"""What bodies and answers about retention and exports look like, for the OpenAPI description."""

from typing import Any

from perdure.replication.limits import RETENTION_AGE_S_MAX, RETENTION_AGE_S_MIN

_TEXT = {"type": "string"}
_TIME = {"type": "string", "format": "date-time"}
_COUNT = {"type": "integer", "minimum": 0}
_AGE = {"type": ["integer", "null"], "minimum": RETENTION_AGE_S_MIN, "maximum": RETENTION_AGE_S_MAX}
_SIZE = {"type": ["integer", "null"], "minimum": 0, "maximum": 2**53 - 1}
_BY = {"enum": ["last_activity"]}
_PATH = "/admin/api/retention"


def _answer(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": sorted(properties), "properties": properties}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


_WALK = _answer(at=_TIME, seen=_COUNT, seen_bytes=_COUNT, deleted=_COUNT, kept_open=_COUNT)
_POLICY = _answer(
    tenant=_TEXT,
    age_s=_AGE,
    bytes=_SIZE,
    audit_age_s=_AGE,
    by=_BY,
    region=_TEXT,
    set=_TIME,
    set_by=_TEXT,
    waits={"type": ["string", "null"]},
    last_walk={"anyOf": [_WALK, {"type": "null"}]},
)
KEEPING_SCHEMAS: dict[str, Any] = {
    "Keep": {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "age_s": _AGE,
            "bytes": _SIZE,
            "audit_age_s": _AGE,
            "by": _BY,
            "region": _TEXT,
        },
    },
    "Policy": _POLICY,
    "Policies": _answer(region=_TEXT, policies=_list({"$ref": "#/components/schemas/Policy"})),
    "Plan": _answer(
        region=_TEXT,
        tenant=_TEXT,
        seen=_COUNT,
        seen_bytes=_COUNT,
        going=_COUNT,
        going_bytes=_COUNT,
        sessions=_list(
            _answer(session=_TEXT, bytes=_COUNT, quiet_since_ms={"type": "integer"}),
        ),
    ),
    "Exportable": _answer(sessions=_list(_TEXT), next={"type": ["string", "null"]}),
    # Lines of JSON, each of its own shape.
    "Exported": {"type": "string"},
}
KEEPING_BODIES = {(_PATH + "/{tenant}", "put"): "Keep"}
KEEPING_ANSWERS = {
    (_PATH, "get"): "Policies",
    (_PATH + "/{tenant}", "get"): "Policy",
    (_PATH + "/{tenant}", "put"): "Policy",
    (_PATH + "/{tenant}/plan", "get"): "Plan",
    ("/admin/api/export", "get"): "Exportable",
}
KEEPING_QUERIES = {
    (_PATH + "/{tenant}/plan", "get"): ("age_s", "bytes"),
    ("/admin/api/export", "get"): ("tenant", "after", "limit"),
}
_EXPORTS = ("/v1/sessions/{s}/export", "/admin/api/sessions/{s}/export")


def describe_exports(paths: dict[str, Any]) -> None:
    """Exports are no JSON as a whole."""
    for path in _EXPORTS:
        schema = {"$ref": "#/components/schemas/Exported"}
        content = {"application/x-ndjson": {"schema": schema}}
        paths[path]["get"]["responses"]["200"]["content"] = content
