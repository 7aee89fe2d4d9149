"""Settings are checked before anything starts, in the operator's words."""

import base64
import sys
from pathlib import Path
from typing import Any

import pytest
from perdure.regions.allowances import DEFAULTS, NOTHING
from perdure.regions.config import (
    Config,
    ConfigError,
    PeerFiles,
    is_loopback,
    parse_allowances,
    parse_demo_page,
    parse_peer_files,
    parse_peers,
    parse_tls,
    parse_trusted_proxies,
    read_secrets,
    read_storage_keys,
)
from perdure.regions.config_faults import check
from perdure.replication.limits import PEER_SECRETS_MAX, STORAGE_KEYS_MAX

from tests.regions.processes import started

SECRET = b"s" * 32
FILES = PeerFiles(Path("c"), Path("k"), Path("a"))


def config(**changes: Any) -> Config:
    values = {"region": "eu", "data": Path("d"), "port": 1, "peer_port": 2, "peer_secret": SECRET}
    return Config(**{**values, **changes})


def test_peers_are_names_and_urls() -> None:
    """With or without TLS, WebSocket or HTTP scheme."""
    peers = {"us": "http://h:1", "ap": "wss://h/x", "sa": "ws://[::1]:3"}
    assert parse_peers([f"{name}={url}" for name, url in peers.items()]) == peers


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["us"], "--peer 'us' must be NAME=URL"),
        (["=http://h"], "must be NAME=URL"),
        (["u s=http://h"], "must be NAME=URL"),
        (["us=h:1"], "must be NAME=URL"),
        (["us=ftp://h"], "must be NAME=URL"),
        (["us=http://[::1"], "must be NAME=URL"),
        (["us=http://h:99999"], "must be NAME=URL"),
        (["us=http://h:x"], "must be NAME=URL"),
        (["us=http://"], "names no host"),
        (["us=http://a", "us=http://b"], "--peer us is given twice"),
    ],
)
def test_wrong_peers_are_named(texts: list[str], message: str) -> None:
    """The message holds what was given."""
    with pytest.raises(ConfigError, match=message):
        parse_peers(texts)


def test_limits_on_callers() -> None:
    """The defaults where grants are asked for, nothing where anybody may call, what is said over
    either; what is wrong is named."""
    assert parse_allowances([], no_auth=False) == DEFAULTS
    assert parse_allowances([], no_auth=True) == NOTHING
    assert parse_allowances(["key=5/s"], no_auth=True).rates.keys() == {"key"}
    assert parse_allowances(["key=5/s"], no_auth=False).rates.keys() == DEFAULTS.rates.keys()
    with pytest.raises(ConfigError, match="--limit 'key=5'"):
        parse_allowances(["key=5"], no_auth=False)
    with pytest.raises(ConfigError, match="--trusted-proxy 'x'"):
        parse_trusted_proxies(["x"])


def test_no_limits_at_all_are_for_loopback() -> None:
    """Where others can reach a region, some limit holds."""
    off = parse_allowances(["off"], no_auth=False)
    check(config(allowed=off, jwt_secrets=(SECRET,)))
    with pytest.raises(ConfigError, match="--limit off is for loopback only"):
        check(config(allowed=off, jwt_secrets=(SECRET,), host="0.0.0.0"))


def test_the_page_of_the_demo_is_told_hosts_alone() -> None:
    """They become a policy for browsers, in which anything else would be another rule."""
    regions = {"eu": "http://127.0.0.1:7101", "us": "https://[::1]:7102"}
    assert parse_demo_page([f"{name}={url}" for name, url in regions.items()]) == regions
    for url in ("http://h/", "http://h/x", "http://h; script-src *", "ws://h", "http://u@h", "h"):
        with pytest.raises(ConfigError, match="--demo-page"):
            parse_demo_page([f"eu={url}"])


def test_the_page_of_the_demo_is_for_this_machine() -> None:
    """It gives grants to who asks, so nobody else may ask."""
    page = {"demo_page": {"eu": "http://h"}, "jwt_secrets": (SECRET,)}
    check(config(**page))
    with pytest.raises(ConfigError, match="--demo-page gives grants to who asks"):
        check(config(host="10.0.0.1", behind_proxy=True, **page))


def test_secrets_come_from_the_environment_or_a_file(tmp_path: Path) -> None:
    """A file's surrounding white space does not count; the variable goes before the file, unless
    it is empty, which is not set."""
    path = tmp_path / "secret"
    path.write_text("f" * 32 + "\n")
    assert read_secrets("S", {"S": "e" * 32}) == (b"e" * 32,)
    assert read_secrets("S", {"S_FILE": str(path)}) == (b"f" * 32,)
    assert read_secrets("S", {"S": "e" * 32, "S_FILE": str(path)}) == (b"e" * 32,)
    assert read_secrets("S", {"S": "", "S_FILE": str(path)}) == (b"f" * 32,)
    assert read_secrets("S", {}) == ()


