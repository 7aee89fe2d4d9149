"""The routes of runs, their agents, and signals."""

from typing import Any

from fastapi import FastAPI, Request, Response
from perdure.api.answers import answer, idempotency_key, no_query, read_object
from perdure.api.fields import Fields, limit, query, whole
from perdure.regions.node import Node
from perdure.replication.limits import LEASE_S_MAX
from perdure.replication.runs import RunDraft

RUN_FIELDS = frozenset({"id", "agent", "by", "input", "role", "metadata", "after", "replaces"})
CLAIM_FIELDS = frozenset({"producer", "claim_id", "mode", "lease_s"})
LEASE_FIELDS = frozenset({"producer", "epoch"})
STATE_FIELDS = frozenset({"producer", "epoch", "n", "state", "detail"})
SIGNAL_FIELDS = frozenset({"signal", "data", "from"})


def run_draft(fields: Fields, key: str | None) -> RunDraft:
    """A run as it is asked for."""
    return RunDraft(
        agent=fields.needed("agent"),
        id=fields.text("id"),
        by=fields.text("by"),
        input=fields.text("input"),
        role=fields.text("role"),
        metadata=fields.object("metadata"),
        after=fields.text("after"),
        replaces=fields.text("replaces"),
        idempotency_key=key,
    )


async def claim_run(node: Node, session: str, run: str, fields: Fields) -> dict[str, Any]:
    """An agent takes a run."""
    lease_s = whole(fields.value("lease_s"), "lease_s", 1, LEASE_S_MAX)
    mode = fields.text("mode") or "continue"
    names = fields.needed("producer"), fields.needed("claim_id")
    return await node.claim_run(session, run, *names, mode, lease_s)


async def say_state(node: Node, session: str, run: str, fields: Fields) -> dict[str, Any]:
    """An agent's word on the state of its run."""
    n = whole(fields.value("n"), "n", 1, 2**53 - 1, needed=True)
    assert n is not None
    names = fields.needed("producer"), fields.needed("epoch")
    return await node.say_state(
        session, run, *names, n, fields.needed("state"), fields.value("detail")
    )


def send_signal(node: Node, session: str, fields: Fields) -> None:
    """Something for who reads now."""
    node.signal(session, fields.needed("signal"), fields.value("data"), fields.text("from"))


def add_runs(routes: FastAPI, node: Node) -> None:
    """``…/runs`` and what is below, and ``…/signals``."""
    path = "/v1/sessions/{s}/runs"

    @routes.post(path, status_code=201)
    async def request_run(s: str, request: Request) -> Response:
        """Ask an agent for a turn."""
        no_query(request)
        fields = Fields(await read_object(request), RUN_FIELDS)
        created, value = await node.request_run(s, run_draft(fields, idempotency_key(request)))
        return answer(value, 201 if created else 200)

    @routes.get(path)
    async def runs(s: str, request: Request) -> Response:
        """Runs, also those that are over, newest first by pages, each page oldest first."""
        values = query(request.scope["query_string"], "before", "limit")
        return answer(node.runs(s, values.get("before"), limit(values)))

    @routes.get(path + "/{r}")
    async def run(s: str, r: str, request: Request) -> Response:
        """One run."""
        no_query(request)
        return answer(node.run(s, r))

    @routes.post(path + "/{r}/claim")
    async def take_run(s: str, r: str, request: Request) -> Response:
        """An agent takes the run, or takes it over."""
        no_query(request)
        return answer(await claim_run(node, s, r, Fields(await read_object(request), CLAIM_FIELDS)))

    @routes.post(path + "/{r}/lease")
    async def renew_lease(s: str, r: str, request: Request) -> Response:
        """The agent that holds the run is still at work."""
        no_query(request)
        fields = Fields(await read_object(request), LEASE_FIELDS)
        return answer(node.renew_run(s, r, fields.needed("producer"), fields.needed("epoch")))

    @routes.post(path + "/{r}/state")
    async def tell_state(s: str, r: str, request: Request) -> Response:
        """The agent suspends its run, or goes on with it."""
        no_query(request)
        return answer(await say_state(node, s, r, Fields(await read_object(request), STATE_FIELDS)))

    @routes.post(path + "/{r}/cancel")
    async def cancel_run(s: str, r: str, request: Request) -> Response:
        """Stop the run; what was written stays."""
        no_query(request)
        Fields(await read_object(request, empty=True), frozenset())
        return answer(await node.cancel_run(s, r))

    @routes.post("/v1/sessions/{s}/signals", status_code=202)
    async def signal(s: str, request: Request) -> Response:
        """Tell who reads now, and nobody later."""
        no_query(request)
        send_signal(node, s, Fields(await read_object(request), SIGNAL_FIELDS))
        return answer({}, 202)
