"""A port of its own for scrapers and probes, on a private address: no grants, nothing else."""

from typing import Any

from perdure.api.bodies import Receive, Scope, Send
from perdure.api.hot import encode_json, respond
from perdure.api.metrics import Metrics
from perdure.api.problems import RETRY_AFTER_S, problem
from perdure.regions.guard_headers import guard_headers
from perdure.regions.node import Node
from perdure.replication.errors import Refusal

_METHODS = ("GET", "HEAD")


class Ops:
    """``/metrics``, ``/livez`` and ``/readyz`` of a region, as ASGI."""

    def __init__(self, node: Node, metrics: Metrics) -> None:
        self._node = node
        self._metrics = metrics
        self._headers = guard_headers(node.region, has_tls=False)

    async def __call__(self, scope: Scope, _: Receive, send: Send) -> None:
        """One request. Whatever else is asked for is not there; a body is not read."""
        if scope["type"] != "http":
            raise RuntimeError("this port takes HTTP only")
        status, fields, body = self._answer(scope)
        headers = [*self._headers, *((name.encode(), value.encode()) for name, value in fields)]
        if scope["method"] == "HEAD":
            length = (b"content-length", str(len(body)).encode())
            await send(
                {"type": "http.response.start", "status": status, "headers": [*headers, length]}
            )
            await send({"type": "http.response.body", "body": b""})
        else:
            await respond(send, status, body, headers)

    def _answer(self, scope: Scope) -> tuple[int, list[tuple[str, str]], bytes]:
        answers = {"/metrics": self._show, "/livez": self._livez, "/readyz": self._readyz}
        answer = answers.get(scope["path"])
        if answer is None:
            return _refusal(Refusal("not_found", "there is nothing at this path"))
        if scope["method"] not in _METHODS:
            text = "this path does not take this method"
            return _refusal(Refusal("method_not_allowed", text, allow=", ".join(_METHODS)))
        return answer(scope)

    def _show(self, scope: Scope) -> tuple[int, list[tuple[str, str]], bytes]:
        accepts = [value.decode("latin-1") for key, value in scope["headers"] if key == b"accept"]
        text, media_type = self._metrics.render(",".join(accepts))
        return 200, [("content-type", media_type), ("cache-control", "no-store")], text

    def _livez(self, _: Scope) -> tuple[int, list[tuple[str, str]], bytes]:
        return _json(200, {"live": True})

    def _readyz(self, _: Scope) -> tuple[int, list[tuple[str, str]], bytes]:
        reason = self._node.readiness()
        if reason is None:
            return _json(200, {"ready": True})
        status, fields, body = _json(503, {"ready": False, "reason": reason})
        return status, [*fields, ("retry-after", str(RETRY_AFTER_S))], body


def _json(status: int, value: dict[str, Any]) -> tuple[int, list[tuple[str, str]], bytes]:
    return status, [("content-type", "application/json")], encode_json(value)


def _refusal(refusal: Refusal) -> tuple[int, list[tuple[str, str]], bytes]:
    found = problem(refusal)
    return found.status, found.headers, found.encode()
