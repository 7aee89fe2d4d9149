"""The edge as a whole: sizes and times of bodies, health, draining, CORS, failures, description."""

import asyncio
import json
import logging

import pytest
from perdure.api import bodies, refusing
from perdure.api.app import create_app
from perdure.regions.ports import StorageFailed, StorageFull
from perdure.replication.limits import BODY_BYTES_MAX

from .conftest import ORIGIN

JSON = ("content-type", "application/json")
CHUNKED = ("transfer-encoding", "chunked")
MESSAGES = "/v1/sessions/s/messages"


@pytest.mark.failure("L5")
async def test_declared_body_too_large(region, lane):
    """A body that is declared too large is refused before it is sent, and the answer is seen."""
    for path, headers in ((f"{lane.path}/tokens", lane.headers(0)), (MESSAGES, [])):
        before = region.state()
        connection = await region.connect()
        length = ("content-length", str(BODY_BYTES_MAX + 1))
        await connection.start("POST", path, [JSON, length, *headers])
        reply = await connection.reply()
        assert reply.assert_problem(413, "too_large")["limit_bytes"] == BODY_BYTES_MAX
        assert reply.header("connection") == "close"
        # The client was writing already: it can end, sees the answer, and then a clean close.
        await connection.write(b"x" * (BODY_BYTES_MAX + 1))
        assert await connection.reader.read() == b""
        assert region.state() == before
    assert (await region.append(lane, 0, ["a"])).status == 200


