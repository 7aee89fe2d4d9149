"""``traceparent`` of W3C Trace Context: what is carried with a message that is traced."""

import re
from collections.abc import Mapping
from typing import Any

from perdure.replication.errors import Malformed

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_VERSION = "00"
_SAMPLED = 1


def sampled(text: str) -> str | None:
    """What is to be carried of a ``traceparent``, in the form of version 00; None where it is not
    one (then it is as if there was none), or says that the trace is not recorded."""
    match = _TRACEPARENT.match(text)
    if match is None or not int(match[1], 16) or not int(match[2], 16):
        return None
    # A later version may say more behind a further hyphen.
    rest = text[match.end() :]
    if rest and (text.startswith(_VERSION) or not rest.startswith("-")):
        return None
    if not int(match[3], 16) & _SAMPLED:
        return None
    return f"{_VERSION}-{match[1]}-{match[2]}-01"


def told(trace: str | None) -> dict[str, str]:
    """What is said of it beside a header. Regions that do not know it pass over it, and hand the
    record on as it is."""
    return {} if trace is None else {"trace": trace}


def carried(wire: Mapping[str, Any]) -> str | None:
    """The same read again; ``Malformed`` for what :func:`sampled` never gives."""
    trace = wire.get("trace")
    if trace is None:
        return None
    if not isinstance(trace, str) or sampled(trace) != trace:
        raise Malformed("not a trace")
    return trace
