"""The description of the API: valid, as the protocol says, and true of what a region answers."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.openapi.models import OpenAPI
from jsonschema import Draft202012Validator, FormatChecker

ROOT = Path(__file__).parents[2]
PROTOCOL = (ROOT / "docs/PROTOCOL.md").read_text(encoding="utf-8")
METHODS = frozenset({"get", "put", "post", "patch", "delete"})
# These two describe and show the description; and for WebSockets OpenAPI has no words.
BESIDE = {
    ("get", "/openapi.json"),
    ("get", "/docs"),
    ("get", "/v1/sessions/{s}/ws"),
    ("get", "/admin"),
}
Operation = tuple[str, str]
# What there is only where grants are asked for: checked there.
OF_GRANTS = {
    ("post", "/v1/sessions/{s}/tickets"),
    ("post", "/v1/grants/renew"),
    ("post", "/v1/tokens"),
    ("post", "/v1/keys"),
    ("get", "/v1/keys"),
    ("delete", "/v1/keys/{k}"),
    ("post", "/v1/revocations"),
    ("get", "/v1/revocations"),
    ("get", "/v1/audit"),
}


@pytest.fixture
async def document(region) -> dict[str, Any]:
    """The description, as a region serves it."""
    value: dict[str, Any] = (await region.json("GET", "/openapi.json")).json
    return value


def operations(document: dict[str, Any]) -> Iterator[tuple[Operation, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield (method, path), operation


def full(path: str) -> str:
    """A path of the protocol's text: ``…`` stands for the session's own, queries are left out."""
    path = path.partition("?")[0].replace("…", "/sessions/{s}")
    return f"/v1{path}" if path.startswith("/sessions") else path


def blocks() -> Iterator[tuple[list[Operation], str]]:
    """The operations of A.4 and A.7 that one paragraph describes, and what it says of them."""
    text = PROTOCOL.split("## A.4")[1].split("## A.5")[0]
    known, outside = text.split("**Outside `/v1`**")
    known += PROTOCOL.split("## A.7")[1].split("# Part B")[0]
    for block in re.split(r"^(?=\*\*`)", known, flags=re.MULTILINE)[1:]:
        found: list[Operation] = []
        waiting: list[str] = []
        for method, path in re.findall(r"`([A-Z]+)(?: ([^`]*))?`", block.split("\n")[0]):
            waiting.append(method.lower())
            if path:
                found += [(each, full(path)) for each in waiting]
                waiting = []
        yield found, block
    for piece in re.split(r"^(?=`/)|; (?=`/)|;\n(?=`/)", outside, flags=re.MULTILINE):
        paths = re.findall(r"`(/[\w./?=]+)`", piece)
        yield [("get", full(path)) for path in paths], piece


def resolve(document: dict[str, Any], reference: str) -> Any:
    value: Any = document
    for name in reference.removeprefix("#/").split("/"):
        value = value[name]
    return value


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def faults(document: dict[str, Any]) -> list[str]:
    """What is wrong with a description, beside its general shape."""
    found = []
    names = [operation.get("operationId") for _, operation in operations(document)]
    found += [f"{name} names two operations" for name in {*names} if names.count(name) > 1]
    for reference in references(document):
        try:
            resolve(document, reference)
        except KeyError:
            found.append(f"{reference} leads nowhere")
    for (method, path), operation in operations(document):
        where = f"{method} {path}"
        if method not in METHODS:
            found.append(f"{where}: no method")
        given = [p["name"] for p in operation.get("parameters", ()) if p["in"] == "path"]
        if sorted(given) != sorted(re.findall(r"\{(\w+)\}", path)):
            found.append(f"{where}: has other parameters than its path")
        responses = operation.get("responses", {})
        if not any(status.startswith("2") for status in responses) or "default" not in responses:
            found.append(f"{where}: does not tell its answers")
        found += [
            f"{where}: does not describe {status}"
            for status, response in responses.items()
            if not response.get("description") or ("content" not in response) != (status == "204")
        ]
    for name, schema in document["components"]["schemas"].items():
        validator = Draft202012Validator(Draft202012Validator.META_SCHEMA)
        found += [f"{name}: {error.message}" for error in validator.iter_errors(schema)]
    return found


async def test_valid(document):
    """The document has the shape of OpenAPI 3.1, and nothing in it leads nowhere."""
    assert document["openapi"].startswith("3.1.")
    assert document["info"]["title"] == "perdure"
    OpenAPI.model_validate(document)
    assert faults(document) == []


async def test_faults_are_found(document):
    """The check of the document can fail."""
    operation = document["paths"]["/v1/sessions/{s}"]["get"]
    operation["operationId"] = "livez"
    operation["parameters"] = []
    operation["responses"] = {"200": {"description": ""}}
    document["components"]["schemas"]["Ack"]["required"] = "next"
    del document["components"]["schemas"]["Claim"]
    text = "\n".join(faults(document))
    for words in ("names two", "other parameters", "not tell", "not describe", "Ack: ", "nowhere"):
        assert words in text


async def test_operations_are_those_of_the_protocol(document):
    """Every operation of A.4, A.5 and A.7 is described, the hot ones too, and there is no other."""
    written = {operation for found, _ in blocks() for operation in found}
    events = re.search(r"^## A\.5.*?`GET ([^`]*)`", PROTOCOL, re.DOTALL | re.MULTILINE)
    assert events is not None
    written.add(("get", full(events[1])))
    assert {("post", f"/v1/sessions/{{s}}/messages/{{m}}/{n}") for n in ("tokens", "stream")} < (
        written
    )
    assert written - BESIDE == {operation for operation, _ in operations(document)}


async def test_answers_are_those_of_the_protocol(document):
    """Every success that A.4 gives for an operation alone is in the document."""
    described = dict(operations(document))
    checked = 0
    for found, text in blocks():
        for operation in {*found} - BESIDE:
            statuses = set(re.findall(r"\b(20[0-4])\b(?! or)", text))
            assert statuses <= described[operation]["responses"].keys(), operation
            checked += len(statuses)
    assert checked > 15


async def test_grants(region, document):
    """Every operation needs a grant but those that answer anybody."""
    free = {
        path for (_, path), operation in operations(document) if operation.get("security") == []
    }
    assert free == {"/livez", "/readyz", "/version"}
    assert document["security"] == [{"grant": []}]
    assert document["components"]["securitySchemes"]["grant"]["scheme"] == "bearer"


def check(document: dict[str, Any], method: str, path: str, reply: Any) -> None:
    """An answer is one that the document describes."""
    responses = document["paths"][path][method.lower()]["responses"]
    response = responses.get(str(reply.status), responses["default"])
    assert str(reply.status) in responses or reply.status >= 400
    if "content" not in response:
        assert reply.body == b""
        return
    schema = response["content"][reply.header("content-type").partition(";")[0]]["schema"]
    whole = {**schema, "components": document["components"]}
    validator = Draft202012Validator(whole, format_checker=FormatChecker())
    is_json = "json" in reply.header("content-type").split("/")[1].split("+")
    value = reply.json if is_json or reply.status >= 400 else reply.body.decode()
    assert list(map(str, validator.iter_errors(value))) == []


SESSION, MESSAGES = "/v1/sessions/{s}", "/v1/sessions/{s}/messages"
MESSAGE = f"{MESSAGES}/{{m}}"
RUNS = f"{SESSION}/runs"
MEMBER = f"{SESSION}/presence/{{member}}"
OPEN = {"id": "m", "role": "assistant", "producer": "p", "claim_id": "claim-0001"}
CLAIM = {"producer": "q", "claim_id": "claim-0002", "mode": "continue"}
TEXT = {"id": "t", "role": "user", "text": "hi"}
EXCHANGES: tuple[tuple[str, str, Any, int], ...] = (
    ("POST", "/v1/erasures", {"subject": "x"}, 202),
    ("GET", "/v1/erasures/{e}", None, 404),
    ("GET", SESSION, None, 404),
    ("PUT", SESSION, {"metadata": {"a": 1}}, 201),
    ("PUT", SESSION, None, 200),
    ("POST", MESSAGES, TEXT, 201),
    ("POST", MESSAGES, TEXT, 200),
    ("POST", MESSAGES, {**TEXT, "text": "ho"}, 409),
    ("POST", MESSAGES, {"role": "user", "colour": "red"}, 400),
    ("POST", MESSAGES, OPEN, 201),
    ("POST", MESSAGES, OPEN, 200),
    ("POST", f"{MESSAGE}/claim", CLAIM, 200),
    ("POST", f"{MESSAGE}/cancel", None, 200),
    ("GET", MESSAGE, None, 200),
    ("GET", MESSAGES, None, 200),
    ("GET", SESSION, None, 200),
    ("GET", "/v1/sessions", None, 200),
    ("PATCH", f"{SESSION}/metadata", {"b": None}, 200),
    ("GET", f"{SESSION}/metadata", None, 200),
    ("GET", "/v1/regions", None, 200),
    ("GET", "/v1/verify", None, 200),
    ("GET", f"{SESSION}/poll", None, 200),
    ("GET", "/v1/transports", None, 200),
    ("GET", "/version", None, 200),
    ("GET", "/livez", None, 200),
    ("GET", "/readyz", None, 200),
    ("POST", RUNS, {"id": "r", "agent": "bot"}, 201),
    ("POST", RUNS, {"id": "r", "agent": "bot"}, 200),
    ("POST", RUNS, {"id": "r", "agent": "bat"}, 409),
    ("GET", f"{RUNS}/{{r}}", None, 200),
    ("GET", RUNS, None, 200),
    ("GET", "/v1/agents/{a}/runs", None, 200),
    ("GET", SESSION, None, 200),
    ("POST", f"{RUNS}/{{r}}/claim", {"producer": "p", "claim_id": "claim-0001"}, 200),
    ("POST", f"{RUNS}/{{r}}/claim", {"producer": "q", "claim_id": "claim-0002"}, 409),
    ("POST", f"{RUNS}/{{r}}/lease", {"producer": "p", "epoch": "9-" + "0" * 16}, 409),
    ("POST", f"{RUNS}/{{r}}/state", {"producer": "p", "epoch": "x", "n": 1, "state": "x"}, 400),
    ("POST", f"{RUNS}/{{r}}/cancel", None, 200),
    ("POST", f"{SESSION}/signals", {"signal": "typing"}, 202),
    ("POST", f"{SESSION}/signals", {"signal": "!"}, 400),
    ("PATCH", f"{SESSION}/documents/{{d}}", {"text": "a", "json": {"k": 1}}, 200),
    ("POST", f"{SESSION}/documents/{{d}}/append", {"text": "b"}, 200),
    ("GET", f"{SESSION}/documents/{{d}}", None, 200),
    ("GET", f"{SESSION}/documents", None, 200),
    ("DELETE", f"{SESSION}/documents/{{d}}", None, 204),
    ("PUT", MEMBER, {"data": {"a": 1}, "ttl_s": 5}, 200),
    ("PUT", MEMBER, None, 200),
    ("PUT", MEMBER, {"ttl_s": 0}, 400),
    ("GET", f"{SESSION}/presence", None, 200),
    ("GET", SESSION, None, 200),
    ("DELETE", MEMBER, None, 204),
    ("GET", "/admin/api/overview", None, 200),
    ("GET", "/admin/api/history", None, 200),
    ("GET", "/admin/api/sessions", None, 200),
    ("GET", "/admin/api/sessions/{s}", None, 200),
    ("GET", "/admin/api/sessions/{s}/timeline", None, 200),
    ("POST", "/admin/api/sessions/{s}/cancel", {"message": "m"}, 200),
    ("POST", "/admin/api/sessions/{s}/cancel", {"message": "none"}, 404),
    ("GET", "/admin/api/connections", None, 200),
    ("POST", "/admin/api/connections/{c}/disconnect", None, 404),
    ("GET", "/admin/api/storage", None, 200),
    ("GET", "/admin/api/errors", None, 200),
    ("POST", "/admin/api/verify", {"session": "s"}, 200),
    ("POST", "/admin/api/drain", {"undo": 1}, 400),
    ("POST", "/admin/api/regions/{r}/forget", {"confirm": "us"}, 400),
    ("GET", f"{SESSION}/export", None, 200),
    ("GET", "/admin/api/sessions/{s}/export", None, 200),
    ("GET", "/admin/api/export", None, 200),
    ("PUT", "/admin/api/retention/{tenant}", {"age_s": 3600}, 200),
    ("PUT", "/admin/api/retention/{tenant}", {"age_s": 1}, 400),
    ("GET", "/admin/api/retention/{tenant}", None, 200),
    ("GET", "/admin/api/retention/{tenant}/plan", None, 200),
    ("GET", "/admin/api/retention", None, 200),
    ("DELETE", "/admin/api/retention/{tenant}", None, 204),
    ("GET", "/admin/api/retention/{tenant}", None, 404),
    ("DELETE", MESSAGE, None, 204),
    ("GET", MESSAGE, None, 410),
    ("GET", f"{SESSION}/erasure", None, 404),
    ("GET", f"{MESSAGE}/erasure", None, 200),
    ("GET", f"{SESSION}/documents/{{d}}/erasure", None, 200),
    ("DELETE", SESSION, None, 204),
    ("PUT", SESSION, None, 410),
    ("GET", f"{SESSION}/erasure", None, 200),
)


async def test_answers_are_as_described(region, document):
    """What a region answers, to what it takes and what it refuses, fits the document's schemas."""
    for method, path, body, status in EXCHANGES:
        target = path.replace("{s}", "s").replace("{m}", "m").replace("{member}", "ana")
        target = (
            target.replace("{e}", "none")
            .replace("{r}", "r")
            .replace("{a}", "bot")
            .replace("{d}", "d")
            .replace("{tenant}", "acme")
        )
        reply = await region.json(method, target, body)
        assert reply.status == status, (method, path, reply)
        check(document, method, path, reply)
    # These are no JSON, or are spoken to elsewhere.
    called = {(method.lower(), path) for method, path, _, _ in EXCHANGES}
    hot = {operation for operation, _ in operations(document)} - called - OF_GRANTS
    assert {path.rpartition("/")[2] for _, path in hot} == {
        *("tokens", "stream", "events"),
        *("metrics", "live"),
    }


