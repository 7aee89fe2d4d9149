"""What bodies and answers look like, for the OpenAPI description."""

from typing import Any

from perdure.api.grant_schemas import GRANT_SCHEMAS
from perdure.api.keeping_schemas import KEEPING_SCHEMAS
from perdure.api.shapes import CLAIM_ID, EPOCH, ID, ROLE

_PART = {"type": {"type": "string", "minLength": 1}, "id": {"type": "string"}}


def _mark(name: str, content: dict[str, Any]) -> dict[str, Any]:
    """An object among the tokens that has this field and no other."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": [name],
        "properties": {name: content},
    }


_ITEM = {
    "oneOf": [
        {"type": "string", "description": "a token"},
        _mark("part", {"type": "object", "required": ["type"], "properties": _PART}),
        _mark("set", {"type": "object"}),
    ]
}
_END = {"type": "string", "enum": ["complete", "failed", "cancelled"]}
_DRAFT = {
    **dict.fromkeys(("id", "author", "after", "replaces", "producer", "run"), ID),
    "role": ROLE,
    "claim_id": CLAIM_ID,
    "text": {"type": "string"},
    "header": {"type": "string"},
    "metadata": {"type": "object"},
}
_RUN = {
    **dict.fromkeys(("id", "agent", "by", "input", "after", "replaces"), ID),
    "role": ROLE,
    "metadata": {"type": "object"},
}


def _object(**properties: Any) -> dict[str, Any]:
    """An object that has all of these; a plain word is the name of a JSON type."""
    kinds = {
        name: {"type": kind} if isinstance(kind, str) else kind for name, kind in properties.items()
    }
    return {"type": "object", "required": list(kinds), "properties": kinds}


def ref(name: str) -> dict[str, Any]:
    """A reference to a schema of this file."""
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
        parts=_list(ref("Part")),
        length="integer",
        created={"type": "string", "format": "date-time"},
        metadata="object",
    )
    message["properties"]["replaces"] = {"type": "string"}
    return message


def _presence(created: dict[str, Any]) -> dict[str, Any]:
    return {
        "Member": _object(
            member="string",
            data={"description": "what was last given; null if nothing was"},
            region="string",
            connections="integer",
            since=created,
        ),
        "Presence": _object(presence=_list(ref("Member"))),
    }


def _runs() -> dict[str, Any]:
    text_or_null = {"type": ["string", "null"]}
    run = _object(
        id="string",
        session="string",
        status={
            "enum": [
                *("requested", "running", "suspended", "interrupted"),
                *("complete", "failed", "cancelled"),
            ]
        },
        agent="string",
        by=text_or_null,
        input=text_or_null,
        message="string",
        attempt="integer",
        producer=text_or_null,
        epoch=text_or_null,
        created={"type": "string", "format": "date-time"},
        detail={"description": "what its agent said last"},
        inputs=_list({"type": "string"}),
    )
    taken = {
        "allOf": [
            ref("Claimed"),
            _object(run=ref("Run"), inputs=_list(ref("Message"))),
        ]
    }
    return {
        "Run": run,
        "Runs": _object(runs=_list(ref("Run")), more="boolean"),
        "Feed": _object(runs=_list(ref("Run")), cursor="string"),
        "Taken": taken,
        "Nothing": {"type": "object"},
    }


def _documents() -> dict[str, Any]:
    text, patch = {"type": "string"}, {"type": "object", "description": "a JSON merge patch"}
    return {
        "Documents": _object(documents=_list(_object(id="string", version="string"))),
        "Document": _object(id="string", text="string", json="object", version="string"),
        "PatchDocument": {
            "type": "object",
            "additionalProperties": False,
            "minProperties": 1,
            "properties": {"text": text, "json": patch},
        },
        "AppendDocument": {
            "type": "object",
            "additionalProperties": False,
            "required": ["text"],
            "properties": {"text": text},
        },
    }


def _erasure() -> dict[str, Any]:
    told = {"type": "object", "additionalProperties": {"enum": ["done", "waiting"]}}
    time = {"type": ["string", "null"], "format": "date-time"}
    found = _object(
        session="string", state={"enum": ["done", "under_way"]}, regions=told, requested=time
    )
    found["properties"] |= {"message": {"type": "string"}, "document": {"type": "string"}}
    return {"Erasure": found}


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
                {"allOf": [ref("Message"), {"type": "object", "properties": stable}]},
                ref("Opened"),
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
            parts=_list(ref("Part")),
        ),
        "Session": _object(
            id="string",
            cursor="string",
            created=created,
            metadata="object",
            messages=_list(ref("Message")),
            more="boolean",
            presence=_list(ref("Member")),
            runs=_list(ref("Run")),
            documents=_list(_object(id="string", version="string")),
        ),
        "Sessions": _object(
            sessions=_list(
                _object(id="string", created=created, messages="integer", cursor="string")
            ),
            next={"type": ["string", "null"]},
        ),
        "Messages": _object(messages=_list(ref("Message")), more="boolean"),
        "Metadata": _object(metadata="object"),
        "Transports": _object(transports=_list(_object(name="string", path="string"))),
        "Polled": _polled(),
        "Status": _object(status="string"),
        **_presence(created),
        **_runs(),
        **_documents(),
        **_erasure(),
    }


SCHEMAS: dict[str, Any] = {
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
        "properties": _DRAFT,
        "oneOf": [
            {"required": ["role", "text"], "not": {"required": ["producer"]}},
            {"required": ["role", "producer", "claim_id"], "not": {"required": ["text"]}},
            {"required": ["header"], "maxProperties": 1},
        ],
    },
    "Claim": {
        "type": "object",
        "additionalProperties": False,
        "required": ["producer", "claim_id", "mode"],
        "properties": {
            "producer": ID,
            "claim_id": CLAIM_ID,
            "mode": {"enum": ["continue", "restart"]},
        },
    },
    "Create": {
        "type": "object",
        "additionalProperties": False,
        "properties": {"metadata": {"type": "object"}},
    },
    "Put": {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "data": {"description": "any JSON of at most 4,096 bytes"},
            "ttl_s": {"type": "integer", "minimum": 1, "maximum": 3600},
        },
    },
    "RunDraft": {
        "type": "object",
        "additionalProperties": False,
        "required": ["agent"],
        "properties": _RUN,
    },
    "TakeRun": {
        "type": "object",
        "additionalProperties": False,
        "required": ["producer", "claim_id"],
        "properties": {
            "producer": ID,
            "claim_id": CLAIM_ID,
            "mode": {"enum": ["continue", "restart"]},
            "lease_s": {"type": "integer", "minimum": 1, "maximum": 300},
        },
    },
    "Lease": {
        "type": "object",
        "additionalProperties": False,
        "required": ["producer", "epoch"],
        "properties": {"producer": ID, "epoch": EPOCH},
    },
    "State": {
        "type": "object",
        "additionalProperties": False,
        "required": ["producer", "epoch", "n", "state"],
        "properties": {
            "producer": ID,
            "epoch": EPOCH,
            "n": {"type": "integer", "minimum": 1},
            "state": {"enum": ["running", "suspended"]},
            "detail": {"description": "any JSON of at most 4,096 bytes"},
        },
    },
    "Signal": {
        "type": "object",
        "additionalProperties": False,
        "required": ["signal"],
        "properties": {
            "signal": ROLE,
            "data": {"description": "any JSON of at most 4,096 bytes"},
            "from": ID,
        },
    },
    "Patch": {"type": "object", "description": "top-level keys; null deletes"},
    **_answers(),
    **GRANT_SCHEMAS,
    **KEEPING_SCHEMAS,
}
