"""Grants: one algorithm, a subject and an end, and nothing without them."""

import base64
import hmac
import json
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import jwt
import pytest
from perdure.api import door
from perdure.api.authority import VERBS, Authority
from perdure.api.grants import Grants, secret_id
from perdure.regions.config import JWT_LEEWAY_S as LEEWAY_S
from perdure.replication.errors import Refusal

SECRET = b"0123456789abcdef0123456789abcdef"
NOW = datetime.now(UTC)


def after(seconds: float) -> datetime:
    """A time relative to the start of the tests."""
    return NOW + timedelta(seconds=seconds)


ALL = {"*": list(VERBS)}
GOOD = {"sub": "alice", "exp": after(3_600), "can": ALL, "as": ["*"]}


def segment(value: object) -> str:
    """One part of a hand-made token."""
    raw = value if isinstance(value, bytes) else json.dumps(value, default=str).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(key: bytes, **header: object) -> str:
    """A hand-made grant, by HMAC whatever its header says."""
    claims = {"sub": "alice", "exp": 9_999_999_999}
    text = f"{segment({'alg': 'HS256', **header})}.{segment(claims)}"
    return f"{text}.{segment(hmac.new(key, text.encode(), sha256).digest())}"


OWN_KEY = b"a key of its own, of 32 bytes or so"
BAD = {
    "none in other letters": f"{segment({'alg': 'nOnE'})}.{segment({'sub': 'a', 'exp': 1e10})}.",
    "RS256 by the secret": signed(SECRET, alg="RS256"),
    "ES256 by the secret": signed(SECRET, alg="ES256"),
    "its own key": signed(OWN_KEY, jwk={"kty": "oct", "k": segment(OWN_KEY)}),
    "a key from elsewhere": signed(OWN_KEY, jku="https://evil.example/keys"),
    "a certificate of its own": signed(OWN_KEY, x5u="https://evil.example", x5c=["AAAA"]),
    "an unknown kid": signed(OWN_KEY, kid="other"),
    "an unknown kid, and the secret": signed(SECRET, kid="other"),
    "something critical": signed(SECRET, crit=["b64"]),
    "a kid that is a path": signed(b"", kid="../../../dev/null"),
    "none": f"{segment({'alg': 'none'})}.{segment({'sub': 'a', 'exp': 9_999_999_999})}.",
    "no header": f".{segment(GOOD)}.x",
    "garbage": "garbage",
    "empty": "",
    "two dots of nothing": "..",
    "deep header": f"{segment(b'[' * 5_000)}.e30.AAAA",
    "header is a list": f"{segment([])}.e30.AAAA",
    "too long": "a" * 9_000,
    "other secret": jwt.encode(GOOD, b"x" * 32),
    "HS384": jwt.encode(GOOD, SECRET + b"x" * 32, algorithm="HS384"),
    "HS512": jwt.encode(GOOD, SECRET * 2, algorithm="HS512"),
    "no exp": jwt.encode({"sub": "a"}, SECRET),
    "no sub": jwt.encode({"exp": after(600)}, SECRET),
    "empty sub": jwt.encode({**GOOD, "sub": ""}, SECRET),
    "sub is a number": jwt.encode({**GOOD, "sub": 1}, SECRET),
    "expired": jwt.encode({**GOOD, "exp": after(-LEEWAY_S - 5)}, SECRET),
    "not yet": jwt.encode({**GOOD, "nbf": after(LEEWAY_S + 300)}, SECRET),
    "exp is a word": jwt.encode({**GOOD, "exp": "tomorrow"}, SECRET),
    "exp is infinite": jwt.encode({**GOOD, "exp": float("inf")}, SECRET),
    "for another audience": jwt.encode({**GOOD, "aud": "somebody"}, SECRET),
    "signature cut": jwt.encode(GOOD, SECRET)[:-2],
}


@pytest.mark.failure("S1")
@pytest.mark.parametrize("token", BAD.values(), ids=BAD.keys())
def test_refuses(token):
    """None of these opens anything."""
    with pytest.raises(Refusal) as caught:
        Grants(SECRET).check(f"Bearer {token}")
    assert caught.value.code == "unauthorized"


@pytest.mark.parametrize("claim", ["nbf", "iat"])
def test_a_clock_that_is_wrong_is_named(claim: str):
    """Where a region's clock is behind it refuses every new grant: no secret is wrong then."""
    token = jwt.encode({**GOOD, claim: after(LEEWAY_S + 300)}, SECRET)
    with pytest.raises(Refusal, match="not good yet: the clock of this region, or of its issuer"):
        Grants(SECRET).check(f"Bearer {token}")


