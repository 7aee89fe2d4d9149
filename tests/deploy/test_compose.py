"""The compose file of three regions."""

import json
import shutil
import subprocess

import pytest
import yaml
from jsonschema import Draft201909Validator
from perdure.api.edge import OPEN_PATHS
from perdure.regions.certificates import load
from perdure.regions.config import PeerFiles, read_secrets
from perdure.replication.limits import DRAIN_S_MAX

from tests.deploy.chart import DEPLOY, ROOT
from tests.deploy.files import text

COMPOSE = yaml.safe_load(text("compose/compose.yaml"))
SCHEMA = json.loads((ROOT / "tests/deploy/compose-spec.json").read_text(encoding="utf-8"))
SERVICES = COMPOSE["services"]
REGIONS = {name: service for name, service in SERVICES.items() if name != "proxy"}


def arguments(name):
    """The flags of a region's command: name to values."""
    found = {}
    for argument in REGIONS[name]["command"][1:]:
        flag, _, value = argument.partition("=")
        found.setdefault(flag, []).append(value)
    return found


def test_fits_the_specification():
    """The file fits the description of compose files, which refuses what it does not know."""
    assert [e.message for e in Draft201909Validator(SCHEMA).iter_errors(COMPOSE)] == []
    wrong = {**COMPOSE, "services": {"eu": {**SERVICES["eu"], "read_onyl": True}}}
    assert not Draft201909Validator(SCHEMA).is_valid(wrong)


@pytest.mark.parametrize("name", REGIONS)
def test_regions_name_each_other(name):
    """Each region knows the two others by the names of their services, by TLS, and only one is the
    first."""
    given = arguments(name)
    assert given["--region"] == [name]
    assert given["--data"] == [f"/var/lib/perdure/{name}"]
    assert sorted(given["--peer"]) == sorted(f"{o}=https://{o}:7201" for o in REGIONS if o != name)
    # For good, it would have one whose disk is lost answer before it has caught up.
    assert "--bootstrap" not in arguments(name)


def test_proxies_are_the_network():
    """Whose word for an address is taken is the network that clients come in through."""
    (network,) = COMPOSE["networks"]["clients"]["ipam"]["config"]
    for name in REGIONS:
        assert arguments(name)["--trusted-proxy"] == [network["subnet"]]
    assert COMPOSE["networks"]["peers"]["internal"] is True
    assert "peers" not in SERVICES["proxy"]["networks"]


@pytest.mark.parametrize("name", SERVICES)
def test_services_may_do_little(name):
    """Nothing is written but where it is meant to, no privilege is had or got, and what is asked to
    stop has time for it."""
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert int(service["stop_grace_period"].removesuffix("s")) > DRAIN_S_MAX
    assert not service.get("privileged")
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_volumes_and_secrets_are_declared():
    """What services use is declared: each region its own volume, and its own key."""
    for name, service in REGIONS.items():
        assert service["volumes"] == [f"{name}:/var/lib/perdure"]
        assert name in COMPOSE["volumes"]
        used = [s if isinstance(s, str) else s["source"] for s in service["secrets"]]
        assert set(used) <= COMPOSE["secrets"].keys()
        assert {f"{name}-cert", f"{name}-key"} == {u for u in used if u[:2] in REGIONS}
        paths = {s if isinstance(s, str) else s["target"] for s in service["secrets"]}
        given = arguments(name)
        files = [*given["--peer-cert"], *given["--peer-key"], *given["--peer-ca"]]
        files += [v for k, v in service["environment"].items() if k.endswith("_FILE")]
        assert {f"/run/secrets/{p}" for p in paths} == set(files)


def test_ready_before_the_proxy():
    """The proxy waits for regions that are ready, at a path that needs no grant."""
    for name, service in REGIONS.items():
        asked = service["healthcheck"]["test"][-1]
        assert any(f"127.0.0.1:7101{path}'" in asked for path in OPEN_PATHS)
        assert SERVICES["proxy"]["depends_on"][name] == {"condition": "service_healthy"}


def test_secrets_are_made(tmp_path):
    """The script makes every file that the compose file names, each good for its purpose, and makes
    none anew; nobody else can read them."""
    script = shutil.copy(DEPLOY / "compose/make-secrets", tmp_path)
    subprocess.run([script], check=True, capture_output=True)
    made = tmp_path / "secrets"
    first = {path.name: path.read_bytes() for path in made.iterdir()}
    for secret in COMPOSE["secrets"].values():
        path = tmp_path / secret["file"]
        assert path.stat().st_mode & 0o077 == 0, path.name
    for name in ("peer-secret", "jwt-secret"):
        assert read_secrets("X", {"X_FILE": str(made / name)})
    for region in REGIONS:
        cert, key = made / f"{region}-cert.pem", made / f"{region}-key.pem"
        load(PeerFiles(cert, key, made / "peer-ca.pem"), region)
    subprocess.run([script], check=True, capture_output=True)
    assert {path.name: path.read_bytes() for path in made.iterdir()} == first
