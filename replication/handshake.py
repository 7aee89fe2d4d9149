"""How two regions find out that they may talk (``docs/PROTOCOL.md`` B.1): pure, for either side.

The acceptor speaks first, with a nonce; so what a dialer says is fresh, and an old recording of it
opens nothing.
"""

import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from perdure.replication.errors import Malformed
from perdure.replication.frames import (
    OPENING_VERSION,
    VERSIONS,
    Channel,
    Frame,
    FrameError,
    Kind,
    decode_json,
    encode_json,
    link_key,
    vector_from_json,
    vector_to_json,
)
from perdure.replication.records import Origin, Vector, parse_origin

_TIME_MS_MAX = 2**53
_NONCE = re.compile(r"[0-9a-f]{32,128}", re.ASCII)
REFUSALS = frozenset(
    {"version", "name_in_use", "foreign", "unauthenticated", "certificate", "gone"}
)


@dataclass(frozen=True)
class Identity:
    """Who one side of a link is. ``started_ms``: wall time, only to tell two of one name apart;
    ``version``: of who was met, the version that was agreed on with it."""

    origin: Origin
    started_ms: int
    nonce: str
    version: int = field(default=OPENING_VERSION, compare=False)


class LinkRefused(Exception):
    """One side does not want this link."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code


def challenge(me: Identity, versions: Sequence[int] = VERSIONS) -> bytes:
    """The acceptor's first payload."""
    return encode_json({"versions": list(versions), **_identity_json(me)})


def answer(
    me: Identity,
    payload: bytes,
    expected: str,
    vector: Vector,
    mine: Sequence[int] = VERSIONS,
) -> tuple[Identity, bytes]:
    """The dialer's hello to a challenge, and who the acceptor is.

    Raises ``FrameError`` when no version is common or the acceptor is not the ``expected`` region.
    """
    value = decode_json(payload)
    them = _identity(value)
    versions = value.get("versions")
    common = [version for version in mine if isinstance(versions, list) and version in versions]
    if not common:
        raise FrameError("version", f"no version in common with {them.origin}")
    if them.origin.region != expected:
        raise FrameError("foreign", f"this is {them.origin.region}, not {expected}")
    them = replace(them, version=max(common))
    hello = {
        "version": them.version,
        **_identity_json(me),
        "answers": them.nonce,
        "vector": vector_to_json(vector),
    }
    return them, encode_json(hello)


def check_hello(
    me: Identity, payload: bytes, offered: Sequence[int] = VERSIONS
) -> tuple[Identity, Vector]:
    """Who the dialer is and what it holds; raises ``FrameError``."""
    value = decode_json(payload)
    version = value.get("version")
    if type(version) is not int or version not in offered:
        raise FrameError("version", "the hello is of a version that was not offered")
    answers = value.get("answers")
    if not isinstance(answers, str) or not hmac.compare_digest(answers.encode(), me.nonce.encode()):
        raise FrameError("unauthenticated", "the hello answers another challenge")
    return replace(_identity(value), version=version), vector_from_json(value.get("vector"))


def expect(frame: Frame, kind: Kind) -> bytes:
    """The payload of a frame that must be of this kind; ``LinkRefused`` when the peer refused."""
    if frame.kind is Kind.REFUSED:
        value = decode_json(frame.payload)
        code = value.get("code")
        # Codes become labels of counters: a peer must not be able to invent them.
        known = isinstance(code, str) and code in REFUSALS
        raise LinkRefused(str(code) if known else "other", str(value.get("detail"))[:256])
    if frame.kind is not kind:
        raise FrameError("unexpected", f"{frame.kind.name} instead of {kind.name}")
    return frame.payload


def establish(channel: Channel, secret: bytes, dialer: Identity, acceptor: Identity) -> None:
    """Both sides know each other: the rest of the link has its own key, and the version that was
    agreed on, which stands with the one of them that was met."""
    names = (str(dialer.origin), str(acceptor.origin))
    key = link_key(secret, (dialer.nonce, acceptor.nonce), names)
    channel.establish(key, max(dialer.version, acceptor.version))


def _identity_json(me: Identity) -> dict[str, Any]:
    return {
        "region": me.origin.region,
        "incarnation": f"{me.origin.incarnation:016x}",
        "started_ms": me.started_ms,
        "nonce": me.nonce,
    }


def _identity(value: dict[str, Any]) -> Identity:
    started_ms, nonce = value.get("started_ms"), value.get("nonce")
    if type(started_ms) is not int or not 0 <= started_ms <= _TIME_MS_MAX:
        raise FrameError("payload", "started_ms is out of range")
    # Nonces are joined by newlines under the link's key: nothing else may be in them.
    if not isinstance(nonce, str) or not _NONCE.fullmatch(nonce):
        raise FrameError("payload", "a nonce has 32 to 128 hex digits")
    region, incarnation = value.get("region"), value.get("incarnation")
    if not isinstance(region, str) or not isinstance(incarnation, str):
        raise FrameError("payload", "region and incarnation are texts")
    try:
        origin = parse_origin(f"{region}/{incarnation}")
    except Malformed as error:
        raise FrameError("payload", "not an origin") from error
    return Identity(origin, started_ms, nonce)
