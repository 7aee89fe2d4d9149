"""Which tests show which failures, read from the marks in their sources."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
FOLDERS = ("tests", "sdk/python/tests", "sdk/javascript/test")
MARK = "pytest.mark.failure"


class Shown(NamedTuple):
    """A test that shows a failure: where it is, and what it says of itself."""

    failure: str
    test: str
    says: str


def shown(root: Path = ROOT) -> list[Shown]:
    """Every test that names a failure, in the order of their paths. Raises ``ValueError`` for a
    mark that cannot be read without running it."""
    found: list[Shown] = []
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*.py")):
            found += of_python(path.relative_to(root).as_posix(), path.read_text(encoding="utf-8"))
        for path in sorted((root / folder).rglob("*.test.js")):
            found += of_javascript(
                path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")
            )
    return found


def of_python(path: str, text: str) -> Iterator[Shown]:
    """Of one module: marks on functions, on classes around them, and ``pytestmark``."""
    if MARK not in text:
        return
    tree = ast.parse(text)
    yield from _tests(path, tree.body, _assigned(tree.body))


def _tests(path: str, body: list[ast.stmt], outer: list[str], prefix: str = "") -> Iterator[Shown]:
    for node in body:
        if isinstance(node, ast.ClassDef):
            inner = [*outer, *_decorated(node), *_assigned(node.body)]
            yield from _tests(path, node.body, inner, f"{prefix}{node.name}::")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if not node.name.startswith("test_"):
                if _decorated(node):
                    raise ValueError(f"{path}: {node.name} is no test, and has a mark")
                continue
            says = _first_sentence(ast.get_docstring(node) or "")
            for failure in dict.fromkeys([*outer, *_decorated(node)]):
                yield Shown(failure, f"{path}::{prefix}{node.name}", says)


def _decorated(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    return [id_ for mark in node.decorator_list for id_ in _ids(mark)]


def _assigned(body: list[ast.stmt]) -> list[str]:
    """The ids of ``pytestmark = …``."""
    found = []
    for node in body:
        names = [ast.unparse(target) for target in getattr(node, "targets", [])]
        if isinstance(node, ast.Assign) and names == ["pytestmark"]:
            marks = (
                node.value.elts if isinstance(node.value, ast.List | ast.Tuple) else [node.value]
            )
            found += [id_ for mark in marks for id_ in _ids(mark)]
    return found


def _ids(mark: ast.expr) -> list[str]:
    if not isinstance(mark, ast.Call) or ast.unparse(mark.func) != MARK:
        if ast.unparse(mark) == MARK:
            raise ValueError("a mark without ids")
        return []
    ids = [arg.value for arg in mark.args if isinstance(arg, ast.Constant)]
    if len(ids) != len(mark.args) or mark.keywords or not ids:
        raise ValueError(f"the ids of {ast.unparse(mark)} are no plain strings")
    return [str(id_) for id_ in ids]


def of_javascript(path: str, text: str) -> Iterator[Shown]:
    """Of one module: ``// failure: N8`` in the line before ``test("…"``."""
    for ids, name in re.findall(
        r'^// failure: ([A-Z0-9, ]+)\ntest\(\s*"((?:[^"\\]|\\.)*)"', text, re.M
    ):
        for id_ in ids.split(","):
            yield Shown(id_.strip(), path, f"{name[0].upper()}{name[1:]}.")


def _first_sentence(text: str) -> str:
    """The first line of a docstring, to the end of its sentence."""
    joined = " ".join(text.split("\n\n")[0].split())
    found = re.match(r".*?[.!?](?=\s|$)", joined)
    return found.group() if found else joined
