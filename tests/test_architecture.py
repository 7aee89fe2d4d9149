"""The layers, and the house rules that a machine can check; each check is shown to find faults."""

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# The composition root puts the layers together, and nobody imports it.
COMPOSITION = "regions/main.py"
CLIENT = "sdk/python/perdure_client"

# Which of our own packages each may import.
LAYERS = {
    "replication": {"replication"},
    "regions": {"replication", "regions"},
    "api": {"replication", "regions", "api"},
}
# Where alone a library may be imported; one that is not named here may be imported nowhere.
HOMES = {
    "aiohttp": {
        "regions/transport.py",
        "regions/transport_accepting.py",
        "regions/transport_dialing.py",
        "regions/transport_wire.py",
    },
    "cryptography": {"regions/certificates.py", "regions/cipher.py"},
    "fastapi": {
        "api/admin.py",
        "api/admin_actions.py",
        "api/admin_live.py",
        "api/admin_tail.py",
        "api/admin_page.py",
        "api/answers.py",
        "api/app.py",
        "api/auditing.py",
        "api/life_cycle.py",
        "api/description_page.py",
        "api/documents.py",
        "api/erasure.py",
        "api/exporting.py",
        "api/granting.py",
        "api/metrics.py",
        "api/openapi.py",
        "api/page.py",
        "api/presence.py",
        "api/retaining.py",
        "api/runs.py",
    },
    # doctor_probes.py asks what a client of a region does not.
    # export_command.py: what the client's streams raise when they break.
    "httpx2": {
        "regions/cluster.py",
        "regions/doctor_probes.py",
        "regions/export_command.py",
        "regions/key_sets.py",
    },
    "jwt": {"api/grants.py"},
    # The command line talks to regions as any client does.
    "perdure_client": {
        "regions/audit_command.py",
        "regions/client_command.py",
        "regions/commands.py",
        "regions/console.py",
        "regions/demo.py",
        "regions/demo_agent.py",
        "regions/demo_chat.py",
        "regions/doctor_command.py",
        "regions/doctor_probes.py",
        "regions/operator_commands.py",
        "regions/life_cycle_command.py",
        "regions/publishing.py",
        "regions/watching.py",
        "regions/export_command.py",
        "regions/bringing.py",
        "regions/importing.py",
        "regions/retention_command.py",
    },
    "pycrdt": {
        "replication/document.py",
        "replication/document_value.py",
        "replication/yjs.py",
    },
    "pydantic": {"regions/settings.py", "regions/settings_reading.py"},
    # Only within functions: it is an extra.
    "opentelemetry": {"regions/tracing.py"},
    # For the formats; what is counted, and how, is ours.
    "prometheus_client": {"api/metrics.py"},
    "pydantic_core": {"api/bodies.py"},
    "pydantic_settings": {"regions/settings.py"},
    "sqlalchemy": {
        "regions/erasure_tables.py",
        "regions/free_space.py",
        "regions/image_tables.py",
        "regions/key_record.py",
        "regions/log_tables.py",
        "regions/measures.py",
        "regions/quarantine.py",
        "regions/rekey.py",
        "regions/rewriting.py",
        "regions/storage.py",
        "regions/storage_engine.py",
        "regions/storage_erasing.py",
        "regions/storage_threads.py",
    },
    "starlette": {"api/app.py"},
    "uvicorn": {"regions/serving.py"},
    "uvloop": {COMPOSITION},
    # Of the standard library, what a simulated region gets through its ports.
    "random": set(),
    # cluster.py: the secret of regions that it starts itself and that live as long as it does.
    "secrets": {"regions/clock.py", "regions/cluster.py"},
    # doctor_machine.py measures how long a disk takes, finer than a region's clock.
    "time": {"regions/clock.py", "regions/doctor_machine.py"},
    # backup.py: copies a database that another process has open, and no part of its meaning.
    "sqlite3": {
        "regions/backup.py",
        "regions/database_checks.py",
        "regions/free_space.py",
        "regions/storage_engine.py",
    },
    "uuid": set(),
}
# The environment is read with the settings. cluster.py hands its own on to the processes that it
# starts; client_command.py is a client, and the caller's grant is no setting of a region.
ENVIRONMENT_IN = {
    *("regions/config.py", "regions/cluster.py", "regions/client_command.py"),
    # It is a client too, and looks at the settings.
    *("regions/settings_reading.py", "regions/doctor_command.py"),
    # A client is given its grant there, unless it is told another one.
    *("sdk/python/perdure_client/client.py", "sdk/python/perdure_client/sync/client.py"),
}
# They print the time of day to a person.
CALENDAR_IN = {"regions/commands.py", "regions/watching.py"}
# All that the core may import besides pycrdt: nothing here waits, reads, writes or varies.
PURE = {
    *("base64", "binascii", "bisect", "collections", "dataclasses", "datetime", "enum"),
    *("functools", "hashlib", "heapq", "hmac", "itertools", "json", "math", "operator"),
    *("re", "struct", "types", "typing", "weakref", "zlib"),
}
MODULE_LINES_MAX = 400
# A file of tests is read a test at a time.
TEST_MODULE_LINES_MAX = 900
FUNCTION_LINES_MAX = 60
SLEEPING = (
    "tests/bench/",
    "tests/simulation/",
    "tests/powercut/",
    "tests/chaos/",
    "tests/upgrade/",
    "tests/hotspots/",
)
UNFINISHED = re.compile(r"\b(TOD[O]|FIXM[E]|XX[X])\b")
NAMELESS = {"utils", "util", "helpers", "helper", "common", "manager", "misc"}


