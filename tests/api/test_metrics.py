"""``/metrics``: what is counted, who may see it, in which formats, and the port of its own."""

import asyncio
import platform
import re
import socket
from pathlib import Path
from typing import Any

import pytest
from perdure.api.counting import operation
from perdure.api.grants import Grants
from perdure.api.metric_families import FRAME_CODES, KNOWN, LINK_CODES, STATES
from perdure.api.metrics import Metrics
from perdure.api.needs import OF_FRAMES
from perdure.api.ops import Ops
from perdure.api.problems import STATUS
from perdure.regions.audit import Audit
from perdure.regions.config import Config, ConfigError
from perdure.regions.config_faults import check
from perdure.regions.meters import OTHER
from perdure.regions.ops_port import OpsPort
from perdure.regions.serving import make_ops_server
from perdure.regions.tracing import CURRENT
from perdure.replication.limits import METER_SERIES_MAX
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain

from tests.metrics_page import PAGE, page

from .conftest import Connection, Region
from .test_granting import SECRET, bearer, grant

OPEN = "application/openmetrics-text; version=1.0.0"


async def values(region: Region) -> dict[tuple[str, ...], float]:
    """Samples by name and the values of their labels but the region's, in the labels' order."""
    reply = await region.request("GET", "/metrics", headers=[("accept", OPEN)])
    found = {}
    for family in open_metrics(reply.body.decode()):
        for sample in family.samples:
            labels = {k: v for k, v in sample.labels.items() if k != "region"}
            assert sample.name.startswith(("process_", "python_")) or "region" in sample.labels
            found[(sample.name, *(labels[name] for name in sorted(labels)))] = sample.value
    return found


async def test_what_is_done_is_counted(region, lane):
    """Tokens, retries, events, requests by operation and status, times, refusals by code."""
    follower = await region.follow()
    await follower.events()
    await region.append(lane, 0, ["a", "b", "c"])
    await region.append(lane, 0, ["a", "b", "c"])
    await follower.events("append")
    (await region.request("GET", "/v1/sessions/s/messages/none")).assert_problem(404, "not_found")
    found = await values(region)
    assert found["perdure_tokens_total",] == 3
    assert found["perdure_duplicates_total",] == 3
    assert found["perdure_events_total",] >= 2
    tokens = "POST /v1/sessions/*/messages/*/tokens"
    assert found["perdure_requests_total", tokens, "200"] == 2
    assert found["perdure_requests_total", "GET /v1/sessions/*/messages/*", "404"] == 1
    assert found["perdure_requests_total", "GET /v1/sessions/*/events", "200"] == 1
    assert found["perdure_errors_total", "not_found"] == 1
    assert found["perdure_connections", "sse"] == 1
    assert found["perdure_readers",] == 1
    assert found["perdure_append_seconds_count",] == 2
    assert found["perdure_delivery_seconds_count",] == 1
    assert found["perdure_commits_total",] == found["perdure_commit_seconds_count",] == 2
    assert found["perdure_commit_writes_sum",] == 2
    assert found["perdure_database_bytes",] > 0 and found["perdure_disk_free_bytes",] > 0
    assert found["perdure_queue_limit_items", "writes"] == 20_000
    assert found["perdure_build_info", *sorted_info(region)] == 1


def sorted_info(region: Region) -> tuple[str, ...]:
    """The values of the labels of the build, in the order of their names."""
    return (platform.python_version(), "1.2.3", ",".join(map(str, region.node.version()["wire"])))


async def test_refused_links_are_there_from_the_start(region):
    """With every code that the program has: the first refusal is seen as a growth."""
    found = await values(region)
    told = {"links_refused": LINK_CODES, "frames_refused": FRAME_CODES}
    for what, codes in told.items():
        assert {found["perdure_link_refusals_total", code, what] for code in codes} == {0}
    root = Path(__file__).parents[2]
    text = "".join(
        p.read_text() for part in ("replication", "regions") for p in root.glob(f"{part}/*.py")
    )
    for name, codes in (("LinkRefused", LINK_CODES), ("FrameError", FRAME_CODES)):
        assert {*re.findall(rf'{name}\(\s*"(\w+)"', text)} <= {*codes}


