"""When certificates end, as operators are told."""

from datetime import UTC, datetime
from pathlib import Path

from perdure.regions.config import Config
from perdure.regions.expiry import expiry_of

from tests.regions.authority import Authority

DAY_S = 86_400


def test_the_end_of_each_certificate(tmp_path: Path) -> None:
    """By port; of a file that was replaced the new one, and of one that is gone nothing."""
    authority = Authority()
    files = authority.issue(tmp_path, "eu.perdure", days=(-1, 9))
    config = Config(region="eu", data=tmp_path, port=1, peer_port=2, peer_files=files)
    expiry = expiry_of(config)
    now_s = datetime.now(UTC).timestamp()
    (port, end_s), *others = expiry.ends_s().items()
    assert (port, others) == ("peers", [])
    assert end_s is not None and 8 * DAY_S < end_s - now_s <= 9 * DAY_S
    authority.issue(tmp_path, "eu.perdure", "other.name", days=(-1, 30))
    end_s = expiry.ends_s()["peers"]
    assert end_s is not None and 29 * DAY_S < end_s - now_s <= 30 * DAY_S
    files.cert.unlink()
    assert expiry.ends_s() == {"peers": None}
    files.cert.write_text("no certificate")
    assert expiry.ends_s() == {"peers": None}
