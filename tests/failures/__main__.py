"""``python -m tests.failures`` writes docs/FAILURES.md anew, from the catalogue and the marks."""

import re
from collections import defaultdict
from collections.abc import Iterator

from tests.failures.catalogue import CATALOGUE, SECTIONS, Failure
from tests.failures.marks import ROOT, Shown, shown

DOCUMENT = ROOT / "docs" / "FAILURES.md"


def state(failure: Failure) -> str:
    """``open``, ``partly`` or ``shown``."""
    return "open" if failure.open else "partly" if failure.missing else "shown"


def text(catalogue: list[Failure], tests: list[Shown]) -> str:
    """The whole document."""
    by_id: dict[str, list[Shown]] = defaultdict(list)
    for test in tests:
        by_id[test.failure].append(test)
    states = [state(failure) for failure in catalogue]
    lines = [
        "# Failures",
        "",
        "What perdure must survive, what is expected then, and the tests that show it. Made by"
        " `make failures` from [the catalogue](../tests/failures/catalogue.py) and from the marks"
        " on the tests; a test of the suite compares. Whole regions are also put through faults"
        " from seeds, and judged by what clients saw: `make simulate`.",
        "",
        f"Of {len(catalogue)} failures, {states.count('shown')} are shown by tests,"
        f" {states.count('partly')} partly, and {states.count('open')} are open.",
    ]
    for letter, title in SECTIONS.items():
        lines += ["", f"## {title}", "", "| id | what happens → what is expected | shown by |"]
        lines += ["|---|---|---|"]
        lines += [_row(f, by_id[f.id]) for f in catalogue if f.id[0] == letter]
    return "\n".join(lines) + "\n"


def _row(failure: Failure, tests: list[Shown]) -> str:
    cells = [failure.id, f"{failure.scenario} → {failure.expected}"]
    cells.append("<br>".join(_proofs(failure, tests)))
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _proofs(failure: Failure, tests: list[Shown]) -> Iterator[str]:
    if failure.open:
        yield f"**open**: {failure.open}"
    if failure.missing:
        yield f"**partly**; missing: {failure.missing}"
    for test in tests:
        path, _, name = test.test.partition("::")
        shown_as = f"`{path.removeprefix('tests/')}`" + (f" `{name}`" if name else "")
        yield f"[{shown_as}](../{path}): {_plain(test.says)}"


def _plain(says: str) -> str:
    return re.sub(r"``(.*?)``", r"`\1`", says).replace("[", "\\[")


if __name__ == "__main__":
    DOCUMENT.write_text(text(CATALOGUE, shown()), encoding="utf-8")
    print(f"{DOCUMENT.relative_to(ROOT)} is written")
