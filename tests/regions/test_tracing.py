"""Traces: one from a request to its delivery in another region, and nothing without one."""

import ast
import asyncio
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from perdure.regions import tracing
from perdure.regions.cluster import free_ports
from perdure.regions.config import Config, ConfigError
from perdure.regions.config_faults import check
from perdure.regions.node import Node
from perdure.regions.tracing import CURRENT
from perdure.replication.admission import Draft
from perdure.replication.coding import decode, encode
from perdure.replication.errors import Malformed, Refusal
from perdure.replication.ids import LaneKey, parse_epoch
from perdure.replication.limits import TRACE_DELIVERIES_MAX
from perdure.replication.operations import Header, Open
from perdure.replication.runs import RunDraft
from perdure.replication.traces import sampled

from tests.regions.linked import Linked, linked

PAIR = {"eu": ["us"], "us": ["eu"]}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
GIVEN = f"00-{TRACE}-{PARENT}-01"
LANE = LaneKey("p", parse_epoch("1-0123456789abcdef"))
HEADER = Header("user", None, 1, LANE, "{}", None, ())


class Spans:
    """The spans of all regions, as a collector would get them."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()

    def of(self, node: Node) -> None:
        """Have a region make spans."""
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        node.trace(provider)

    def named(self) -> dict[tuple[str, str], ReadableSpan]:
        """By region and name, without the common beginning."""
        return {
            (str(span.attributes["perdure.region"]), span.name.removeprefix("perdure.")): span
            for span in self._exporter.get_finished_spans()
            if span.attributes is not None
        }

    def count(self) -> int:
        """How many there are."""
        return len(self._exporter.get_finished_spans())


@pytest.fixture
def traced():
    """What is done in a test is a part of a trace."""
    token = CURRENT.set(GIVEN)
    yield
    CURRENT.reset(token)


async def start(regions: Linked, *names: str) -> Spans:
    """Spans of these regions."""
    spans = Spans()
    for name in names:
        spans.of(regions.nodes[name])
    return spans


async def test_one_trace_from_append_to_delivery_elsewhere(tmp_path: Path, traced: None) -> None:
    """The spans of two regions have the trace that the client gave; each has its parent: the
    request that of the client, its admission and commit, and what the other region applied, the
    request; and the delivery there what was applied there."""
    async with linked(tmp_path, PAIR) as regions:
        eu, us = regions.nodes["eu"], regions.nodes["us"]
        spans = await start(regions, "eu", "us")
        CURRENT.set(None)
        await eu.create("s", {})
        await regions.until(lambda: us.state.find("s") is not None)
        reader = us.subscribe("s", None)
        await reader.next()
        assert spans.count() == 0
        CURRENT.set(GIVEN)
        opened = await eu.open("s", Draft("assistant", "m", producer="p", claim_id="claim-0001"))
        await regions.until(lambda: bool(us.state.find("s").messages))
        assert [event.name for event in await reader.next()] == ["message"]
        found = spans.named()
        assert {span.context.trace_id for span in found.values()} == {int(TRACE, 16)}
        names = ("open", "admit", "commit")
        assert found.keys() == {*(("eu", n) for n in names), ("us", "apply"), ("us", "deliver")}
        assert found["eu", "open"].parent.span_id == int(PARENT, 16)
        for place in (("eu", "admit"), ("eu", "commit"), ("us", "apply")):
            assert found[place].parent.span_id == found["eu", "open"].context.span_id
        assert found["us", "deliver"].parent.span_id == found["us", "apply"].context.span_id
        assert found["us", "apply"].attributes["perdure.origin"] == "eu"
        for span in found.values():
            assert span.attributes["perdure.session"] == "s"
            assert span.attributes["perdure.message"] == "m"
            assert span.start_time <= span.end_time
        # Tokens have none of their own; the request that brings them has, where it says so.
        before = spans.count()
        CURRENT.set(None)
        await eu.append("s", "m", "p", opened.epoch, 0, ["a", "b"])
        await reader.next()
        assert spans.count() == before
        CURRENT.set(GIVEN)
        await eu.append("s", "m", "p", opened.epoch, 2, ["c"], "complete")
        assert spans.count() == before + 3
        assert ("eu", "append") in spans.named()
        reader.close()


async def test_a_region_without_a_collector_hands_traces_on(tmp_path: Path, traced: None) -> None:
    """What was opened at a region that makes no spans is a part of the trace at one that does."""
    async with linked(tmp_path, PAIR) as regions:
        eu, us = regions.nodes["eu"], regions.nodes["us"]
        spans = await start(regions, "us")
        await eu.send("s", Draft("user", "m", text="hello"))
        await eu.request_run("s", RunDraft("bot", "r"))
        await regions.until(lambda: us.gossip.vector.get(eu.origin) == 2)
        assert spans.count() == 2
        found = spans.named()["us", "apply"]
        assert found.parent.span_id == int(PARENT, 16)
        # Nobody reads there: nothing is kept for a delivery.
        assert us.tracing.expected == {}
        assert us.holdings.buckets() == eu.holdings.buckets()


async def test_a_trace_is_no_part_of_a_message(tmp_path: Path, traced: None) -> None:
    """The same open with another trace, or none, is a retry; and a refusal is an error of the
    span, by its code."""
    async with linked(tmp_path, {"eu": []}) as regions:
        eu = regions.nodes["eu"]
        spans = await start(regions, "eu")
        draft = Draft("user", "m", text="hello")
        assert (await eu.send("s", draft)).created
        before = spans.count()
        CURRENT.set(f"00-{TRACE}-{'1' * 16}-01")
        assert not (await eu.send("s", draft)).created
        # Nothing was committed for it.
        assert spans.count() == before + 1
        CURRENT.set(None)
        assert not (await eu.send("s", draft)).created
        CURRENT.set(GIVEN)
        with pytest.raises(Refusal):
            await eu.send("s", Draft("user", "m", text="other"))
        status = spans.named()["eu", "send"].status
        assert (status.status_code, status.description) == (StatusCode.ERROR, "conflict")


async def test_deliveries_that_never_come_are_forgotten(tmp_path: Path, traced: None) -> None:
    """Readers that leave before they take what was published leave a bounded number behind."""
    async with linked(tmp_path, {"eu": []}) as regions:
        eu = regions.nodes["eu"]
        await start(regions, "eu")
        reader = eu.subscribe("s", None)
        for number in range(3):
            await eu.send("s", Draft("user", f"m{number}", text="hello"))
        handing = eu.fanout.handing
        assert len(handing.awaited) == 3
        call = next(iter(handing.awaited.values()))
        event = next(iter(handing.awaited))
        for number in range(TRACE_DELIVERIES_MAX + 5):
            handing.expected["s", str(number)] = call
            copy = type(event)(event.name, event.cursor, event.data)
            handing.published("s", str(number), copy)
        assert len(handing.awaited) == TRACE_DELIVERIES_MAX
        reader.close()


def test_traces_in_operations() -> None:
    """An open says its trace where it has one, and is the same bytes as before where it has none;
    a region that does not know the field reads the same header."""
    plain, traced = Open("s", "m", HEADER), Open("s", "m", HEADER, GIVEN)
    assert decode(encode(plain)) == plain and decode(encode(traced)) == traced
    assert b"trace" not in encode(plain)
    wire = json.loads(encode(traced))
    assert wire[3].pop("trace") == GIVEN
    assert wire == json.loads(encode(plain))
    for wrong in ("", "00", GIVEN[:-2] + "00", GIVEN.upper(), 1, ["a"], GIVEN + "-x"):
        wire[3]["trace"] = wrong
        with pytest.raises(Malformed):
            decode(json.dumps(wire).encode())


@pytest.mark.parametrize(
    ("text", "carried"),
    [
        (GIVEN, GIVEN),
        (GIVEN[:-2] + "03", GIVEN),
        # Another version may say more, and is handed on as what is known of it.
        ("01" + GIVEN[2:] + "-more", GIVEN),
        (GIVEN[:-2] + "00", None),
        ("ff" + GIVEN[2:], None),
        (GIVEN + "-more", None),
        ("01" + GIVEN[2:] + "more", None),
        (f"00-{'0' * 32}-{PARENT}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (GIVEN.upper(), None),
    ],
)
def test_what_is_carried(text: str, carried: str | None) -> None:
    """What is recorded, in one form; else it is as if nothing had been said."""
    assert sampled(text) == carried


@given(st.text())
def test_no_text_breaks_it(text: str) -> None:
    """Whatever a client sends, what is carried is of the one form or nothing."""
    found = sampled(text)
    assert found is None or sampled(found) == found


def test_nothing_is_imported_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is needed only by who sends spans, and who lacks it is told what to install."""
    tree = ast.parse(Path(tracing.__file__).read_text(encoding="utf-8"))
    top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert top and "opentelemetry" not in " ".join(map(ast.unparse, top))
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(tracing.NoTracing, match=r"pip install 'perdure\[otel\]'"):
        tracing.exporting_to("http://127.0.0.1:1/v1/traces", "eu", "1")


def test_where_spans_are_sent_is_a_url(tmp_path: Path) -> None:
    """Anything else is refused before a region starts."""
    config = Config("eu", tmp_path, 1, 2, otlp="collector:4318", peer_secret=b"s" * 32)
    with pytest.raises(ConfigError, match="--otlp collector:4318 must be a URL"):
        check(config)


async def test_a_collector_that_is_down_is_not_waited_for(tmp_path: Path, traced: None) -> None:
    """Requests are answered as ever, and the end comes within its limit."""
    async with linked(tmp_path, {"eu": []}) as regions:
        eu = regions.nodes["eu"]
        (port,) = free_ports(1)
        eu.trace(tracing.exporting_to(f"http://127.0.0.1:{port}/v1/traces", "eu", "1"))
        for number in range(3):
            assert (await eu.send("s", Draft("user", f"m{number}", text="x"))).created
        began_s = eu.meters.now()
        await asyncio.to_thread(eu.tracing.close)
        assert eu.meters.now() - began_s < 4 * tracing.CLOSE_MS_MAX / 1000
