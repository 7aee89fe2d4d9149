"""Bad input: a clear 4xx, nothing changed, and the next good request works.

Each case is one request. All of them run against a session with a running message, one that has
ended and one that was deleted.
"""

import json

import pytest

JSON = ("content-type", "application/json")
TOKENS = "/v1/sessions/s/messages/m/tokens"
STREAM = "/v1/sessions/s/messages/m/stream"
MESSAGES = "/v1/sessions/s/messages"
EVENTS = "/v1/sessions/s/events"
GOOD = b'{"tokens":["x"]}'
OPEN = {"id": "n", "role": "assistant", "producer": "p", "claim_id": "claim-0009"}


@pytest.fixture
async def lane(region):
    """A running message with one token, beside one that ended and one that was deleted."""
    lane = await region.open()
    await region.append(lane, 0, ["a"])
    ended = await region.open(message="ended")
    await region.append(ended, 0, ["z"], end="complete")
    await region.open(message="gone")
    await region.request("DELETE", "/v1/sessions/s/messages/gone")
    await region.request("PUT", "/v1/sessions/buried")
    await region.request("DELETE", "/v1/sessions/buried")
    return lane


@pytest.fixture
async def refused(region, lane):
    """Sends a bad request; checks the refusal, that nothing changed, and that good ones work."""

    async def check(status, code, method, target, body=None, headers=()):
        before = region.state()
        connection = await region.connect()
        reply = await connection.request(method, target, body, headers)
        problem = reply.assert_problem(status, code)
        assert region.state() == before
        if reply.header("connection") != "close":
            assert (await connection.json("GET", "/v1/sessions/s")).status == 200
        good = await region.append(lane, 1, ["b"])
        assert good.status == 200
        assert good.json["next"] == 2
        return problem

    return check


