"""The container file: nothing builds it here, so what it names is held against what there is."""

import json
import re
import tomllib
from functools import cache
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from urllib.error import HTTPError

import pytest
from perdure.api.edge import OPEN_PATHS

from tests.deploy.chart import ROOT
from tests.deploy.files import ignored, needs, text

pytestmark = needs("dockerfile")
NAME = "container/Containerfile"


@cache
def lines():
    """The file's instructions, as Docker's own parser takes them."""
    import dockerfile

    return dockerfile.parse_string(text(NAME))


def of(command):
    return [line for line in lines() if line.cmd == command]


def final():
    """The instructions of the last stage."""
    last = max(number for number, line in enumerate(lines()) if line.cmd == "FROM")
    return lines()[last:]


def copied():
    """What is copied from the sources: (from, to)."""
    pairs = []
    for line in of("COPY"):
        if not line.flags:
            pairs += [(source, line.value[-1]) for source in line.value[:-1]]
    return pairs


def test_what_is_copied_is_there():
    """Every source of a copy exists, and the list of what the build may see lets it through."""
    assert len(copied()) > 8
    for source, _ in copied():
        path = ROOT / source
        assert path.exists(), source
        files = [path] if path.is_file() else list(path.glob("*.py")) or list(path.glob("*.*"))
        assert [f for f in files if ignored(f)] == []


def test_wheels_can_be_built_from_it():
    """All that the packages of the project are made of is copied to where they look for it."""
    targets = {target.strip("./") for _, target in copied()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    folders = set(project["tool"]["setuptools"]["package-dir"].values())
    assert folders | {"sdk/python"} <= targets
    for name in (project["project"]["readme"], *project["project"]["license-files"]):
        assert name in {source for source, _ in copied()}


@pytest.mark.parametrize(
    "name",
    [
        *(
            ".git/config",
            ".data/dev/secret",
            "deploy/compose/secrets/jwt-secret",
            "tests/seeded.py",
        ),
        *("sdk/javascript/react.js", "sdk/python/tests/test_x.py", "api/__pycache__/app.pyc"),
    ],
)
def test_what_stays_outside(name):
    """Secrets, data, history and tests do not even reach the build."""
    assert ignored(ROOT / name)


def test_both_lists_are_the_same():
    """Docker and Podman leave out the same."""
    lists = [(ROOT / name).read_text() for name in (".dockerignore", ".containerignore")]
    assert lists[0] == lists[1]


def test_final_stage():
    """Nothing is built in it, nobody is root, and the versions are those of ``constraints.txt``."""
    assert {line.value[0] for line in of("FROM")} == {"${BASE}"}
    (user,) = [line for line in final() if line.cmd == "USER"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user.value[0]), "a number, for runAsNonRoot"
    ran = " ".join(" ".join(line.value) for line in final() if line.cmd == "RUN")
    assert "pip" not in ran
    assert "apt" not in ran
    (build,) = [line for line in of("RUN") if line not in final()]
    install = build.value[0].rpartition("install")[2]
    assert "--constraint constraints.txt" in install
    assert "--only-binary :all:" in install


def test_user_is_the_one_of_compose_and_chart():
    """The user who owns the volume is the same everywhere."""
    (user,) = [line.value[0] for line in final() if line.cmd == "USER"]
    number = user.partition(":")[0]
    assert f'user: "{user}"' in text("compose/compose.yaml")
    assert f"chown {user}" in text("compose/make-secrets")
    assert f"runAsUser: {number}" in text("helm/perdure/templates/statefulset.yaml")


def test_labels():
    """The image says what it is, in the words of OCI; the version is the project's."""
    labels = next(line.value for line in final() if line.cmd == "LABEL")
    names = set(labels[::2])
    assert {f"org.opencontainers.image.{n}" for n in ("title", "licenses", "version")} <= names
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"ARG VERSION={project['version']}\n" in text(NAME)


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(self.server.status if self.path in OPEN_PATHS else 404)
        self.end_headers()

    def log_message(self, *arguments):
        """Say nothing."""


def test_health_check(monkeypatch):
    """The check's program ends well where the region answers, and not where it says that it is not
    well; the path that it asks for by itself is one that needs no grant."""
    (check,) = of("HEALTHCHECK")
    program = json.loads(check.original.partition("CMD ")[2])
    assert program[:2] == ["python", "-c"]
    assert "HEALTH_URL=http://127.0.0.1:7101/livez" in text(NAME)
    server = HTTPServer(("127.0.0.1", 0), Answer)
    Thread(target=server.serve_forever, daemon=True, kwargs={"poll_interval": 0.01}).start()
    monkeypatch.setenv("HEALTH_URL", f"http://127.0.0.1:{server.server_port}/livez")
    try:
        server.status = 200
        exec(program[2], {})
        server.status = 503
        with pytest.raises(HTTPError, match="503"):
            exec(program[2], {})
    finally:
        server.shutdown()
        server.server_close()
