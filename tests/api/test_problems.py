"""Problems: the table of the protocol is what the code says."""

import ast
import re
from pathlib import Path

import pytest
from perdure.api.problems import STATUS, problem
from perdure.regions.ports import StorageFailed, StorageFull
from perdure.replication.errors import Refusal

ROOT = Path(__file__).parents[2]


def test_codes_are_those_of_the_protocol():
    """Every code of A.1 has its status here, and there is no other."""
    text = (ROOT / "docs" / "PROTOCOL.md").read_text()
    table = text.split("## A.1")[1].split("## A.2")[0]
    found = {}
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) > 3 and cells[2].isdigit():
            found.update(dict.fromkeys(re.findall(r"`(\w+)`", cells[1]), int(cells[2])))
    assert found == STATUS


def test_every_refusal_has_a_status():
    """No refusal anywhere in the product has a code that the protocol does not know."""
    codes = set()
    for folder in ("replication", "regions", "api"):
        for path in (ROOT / folder).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                name = getattr(getattr(node, "func", None), "id", None)
                if name in ("Refusal", "Unread") and isinstance(node.args[0], ast.Constant):
                    codes.add(node.args[0].value)
    assert len(codes) > 20
    assert codes <= STATUS.keys()


@pytest.mark.parametrize("code", sorted(STATUS))
def test_problem(code):
    """A problem has all members of A.1; where trying again helps it says when."""
    found = problem(Refusal(code, "because", field="x"))
    assert found.status == STATUS[code]
    assert found.body["type"] == f"urn:perdure:problem:{code}"
    assert found.body["detail"] == "because"
    assert found.body["field"] == "x"
    again = ("too_many", "storage_full", "storage_failed", "draining", "starting", "catching_up")
    retries = code in (*again, "held")
    assert ("retry-after" in dict(found.headers)) == retries


@pytest.mark.parametrize(
    ("refusal", "detail"),
    [
        (Refusal("too_large", "it is", limit_bytes=1_048_576), "it is: 1,048,576 bytes at most"),
        (Refusal("too_large", "they are", limit_items=4_096), "they are: 4,096 at most"),
        (Refusal("gap", "seq 5 is beyond", expected=2), "seq 5 is beyond: send from 2 on"),
    ],
)
def test_the_words_say_what_the_numbers_are(refusal, detail):
    """Whoever sees a sentence alone, as in a log, reads what would be taken."""
    assert problem(refusal).body["detail"] == detail


def test_details_cannot_stand_in_for_members():
    """A refusal's own ``status`` does not hide the HTTP status."""
    assert problem(Refusal("ended", "it has", status="complete")).body["status"] == 409


@pytest.mark.failure("P7", "P8", "S15")
def test_storage():
    """A full disk and a failed one are told apart, and nothing of the inside is told."""
    assert problem(StorageFull("/var/x")).body["code"] == "storage_full"
    assert problem(StorageFailed("/var/x")).body["code"] == "storage_failed"
    for error in (StorageFull("/var/x"), StorageFailed("/var/x"), KeyError("secret")):
        found = problem(error).encode()
        assert b"/var/x" not in found
        assert b"secret" not in found