async def test_acknowledgements_are_as_described(region, document):
    """Answers of the hot paths, refusals and lines of a long request fit the schemas too."""
    lane = await region.open()
    tokens, stream = f"{MESSAGE}/tokens", f"{MESSAGE}/stream"
    check(document, "POST", tokens, await region.append(lane, 0, ["a", {"part": {"type": "text"}}]))
    gap = await region.append(lane, 9, ["b"])
    assert gap.assert_problem(409, "gap")["expected"] == 2
    check(document, "POST", tokens, gap)
    line = json.dumps({"seq": 2, "end": "complete"}).encode() + b"\n"
    headers = [("content-type", "application/x-ndjson"), *lane.headers(None)]
    reply = await region.request("POST", f"{lane.path}/stream", line, headers)
    responses = document["paths"][stream]["post"]["responses"]
    assert reply.header("content-type").partition(";")[0] in responses["200"]["content"]
    schemas = {**document["components"]["schemas"]["Ack"], "components": document["components"]}
    answers = [json.loads(answer) for answer in reply.body.splitlines()]
    assert answers[-1]["ended"] == "accepted"
    for answer in answers:
        assert list(Draft202012Validator(schemas).iter_errors(answer)) == []


async def test_unready(region, document):
    """A region that drains answers readiness as described: no problem, but its reason."""
    await region.node.drain(0)
    reply = await region.json("GET", "/readyz")
    assert reply.status == 503
    assert "503" in document["paths"]["/readyz"]["get"]["responses"]
    check(document, "GET", "/readyz", reply)


async def test_fields_are_those_of_the_protocol(document):
    """A.3 and A.4 name the fields of messages, sessions, drafts and acknowledgements as here."""
    schemas = document["components"]["schemas"]
    found = {
        "Message": re.search(r"A \*\*message\*\*: `(\{.*?\})`", PROTOCOL),
        "Session": re.search(r"A \*\*session\*\*: `(\{.*?\})`", PROTOCOL),
        "Draft": re.search(r"^`(\{\"id\"\?,\"role\".*?\})`", PROTOCOL, re.MULTILINE),
        "Ack": re.search(r"^200 `(\{\"next\",\"accepted\".*?\})`", PROTOCOL, re.MULTILINE),
        "Claimed": re.search(r"^200 `(\{\"epoch\",\"header\",\"base\".*?\})`", PROTOCOL, re.M),
    }
    for name, match in found.items():
        assert match is not None, name
        assert set(re.findall(r'"(\w+)"', match[1])) == schemas[name]["properties"].keys(), name
