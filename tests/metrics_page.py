"""``python -m tests.metrics_page``: the tables of docs/operating/metrics.md anew, from the code."""

import re
from collections.abc import Iterator
from pathlib import Path

from perdure.api.metrics import Metrics
from perdure.regions.clock import SystemClock, SystemEntropy
from perdure.regions.node import Node
from prometheus_client.metrics_core import Metric

from tests.regions.memory_storage import MemoryStorage

PAGE = Path(__file__).parents[1] / "docs/operating/metrics.md"
_TABLE = re.compile(r"(<!-- (\w+) -->\n).*?(\n<!-- end -->)", re.DOTALL)


def metrics() -> Metrics:
    """Those of a region that has just begun, with two peers."""
    node = Node(
        "eu", MemoryStorage(), SystemClock(), SystemEntropy(), secret=b"s" * 32, peers=["us"]
    )
    node.recover()
    return Metrics(node, "1")


def _own() -> Iterator[list[str]]:
    for family in metrics().families():
        total = "_total" if family.kind == "counter" else ""
        labels = ", ".join(f"`{label}`" for label in family.labels)
        yield [f"`perdure_{family.name}{total}`", family.kind, labels, family.text]


def _process() -> Iterator[list[str]]:
    found: list[Metric] = [m for m in metrics().collect() if not m.name.startswith("perdure_")]
    for metric in found:
        total = "_total" if metric.type == "counter" else ""
        names = sorted({name for sample in metric.samples for name in sample.labels})
        labels = ", ".join(f"`{name}`" for name in names)
        yield [f"`{metric.name}{total}`", metric.type, labels, metric.documentation.rstrip(".")]


def page() -> str:
    """The page with the tables as they should be."""
    made = {"own": _own, "process": _process}

    def table(match: re.Match[str]) -> str:
        rows = ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
        rows += [f"| {' | '.join(row)} |" for row in made[match[2]]()]
        return match[1] + "\n".join(rows) + match[3]

    return _TABLE.sub(table, PAGE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