async def test_what_is_noted_is_no_text(region, lane):
    """Entries of the audit log are written as tokens are, and counted as none."""
    await region.append(lane, 0, ["a", "b"])
    await Audit(region.node).record("look")
    found = await values(region)
    assert found["perdure_tokens_total",] == region.node.oversight.activity.own == 2
    assert found["perdure_append_seconds_count",] == 1


async def test_who_returns_is_counted_by_outcome(region, lane):
    """From where it was, or with everything anew."""
    await region.append(lane, 0, ["a"])
    follower = await region.follow()
    last = (await follower.events())[-1]["id"]
    again = await region.follow(headers=[("last-event-id", last)])
    await again.events()
    found = await values(region)
    assert found["perdure_resumes_total", "continued"] == 1
    assert found["perdure_resumes_total", "snapshot"] == 0


async def test_frames_and_limits_are_counted(serve):
    """What a limit refuses is counted by the limit, and as an error."""
    async with serve(limits=["address=1/s,burst=2"]) as region:
        replies = [await region.request("GET", "/v1/transports") for _ in range(4)]
        assert replies[-1].status == 429
        metrics = Metrics(region.node, "1")
        families = {family.name: dict(family.series) for family in metrics.families()}
        refused = sum(reply.status == 429 for reply in replies)
        assert families["limited"]["address",] == families["errors"]["too_many",] == refused


async def test_both_formats(region, lane):
    """OpenMetrics where that is asked for, with units and an end; else the text of Prometheus."""
    await region.append(lane, 0, ["a"])
    reply = await region.request("GET", "/metrics", headers=[("accept", OPEN)])
    assert reply.header("content-type").startswith("application/openmetrics-text; version=1.0.0")
    text = reply.body.decode()
    assert text.endswith("# EOF\n")
    assert "# UNIT perdure_commit_seconds seconds" in text
    assert [family.name for family in open_metrics(text)]
    reply = await region.request("GET", "/metrics")
    assert reply.header("content-type").startswith("text/plain")
    names = {family.name for family in plain(reply.body.decode())}
    assert {"perdure_tokens", "perdure_append_seconds", "process_open_fds"} <= names


async def test_only_operators_see_metrics(serve):
    """Not who is nobody, not a tenant's administrator; and the query takes nothing."""
    async with serve(grants=Grants((SECRET,))) as region:
        (await region.request("GET", "/metrics")).assert_problem(401, "unauthorized")
        tenant = bearer(grant(tenant="acme"))
        reply = await region.request("GET", "/metrics", headers=tenant)
        reply.assert_problem(403, "forbidden")
        operator = bearer(grant())
        assert (await region.request("GET", "/metrics", headers=operator)).status == 200
        reply = await region.request("GET", "/metrics?x=1", headers=operator)
        reply.assert_problem(400, "invalid_query")


async def test_metrics_of_a_region_that_drains(region):
    """It takes no requests, and still tells how it is."""
    await region.node.drain(0)
    found = await values(region)
    assert found["perdure_ready",] == 0
    assert found["perdure_unready", "draining"] == 1
    assert {key[1] for key in found if key[0] == "perdure_unready"} == set(STATES)


async def test_everything_is_there_from_the_start(region):
    """All codes, outcomes and transports are 0 before anything has happened, and no family is
    without its kind and its meaning."""
    found = await values(region)
    assert all(found["perdure_errors_total", code] == 0 for code in STATUS)
    assert all(found["perdure_limited_total", limit] == 0 for limit in KNOWN["limited"])
    names = [family.name for family in Metrics(region.node, "1").families()]
    assert len(names) == len(set(names)) > 40
    for family in Metrics(region.node, "1").families():
        assert family.text and family.kind in ("counter", "gauge", "histogram")
        assert not family.name.endswith("_total")
        assert re.fullmatch(r"[a-z][a-z_]+", family.name)


