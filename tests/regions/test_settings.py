"""Settings of a region: three sources and their order, and all that is wrong told at once."""

import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
from perdure.regions.certificates import endings
from perdure.regions.cluster import free_ports
from perdure.regions.config import Config, ConfigError
from perdure.regions.config_checks import look
from perdure.regions.identity import note_identity
from perdure.regions.main import main
from perdure.regions.peers_file import with_peers
from perdure.regions.serving import build_node
from perdure.regions.settings import Settings, flag_of, from_environment, variable_of
from perdure.regions.settings_reading import Loaded, load
from perdure.regions.storage_engine import DATABASE, DirectoryLock

from tests.regions.authority import Authority
from tests.regions.encrypted import KEY, OTHER, opened
from tests.regions.processes import COMMAND, started

SECRET = "s" * 32
GOOD = {"region": "eu", "data": "d", "dev_no_auth": True}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No settings of this machine."""
    for name in [name for name in os.environ if name.startswith("PERDURE_")]:
        monkeypatch.delenv(name)
    return monkeypatch


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def config(loaded: Loaded) -> Config:
    assert loaded.config is not None, loaded.faults
    return loaded.config


def test_flags_before_the_environment_before_the_file(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And of each value it is known where it is from, down to the line of the file."""
    text = "# mine\nregion = 'eu'\ndata = '/d'\ndev_no_auth = true\nport = 1\npeer_port = 2\n"
    text += "host = '::1'\n"
    path = written(tmp_path / "perdure.toml", text)
    environment.setenv("PERDURE_PORT", "3")
    environment.setenv("PERDURE_PEER_PORT", "4")
    loaded = load({"port": "5"}, path)
    found = config(loaded)
    assert (found.port, found.peer_port, found.host) == (5, 4, "::1")
    assert loaded.origins["port"] == "--port"
    assert loaded.origins["peer_port"] == "PERDURE_PEER_PORT"
    assert loaded.origins["host"] == f"{path}, line 7"
    assert "log_format" not in loaded.origins


