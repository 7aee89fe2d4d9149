"""A subscription that goes on at another region when one fails, for ever."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import httpx2

from perdure_client.errors import PerdureError
from perdure_client.regions import RETRY_STATUSES, Regions
from perdure_client.transports import FIRST_S_MAX, Event, HeldBack, Silent, Transports

# A connection that held for so long was a good one: the next failure begins a new series of tries.
STEADY_S = 5.0
# The events of one connection, by a transport, from a region, from a cursor on.
Connect = Callable[[str, str, str | None], AsyncGenerator[Event, None]]


async def followed(
    regions: Regions, transports: Transports, connect: Connect, cursor: str | None = None
) -> AsyncGenerator[Event, None]:
    """Every event from the cursor on, across regions and transports, until ``deleted``.

    Raises :class:`PerdureError` for what every region would refuse.
    """
    pause = regions.pause()
    region = regions.pick()
    while True:
        wait_s: float | None = None
        is_over = False
        transport = transports.of(region)
        why, retry_after_s = "its stream of events has ended", 0.0
        began = regions.now()
        try:
            async with aclosing(connect(transport, region, cursor)) as events:
                async for event in events:
                    # Not at once: a region that cuts every connection early must not be
                    # asked again and again without a pause.
                    if regions.now() - began >= STEADY_S:
                        pause.reset()
                    cursor = event.id or cursor
                    if event.event == "reconnect":
                        wait_s = pause.share_of_s(event.data["retry_ms"] / 1000)
                        break
                    if event.event == "expired":
                        # The next request brings another grant, or is refused.
                        is_over = True
                        break
                    yield event
                    if event.event == "deleted":
                        return
        except PerdureError as error:
            if error.code == "invalid_cursor" and cursor is not None:
                cursor = None
            elif error.status not in RETRY_STATUSES:
                raise
            why, retry_after_s = str(error), error.problem.get("retry_after_s", 0.0)
        except HeldBack as error:
            # A region that hangs must not cost the time of every transport.
            is_there = not isinstance(error, Silent) or await regions.answers(region, FIRST_S_MAX)
            if is_there and transports.held_back(region, transport):
                continue
            why = f"{transport} does not get through to it: {error}"
        except (httpx2.RequestError, OSError, ValueError) as error:
            # Gone, silent, or what it says is no event: the cursor is still good elsewhere.
            why = repr(error)
        if is_over:
            if regions.now() - began < STEADY_S:
                # Not in a tight loop, where each next grant is over as well.
                await regions.sleep(pause.next_s())
            continue
        transports.failed(region)
        regions.failed(region, why, retry_after_s)
        region = await regions.turn(region, pause.next_s() if wait_s is None else wait_s)