def test_operations_are_a_short_list():
    """Whatever a client asks for, no id of its is part of a label, and what is no operation is one
    together with all the others."""
    parts = ["", "v1", "sessions", "mine", "messages", "m", "tokens"]
    assert operation("POST", "/v1/x", parts) == "POST /v1/sessions/*/messages/*/tokens"
    assert operation("GET", "/v1/x", parts) == OTHER
    assert operation("GET", "/v1/x", parts[:4]) == "GET /v1/sessions/*"
    assert operation("GET", "/v1/x", [*parts[:4], "secret"]) == OTHER
    assert operation("HEAD", "/v1/x", [*parts[:4], "messages"]) == "HEAD /v1/sessions/*/messages"
    assert operation("GET", "/v1/x", parts[:6]) == "GET /v1/sessions/*/messages/*"
    assert operation("POST", "/v1/x", [*parts[:4], "tickets", "x"]) == OTHER
    assert operation("DELETE", "/v1/keys/k1", []) == "DELETE /v1/keys/*"
    assert operation("GET", "/nothing", []) == operation("BREW", "/livez", []) == OTHER
    assert len(OF_FRAMES) * 10 < METER_SERIES_MAX


async def test_the_port_of_its_own(region):
    """``/metrics``, ``/livez`` and ``/readyz`` without a grant, and nothing else; GET and HEAD."""
    ops = Ops(region.node, Metrics(region.node, "1"))

    async def ask(
        method: str, path: str, accept: str = ""
    ) -> tuple[int, dict[bytes, bytes], bytes]:
        sent: list[dict[str, object]] = []

        async def send(message: dict[str, object]) -> None:
            sent.append(message)

        headers = [(b"accept", accept.encode())]
        scope = {"type": "http", "method": method, "path": path, "headers": headers}
        await ops(scope, asyncio.Queue[dict[str, object]]().get, send)
        return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]  # type: ignore

    assert (await ask("GET", "/livez"))[::2] == (200, b'{"live":true}')
    assert (await ask("GET", "/readyz"))[::2] == (200, b'{"ready":true}')
    status, headers, body = await ask("GET", "/metrics", OPEN)
    assert status == 200 and body.endswith(b"# EOF\n")
    assert headers[b"content-type"].startswith(b"application/openmetrics-text")
    assert headers[b"perdure-region"] == b"eu"
    assert (await ask("HEAD", "/metrics"))[2] == b""
    assert (await ask("GET", "/v1/sessions"))[0] == 404
    status, headers, _ = await ask("POST", "/metrics")
    assert (status, headers[b"allow"]) == (405, b"GET, HEAD")
    await region.node.drain(0)
    status, headers, body = await ask("GET", "/readyz")
    assert (status, headers[b"retry-after"]) == (503, b"1")
    assert body == b'{"ready":false,"reason":"draining"}'


async def test_the_port_of_its_own_is_served(region):
    """Over a real socket, until it is stopped; and where none is asked for there is none."""
    listener = socket.create_server(("127.0.0.1", 0))
    number = listener.getsockname()[1]
    port = OpsPort(make_ops_server(Ops(region.node, Metrics(region.node, "1"))), listener)
    port.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", number)
    connection = Connection(reader, writer)
    assert (await connection.request("GET", "/livez")).json == {"live": True}
    reply = await connection.request("GET", "/metrics", headers=[("accept", OPEN)])
    assert reply.body.endswith(b"# EOF\n") and reply.header("server") is None
    (await connection.request("GET", "/v1/sessions")).assert_problem(404, "not_found")
    connection.close()
    await port.stop()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", number)
    without = OpsPort(make_ops_server(None), None)
    without.start()
    await without.stop()


