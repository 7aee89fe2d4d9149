"""The model of what grants allow, written down a second time, and every case that it makes.

Nothing of ``perdure.api.needs`` or ``authority`` is used here: two tables that say the same by
chance would have to be wrong in the same place.
"""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

VERBS = ("read", "write", "presence", "run", "cancel", "admin")
JSON = "application/json"
NDJSON = "application/x-ndjson"
EPOCH = "1-0123456789abcdef"
PRODUCER = (("producer-id", "bot"), ("producer-epoch", EPOCH), ("producer-seq", "0"))


class Asked(NamedTuple):
    """An operation on a session, and the verb that it needs."""

    method: str
    path: str
    verb: str
    body: Any = None
    headers: tuple[tuple[str, str], ...] = ()
    # Whether it goes on: its answer is not read to the end.
    is_stream: bool = False


_CLAIM = {"producer": "bot", "claim_id": "claim-0001", "mode": "continue"}
_STATE = {"producer": "bot", "epoch": EPOCH, "n": 1, "state": "running"}
OPERATIONS = (
    Asked("GET", "", "read"),
    Asked("PUT", "", "write"),
    Asked("DELETE", "", "admin"),
    Asked("GET", "/erasure", "read"),
    Asked("GET", "/export", "read"),
    Asked("GET", "/messages/m/erasure", "read"),
    Asked("GET", "/documents/d/erasure", "read"),
    Asked("GET", "/metadata", "read"),
    Asked("PATCH", "/metadata", "write", {"a": 1}),
    Asked("GET", "/messages", "read"),
    Asked("POST", "/messages", "write", {"id": "n", "role": "user", "text": "x"}),
    Asked("GET", "/messages/m", "read"),
    Asked("DELETE", "/messages/gone", "write"),
    Asked("POST", "/messages/m/claim", "write", _CLAIM),
    Asked("POST", "/messages/m/cancel", "cancel"),
    Asked("POST", "/messages/m/tokens", "write", {"tokens": ["x"]}, PRODUCER),
    Asked("POST", "/messages/m/stream", "write", None, PRODUCER),
    Asked("GET", "/events", "read", is_stream=True),
    Asked("GET", "/poll?wait_ms=0", "read"),
    Asked("POST", "/tickets", "read"),
    Asked("GET", "/presence", "read"),
    Asked("PUT", "/presence/bot", "presence"),
    Asked("DELETE", "/presence/bot", "presence"),
    Asked("POST", "/signals", "presence", {"signal": "typing"}),
    Asked("GET", "/runs", "read"),
    Asked("POST", "/runs", "write", {"id": "r9", "agent": "bot"}),
    Asked("GET", "/runs/r", "read"),
    Asked("POST", "/runs/r/claim", "run", {"producer": "bot", "claim_id": "claim-0002"}),
    Asked("POST", "/runs/r/lease", "run", {"producer": "bot", "epoch": EPOCH}),
    Asked("POST", "/runs/r/state", "run", _STATE),
    Asked("POST", "/runs/r/cancel", "cancel"),
    Asked("GET", "/documents", "read"),
    Asked("GET", "/documents/d", "read"),
    Asked("PATCH", "/documents/d", "write", {"text": "x"}),
    Asked("POST", "/documents/d/append", "write", {"text": "x"}),
    Asked("DELETE", "/documents/gone", "write"),
)
# What each frame of a socket needs, with fields that make it one.
FRAMES: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("subscribe", {}, "read"),
    ("unsubscribe", {}, "read"),
    ("create", {}, "write"),
    ("send", {"id": "f", "role": "user", "text": "x"}, "write"),
    ("open", {"id": "g", "role": "a", "producer": "bot", "claim_id": "claim-0003"}, "write"),
    ("claim", {"message": "m", **_CLAIM}, "write"),
    (
        "append",
        {"message": "m", "producer": "bot", "epoch": EPOCH, "seq": 0, "tokens": ["x"]},
        "write",
    ),
    ("cancel", {"message": "m"}, "cancel"),
    ("metadata", {}, "read"),
    ("metadata", {"patch": {"a": 1}}, "write"),
    ("run", {"id": "r8", "agent": "bot"}, "write"),
    ("claim_run", {"run": "r", "producer": "bot", "claim_id": "claim-0004"}, "run"),
    ("lease", {"run": "r", "producer": "bot", "epoch": EPOCH}, "run"),
    ("state", {"run": "r", **_STATE}, "run"),
    ("cancel_run", {"run": "r"}, "cancel"),
    ("signal", {"signal": "typing"}, "presence"),
    ("join", {"member": "bot"}, "presence"),
    ("leave", {"member": "bot"}, "presence"),
    ("delete", {"message": "gone"}, "write"),
    ("delete", {"document": "gone"}, "write"),
    ("delete", {}, "admin"),
)

TENANTS = ("acme", "umbrella", "")
# Sessions that there are in every tenant; and one that there is in none.
THERE = ("chat-1", "vault")
NOWHERE = "chat-9"
PATTERNS = ("chat-1", "chat-*", "*", "vault", "cha", "other-*")


def matches(pattern: str, session: str) -> bool:
    """Whether a pattern means a session, by the words of PROTOCOL A.9."""
    if pattern.endswith("*"):
        return session[: len(pattern) - 1] == pattern[:-1]
    return pattern == session


class Case(NamedTuple):
    """A grant, and what is asked for with it."""

    tenant: str
    pattern: str
    verbs: tuple[str, ...]
    session: str
    asked: Asked

    @property
    def expected(self) -> str:
        """``hidden``, ``forbidden`` or ``allowed``."""
        if not self.verbs or not matches(self.pattern, self.session):
            return "hidden"
        return "allowed" if self.asked.verb in self.verbs else "forbidden"


def sets_of_verbs() -> Iterator[tuple[str, ...]]:
    """None, each alone, and all but one."""
    yield ()
    for verb in VERBS:
        yield (verb,)
        yield tuple(other for other in VERBS if other != verb)


def cases() -> Iterator[Case]:
    """Tenant × pattern × verbs × session × operation."""
    sessions = (THERE[0], THERE[1], NOWHERE)
    for tenant, pattern, verbs, session in itertools.product(
        TENANTS, PATTERNS, sets_of_verbs(), sessions
    ):
        for asked in OPERATIONS:
            yield Case(tenant, pattern, verbs, session, asked)
