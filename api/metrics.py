"""``/metrics``: a region's metrics in the text formats of OpenMetrics and Prometheus."""

import math
from collections.abc import Iterator

from fastapi import FastAPI, Request, Response
from perdure.api.answers import authority_of, no_query
from perdure.api.metric_families import PREFIX, Family, families
from perdure.regions.meters import Histogram
from perdure.regions.node import Node
from prometheus_client import GCCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry

# What a name ends with that says in what it is measured.
_UNITS = ("seconds", "bytes")


class Metrics(Collector):
    """The metrics of a region, each time they are asked for."""

    def __init__(self, node: Node, version: str) -> None:
        self._node = node
        self._version = version
        # Of this process. Not the registry that the library has for everybody.
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)
        GCCollector(registry=self._process)

    def families(self) -> Iterator[Family]:
        """The region's own."""
        return families(self._node, self._version)

    def collect(self) -> Iterator[Metric]:
        """All of them, for the library to write out."""
        for family in self.families():
            yield _metric(family, self._node.region)
        yield from self._process.collect()

    def render(self, accept: str) -> tuple[bytes, str]:
        """The text in the format that is preferred, and its media type."""
        encode, media_type = choose_encoder(accept)
        # Any object with ``collect`` is a registry to it.
        return encode(self), media_type


def _metric(family: Family, region: str) -> Metric:
    name = PREFIX + family.name
    unit = next((unit for unit in _UNITS if name.endswith(f"_{unit}")), "")
    metric = Metric(name, family.text, family.kind, unit)
    if family.histogram is not None:
        _add_histogram(metric, family.histogram, {"region": region})
    suffix = "_total" if family.kind == "counter" else ""
    for values, value in family.series:
        labels = {"region": region, **dict(zip(family.labels, values, strict=True))}
        metric.add_sample(name + suffix, labels, value)
    return metric


def _add_histogram(metric: Metric, histogram: Histogram, labels: dict[str, str]) -> None:
    count = 0
    for bound, more in zip((*histogram.bounds, math.inf), histogram.counts, strict=True):
        count += more
        bucket = {**labels, "le": "+Inf" if bound == math.inf else str(float(bound))}
        metric.add_sample(f"{metric.name}_bucket", bucket, count)
    metric.add_sample(f"{metric.name}_count", labels, count)
    metric.add_sample(f"{metric.name}_sum", labels, histogram.sum)


def add_metrics(routes: FastAPI, node: Node, version: str) -> None:
    """The route on the clients' port, for operators."""
    metrics = Metrics(node, version)

    @routes.get("/metrics")
    async def show_metrics(request: Request) -> Response:
        """The metrics of this region, as OpenMetrics or in the text format of Prometheus."""
        no_query(request)
        authority_of(request).check_operator()
        text, media_type = metrics.render(request.headers.get("accept", ""))
        return Response(text, headers={"content-type": media_type, "cache-control": "no-store"})
