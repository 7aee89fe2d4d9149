"""What a client calls itself where nobody said: a name that its grant allows."""

import base64
import json
from typing import Any

from perdure_client.errors import invalid
from perdure_client.ids import is_id, new_id

SCHEME = "Bearer "


def claims_of(authorization: str) -> dict[str, Any]:
    """What a grant says, unchecked, for that is up to the regions; nothing where it cannot be
    read."""
    try:
        _, payload, _ = authorization.removeprefix(SCHEME).split(".")
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except ValueError:
        return {}
    return claims if isinstance(claims, dict) else {}


def new_producer(authorization: str | None) -> str:
    """A producer that nobody else is, as far as the grant allows that: below one of its names, or
    one of them. Without a grant, or where it allows none: one that the regions decide about."""
    random = f"p-{new_id()}"
    claims = claims_of(authorization or "")
    names, subject = claims.get("as"), claims.get("sub")
    if not isinstance(names, list):
        return f"{subject}~{random}" if is_id(f"{subject}~{random}") and subject else random
    texts = [name for name in names if isinstance(name, str)]
    beginnings = [name[:-1] for name in texts if name.endswith("*")]
    if any(random.startswith(beginning) for beginning in beginnings):
        return random
    below = (f"{beginning}{random}" for beginning in beginnings)
    return next((name for name in (*below, *texts) if is_id(name)), random)


def new_worker(authorization: str | None) -> str:
    """A producer that nobody else is: two workers of one name would take runs from each other, for
    a producer is not kept from what it holds itself. Raises ``Invalid`` where the grant allows
    none."""
    name = new_producer(authorization)
    if name in (claims_of(authorization or "").get("as") or ()):
        raise invalid(
            "invalid_producer",
            f"this grant has every worker be {name}, and each needs a name of its own: list"
            f" {name}~* in its as, or name the workers (worker=)",
        )
    return name
