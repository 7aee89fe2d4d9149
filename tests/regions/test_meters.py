"""What a region counts."""

import pytest
from perdure.regions.meters import OTHER, Counter, Histogram
from perdure.replication.limits import METER_SERIES_MAX


def test_values_beyond_the_limit_are_counted_together():
    """A client that invents values makes no more series than the limit, and nothing is lost."""
    counter = Counter("errors", "", ["code"])
    for number in range(METER_SERIES_MAX + 50):
        counter.add(1, f"code-{number}")
    counter.add(2, "code-0")
    assert len(list(counter.series())) == METER_SERIES_MAX + 1
    assert counter.value(OTHER) == 50
    assert counter.value("code-0") == 3
    assert counter.value() == METER_SERIES_MAX + 52


def test_a_quantile_is_the_bound_that_the_part_does_not_pass():
    """Bounds are inclusive; observations since an earlier look can be had alone."""
    seconds = Histogram("s", "", (0.1, 1.0))
    assert seconds.quantile(0.5) is None
    for value in (0.1, 0.1, 0.5, 7.0):
        seconds.observe(value)
    assert (seconds.quantile(0.5), seconds.quantile(0.75)) == (0.1, 1.0)
    assert seconds.quantile(1.0) == float("inf")
    then = list(seconds.counts)
    seconds.observe(0.5)
    assert seconds.quantile(0.5, then) == 1.0
    assert (seconds.count, seconds.sum) == (5, pytest.approx(8.2))
