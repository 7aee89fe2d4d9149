"""The texts say what the code does: limits, codes, events, frames, files, links, commands."""

import ast
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from perdure.api.problems import STATUS
from perdure.regions.main import EXIT_USAGE, main
from perdure.regions.serving import EXIT_GONE, EXIT_NAME_IN_USE
from perdure.replication import limits, operations
from perdure.replication.coding import encode
from perdure.replication.frames import Kind
from perdure.replication.ids import LaneKey, parse_epoch

ROOT = Path(__file__).parents[1]
# Limits that A.2 does not list: what the protocol says of them elsewhere, or that no client and no
# peer meets them by their value.
ELSEWHERE = {
    "CLAIM_ID_CHARS_MIN": "have 8 to 128",
    "ROLE_CHARS_MAX": "[a-z][a-z0-9_-]{0,31}",
    "PAGE_ITEMS_DEFAULT": "(default 100)",
    "POLL_WAIT_MS_DEFAULT": "default 20,000",
    "SEQ_MAX": "0 to 2^53−1",
}
INSIDE = {
    "EPOCH_COUNTER_MAX",
    "ITEMS_BYTES_TARGET",
    "WRITE_QUEUE_ITEMS_MAX",
    "COMMIT_BYTES_MAX",
    "REQUESTS_WAITING_MAX",
    "COMMIT_WRITES_MAX",
    "PRESENCE_CONNECTION_CHARS_MAX",
    "DEAD_ORIGINS_MAX",
    "STORAGE_KEYS_MAX",
    "BUCKETS_MAX",
    "BUCKETS_SHARED_MAX",
    "METER_SERIES_MAX",
    "JOURNAL_ENTRIES_MAX",
    "JOURNAL_SESSION_ENTRIES_MAX",
    "RECENT_SESSIONS_MAX",
    "LAG_MARKS_MAX",
    "HISTORY_SAMPLES_MAX",
    "OPS_CONNECTIONS_MAX",
    "TRACE_SPANS_WAITING_MAX",
    "TRACE_DELIVERIES_MAX",
    "ERASE_SUBJECTS_MAX",
}
# Texts that tell people what to type.
MANUALS = (
    *("README.md", "CONTRIBUTING.md", "deploy/README.md", "sdk/python/README.md"),
    *("docs/quickstart.md", "docs/clients.md"),
)


def documents() -> list[Path]:
    """Every text of the project that is tracked or about to be."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    paths = [ROOT / name for name in listed.stdout.splitlines()]
    return [path for path in paths if path.exists()]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


PROTOCOL = read("docs/PROTOCOL.md")


def section(number: str) -> str:
    """A numbered section of the protocol."""
    (found,) = re.findall(rf"^## {number} .*?(?=^#{{1,2}} |\Z)", PROTOCOL, re.DOTALL | re.MULTILINE)
    return str(found)


def rows(text: str) -> Iterator[list[str]]:
    """The cells of a table's rows, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    for line in lines[2:]:
        yield [cell.strip() for cell in line.strip("|").split("|")]


def test_limits():
    """A.2 names the limits of the code with their values, and leaves none out."""
    listed = {}
    for names, value, *_ in rows(section("A.2")):
        found = re.findall(r"`(\w+)`", names)
        numbers = [int(n.replace(",", "")) for n in re.findall(r"\d{1,3}(?:,\d{3})+|\d+", value)]
        listed.update(zip(found, numbers, strict=False))
    code = {name: value for name, value in vars(limits).items() if name.isupper()}
    assert len(listed) > 20
    assert listed == {name: code[name] for name in code.keys() - ELSEWHERE.keys() - INSIDE}
    assert ELSEWHERE.keys() | INSIDE <= code.keys()
    for words in ELSEWHERE.values():
        assert words in PROTOCOL


def test_statuses_in_the_text():
    """Wherever a text gives a status with a code, they belong together in A.1 and in the code."""
    pairs = set()
    for path in documents():
        text = path.read_text(encoding="utf-8")
        pairs |= set(re.findall(r"\b([45]\d\d) `([a-z_]+)`", text))
        pairs |= set(re.findall(r"→ ([45]\d\d) ([a-z_]+)", text))
    assert len(pairs) > 6
    assert {code: int(status) for status, code in pairs}.items() <= STATUS.items()