@pytest.mark.failure("L5")
async def test_undeclared_body_too_large(region, lane):
    """A chunked body is cut at the limit, however much more is meant to come."""
    for path, headers in ((f"{lane.path}/tokens", lane.headers(0)), (MESSAGES, [])):
        before = region.state()
        connection = await region.connect()
        await connection.start("POST", path, [JSON, CHUNKED, *headers])
        for _ in range(BODY_BYTES_MAX // 65_536 + 1):
            await connection.chunk(b" " * 65_536)
        (await connection.reply()).assert_problem(413, "too_large")
        await connection.chunk(b"")
        assert await connection.reader.read() == b""
        assert region.state() == before
    assert (await region.append(lane, 0, ["a"])).status == 200


async def test_body_at_the_limit(region, lane):
    """A body of exactly the limit is taken."""
    body = json.dumps({"tokens": ["x" * 1_000_000] * 8}).encode()
    body += b" " * (BODY_BYTES_MAX - len(body))
    reply = await region.request("POST", f"{lane.path}/tokens", body, [JSON, *lane.headers(0)])
    assert reply.json["next"] == 8


@pytest.mark.failure("L4")
async def test_slow_body(region, lane, monkeypatch):
    """A body that does not arrive in time is refused and the connection closed."""
    monkeypatch.setattr(bodies, "BODY_READ_S_MAX", 0)
    monkeypatch.setattr(refusing, "LINGER_S", 0)
    before = region.state()
    for path, headers in ((f"{lane.path}/tokens", lane.headers(0)), (MESSAGES, [])):
        connection = await region.connect()
        await connection.start("POST", path, [JSON, ("content-length", "100"), *headers])
        await connection.write(b'{"tok')
        (await connection.reply()).assert_problem(408, "timeout")
        assert await connection.reader.read() == b""
    assert region.state() == before


async def test_client_leaves_in_its_body(region, lane, caplog):
    """A client that goes away in the middle of a request changes nothing and is no error."""
    before = region.state()
    with caplog.at_level(logging.INFO):
        for path, headers in ((f"{lane.path}/tokens", lane.headers(0)), (MESSAGES, [])):
            connection = await region.connect()
            await connection.start("POST", path, [JSON, ("content-length", "100"), *headers])
            await connection.write(b'{"tokens":["x"]')
            connection.close()
            await connection.writer.wait_closed()
        assert (await region.request("GET", lane.path)).status == 200
    assert region.state() == before
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_refusals_keep_the_connection(region, lane):
    """One connection serves on after refusals, also when their bodies were never looked at."""
    connection = await region.connect()
    body = json.dumps({"tokens": ["x" * 200_000]}).encode()
    for _ in range(3):
        reply = await connection.request("POST", f"{lane.path}/tokens", body, [JSON])
        reply.assert_problem(400, "invalid_producer")
        reply = await connection.request("POST", f"{lane.path}/tokens", b"{", lane.headers(0))
        reply.assert_problem(400, "invalid_json")
        reply = await connection.request("POST", "/v1/nothing", body, [JSON])
        reply.assert_problem(404, "not_found")
    reply = await connection.request("POST", f"{lane.path}/tokens", body, lane.headers(0))
    assert reply.json["next"] == 1


async def test_health(region):
    """Alive, ready, and who this is."""
    assert (await region.request("GET", "/livez?from=probe")).status == 200
    assert (await region.request("GET", "/readyz")).json == {"ready": True}
    version = (await region.request("GET", "/version")).json
    assert version.keys() == {"version", "region", "incarnation", "wire"}
    assert (version["version"], version["region"], version["wire"]) == ("1.2.3", "eu", [1, 2])


async def test_regions_and_verify(serve):
    """What is known of the others, and that an unreachable one is not called equal."""
    async with serve(peers=["us"]) as region:
        known = (await region.request("GET", "/v1/regions")).json
        assert known["region"] == "eu"
        assert [peer["region"] for peer in known["peers"]] == ["us"]
        assert known["peers"][0]["state"] == "down"
        verified = (await region.request("GET", "/v1/verify")).json
        assert verified["equal"] is False
        assert verified["regions"] == {"us": "unreachable"}


async def test_every_answer_names_the_region(region, lane):
    """Good or refused, JSON or not, an answer says where it came from and what it may not be."""
    for method, path in [
        ("GET", "/livez"),
        ("GET", "/openapi.json"),
        ("GET", "/docs"),
        ("GET", "/v1/sessions/s"),
        ("DELETE", "/v1/sessions/s"),
        ("GET", "/nowhere"),
        ("GET", "/v1/sessions/%00"),
        ("POST", f"{lane.path}/tokens"),
    ]:
        reply = await region.request(method, path)
        assert reply.header("perdure-region") == "eu"
        assert reply.header("x-content-type-options") == "nosniff"


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/sessions/s", "DELETE, GET, PUT"),
        ("/v1/sessions/s/messages", "GET, POST"),
        ("/v1/sessions/s/documents/d", "DELETE, GET, PATCH"),
        ("/v1/sessions/s/documents/d/append", "POST"),
        ("/v1/sessions/s/events", "GET"),
        ("/livez", "GET"),
    ],
)
async def test_a_refused_method_is_told_all_that_the_path_takes(region, path, allowed):
    """And not those of one route alone."""
    reply = await region.request("OPTIONS", path)
    reply.assert_problem(405, "method_not_allowed")
    assert reply.header("allow") == allowed


@pytest.mark.failure("P13")
async def test_draining(region, lane):
    """A draining node refuses with Retry-After, on every path but the probes."""
    before = region.state()
    await region.node.drain(0)
    for method, path in [
        ("GET", "/v1/sessions/s"),
        ("PUT", "/v1/sessions/t"),
        ("GET", "/v1/sessions/s/events"),
        ("POST", f"{lane.path}/tokens"),
        ("POST", f"{lane.path}/stream"),
        ("GET", "/nowhere"),
    ]:
        reply = await region.request(method, path)
        reply.assert_problem(503, "draining")
        assert int(reply.header("retry-after")) > 0
    assert (await region.request("GET", "/livez")).status == 200
    ready = await region.request("GET", "/readyz")
    assert (ready.status, ready.json) == (503, {"ready": False, "reason": "draining"})
    assert int(ready.header("retry-after")) > 0
    assert region.state() == before


