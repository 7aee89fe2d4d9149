"""The lines of one exported session, and what its end says of them (PROTOCOL C.1)."""

import hashlib
from typing import Any

from perdure.replication.ids import canonical

FORMAT = 1
DIGEST_BYTES = 32


class Block:
    """The lines of one session, and what the end says of them."""

    def __init__(self) -> None:
        self.lines = 0
        self._digest = hashlib.blake2b(digest_size=DIGEST_BYTES)

    def line(self, kind: str, **fields: Any) -> bytes:
        """One more line."""
        data = canonical({"kind": kind, **fields}).encode() + b"\n"
        self.lines += 1
        self._digest.update(data)
        return data

    def end(self, messages: int, documents: int) -> bytes:
        """The last line."""
        said = {"messages": messages, "documents": documents, "lines": self.lines}
        return self.line("end", **said, blake2b=self._digest.hexdigest())
