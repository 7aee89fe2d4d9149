"""Requests that stay open are connections: counted against limits, and shown to operators."""

import asyncio
import contextlib
from collections.abc import Iterator

from perdure.api.authority import Authority
from perdure.api.bodies import Scope
from perdure.api.rates import Meter
from perdure.api.socket_frames import LEAVE_S_MAX
from perdure.regions.connections import Connection
from perdure.regions.fanout import Reader
from perdure.regions.node import Node
from perdure.replication.feed import Draft

# The last word for a reader that is sent away and may come back at once.
COME_BACK = Draft("reconnect", '{"retry_ms":100}')
_IN_SCOPE = "perdure.connection"


@contextlib.contextmanager
def connected(
    node: Node, meter: Meter, scope: Scope, authority: Authority, kind: str, session: str | None
) -> Iterator[None]:
    """One more, while it lasts. Raises ``Refusal`` ``too_many``."""
    with meter.connected(scope, authority):
        whose = (authority.subject, meter.address(scope))
        with node.oversight.connections.opened(kind, session, *whose) as connection:
            scope[_IN_SCOPE] = connection
            node.meters.connections.add(1, kind)
            try:
                yield
            finally:
                node.meters.connections.add(-1, kind)


def follow(scope: Scope, reader: Reader, member: str | None) -> None:
    """The request reads a session through this, and brings a member to it."""
    connection = connection_of(scope)
    connection.follow(reader)
    connection.member = member
    connection.end = lambda: reader.end_with(COME_BACK)


def cut_by(scope: Scope, waiting: asyncio.Future[None]) -> None:
    """Where an operator ends the request, cancel this a little later: its client may take nothing,
    and then no last word either."""
    connection = connection_of(scope)
    end = connection.end

    def both() -> None:
        end()
        asyncio.get_running_loop().call_later(LEAVE_S_MAX, waiting.cancel)

    connection.end = both


def connection_of(scope: Scope) -> Connection:
    """The connection that a request is."""
    connection: Connection = scope[_IN_SCOPE]
    return connection