async def test_our_own_mistakes_are_counted_once(region, monkeypatch):
    """Whether a route or a hot path makes them, and by their code."""

    def broken(*_: object) -> None:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(region.node, "metadata", broken)
    assert (await region.request("GET", "/v1/sessions/s/metadata")).status == 500
    assert region.node.meters.errors.value("internal") == 1
    monkeypatch.setattr(region.node, "subscribe", broken)
    assert (await region.request("GET", "/v1/sessions/s/events")).status == 500
    assert region.node.meters.errors.value("internal") == 2
    assert region.node.meters.errors.value() == 2
    (shown,) = region.node.oversight.errors()["codes"]
    assert (shown["code"], shown["count"]) == ("internal", 2)


async def test_a_slow_client_is_no_slow_delivery(region, lane):
    """What lies there when a client polls again was not late: it was not waited for."""
    cursor = (await region.request("GET", "/v1/sessions/s/poll")).json
    await region.append(lane, 0, ["a"])
    target = f"/v1/sessions/s/poll?cursor={cursor['cursor']}&poll={cursor['poll']}"
    assert [e["event"] for e in (await region.request("GET", target)).json["events"]] == ["append"]
    assert region.node.meters.delivery_seconds.count == 0
    follower = await region.follow()
    await follower.events()
    while not any(feed._crowd._waiting for feed in region.node.fanout._feeds.values()):
        await asyncio.sleep(0)
    await region.append(lane, 1, ["b"])
    await follower.events("append")
    assert region.node.meters.delivery_seconds.count == 1


async def test_errors_of_streams_and_frames_are_counted(region, lane):
    """A refusal within a long request is counted by its code as well."""
    connection = await region.connect()
    headers = [("content-type", "application/x-ndjson"), *lane.headers(None)]
    body = b'{"seq":0,"token":"a"}\n{"seq":5,"token":"b"}\n'
    reply = await connection.request("POST", f"{lane.path}/stream", body, headers)
    assert b'"code": "gap"' in reply.body
    assert region.node.meters.errors.value("gap") == 1


def test_the_page_of_metrics_is_what_there_is():
    """``docs/operating/metrics.md`` lists every metric with kind, labels and meaning, no other."""
    assert PAGE.read_text(encoding="utf-8") == page()


def test_ports_differ(tmp_path):
    """The port of its own is none of the others, and a port at all."""
    for port in (7101, 7201, 0):
        config = Config("eu", tmp_path, 7101, 7201, ops_port=port, peer_secret=b"s" * 32)
        with pytest.raises(ConfigError, match="--ops-port"):
            check(config)


async def test_no_client_makes_series(region):
    """Ids, paths and methods that clients invent are in no label."""
    for path in ("/v1/sessions/zzz/zzz", "/zzz", "/v1/keys/zzz/zzz", "/v1/sessions/zzz%0A"):
        await region.request("GET", path)
        await region.request("ZZZ", path)
    reply = await region.request("GET", "/metrics")
    assert b"zzz" not in reply.body.lower()


async def test_a_trace_comes_with_a_request_or_a_frame(region, lane, monkeypatch):
    """``traceparent`` of a POST, and of a frame; one that is malformed, or comes twice, is as if
    there was none, and is never refused."""
    seen: list[str | None] = []
    real = region.node.tracing.request

    def request(*about: str) -> Any:
        seen.append(CURRENT.get())
        return real(*about)

    monkeypatch.setattr(region.node.tracing, "request", request)
    trace = f"00-{'a' * 32}-{'b' * 16}-01"

    async def send(id_: str, *headers: tuple[str, str]) -> None:
        body = {"id": id_, "role": "user", "text": "x"}
        assert (await region.json("POST", "/v1/sessions/s/messages", body, headers)).status == 201

    await send("m1", ("traceparent", trace))
    await send("m2", ("traceparent", "nonsense"))
    await send("m3", ("traceparent", trace), ("traceparent", trace))
    await send("m4")
    assert seen == [trace, None, None, None]
    # Of an append nothing is looked at but where it is traced.
    await region.append(lane, 0, ["a"])
    assert len(seen) == 4
    headers = [("traceparent", trace), *lane.headers(1)]
    assert (
        await region.json("POST", f"{lane.path}/tokens", {"tokens": ["b"]}, headers)
    ).status == 200
    assert seen[4:] == [trace]