def test_several_secrets_are_lines_and_the_first_is_for_proving(tmp_path: Path) -> None:
    """Empty lines do not count; each must be long enough, and they are not many."""
    path = tmp_path / "secrets"
    path.write_text("n" * 32 + "\n\n  " + "o" * 32 + "\n")
    assert read_secrets("S", {"S_FILE": str(path)}) == (b"n" * 32, b"o" * 32)
    with pytest.raises(ConfigError, match="S must have at least 32 bytes") as error:
        read_secrets("S", {"S": "n" * 32 + "\nguessable"})
    assert "guessable" not in str(error.value)
    accepted = tuple(bytes([65 + number]) * 32 for number in range(PEER_SECRETS_MAX))
    check(config(peer_secrets_accepted=accepted[1:]))
    with pytest.raises(ConfigError, match="PERDURE_PEER_SECRET holds 5 secrets; 4 is the most"):
        check(config(peer_secrets_accepted=accepted))


def test_the_three_files_of_tls_go_together() -> None:
    """All or none; the message names those that are missing."""
    assert parse_peer_files(None, None, None) is None
    assert parse_peer_files(FILES.cert, FILES.key, FILES.ca) == FILES
    with pytest.raises(ConfigError, match="--peer-key and --peer-ca are missing"):
        parse_peer_files(FILES.cert, None, None)
    with pytest.raises(ConfigError, match="--peer-ca is missing"):
        parse_peer_files(FILES.cert, FILES.key, None)


@pytest.mark.failure("S17")
def test_weak_or_unreadable_secrets_do_not_start(tmp_path: Path) -> None:
    """And the message does not tell the secret."""
    with pytest.raises(ConfigError, match="S must have at least 32 bytes") as error:
        read_secrets("S", {"S": "guessable"})
    assert "guessable" not in str(error.value)
    (tmp_path / "raw").write_bytes(b"\xff" * 40)
    with pytest.raises(ConfigError, match="not UTF-8; write it in hex"):
        read_secrets("S", {"S_FILE": str(tmp_path / "raw")})
    with pytest.raises(ConfigError, match=r"S_FILE: cannot read .*: No such file"):
        read_secrets("S", {"S_FILE": str(tmp_path / "none")})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"region": "e u"}, "--region 'e u' must be"),
        ({"peers": {"eu": "http://h"}}, "--peer eu is this region itself"),
        ({"cors_origins": ("chat.example",)}, "--cors-origin chat.example must be as a browser"),
        ({"cors_origins": ("https://a", "https://a/")}, "--cors-origin https://a/ must be as"),
        ({"host": "0.0.0.0"}, "--dev-no-auth serves anybody, so it listens on loopback only"),
        ({"host": "example.org"}, "loopback only"),
        ({"peer_host": "0.0.0.0"}, "peers are taken on loopback only, not on 0"),
        (
            {"peer_host": "0.0.0.0", "jwt_secrets": (SECRET,)},
            "taken on 0.0.0.0 in clear text: give --pe",
        ),
        ({"peers": {"us": "http://h"}}, "--peer us=http://h would be reached in clear text"),
        ({"peers": {"us": "https://[::1]"}}, "--peer us=https://.* needs --peer-cert"),
        ({"peers": {"us": "http://u:p@[::1]"}}, "^--peer us: the URL of a peer has no user"),
        ({"peer_files": FILES, "peers": {"us": "ws://[::1]"}}, "give https:// or wss://"),
        ({"peer_files": FILES, "peer_insecure": True}, "--peer-insecure is for links without"),
        ({"peer_secret": b""}, "set PERDURE_PEER_SECRET"),
        ({"port": 0}, "--port 0 must be 1 to 65535"),
        ({"peer_port": 65_536}, "--peer-port 65536 must be 1 to 65535"),
        ({"port": 7, "peer_port": 7}, "--port and --peer-port are both 7"),
    ],
)
def test_settings_that_do_not_go_together(changes: dict[str, Any], message: str) -> None:
    """Each with what to do about it."""
    with pytest.raises(ConfigError, match=message):
        check(config(**changes))


def test_good_settings() -> None:
    """Outside loopback with grants, on loopback without."""
    check(config())
    check(config(host="0.0.0.0", behind_proxy=True, jwt_secrets=(SECRET,)))
    check(config(jwt_secrets=(SECRET,), peers={"us": "http://127.0.0.2:7"}))
    outside = {"peer_host": "0.0.0.0", "jwt_secrets": (SECRET,)}
    check(config(**outside, peer_files=FILES, peers={"us": "https://h", "ap": "wss://h"}))
    check(config(**outside, peer_insecure=True, peers={"us": "http://h", "ap": "wss://h"}))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback(host: str) -> None:
    """Only this machine can reach these."""
    assert is_loopback(host) and not is_loopback("10.0.0.1") and not is_loopback("a.b")