@pytest.mark.failure("P7")
async def test_full_disk(region, lane):
    """A full disk refuses writes with Retry-After, serves reads, and recovers without a restart."""
    before = region.state()
    region.storage.failure = StorageFull("no room")
    for reply in [
        await region.append(lane, 0, ["a"]),
        await region.request("PUT", "/v1/sessions/t"),
        await region.json("POST", MESSAGES, {"id": "n", "role": "user", "text": "x"}),
    ]:
        problem = reply.assert_problem(507, "storage_full")
        assert "no room" not in problem["detail"]
        assert int(reply.header("retry-after")) > 0
    connection = await region.connect()
    await connection.start("POST", f"{lane.path}/stream", [CHUNKED, *lane.headers(0)])
    await connection.head()
    await connection.chunk(b'{"seq":0,"token":"a"}\n')
    assert json.loads(await connection.piece())["code"] == "storage_full"
    assert (await region.request("GET", "/v1/sessions/s")).status == 200
    assert region.state() == before
    region.storage.failure = None
    assert (await region.append(lane, 0, ["a"])).status == 200


@pytest.mark.failure("P8")
async def test_failed_disk(region, lane):
    """A failed disk acknowledges nothing, and readiness says why."""
    region.storage.failure = StorageFailed("/secret/path: input/output error")
    reply = await region.append(lane, 0, ["a"])
    problem = reply.assert_problem(503, "storage_failed")
    assert "secret" not in problem["detail"]
    assert int(reply.header("retry-after")) > 0
    ready = await region.request("GET", "/readyz")
    assert (ready.status, ready.json["reason"]) == (503, "storage_failed")


@pytest.mark.failure("S15")
async def test_our_own_mistakes(region, lane, monkeypatch, caplog):
    """An unexpected exception is logged whole, and the client is told nothing of it."""

    def broken(*_args, **_more):
        raise RuntimeError("the password is swordfish")

    monkeypatch.setattr(region.node, "snapshot", broken)
    monkeypatch.setattr(region.node, "append", broken)
    monkeypatch.setattr(region.node, "subscribe", broken)
    body, headers = b'{"tokens":["x"]}', [JSON, *lane.headers(0)]
    for reply in [
        await region.request("GET", "/v1/sessions/s"),
        await region.request("POST", f"{lane.path}/tokens", body, headers),
        await region.request("GET", "/v1/sessions/s/events"),
    ]:
        reply.assert_problem(500, "internal")
        assert b"swordfish" not in reply.body
    connection = await region.connect()
    await connection.start("POST", f"{lane.path}/stream", [CHUNKED, *lane.headers(0)])
    await connection.head()
    await connection.chunk(b'{"seq":0,"token":"a"}\n')
    assert json.loads(await connection.piece())["code"] == "internal"
    logged = [record for record in caplog.records if record.name == "perdure.api"]
    assert len(logged) == 4
    assert all("swordfish" in str(record.exc_info) for record in logged)


PREFLIGHT = ("access-control-request-method", "POST")
ASKED = (
    "authorization,last-event-id,producer-id,producer-epoch,producer-seq,"
    "idempotency-key,content-type"
)


@pytest.mark.failure("S14")
async def test_cors(region):
    """A listed origin may call with our headers and read the region's name; no other may."""
    ours = ("origin", ORIGIN)
    asked = ("access-control-request-headers", ASKED)
    reply = await region.request("OPTIONS", MESSAGES, None, [ours, PREFLIGHT, asked])
    assert reply.status == 200
    assert reply.header("access-control-allow-origin") == ORIGIN
    assert reply.header("access-control-allow-credentials") is None
    assert reply.header("perdure-region") == "eu"
    for path in ("/livez", "/v1/sessions/nothing", "/v1/sessions/%00"):
        answer = await region.request("GET", path, None, [ours])
        assert answer.header("access-control-allow-origin") == ORIGIN
        assert "perdure-region" in answer.header("access-control-expose-headers").lower()
    follower = await region.connect()
    await follower.start("GET", "/v1/sessions/s/events", [ours])
    assert (await follower.head()).header("access-control-allow-origin") == ORIGIN
    for origin in ("https://evil.example", f"{ORIGIN}.evil", "null", "http://localhost:3000"):
        theirs = ("origin", origin)
        reply = await region.request("OPTIONS", MESSAGES, None, [theirs, PREFLIGHT])
        assert reply.status == 400
        assert reply.header("access-control-allow-origin") is None
        answer = await region.request("GET", "/livez", None, [theirs])
        assert answer.header("access-control-allow-origin") is None


