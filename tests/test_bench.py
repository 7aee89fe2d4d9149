"""The benchmark measures what it says: every row comes out, of real regions, and nothing is wrong.
How fast it was is nobody's business here."""

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from tests.bench import report
from tests.bench.__main__ import GROUPS as GROUP_NAMES
from tests.bench.plots import Bar, bars

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
    assert about.keys() >= {*ABOUT, "commit", "date"}


def kept() -> dict[str, Any]:
    return report.load()


def test_the_page_is_what_was_measured() -> None:
    """PERFORMANCE.md and its plots are what is made from the JSON that is kept; and whatever the
    benchmark measures has its row there."""
    for name, text in report.made(kept()).items():
        assert (report.DOCS / name).read_text(encoding="utf-8") == text, "make bench ARGS=--page"
    assert {row["group"] for row in kept()["rows"]} == GROUP_NAMES.keys()


def test_the_template_asks_for_rows_that_there_are(measured: dict[str, Any]) -> None:
    """Figures are named as the benchmark names them: those of a quick look have the same names, but
    for their sizes."""

    def sized(name: str) -> str:
        return re.sub(r"\d+", "N", name)

    figures: dict[str, set[str]] = {}
    for row in measured["rows"]:
        figures.setdefault(sized(row["name"]), set()).update(row["figures"])
    asked = re.findall(r"\{\{([\w-]+)\.(\w+)\}\}", report.TEMPLATE.read_text(encoding="utf-8"))
    assert len(asked) > 100
    for name, what in asked:
        assert what in figures[sized(name)] | {"aim", "verdict"}, name


ROW = {"figures": {"us": 41.234}, "aim": "≤ 15 µs", "met": False, "saturated": []}
ABOUT = dict.fromkeys(("cpu", "cores", "kernel", "python", "packages", "load"), "x")


def then(before: dict[str, Any], commit: str, **groups: list[str]) -> dict[str, Any]:
    """What is kept after another run, of these groups with these rows."""
    rows = {group: [{"name": name, **ROW} for name in names] for group, names in groups.items()}
    about = {**ABOUT, "commit": commit, "date": "today"}
    return report.merged(before, about, rows, ["a", "b", "c"])


def test_a_part_that_is_measured_again_takes_the_place_of_that_part() -> None:
    """With its own run; other rows keep theirs, and a run of which nothing is left goes."""
    now = then(then(report.empty(), "1", a=["x"], b=["y"]), "2", b=["y", "z"])
    assert [(row["name"], row["run"]) for row in now["rows"]] == [
        *(("x", "1, today"), ("y", "2, today"), ("z", "2, today")),
    ]
    last = then(now, "3", a=["x"], c=["w"])
    assert [row["name"] for row in last["rows"]] == ["x", "y", "z", "w"]
    assert last["runs"].keys() == {"2, today", "3, today"}


def test_what_the_page_says_of_a_row() -> None:
    """Its figures, its aim, that it was missed and why; of a row that is not there, that it was not
    measured; and a figure that no row has is an error."""
    kept = then(report.empty(), "1", a=["x", "y"])
    template = "{{x.us}} {{x.aim}} {{x.verdict}} {{gone.us}}\n{{missed x}}\nWhy.\n{{end}}\n"
    assert report.page(kept, template + "{{others missed}}") == (
        "41.2 ≤ 15 µs **missed** *not measured*\nWhy.\n- `y`: us 41.2 (aim: ≤ 15 µs).\n"
    )
    kept["rows"][0]["met"] = True
    assert report.page(kept, template) == "41.2 ≤ 15 µs met *not measured*\n"
    for wrong in ("{{x.ms}}", "{{x}}", "{{what is this}}"):
        with pytest.raises(report.Unknown):
            report.page(kept, wrong)


def test_plots_are_drawn_of_anything() -> None:
    """They are XML, also of nothing; a bar beyond its aim is marked."""
    for found in ([], [Bar("a < b", 0.0, "0")], [Bar("a", 5.0, "5", 1.0), Bar("b", 1e6, "x")]):
        root = ElementTree.fromstring(bars("A & B", "µs", found))  # noqa: S314 (it is our own)
        assert len(root.findall("{*}rect")) == 1 + len(found)
        missed = [each for each in root.iter() if each.get("class") == "missed"]
        assert len(missed) == sum(bar.is_missed for bar in found)


def test_a_group_that_is_unknown_is_refused() -> None:
    """With the names that there are."""
    command = [sys.executable, "-m", "tests.bench", "--only", "speed"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2 and "latency" in done.stderr
