"""What was measured, as it is kept: ``docs/performance.json``, and the page and the plots that are
made from it and from ``performance.md.in`` alone."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.bench.accounting import ROOT
from tests.bench.plots import Bar, bars

DOCS = ROOT / "docs"
KEPT, PAGE, PICTURES = "performance.json", "PERFORMANCE.md", "pictures"
TEMPLATE = Path(__file__).parent / "performance.md.in"
UNMEASURED = "*not measured*"
FIELD = re.compile(r"\{\{([^{}]+)\}\}")
MISSED = re.compile(r"^\{\{missed ([\w-]+)\}\}\n(.*?)^\{\{end\}\}\n", re.DOTALL | re.MULTILINE)
MODES = {
    "post": "one token a POST",
    "post20": "20 tokens a POST",
    "stream": "one token a line of stream",
    "stream20": "20 tokens a line of stream",
    "streams": "many streams, a token a line",
}


class Unknown(ValueError):
    """The template asks for what no row has."""


def number(value: float) -> str:
    """Three digits that count."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def empty() -> dict[str, Any]:
    """Nothing measured yet."""
    return {"runs": {}, "rows": []}


def load(folder: Path = DOCS) -> dict[str, Any]:
    """What is kept."""
    path = folder / KEPT
    if not path.exists():
        return empty()
    kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return kept


def merged(
    kept: dict[str, Any],
    about: dict[str, str],
    measured: dict[str, list[dict[str, Any]]],
    groups: list[str],
) -> dict[str, Any]:
    """What is kept, with the rows of the groups that were measured in the place of theirs. Each row
    names its run; runs of which no row is left are dropped. ``groups``: all there are, in order."""
    run = f"{about['commit']}, {about['date']}"
    rows: list[dict[str, Any]] = []
    for group in groups:
        if group in measured:
            rows += [{"group": group, **row, "run": run} for row in measured[group]]
        else:
            rows += [row for row in kept["rows"] if row["group"] == group]
    named = {row["run"] for row in rows}
    runs = {**kept["runs"], run: about}
    return {"runs": {name: runs[name] for name in runs if name in named}, "rows": rows}


