"""Grants signed by keys of a key set: which keys, rotated, and from where they are read."""

import asyncio
import base64
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from perdure.api.grants import Expected, Grants, Keys, UnknownKey
from perdure.api.guarding import Rules, build_door
from perdure.regions.clock import SystemClock
from perdure.regions.key_sets import KeySet, fetch
from perdure.replication.errors import Refusal
from perdure.replication.limits import KEYS_BYTES_MAX, KEYS_HURRY_S

SECRET = b"s" * 32
MADE: dict[str, Any] = {
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "RS256": rsa.generate_private_key(65_537, 2_048),
}


def public(algorithm: str, key: Any = None, **more: Any) -> dict[str, Any]:
    """The JWK of a key."""
    signer = jwt.get_algorithm_by_name(algorithm)
    value = signer.to_jwk((key or MADE[algorithm]).public_key(), as_dict=True)
    return {**value, "kid": algorithm, **more}


def key_set(*keys: dict[str, Any]) -> bytes:
    """A JWK set."""
    return json.dumps({"keys": list(keys)}).encode()


def grant(algorithm: str, key: Any = None, kid: str | None = "", **said: Any) -> str:
    """A grant that a key has signed."""
    claims = {"sub": "ana", "exp": int(time.time()) + 600, "can": {"*": ["read"]}, **said}
    headers = {} if kid is None else {"kid": kid or algorithm}
    return jwt.encode(claims, key or MADE[algorithm], algorithm=algorithm, headers=headers)


def grants(*keys: dict[str, Any], secret: bool = False) -> Grants:
    """What is checked by these keys."""
    found = Grants([SECRET] if secret else [], Expected())
    found.take(Keys.read(key_set(*keys)))
    return found


ALL = [public(algorithm) for algorithm in MADE]


@pytest.mark.failure("S1")
@pytest.mark.parametrize("algorithm", MADE)
def test_good(algorithm):
    """By its kid, and without one by each key of its algorithm."""
    for kid in (algorithm, None):
        found = grants(*ALL).check(f"Bearer {grant(algorithm, kid=kid)}")
        assert (found.subject, found.signer) == ("ana", algorithm)


@pytest.mark.failure("S1")
@pytest.mark.parametrize("algorithm", MADE)
def test_keys_are_not_confused(algorithm):
    """A public key is no secret, no key signs by another's algorithm, and no secret by a key's."""
    pem = (
        MADE[algorithm]
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    head = base64.urlsafe_b64encode(json.dumps({"alg": "HS256", "kid": algorithm}).encode())
    body = grant(algorithm).split(".")[1]
    text = head.rstrip(b"=") + b"." + body.encode()
    mac = jwt.get_algorithm_by_name("HS256")
    forged = mac.sign(text, pem)
    token = text.decode() + "." + base64.urlsafe_b64encode(forged).rstrip(b"=").decode()
    for secret in (False, True):
        with pytest.raises(Refusal, match="unauthorized"):
            grants(*ALL, secret=secret).check(f"Bearer {token}")
    other = next(name for name in MADE if name != algorithm)
    for kid in (other, "", None):
        wrong = grant(algorithm, MADE[algorithm], kid=other if kid == "" else kid)
        keys = [key for key in ALL if key["kid"] != algorithm]
        with pytest.raises((Refusal, UnknownKey)):
            grants(*keys).check(f"Bearer {wrong}")


@pytest.mark.failure("S1")
def test_unknown_keys():
    """A kid that is not configured is no key, whatever else the header offers."""
    stranger = ed25519.Ed25519PrivateKey.generate()
    claims = {"sub": "ana", "exp": int(time.time()) + 600}
    offered = public("EdDSA", stranger, kid="x")
    for headers in (
        {"kid": "x", "jwk": offered},
        {"kid": "x", "jku": "https://evil.example/jwks"},
        {"kid": "../../etc/passwd"},
    ):
        token = jwt.encode(claims, stranger, algorithm="EdDSA", headers=headers)
        with pytest.raises(UnknownKey):
            grants(*ALL).check(f"Bearer {token}")
    token = jwt.encode(claims, stranger, algorithm="EdDSA", headers={"kid": "EdDSA"})
    with pytest.raises(Refusal, match="unauthorized"):
        grants(*ALL).check(f"Bearer {token}")


WEAK: dict[str, dict[str, Any]] = {
    "a secret": {"kty": "oct", "k": "c2VjcmV0", "kid": "oct"},
    # S505: it is refused for that.
    "short RSA": public("RS256", rsa.generate_private_key(65_537, 1_024)),  # noqa: S505
    "another curve": public("ES256", ec.generate_private_key(ec.SECP384R1())),
    "for encryption": public("RS256", use="enc"),
    "no key": {"kty": "OKP", "crv": "Ed25519", "x": "AAAA", "kid": "a"},
    "nothing": {},
}


@pytest.mark.parametrize("key", WEAK.values(), ids=WEAK.keys())
def test_keys_that_are_left_out(key):
    """Weak and foreign keys check nothing; a set of nothing else is none."""
    with pytest.raises(ValueError, match="no key"):
        Keys.read(key_set(key))
    assert Keys.read(key_set(key, public("EdDSA"))).by_id.keys() == {"EdDSA"}


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"keys":1}', b'{"keys":[]}', b"\xff"])
def test_what_is_no_key_set(text):
    """It is refused as a whole."""
    with pytest.raises(ValueError, match=r"JWK set|no key|line|codec"):
        Keys.read(text)


