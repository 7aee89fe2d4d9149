"""The other regions from a file that is read again, and links that begin and end with it."""

import signal
from pathlib import Path

import pytest
from perdure.regions.config import Config, ConfigError
from perdure.regions.peers_file import read_peers_file, with_peers
from perdure.replication.admission import Draft
from perdure.replication.limits import PEERS_FILE_BYTES_MAX, PEERS_MAX

from tests.regions.linked import Linked, linked
from tests.regions.processes import Served

GOOD = "http://127.0.0.1:7201"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "peers"


def config(file: Path, **more: object) -> Config:
    settings = {"region": "eu", "data": file.parent, "port": 1, "peer_port": 2, "peers_file": file}
    return Config(**{**settings, **more})  # type: ignore[arg-type]


def test_what_a_file_says(file: Path) -> None:
    """A region a line; empty lines and those for people say nothing; flags say others besides."""
    file.write_text(f"\n# the others\n us={GOOD} \r\n\nap=http://127.0.0.1:7203\n")
    assert read_peers_file(file) == {"us": GOOD, "ap": "http://127.0.0.1:7203"}
    found = with_peers(config(file, peers={"sa": "http://127.0.0.1:7204"}))
    assert list(found.peers) == ["sa", "us", "ap"]
    assert with_peers(config(file, peers_file=None)).peers == {}
    file.write_text("")
    assert with_peers(config(file)).peers == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("us", "'us' must be NAME=URL"),
        ("us=ftp://127.0.0.1", "must be NAME=URL"),
        (f"us={GOOD}\nus={GOOD}", "us is given twice"),
        (f"eu={GOOD}", "--peer eu is this region itself"),
        (f"sa={GOOD}", "--peer sa stands in"),
        ("us=http://10.0.0.1:7201", "would be reached in clear text"),
        ("\n".join(f"r{n}={GOOD}" for n in range(PEERS_MAX)), f"65 peers; {PEERS_MAX} is the most"),
        ("#" * (PEERS_FILE_BYTES_MAX + 1), f"is longer than {PEERS_FILE_BYTES_MAX} bytes"),
        (b"\xff", "is not UTF-8"),
        (None, "No such file"),
    ],
)
def test_a_file_that_does_not_do(file: Path, text: str | bytes | None, said: str) -> None:
    """In words that name the file, or the region; whatever else it says is not taken either."""
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=said):
        with_peers(config(file, peers={"sa": "http://127.0.0.1:7204"}))


async def both(regions: Linked) -> None:
    await regions.until(
        lambda: regions.state("eu", "us") == "up" and regions.state("us", "eu") == "up"
    )


async def test_a_peer_whose_url_has_changed_is_dialled_there(tmp_path: Path) -> None:
    """Its link ends and begins anew; one that is the same stays open, and one that left and came
    back at once is linked again."""
    async with linked(tmp_path, {"eu": ["us"], "us": ["eu"]}) as regions:
        await both(regions)
        eu, url = regions.nodes["eu"], regions.configs["eu"].peers["us"]
        for peers, more in (
            ({"us": url}, 0),
            ({"us": url.replace("127.0.0.1", "localhost")}, 1),
        ):
            before = regions.counters("eu")["links_opened"]
            eu.configure_peers(peers)
            await eu.send("s", Draft("user", id=f"m{more}", text="x"))
            await regions.until(regions.same)
            await regions.until(
                lambda n=before + more: regions.counters("eu")["links_opened"] == n  # type: ignore[misc]
            )
        eu.configure_peers({})
        assert eu.gossip.peers == {} and eu.regions()["peers"] == []
        eu.configure_peers({"us": url})
        await both(regions)
        await eu.send("s", Draft("user", id="again", text="x"))
        await regions.until(regions.same)
        assert regions.counters("eu")["links_broken"] == 0
        assert regions.counters("us")["links_broken"] == 0


async def test_a_mistake_in_the_file_changes_nothing(tmp_path: Path) -> None:
    """SIGHUP says in the log what is wrong; then the mended file counts."""
    region = Served(tmp_path / "eu")
    file = tmp_path / "peers"
    file.write_text(f"us={GOOD}\n")
    async with region.serve("--peers-file", file, "--bootstrap") as running:
        for text, said, names in (
            ("us", b"the peers stay as they are", ["us"]),
            (f"ap={GOOD}", b"the other regions are now: ap", ["ap"]),
        ):
            file.write_text(text)
            running.signal(signal.SIGHUP)
            assert running.process.stderr is not None
            while said not in (line := await running.process.stderr.readline()):
                assert line
            known = await region.ask("GET", "/v1/regions")
            assert [peer["region"] for peer in known["peers"]] == names
        running.signal(signal.SIGTERM)
        assert (await running.end()).code == 0
