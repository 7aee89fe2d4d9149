"""Does Helm make of the chart what the tests make of it? ``python -m tests.deploy.against_helm``.

It needs ``helm-python-sdk`` (Helm's own code as a library), too large for everybody's set-up:
``python -m venv V && V/bin/pip install helm-python-sdk PyYAML jsonschema py-go-template``.
"""

import sys
import tempfile
from pathlib import Path

import helm_python
import yaml

from tests.deploy.chart import CHART, EXAMPLES, load, objects


def main() -> int:
    """Compare all examples; the exit code."""
    wrong = 0
    for path in EXAMPLES:
        given = load(path)
        with helm_python.Chart.load(str(CHART)) as chart, tempfile.TemporaryDirectory() as folder:
            texts = chart.render(given, name="perdure", namespace="ns")
            by_helm = [
                document
                for name, text in sorted(texts.items())
                if name.endswith(".yaml")
                for document in yaml.safe_load_all(text)
                if document
            ]
            equal = by_helm == objects(given, Path(folder))
        findings = helm_python.lint(str(CHART), given)
        print(f"{path.name}: {len(by_helm)} objects, {'the same' if equal else 'DIFFERENT'};")
        print(f"  lint: {findings['errors'] or 'no errors'} {findings['messages']}")
        wrong += not equal or bool(findings["errors"])
    print("Helm", helm_python.helm_sdk_version())
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
