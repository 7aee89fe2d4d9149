"""Headers that go with every answer: what a browser, or a cache, must not make of it.

An answer that needs another value of one of them brings it itself: the demo's page has a policy of
its own, and a file may be kept. ``Strict-Transport-Security`` is promised where TLS ends here; who
ends it in front can promise it there.
"""

from collections.abc import Iterable

Headers = list[tuple[bytes, bytes]]

GUARDS: Headers = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    # Pages of other origins may fetch what CORS allows them, which this does not concern, and may
    # not pull answers in as scripts or pictures, where CORS is not asked.
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
]


_STRICT = (b"strict-transport-security", b"max-age=31536000")


def guard_headers(region: str, *, has_tls: bool = False) -> Headers:
    """What an answer of this region carries."""
    return [(b"perdure-region", region.encode()), *GUARDS, *([_STRICT] if has_tls else [])]


def guarded(own: Iterable[tuple[bytes, bytes]], guards: Headers) -> Headers:
    """The headers of an answer, and of the guards those that it does not bring itself."""
    found = list(own)
    names = {name for name, _ in found}
    return found + [guard for guard in guards if guard[0] not in names]