OPERATIONS = {
    ("/livez", "get"),
    ("/readyz", "get"),
    ("/version", "get"),
    ("/metrics", "get"),
    ("/v1/regions", "get"),
    ("/v1/verify", "get"),
    ("/v1/transports", "get"),
    ("/v1/grants/renew", "post"),
    ("/v1/tokens", "post"),
    ("/v1/audit", "get"),
    ("/v1/erasures", "post"),
    ("/v1/erasures/{e}", "get"),
    ("/v1/keys", "get"),
    ("/v1/keys", "post"),
    ("/v1/keys/{k}", "delete"),
    ("/v1/revocations", "get"),
    ("/v1/revocations", "post"),
    ("/v1/sessions/{s}/tickets", "post"),
    ("/v1/sessions", "get"),
    ("/v1/sessions/{s}", "get"),
    ("/v1/sessions/{s}", "put"),
    ("/v1/sessions/{s}", "delete"),
    ("/v1/sessions/{s}/erasure", "get"),
    ("/v1/sessions/{s}/export", "get"),
    ("/v1/sessions/{s}/messages/{m}/erasure", "get"),
    ("/v1/sessions/{s}/documents/{d}/erasure", "get"),
    ("/v1/sessions/{s}/events", "get"),
    ("/v1/sessions/{s}/poll", "get"),
    ("/v1/sessions/{s}/metadata", "get"),
    ("/v1/sessions/{s}/metadata", "patch"),
    ("/v1/agents/{a}/runs", "get"),
    ("/v1/sessions/{s}/runs", "get"),
    ("/v1/sessions/{s}/runs", "post"),
    ("/v1/sessions/{s}/runs/{r}", "get"),
    ("/v1/sessions/{s}/runs/{r}/claim", "post"),
    ("/v1/sessions/{s}/runs/{r}/lease", "post"),
    ("/v1/sessions/{s}/runs/{r}/state", "post"),
    ("/v1/sessions/{s}/runs/{r}/cancel", "post"),
    ("/v1/sessions/{s}/signals", "post"),
    ("/v1/sessions/{s}/documents", "get"),
    ("/v1/sessions/{s}/documents/{d}", "get"),
    ("/v1/sessions/{s}/documents/{d}", "patch"),
    ("/v1/sessions/{s}/documents/{d}", "delete"),
    ("/v1/sessions/{s}/documents/{d}/append", "post"),
    ("/v1/sessions/{s}/presence", "get"),
    ("/v1/sessions/{s}/presence/{member}", "put"),
    ("/v1/sessions/{s}/presence/{member}", "delete"),
    ("/v1/sessions/{s}/messages", "get"),
    ("/v1/sessions/{s}/messages", "post"),
    ("/v1/sessions/{s}/messages/{m}", "get"),
    ("/v1/sessions/{s}/messages/{m}", "delete"),
    ("/v1/sessions/{s}/messages/{m}/claim", "post"),
    ("/v1/sessions/{s}/messages/{m}/cancel", "post"),
    ("/v1/sessions/{s}/messages/{m}/tokens", "post"),
    ("/v1/sessions/{s}/messages/{m}/stream", "post"),
    ("/admin/api/overview", "get"),
    ("/admin/api/history", "get"),
    ("/admin/api/live", "get"),
    ("/admin/api/sessions/{s}/events", "get"),
    ("/admin/api/sessions", "get"),
    ("/admin/api/sessions/{s}", "get"),
    ("/admin/api/sessions/{s}/timeline", "get"),
    ("/admin/api/sessions/{s}/cancel", "post"),
    ("/admin/api/connections", "get"),
    ("/admin/api/connections/{c}/disconnect", "post"),
    ("/admin/api/storage", "get"),
    ("/admin/api/errors", "get"),
    ("/admin/api/drain", "post"),
    ("/admin/api/verify", "post"),
    ("/admin/api/regions/{r}/forget", "post"),
    ("/admin/api/sessions/{s}/export", "get"),
    ("/admin/api/export", "get"),
    ("/admin/api/retention", "get"),
    ("/admin/api/retention/{tenant}", "get"),
    ("/admin/api/retention/{tenant}", "put"),
    ("/admin/api/retention/{tenant}", "delete"),
    ("/admin/api/retention/{tenant}/plan", "get"),
}


