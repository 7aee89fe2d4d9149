"""The catalogue of failures says what the tests show: neither claims more than the other."""

from collections import Counter

import pytest

from tests.failures.__main__ import DOCUMENT, state, text
from tests.failures.catalogue import CATALOGUE, SECTIONS, Failure
from tests.failures.marks import Shown, of_javascript, of_python, shown

SHOWN = shown()


def faults(catalogue: list[Failure], tests: list[Shown]) -> list[str]:
    """Where the catalogue and the marks contradict each other."""
    known = {failure.id: failure for failure in catalogue}
    counts = Counter(test.failure for test in tests)
    found = [f"{test.test} shows {test.failure}, which nobody knows" for test in tests
             if test.failure not in known]  # fmt: skip
    for failure in catalogue:
        if failure.open and failure.missing:
            found.append(f"{failure.id} is open, and says what is missing")
        if failure.open and counts[failure.id]:
            found.append(f"{failure.id} is open, and has tests")
        if not failure.open and not counts[failure.id]:
            found.append(f"{failure.id} is not open, and has no test")
    return found


def test_the_document_is_current() -> None:
    """``docs/FAILURES.md`` is what ``make failures`` would write."""
    assert DOCUMENT.read_text(encoding="utf-8") == text(CATALOGUE, SHOWN)


def test_the_catalogue_and_the_marks_agree() -> None:
    """What is marked is known; what is open has no test, and everything else has one."""
    assert faults(CATALOGUE, SHOWN) == []


def test_contradictions_are_found() -> None:
    """Each way in which one could claim more than the other."""
    test = Shown("P1", "tests/x.py::test_x", "It is so.")
    assert faults([Failure("P1", "a", "b")], [test]) == []
    assert faults([Failure("P1", "a", "b", missing="c")], [test]) == []
    assert faults([Failure("P1", "a", "b", open="c")], []) == []
    assert len(faults([Failure("P1", "a", "b")], [])) == 1
    assert len(faults([Failure("P1", "a", "b", missing="c")], [])) == 1
    assert len(faults([Failure("P1", "a", "b", open="c")], [test])) == 1
    assert len(faults([Failure("P1", "a", "b", open="c", missing="d")], [])) == 1
    assert len(faults([], [test])) == 1


def test_ids_are_in_order_and_once() -> None:
    """Numbered from 1 in each section, without a gap: an id is never given to something else."""
    ids = [failure.id for failure in CATALOGUE]
    counts = Counter(id_[0] for id_ in ids)
    assert list(counts) == list(SECTIONS)
    assert ids == [f"{letter}{n + 1}" for letter in SECTIONS for n in range(counts[letter])]
    assert len(ids) == 69
    assert {state(failure) for failure in CATALOGUE} == {"open", "partly", "shown"}


MODULE = '''
import pytest
pytestmark = [pytest.mark.failure("A"), pytest.mark.slow]
@pytest.mark.failure("B", "C")
@pytest.mark.parametrize("x", [1])
async def test_one(x):
    """Says this. And that."""
@pytest.mark.failure("D")
class TestMany:
    pytestmark = pytest.mark.failure("E")
    def test_two(self):
        """Says
        more"""
def helper(): ...
'''


def test_marks_are_read() -> None:
    """Of functions, classes and modules; with the first sentence of the docstring."""
    one = "tests/x.py::test_one"
    two = "tests/x.py::TestMany::test_two"
    assert list(of_python("tests/x.py", MODULE)) == [
        *(Shown(id_, one, "Says this.") for id_ in "ABC"),
        *(Shown(id_, two, "Says more") for id_ in "ADE"),
    ]
    script = '// failure: N8, X1\ntest("goes on", async () => {});\ntest("other", () => {});\n'
    says = "Goes on."
    found = list(of_javascript("sdk/x.test.js", script))
    assert found == [Shown(id_, "sdk/x.test.js", says) for id_ in ("N8", "X1")]


@pytest.mark.parametrize(
    "text_",
    [
        "@pytest.mark.failure\ndef test_x(): ...",
        "@pytest.mark.failure()\ndef test_x(): ...",
        "@pytest.mark.failure(ID)\ndef test_x(): ...",
        "@pytest.mark.failure(*IDS)\ndef test_x(): ...",
        "@pytest.mark.failure('P1')\ndef helper(): ...",
    ],
)
def test_marks_that_cannot_be_read_are_refused(text_: str) -> None:
    """A mark that is passed over would be a proof that nobody finds."""
    with pytest.raises(ValueError, match=r"mark|ids"):
        list(of_python("tests/x.py", text_))