def test_lists_in_each_of_the_sources(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A table or a list in the file, words in a variable, a flag for each: the same settings. One
    source takes the place of the next one's list, and adds nothing to it."""
    path = written(
        tmp_path / "f",
        'cors_origins = ["http://a"]\n[peers]\nus = "http://[::1]:1"\nap = "http://[::1]:2"\n',
    )
    peers = {"us": "http://[::1]:1", "ap": "http://[::1]:2"}
    found = config(load(GOOD, path))
    assert (found.peers, found.cors_origins) == (peers, ("http://a",))
    environment.setenv("PERDURE_PEERS", " us=http://[::1]:1\n ap=http://[::1]:2 ")
    assert config(load(GOOD)).peers == peers
    texts = [f"{name}={url}" for name, url in peers.items()]
    assert config(load({**GOOD, "peers": texts})).peers == peers
    assert config(load({**GOOD, "peers": texts[:1]}, path)).peers == {"us": "http://[::1]:1"}


def test_peers_in_a_file_are_read_again(tmp_path: Path) -> None:
    """As those of --peers-file are: from the table of the file as it stands then, where the file is
    TOML by its name, and what is wrong with it is told."""
    path = written(tmp_path / "perdure.toml", "[peers]\nus = 'http://[::1]:1'\n")
    found = config(load(GOOD, path))
    assert (found.peers, found.peers_file) == ({}, path)
    assert with_peers(found).peers == {"us": "http://[::1]:1"}
    written(path, "[peers]\nus = 'http://[::1]:2'\nap = 'http://[::1]:3'\n")
    assert with_peers(found).peers == {"us": "http://[::1]:2", "ap": "http://[::1]:3"}
    written(path, "[peers]\neu = 'http://[::1]:2'\n")
    with pytest.raises(ConfigError, match="--peer eu is this region itself"):
        with_peers(found)
    for text, message in (("peers = 7", "must be a table"), ("[peers", "is no TOML")):
        written(path, text)
        with pytest.raises(ConfigError, match=message):
            with_peers(found)
    other = written(tmp_path / "settings", "[peers]\nus = 'http://[::1]:1'\n")
    assert config(load(GOOD, other)).peers == {"us": "http://[::1]:1"}
    written(path, "[peers]\nus = 'http://[::1]:1'\n")
    assert config(load({**GOOD, "peers": ["ap=http://[::1]:1"]}, path)).peers_file is None


def test_the_environment_names_the_file(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where no flag does."""
    environment.setenv("PERDURE_CONFIG", str(written(tmp_path / "f", "port = 9\n")))
    assert config(load(GOOD)).port == 9
    assert config(load(GOOD, written(tmp_path / "g", "port = 8\n"))).port == 8


def test_secrets_are_in_files_that_a_setting_names(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By any of the sources; what stands in a variable itself goes before them, as it did."""
    secret = written(tmp_path / "secret", SECRET + "\n")
    named = {"peer_secret_file": secret, "jwt_secret_file": secret}
    found = config(load({"region": "eu", "data": "d", **named}))
    assert (found.peer_secret, found.jwt_secrets) == (SECRET.encode(), (SECRET.encode(),))
    text = f"region = 'eu'\ndata = 'd'\njwt_secret_file = '{secret}'\npeer_secret_file = '{secret}'"
    assert config(load({}, written(tmp_path / "f", text))).peer_secret == SECRET.encode()
    environment.setenv("PERDURE_PEER_SECRET", "o" * 32)
    assert config(load({"region": "eu", "data": "d", **named})).peer_secret == b"o" * 32


def test_all_that_is_wrong_is_told_at_once(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of each source, with the place; and neither is anything told twice, nor what only follows
    from another fault."""
    text = (
        "prot = 7\npeer_secret = 'guessable'\nport = 0\nlog_format = 'xml'\nverbose = 'ja'\n"
        "[peers]\neu = 'http://[::1]'\nus = 'ftp://x'\n"
    )
    path = written(tmp_path / "f", text)
    environment.setenv("PERDURE_JWT_LEEWAY_S", "61")
    environment.setenv("PERDURE_JWT_SECRET", "short")
    flags = {"region": "eu", "peer_port": "x", "trusted_proxies": ["y", "z"], "tls_cert": "c"}
    loaded = load(flags, path)
    assert loaded.config is None
    assert [(fault.text, fault.at) for fault in loaded.faults] == [
        ("'prot' is no setting; did you mean port?", f"{path}, line 1"),
        (
            "peer_secret: secrets do not stand here; name a file of its own with peer_secret_file",
            f"{path}, line 2",
        ),
        ("--port 0 must be 1 to 65535", f"{path}, line 3"),
        ("--peer-port x must be a whole number", None),
        ("--data is required: give it, or set PERDURE_DATA, or data in the file", None),
        ("--jwt-leeway-s 61 must be 0 to 60", "PERDURE_JWT_LEEWAY_S"),
        ("--verbose ja must be true or false", f"{path}, line 5"),
        ("--log-format xml must be json or text", f"{path}, line 4"),
        ("PERDURE_JWT_SECRET must have at least 32 bytes", None),
        ("--trusted-proxy 'y' must be an address or CIDR", None),
        ("--trusted-proxy 'z' must be an address or CIDR", None),
        (
            "--peer 'us=ftp://x' must be NAME=URL, the URL of its peer port",
            f"--peer is from {path}, line 6",
        ),
        ("--tls-cert and --tls-key go together; one is missing", None),
        ("--peer eu is this region itself", f"--peer is from {path}, line 6"),
        (
            "set PERDURE_PEER_SECRET (or PERDURE_PEER_SECRET_FILE) to the same secret in every"
            " region, 32 bytes or more",
            None,
        ),
    ]
    assert "guessable" not in str(loaded.faults)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"port = \n", "is no TOML: Invalid value (at line 1, column 8)"),
        (b"\xff", "is not UTF-8"),
        (None, "cannot read"),
        (b"port = [1]\n", "--port [1] must be a whole number"),
        (b"peers = 7\n", "--peer 7 must be a list of texts"),
        (b"[peers]\nus = 7\n", "must be a table of names and texts"),
        (b"region = 7\n", "--region 7 must be a text"),
        (b"log_age_s_max = 0\n", "--log-age-s-max 0 must be 1 or more"),
        (b"jwks = 'http://h'\n", "keys come over https"),
    ],
)
def test_wrong_files(tmp_path: Path, raw: bytes | None, message: str) -> None:
    """What cannot be read, and values of another kind, in words that are not a library's."""
    path = tmp_path / "f"
    if raw is not None:
        path.write_bytes(raw)
    flags: dict[str, Any] = {"region": "eu", "data": "d", "jwt_secret_file": tmp_path / "s"}
    written(tmp_path / "s", SECRET)
    flags["peer_secret_file"] = tmp_path / "s"
    if raw is not None and raw.startswith(b"region"):
        del flags["region"]
    (fault,) = load(flags, path).faults
    assert message in str(fault)
    assert "Input should" not in str(fault)


def test_variables_that_are_no_settings(environment: pytest.MonkeyPatch) -> None:
    """They are a warning, for they may be another program's; what Kubernetes sets for a service of
    this name is told as that, and one that is empty is not set."""
    environment.setenv("PERDURE_PEERZ", "x")
    environment.setenv("PERDURE_GRANT", "x")
    environment.setenv("PERDURE_HOST", "")
    loaded = load(GOOD)
    assert config(loaded).host == "127.0.0.1"
    (warning,) = loaded.warnings
    assert str(warning) == "PERDURE_PEERZ is set, and is no setting; did you mean PERDURE_PEERS?"
    environment.setenv("PERDURE_PORT", "tcp://10.0.0.1:7101")
    (fault,) = load(GOOD).faults
    assert "enableServiceLinks: false" in str(fault)


def test_every_setting_has_its_names_and_its_help() -> None:
    """And those of the flags are no two settings'."""
    flags = [flag_of(name) for name in Settings.model_fields]
    assert len({*flags}) == len(flags) > 30
    assert all(field.description for field in Settings.model_fields.values())
    assert variable_of("peers") == "PERDURE_PEERS" and flag_of("peers") == "--peer"
    assert from_environment() == {}


def test_config_check(
    environment: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 0 for what a region would start with; 2 with every fault, also for programs."""
    good = ["--region", "eu", "--data", str(tmp_path), "--dev-no-auth", "--port", "1", "--host"]
    monkey = ["config", "check", *good, "::1"]
    environment.setattr("perdure.regions.config_checks._port_faults", lambda *_: iter(()))
    assert main(monkey) == 0
    assert "good: region eu would start" in capsys.readouterr().out
    bad = written(tmp_path / "f", "prot = 1\n")
    assert main([*monkey, "--config", str(bad), "--log-age-s-max", "0"]) == 2
    out = capsys.readouterr().out
    assert f"did you mean port?\n       {bad}, line 1\n" in out
    assert "--log-age-s-max 0 must be" in out and "ports and the disk were not looked at" in out
    assert main([*monkey, "--config", str(bad), "--json"]) == 2
    told = json.loads(capsys.readouterr().out)
    assert not told["ok"] and told["faults"][0]["at"] == f"{bad}, line 1"


def test_config_show_hides_secrets(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The settings that count, with where each is from; of secrets only how many there are."""
    environment.setenv("PERDURE_PEER_SECRET", f"{SECRET}\n{'t' * 32}")
    environment.setenv("PERDURE_JWT_SECRET", SECRET)
    flags = ["config", "show", "--region", "eu", "--data", "d", "--log-bytes-max", "7"]
    assert main(flags) == 0
    out = capsys.readouterr().out
    assert SECRET not in out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "log_bytes_max = 7 # --log-bytes-max" in lines
    assert 'peer_secret = "(2 set)" # PERDURE_PEER_SECRET' in lines
    assert main([*flags, "--json", "--peer", "us=http://u:hunter2@[::1]"]) == 2
    shown = capsys.readouterr()
    assert json.loads(shown.out)["settings"]["region"] == {"value": "eu", "from": "--region"}
    assert "hunter2" not in shown.out + shown.err
    assert main(["config", "show", "--region", "eu", "--json"]) == 2
    settings = json.loads(capsys.readouterr().out)["settings"]
    assert settings["data"] == {"value": None, "from": "required"}


def test_a_secret_that_cannot_be_read_is_told_by_what_names_it(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By the line of the file, and not by a variable that nobody has set; or by the variable."""
    path = written(tmp_path / "f.toml", "region = 'eu'\ndata = 'd'\njwt_secret_file = '/none/it'\n")
    environment.setenv("PERDURE_PEER_SECRET_FILE", "/none/peer")
    told = [str(fault) for fault in load({}, path).faults]
    why = "cannot read /none/it: No such file or directory"
    at = f"(--jwt-secret-file is from {path}, line 3)"
    assert f"--jwt-secret-file: {why} {at}" in told
    assert any(text.startswith("PERDURE_PEER_SECRET_FILE: cannot read") for text in told)


def test_config_show_tells_what_is_wrong(
    environment: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A value that cannot be taken is shown as it was said, and as wrong: not a default in its
    place, which nobody said."""
    text = "region = 'eu'\ndata = 'd'\nport = 2026-11-26\npeers = 'us=http://u:hunter2@h'\n"
    path = written(tmp_path / "f.toml", text)
    environment.setenv("PERDURE_LOG_BYTES_MAX", "4 GiB")
    assert main(["config", "show", "--config", str(path)]) == 2
    out, err = capsys.readouterr()
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert f'port = "2026-11-26" # {path}, line 3: wrong, see below' in lines
    assert 'log_bytes_max = "4 GiB" # PERDURE_LOG_BYTES_MAX: wrong, see below' in lines
    assert f'region = "eu" # {path}, line 1' in lines and "hunter2" not in out + err
    assert "--port" in err and "--log-bytes-max 4 GiB must be a whole number" in err
    assert main(["config", "show", "--config", str(path), "--json"]) == 2
    settings = json.loads(capsys.readouterr().out)["settings"]
    told = {"value": "4 GiB", "from": "PERDURE_LOG_BYTES_MAX", "wrong": True}
    assert settings["log_bytes_max"] == told and "wrong" not in settings["region"]
    written(path, "region = 'eu'\ndata = 'd'\nport = {us = 'http://u:hunter2@h'}\n")
    assert main(["config", "show", "--config", str(path)]) == 2
    out, err = capsys.readouterr()
    assert "http://…@h" in out and "hunter2" not in out + err


def test_certificates_that_end_soon(tmp_path: Path) -> None:
    """Within 30 days it is a warning, when it is over a fault; a file without any is named."""
    files = Authority().issue(tmp_path, "eu.perdure", days=(-1, 60))
    peers = Config(region="eu", data=tmp_path, port=1, peer_port=2, peer_files=files, host="::1")
    end_ms = endings("--peer-cert", files.cert)[0].timestamp() * 1000

    def found(days_before: float) -> tuple[list[str], list[str]]:
        looked = look(peers, int(end_ms - days_before * 86_400_000))
        return (
            [fault for fault in looked.faults if "--peer-cert" in fault],
            [text for text in looked.warnings if "--peer-cert" in text],
        )

    assert found(31) == ([], [])
    assert "expires in 29 days" in found(29.5)[1][0]
    assert "has expired" in found(-1)[0][0]


def test_a_look_at_the_machine(tmp_path: Path) -> None:
    """Ports that are taken, addresses that are not here, a directory that is none, key sets that
    are not there, peers at one address."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = look(
            Config(
                region="eu", data=written(tmp_path / "f", "") / "d", port=port, peer_port=1,
                peer_host="192.0.2.1", ops_port=port, jwks=str(tmp_path / "none"),
                peers={"us": "http://[::1]:1", "ap": "http://[::1]:1/"},
            ),
            0,
        )  # fmt: skip
    assert [fault.split(":")[0] for fault in found.faults] == [
        "--jwks",
        f"--data {tmp_path / 'f' / 'd'}",
        f"--port {port} of 127.0.0.1 is taken",
        "--peer-port 1",
        f"--ops-port {port} of 127.0.0.1 is taken",
    ]
    assert found.warnings == ["--peer us and --peer ap have one URL, http://[::1]:1/"]


def test_a_region_that_runs_is_checked_before_its_restart(tmp_path: Path) -> None:
    """It has its ports itself, which is worth a word and not wrong."""
    lock = DirectoryLock(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = Config(region="eu", data=tmp_path, port=port, peer_port=port)
        assert len(look(config, 0).faults) == 2
        lock.take()
        found = look(config, 0)
        lock.release()
        assert (found.faults, len(found.warnings)) == ([], 2)
        assert len(look(config, 0).faults) == 2


def test_the_database_that_is_there(tmp_path: Path) -> None:
    """What a start would refuse is told: another key, a newer schema, no database, a
    directory that another region had last. Looking leaves everything as it was."""
    opened(tmp_path, KEY).close()
    note_identity(tmp_path, "eu", 1, "0")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def found(region: str = "eu", *keys: bytes) -> tuple[list[str], list[str]]:
        config = Config(region=region, data=tmp_path, port=1, peer_port=2, storage_keys=keys)
        looked = look(config, 0, ports=False)
        return looked.faults, looked.warnings

    assert found("eu", KEY) == ([], [])
    assert "add the one that is missing" in found("eu", OTHER)[0][0]
    assert "set PERDURE_STORAGE_KEY" in found()[0][0]
    assert "was region eu's last, and this one is --region us" in found("us", KEY)[0][0]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    database = tmp_path / DATABASE
    database.write_bytes(before[DATABASE][:60] + (2_000).to_bytes(4, "big") + before[DATABASE][64:])
    assert "written by a newer perdure (schema 1000, " in found("eu", KEY)[0][0]
    database.write_bytes(b"no database" * 1_000)
    assert "cannot open" in found("eu", KEY)[0][0]


def test_no_region_starts_on_the_directory_of_another(tmp_path: Path) -> None:
    """For a mistake in one line; and nothing in it is changed."""
    note_identity(tmp_path, "us", 7, "0.1.0")
    before = sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir())
    with pytest.raises(ConfigError, match="was region us's last, and this one is --region eu"):
        build_node(Config(region="eu", data=tmp_path, port=1, peer_port=1))
    assert sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir()) == before


async def test_a_region_serves_by_its_file(tmp_path: Path) -> None:
    """With a variable and a flag over it; and a start with faults tells them all, with exit code
    2, and makes nothing."""
    port, peer_port, other_port = free_ports(3)
    text = f"region = 'eu'\nport = {port}\npeer_port = {peer_port}\ndata = '{tmp_path}/d'\n"
    path = written(tmp_path / "perdure.toml", text)
    command = (*COMMAND, "serve", "--config", path)
    environment = {"PERDURE_DEV_NO_AUTH": "true", "PERDURE_PORT": "1"}
    async with started(*command, "--port", other_port, environment=environment) as running:
        line = await running.line_with("perdure eu: ")
        assert f"http://127.0.0.1:{other_port} (no grants needed)" in line
        running.signal(signal.SIGTERM)
        assert (await running.end()).code == 0
    written(path, f"prot = 1\n{text}evict_idle_s = 0\n".replace("/d'", "/none'"))
    async with started(*command, environment=environment) as running:
        ended = await running.end()
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.splitlines() == [
        f"perdure: 'prot' is no setting; did you mean port? ({path}, line 1)",
        f"perdure: --evict-idle-s 0 must be 1 or more ({path}, line 6)",
    ]
    assert not (tmp_path / "none").exists()
