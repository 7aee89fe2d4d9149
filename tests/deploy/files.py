"""What the files of ``deploy/`` say, for the tests."""

import os
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.deploy.chart import DEPLOY, ROOT


def needs(module: str) -> pytest.MarkDecorator:
    """Skips what a platform has no wheel for, but where everything must be tried."""
    is_missing = find_spec(module) is None and os.environ.get("CI") != "true"
    return pytest.mark.skipif(is_missing, reason=f"{module} has no wheel for this platform")


# As `perdure serve` is started with, in files of every kind.
_FLAG = re.compile(r"(?<![\w-])--([a-z][a-z-]+)")


def text(name: str) -> str:
    """A file below ``deploy/``."""
    return (DEPLOY / name).read_text(encoding="utf-8")


def tracked() -> Iterator[Path]:
    """Every file below ``deploy/``, but what was made there."""
    for path in sorted(DEPLOY.rglob("*")):
        if path.is_file() and "secrets" not in path.relative_to(DEPLOY).parts[:-1]:
            yield path


def flags(written: str) -> set[str]:
    """All flags in a text."""
    return {f"--{name}" for name in _FLAG.findall(written)}


def ignored(path: Path) -> bool:
    """Whether ``.dockerignore`` keeps a file out of the image's context; its last rule counts."""
    result = False
    relative = path.relative_to(ROOT)
    candidates = [relative, *relative.parents[:-1]]
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        rule = line.strip()
        if not rule or rule.startswith("#"):
            continue
        is_again = rule.startswith("!")
        pattern = _pattern(rule.removeprefix("!"))
        if any(pattern.fullmatch(str(candidate)) for candidate in candidates):
            result = not is_again
    return result


def _pattern(rule: str) -> re.Pattern[str]:
    escaped = re.escape(rule).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
    return re.compile(escaped)