BODIES = {
    "no body": (b"", "invalid_json", None),
    "half": (b'{"tokens":["x"]', "invalid_json", None),
    "invalid utf-8": (b'{"tokens":["\xff"]}', "invalid_json", None),
    "lone surrogate": (b'{"tokens":["\\ud800"]}', "invalid_json", None),
    "NaN": (b'{"tokens":[{"set":{"a":NaN}}]}', "invalid_json", None),
    "beyond a double": (b'{"tokens":[{"set":{"a":1e999}}]}', "invalid_json", None),
    "5000 digits": (b'{"tokens":[' + b"9" * 5000 + b"]}", "invalid_json", None),
    "deep": (b'{"tokens":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "invalid_json", None),
    "100,000 keys": (
        json.dumps({str(number): 0 for number in range(100_000)}).encode(),
        "invalid_body",
        "0",
    ),
    "a key twice": (b'{"tokens":["x"],"tokens":["y"]}', "invalid_json", None),
    "a list": (b'["x"]', "invalid_body", None),
    "no tokens": (b"{}", "invalid_body", "tokens"),
    "tokens null": (b'{"tokens":null}', "invalid_body", "tokens"),
    "tokens a string": (b'{"tokens":"x"}', "invalid_body", "tokens"),
    "token a number": (b'{"tokens":["x",1]}', "invalid_body", "tokens[1]"),
    "token null": (b'{"tokens":[null]}', "invalid_body", "tokens[0]"),
    "unknown field": (b'{"tokens":["x"],"seq":1}', "invalid_body", "seq"),
    "unknown end": (b'{"tokens":["x"],"end":"done"}', "invalid_body", "end"),
    "end a list": (b'{"tokens":["x"],"end":[]}', "invalid_body", "end"),
    "end streaming": (b'{"tokens":["x"],"end":"streaming"}', "invalid_body", "end"),
    "empty mark": (b'{"tokens":[{}]}', "invalid_body", "tokens[0]"),
    "unknown mark": (b'{"tokens":[{"x":{}}]}', "invalid_body", "tokens[0]"),
    "two marks in one": (
        b'{"tokens":[{"part":{"type":"text"},"set":{}}]}',
        "invalid_body",
        "tokens[0]",
    ),
    "part without type": (b'{"tokens":[{"part":{}}]}', "invalid_body", "tokens[0]"),
    "part with text": (
        b'{"tokens":[{"part":{"type":"a","text":"b"}}]}',
        "invalid_body",
        "tokens[0]",
    ),
    "set is a list": (b'{"tokens":[{"set":[]}]}', "invalid_body", "tokens[0]"),
}


@pytest.mark.failure("X2", "X5")
@pytest.mark.parametrize(("body", "code", "field"), BODIES.values(), ids=BODIES.keys())
async def test_append_bodies(refused, lane, body, code, field):
    """A bad body of an append is refused, in words that name the field."""
    problem = await refused(400, code, "POST", TOKENS, body, [JSON, *lane.headers(1)])
    assert problem.get("field") == field


SIZES = {
    "token": (json.dumps({"tokens": ["x", "a" * 1_048_577]}), "limit_bytes", 1_048_576),
    "token in bytes": (json.dumps({"tokens": ["é" * 524_289]}), "limit_bytes", 1_048_576),
    "mark": (json.dumps({"tokens": [{"set": {"a": "b" * 262_144}}]}), "limit_bytes", 262_144),
    "items": (json.dumps({"tokens": ["x"] * 4_097}), "limit_items", 4_096),
    "body": (json.dumps({"tokens": ["x" * 1_000_000] * 9}), "limit_bytes", 8_388_608),
}


@pytest.mark.failure("X1")
@pytest.mark.parametrize(("body", "limit", "value"), SIZES.values(), ids=SIZES.keys())
async def test_append_sizes(refused, lane, body, limit, value):
    """Beyond a limit nothing is taken, and the limit is named."""
    headers = [JSON, *lane.headers(1)]
    problem = await refused(413, "too_large", "POST", TOKENS, body.encode(), headers)
    assert problem[limit] == value


SEQS = ["", "-1", "+1", "1.0", "1e3", "0x1", "one", "1 2", "9007199254740992", "9" * 5000, "¹", "é"]


@pytest.mark.parametrize("seq", SEQS)
async def test_seqs(refused, lane, seq):
    """A position is a whole number from 0 to 2^53-1 in decimal digits."""
    headers = [JSON, *lane.headers(None), ("producer-seq", seq)]
    await refused(400, "invalid_producer", "POST", TOKENS, GOOD, headers)


EPOCHS = ["", "1", "1-", "1-0123456789abcde", "1-0123456789ABCDEF", "01-0123456789abcdef"]
EPOCHS += ["0-0123456789abcdef", "2147483648-0123456789abcdef", "-1-0123456789abcdef", "9" * 5000]


@pytest.mark.parametrize("epoch", EPOCHS)
@pytest.mark.parametrize("path", [TOKENS, STREAM])
async def test_epochs(refused, lane, path, epoch):
    """An epoch is given back as it was given."""
    headers = [JSON, ("producer-id", "p"), ("producer-epoch", epoch), ("producer-seq", "1")]
    problem = await refused(400, "invalid_producer", "POST", path, GOOD, headers)
    assert problem["field"] == "Producer-Epoch"


@pytest.mark.parametrize("name", ["producer-id", "producer-epoch", "producer-seq"])
async def test_producer_headers_missing_or_twice(refused, lane, name):
    """Each producer header is there once."""
    headers = [JSON, *lane.headers(1)]
    missing = [header for header in headers if header[0] != name]
    await refused(400, "invalid_producer", "POST", TOKENS, GOOD, missing)


@pytest.mark.parametrize("name", ["producer-id", "producer-epoch", "producer-seq"])
@pytest.mark.parametrize("path", [TOKENS, STREAM])
async def test_producer_headers_twice(refused, lane, path, name):
    """A producer header that comes twice is refused, also with the same value."""
    headers = [JSON, *lane.headers(1)]
    again = next(header for header in headers if header[0] == name)
    await refused(400, "invalid_producer", "POST", path, GOOD, [*headers, again])


BAD_IDS = {
    "encoded slash": "a%2Fb",
    "NUL": "a%00",
    "newline": "a%0Ab",
    "unicode": "%C3%A9",
    "invalid utf-8": "%FF",
    "4 KB": "a" * 4_096,
    "129": "a" * 129,
    "dot": ".",
    "dots": "..",
    "encoded dots": "%2e%2e",
    "space": "a%20b",
    "percent": "%25",
    "half an escape": "a%2",
    "confusable": "%D0%B0",
    "empty": "",
    "plus": "a+b",
}


@pytest.mark.failure("S10", "X2")
@pytest.mark.parametrize("id_", BAD_IDS.values(), ids=BAD_IDS.keys())
async def test_ids_in_paths(refused, lane, id_):
    """An id outside the alphabet is refused on every path, hot or not, and never cut or mended."""
    for method, path in [
        ("GET", f"/v1/sessions/{id_}"),
        ("PUT", f"/v1/sessions/{id_}"),
        ("GET", f"/v1/sessions/{id_}/events"),
        ("GET", f"/v1/sessions/{id_}/metadata"),
        ("GET", f"/v1/sessions/s/messages/{id_}"),
        ("DELETE", f"/v1/sessions/s/messages/{id_}"),
        ("POST", f"/v1/sessions/s/messages/{id_}/cancel"),
        ("POST", f"/v1/sessions/{id_}/messages/m/tokens"),
        ("POST", f"/v1/sessions/s/messages/{id_}/tokens"),
        ("POST", f"/v1/sessions/s/messages/{id_}/stream"),
    ]:
        body = GOOD if path.endswith(("tokens", "stream")) else None
        headers = [JSON, *lane.headers(1)] if body else []
        await refused(400, "invalid_id", method, path, body, headers)


MESSAGE_BODIES = {
    "no role": ({"id": "n", "text": "x"}, "invalid_body", "role"),
    "role a number": ({"id": "n", "role": 1, "text": "x"}, "invalid_body", "role"),
    "bad role": ({"id": "n", "role": "User!", "text": "x"}, "invalid_body", "role"),
    "unknown field": ({"id": "n", "role": "user", "content": "x"}, "invalid_body", "content"),
    "text a list": ({"id": "n", "role": "user", "text": ["x"]}, "invalid_body", "text"),
    "metadata a list": (
        {"id": "n", "role": "user", "text": "x", "metadata": []},
        "invalid_body",
        "metadata",
    ),
    "bad id": ({"id": "a/b", "role": "user", "text": "x"}, "invalid_id", "id"),
    "id a number": ({"id": 5, "role": "user", "text": "x"}, "invalid_body", "id"),
    "bad author": ({"id": "n", "role": "user", "text": "x", "author": " "}, "invalid_id", "author"),
    "no producer": ({**OPEN, "producer": None}, "invalid_body", "producer"),
    "no claim": ({**OPEN, "claim_id": None}, "invalid_body", "claim_id"),
    "short claim": ({**OPEN, "claim_id": "short"}, "invalid_id", "claim_id"),
    "text and producer": ({**OPEN, "text": "x"}, "invalid_body", "producer"),
    "bad after": (
        {"id": "n", "role": "user", "text": "x", "after": "yesterday"},
        "invalid_body",
        "after",
    ),
    "after in the future": (
        {"id": "n", "role": "user", "text": "x", "after": "ffffffffffffffff.m"},
        "clock_ahead",
        None,
    ),
    "no id": ({"role": "user", "text": "x"}, "idempotency_key_required", None),
    "header and more": ({"header": "x", "role": "user"}, "invalid_body", "role"),
    "bad header": ({"header": "AAAA"}, "invalid_header", None),
    "header with odd characters": ({"header": "é" * 10}, "invalid_header", None),
    "header a number": ({"header": 1}, "invalid_body", "header"),
}


@pytest.mark.failure("S10")
@pytest.mark.parametrize(
    ("value", "code", "field"), MESSAGE_BODIES.values(), ids=MESSAGE_BODIES.keys()
)
async def test_message_bodies(refused, value, code, field):
    """A message of the wrong shape is refused and names the field."""
    body = json.dumps(value).encode()
    problem = await refused(400, code, "POST", MESSAGES, body, [JSON])
    assert problem.get("field") == field


@pytest.mark.parametrize(
    "keys", [["bad key "], ["short"], ["a" * 129], ["k" * 8, "k" * 8], ["é" * 9]]
)
async def test_idempotency_keys(refused, keys):
    """An Idempotency-Key is an id of 8 characters or more, given once."""
    headers = [JSON, *(("idempotency-key", key) for key in keys)]
    body = json.dumps({"role": "user", "text": "x"}).encode()
    await refused(400, "invalid_id", "POST", MESSAGES, body, headers)


OTHER = {
    "claim: empty": ("POST", f"{MESSAGES}/m/claim", {}, "invalid_body", "producer"),
    "claim: mode": (
        "POST",
        f"{MESSAGES}/m/claim",
        {"producer": "p", "claim_id": "claim-0002", "mode": "steal"},
        "invalid_body",
        "mode",
    ),
    "claim: unknown": ("POST", f"{MESSAGES}/m/claim", {"force": True}, "invalid_body", "force"),
    "create: unknown": ("PUT", "/v1/sessions/t", {"title": "x"}, "invalid_body", "title"),
    "create: metadata": ("PUT", "/v1/sessions/t", {"metadata": "x"}, "invalid_body", "metadata"),
    "cancel: fields": ("POST", f"{MESSAGES}/m/cancel", {"why": "x"}, "invalid_body", "why"),
}


@pytest.mark.parametrize(
    ("method", "path", "value", "code", "field"), OTHER.values(), ids=OTHER.keys()
)
async def test_other_bodies(refused, method, path, value, code, field):
    """Every operation refuses what it does not know."""
    problem = await refused(400, code, method, path, json.dumps(value).encode(), [JSON])
    assert problem["field"] == field


METADATA = {
    "too many keys": {str(number): 0 for number in range(129)},
    "too large": {"a": "b" * 65_536},
}


@pytest.mark.parametrize("value", METADATA.values(), ids=METADATA.keys())
async def test_metadata_sizes(refused, value):
    """Metadata beyond its limits is refused wherever it is given."""
    for method, path, body in [
        ("PATCH", "/v1/sessions/s/metadata", value),
        ("PUT", "/v1/sessions/t", {"metadata": value}),
        ("POST", MESSAGES, {"id": "n", "role": "user", "text": "x", "metadata": value}),
    ]:
        await refused(413, "too_large", method, path, json.dumps(body).encode(), [JSON])


QUERIES = {
    "unknown": (f"{MESSAGES}?x=1", "x"),
    "twice": (f"{MESSAGES}?limit=1&limit=1", "limit"),
    "limit 0": (f"{MESSAGES}?limit=0", "limit"),
    "limit 1001": (f"{MESSAGES}?limit=1001", "limit"),
    "limit -1": ("/v1/sessions?limit=-1", "limit"),
    "limit huge": (f"/v1/sessions?limit={'9' * 3000}", "limit"),
    "limit empty": ("/v1/sessions?limit=", "limit"),
    "before": (f"{MESSAGES}?before=yesterday", "before"),
    "session": ("/v1/sessions/s?cursor=x", "cursor"),
    "message": (f"{MESSAGES}/m?x", "x"),
    "metadata": ("/v1/sessions/s/metadata?x=1", "x"),
    "events": (f"{EVENTS}?from=1", "from"),
    "regions": ("/v1/regions?x=1", "x"),
    "verify": ("/v1/verify?x=1", "x"),
    "too long": (f"{MESSAGES}?{'a' * 20_000}", None),
    "invalid utf-8": (f"{MESSAGES}?%FF=1", None),
}


@pytest.mark.parametrize(("target", "field"), QUERIES.values(), ids=QUERIES.keys())
async def test_queries(refused, target, field):
    """Unknown, repeated and wrong parameters are refused, never ignored."""
    problem = await refused(400, "invalid_query", "GET", target)
    assert problem.get("field") == field


@pytest.mark.parametrize("query", ["ack=maybe", "wait_ms=x", "wait_ms=10001", "ack=stable&x=1"])
async def test_append_queries(refused, lane, query):
    """An append's parameters are checked as well."""
    headers = [JSON, *lane.headers(1)]
    await refused(400, "invalid_query", "POST", f"{TOKENS}?{query}", GOOD, headers)


async def test_page_ids(refused):
    """A page position that is no id is refused."""
    await refused(400, "invalid_id", "GET", "/v1/sessions?after=a%2Fb")
    await refused(400, "invalid_id", "GET", "/v1/verify?session=%00")


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/xml", "multipart/form-data; boundary=x"]
)
async def test_media_types(refused, lane, kind):
    """A body that is declared as something else than JSON is not looked at."""
    headers = [("content-type", kind), *lane.headers(1)]
    await refused(415, "unsupported_media_type", "POST", TOKENS, GOOD, headers)
    await refused(415, "unsupported_media_type", "POST", STREAM, GOOD, headers)
    await refused(415, "unsupported_media_type", "POST", MESSAGES, GOOD, headers)


