"""API keys: long-lived secrets of servers, which open nothing but ``POST /v1/tokens``.

What is kept of a key, in all regions, is what it may mint and a hash: keys have 256 random bits, so
nothing can be found out by trying, and a plain hash is enough.
"""

import hmac
from hashlib import sha256
from typing import Any, NamedTuple

from perdure.api.authority import Authority, Unreadable, read_can, read_names
from perdure.api.fields import Fields, whole
from perdure.api.revocations import OF_KEY, Revocations
from perdure.regions.ledger import Ledger
from perdure.regions.node import Node
from perdure.regions.ports import Entropy
from perdure.replication.errors import Refusal
from perdure.replication.limits import API_KEYS_MAX, TOKEN_TTL_S_DEFAULT, TOKEN_TTL_S_MAX
from perdure.replication.tenants import is_tenant

PREFIX = "pdk_"
KEY_FIELDS = frozenset({"subject", "tenant", "can", "as"})
TOKEN_FIELDS = frozenset({"subject", "can", "as", "ttl_s"})
_ID_BITS = 64
_SECRET_BITS = 256
_SUBJECT_CHARS_MAX = 256


class Made(NamedTuple):
    """A new key: what is kept of it, and the key itself, which is told once."""

    value: dict[str, Any]
    key: str


class ApiKeys:
    """The keys, as this region knows them."""

    def __init__(self, node: Node, entropy: Entropy, revocations: Revocations) -> None:
        self._ledger = Ledger(node, "keys")
        self._entropy = entropy
        self._revocations = revocations

    async def make(self, tenant: str, fields: Fields, by: str, at: str) -> Made:
        """A new key of a tenant. Raises ``Refusal``: ``invalid_body``, ``too_many``."""
        subject = _subject(fields.needed("subject"))
        said = _said(fields, subject)
        count = 0
        async for _, value in self._ledger.each():
            count += value["tenant"] == tenant
        if count >= API_KEYS_MAX:
            raise Refusal("too_many", "too many API keys are kept", retry_after_s=60)
        id_ = f"k-{self._entropy.token(_ID_BITS):016x}"
        key = f"{PREFIX}{id_}_{self._entropy.token(_SECRET_BITS):064x}"
        value = {"tenant": tenant, "subject": subject, **said, "created": at, "by": by}
        await self._ledger.put(id_, {**value, "hash": _hash(key)})
        return Made({"id": id_, **value}, key)

    async def listed(self, tenant: str) -> list[dict[str, Any]]:
        """The keys of a tenant, without their hashes, the newest first."""
        return [
            {"id": id_, **{name: value[name] for name in value if name != "hash"}}
            async for id_, value in self._ledger.each()
            if value["tenant"] == tenant
        ]

    async def remove(self, tenant: str, id_: str, at_s: float, by: str) -> None:
        """Forget a key, and revoke what it has minted. Raises ``Refusal`` ``not_found``."""
        value = self._ledger.get(id_)
        if value is None or value["tenant"] != tenant:
            raise Refusal("not_found", f"there is no API key {id_[:128]}")
        # In this order: one that is interrupted between can be repeated.
        await self._revocations.add(("key", tenant, id_), at_s, by, counted=False)
        await self._ledger.remove(id_)

    def find(self, authorization: str | None) -> tuple[str, dict[str, Any]]:
        """The key of an ``Authorization`` header: its id, and what is kept of it. Raises
        ``Refusal`` ``unauthorized``."""
        scheme, _, key = (authorization or "").partition(" ")
        key = key.strip()
        id_ = key.removeprefix(PREFIX).partition("_")[0]
        value = self._ledger.get(id_) if scheme.lower() == "bearer" else None
        kept = _hash("") if value is None else value["hash"]
        is_it = hmac.compare_digest(kept, _hash(key))
        if not is_it or value is None or self._revocations.has("key", value["tenant"], id_):
            raise Refusal("unauthorized", "send Authorization: Bearer <API key>")
        return id_, value

    def claims(
        self, id_: str, value: dict[str, Any], fields: Fields, now_s: float
    ) -> dict[str, Any]:
        """The claims of a grant that a key is asked for: not more than the key may give. Raises
        ``Refusal``: ``invalid_body``, ``forbidden``."""
        held = _authority(value)
        subject = _subject(fields.needed("subject") if fields.has("subject") else value["subject"])
        ttl_s = whole(fields.value("ttl_s"), "ttl_s", 1, TOKEN_TTL_S_MAX) or TOKEN_TTL_S_DEFAULT
        said: dict[str, Any] = {"can": value["can"], "as": value["as"]}
        if fields.has("can") or fields.has("as") or subject != value["subject"]:
            own = value["as"] if subject == value["subject"] else None
            said.update(_said(fields, subject, value["can"], own))
        _check_within(held, subject, said)
        return {
            "sub": subject,
            "tenant": value["tenant"],
            **said,
            "jti": f"{id_}{OF_KEY}{self._entropy.token(_ID_BITS):016x}",
            "iat": int(now_s),
            "exp": int(now_s) + ttl_s,
        }


def check_tenant(value: str | None, caller: Authority) -> str:
    """The tenant that something is made for: the caller's, or any for operators. Raises
    ``Refusal``."""
    if value is None or value == caller.tenant:
        return caller.tenant
    caller.check_operator()
    if not is_tenant(value):
        raise Refusal("invalid_body", "tenant must be 1 to 64 of a-z 0-9 _ -", field="tenant")
    return value


def _subject(text: str) -> str:
    if not 0 < len(text) <= _SUBJECT_CHARS_MAX:
        detail = f"subject must have 1 to {_SUBJECT_CHARS_MAX} characters"
        raise Refusal("invalid_body", detail, field="subject")
    return text


def _said(fields: Fields, subject: str, can: Any = None, names: Any = None) -> dict[str, Any]:
    """What a grant is to say, as it was asked for, and checked; else what is given here."""
    can = fields.value("can") if fields.has("can") else can
    try:
        if not read_can(can):
            raise Refusal("invalid_body", "can must say something", field="can")
    except Unreadable as error:
        raise Refusal("invalid_body", str(error), field="can") from error
    try:
        names = read_names(fields.value("as") if fields.has("as") else names, subject)
    except Unreadable as error:
        raise Refusal("invalid_body", str(error), field="as") from error
    return {"can": can, "as": list(names)}


def _authority(value: dict[str, Any]) -> Authority:
    can, names = read_can(value["can"]), tuple(value["as"])
    return Authority(value["tenant"], value["subject"], None, "", can, names)


def _covers(pattern: str, other: str) -> bool:
    if pattern.endswith("*"):
        return other.removesuffix("*").startswith(pattern[:-1])
    return pattern == other


def _check_within(held: Authority, subject: str, said: dict[str, Any]) -> None:
    """Raises ``Refusal`` ``forbidden`` for what is more than a key may give."""
    if subject != held.subject:
        held.check_name(subject, "subject")
    for name in said["as"]:
        if not any(_covers(pattern, name) for pattern in held.names):
            raise Refusal("forbidden", f"this key may not give the name {name}", field="as")
    for pattern, verbs in said["can"].items():
        given: frozenset[str] = frozenset()
        for mine, ours in held.can:
            given |= ours if _covers(mine, pattern) else frozenset()
        if more := sorted(frozenset(verbs) - given):
            detail = f"this key may not give {', '.join(more)} on {pattern}"
            raise Refusal("forbidden", detail, field="can")


def _hash(key: str) -> str:
    return sha256(key.encode()).hexdigest()