def emitted() -> set[str]:
    """The names of events in the code: what drafts and events are made with."""
    names = set()
    for folder in ("replication", "regions"):
        for path in (ROOT / folder).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                makes = isinstance(node, ast.Call) and ast.unparse(node.func) in (
                    *("Draft", "_draft", "Event"),
                )
                if makes and isinstance(node.args[0], ast.Constant):
                    names.add(node.args[0].value)
    return names


def test_events():
    """A.5 has every event that the code can emit and no other, and both clients know them all."""
    listed = {cells[0].strip("`") for cells in rows(section("A.5"))}
    assert len(listed) > 8
    assert listed == emitted()
    clients = [
        "".join(path.read_text(encoding="utf-8") for path in (ROOT / folder).glob(pattern))
        for folder, pattern in (
            ("sdk/python/perdure_client", "*.py"),
            ("sdk/javascript", "*.js"),
        )
    ]
    for text in clients:
        assert [name for name in listed if f'"{name}"' not in text] == []


def test_frames():
    """B.1 numbers the frames as the code does."""
    listed = {}
    for kind, *_ in rows(section("B.1")):
        number, name = kind.split()
        listed[name.strip("`")] = int(number)
    assert listed == {kind.name.lower(): kind.value for kind in Kind}


LANE = LaneKey("p", parse_epoch("1-0123456789abcdef"))
HEADER = operations.Header("user", None, 1, LANE, "{}", None, ())
OPERATIONS = {
    "create": operations.Create("s", 1, "eu", "{}"),
    "open": operations.Open("s", "m", HEADER),
    "items": operations.Items("s", "m", LANE, 0, bytes(16), ("x",)),
    "claim": operations.Claim("s", "m", LANE, 1, LANE, None, 0),
    "cancel": operations.Cancel("s", "m", LANE),
    "delete": operations.Delete("s", None),
    "metadata": operations.Metadata("s", 1, "eu", "{}"),
    "fork": operations.Fork("s", "m", LANE, 0),
    "step": operations.Step("s", "m", LANE, 1, "running", "null"),
    "lapse": operations.Lapse("s", "m", LANE, 0, 0),
    "input": operations.Input("s", "m", 1, "n"),
    "discard": operations.Discard("s", "d"),
    "document": operations.Edit("s", "d", b"\0\0"),
    "erased": operations.Erased("s", "m", None, 1),
    "absorb": operations.Absorb("s", (), ()),
}


@pytest.mark.parametrize("kind", OPERATIONS)
def test_operations(kind):
    """B.2 gives each operation as many fields after the session as its bytes have."""
    listed = {name.strip("`"): fields for name, fields, *_ in rows(section("B.2"))}
    assert listed.keys() == OPERATIONS.keys()
    name, _, *after = json.loads(encode(OPERATIONS[kind]))
    assert name == kind
    bare = re.sub(r"\{.*?\}|\(.*?\)", "", listed[kind].partition(";")[0])
    assert len(bare.split(",")) == len(after)


def test_files_of_the_architecture():
    """ARCHITECTURE's table names every module of the product, and nothing that is not there."""
    named = []
    for names, *_ in rows(read("docs/ARCHITECTURE.md")):
        folder = ""
        for name in re.findall(r"`([\w/]+\.py)`", names):
            folder = name.rpartition("/")[0] or folder
            named.append(f"{folder}/{name.rpartition('/')[2]}")
    there = [
        f"{folder}/{path.name}"
        for folder in ("replication", "regions", "api")
        for path in (ROOT / folder).glob("*.py")
        if path.name != "__init__.py"
    ]
    assert sorted(named) == sorted(there)


def broken_links(path: Path) -> list[str]:
    """Relative links that lead nowhere: files, and headings in them."""
    found = []
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.M)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            found.append(f"{path.name}: {link}")
    return found


