"""What bodies and answers about grants look like, for the OpenAPI description."""

from typing import Any

_TEXT = {"type": "string"}
_TIME = {"type": "string", "format": "date-time"}
_CAN = {
    "type": "object",
    "description": "verbs by pattern: the id of a session, or its beginning and *",
    "additionalProperties": {"type": "array", "items": _TEXT},
}
_NAMES = {"type": "array", "items": _TEXT}
_KEY = {
    "id": _TEXT,
    "tenant": _TEXT,
    "subject": _TEXT,
    "can": _CAN,
    "as": _NAMES,
    "created": _TIME,
    "by": _TEXT,
}
_WHAT = {"grant": _TEXT, "subject": _TEXT, "session": _TEXT, "key": _TEXT}


def _body(properties: dict[str, Any], *needed: str) -> dict[str, Any]:
    body = {"type": "object", "additionalProperties": False, "properties": properties}
    return {**body, "required": list(needed)} if needed else body


def _answer(properties: dict[str, Any], *left_out: str) -> dict[str, Any]:
    needed = [name for name in properties if name not in left_out]
    return {"type": "object", "required": needed, "properties": properties}


def _listed(name: str, of: str) -> dict[str, Any]:
    items = {"$ref": f"#/components/schemas/{of}"}
    return _answer({name: {"type": "array", "items": items}})


GRANT_SCHEMAS: dict[str, Any] = {
    "Ticket": _answer({"ticket": _TEXT, "expires": _TIME}),
    "Renew": _body({"grant": {"type": "string", "description": "the one until now"}}, "grant"),
    "Renewed": _answer({"renewed": {"type": "integer"}, "expires": _TIME}),
    "Mint": _body({"subject": _TEXT, "can": _CAN, "as": _NAMES, "ttl_s": {"type": "integer"}}),
    "Minted": _answer({"grant": _TEXT, "id": _TEXT, "expires": _TIME}),
    "MakeKey": _body(
        {"subject": _TEXT, "tenant": _TEXT, "can": _CAN, "as": _NAMES}, "subject", "can"
    ),
    "Key": _answer(_KEY),
    "MadeKey": _answer({**_KEY, "key": _TEXT}),
    "Keys": _listed("keys", "Key"),
    "Revoke": {**_body({"tenant": _TEXT, **_WHAT}), "description": "one of the four"},
    "Revocation": _answer({"id": _TEXT, **_WHAT, "at": _TIME, "by": _TEXT}, *_WHAT),
    "Entry": _answer(
        {
            "n": {"type": "integer"},
            "at": _TIME,
            "region": _TEXT,
            "action": _TEXT,
            "tenant": _TEXT,
            "actor": _TEXT,
            "prev": _TEXT,
            "hash": _TEXT,
            **{name: {"type": ["string", "null"]} for name in ("grant", "session", "target")},
        }
    ),
    "EraseSubject": _body({"subject": _TEXT, "tenant": _TEXT}, "subject"),
    "SubjectErasure": _answer(
        {
            "id": _TEXT,
            "subject": _TEXT,
            "requested": _TIME,
            "by": _TEXT,
            "state": {"enum": ["under_way", "done"]},
            "regions": {
                "type": "object",
                "additionalProperties": {"enum": ["done", "waiting"]},
            },
            "messages": {"type": "integer"},
        }
    ),
    "Audited": _answer(
        {
            "entries": {"type": "array", "items": {"$ref": "#/components/schemas/Entry"}},
            "next": {"type": ["string", "null"]},
        }
    ),
    "Revocations": _listed("revocations", "Revocation"),
}