def modules(*folders: str) -> dict[str, str]:
    """The text of every module in these folders, by its path."""
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in paths}


PRODUCT = modules(*LAYERS, CLIENT)
TESTS = modules("tests", "sdk/python/tests")


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The lines and dotted names of everything imported, wherever in the module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    """Every call, and what is called as it is written."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def layer_faults(path: str, text: str) -> Iterator[str]:
    """Imports from a layer above, from the composition root, or in other ways than by full name."""
    package = path.split("/")[0]
    for line, name in imports(ast.parse(text)):
        top, *rest = name.split(".")
        if top == "":
            yield f"{path}:{line} {name} is relative"
        elif top in LAYERS:
            yield f"{path}:{line} {name} is imported by its folder"
        elif top == "perdure" and rest[:2] == ["regions", "main"]:
            yield f"{path}:{line} {name}: nobody imports the composition root"
        elif top == "perdure" and path != COMPOSITION and rest[0] not in LAYERS.get(package, ()):
            yield f"{path}:{line} {name} lies in a layer above"


def library_faults(path: str, text: str) -> Iterator[str]:
    """Libraries away from their home, and ones that have none."""
    tree = ast.parse(text)
    if path.startswith("sdk/"):
        return
    for line, name in imports(tree):
        top = name.split(".")[0]
        if top in HOMES:
            if path not in HOMES[top]:
                yield f"{path}:{line} {top} has its home elsewhere"
        elif top != "perdure" and top not in sys.stdlib_module_names:
            yield f"{path}:{line} {top} has no home yet"
    for call, name in calls(tree):
        if name in ("__import__", "import_module", "importlib.import_module"):
            yield f"{path}:{call.lineno} imports what this test cannot see"


def surroundings_faults(path: str, text: str) -> Iterator[str]:
    """The environment and the calendar, read where no port and no setting brings them."""
    tree = ast.parse(text)
    environment = [line for line, name in imports(tree) if name in ("os.environ", "os.getenv")]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.environ", "os.getenv"):
            environment.append(node.lineno)
    if path not in ENVIRONMENT_IN:
        yield from (f"{path}:{line} reads the environment" for line in environment)
    for call, name in calls(tree):
        if re.search(r"\b(date|datetime)\.(now|utcnow|today)$", name) and path not in CALENDAR_IN:
            yield f"{path}:{call.lineno} asks what day it is"


def core_faults(path: str, text: str) -> Iterator[str]:
    """A core that waits, reads, writes or varies."""
    if not path.startswith("replication/"):
        return
    tree = ast.parse(text)
    for line, name in imports(tree):
        if name.split(".")[0] not in PURE | {"perdure", "pycrdt"}:
            yield f"{path}:{line} {name} is not known to be pure"
    for call, name in calls(tree):
        # hash() of a text differs from process to process.
        if name in ("open", "print", "input", "hash", "id"):
            yield f"{path}:{call.lineno} calls {name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith):
            yield f"{path}:{node.lineno} waits"


def size_faults(path: str, text: str) -> Iterator[str]:
    """Modules and functions that do not fit into a head."""
    lines = len(text.splitlines())
    if lines > (TEST_MODULE_LINES_MAX if path in TESTS else MODULE_LINES_MAX):
        yield f"{path} has {lines} lines: has a second noun appeared?"
    for function in functions(ast.parse(text)):
        length = (function.end_lineno or function.lineno) - function.lineno + 1
        if length > FUNCTION_LINES_MAX:
            yield f"{path} {function.name} has {length} lines"


def name_faults(path: str, text: str) -> Iterator[str]:
    """Names of modules that say nothing, and marks of what was left for later."""
    if set(Path(path).stem.split("_")) & NAMELESS:
        yield f"{path} has a name that says nothing"
    for number, line in enumerate(text.splitlines(), 1):
        if UNFINISHED.search(line):
            yield f"{path}:{number} is not finished"


def sleep_faults(path: str, text: str) -> Iterator[str]:
    """Tests that sleep. They pass the clock; letting the loop turn is no sleep. What measures time
    is no test, on the loop of the simulation no time passes, and processes have no other clock."""
    if path.startswith(SLEEPING):
        return
    for call, name in calls(ast.parse(text)):
        if name in ("asyncio.sleep", "time.sleep", "sleep"):
            delay = [*call.args, *(keyword.value for keyword in call.keywords)][0]
            if not (isinstance(delay, ast.Constant) and delay.value == 0):
                yield f"{path}:{call.lineno} sleeps"


def skip_faults(path: str, text: str) -> Iterator[str]:
    """Tests that are skipped, or expected to fail, without a word why."""
    tree = ast.parse(text)
    told = set()
    for call, name in calls(tree):
        words = [keyword.value for keyword in call.keywords if keyword.arg == "reason"]
        if name in ("pytest.skip", "pytest.xfail", "pytest.mark.skip"):
            words += call.args
        if any(not isinstance(word, ast.Constant) or word.value for word in words):
            told.add(call.func)
    for node in ast.walk(tree):
        skips = isinstance(node, ast.Attribute) and node.attr in ("skip", "skipif", "xfail")
        if skips and node not in told and ast.unparse(node).startswith("pytest."):
            yield f"{path}:{node.lineno} does not say why"


def docstring_faults(path: str, text: str) -> Iterator[str]:
    """Tests that do not say what they prove."""
    for function in functions(ast.parse(text)):
        if function.name.startswith("test_") and not ast.get_docstring(function):
            yield f"{path}:{function.lineno} {function.name} does not say what it proves"


Check = Callable[[str, str], Iterator[str]]
OF_PRODUCT: tuple[Check, ...] = (layer_faults, library_faults, surroundings_faults, core_faults)
OF_TESTS: tuple[Check, ...] = (sleep_faults, skip_faults, docstring_faults)


def found(check: Check, texts: dict[str, str]) -> list[str]:
    return [fault for path, text in texts.items() for fault in check(path, text)]


@pytest.mark.parametrize("check", [*OF_PRODUCT, name_faults], ids=lambda check: check.__name__)
def test_product(check):
    """No module of the product breaks the rule, and there are modules to look at."""
    assert len(PRODUCT) > 50
    assert found(check, PRODUCT) == []


@pytest.mark.parametrize("check", [*OF_TESTS, name_faults], ids=lambda check: check.__name__)
def test_tests(check):
    """No test breaks the rule."""
    assert len(TESTS) > 30
    assert found(check, TESTS) == []


def test_sizes():
    """Nothing is too long but what is listed, and nothing is listed that is not too long."""
    faults = found(size_faults, PRODUCT | TESTS)
    assert list(faults) == []


@pytest.mark.parametrize(
    ("check", "path", "text"),
    [
        (layer_faults, "replication/x.py", "from perdure.regions.node import Node"),
        (layer_faults, "replication/x.py", "from perdure import regions"),
        (layer_faults, "regions/x.py", "import perdure.api.app"),
        (layer_faults, "regions/serving.py", "def f():\n    from perdure.api import app"),
        (layer_faults, "api/x.py", "from perdure.regions import main"),
        (layer_faults, "api/x.py", "from perdure.regions.main import main"),
        (layer_faults, "api/x.py", "from .app import create_app"),
        (layer_faults, "api/x.py", "from replication import ids"),
        (layer_faults, f"{CLIENT}/x.py", "from perdure.replication import ids"),
        (library_faults, "regions/x.py", "import sqlalchemy.pool"),
        (library_faults, "regions/x.py", "def f():\n    from aiohttp import web"),
        (library_faults, "regions/x.py", "from fastapi import FastAPI"),
        (library_faults, "replication/x.py", "import pycrdt"),
        (library_faults, "regions/node.py", "from time import monotonic"),
        (library_faults, "regions/node.py", "import random"),
        (library_faults, "regions/main.py", "import secrets"),
        (library_faults, "api/x.py", "import requests"),
        (library_faults, "api/x.py", "import importlib\nimportlib.import_module('time')"),
        (surroundings_faults, "regions/x.py", "import os\nprint(os.environ['A'])"),
        (surroundings_faults, "regions/x.py", "from os import environ"),
        (surroundings_faults, "api/x.py", "import os\nos.getenv('A')"),
        (surroundings_faults, "regions/x.py", "datetime.datetime.now(UTC)"),
        (surroundings_faults, "replication/x.py", "date.today()"),
        (core_faults, "replication/x.py", "import asyncio"),
        (core_faults, "replication/x.py", "from pathlib import Path"),
        (core_faults, "replication/x.py", "async def f(): ..."),
        (core_faults, "replication/x.py", "open('x')"),
        (core_faults, "replication/x.py", "hash('x')"),
        (size_faults, "api/x.py", "\n" * (MODULE_LINES_MAX + 1)),
        (size_faults, "api/x.py", "def f():\n" + "    x = 1\n" * FUNCTION_LINES_MAX),
        (name_faults, "regions/cursor_utils.py", ""),
        (name_faults, "regions/x.py", "# {}: the rest".format("todo".upper())),
        (sleep_faults, "tests/x.py", "import time\ntime.sleep(1)"),
        (sleep_faults, "tests/x.py", "async def f(s):\n    await asyncio.sleep(delay=s)"),
        (sleep_faults, "tests/x.py", "async def f():\n    await sleep(0.01)"),
        (skip_faults, "tests/x.py", "@pytest.mark.skip\ndef test_x(): ..."),
        (skip_faults, "tests/x.py", "@pytest.mark.skipif(True)\ndef test_x(): ..."),
        (skip_faults, "tests/x.py", "@pytest.mark.xfail(reason='')\ndef test_x(): ..."),
        (skip_faults, "tests/x.py", "pytest.skip()"),
        (docstring_faults, "tests/x.py", "async def test_x():\n    assert True"),
    ],
)
def test_what_breaks_a_rule_is_found(check, path, text):
    """Exactly one fault is found in each of these, whatever form it has."""
    assert len(list(check(path, text))) == 1


@pytest.mark.parametrize(
    ("check", "path", "text"),
    [
        (layer_faults, COMPOSITION, "from perdure.api.app import create_app"),
        (layer_faults, "api/x.py", "from perdure.regions.maintenance import x"),
        (sleep_faults, "tests/x.py", "async def f():\n    await asyncio.sleep(0)"),
        (skip_faults, "tests/x.py", "pytest.skip('no /proc here')"),
        (skip_faults, "tests/x.py", "@pytest.mark.skipif(True, reason='no /proc')\ndef f(): ..."),
        (core_faults, "regions/x.py", "import asyncio"),
    ],
)
def test_what_breaks_no_rule_passes(check, path, text):
    """The checks find faults, not forms."""
    assert list(check(path, text)) == []


def test_layout():
    """The top-level folders of the layout are there, and nothing that setup makes is tracked."""
    names = "pyproject.toml README.md Makefile regions replication api tests deploy docs sdk"
    assert [name for name in names.split() if not (ROOT / name).exists()] == []
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    made = (".venv/", ".typing/", ".data/", "build/", "dist/")
    paths = listed.stdout.split()
    assert "Makefile" in paths
    assert [path for path in paths if path.startswith(made) or path.endswith(".pyc")] == []