@pytest.mark.failure("S1")
@pytest.mark.parametrize("header", [None, "", "Bearer", "Basic YTpi", "Bearerx"])
def test_refuses_other_schemes(header):
    """Only a bearer grant counts."""
    with pytest.raises(Refusal, match="unauthorized"):
        Grants(SECRET).check(header)


@pytest.mark.failure("C5")
def test_takes():
    """A good grant gives its subject, also a little after its end, whatever the case of Bearer."""
    grants = Grants(SECRET)
    assert grants.check(f"Bearer {jwt.encode(GOOD, SECRET)}").subject == "alice"
    late = {**GOOD, "exp": datetime.now(UTC) - timedelta(seconds=1)}
    assert grants.check(f"bearer {jwt.encode(late, SECRET)}").subject == "alice"
    assert LEEWAY_S <= 60


@pytest.mark.failure("S1")
def test_hand_made_grants_can_be_good():
    """Else the bad ones would prove nothing; what a header says beside the algorithm and the key
    means nothing."""
    assert Grants(SECRET).check(f"Bearer {signed(SECRET)}").subject == "alice"
    known = signed(SECRET, kid=secret_id(SECRET), jku="https://x")
    assert Grants(SECRET).check(f"Bearer {known}").subject == "alice"


@pytest.mark.failure("S17")
def test_short_secret():
    """A secret that could be guessed does not start."""
    with pytest.raises(ValueError, match="at least 32 bytes"):
        Grants(b"short")


HOT = [
    ("POST", "/v1/sessions/s/messages/m/tokens"),
    ("POST", "/v1/sessions/s/messages/m/stream"),
    ("GET", "/v1/sessions/s/events"),
    ("GET", "/v1/sessions/s"),
    ("PUT", "/v1/sessions/s"),
    ("GET", "/v1/regions"),
    ("GET", "/openapi.json"),
    ("GET", "/docs"),
    ("GET", "/nowhere"),
]


@pytest.mark.failure("S5", "S15")
async def test_everything_needs_a_grant(serve):
    """Every path but the three open ones answers 401 without a grant, known or not."""
    async with serve(grants=Grants(SECRET)) as region:
        for method, path in HOT:
            reply = await region.request(method, path)
            reply.assert_problem(401, "unauthorized")
            assert reply.header("www-authenticate") == "Bearer"
        for path in ("/livez", "/readyz", "/version"):
            assert (await region.request("GET", path)).status == 200


async def test_a_grant_opens(serve):
    """With a good grant requests are carried out; given twice it is refused."""
    good = ("authorization", f"Bearer {jwt.encode(GOOD, SECRET)}")
    async with serve(grants=Grants(SECRET)) as region:
        assert (await region.request("PUT", "/v1/sessions/s", headers=[good])).status == 201
        reply = await region.request("GET", "/v1/sessions/s", headers=[good, good])
        reply.assert_problem(401, "unauthorized")
        follower = await region.connect()
        await follower.start("GET", "/v1/sessions/s/events", [good])
        assert (await follower.head()).status == 200


class Counting(Grants):
    """Grants that say how often they were asked."""

    checks = 0

    def check(self, authorization: str | None) -> Authority:
        """Count, then check."""
        self.checks += 1
        return super().check(authorization)


async def test_trust_is_short(serve, monkeypatch):
    """A good grant is not looked at again for a moment, a bad one always; then everything is."""
    good = [("authorization", f"Bearer {jwt.encode(GOOD, SECRET)}")]
    bad = [("authorization", f"Bearer {BAD['expired']}")]
    grants = Counting(SECRET)
    async with serve(grants=grants) as region:
        for _ in range(3):
            assert (await region.request("GET", "/v1/regions", headers=good)).status == 200
        assert grants.checks == 1
        for _ in range(3):
            reply = await region.request("GET", "/v1/regions", headers=bad)
            reply.assert_problem(401, "unauthorized")
        assert grants.checks == 4
    assert door.TRUST_GRANT_S + LEEWAY_S <= 60
    monkeypatch.setattr(door, "TRUST_GRANT_S", 0)
    async with serve(grants=grants, name="us") as region:
        for _ in range(3):
            assert (await region.request("GET", "/v1/regions", headers=good)).status == 200
        assert grants.checks == 7
