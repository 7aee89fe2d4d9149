"""What clients ask of a region, as HTTP requests, and what the answers mean."""

import json
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from perdure.regions.answers import Ack, Opened, Sent
from perdure.regions.ports import StorageError, StorageFull
from perdure.replication.admission import Draft
from perdure.replication.errors import Refusal
from perdure.replication.runs import RunDraft

_DRAFT = ("id", "text", "author", "after", "replaces", "producer", "claim_id", "run")


class Reply(NamedTuple):
    """An HTTP answer."""

    status: int
    body: Any


# Method, path, body, headers, query.
Request = Callable[[str, str, Any, dict[str, str], dict[str, Any]], Awaitable[Reply]]


class Verbs:
    """The verbs of a door, over something that carries out a request."""

    def __init__(self, request: Request) -> None:
        self._request = request

    async def carry_out(self, verb: str, args: Any, more: Any) -> Any:
        """The answer. Raises ``Refusal`` and ``StorageError``, as a node does."""
        if verb == "agent_runs":
            body = (await self._http("GET", f"/v1/agents/{args[0]}/runs")).body
            return json.dumps(body["runs"]), body["cursor"]
        session = f"/v1/sessions/{args[0]}" if args and args[0] else "/v1/sessions"
        return await getattr(self, f"_{verb}")(session, *args[1:], **more)

    async def _http(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        query: dict[str, Any] | None = None,
    ) -> Reply:
        reply = await self._request(method, path, body, headers or {}, query or {})
        if reply.status >= 400:
            raise refusal_of(reply.body)
        return reply

    async def _open(self, session: str, draft: Draft) -> Opened:
        reply = await self._http("POST", f"{session}/messages", _body(draft))
        return Opened(created=reply.status == 201, **reply.body)

    async def _reopen(self, session: str, header: str) -> Opened:
        reply = await self._http("POST", f"{session}/messages", {"header": header})
        return Opened(created=reply.status == 201, **reply.body)

    async def _send(self, session: str, draft: Draft) -> Sent:
        reply = await self._http("POST", f"{session}/messages", _body(draft))
        stable = reply.body.pop("stable")
        return Sent(reply.status == 201, reply.body, stable)

    async def _claim(
        self, session: str, message: str, producer: str, claim_id: str, mode: str
    ) -> Any:
        body = {"producer": producer, "claim_id": claim_id, "mode": mode}
        return (await self._http("POST", f"{session}/messages/{message}/claim", body)).body

    async def _append(
        self,
        session: str,
        message: str,
        producer: str,
        epoch: str,
        seq: int,
        items: list[Any],
        end: str | None,
    ) -> Ack:
        headers = {"producer-id": producer, "producer-epoch": epoch, "producer-seq": str(seq)}
        body = {**({"tokens": items} if items else {}), **({"end": end} if end else {})}
        path = f"{session}/messages/{message}/tokens"
        return Ack(**(await self._http("POST", path, body, headers)).body)

    async def _cancel(self, session: str, message: str) -> Any:
        path = f"{session}/messages/{message}/cancel"
        return (await self._http("POST", path)).body["status"]

    async def _delete(self, session: str, message: str) -> None:
        await self._http("DELETE", f"{session}/messages/{message}")

    async def _request_run(self, session: str, draft: RunDraft) -> Any:
        body = {"id": draft.id, "agent": draft.agent}
        return (await self._http("POST", f"{session}/runs", body)).body

    async def _runs(self, session: str, *_: Any) -> Any:
        return (await self._http("GET", f"{session}/runs", query={"limit": 1000})).body

    async def _claim_run(
        self, session: str, run: str, producer: str, claim_id: str, mode: str, lease_s: int
    ) -> Any:
        who = {"producer": producer, "claim_id": claim_id}
        body = {**who, "mode": mode, "lease_s": lease_s}
        return (await self._http("POST", f"{session}/runs/{run}/claim", body)).body

    async def _renew_run(self, session: str, run: str, producer: str, epoch: str) -> Any:
        body = {"producer": producer, "epoch": epoch}
        return (await self._http("POST", f"{session}/runs/{run}/lease", body)).body

    async def _say_state(
        self, session: str, run: str, producer: str, epoch: str, n: int, state: str, detail: Any
    ) -> Any:
        body = {"producer": producer, "epoch": epoch, "n": n, "state": state, "detail": detail}
        return (await self._http("POST", f"{session}/runs/{run}/state", body)).body

    async def _cancel_run(self, session: str, run: str) -> Any:
        return (await self._http("POST", f"{session}/runs/{run}/cancel")).body

    async def _document(self, session: str, document: str) -> Any:
        return (await self._http("GET", f"{session}/documents/{document}")).body

    async def _patch_document(self, session: str, document: str, _: None, patch: Any) -> Any:
        path = f"{session}/documents/{document}"
        return (await self._http("PATCH", path, {"json": patch})).body

    async def _append_document(self, session: str, document: str, text: str, key: str) -> Any:
        path, headers = f"{session}/documents/{document}/append", {"idempotency-key": key}
        return (await self._http("POST", path, {"text": text}, headers)).body

    async def _members(self, session: str) -> Any:
        return (await self._http("GET", f"{session}/presence")).body["presence"]

    async def _put_member(self, session: str, member: str, ttl_s: int) -> Any:
        return (await self._http("PUT", f"{session}/presence/{member}", {"ttl_s": ttl_s})).body

    async def _remove_member(self, session: str, member: str) -> None:
        await self._http("DELETE", f"{session}/presence/{member}")

    async def _sessions(self, session: str, *_: Any) -> Any:
        return (await self._http("GET", session)).body

    async def _messages(self, session: str, *_: Any) -> Any:
        query = {"limit": 1000}
        return (await self._http("GET", f"{session}/messages", query=query)).body

    async def _regions(self, *_: Any) -> Any:
        return (await self._http("GET", "/v1/regions")).body

    async def _verify(self, *_: Any) -> Any:
        return (await self._http("GET", "/v1/verify")).body


def refusal_of(problem: dict[str, Any]) -> Exception:
    """What an answer of 400 and more says."""
    code = problem["code"]
    if code == "storage_full":
        return StorageFull(code)
    if code == "storage_failed":
        return StorageError(code)
    extra = {name: problem[name] for name in ("expected",) if name in problem}
    return Refusal(code, problem.get("detail", ""), **extra)


def _body(draft: Draft) -> dict[str, Any]:
    given = {name: getattr(draft, name) for name in _DRAFT}
    return {"role": draft.role, **{k: v for k, v in given.items() if v is not None}}
