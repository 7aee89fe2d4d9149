"""Grants: JSON Web Tokens (RFC 7519) that say who calls and what that one may do.

Signed with a secret that the regions share (HS256), or by keys of a key set (EdDSA, ES256, RS256).
Which algorithm a key is good for is said by the key, never by the grant; a grant names its key by
``kid`` alone, and whatever else its header says is not looked at.
"""

import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import jwt
from perdure.api.authority import Authority, Unreadable, read_can, read_names
from perdure.regions.config import JWT_LEEWAY_S
from perdure.replication.errors import Refusal
from perdure.replication.limits import GRANT_CHARS_MAX
from perdure.replication.tenants import is_tenant

SECRET_BYTES_MIN = 32
KEYS_MAX = 64
RSA_BITS_MIN = 2_048
SUBJECT_CHARS_MAX = 256
_ALGORITHM = "HS256"
_ASYMMETRIC = frozenset({"EdDSA", "ES256", "RS256"})
_SCHEME = "bearer "
_TAG_BYTES = 16


class UnknownKey(Exception):
    """A grant names a key that is not known here; perhaps it is new."""


class Expected(NamedTuple):
    """What grants must say beside who and until when. None: such grants say nothing of it."""

    audience: str | None = None
    issuer: str | None = None
    leeway_s: int = JWT_LEEWAY_S


class Keys(NamedTuple):
    """The public keys of a key set, by ``kid``; those without one under "" and a number."""

    by_id: Mapping[str, jwt.PyJWK]

    @classmethod
    def read(cls, text: bytes) -> "Keys":
        """The keys of a JWK set (RFC 7517) that can check grants: Ed25519, P-256, and RSA of 2,048
        bits or more. Others are left out. ``ValueError``: it is no JWK set, or none is left."""
        try:
            value = json.loads(text)
        except RecursionError as error:
            raise ValueError("it is nested too deep") from error
        listed = value.get("keys") if isinstance(value, dict) else None
        if not isinstance(listed, list) or len(listed) > KEYS_MAX:
            raise ValueError(f"a JWK set is an object with keys, at most {KEYS_MAX}")
        found: dict[str, jwt.PyJWK] = {}
        for number, data in enumerate(listed):
            key = _usable(data)
            if key is not None:
                found[str(data.get("kid") or f" {number}")] = key
        if not found:
            raise ValueError("no key of the set can check grants (Ed25519, P-256, RSA)")
        return cls(found)


def _usable(data: Any) -> jwt.PyJWK | None:
    # What is secret and stands in a set that others read is none; an encryption key signs nothing.
    if not isinstance(data, dict) or data.get("kty") == "oct" or data.get("use", "sig") != "sig":
        return None
    if "d" in data:
        return None
    try:
        key = jwt.PyJWK(data)
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    if key.algorithm_name not in _ASYMMETRIC:
        return None
    bits = getattr(key.key, "key_size", RSA_BITS_MIN)
    return None if key.algorithm_name == "RS256" and bits < RSA_BITS_MIN else key


def secret_id(secret: bytes) -> str:
    """The ``kid`` of grants that are signed with a secret: it names the secret and tells nothing of
    it."""
    return "s-" + blake2b(secret, digest_size=6, person=b"perdure kid").hexdigest()