def write(kept: dict[str, Any], folder: Path = DOCS) -> None:
    """Keep it, and make the page and the plots anew."""
    (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    text = json.dumps(kept, indent=1, ensure_ascii=False) + "\n"
    (folder / KEPT).write_text(text, encoding="utf-8")
    for name, content in made(kept).items():
        (folder / name).write_text(content, encoding="utf-8")


def made(kept: dict[str, Any], template: str | None = None) -> dict[str, str]:
    """The page and the plots, by their path below the folder. Raises :class:`Unknown`."""
    text = TEMPLATE.read_text(encoding="utf-8") if template is None else template
    files = {f"{PICTURES}/performance-{name}.svg": svg for name, svg in plots(kept).items()}
    return {PAGE: page(kept, text), **files}


def page(kept: dict[str, Any], template: str) -> str:
    """The template with the figures. Raises :class:`Unknown` for what it asks of a row that has no
    such figure; a row that is not there is told as not measured."""
    rows = {row["name"]: row for row in kept["rows"]}
    explained = set()

    def short(block: re.Match[str]) -> str:
        explained.add(block[1])
        row = rows.get(block[1])
        return block[2] if row is not None and row["met"] is False else ""

    text = MISSED.sub(short, template)
    others = [
        f"- `{name}`: {told(row)} (aim: {row['aim']}).\n"
        for name, row in rows.items()
        if row["met"] is False and name not in explained
    ]

    def field(found: re.Match[str]) -> str:
        match found[1].split(" "):
            case ["runs"]:
                return "\n".join(runs(kept))
            case ["saturated"]:
                full = {name: row["saturated"] for name, row in rows.items() if row["saturated"]}
                return ", ".join(f"{name} ({', '.join(of)})" for name, of in full.items()) or "none"
            case ["rows"]:
                return table(kept)
            case ["others", "missed"]:
                return "".join(others)
            case [name]:
                return value(rows, name)
        raise Unknown(found[0])

    return FIELD.sub(field, text)


def value(rows: dict[str, Any], name: str) -> str:
    """A figure, ``row.figure``, or what was aimed at, ``row.aim``, or whether it was met. Raises
    :class:`Unknown`."""
    row, _, what = name.rpartition(".")
    if not row:
        raise Unknown(name)
    if row not in rows:
        return UNMEASURED if what not in ("aim", "verdict") else ""
    found = rows[row]
    if what == "aim":
        return str(found["aim"])
    if what == "verdict":
        return {None: "", True: "met", False: "**missed**"}[found["met"]]
    if what not in found["figures"]:
        raise Unknown(f"{row} has no {what}, but {', '.join(found['figures'])}")
    return number(found["figures"][what])


def runs(kept: dict[str, Any]) -> Iterator[str]:
    """When and where it was measured, a line of a table for each run."""
    yield "| run | groups | machine | software | load at its start |"
    yield "|---|---|---|---|---|"
    for name, about in kept["runs"].items():
        groups = dict.fromkeys(row["group"] for row in kept["rows"] if row["run"] == name)
        where = f"{about['cpu']}, {about['cores']} cores, Linux {about['kernel']}"
        software = f"Python {about['python']}; {about['packages']}"
        load = about.get("load", "not noted")
        yield f"| {name} | {', '.join(groups)} | {where} | {software} | {load} |"


def told(row: dict[str, Any]) -> str:
    """The figures of a row."""
    return ", ".join(f"{name} {number(value)}" for name, value in row["figures"].items())


def table(kept: dict[str, Any]) -> str:
    """Every row with all its figures."""
    lines = ["| row | figures | aim | | run |", "|---|---|---|---|---|"]
    for row in kept["rows"]:
        verdict = {None: "", True: "met", False: "**missed**"}[row["met"]]
        full = f" (at its end: {', '.join(row['saturated'])})" if row["saturated"] else ""
        run = row["run"].partition(",")[0]
        lines.append(f"| {row['name']} | {told(row)}{full} | {row['aim']} | {verdict} | {run} |")
    return "\n".join(lines)


def plots(kept: dict[str, Any]) -> dict[str, str]:
    """The plots, by name."""
    rows = {row["name"]: row["figures"] for row in kept["rows"]}
    appends = [
        Bar(f"{words}, {n} in flight", cost, f"{number(cost)} µs", _aim(mode, n))
        for mode, words in MODES.items()
        for n in (1, 32, 64)
        if (cost := rows.get(f"append-{mode}-{n}-in-flight", {}).get("server_us_per_token"))
    ]
    latencies = []
    for place, words in (("same-region", "here"), ("other-region", "in another region")):
        for name, figures in rows.items():
            if found := re.fullmatch(rf"latency-{place}-(\d+)-readers", name):
                count = int(found[1])
                who = "reader" if count == 1 else "readers"
                for part in ("p50", "p99"):
                    ms = figures[f"sent_{part}_ms"]
                    label = f"{count:,} {who} {words}, {part}"
                    latencies.append(Bar(label, ms, f"{number(ms)} ms"))
    growth = [
        Bar(f"{what} {int(found[1]):,}{of}", cost, f"{number(cost)} µs")
        for pattern, what, of in (
            (r"token-at-length-(\d+)", "a message of length", ""),
            (r"token-at-(\d+)-sessions", "a region with", " sessions"),
        )
        for name, figures in rows.items()
        if (found := re.fullmatch(pattern, name))
        for cost in (figures["server_us_per_token"],)
    ]
    return {
        "appends": bars("CPU of the accepting region, a token", "µs, the mark is the aim", appends),
        "latency": bars("From sent to a reader has it", "ms, 20 tokens a second", latencies),
        "growth": bars("A token as messages and regions grow", "µs of CPU", growth),
    }


def _aim(mode: str, in_flight: int) -> float | None:
    aims = {"post": 60.0, "stream": 15.0}
    return aims.get(mode) if in_flight == 32 else None
