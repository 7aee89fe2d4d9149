"""A grant that nears its end is followed by the next, while what stands on it goes on."""

import contextlib
import time
from collections.abc import Callable

from perdure_client.errors import PerdureError
from perdure_client.own_names import SCHEME, claims_of
from perdure_client.regions import Regions

# Renewed when so much of what is left of it is over.
SHARE = 0.75
WAIT_S_MIN = 1.0


def left_s(authorization: str, now_s: float) -> float | None:
    """For how long a grant is good; None where it does not say so."""
    try:
        return float(claims_of(authorization)["exp"]) - now_s
    except (ValueError, KeyError, TypeError):
        return None


async def keep(
    regions: Regions, region: str, held: str, headers: Callable[[], dict[str, str]]
) -> None:
    """Let what goes on in a region under a grant go on under those that follow it, until there is
    no next one. What comes of it in any case: a stream that ends goes on where it was."""
    left = left_s(held, time.time())
    while left is not None and left > 0:
        await regions.sleep(max(left * SHARE, WAIT_S_MIN))
        following = headers().get("authorization", held)
        if following != held:
            body = {"grant": held.removeprefix(SCHEME)}
            with contextlib.suppress(PerdureError):
                own = {"authorization": following}
                await regions.once(region, "POST", "/v1/grants/renew", body, own)
            held = following
        left = left_s(held, time.time())
