"""The files of mutual TLS: what does not do is told before anything starts, in plain words."""

import logging
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from perdure.regions.certificates import load, regions_of, stamp, warnings
from perdure.regions.config import ConfigError, PeerFiles
from perdure.regions.transport_tls import PeerTls
from perdure.replication.limits import CERTIFICATE_FILE_BYTES_MAX, CERTIFICATES_LOOK_S

from tests.regions.authority import Authority, pem, put
from tests.regions.conftest import ManualClock

DAY_MS = 86_400_000


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def files(authority: Authority, tmp_path: Path) -> PeerFiles:
    return authority.issue(tmp_path, "eu.perdure", "host.example")


def refused(files: PeerFiles, region: str = "eu") -> str:
    with pytest.raises(ConfigError) as error:
        load(files, region)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_good_files_do(files: PeerFiles) -> None:
    """A certificate may name hosts besides, and the authorities may be several."""
    load(files, "eu")
    put(files.ca, files.ca.read_bytes() + Authority().pem)
    load(files, "eu")


@pytest.mark.failure("S8", "S17")
def test_what_does_not_do_is_named(authority: Authority, files: PeerFiles, tmp_path: Path) -> None:
    """Each file by its flag and its path, with what is wrong with it."""
    none = tmp_path / "none"
    for changed, flag in (
        (PeerFiles(none, files.key, files.ca), "--peer-cert"),
        (PeerFiles(files.cert, none, files.ca), "--peer-key"),
        (PeerFiles(files.cert, files.key, none), "--peer-ca"),
    ):
        assert refused(changed) == f"{flag}: cannot read {none}: No such file or directory"
    assert "Is a directory" in refused(PeerFiles(tmp_path, files.key, files.ca))
    noise = tmp_path / "noise"
    noise.write_bytes(b"-----BEGIN noise")
    assert "holds no certificates" in refused(PeerFiles(noise, files.key, files.ca))
    assert "holds no key in PEM" in refused(PeerFiles(files.cert, noise, files.ca))
    assert "holds no certificates" in refused(PeerFiles(files.cert, files.key, noise))
    noise.write_bytes(b"x" * (CERTIFICATE_FILE_BYTES_MAX + 1))
    assert "longer than 1,048,576 bytes" in refused(PeerFiles(noise, files.key, files.ca))
    # The two are easily mixed up.
    assert "is no authority" in refused(PeerFiles(files.cert, files.key, files.cert))
    other = authority.issue(tmp_path / "other", "eu.perdure")
    assert f"{other.key} is not the key of --peer-cert {files.cert}" in refused(
        PeerFiles(files.cert, other.key, files.ca)
    )
    assert "does not name us.perdure" in refused(files, "us")
    assert "'eu.perdure', 'host.example'" in refused(files, "us")
    assert "names nothing" in refused(authority.issue(tmp_path / "2"))


def test_an_encrypted_key_is_refused_and_nobody_is_asked(files: PeerFiles) -> None:
    """A region starts without a person at its terminal."""
    put(files.key, pem(ec.generate_private_key(ec.SECP256R1()), b"password"))
    assert "is encrypted" in refused(files)


@pytest.mark.parametrize(
    ("purpose", "missing"),
    [
        (ExtendedKeyUsageOID.SERVER_AUTH, "clientAuth"),
        (ExtendedKeyUsageOID.CLIENT_AUTH, "serverAuth"),
    ],
)
def test_a_certificate_is_for_both_ends(
    authority: Authority, tmp_path: Path, purpose: object, missing: str
) -> None:
    """Else links would come to be in one direction only."""
    assert f"is not for {missing}" in refused(
        authority.issue(tmp_path, "eu.perdure", purposes=(purpose,))
    )
    load(authority.issue(tmp_path, "eu.perdure", purposes=()), "eu")


def test_dates_are_told_and_stop_nothing(authority: Authority, tmp_path: Path) -> None:
    """Before, in the last tenth of its life, and after."""
    files = authority.issue(tmp_path, "eu.perdure", days=(-1, 9))
    clock = ManualClock()
    begin_ms = int(load_begin(files) * 1000)
    for day, said in ((-0.5, "is not valid before"), (5, None), (9.5, "expires on"), (10.5, "has")):
        clock.wall = begin_ms + int(day * DAY_MS)
        found = [one for one in warnings(files, clock.wall) if "--peer-cert" in one]
        assert [said in one for one in found if said is not None] == ([True] if said else [])
        PeerTls(files, "eu", clock)


def load_begin(files: PeerFiles) -> float:
    from cryptography import x509

    certificate = x509.load_pem_x509_certificate(files.cert.read_bytes())
    return certificate.not_valid_before_utc.timestamp()


@pytest.mark.failure("S8")
def test_names_of_regions_in_a_certificate() -> None:
    """DNS names of this form alone, as they are written."""
    names = (
        *(
            ("DNS", "eu.perdure"),
            ("DNS", "eu"),
            ("DNS", "us.perdure.example"),
            ("DNS", "A.perdure"),
        ),
        *(("URI", "ap.perdure"), ("email", "x.perdure"), ("DNS", "*.perdure")),
    )
    assert regions_of({"subjectAltName": names}) == {"eu", "A", "*"}
    assert regions_of({"subject": ((("commonName", "eu.perdure"),),)}) == frozenset()
    assert regions_of({}) == regions_of(None) == frozenset()


def test_files_are_looked_at_once_a_minute(
    authority: Authority, files: PeerFiles, caplog: pytest.LogCaptureFixture
) -> None:
    """However many links are made; and read only when one has changed."""
    clock = ManualClock()
    tls = PeerTls(files, "eu", clock)
    first = tls.dialing()
    clock.pass_ms(CERTIFICATES_LOOK_S * 1000)
    assert tls.dialing() is first
    authority.issue(files.cert.parent, "eu.perdure")
    clock.pass_ms(CERTIFICATES_LOOK_S * 1000 - 1)
    assert tls.dialing() is first
    clock.pass_ms(1)
    assert (second := tls.dialing()) is not first
    assert tls.dialing() is second
    with caplog.at_level(logging.ERROR):
        files.ca.unlink()
        assert stamp(files) is None
        clock.pass_ms(CERTIFICATES_LOOK_S * 1000)
        assert tls.dialing() is second
    assert "the certificates stay as they were: --peer-ca: cannot read" in caplog.text
