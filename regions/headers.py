"""The opaque ``header`` that a producer carries from region to region.

It holds the operations that make another region know a message and an epoch, sealed with a key that
all regions share: they are as good as gossip, by whoever they are brought.
"""

import json
from collections.abc import Sequence
from typing import TypeAlias

from perdure.replication.coding import decode, encode
from perdure.replication.errors import Malformed, Refusal
from perdure.replication.frames import header_key
from perdure.replication.ids import HeaderSeal
from perdure.replication.operations import Claim, Items, Open

Carried: TypeAlias = Open | Claim | Items


class Headers:
    """Seals and unseals headers."""

    def __init__(self, secret: bytes, accepted: Sequence[bytes] = ()) -> None:
        self._seal = HeaderSeal(header_key(secret), [header_key(one) for one in accepted])

    def seal(self, operations: Sequence[Carried]) -> str:
        """The header that carries these operations, an ``open`` first."""
        bodies = [json.loads(encode(operation)) for operation in operations]
        return self._seal.seal(json.dumps(bodies, separators=(",", ":")).encode())

    def unseal(self, session: str, header: str) -> list[Carried]:
        """The operations; ``Refusal`` ``invalid_header`` for what these regions did not make, and
        for what they made for another session."""
        try:
            bodies = json.loads(self._seal.unseal(header))
            operations = [decode(json.dumps(body).encode()) for body in bodies]
        except (Malformed, ValueError) as error:
            raise Refusal("invalid_header", "this header was not made by these regions") from error
        ours: list[Carried] = [
            op
            for op in operations
            if isinstance(op, Open | Claim | Items) and op.session == session
        ]
        if not ours or len(ours) < len(operations) or not isinstance(ours[0], Open):
            raise Refusal("invalid_header", "this header belongs to another session")
        return ours
