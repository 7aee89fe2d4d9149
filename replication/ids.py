"""Identifiers, epochs, lane keys, and the hashes that name things.

Rule of this file: everything that must come out the same in every region, whoever computes it, is
computed here, from explicit bytes, by BLAKE2b (RFC 7693). Nothing here depends on the process.
"""

import base64
import binascii
import hmac
import json
import re
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b, sha256
from typing import Any, NamedTuple

from perdure.replication.errors import Refusal
from perdure.replication.limits import CLAIM_ID_CHARS_MIN, EPOCH_COUNTER_MAX, ID_CHARS_MAX

_ID = re.compile(rf"[A-Za-z0-9._~-]{{1,{ID_CHARS_MAX}}}\Z")
ROLE = re.compile(r"[a-z][a-z0-9_-]{0,31}\Z")
_EPOCH = re.compile(r"([1-9][0-9]{0,9})-([0-9a-f]{16})\Z")
# A producer gives the same epoch with every append.
_NAMES_CACHED_MAX = 4_096
# The producer of a complete message that names none. No client can be confused with it: what
# decides is the epoch, which is a hash of the body.
NO_PRODUCER = "~"


class Epoch(NamedTuple):
    """The fencing number of a lane: a counter, and a nonce that makes it globally unique (I3)."""

    counter: int
    nonce: int

    def __str__(self) -> str:
        return f"{self.counter}-{self.nonce:016x}"


class LaneKey(NamedTuple):
    """Who writes a lane: the producer and its epoch."""

    producer: str
    epoch: Epoch

    def __str__(self) -> str:
        return f"{self.producer}/{self.epoch}"


def is_id(text: object) -> bool:
    """True for a well-formed id; ``.`` and ``..`` would vanish from URLs and are none."""
    return isinstance(text, str) and _ID.match(text) is not None and text not in (".", "..")


def check_id(text: object, field: str) -> str:
    """The id, or ``Refusal`` ``invalid_id`` naming the field."""
    if not isinstance(text, str) or not is_id(text):
        raise Refusal(
            "invalid_id",
            f"{field} must be 1 to {ID_CHARS_MAX} characters of A-Z a-z 0-9 . _ ~ -",
            field=field,
        )
    return text


def check_claim_id(text: object, field: str = "claim_id") -> str:
    """A random id that names one open, claim or idempotent request; at least 8 characters."""
    checked = check_id(text, field)
    if len(checked) < CLAIM_ID_CHARS_MIN:
        raise Refusal(
            "invalid_id", f"{field} must have at least {CLAIM_ID_CHARS_MIN} characters", field=field
        )
    return checked


def check_role(text: object) -> str:
    """The role, or ``Refusal`` ``invalid_body``."""
    if not isinstance(text, str) or not ROLE.match(text):
        raise Refusal(
            "invalid_body",
            "role must be 1 to 32 characters: a lower-case letter, then a-z 0-9 _ -",
            field="role",
        )
    return text


@lru_cache(_NAMES_CACHED_MAX)
def parse_epoch(text: str) -> Epoch:
    """The epoch of its text form; ``ValueError`` when it has none."""
    match = _EPOCH.match(text)
    if match is None or int(match[1]) > EPOCH_COUNTER_MAX:
        raise ValueError("not an epoch")
    return Epoch(int(match[1]), int(match[2], 16))


# Made once: ``json.dumps`` would make one for each call.
_CANONICAL = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def canonical(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, characters as they are."""
    return _CANONICAL.encode(value)


def digest(size_bytes: int, *parts: str | bytes) -> bytes:
    """BLAKE2b of the parts, each with its length before it, so that no two lists collide."""
    hasher = blake2b(digest_size=size_bytes)
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        hasher.update(len(raw).to_bytes(8, "big"))
        hasher.update(raw)
    return hasher.digest()


def hash64(*parts: str | bytes) -> int:
    """A 64-bit hash of the parts."""
    return int.from_bytes(digest(8, *parts), "big")


def open_epoch(session: str, message: str, producer: str, claim_id: str) -> Epoch:
    """The epoch of an open: the same for the same ``claim_id``, in every region."""
    return Epoch(1, hash64("open", session, message, producer, claim_id))


def complete_epoch(session: str, message: str, body: str) -> Epoch:
    """The epoch of a complete message: equal bodies are one message."""
    return Epoch(1, hash64("complete", session, message, body))


def claim_tag(session: str, message: str, producer: str, claim_id: str) -> int:
    """Names one claim, however many regions were asked to carry it out."""
    return hash64("claim", session, message, producer, claim_id)


def claim_epoch(counter: int, tag: int, previous: LaneKey | None, base: int) -> Epoch:
    """The epoch of a claim as one region carried it out: what it continues is part of its name."""
    return Epoch(counter, hash64("link", f"{tag:016x}", str(previous), str(base)))


def derived_message_id(session: str, idempotency_key: str) -> str:
    """The id of a message that was sent with an ``Idempotency-Key`` instead of one."""
    return "k-" + digest(16, "key", session, idempotency_key).hex()


@lru_cache(_NAMES_CACHED_MAX)
def client_id(lane: LaneKey) -> int:
    """The 53-bit Yjs client id of a lane (never 0)."""
    return (hash64("yjs", lane.producer, str(lane.epoch)) >> 11) or 1


def slot(message: str) -> int:
    """The 32-bit name of a message in a cursor."""
    return hash64("slot", message) >> 32


@lru_cache(_NAMES_CACHED_MAX)
def reader_tag(lane: LaneKey, header: bytes, created: int) -> int:
    """The 32-bit name, in a cursor, of a lane under a header and its time: a reader was told all
    three, so a change of any of them must not be missed."""
    return hash64("tag", lane.producer, str(lane.epoch), header, str(created)) >> 32


def grave_hash(message: str) -> int:
    """What the deletion of a message adds to the digest of a cursor's rest."""
    return int.from_bytes(digest(5, "grave", message), "big")


def session_tag(session: str) -> int:
    """The 16-bit name of a session in a cursor."""
    return hash64("session", session) >> 48


def beside_tag(metadata: dict[str, Any], fields: str) -> str:
    """The name of what readers of a session are told beside its messages, in 10 hex digits."""
    return digest(5, canonical(metadata), fields).hex()


def bucket(session: str, buckets: int) -> int:
    """Which digest bucket a session belongs to."""
    return hash64("bucket", session) % buckets


class HeaderSeal:
    """Signs the opaque ``header`` that producers carry from region to region.

    ``key`` is derived from the regions' shared secret, so any region can open what another sealed;
    ``accepted``: further keys that another may have sealed with, while the secret is replaced.
    """

    _TAG_BYTES = 16

    def __init__(self, key: bytes, accepted: Sequence[bytes] = ()) -> None:
        self._keys = (key, *accepted)

    def seal(self, payload: bytes) -> str:
        """The header text of a payload: base64url, without padding."""
        return (
            base64.urlsafe_b64encode(self._mac(self._keys[0], payload) + payload)
            .rstrip(b"=")
            .decode()
        )

    def unseal(self, text: str) -> bytes:
        """The payload; ``Refusal`` ``invalid_header`` for what these regions did not make."""
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        payload = raw[self._TAG_BYTES :]
        tag = raw[: self._TAG_BYTES]
        if not any(hmac.compare_digest(tag, self._mac(key, payload)) for key in self._keys):
            raise Refusal("invalid_header", "this header was not made by these regions")
        return payload

    def _mac(self, key: bytes, payload: bytes) -> bytes:
        return hmac.new(key, payload, sha256).digest()[: self._TAG_BYTES]
