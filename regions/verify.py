"""Do all regions hold the same? By digests over assembled content, never over form.

Buckets first, so that comparing ten thousand sessions costs two small frames; then the sessions of
the buckets that differ.
"""

import asyncio
from typing import Any

from perdure.regions.holdings import Holdings
from perdure.regions.links import Links, PeerUnreachable
from perdure.replication.gossip import Gossip

DIFFERENT_IDS_MAX = 1_000


async def verify(
    holdings: Holdings, gossip: Gossip, links: Links | None, session: str | None
) -> dict[str, Any]:
    """Compare with every configured peer; the answer of ``GET /v1/verify``.

    What is under way between regions counts as different: ask again when the text is quiet.
    """
    names = sorted(gossip.peers)
    compared = await asyncio.gather(*(_compare(holdings, links, name, session) for name in names))
    regions = dict(zip(names, (outcome for outcome, _ in compared), strict=True))
    different = sorted({id_ for _, ids in compared for id_ in ids})
    answer: dict[str, Any] = {
        "equal": all(outcome == "equal" for outcome in regions.values()),
        "regions": regions,
        "sessions": len(holdings) if session is None else int(holdings.knows(session)),
        "different": different[:DIFFERENT_IDS_MAX],
    }
    if session is not None:
        answer["digest"] = holdings.of(session)
    return answer


async def _compare(
    holdings: Holdings, links: Links | None, name: str, session: str | None
) -> tuple[str, list[str]]:
    if links is None:
        return "unreachable", []
    try:
        if session is not None:
            answer = await links.ask_digests(name, session, None)
            same = (answer.sessions or {}).get(session) == holdings.of(session)
            return ("equal", []) if same else ("different", [session])
        return await _compare_all(holdings, links, name)
    except PeerUnreachable:
        return "unreachable", []


async def _compare_all(holdings: Holdings, links: Links, name: str) -> tuple[str, list[str]]:
    theirs = (await links.ask_digests(name, None, None)).buckets or []
    mine = holdings.buckets()
    numbers = [
        number for number, value in enumerate(mine) if theirs[number : number + 1] != [value]
    ]
    if not numbers:
        return "equal", []
    differing: list[str] = []
    vague = False
    waiting = [numbers]
    while waiting and len(differing) < DIFFERENT_IDS_MAX:
        asked = waiting.pop()
        sessions = (await links.ask_digests(name, None, asked)).sessions
        if sessions is not None:
            # Looked up here, not before: both sides are compared as they are now.
            own = holdings.in_buckets(asked)
            differing += [id_ for id_ in {**sessions, **own} if sessions.get(id_) != own.get(id_)]
        elif len(asked) > 1:
            # More sessions than one answer has room for.
            half = len(asked) // 2
            waiting += [asked[half:], asked[:half]]
        else:
            vague = True
    return ("different", differing) if differing or vague else ("equal", [])