UNKNOWN = {
    "message": (TOKENS.replace("/m/", "/other/"), 409, "unknown_epoch"),
    "session": (TOKENS.replace("/s/", "/other/"), 409, "unknown_epoch"),
    "deleted message": (TOKENS.replace("/m/", "/gone/"), 410, "deleted"),
    "deleted session": (TOKENS.replace("/s/", "/buried/"), 410, "deleted"),
    "ended": (TOKENS.replace("/m/", "/ended/"), 409, "unknown_epoch"),
}


@pytest.mark.parametrize(("path", "status", "code"), UNKNOWN.values(), ids=UNKNOWN.keys())
async def test_appends_to_the_wrong_place(refused, lane, path, status, code):
    """An append where this lane is not is refused and creates nothing."""
    await refused(status, code, "POST", path, GOOD, [JSON, *lane.headers(1)])


async def test_other_producer(refused, lane):
    """A producer that never opened the message is unknown, whatever epoch it shows."""
    headers = [JSON, ("producer-id", "q"), *lane.headers(1)[1:]]
    await refused(409, "unknown_epoch", "POST", TOKENS, GOOD, headers)


async def test_gap(refused, lane):
    """Tokens beyond what is held are refused, and the next position is told."""
    problem = await refused(409, "gap", "POST", TOKENS, GOOD, [JSON, *lane.headers(5)])
    assert problem["expected"] == 1