def anchors(path: Path) -> set[str]:
    """The anchors of a text's headings, as hosts of repositories make them."""
    headings = re.findall(r"^#+ (.*)", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links(tmp_path):
    """Every relative link leads somewhere; and one that does not is found."""
    paths = documents()
    assert ROOT / "README.md" in paths
    assert [link for path in paths for link in broken_links(path)] == []
    bad = tmp_path / "bad.md"
    bad.write_text("# A b\n[1](gone.md) [2](#a-b) [3](#c) [4](bad.md#a-b) [5](https://x.example)")
    assert broken_links(bad) == ["bad.md: gone.md", "bad.md: #c"]


def test_decisions_are_listed():
    """The index of the decisions links to each note, and each note is numbered and titled."""
    index = read("docs/decisions/README.md")
    notes = sorted((ROOT / "docs/decisions").glob("0*.md"))
    assert notes
    for note in notes:
        assert f"({note.name})" in index
        assert note.read_text(encoding="utf-8").startswith(f"# {note.name[:4]} · ")
    assert len({note.name[:4] for note in notes}) == len(notes)


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):(?!=)", read("Makefile"), re.MULTILINE))


def test_make_help():
    """``make help`` and plain ``make`` list every target with what it does."""
    targets = make_targets()
    assert {"setup", "demo", "dev", "test", "check", "help"} <= targets
    for command in (["make", "help"], ["make"]):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        listed = dict(re.findall(r"^  make ([a-z-]+) +(\S.*)$", done.stdout, re.MULTILINE))
        assert listed.keys() == targets
    (phony,) = re.findall(r"^\.PHONY: (.*)$", read("Makefile"), re.MULTILINE)
    assert set(phony.split()) == targets


def help_of(capsys, *command: str) -> str:
    """What a command says of itself; it must succeed."""
    with pytest.raises(SystemExit) as left:
        main([*command, "--help"])
    assert left.value.code == 0
    return str(capsys.readouterr().out)


def commands(capsys) -> list[str]:
    """The subcommands, as the command line lists them."""
    listed = help_of(capsys).partition("COMMAND\n")[2]
    return re.findall(r"^    ([a-z]+) ", listed, re.MULTILINE)


def test_help_of_commands(capsys, monkeypatch):
    """Each command explains itself and tells its exit codes; the command alone does as well."""
    monkeypatch.setenv("COLUMNS", "1000")
    names = commands(capsys)
    assert {"serve", "dev", "demo", "publish", "tail", "sessions", "regions", "verify"} <= {*names}
    for name in names:
        text = help_of(capsys, name)
        assert re.search(r"Exit codes: 0 .*\b2 ", text), name
        assert "--help" in text
    assert main([]) == EXIT_USAGE
    assert "COMMAND" in capsys.readouterr().out


def typed(text: str) -> str:
    """What a text tells people to type: its blocks of code, and code within lines."""
    blocks = re.findall(r"^```(?:sh)?\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return "\n".join([*blocks, *re.findall(r"`([^`\n]+)`", rest)])


def test_commands_in_the_manuals(capsys):
    """Every ``make`` target and every ``perdure`` command that a manual gives is there."""
    text = "\n".join(typed(read(name)) for name in MANUALS)
    targets = set(re.findall(r"(?:^|\s|&& )make ([a-z-]+)", text))
    assert {"setup", "test", "check"} <= targets <= make_targets()
    given = set(re.findall(r"(?:^|[\s/])perdure ([a-z]+)", text))
    assert {"serve", "publish", "verify"} <= given <= set(commands(capsys))


def unit() -> dict[str, str]:
    """The settings of the systemd unit; of one that is given twice, the last."""
    return dict(re.findall(r"^(\w+)=(.*)$", read("deploy/systemd/perdure@.service"), re.MULTILINE))


def test_systemd_unit(capsys):
    """The unit's flags, exit codes, times and limits are the code's."""
    flags = set(re.findall(r"(--[a-z-]+)", help_of(capsys, "serve")))
    manual = re.findall(r"^PERDURE_ARGS=(.*)$", read("deploy/README.md"), re.MULTILINE)
    given = set(re.findall(r"(--[a-z-]+)", " ".join([unit()["ExecStart"], *manual])))
    assert {"--region", "--data", "--peer"} <= given <= flags
    final = [str(code) for code in (EXIT_USAGE, EXIT_NAME_IN_USE, EXIT_GONE)]
    assert unit()["RestartPreventExitStatus"].split() == final
    assert unit()["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert read("deploy/systemd/perdure@.service").count("ExecReload=") == 1
    assert int(unit()["TimeoutStopSec"]) > limits.DRAIN_S_MAX
    assert int(unit()["LimitNOFILE"]) > 2 * limits.READERS_MAX
    assert unit()["KillSignal"] == "SIGTERM"
