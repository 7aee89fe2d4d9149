"""The pages of the site: the texts of the repository, where they stand, and what they link to."""

import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "docs/zensical.toml"
# Texts that are read by programs, or by nobody alone.
NO_PAGES = {"regions/demo_answer.md"}
# How the texts for operators follow each other; one that is not named here comes after them.
OPERATING = (
    "deployment",
    "life-cycle",
    "backup",
    "command-line",
    "admin-page",
    "admin",
    "metrics",
    "alerts",
)
TITLES = {
    "command-line": "Command line",
    "life-cycle": "Life cycle",
    "alerts": "Failure guide",
    "admin": "Administration",
    "admin-page": "Page for operators",
}
FENCE = re.compile(r"^\s*(```|~~~)")
ITEM = re.compile(r"^( *)([-*]|\d+\.) +\S")


def pages() -> list[str]:
    """Every text that is tracked or about to be, by its path in the repository."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return sorted(
        name
        for name in set(listed.stdout.splitlines()) - NO_PAGES
        if (ROOT / name).exists() and not name.startswith(".")
    )


def as_python_markdown(text: str) -> str:
    """The text as the site's renderer needs it: it wants an empty line before a list, and four
    spaces where hosts of repositories take two."""
    lines: list[str] = []
    in_list = fenced = False
    shift = 0
    for line in text.splitlines():
        before = lines[-1] if lines else ""
        deep = len(line) - len(line.lstrip(" "))
        if FENCE.match(line):
            fenced = not fenced
            in_list = in_list and deep > 0
            shift = deep if fenced and in_list and deep in (2, 3) else shift
        elif not fenced and ITEM.match(line):
            if before.strip() and (not in_list or FENCE.match(before)):
                lines.append("")
            in_list = True
        elif line.strip() and not deep and not fenced:
            in_list = in_list and bool(before.strip())
        if not fenced and not FENCE.match(line):
            shift = deep if in_list and deep in (2, 3) else 0
        lines.append(" " * shift + line if line.strip() else line)
    return "\n".join(lines) + "\n"


def linked(text: str) -> Iterator[str]:
    """The relative targets of a text's links, and of the pictures that it has."""
    bare = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r'\]\(([^)\s]+)\)|(?:src|srcset)="([^"]+)"', bare):
        name = (target[0] or target[1]).partition("#")[0]
        if name and not re.match(r"[a-z]+:", name):
            yield name


def stage(folder: Path) -> None:
    """Write the pages, what they link to, and the settings of the site into an empty folder."""
    for name in pages():
        text = (ROOT / name).read_text(encoding="utf-8")
        page = folder / "pages" / name
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(as_python_markdown(text), encoding="utf-8")
        for target in linked(text):
            found = (ROOT / name).parent / target
            if found.is_file() and found.suffix != ".md":
                there = page.parent / target
                there.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(found, there)
            elif found.is_dir() and not (found / "README.md").exists():
                _stage_folder(found, page.parent / target)
    (folder / "zensical.toml").write_text(settings(), encoding="utf-8")


def _stage_folder(found: Path, there: Path) -> None:
    """A folder that is linked to, as a page that lists its files."""
    there.mkdir(parents=True, exist_ok=True)
    files = sorted(path for path in found.iterdir() if path.is_file())
    for path in files:
        shutil.copy(path, there)
    lines = [f"- [`{path.name}`]({path.name})" for path in files]
    (there / "index.md").write_text(f"# {found.name}\n\n" + "\n".join(lines) + "\n")


def operating() -> list[dict[str, str]]:
    """The pages for operators, as the navigation has them."""
    names = {Path(name).stem for name in pages() if name.startswith("docs/operating/")}
    ordered = [name for name in OPERATING if name in names]
    entries = [
        {TITLES.get(name, name.replace("-", " ").capitalize()): f"docs/operating/{name}.md"}
        for name in [*ordered, *sorted(names - {*ordered})]
    ]
    index = "docs/OPERATING.md"
    return [*([{"Overview": index}] if index in pages() else []), *entries]


def navigation() -> list[Any]:
    """The navigation of the site: that of the settings, and the pages for operators."""
    nav: list[Any] = tomllib.loads(CONFIG.read_text(encoding="utf-8"))["project"]["nav"]
    for entry in nav:
        if "Operating" in entry:
            entry["Operating"] = [*operating(), *entry["Operating"]]
    return nav


def in_navigation(nav: list[Any]) -> Iterator[str]:
    """The pages of a navigation."""
    for entry in nav:
        for value in entry.values():
            if isinstance(value, str):
                yield value
            else:
                yield from in_navigation(value)


def settings() -> str:
    """The settings with the whole navigation."""
    text = CONFIG.read_text(encoding="utf-8")
    whole = f"nav = {_toml(navigation())}\n"
    return re.sub(r"^nav = \[\n.*?^\]\n", lambda _: whole, text, flags=re.DOTALL | re.MULTILINE)


def _toml(value: Any) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return "{ " + ", ".join(f"{_toml(name)} = {_toml(of)}" for name, of in value.items()) + " }"
