"""Lines of the log have as fields what they are about: session, run, peer, trace."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

from perdure.regions.log_lines import JsonLines

# What a text of a log line is about, and the field that says so.
ABOUT = (
    (re.compile(r"session %s|socket failed|frame failed|stream failed"), "session"),
    (re.compile(r"link (with|to|from) %s|comparison with %s|log of %s"), "peer"),
    (re.compile(r"%r failed"), "session"),
)


def calls_of_logs() -> Iterator[tuple[str, str, bool]]:
    """Every line that is logged: where, its text, and whether it has fields."""
    root = Path(__file__).parents[2]
    for path in sorted([*root.glob("regions/*.py"), *root.glob("api/*.py")]):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and re.match(
                    r"log\.(debug|info|warning|error|exception|critical)$", ast.unparse(node.func)
                ):
                    text = ast.unparse(node.args[0])
                    # A long text stands on the line before.
                    text = ast.unparse(function) if text == "text" else text
                    fields = any(keyword.arg == "extra" for keyword in node.keywords)
                    yield f"{path.name}:{node.lineno}", text, fields


def test_lines_say_what_they_are_about() -> None:
    """A line about a session or a peer has it as a field, in the whole program."""
    found = list(calls_of_logs())
    about = [(where, has) for where, text, has in found if any(r.search(text) for r, _ in ABOUT)]
    assert len(found) > 20 and len(about) >= 12
    assert [where for where, has in about if not has] == []


async def test_a_failure_says_its_place(region, lane, monkeypatch, caplog) -> None:
    """What goes wrong with a request names session and run as the regions call them, and the trace
    that the request is a part of."""

    def broken(*_: object) -> None:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(region.node, "run", broken)
    monkeypatch.setattr(region.node, "append", broken)
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    headers = [("traceparent", trace), *lane.headers(0)]
    reply = await region.json("POST", f"{lane.path}/tokens", {"tokens": ["a"]}, headers)
    assert reply.status == 500
    (first,) = [record for record in caplog.records if record.levelname == "ERROR"]
    told = json.loads(JsonLines("eu").format(first))
    assert (told["session"], told["trace"], told["region"]) == ("s", "a" * 32, "eu")
    assert "run" not in told
    caplog.clear()
    assert (await region.request("GET", "/v1/sessions/s/runs/r1")).status == 500
    (second,) = [record for record in caplog.records if record.name == "perdure.api"]
    told = json.loads(JsonLines("eu").format(second))
    assert (told["session"], told["run"]) == ("s", "r1")
