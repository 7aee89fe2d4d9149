"""What is deleted is gone from every disk in the end, and every region says so.

The one promise for which disks are looked at, and not what clients see: it is about them.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping

from perdure.regions.node import Node
from perdure.replication.errors import Refusal

from tests.simulation.disk import Disk
from tests.simulation.history import History

# How long after everything is read the last may take to be gone, and all to have heard so. Twice
# the time after which a region deletes again what it knows by no log.
ERASED_S_MAX = 150.0
LOOK_EVERY_S = 1.0


def deleted_in(node: Node, sessions: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The messages of which a region knows that they are deleted."""
    for name in sessions:
        session = node.state.find(name)
        if session is not None:
            graves = {*session.messages.tombstones, *session.messages.graves}
            yield from ((name, message) for message in sorted(graves))


def words(nodes: Mapping[str, Node], sessions: Iterable[str]) -> dict[tuple[str, str], str]:
    """By region and message, how far its erasure is."""
    found = {}
    for name, node in nodes.items():
        for session, message in deleted_in(node, sessions):
            try:
                told = node.erasure(session, message)
            except Refusal as refusal:
                found[name, message] = refusal.code
            else:
                waiting = [r for r, state in told["regions"].items() if state != "done"]
                found[name, message] = "done" if not waiting else f"waiting for {waiting}"
    return found


async def look(history: History, nodes: Mapping[str, Node], disks: Iterable[Disk]) -> None:
    """Wait until all is gone, but not longer than that may take; and note what disks held of what
    was said to be gone, when that was said and ever after."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + ERASED_S_MAX
    history.erasures = words(nodes, history.sessions)
    while set(history.erasures.values()) - {"done"} and loop.time() < until_s:
        await asyncio.sleep(LOOK_EVERY_S)
        history.erasures = words(nodes, history.sessions)
    history.remains = [line for disk in disks for line in disk.remains]


def erased(history: History) -> Iterator[str]:
    """Every region says that all have made it gone, and no disk held anything of it when that was
    said, or was given it later."""
    for (region, message), state in history.erasures.items():
        if state != "done":
            yield f"{region} says of {message}, which is deleted: {state}"
    yield from history.remains
