"""The benchmark measures what it says: every row comes out, of real regions, and nothing is wrong.
How fast it was is nobody's business here."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
GROUPS = {
    *("append", "latency", "fanout", "resume", "memory", "presence", "token", "start"),
    *("encryption", "fairness"),
}


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    """A short look at every row."""
    command = [sys.executable, "-m", "tests.bench", "--quick", "--json"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_every_row_is_there(measured: dict[str, Any]) -> None:
    """With figures that are more than nothing, and with a verdict where there is an aim."""
    rows = {row["name"]: row for row in measured["rows"]}
    assert len(rows) == len(measured["rows"]) >= 30
    assert {name.split("-")[0] for name in rows} == GROUPS
    for name, row in rows.items():
        costs = [v for n, v in row["figures"].items() if n.endswith(("_us_per_token", "per_s"))]
        assert all(cost > 0 for cost in costs), name
        assert (row["met"] is None) == (row["aim"] == ""), name


def test_no_reader_got_anything_wrong(measured: dict[str, Any]) -> None:
    """Each reader's text was complete and in order while it was measured; a long message came in
    one event."""
    checked = [row["figures"]["wrong"] for row in measured["rows"] if "wrong" in row["figures"]]
    assert len(checked) >= 7 and not any(checked)
    (resumed,) = (row for row in measured["rows"] if row["name"].startswith("resume"))
    assert resumed["figures"]["events"] == 1


def test_it_says_where_it_was_measured(measured: dict[str, Any]) -> None:
    """Figures mean nothing without the machine, the versions and the commit."""
    about = measured["machine"]
    assert about.keys() >= {"cpu", "cores", "kernel", "python", "packages", "commit", "date"}


def test_a_group_that_is_unknown_is_refused() -> None:
    """With the names that there are."""
    command = [sys.executable, "-m", "tests.bench", "--only", "speed"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2 and "latency" in done.stderr
