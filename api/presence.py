"""The routes of presence: members that are put, and who is here."""

from fastapi import FastAPI, Request, Response
from perdure.api.answers import answer, no_query, read_object
from perdure.api.fields import Fields, check_ttl_s
from perdure.regions.node import Node

_FIELDS = frozenset({"data", "ttl_s"})


def add_presence(routes: FastAPI, node: Node) -> None:
    """``GET …/presence``, and ``PUT`` and ``DELETE …/presence/{member}``."""

    @routes.get("/v1/sessions/{s}/presence")
    async def presence(s: str, request: Request) -> Response:
        """Everybody who is present in the session."""
        no_query(request)
        return answer({"presence": node.members(s)})

    @routes.put("/v1/sessions/{s}/presence/{member}")
    async def put_member(s: str, member: str, request: Request) -> Response:
        """A member is here for some time from now; repeated, it stays."""
        no_query(request)
        value = await read_object(request, empty=True)
        Fields(value, _FIELDS)
        ttl_s = check_ttl_s(value.get("ttl_s"))
        return answer(node.put_member(s, member, value.get("data"), ttl_s))

    @routes.delete("/v1/sessions/{s}/presence/{member}", status_code=204)
    async def remove_member(s: str, member: str, request: Request) -> Response:
        """The member leaves, in every region."""
        no_query(request)
        node.remove_member(s, member)
        return Response(status_code=204)