async def test_nothing_runs_without_assertions() -> None:
    """With ``python -O`` an invariant that is broken would go unnoticed: exit code 2."""
    command = (sys.executable, "-O", "-m", "perdure.regions.main", "--version")
    async with started(*command) as running:
        ended = await running.end()
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == "perdure: run it without -O: its assertions are needed\n"


# Keys of the disk

KEY = bytes(range(32))
OTHER = bytes(range(224, 256))


@pytest.mark.parametrize(
    "text",
    [
        f"{KEY.hex()}\n{OTHER.hex().upper()}\n",
        f"\n  {base64.b64encode(KEY).decode()} \r\n\n{base64.urlsafe_b64encode(OTHER).decode()}",
        f"{base64.b64encode(KEY).decode().rstrip('=')}\n{OTHER.hex()}",
    ],
)
def test_storage_keys_are_lines(tmp_path: Path, text: str) -> None:
    """In hex or base64, from the environment or a file, in their order."""
    path = tmp_path / "keys"
    path.write_text(text)
    assert read_storage_keys({"PERDURE_STORAGE_KEY": text}) == (KEY, OTHER)
    assert read_storage_keys({"PERDURE_STORAGE_KEY_FILE": str(path)}) == (KEY, OTHER)
    assert read_storage_keys({}) == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is set, and holds no key"),
        (" \n\n", "is set, and holds no key"),
        (f"{KEY.hex()}\nsecret-that-is-short", "line 2: must be 32 bytes in hex or base64"),
        ("x" * 64, "line 1: must be 32 bytes"),
        (KEY.hex() + "00", "line 1: must be 32 bytes"),
        (f"{KEY.hex()},{OTHER.hex()}", "line 1: must be 32 bytes"),
        (f"{KEY.hex()}\n{base64.b64encode(KEY).decode()}", "holds a key twice"),
        ("\n".join(bytes([n] * 32).hex() for n in range(STORAGE_KEYS_MAX + 1)), "holds 17 keys"),
    ],
)
def test_wrong_storage_keys_are_refused(text: str, message: str) -> None:
    """The message tells the line, and nothing of a key; one that is set and empty is refused, for
    then somebody believes that the disk is encrypted."""
    with pytest.raises(ConfigError, match=message) as refused:
        read_storage_keys({"PERDURE_STORAGE_KEY": text})
    assert not any(line and line in str(refused.value) for line in text.split())


def test_a_storage_key_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """Nothing of this begins in the clear by mistake."""
    with pytest.raises(ConfigError, match="PERDURE_STORAGE_KEY_FILE: cannot read"):
        read_storage_keys({"PERDURE_STORAGE_KEY_FILE": str(tmp_path / "none")})
    with pytest.raises(ConfigError, match="names no file"):
        read_storage_keys({"PERDURE_STORAGE_KEY_FILE": ""})
    assert STORAGE_KEYS_MAX == 16
    assert (
        len(
            read_storage_keys(
                {
                    "PERDURE_STORAGE_KEY": "\n".join(
                        bytes([n] * 32).hex() for n in range(STORAGE_KEYS_MAX)
                    )
                }
            )
        )
        == STORAGE_KEYS_MAX
    )


# TLS of clients


def test_clients_in_clear_text_need_a_word(tmp_path: Path) -> None:
    """Beyond loopback they are served over TLS, or behind a proxy that ends it, as a flag says."""
    outside = {"host": "10.0.0.1", "jwt_secrets": (SECRET,)}
    with pytest.raises(ConfigError, match="in clear text: give --tls-cert"):
        check(config(**outside))
    check(config(**outside, behind_proxy=True))
    check(config(**outside, tls=(tmp_path / "c", tmp_path / "k")))
    with pytest.raises(ConfigError, match="there is --tls-cert"):
        check(config(tls=(tmp_path / "c", tmp_path / "k"), behind_proxy=True))


def test_files_of_tls_are_read_at_the_start(tmp_path: Path) -> None:
    """Both or none; what is missing or no certificate is told with its name."""
    assert parse_tls(None, None) is None
    with pytest.raises(ConfigError, match="go together"):
        parse_tls(tmp_path / "c", None)
    (tmp_path / "c").write_text("no certificate")
    with pytest.raises(ConfigError, match=f"--tls-cert {tmp_path}/c"):
        parse_tls(tmp_path / "c", tmp_path / "k")
