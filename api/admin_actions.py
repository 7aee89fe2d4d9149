"""What operators do: each is noted in the audit log before it is done."""

from typing import Any

from fastapi import FastAPI, Request, Response
from perdure.api.answers import answer, authority_of, no_query, read_object
from perdure.api.auditing import note
from perdure.api.door import Door
from perdure.api.fields import Fields
from perdure.regions.node import Node
from perdure.replication.errors import Refusal
from perdure.replication.ids import check_id
from perdure.replication.tenants import check_session, is_own, tenant_of

UNDER = "/admin/api"


class Acting:
    """Who does what to one region."""

    def __init__(self, node: Node, door: Door) -> None:
        self.node = node
        self._door = door

    async def note(self, request: Request, action: str, *about: str, **told: Any) -> None:
        """Note it. Raises ``StorageError`` and ``Refusal``: then it is not done."""
        guard = self._door.guard
        if guard is None:
            # Where anybody may come there is nobody to name.
            return
        session, *rest = about or ("",)
        places = [session, *rest] if session else []
        tenant = {"tenant": tenant_of(session)} if session else {}
        await note(guard.audit, action, authority_of(request), places, {**tenant, **told})


async def fields_of(request: Request, *known: str) -> Fields:
    """The fields of an operator's request. Raises ``Refusal``."""
    authority_of(request).check_operator()
    no_query(request)
    return Fields(await read_object(request, empty=True, is_free=True), frozenset(known))


def add_actions(routes: FastAPI, node: Node, door: Door) -> None:
    """The routes; those that drain and forget are in ``life_cycle.py``."""
    acting = Acting(node, door)

    @routes.post(UNDER + "/verify")
    async def admin_verify(request: Request) -> Response:
        """Compare what all regions hold now, of one session or of all."""
        session = (await fields_of(request, "session")).text("session")
        about = () if session is None else (check_session(session),)
        await acting.note(request, "verify", *about)
        return answer(await node.oversight.verified(session))

    @routes.post(UNDER + "/sessions/{s}/cancel")
    async def admin_cancel(s: str, request: Request) -> Response:
        """Cancel a message that is being written, or a run: nothing is taken back."""
        message = check_id((await fields_of(request, "message")).needed("message"), "message")
        if is_own(check_session(s)):
            raise Refusal("forbidden", "this is a session of the regions' own")
        # So that what is noted is something that there is.
        node.message(s, message)
        await acting.note(request, "message.cancel", s, message)
        return answer({"status": await node.cancel(s, message)})

    @routes.post(UNDER + "/connections/{c}/disconnect")
    async def admin_disconnect(c: str, request: Request) -> Response:
        """End a connection so that its client comes back and goes on where it was."""
        await fields_of(request)
        connection = node.oversight.connections.find(c)
        if connection is None:
            raise Refusal("not_found", "there is no such connection, any more")
        about = f"{connection.kind} of {connection.subject or 'anybody'}"
        session = connection.session
        await acting.note(request, "connection.end", *([session] if session else []), target=about)
        connection.end()
        return answer({"id": c, "kind": connection.kind, "session": session})
