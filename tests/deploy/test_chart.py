"""The Helm chart."""

import json
import re

import pytest
import yaml
from jsonschema import Draft7Validator, Draft202012Validator
from perdure.api.edge import OPEN_PATHS
from perdure.replication.limits import DRAIN_S_MAX

from tests.deploy.chart import (
    CHART,
    EXAMPLES,
    FUNCTIONS,
    ROOT,
    WORDS,
    ChartRefused,
    calls,
    checked,
    load,
    objects,
    rendered,
)
from tests.deploy.files import needs

pytestmark = needs("go_template")
LEAST = {
    "region": "eu",
    "secrets": {"existingSecret": "s"},
    "peerTls": {"existingSecret": "t"},
}
EU, ZONES = (load(path) for path in EXAMPLES)
KUBERNETES = json.loads((ROOT / "tests/deploy/kubernetes.json").read_text(encoding="utf-8"))
# Whose description is not Kubernetes' own; they are checked here by what stands in them.
CUSTOM = {"Certificate", "ServiceMonitor"}


def one(made, kind, suffix=""):
    """The object of a kind, and of a name that ends so."""
    (found,) = (o for o in made if o["kind"] == kind and o["metadata"]["name"].endswith(suffix))
    return found


def pod(made):
    return one(made, "StatefulSet")["spec"]["template"]["spec"]


@pytest.mark.parametrize("given", [LEAST, EU, ZONES], ids=["least", "eu", "zones"])
def test_objects_are_kubernetes_own(given, tmp_path):
    """Every object fits Kubernetes' own description, in which unknown fields are refused."""
    made = objects(given, tmp_path)
    assert {"StatefulSet", "Service", "PodDisruptionBudget"} <= {o["kind"] for o in made}
    for made_object in made:
        if made_object["kind"] in CUSTOM:
            continue
        schema = {**KUBERNETES["kinds"][made_object["kind"]], **KUBERNETES}
        faults = [e.message for e in Draft202012Validator(schema).iter_errors(made_object)]
        assert faults == [], made_object["kind"]


def test_description_refuses():
    """The description that objects are held against is a strict one: a slip in a name is found."""
    schema = {**KUBERNETES["kinds"]["Service"], **KUBERNETES}
    wrong = {"apiVersion": "v1", "kind": "Service", "spec": {"publishNotReady": True}}
    assert not Draft202012Validator(schema).is_valid(wrong)


def test_every_switch_on(tmp_path):
    """With cert-manager, an Ingress and the operator of Prometheus there is an object for each."""
    made = objects(EU, tmp_path)
    certificate = one(made, "Certificate")["spec"]
    assert certificate["dnsNames"] == ["eu.perdure"]
    assert certificate["usages"] == ["server auth", "client auth"]
    mounted = {v["name"]: v.get("secret", {}).get("secretName") for v in pod(made)["volumes"]}
    assert mounted["peer-tls"] == certificate["secretName"]
    monitor = one(made, "ServiceMonitor")
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    (endpoint,) = monitor["spec"]["endpoints"]
    assert (endpoint["path"], endpoint["port"]) == ("/metrics", "ops")
    # Which alerts ask for.
    (as_job,) = endpoint["relabelings"]
    assert (as_job["targetLabel"], as_job["replacement"]) == ("job", "perdure")
    ingress = one(made, "Ingress")
    assert (
        ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/proxy-buffering"] == "off"
    )
    paths = [p["path"] for p in ingress["spec"]["rules"][0]["http"]["paths"]]
    assert "/v1" in paths
    assert not [path for path in paths if path.startswith(("/admin", "/metrics"))]


