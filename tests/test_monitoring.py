"""The alerts and the dashboard ask for what a region exposes, and each alert is explained."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml
from perdure.api.counting import operation
from perdure.api.metric_families import KNOWN, PEER_STATES, STATES

from tests.metrics_page import metrics

ROOT = Path(__file__).parents[1]
RULES = ROOT / "deploy/monitoring/alerts.yaml"
DASHBOARD = ROOT / "deploy/monitoring/dashboard.json"
EXPLAINED = ROOT / "docs/operating/alerts.md"
# What Prometheus adds to each sample, and the series that it makes of each target.
OF_SCRAPING = {"job", "instance"}
UP = "up"
# The values that a label may have, where they are a closed list: a query for another finds nothing.
VALUES: dict[str, set[str]] = {
    "code": {*KNOWN["errors"]},
    "limit": {*KNOWN["limited"]},
    "outcome": {*KNOWN["resumes"]},
    "transport": {*KNOWN["connections"]},
    "reason": {*STATES},
    "state": {*PEER_STATES},
    "job": {"perdure"},
}


def exposed() -> dict[str, set[str]]:
    """The names of samples, with the labels that they have: of a region without any traffic."""
    found: dict[str, set[str]] = {UP: set()}
    for family in metrics().families():
        labels = {"region", *family.labels}
        name = f"perdure_{family.name}"
        if family.kind == "histogram":
            found[f"{name}_bucket"] = {*labels, "le"}
            found |= {f"{name}_count": labels, f"{name}_sum": labels}
        else:
            found[f"{name}_total" if family.kind == "counter" else name] = labels
    for metric in metrics().collect():
        if not metric.name.startswith("perdure_"):
            found |= {sample.name: {*sample.labels} for sample in metric.samples}
    return found


EXPOSED = exposed()


def faults(query: str) -> list[str]:
    """What is wrong with an expression: it does not parse, or asks for what there is not."""
    query = query.replace("$__rate_interval", "5m")
    try:
        parsed = promql.parse(query)
    except ValueError as error:
        return [str(error)]
    found: list[str] = []
    labels: set[str] = set()
    used: set[str] = set()

    def visit(node: Any) -> None:
        if isinstance(node, promql.VectorSelector):
            known = EXPOSED.get(node.name)
            if known is None:
                found.append(f"there is no {node.name}")
                return
            labels.update(known | OF_SCRAPING)
            for matcher in node.matchers.matchers:
                found.extend(wrong(node.name, known | OF_SCRAPING, matcher))
        elif isinstance(node, promql.AggregateExpr) and node.modifier is not None:
            used.update(node.modifier.labels)
        elif isinstance(node, promql.BinaryExpr) and node.modifier is not None:
            used.update(node.modifier.matching.labels if node.modifier.matching else ())

    promql.walk(parsed, visit)
    return found + [f"no series has {label}" for label in sorted(used - labels)]


def wrong(name: str, labels: set[str], matcher: Any) -> Iterator[str]:
    """What is wrong with one condition on a label."""
    if matcher.name not in labels:
        yield f"{name} has no {matcher.name}"
    plain = matcher.op in (promql.MatchOp.Equal, promql.MatchOp.NotEqual)
    if plain and matcher.name in VALUES and matcher.value not in VALUES[matcher.name]:
        yield f"{matcher.name} is never {matcher.value}"


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return [panel for panel in found if panel["type"] != "row"]


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_alerts(rule):
    """Each alert asks for metrics and labels that there are, is urgent in a known degree, says in
    two texts what it is with labels that it has, and names its entry."""
    assert faults(rule["expr"]) == []
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert rule["annotations"].keys() == {"summary", "description", "runbook"}
    anchor = f"docs/operating/alerts.md#{rule['alert'].lower()}"
    assert rule["annotations"]["runbook"] == anchor
    told = " ".join(rule["annotations"].values())
    for label in re.findall(r"\$labels\.(\w+)", told):
        assert label in rule["expr"] or label in labels_of(rule["expr"]), label


def labels_of(query: str) -> set[str]:
    """The labels of all series that a query asks for."""
    names = re.findall(r"\b(?:perdure|process|python|up)\w*", query)
    return set().union(*(EXPOSED.get(name, set()) for name in names), OF_SCRAPING)


def test_answers_to_probes_are_no_failures():
    """A region that catches up tells its probes so, and there may be no other requests."""
    (query,) = (rule["expr"] for rule in rules() if rule["alert"] == "PerdureServerErrors")
    left_out = re.findall(r'op!~"([^"]+)"', query)
    assert len(left_out) == query.count("perdure_requests_total")
    for pattern in left_out:
        for method in ("GET", "HEAD"):
            for path in ("/livez", "/readyz"):
                assert re.fullmatch(pattern, operation(method, path, []))
        assert not re.fullmatch(pattern, operation("GET", "/v1/sessions", []))


def test_every_alert_is_explained():
    """Its entry says what you see, what it means and what to do; and there is no other entry."""
    text = EXPLAINED.read_text(encoding="utf-8")
    entries = dict(re.findall(r"^### (\w+)\n(.*?)(?=^#|\Z)", text, re.DOTALL | re.MULTILINE))
    assert list(entries) == [rule["alert"] for rule in rules()]
    for rule in rules():
        entry = entries[rule["alert"]]
        assert f"*{rule['labels']['severity']}*" in entry
        for part in ("What you see", "What it means", "What to do"):
            assert re.search(rf"^- \*\*{part}\.\*\* \S", entry, re.MULTILINE), rule["alert"]


def test_the_dashboard():
    """Every query asks for what there is; panels have a title and a place of their own, and every
    metric that is not of the library's is on it."""
    shown = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    queries = [target["expr"] for panel in panels() for target in panel["targets"]]
    queries += [one["expr"] for one in shown["annotations"]["list"]]
    assert [(query, found) for query in queries if (found := faults(query))] == []
    assert all(panel["title"] and panel["fieldConfig"]["defaults"]["unit"] for panel in panels())
    ids = [panel["id"] for panel in shown["panels"]]
    assert len(ids) == len(set(ids)) > 40
    cells = [cell for panel in shown["panels"] for cell in cells_of(panel["gridPos"])]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24
    asked = " ".join(queries)
    bare = {re.sub(r"_(bucket|count|sum)$", "", name) for name in EXPOSED if "perdure_" in name}
    assert [name for name in sorted(bare) if name not in asked] == []


def cells_of(place: dict[str, int]) -> Iterator[tuple[int, int]]:
    """The squares of the dashboard's grid that a panel takes."""
    for x in range(place["x"], place["x"] + place["w"]):
        yield from ((x, y) for y in range(place["y"], place["y"] + place["h"]))


def test_legends_name_labels_that_there_are():
    """What a legend puts in braces is a label of the query's series."""
    for panel in panels():
        for target in panel["targets"]:
            for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
                assert label in labels_of(target["expr"]), (panel["title"], label)


@pytest.mark.parametrize(
    "query",
    [
        "sum(rate(perdure_tokens_total[5m])",
        "perdure_tokens",
        'perdure_errors_total{kode="internal"}',
        'perdure_errors_total{code="intern"}',
        "sum by (session) (rate(perdure_tokens_total[5m]))",
        "perdure_sessions / on (subject) perdure_readers",
    ],
)
def test_wrong_queries_are_found(query):
    """The check can fail: on what does not parse, and on names, labels and values there are not."""
    assert faults(query)
