"""The command line as a whole: its manual, what shells complete, and how soon it is there."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from perdure.regions.main import main
from perdure.regions.settings_reading import load

from tests.command_line.manual import DOCUMENT, commands, written


def test_the_manual_is_of_these_commands():
    """Every command, option and setting stands in it as it is."""
    text = DOCUMENT.read_text(encoding="utf-8")
    assert written(text) == text, "make commands"
    for command in commands():
        if command.path:
            assert f"### perdure {' '.join(command.path)}\n" in text


def test_every_command_tells_its_exit_codes():
    """Those that only hold others as well, in their own help."""
    for command in commands():
        if command.path:
            assert re.search(r"Exit codes: 0 .*\b2 ", command.codes or command.description), command
            assert command.help or len(command.path) > 1


def test_the_file_in_the_manual_is_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its keys are settings, and its values are taken."""
    (block,) = re.findall(r"^```toml\n(.*?)^```", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    assert tomllib.loads(block)["peers"].keys() == {"us", "ap"}
    secret = tmp_path / "secret"
    secret.write_text("s" * 32)
    path = tmp_path / "perdure.toml"
    path.write_text(re.sub(r'"/etc/perdure/\w+-secret"', f'"{secret}"', block))
    for name in ("PERDURE_PEER_SECRET", "PERDURE_JWT_SECRET", "PERDURE_STORAGE_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert load({}, path).faults == []


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["completion", shell]) == 0
    return str(capsys.readouterr().out)


def completed(text: str, *typed: str, cwd: Path) -> set[str]:
    """What bash offers for the last of these words."""
    words = " ".join(f"'{word}'" for word in ("perdure", *typed))
    ask = f"COMP_WORDS=({words}); COMP_CWORD={len(typed)}; _perdure"
    ask += "; printf '%s\\n' \"${COMPREPLY[@]}\""
    done = subprocess.run(
        ["bash", "--norc", "-c", f"{text}\n{ask}"],
        capture_output=True, text=True, check=True, cwd=cwd,
    )  # fmt: skip
    assert done.stderr == ""
    return set(done.stdout.split("\n")) - {""}


def test_completion_in_bash(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """Commands, commands of commands, options, values of which there are few, files, folders; also
    behind options and their values."""
    text = script("bash", capsys)
    (tmp_path / "a folder").mkdir()
    (tmp_path / "a file").touch()

    def offered(*typed: str) -> set[str]:
        return completed(text, *typed, cwd=tmp_path)

    assert {"serve", "doctor", "completion", "config"} <= offered("")
    assert offered("doc") == {"doctor"}
    assert offered("config", "s") == {"show"}
    assert offered("config", "check", "--peer-po") == {"--peer-port"}
    assert offered("sessions", "--url", "http://h", "--so") == {"--sort"}
    assert offered("sessions", "--sort", "") == {"recent", "id", "size", "readers"}
    assert offered("serve", "--config", "a") == {"a folder", "a file"}
    assert offered("serve", "--data", "a") == {"a folder"}
    assert offered("serve", "--data", "=", "a") == {"a folder"}
    assert offered("sessions", "--sort", "=") == {"recent", "id", "size", "readers"}
    assert offered("serve", "--region", "") == set()
    assert offered("restore", "--da") == {"--data"}
    assert offered("completion", "") >= {"bash", "zsh", "fish"}
    for command in ("restore", "import"):
        assert offered(command, "a") == offered(command, "--json", "a") == {"a folder", "a file"}
        assert offered(command, "--js") == {"--json"}
    assert offered("tail", "serve", "--unt") == {"--until-end"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_of_shells(shell: str, capsys: pytest.CaptureFixture[str]):
    """They have every command and long option, and where the shell is there, it can read them."""
    text = script(shell, capsys)
    for command in commands():
        assert " ".join(command.path) in text
        for option in command.options:
            for flag in option.flags:
                assert (f"-l {flag[2:]} " in text or flag[:2] != "--") or shell != "fish"
                assert flag in text or shell == "fish"
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=text, text=True, check=True, capture_output=True)