@pytest.mark.failure("S3")
async def test_rotation(serve):
    """Old and new keys together; a key that is gone is good no more, also for what goes on."""
    old, new = MADE["EdDSA"], ed25519.Ed25519PrivateKey.generate()
    checking = grants(public("EdDSA", old, kid="old"))
    head = [("authorization", f"Bearer {grant('EdDSA', old, 'old')}")]
    fresh = [("authorization", f"Bearer {grant('EdDSA', new, 'new')}")]
    async with serve(grants=checking) as region:
        stream = await region.follow("s", headers=head)
        await stream.events()
        (await region.request("GET", "/v1/sessions", None, fresh)).assert_problem(
            401, "unauthorized"
        )
        both = [public("EdDSA", old, kid="old"), public("EdDSA", new, kid="new")]
        checking.take(Keys.read(key_set(*both)))
        for each in (head, fresh):
            assert (await region.request("GET", "/v1/sessions", None, each)).status == 200
        checking.take(Keys.read(key_set(both[1])))
        (await region.request("GET", "/v1/sessions", None, head)).assert_problem(
            401, "unauthorized"
        )
        for look in region.node.each_second:
            look()
        assert (await stream.event())["event"] == "expired"


class Clock(SystemClock):
    """A clock that stands still."""

    ms = 0

    def monotonic_ms(self) -> int:
        """As it was put."""
        return self.ms


async def test_a_new_key_is_found_at_once(serve, tmp_path):
    """A grant by a key that is not known has the set read again; not for each such grant."""
    path = tmp_path / "jwks.json"
    path.write_bytes(key_set(public("EdDSA")))
    async with serve() as region:
        checking, clock = Grants(), Clock()

        def take(text: bytes) -> None:
            checking.take(Keys.read(text))

        keys = KeySet(str(path), take, region.node.storage, clock)
        await keys.read()
        door, _ = build_door(region.node, Rules(checking, None, keys.hurry))
        assert door.guard is not None
        path.write_bytes(key_set(public("EdDSA"), public("ES256")))
        with pytest.raises(Refusal):
            await door.authority(door.guard, f"Bearer {grant('ES256')}")
        clock.ms += KEYS_HURRY_S * 1000
        found = await door.authority(door.guard, f"Bearer {grant('ES256')}")
        assert found.signer == "ES256"
        # The provider is gone: who was let in still is, also after a restart.
        path.unlink()
        assert not await keys.read()
        assert checking.knows("ES256")
        later = Grants()
        again = KeySet(
            str(path), lambda text: later.take(Keys.read(text)), region.node.storage, clock
        )
        again.recall()
        assert later.knows("ES256")


async def test_where_sets_are_read_from():
    """A URL: whole, and neither too long nor another answer; no redirect is followed."""
    answers = {
        "/good": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        "/long": b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + b"x" * (KEYS_BYTES_MAX + 1),
        "/none": b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
        "/else": b"HTTP/1.1 302 Found\r\nlocation: /good\r\ncontent-length: 0\r\n\r\n",
    }

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(answers[head.split()[1].decode()])
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    assert await fetch(f"{base}/good") == b"{}"
    for path, words in (("/long", "too large"), ("/none", "404"), ("/else", "302")):
        with pytest.raises(ValueError, match=words):
            await fetch(base + path)
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("algorithm", MADE)
def test_private_keys_are_left_out(algorithm):
    """What stands in a key set is no secret: who put one there is told, and nothing is checked by
    it."""
    value = jwt.get_algorithm_by_name(algorithm).to_jwk(MADE[algorithm], as_dict=True)
    with pytest.raises(ValueError, match="no key"):
        Keys.read(key_set({**value, "kid": "k"}))


def test_a_key_set_that_is_nested_too_deep():
    """It is none, and is no reason to stop."""
    with pytest.raises(ValueError, match="nested"):
        Keys.read(b'{"keys":' + b"[" * 100_000 + b"]" * 100_000 + b"}")