@pytest.mark.failure("C8")
async def test_conflict(refused, lane):
    """Another token where one is held is refused."""
    await refused(409, "conflict", "POST", TOKENS, GOOD, [JSON, *lane.headers(0)])


async def test_after_the_end(refused, region):
    """Nothing comes after the end; the same end again is a retry."""
    ended = await region.open(message="ended")
    path = f"{ended.path}/tokens"
    await refused(409, "ended", "POST", path, GOOD, [JSON, *ended.headers(1)])
    other = b'{"tokens":[],"end":"failed"}'
    await refused(409, "ended", "POST", path, other, [JSON, *ended.headers(1)])
    again = await region.append(ended, 0, ["z"], end="complete")
    assert again.json["duplicates"] == 1
    assert again.json["ended"] == "accepted"


@pytest.mark.failure("C11")
async def test_fenced_and_cancelled(refused, region, lane):
    """After a claim the older epoch is out; after a cancel nobody goes on; retries still count."""
    zombie = await region.open(message="taken")
    await region.append(zombie, 0, ["a"])
    claim = {"producer": "q", "claim_id": "claim-0002", "mode": "continue"}
    taken = await region.json("POST", f"{zombie.path}/claim", claim)
    assert taken.status == 200
    path = f"{zombie.path}/tokens"
    await refused(403, "fenced", "POST", path, GOOD, [JSON, *zombie.headers(1)])
    assert (await region.append(zombie, 0, ["a"])).json["duplicates"] == 1
    await region.request("POST", f"{zombie.path}/cancel")
    heir = zombie._replace(producer="q", epoch=taken.json["epoch"])
    await refused(403, "cancelled", "POST", path, GOOD, [JSON, *heir.headers(0)])
    again = json.dumps({**claim, "claim_id": "claim-0003"}).encode()
    await refused(403, "cancelled", "POST", f"{zombie.path}/claim", again, [JSON])


