"""Whose a message is: who may delete it without being an administrator of the session."""

from perdure.api.authority import Authority
from perdure.regions.node import Node
from perdure.replication.errors import Refusal
from perdure.replication.tenants import name_of


def check_own(node: Node, authority: Authority, session: str, message: str) -> None:
    """Raises ``Refusal`` ``forbidden`` for a message that is somebody else's, unless the grant has
    ``admin``; ``not_found`` and ``deleted`` where it cannot be said whose it is."""
    if "admin" in authority.verbs(name_of(session)):
        return
    names = [name for name in node.writers(session, message) if name is not None]
    for name in names:
        try:
            authority.check_name(name, "author")
        except Refusal:
            continue
        return
    raise Refusal("forbidden", "this needs admin: the message is somebody else's", needs="admin")