async def test_openapi(region):
    """The description has every operation, hot ones too, and no reference that leads nowhere."""
    schema = (await region.request("GET", "/openapi.json")).json
    found = {(path, method) for path, methods in schema["paths"].items() for method in methods}
    assert found == OPERATIONS
    for path, method in OPERATIONS:
        operation = schema["paths"][path][method]
        assert operation["summary"]
        assert "422" not in operation["responses"]
        named = {parameter["name"] for parameter in operation.get("parameters", [])}
        assert set("sm") & {part.strip("{}") for part in path.split("/")} <= named
    assert len({op["operationId"] for ops in schema["paths"].values() for op in ops.values()}) == (
        len(OPERATIONS)
    )
    text = json.dumps(schema)
    for reference in {part.split('"')[0] for part in text.split('"$ref": "#/')[1:]}:
        at = schema
        for name in reference.split("/"):
            at = at[name]


async def test_requests_are_described_as_they_are_taken(region):
    """Every operation that takes a body describes it."""
    schema = (await region.request("GET", "/openapi.json")).json
    for path, method in OPERATIONS:
        if (method, path.rsplit("/", 1)[-1]) in {
            ("post", "messages"),
            ("post", "claim"),
            ("post", "tokens"),
            ("post", "stream"),
            ("patch", "metadata"),
            ("put", "{s}"),
        }:
            assert "requestBody" in schema["paths"][path][method], path


async def test_one_slow_request_does_not_hold_others(serve):
    """While one request waits for another region, others are served."""
    async with serve(peers=["us"]) as region:
        lane = await region.open()
        target = f"{lane.path}/tokens?ack=stable"
        waiting = asyncio.create_task(
            region.json("POST", target, {"tokens": ["a"]}, lane.headers(0))
        )
        while region.node.counters["appends"] < 1:
            await asyncio.sleep(0)
        assert (await region.request("GET", lane.path)).json["text"] == "a"
        assert not waiting.done()
        region.peer_has_all()
        assert (await waiting).json["stable"] == 1


@pytest.mark.failure("S14")
@pytest.mark.parametrize(
    ("host", "is_served"),
    [
        ("localhost:7101", True),
        ("127.0.0.1", True),
        ("[::1]:7101", True),
        ("evil.example", False),
        ("evil.example:7101", False),
        ("127.0.0.1.evil.example", False),
        ("", False),
    ],
)
async def test_names_of_this_machine(region, host, is_served):
    """Where anybody of this machine may call, a page of another host whose name was made to lead
    here may not."""
    assert (await called(region, "GET", "/livez", [(b"host", host.encode())])) == (
        200 if is_served else 403
    )


@pytest.mark.failure("S14")
@pytest.mark.parametrize(
    ("origin", "is_served"),
    [
        (None, True),
        ("http://127.0.0.1:7101", True),
        (ORIGIN, True),
        ("http://127.0.0.1:7102", False),
        ("https://evil.example", False),
        ("null", False),
    ],
)
async def test_pages_of_other_origins_change_nothing(region, origin, is_served):
    """Where anybody of this machine may call, a page that somebody there looks at may not: browsers
    send such a request without asking first."""
    headers = [(b"host", b"127.0.0.1:7101")]
    if origin is not None:
        headers.append((b"origin", origin.encode()))
    status = await called(region, "POST", "/admin/api/drain", headers)
    assert status == (200 if is_served else 403)
    assert (region.node.readiness() == "draining") == is_served


async def called(region, method: str, path: str, headers: list[tuple[bytes, bytes]]) -> int:
    """The status of an empty request to a region where anybody of this machine may call."""
    origins = [ORIGIN]
    app = create_app(region.node, rules=None, version="1", is_local=True, cors_origins=origins)
    sent: list[dict] = []

    async def send(message: dict) -> None:
        sent.append(message)

    async def receive() -> dict:
        return {"type": "http.request", "body": b""}

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "scheme": "http",
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": None,
    }
    await app(scope, receive, send)
    status: int = sent[0]["status"]
    return status
