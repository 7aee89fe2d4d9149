"""What is installed from the distributions, and the versions that everything is tested with."""

import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
FOLDERS = ("replication", "regions", "api", "page")
# Of the JavaScript client, what goes into the service: the page of the demo imports it.
BROWSER = "sdk/javascript/perdure.js"
# What is no source; a cache of one's own would otherwise be taken for something to be packed.
MADE = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "dist", "tests")


def project(folder: str = ".") -> dict[str, Any]:
    """A ``pyproject.toml``."""
    return tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))


class Built(NamedTuple):
    """What a folder's distributions hold."""

    wheel: Path
    files: set[str]
    archived: set[str]

    @property
    def packed(self) -> set[str]:
        """The wheel without its own description."""
        return {name for name in self.files if ".dist-info/" not in name}


def build(sources: Path, out: Path) -> Built:
    """Build the archive of the sources, and the wheel out of that archive."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(sources)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = out.glob("*.whl")
    (archive,) = out.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as opened:
        files = set(opened.namelist())
    with tarfile.open(archive) as opened_archive:
        archived = {name.partition("/")[2] for name in opened_archive.getnames()}
    return Built(wheel, files, archived)


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Built:
    """The service's distributions, built from a copy of what they are made of and of the tests."""
    sources = tmp_path_factory.mktemp("service")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, sources / name, ignore=MADE)
    (sources / BROWSER).parent.mkdir(parents=True)
    shutil.copy(ROOT / BROWSER, sources / BROWSER)
    # Small stand-ins for what must stay outside.
    outside = ("perdure_client/x.py", "../javascript/README.md", "../javascript/react.js")
    for name in (
        "tests/regions/test_x.py",
        "docs/x.md",
        *(f"sdk/python/{name}" for name in outside),
    ):
        (sources / name).parent.mkdir(parents=True, exist_ok=True)
        (sources / name).touch()
    return build(sources, tmp_path_factory.mktemp("service-out"))


@pytest.fixture(scope="module")
def client(tmp_path_factory) -> Built:
    """The Python client's distributions."""
    sources = tmp_path_factory.mktemp("client") / "python"
    shutil.copytree(ROOT / "sdk/python", sources, ignore=MADE)
    return build(sources, tmp_path_factory.mktemp("client-out"))


def sources_in(folder: str) -> set[str]:
    """All files below a folder that belong into a wheel: modules and data."""
    paths = (path for path in (ROOT / folder).rglob("*") if path.is_file())
    return {
        str(path.relative_to(ROOT / folder)) for path in paths if "__pycache__" not in path.parts
    }


def test_wheel_of_the_service(service):
    """It holds every file of the folders, and the JavaScript client, as ``perdure/…``, and nothing
    else."""
    expected = {f"perdure/{folder}/{name}" for folder in FOLDERS for name in sources_in(folder)}
    expected.add("perdure/browser/perdure.js")
    assert service.packed == expected
    for name in ("api/py.typed", "replication/py.typed", "regions/py.typed"):
        assert f"perdure/{name}" in service.packed
    assert "perdure/regions/demo_answer.md" in service.packed
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in service.files)


def test_wheel_of_the_client(client):
    """It holds every file of the client's package, and nothing else."""
    expected = {f"perdure_client/{name}" for name in sources_in("sdk/python/perdure_client")}
    assert client.packed == expected
    assert "perdure_client/py.typed" in client.packed


def test_archives(service, client):
    """The archives of the sources suffice to build from: the wheels were made from them."""
    assert {"pyproject.toml", "README.md", "LICENSE", "regions/main.py"} <= service.archived
    assert {"pyproject.toml", "README.md", "perdure_client/client.py"} <= client.archived


