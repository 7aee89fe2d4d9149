"""The chart as it is rendered: by Go's own templates, with the functions of Sprig and without Helm.

The chart keeps to what both have; ``python -m tests.deploy.against_helm`` shows that Helm makes
the same of it.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft7Validator

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm/perdure"
EXAMPLES = sorted((DEPLOY / "helm/examples").glob("*.yaml"))
# With what Go's templates have by themselves, all that the chart may call.
FUNCTIONS = {"printf", "quote", "required", "toYaml", "nindent", "trim", "trimSuffix", "trunc"}
WORDS = {"define", "template", "if", "else", "end", "range"}

Values = dict[str, Any]


class ChartRefused(Exception):
    """The schema of the values, or the chart itself, says no."""


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def merged(defaults: Values, given: Values) -> Values:
    """As Helm merges: maps by key, all else as a whole."""
    result = dict(defaults)
    for key, value in given.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result


def checked(given: Values) -> Values:
    """All values, where the schema takes them."""
    values = merged(load(CHART / "values.yaml"), given)
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    faults = [
        f"{'.'.join(map(str, e.path))}: {e.message}"
        for e in Draft7Validator(schema).iter_errors(values)
    ]
    if faults:
        raise ChartRefused("; ".join(faults))
    return values


def context(given: Values, release: str = "perdure") -> Values:
    """What templates see."""
    described = load(CHART / "Chart.yaml")
    return {
        "Values": checked(given),
        "Release": {"Name": release, "Namespace": "ns", "Service": "Helm"},
        "Chart": {"Name": described["name"], "Version": described["version"]}
        | {"AppVersion": described["appVersion"]},
    }


# The engine ends its process where a template fails, so it gets one of its own.
ENGINE = """
import json, pathlib, sys
import go_template
job = json.load(sys.stdin)
made = {name: go_template.render(pathlib.Path(path), job["data"]) for name, path in job["files"]}
json.dump({name: text.decode() for name, text in made.items()}, sys.stdout)
"""


def rendered(given: Values, folder: Path, release: str = "perdure") -> dict[str, str]:
    """The text of each template. ``folder`` is for what the engine reads."""
    names = (CHART / "templates/_names.tpl").read_text(encoding="utf-8")
    files = {}
    for path in sorted((CHART / "templates").glob("[!_]*")):
        whole = folder / path.name
        whole.write_text(names + path.read_text(encoding="utf-8"), encoding="utf-8")
        files[path.name] = str(whole)
    job = json.dumps({"data": context(given, release), "files": list(files.items())})
    command = [sys.executable, "-c", ENGINE]
    done = subprocess.run(command, input=job, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ChartRefused(done.stderr)
    made: dict[str, str] = json.loads(done.stdout)
    return made


def objects(given: Values, folder: Path, release: str = "perdure") -> list[Values]:
    """What would be made in Kubernetes."""
    texts = rendered(given, folder, release)
    return [
        document
        for name, text in texts.items()
        if name.endswith(".yaml")
        for document in yaml.safe_load_all(text)
        if document
    ]


def calls(text: str) -> set[str]:
    """The words of a template that are functions or keywords."""
    found = set()
    for action in re.findall(r"\{\{-?(.*?)-?\}\}", text, re.DOTALL):
        if action.strip().startswith("/*"):
            continue
        bare = re.sub(r"\"[^\"]*\"", " ", action)
        found |= set(re.findall(r"(?<![\w.$])[a-zA-Z]\w*", bare))
    return found
