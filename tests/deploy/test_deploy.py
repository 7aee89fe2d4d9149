"""All of ``deploy/``: flags that there are, texts that are well-formed, and its guide."""

import re

import pytest
import yaml
from perdure.regions.allowances import DEFAULTS, parse_limits
from perdure.regions.main import main
from yamllint import linter
from yamllint.config import YamlLintConfig

from tests.deploy.chart import DEPLOY, EXAMPLES, ROOT, load, objects
from tests.deploy.files import flags, needs, text, tracked

GUIDE = (ROOT / "docs/operating/deployment.md").read_text(encoding="utf-8")
_RULES = (
    "{{extends: default, rules: {{line-length: {{max: {}}}, document-start: disable, braces: "
    "{{max-spaces-inside: 1}}, octal-values: enable, truthy: {{check-keys: false}}}}}}"
)
LINT = YamlLintConfig(_RULES.format(125))
# Alerts have sentences for people in them.
LINT_ALERTS = YamlLintConfig(_RULES.format(400))


def served(folder):
    """Everything in ``deploy/`` and its guide that ``perdure serve`` is started with."""
    for service in yaml.safe_load(text("compose/compose.yaml"))["services"].values():
        yield from service.get("command", [])
    for path in EXAMPLES:
        for made in objects(load(path), folder):
            if made["kind"] == "StatefulSet":
                yield from made["spec"]["template"]["spec"]["containers"][0]["args"]
    for name in ("nginx.conf", "Caddyfile", "haproxy.cfg"):
        (regions,) = re.findall(r"Of the regions: (.*)", text(f"proxy/{name}"))
        yield regions
    yield from re.findall(r"^PERDURE_ARGS=(.*)$", GUIDE, re.MULTILINE)
    yield from re.findall(r"perdure:\S+ serve (.*?)\n```", GUIDE, re.DOTALL)


@needs("go_template")
def test_flags(capsys, tmp_path):
    """Every flag that a region is started with is one that it has, and every limit too."""
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    known = flags(capsys.readouterr().out)
    all_given = list(served(tmp_path))
    given = flags(" ".join(all_given))
    assert {"--region", "--peer", "--trusted-proxy", "--ops-port", "--bootstrap"} <= given
    assert given - known == set()
    limits = [
        argument.removeprefix("--limit=")
        for argument in all_given
        if argument.startswith("--limit=")
    ]
    assert limits
    assert parse_limits(limits, DEFAULTS) != DEFAULTS


def test_files_are_well_formed():
    """YAML is linted; no file has a tab where there are spaces, or an end that is not one."""
    for path in tracked():
        written = path.read_text(encoding="utf-8")
        assert written.endswith("\n"), path
        if path.name != "Caddyfile":
            assert "\t" not in written, path
        if path.suffix in (".yaml", ".yml") and path.parent.name != "templates":
            lint = LINT_ALERTS if path.parent.name == "monitoring" else LINT
            assert [str(problem) for problem in linter.run(written, lint)] == [], path


def test_guide_names_everything():
    """What is in ``deploy/`` is in the guide; the files and ports that this names are there."""
    for path in DEPLOY.iterdir():
        if path.is_dir() and path.name != "monitoring":
            assert f"deploy/{path.name}" in GUIDE, path.name
    for name in re.findall(r"\bdeploy/[\w./-]*\w", GUIDE):
        assert (ROOT / name).exists(), name
    assert re.findall(r"\*\*(\d+)\*\* for", GUIDE)[:2] == ["7101", "7201"]
    (exposed,) = re.findall(r"^EXPOSE (.*)$", text("container/Containerfile"), re.MULTILINE)
    assert exposed.split() == ["7101", "7201", "7301"]
    assert "**7301**" in GUIDE