READS = {
    "session": ("GET", "/v1/sessions/other", 404, "not_found"),
    "message": ("GET", f"{MESSAGES}/other", 404, "not_found"),
    "messages": ("GET", "/v1/sessions/other/messages", 404, "not_found"),
    "metadata": ("GET", "/v1/sessions/other/metadata", 404, "not_found"),
    "cancel": ("POST", f"{MESSAGES}/other/cancel", 404, "not_found"),
    "deleted session": ("GET", "/v1/sessions/buried", 410, "deleted"),
    "deleted session, create": ("PUT", "/v1/sessions/buried", 410, "deleted"),
    "deleted session, events": ("GET", "/v1/sessions/buried/events", 410, "deleted"),
    "deleted session, again": ("DELETE", "/v1/sessions/buried", 410, "deleted"),
    "deleted message": ("GET", f"{MESSAGES}/gone", 410, "deleted"),
    "deleted message, cancel": ("POST", f"{MESSAGES}/gone/cancel", 410, "deleted"),
    "deleted message, again": ("DELETE", f"{MESSAGES}/gone", 410, "deleted"),
    "path": ("GET", "/v1/nothing", 404, "not_found"),
    "path below": ("GET", "/v1/sessions/s/nothing", 404, "not_found"),
    "path below a message": ("POST", f"{MESSAGES}/m/nothing", 404, "not_found"),
    "hot name elsewhere": ("POST", "/v1/sessions/s/things/m/tokens", 404, "not_found"),
    "slash at the end": ("GET", "/v1/sessions/s/messages/m/cancel/", 404, "not_found"),
    "encoded slash": ("GET", "/v1/sessions/s/messages%2Fm", 404, "not_found"),
    "root": ("GET", "/", 404, "not_found"),
}