def test_installed_command(service, client, tmp_path):
    """Installed from the wheels alone, the command and its data are there."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    target = tmp_path / "installed"
    wheels = [str(service.wheel), str(client.wheel)]
    subprocess.run([*pip, "--target", str(target), *wheels], check=True, capture_output=True)
    script = (target / "bin" / "perdure").read_text()
    assert "from perdure.regions.main import main" in script
    program = (
        "import perdure.regions.main as module, perdure_client, perdure.regions.demo as demo;"
        "import fastapi, perdure.api.page as page; app = fastapi.FastAPI();"
        "page.add_page(app, 'eu', {'eu': 'http://h'}, None);"
        "print(module.__file__); print(perdure_client.__file__); print(len(demo.answer()));"
        "print(len(app.routes))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={"PYTHONPATH": str(target)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    module, package, tokens, routes = done.stdout.split()
    assert module.startswith(str(target))
    assert package.startswith(str(target))
    assert int(tokens) > 100
    assert int(routes) > 10


def test_versions_agree():
    """One version everywhere: projects, what is installed, the JavaScript client, the changelog."""
    version = project()["project"]["version"]
    assert project("sdk/python")["project"]["version"] == version
    script = json.loads((ROOT / "sdk/javascript/package.json").read_text(encoding="utf-8"))
    assert script["version"] == version
    for name in ("perdure", "perdure-client"):
        assert importlib.metadata.version(name) == version
    assert f"perdure-client=={version}" in project()["project"]["dependencies"]
    log = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[(.+?)\]", log, re.MULTILINE)
    assert headings[0] == "Unreleased" or headings[0] == version
    released = [heading for heading in headings if heading != "Unreleased"]
    assert released[:1] in ([], [version])


def test_console_script():
    """``perdure`` is a command, and calls the composition root."""
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="perdure")
    assert entry.value == "perdure.regions.main:main"
    assert callable(entry.load())


def test_classifiers():
    """The Python that is asked for is among those that are named."""
    for folder in (".", "sdk/python"):
        value = project(folder)["project"]
        assert value["requires-python"] == ">=3.11"
        assert "Programming Language :: Python :: 3.11" in value["classifiers"]
    assert sys.version_info[:2] >= (3, 11)


def pins() -> dict[str, Version]:
    """``constraints.txt``; each line is one exact version."""
    found = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        name, pinned, version = line.partition("==")
        assert pinned, f"{line!r} is no exact version"
        assert canonicalize_name(name) not in found, f"{name} is pinned twice"
        found[canonicalize_name(name)] = Version(version)
    return found


def required(name: str, extra: str = "") -> list[Requirement]:
    """What an installed distribution asks for on this Python."""
    asked = map(Requirement, importlib.metadata.requires(name) or [])
    return [r for r in asked if r.marker is None or r.marker.evaluate({"extra": extra})]


def closure() -> dict[str, SpecifierSet]:
    """Every distribution that the project needs, and what all those who need it allow."""
    allowed: dict[str, SpecifierSet] = {}
    waiting = [*required("perdure", "dev"), *required("perdure-client")]
    seen: set[tuple[str, str]] = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        allowed[name] = allowed.get(name, SpecifierSet()) & requirement.specifier
        for extra in ("", *requirement.extras):
            if (name, extra) not in seen:
                seen.add((name, extra))
                waiting += required(name, extra)
    return allowed


def test_constraints_name_the_closure():
    """Whatever is needed has one exact version, and nothing else has."""
    needed = closure().keys() - {"perdure", "perdure-client"}
    assert len(needed) > 40
    assert pins().keys() == needed


def test_constraints_are_what_is_tested():
    """The versions here are those of ``constraints.txt``, and every range allows them."""
    allowed = closure()
    for name, version in pins().items():
        assert importlib.metadata.version(name) == str(version), name
        assert version in allowed[name], f"{name} {version} is not in {allowed[name]}"


def imported() -> set[str]:
    """The top-level names that the product's modules import."""
    text = "\n".join(
        path.read_text(encoding="utf-8") for name in FOLDERS for path in (ROOT / name).glob("*.py")
    )
    return set(re.findall(r"^\s*(?:import|from) (\w+)", text, re.MULTILINE))


def test_dependencies_are_used():
    """Whatever is declared is imported, or named here with the reason that it is not."""
    # uvicorn takes them where they are installed: half the cost of h11, and any WebSocket at all.
    unseen = {"httptools", "websockets"}
    modules = importlib.metadata.packages_distributions()
    owners = {canonicalize_name(d) for name in imported() for d in modules.get(name, ())}
    declared = {
        canonicalize_name(Requirement(d).name) for d in project()["project"]["dependencies"]
    }
    assert declared - owners == unseen
    # An extra: nothing of it is imported without its flag. Its distributions share a namespace.
    extra = project()["project"]["optional-dependencies"]["otel"]
    sharing = {canonicalize_name(d) for d in modules["opentelemetry"]}
    assert {canonicalize_name(Requirement(d).name) for d in extra} <= sharing <= owners
    assert owners - declared - sharing == {"perdure"}
