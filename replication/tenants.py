"""Tenants: whose a session is, as part of the name that the regions know it by.

Inside, a session of a tenant is ``<tenant>:<id>``, and its clients say and see ``<id>`` alone. No
id holds a colon, so nothing that a client says, and no pattern, leads into another tenant's
sessions. A session of the tenant that has no name is ``<id>``; what begins with a colon is the
regions' own.
"""

import re
from typing import NamedTuple

from perdure.replication.errors import Refusal
from perdure.replication.ids import is_id
from perdure.replication.limits import ID_CHARS_MAX, TENANT_CHARS_MAX

_TENANT = re.compile(rf"[a-z0-9][a-z0-9_-]{{0,{TENANT_CHARS_MAX - 1}}}\Z")
# Sorts after every id.
_LAST = "\x7f"


def is_tenant(text: object) -> bool:
    """Whether this names a tenant; the one without a name is ``""``."""
    return isinstance(text, str) and (text == "" or _TENANT.match(text) is not None)


def session_key(tenant: str, id_: str) -> str:
    """What the regions call a tenant's session."""
    return f"{tenant}:{id_}" if tenant else id_


def own_key(name: str) -> str:
    """What the regions call a session of their own, which no client can name."""
    return f":{name}"


def tenant_of(key: str) -> str:
    """Whose session it is."""
    return key.partition(":")[0] if ":" in key else ""


def name_of(key: str) -> str:
    """What its clients call a session."""
    return key.rpartition(":")[2]


def is_own(key: str) -> bool:
    """Whether it is a session of the regions' own."""
    return key.startswith(":")


def is_session(key: object) -> bool:
    """Whether regions may call a session so."""
    if not isinstance(key, str):
        return False
    tenant, colon, id_ = key.rpartition(":")
    return is_id(id_) and (not colon or is_tenant(tenant))


def check_session(key: object, field: str = "session") -> str:
    """The session's name inside, or ``Refusal`` ``invalid_id`` that names the field."""
    if not isinstance(key, str) or not is_session(key):
        detail = f"{field} must be 1 to {ID_CHARS_MAX} characters of A-Z a-z 0-9 . _ ~ -"
        raise Refusal("invalid_id", detail, field=field)
    return key


class Range(NamedTuple):
    """Names of sessions from ``first`` on, before ``past``."""

    first: str
    past: str


def range_of(tenant: str, pattern: str) -> Range:
    """The sessions that a pattern means: an id, or the beginning of ids and ``*``."""
    key = session_key(tenant, pattern.removesuffix("*"))
    if not pattern.endswith("*"):
        return Range(key, key + "\x01")
    return Range(key, key + _LAST)


def merged(ranges: list[Range]) -> list[Range]:
    """The same sessions, each in one range only, in their order."""
    found: list[Range] = []
    for each in sorted(ranges):
        if found and each.first < found[-1].past:
            found[-1] = Range(found[-1].first, max(found[-1].past, each.past))
        else:
            found.append(each)
    return found