@pytest.mark.parametrize(("method", "path", "status", "code"), READS.values(), ids=READS.keys())
async def test_unknown_and_deleted(refused, method, path, status, code):
    """What is not there is 404, what was deleted 410, and asking creates nothing."""
    await refused(status, code, method, path)


METHODS = [
    ("GET", TOKENS, "POST"),
    ("GET", STREAM, "POST"),
    ("POST", EVENTS, "GET"),
    ("PATCH", "/v1/sessions/s", None),
    ("PUT", f"{MESSAGES}/m", None),
    ("POST", "/v1/sessions", None),
    ("DELETE", "/livez", None),
    ("OPTIONS", "/v1/sessions", None),
]


@pytest.mark.parametrize(("method", "path", "allow"), METHODS)
async def test_methods(region, lane, method, path, allow):
    """A path that does not take a method says 405, and which it takes."""
    reply = await region.request(method, path)
    reply.assert_problem(405, "method_not_allowed")
    assert reply.header("allow") if allow is None else reply.header("allow") == allow


CURSORS = {
    "word": "hello",
    "empty version": "AAAA",
    "odd characters": "a/b+c=",
    "513": "A" * 513,
    "1 MB would not fit a line; 60 KB": "A" * 60_000,
    "not ascii": "é",
    "with spaces": "a b",
}


@pytest.mark.failure("X6")
@pytest.mark.parametrize("cursor", CURSORS.values(), ids=CURSORS.keys())
async def test_cursors(refused, cursor):
    """What is not a cursor of this service is refused, as a header and as a parameter."""
    await refused(400, "invalid_cursor", "GET", EVENTS, None, [("last-event-id", cursor)])
    if cursor.isascii() and len(cursor) < 1_000:
        quoted = cursor.replace("+", "%2B").replace(" ", "%20")
        await refused(400, "invalid_cursor", "GET", f"{EVENTS}?cursor={quoted}")


async def test_cursor_given_twice(refused):
    """Two positions are none."""
    headers = [("last-event-id", "a"), ("last-event-id", "b")]
    await refused(400, "invalid_cursor", "GET", EVENTS, None, headers)
