"""Which verb a request needs, in one place: for HTTP by method and path, for frames by ``do``.

What is not listed needs to be seen, and is then answered as what is not there.
"""

from collections.abc import Iterator

_OF_PATHS: dict[str, dict[str, str]] = {
    "": {"GET": "read", "PUT": "write", "DELETE": "admin"},
    "erasure": {"GET": "read"},
    "export": {"GET": "read"},
    "messages/*/erasure": {"GET": "read"},
    "documents/*/erasure": {"GET": "read"},
    "metadata": {"GET": "read", "PATCH": "write"},
    "messages": {"GET": "read", "POST": "write"},
    "messages/*": {"GET": "read", "DELETE": "write"},
    "messages/*/claim": {"POST": "write"},
    "messages/*/tokens": {"POST": "write"},
    "messages/*/stream": {"POST": "write"},
    "messages/*/cancel": {"POST": "cancel"},
    "events": {"GET": "read"},
    "poll": {"GET": "read"},
    "tickets": {"POST": "read"},
    "presence": {"GET": "read"},
    "presence/*": {"PUT": "presence", "DELETE": "presence"},
    "signals": {"POST": "presence"},
    "runs": {"GET": "read", "POST": "write"},
    "runs/*": {"GET": "read"},
    "runs/*/claim": {"POST": "run"},
    "runs/*/lease": {"POST": "run"},
    "runs/*/state": {"POST": "run"},
    "runs/*/cancel": {"POST": "cancel"},
    "documents": {"GET": "read"},
    "documents/*": {"GET": "read", "PATCH": "write", "DELETE": "write"},
    "documents/*/append": {"POST": "write"},
    "documents/*/ws": {"GET": "read"},
}
_NAMED = frozenset({"messages", "presence", "runs", "documents"})

# The verbs of frames (A.7). None: what the frame is about needs no session.
OF_FRAMES: dict[str, str | None] = {
    "subscribe": "read",
    "unsubscribe": "read",
    "create": "write",
    "send": "write",
    "open": "write",
    "claim": "write",
    "append": "write",
    "cancel": "cancel",
    "metadata": "read",
    "run": "write",
    "claim_run": "run",
    "lease": "run",
    "state": "run",
    "cancel_run": "cancel",
    "signal": "presence",
    "work": None,
    "rest": None,
    "join": "presence",
    "leave": "presence",
    "delete": "admin",
    "renew": None,
}


# Frames that are about no session.
WITHOUT_SESSION = frozenset(name for name, verb in OF_FRAMES.items() if verb is None)
# Fields of bodies and frames that say who somebody is: they are bound to the grant.
NAMES = ("producer", "author", "member", "by", "from")


# What is noted in the audit log, by method and path, and by frame.
_AUDITED_PATHS: dict[tuple[str, str], str] = {
    ("DELETE", ""): "session.delete",
    ("GET", "export"): "session.export",
    ("DELETE", "messages/*"): "message.delete",
    ("DELETE", "documents/*"): "document.delete",
    ("POST", "messages/*/claim"): "message.claim",
    ("POST", "messages/*/cancel"): "message.cancel",
    ("POST", "runs/*/claim"): "run.claim",
    ("POST", "runs/*/cancel"): "run.cancel",
}
_AUDITED_FRAMES = {
    "claim": "message.claim",
    "cancel": "message.cancel",
    "claim_run": "run.claim",
    "cancel_run": "run.cancel",
    "renew": "grant.renew",
}
_AUDITED_OUTSIDE = {
    ("POST", "/v1/grants/renew"): "grant.renew",
    ("POST", "/v1/tokens"): "grant.mint",
    ("POST", "/v1/keys"): "key.make",
    ("GET", "/v1/keys"): "key.list",
    ("POST", "/v1/revocations"): "revoke",
    ("GET", "/v1/revocations"): "revocation.list",
    ("GET", "/v1/regions"): "regions.show",
    ("GET", "/v1/verify"): "verify",
    ("GET", "/v1/audit"): "audit.read",
    ("POST", "/v1/erasures"): "subject.erase",
}


def _shape(parts: list[str]) -> str:
    if len(parts) == 7 and parts[4] in _NAMED:
        # As most are, and all tokens.
        return f"{parts[4]}/*/{parts[6]}"
    rest = parts[4:]
    if len(rest) > 1 and rest[0] in _NAMED:
        rest = [rest[0], "*", *rest[2:]]
    return "/".join(rest)


def audited(method: str, path: str, parts: list[str]) -> str | None:
    """What a request is called in the audit log; None for one that is not noted there."""
    if len(parts) > 3:
        return _AUDITED_PATHS.get((method, _shape(parts)))
    if path.startswith("/v1/keys/") and method == "DELETE":
        return "key.remove"
    return _AUDITED_OUTSIDE.get((method, path))


def audited_frame(frame: dict[str, object]) -> str | None:
    """The same for a frame of a socket."""
    do = str(frame.get("do"))
    if do != "delete":
        return _AUDITED_FRAMES.get(do)
    if frame.get("message") is not None:
        return "message.delete"
    return "session.delete" if frame.get("document") is None else "document.delete"


def of_request(method: str, parts: list[str]) -> str | None:
    """The verb for a path of a session, as its segments: ``["", "v1", "sessions", id, …]``."""
    return _OF_PATHS.get(_shape(parts), {}).get("GET" if method == "HEAD" else method)


def operations() -> Iterator[tuple[str, str]]:
    """Every request on a session: its method, and its path below that, with ``*`` for ids."""
    for shape, verbs in _OF_PATHS.items():
        yield from ((method, shape) for method in verbs)
        if "GET" in verbs:
            yield "HEAD", shape


def of_frame(frame: dict[str, object]) -> str | None:
    """The verb for a frame of a socket."""
    do = str(frame.get("do"))
    if do == "metadata" and frame.get("patch") is not None:
        return "write"
    if do == "delete" and (frame.get("message"), frame.get("document")) != (None, None):
        return "write"
    return OF_FRAMES.get(do)
