"""The routes that take a region out and back, and remove another one for good."""

from typing import Any

from fastapi import FastAPI, Request, Response
from perdure.api.answers import answer, authority_of, no_query, read_object
from perdure.api.auditing import note
from perdure.api.door import Door
from perdure.api.fields import Fields
from perdure.regions.node import Node
from perdure.replication.errors import Refusal


def add_life_cycle(routes: FastAPI, node: Node, door: Door) -> None:
    """``/admin/api/drain`` and ``/admin/api/regions/{r}/forget``, for operators."""

    async def noted(request: Request, action: str, target: str, **more: Any) -> None:
        # Before it is done: afterwards there may be nobody who could.
        if door.guard is not None:
            told = {"target": target, **more}
            await note(door.guard.audit, action, authority_of(request), (), told)

    @routes.post("/admin/api/drain")
    async def drain_region(request: Request) -> Response:
        """Take no more writes and send readers elsewhere; or serve again."""
        no_query(request)
        authority_of(request).check_operator()
        fields = Fields(await read_object(request, empty=True), frozenset({"undo"}))
        if fields.flag("undo"):
            await noted(request, "region.undrain", node.region)
            node.end_drain()
            return answer(_standing(node, flushed=None))
        await noted(request, "region.drain", node.region)
        return answer(_standing(node, flushed=await node.begin_drain()))

    @routes.post("/admin/api/regions/{r}/forget")
    async def forget_region(r: str, request: Request) -> Response:
        """Remove another region for good, in all regions."""
        no_query(request)
        caller = authority_of(request)
        caller.check_operator()
        fields = Fields(await read_object(request), frozenset({"confirm", "force"}))
        if fields.needed("confirm") != r:
            raise Refusal("invalid_body", "confirm must be the name of the region", field="confirm")
        force = fields.flag("force")
        await noted(request, "region.forget", r, force=force)
        return answer(await node.forget_region(r, by=caller.subject, force=force))


def _standing(node: Node, *, flushed: bool | None) -> dict[str, Any]:
    return {
        "region": node.region,
        "state": node.readiness(),
        "flushed": flushed,
        "readers": node.fanout.count,
    }