class Grants:
    """Checks grants, and mints them where there is a secret: the first one mints, all are good."""

    def __init__(
        self, secrets: bytes | Sequence[bytes] = (), expected: Expected | None = None
    ) -> None:
        """``ValueError`` for a secret shorter than 32 bytes."""
        listed = [secrets] if isinstance(secrets, bytes) else list(secrets)
        if any(len(secret) < SECRET_BYTES_MIN for secret in listed):
            raise ValueError(f"the secret of grants must have at least {SECRET_BYTES_MIN} bytes")
        self._secrets = {secret_id(secret): secret for secret in listed}
        self._expected = expected or Expected()
        self._keys = Keys({})
        # Grows with each change of the keys.
        self.version = 0

    @property
    def leeway_s(self) -> int:
        """How long after its end a grant is still good."""
        return self._expected.leeway_s

    def take(self, keys: Keys) -> None:
        """The keys that are good from now on, and no others."""
        self._keys = keys
        self.version += 1

    def knows(self, signer: str | None) -> bool:
        """Whether what this key signed is still good."""
        return signer in self._secrets or signer in self._keys.by_id

    def check(self, authorization: str | None) -> Authority:
        """Who sends this ``Authorization`` header. Raises ``Refusal`` ``unauthorized``, and
        ``UnknownKey``."""
        if authorization is None or not authorization.lower().startswith(_SCHEME):
            raise Refusal("unauthorized", "send Authorization: Bearer <grant>")
        token = authorization[len(_SCHEME) :].strip()
        if len(token) > GRANT_CHARS_MAX:
            raise Refusal("unauthorized", "the grant is too long")
        try:
            claims, signer = self._verified(token)
        except jwt.ExpiredSignatureError as error:
            raise Refusal("unauthorized", "the grant has expired") from error
        except jwt.ImmatureSignatureError as error:
            # Told apart: it is the clock of a machine that is to be mended, and no secret.
            text = "the grant is not good yet: the clock of this region, or of its issuer, is wrong"
            raise Refusal("unauthorized", text) from error
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            raise Refusal("unauthorized", "the grant is not valid") from error
        return read_claims(claims, token, signer)

    def _verified(self, token: str) -> tuple[dict[str, Any], str]:
        header = jwt.get_unverified_header(token)
        if header.get("crit") is not None:
            raise jwt.InvalidTokenError("nothing critical is understood")
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm == _ALGORITHM:
            return self._by_secret(token, kid)
        if algorithm not in _ASYMMETRIC:
            raise jwt.InvalidAlgorithmError("another algorithm")
        tried = {kid: self._keys.by_id.get(kid)} if kid is not None else self._keys.by_id
        found = {id_: key for id_, key in tried.items() if key and key.algorithm_name == algorithm}
        if not found and kid is not None and kid not in self._keys.by_id:
            raise UnknownKey
        return self._first(token, {id_: key.key for id_, key in found.items()}, str(algorithm))

    def _by_secret(self, token: str, kid: str | None) -> tuple[dict[str, Any], str]:
        found = self._secrets
        if kid is not None:
            found = {kid: self._secrets[kid]} if kid in self._secrets else {}
        return self._first(token, found, _ALGORITHM)

    def _first(
        self, token: str, keys: Mapping[str, Any], algorithm: str
    ) -> tuple[dict[str, Any], str]:
        """The claims by the first key that made the signature, and its name."""
        for signer, key in keys.items():
            try:
                return self._decoded(token, key, algorithm), signer
            except jwt.InvalidSignatureError:
                continue
        raise jwt.InvalidSignatureError("no key has signed it")

    def _decoded(self, token: str, key: Any, algorithm: str) -> dict[str, Any]:
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            audience=self._expected.audience,
            issuer=self._expected.issuer,
            leeway=self._expected.leeway_s,
            options={"require": ["sub", "exp"]},
        )
        return claims

    # Minting

    def mint(self, claims: Mapping[str, Any]) -> str:
        """A grant that says this. ``Refusal`` ``not_found``: there is no secret to sign it with."""
        if not self._secrets:
            detail = "this region mints no grants: it has keys to check them, and no secret"
            raise Refusal("not_found", detail)
        kid, secret = next(iter(self._secrets.items()))
        said = dict(claims)
        for name, value in (("aud", self._expected.audience), ("iss", self._expected.issuer)):
            if value is not None:
                said[name] = value
        return jwt.encode(said, secret, algorithm=_ALGORITHM, headers={"kid": kid})


def read_claims(claims: Mapping[str, Any], token: str, signer: str | None) -> Authority:
    """What checked claims say. Raises ``Refusal`` ``unauthorized`` for what is not understood: less
    than all of it might be more than was meant."""
    subject = claims["sub"]
    if not isinstance(subject, str) or not 0 < len(subject) <= SUBJECT_CHARS_MAX:
        raise Refusal("unauthorized", "the grant names nobody: sub is empty or too long")
    tenant, key = claims.get("tenant", ""), claims.get("jti")
    if not is_tenant(tenant):
        raise Refusal("unauthorized", "tenant must be 1 to 64 of a-z 0-9 _ -")
    if key is not None and not isinstance(key, str):
        raise Refusal("unauthorized", "jti must be a string")
    try:
        can, names = read_can(claims.get("can")), read_names(claims.get("as"), subject)
    except Unreadable as error:
        raise Refusal("unauthorized", f"the grant is not understood: {error}") from error
    issued = claims.get("iat")
    times = (None if issued is None else float(issued), float(claims["exp"]))
    return Authority(tenant, subject, key, tag_of(token), can, names, *times, signer)


def read_unchecked(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The header and the claims of a grant, whoever has signed it. Raises ``ValueError``."""
    try:
        found = jwt.decode_complete(token, options={"verify_signature": False})
    except jwt.PyJWTError as error:
        raise ValueError(str(error)) from error
    return found["header"], found["payload"]


def tag_of(token: str) -> str:
    """A name of a grant as it was sent, of which nothing can be told."""
    return blake2b(token.strip().encode("utf-8", "replace"), digest_size=_TAG_BYTES).hexdigest()