def test_pod_may_do_nothing_else(tmp_path):
    """Not root, no capability, nothing to write but the volume and ``/tmp``, no token."""
    spec = pod(objects(LEAST, tmp_path))
    (container,) = spec["containers"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    writable = {m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")}
    assert writable == {"/var/lib/perdure", "/tmp"}
    assert not [e for e in container["env"] if "secretKeyRef" in str(e)], "secrets are files"


def test_ports_agree(tmp_path):
    """The ports of flags, container, Services and policy are the same; probes ask what there is."""
    made = objects(EU, tmp_path)
    (container,) = pod(made)["containers"]
    ports = {p["name"]: p["containerPort"] for p in container["ports"]}
    flags = dict(re.findall(r"--(\w*-?port)=(\d+)", " ".join(container["args"])))
    assert ports == {
        "clients": int(flags["port"]),
        "peers": int(flags["peer-port"]),
        "ops": int(flags["ops-port"]),
    }
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        asked = container[probe]["httpGet"]
        assert asked["path"] in OPEN_PATHS
        assert asked["port"] == "ops"
    for service in (o for o in made if o["kind"] == "Service"):
        assert {p["targetPort"] for p in service["spec"]["ports"]} <= ports.keys()
    for rule in one(made, "NetworkPolicy")["spec"]["ingress"]:
        assert {p["port"] for p in rule["ports"]} <= ports.keys()


def test_one_pod_and_its_disk(tmp_path):
    """A region is one process and its disk: one pod, whose volume outlives it, and which peers
    reach also while it is not ready."""
    made = objects(LEAST, tmp_path)
    spec = one(made, "StatefulSet")["spec"]
    assert spec["replicas"] == 1
    assert spec["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] == "Retain"
    assert spec["volumeClaimTemplates"][0]["spec"]["accessModes"] == ["ReadWriteOncePod"]
    assert one(made, "Service", "-peers")["spec"]["publishNotReadyAddresses"] is True
    assert "publishNotReadyAddresses" not in one(made, "Service", "perdure")["spec"]
    assert one(made, "Service", "-headless")["metadata"]["name"] == spec["serviceName"]
    selector = spec["selector"]["matchLabels"]
    for service in (o for o in made if o["kind"] == "Service"):
        assert service["spec"]["selector"] == selector
    assert selector.items() <= spec["template"]["metadata"]["labels"].items()


def test_drain_fits(tmp_path):
    """Between the beginning of the end and the kill is time for the hook and for the drain."""
    spec = pod(objects(LEAST, tmp_path))
    (container,) = spec["containers"]
    waits = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert spec["terminationGracePeriodSeconds"] > waits + DRAIN_S_MAX
    # Not ready is seen while the hook waits.
    probe = container["readinessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] <= waits


def test_tls_of_clients(tmp_path):
    """Clients come by TLS of the pod's own, or by a proxy's; never in clear text without a word."""
    in_front, own = (pod(objects(v, tmp_path))["containers"][0] for v in (LEAST, ZONES))
    assert "--behind-proxy" in in_front["args"]
    assert "--behind-proxy" not in own["args"]
    assert "--tls-cert=/etc/perdure/tls/tls.crt" in own["args"]
    assert "/etc/perdure/tls" in {m["mountPath"] for m in own["volumeMounts"]}


def test_releases_side_by_side(tmp_path):
    """Two releases in one namespace share no name, and select no pod of each other."""
    first, second = (objects(ZONES, tmp_path, name) for name in ("za", "zb"))
    names = [{(o["kind"], o["metadata"]["name"]) for o in made} for made in (first, second)]
    assert not names[0] & names[1]
    selector = one(first, "Service", "za")["spec"]["selector"]
    labels = one(second, "StatefulSet")["spec"]["template"]["metadata"]["labels"]
    assert not selector.items() <= labels.items()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({**LEAST, "region": ""}, "region"),
        ({**LEAST, "region": "e u"}, "region"),
        ({**LEAST, "secrets": {}}, "secrets.existingSecret"),
        ({**LEAST, "regoin": "eu"}, "regoin"),
        ({**LEAST, "peers": [{"name": "us", "url": "http://us:7201"}]}, "peers.0.url"),
        ({**LEAST, "peers": [{"name": "us"}]}, "peers.0"),
        ({**LEAST, "ingress": {"enabled": True}}, "ingress.host"),
        ({**LEAST, "ingress": {"paths": ["/admin"]}}, "ingress.paths"),
        ({**LEAST, "ingress": {"paths": ["/"]}}, "ingress.paths"),
        ({**LEAST, "podDisruptionBudget": {"maxUnavailable": 2}}, "maxUnavailable"),
        ({**LEAST, "grants": {"jwks": "http://keys.example"}}, "grants.jwks"),
        ({**LEAST, "service": {"port": 0}}, "service.port"),
    ],
)
def test_wrong_values_are_refused(given, says):
    """What cannot work is refused before anything is made, and the value is named."""
    with pytest.raises(ChartRefused, match=re.escape(says)):
        checked(given)


def test_what_only_templates_know_is_refused(tmp_path):
    """A region without a certificate, and cert-manager without who signs, are refused as well."""
    with pytest.raises(ChartRefused, match=r"peerTls\.existingSecret: name the Secret"):
        rendered({**LEAST, "peerTls": {}}, tmp_path)
    with pytest.raises(ChartRefused, match=r"issuerRef\.name: who signs"):
        rendered({**LEAST, "peerTls": {"certManager": {"enabled": True}}}, tmp_path)


def keys(value, path=()):
    """Every path of keys in nested maps."""
    for key, inner in value.items():
        yield (*path, key)
        if isinstance(inner, dict):
            yield from keys(inner, (*path, key))


def test_schema_describes_the_values():
    """Each value has a place in the schema, and each in the schema a value to begin with."""
    schema = load(CHART / "values.schema.json")
    Draft7Validator.check_schema(schema)

    def described(value, path=()):
        for key, inner in value.get("properties", {}).items():
            yield (*path, key)
            yield from described(inner, (*path, key))

    free = {("resources",), ("ingress", "annotations")}
    listed = {
        p for p in keys(load(CHART / "values.yaml")) if p[:-1] not in free and p[:1] not in free
    }
    there = {p for p in described(schema) if p[:1] not in free}
    assert listed | {p for p in free if len(p) == 2} == there - {("global",)} - {("resources",)}


def test_templates_keep_to_what_is_known():
    """Templates call only what Go's engine and Helm have in common, so that both make the same."""
    for path in (CHART / "templates").iterdir():
        assert calls(path.read_text(encoding="utf-8")) <= FUNCTIONS | WORDS, path.name


def test_versions():
    """The chart's version of the application is the project's, and the image's tag is that."""
    described = load(CHART / "Chart.yaml")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'\nversion = "{described["appVersion"]}"\n' in project
    assert load(CHART / "values.yaml")["image"]["tag"] == described["appVersion"]


def test_notes(tmp_path):
    """What is said after an installation names the objects that were made."""
    notes = rendered(EU, tmp_path)["NOTES.txt"]
    assert "perdure-peers, port 7201" in notes
    assert "bootstrap=false" in notes
    assert yaml.safe_load(rendered(LEAST, tmp_path)["certificate.yaml"]) is None
