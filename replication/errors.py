"""What the core says when it refuses something, in the caller's words.

Blame is split as in h11: a :class:`Refusal` is the client's (it asked for what the rules do not
allow), a :class:`Malformed` is a peer's (what it sent is not of this protocol).
"""

from typing import Any


class Refusal(Exception):
    """A request that the rules refuse; nothing was changed.

    ``code`` is one of the codes of ``docs/PROTOCOL.md`` A.1, ``detail`` a sentence for people,
    ``extra`` further members of the problem object (for instance ``expected``).
    """

    def __init__(self, code: str, detail: str, **extra: Any) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.extra = extra


class Malformed(ValueError):
    """Bytes from a peer, or from disk, that are not an operation of this protocol."""


class Damaged(Exception):
    """What was stored is not what was written: it must not be shown, nor sent to anybody."""
