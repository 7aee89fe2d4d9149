"""What a grant allows: verbs on sessions, and names (``docs/PROTOCOL.md`` A.9).

Rule of this file: nothing is allowed that is not said, and whatever one may do nothing with answers
as if it did not exist: what is decided here depends on the grant and on what is asked for, and
never on what there is.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from perdure.replication.errors import Refusal
from perdure.replication.ids import is_id
from perdure.replication.tenants import Range, merged, range_of, session_key

VERBS = ("read", "write", "presence", "run", "cancel", "admin")
PATTERNS_MAX = 256
NAMES_MAX = 256
# A refusal names so many of them.
NAMES_SAID_MAX = 4
_ALL = frozenset(VERBS)
_PATTERN = re.compile(r"[A-Za-z0-9._~-]{0,128}\*\Z")


def is_pattern(text: object) -> bool:
    """Whether it is an id, or the beginning of ids and ``*``."""
    return is_id(text) or (isinstance(text, str) and _PATTERN.match(text) is not None)


def _matches(pattern: str, text: str) -> bool:
    return text.startswith(pattern[:-1]) if pattern.endswith("*") else text == pattern


@dataclass(frozen=True)
class Authority:
    """Who calls, and what that one may do.

    ``key``: what revocation names the grant by (its ``jti``), ``token``: a hash of the grant as it
    was sent; ``can``: patterns of session ids and the verbs on them; ``names``: patterns of the
    producers, members and authors that this may be; ``issued`` and ``expires`` in seconds since
    1970, None where there is no such time; ``signer``: the key that signed the grant.
    """

    tenant: str
    subject: str
    key: str | None
    token: str
    can: tuple[tuple[str, frozenset[str]], ...]
    names: tuple[str, ...]
    issued: float | None = None
    expires: float | None = None
    signer: str | None = None

    def verbs(self, session: str) -> frozenset[str]:
        """What may be done with a session, by its id."""
        found: frozenset[str] = frozenset()
        for pattern, verbs in self.can:
            if _matches(pattern, session):
                # Mostly there is one pattern, or one that matches.
                found = found | verbs if found else verbs
        return found

    def check(self, session: str, verb: str | None) -> str:
        """The name inside of a session with which this may be done; None: anything at all.

        Raises ``Refusal``: ``not_found`` where nothing may be done with it, ``forbidden`` where
        something else may.
        """
        verbs = self.verbs(session)
        if not verbs:
            raise Refusal("not_found", f"this region knows no session {session}")
        if verb is not None and verb not in verbs:
            raise Refusal("forbidden", f"this needs {verb} on session {session}", needs=verb)
        return session_key(self.tenant, session)

    def check_everywhere(self, verb: str) -> None:
        """Raises ``Refusal`` ``forbidden`` unless the verb is given on all sessions (``*``)."""
        if not any(pattern == "*" and verb in verbs for pattern, verbs in self.can):
            raise Refusal("forbidden", f"this needs {verb} on all sessions (*)", needs=verb)

    def check_operator(self) -> None:
        """Raises ``Refusal`` ``forbidden`` for who does not operate the regions: that needs
        ``admin`` on all sessions, and no tenant."""
        if self.tenant:
            raise Refusal("forbidden", "this is for operators: grants without a tenant")
        self.check_everywhere("admin")

    def check_name(self, name: str, field: str) -> None:
        """Raises ``Refusal`` ``forbidden`` for a producer, member or author that this is not."""
        for pattern in self.names:
            if _matches(pattern, name):
                return
        detail = f"this grant may not be {field} {name[:128]}: {self._said_names()}"
        raise Refusal("forbidden", detail, field=field)

    def _said_names(self) -> str:
        """Who this may be, for who is told that it may not be another."""
        if not self.names:
            return "it has no names: its sub is no id, so its as must list some"
        more = " and others" if len(self.names) > NAMES_SAID_MAX else ""
        listed = ", ".join(self.names[:NAMES_SAID_MAX])
        return f"it may be {listed}{more}; its as can list others"

    def check_names(self, value: Mapping[str, Any], *fields: str) -> None:
        """The same for whatever of these fields is there."""
        for field in fields:
            name = value.get(field)
            if isinstance(name, str):
                self.check_name(name, field)

    def readable(self) -> list[Range]:
        """The sessions that a list may show, as their names inside."""
        seen = (pattern for pattern, verbs in self.can if "read" in verbs)
        return merged([range_of(self.tenant, pattern) for pattern in seen])


ANYBODY = Authority("", "", None, "", (("*", _ALL),), ("*",))


class Unreadable(ValueError):
    """Claims that say no authority."""


def read_can(value: object) -> tuple[tuple[str, frozenset[str]], ...]:
    """The claim ``can``; ``Unreadable`` for anything that is not wholly understood."""
    if value is None:
        return ()
    if not isinstance(value, dict) or len(value) > PATTERNS_MAX:
        raise Unreadable("can must be an object of patterns of sessions and their verbs")
    found = []
    for pattern, verbs in value.items():
        if not is_pattern(pattern):
            raise Unreadable("a pattern is the id of a session, or its beginning and *")
        if not isinstance(verbs, list) or not all(verb in VERBS for verb in verbs):
            raise Unreadable(f"verbs are a list of {', '.join(VERBS)}")
        found.append((pattern, frozenset(verbs)))
    return tuple(found)


def read_names(value: object, subject: str) -> tuple[str, ...]:
    """The claim ``as``; without one, the subject and what begins with it and ``~``."""
    if value is None:
        return (subject, f"{subject}~*") if is_id(subject) else ()
    if not isinstance(value, list) or len(value) > NAMES_MAX or not all(map(is_pattern, value)):
        raise Unreadable("as must be a list of names, or of their beginnings and *")
    return tuple(value)
