"""A region that is told what to say: the admin API of ``docs/PROTOCOL.md``, of a scenario.

It shows the page what is hard to have of real regions at will: one that fails, one that is late,
one that refuses. Three regions are told of: this one is eu.
"""

import contextlib
import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from perdure.api.admin_page import POLICY, File, files
from perdure.regions.clock import SystemClock

NAMES = ("ap", "eu", "us")
VERSION = "0.1.0"
STEP_S = 2
MEASURED = (
    *("tokens_per_s", "events_per_s", "commit_p50_ms", "commit_p99_ms", "append_p50_ms"),
    *("append_p99_ms", "delivery_p50_ms", "delivery_p99_ms", "gossip_lag_ms", "readers"),
    "errors_per_s",
)
RTT_MS = {"ap eu": 182.4, "eu us": 84.1, "ap us": 151.0}
UNDER = "/admin/api/"
GRANT = "grant-of-an-operator"
HOUR_MS = 3_600_000


class AdminRegion:
    """Serves the page and the answers; :meth:`kill`, :meth:`revive` and the attributes are the
    scenario."""

    def __init__(self) -> None:
        self.clock = SystemClock()
        self.asks_grant = False
        self.refuses: dict[str, tuple[int, str, str]] = {}
        # What is different in the view of a region, and in how one sees another.
        self.views: dict[str, dict[str, Any]] = {}
        self.sees: dict[tuple[str, str], dict[str, Any]] = {}
        self.acted: list[tuple[str, str, Any]] = []
        self.urls: dict[str, str] = {}
        self.killed: dict[str, int] = {}
        self.forgotten: set[str] = set()
        self.is_silent = False
        self._changed = threading.Condition()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "AdminRegion":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.is_silent = True
        self.tell()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def tell(self) -> None:
        """Every stream tells how it is now."""
        with self._changed:
            self._changed.notify_all()

    def wait(self) -> None:
        with self._changed:
            self._changed.wait(1.0)

    def kill(self, region: str, ago_s: int = 12) -> None:
        self.killed[region] = self.clock.wall_ms() - ago_s * 1000
        self.tell()

    def revive(self, region: str) -> None:
        del self.killed[region]
        self.tell()

    def overview(self) -> dict[str, Any]:
        now_ms = self.clock.wall_ms()
        return {
            "region": "eu",
            "version": VERSION,
            "incarnation": "9f2c41d07be38a15",
            "wire": [1, 2],
            "started_ms": now_ms - 5 * HOUR_MS,
            "now_ms": now_ms,
            "state": None,
            "regions": [self._view(name, now_ms) for name in NAMES if name not in self.forgotten],
            "summary": {},
        }

    def _view(self, name: str, now_ms: int) -> dict[str, Any]:
        number = NAMES.index(name)
        is_dead = name in self.killed
        return {
            "region": name,
            "reachable": not is_dead,
            "state": None,
            "version": VERSION,
            "incarnation": f"{0x9F2C41D07BE38A15 + number:016x}",
            "wire": [1, 2],
            "uptime_s": 18_230 + 7 * number,
            "now_ms": now_ms,
            "url": self.urls.get(name),
            "is_gone": False,
            "sessions": 48_213,
            "in_memory": 611 + number,
            "readers": 1204,
            "connections": 1320 - number,
            "open_runs": 37,
            "present": 902,
            "tokens_per_s": 4100.0 + 37 * number,
            "events_per_s": 22_000.0,
            "log_bytes": 31_400_000,
            "disk_free_bytes": 212_000_000_000,
            "problems": [],
            "sees": [
                self._see(name, other, now_ms)
                for other in NAMES
                if other not in {name, *self.forgotten}
            ],
            **({"age_ms": now_ms - self.killed[name]} if is_dead else {}),
            **self.views.get(name, {}),
        }

    def _see(self, by: str, seen: str, now_ms: int) -> dict[str, Any]:
        silent_ms = now_ms - self.killed[seen] if seen in self.killed else 400
        state = "down" if silent_ms >= 10_000 else "suspect" if silent_ms >= 3_000 else "up"
        behind = 0 if state == "up" else silent_ms * 4
        return {
            "region": seen,
            "state": state,
            "rtt_ms": RTT_MS[" ".join(sorted((by, seen)))],
            "behind_operations": behind,
            "behind_bytes": behind * 210,
            "behind_s": behind / 4000,
            "clock_offset_ms": 1.8,
            "last_seen_ms": silent_ms,
            "last_anti_entropy_ms": 41_000,
            "digests": "equal",
            "wire": 2,
            **self.sees.get((by, seen), {}),
        }

    def history(self) -> dict[str, Any]:
        now_s = self.clock.wall_ms() // 1000
        samples: list[list[Any]] = []
        for at_s in range(now_s - 900, now_s, STEP_S):
            if 420 < now_s - at_s < 500:
                continue
            wave = 1 + ((at_s * 7) % 23) / 40
            values = [3900 * wave, 21_000 * wave, 1.1 * wave, 3.2 * wave, 2.0 * wave, 6.1 * wave]
            values += [2.9 * wave, 11.7 * wave, 90 * wave, 1204, 0.4 * ((at_s % 60) < 8)]
            samples.append([at_s * 1000, *values])
        return {"step_s": STEP_S, "names": list(MEASURED), "samples": samples}

    def sessions(self, query: dict[str, str]) -> dict[str, Any]:
        now_ms = self.clock.wall_ms()
        sought = query.get("search", "")
        ids = [f"acme:support-{number:04d}" for number in range(1, 60)]
        ids += ["chat", "<b>bold</b>"]
        found = [
            {
                "session": name,
                "tenant": name.partition(":")[0] if ":" in name else "",
                "messages": 14 + number,
                "bytes": 48_000 + 1900 * number,
                "members": 2,
                "readers": 3,
                "active_runs": number % 2,
                "tokens_per_s": 41.5 * (number % 2),
                "updated": now_ms - 3000 * number,
                "positions": {
                    "ap": "equal",
                    "us": "behind" if self.killed and number == 3 else "equal",
                },
            }
            for number, name in enumerate(reversed(ids))
            if sought in name
        ]
        first = int(query.get("after", "0"))
        page = found[first : first + 50]
        return {"sessions": page, "next": str(first + 50) if len(found) > first + 50 else None}

    def session(self, name: str) -> dict[str, Any]:
        now_ms = self.clock.wall_ms()
        return {
            "session": name,
            "tenant": "acme",
            "messages": 14,
            "bytes": 48_211,
            "readers": 3,
            "active_runs": 1,
            "tokens_per_s": 41.5,
            "updated": now_ms,
            "positions": {"ap": "equal", "us": "behind" if self.killed else "equal"},
            "runs": [
                {"id": "m-9", "message": "m-9", "agent": "bot", "status": "running", "attempt": 2},
                {"id": "m-7", "message": "m-7", "agent": "bot", "status": "complete", "attempt": 1},
            ],
            "presence": [
                {"member": "ana", "regions": ["eu"], "connections": 1},
                {"member": "ben", "regions": ["ap", "us"], "connections": 2},
            ],
            "timeline": _timeline(now_ms),
            "next": "older",
        }

    def timeline(self, name: str) -> dict[str, Any]:
        older = [{**entry, "message": "m-1"} for entry in _timeline(self.clock.wall_ms() - HOUR_MS)]
        return {"entries": older, "next": None}

    def connections(self) -> dict[str, Any]:
        now_ms = self.clock.wall_ms()
        waiting = [(412, 1_840_000), (3, 2_100), (0, 0), (0, 0)]
        return {
            "connections": [
                {
                    "id": f"c{number}",
                    "kind": ("sse", "websocket", "poll", "work")[number],
                    "session": "acme:support-0003",
                    "subject": f"user-{number}",
                    "address": f"192.0.2.{10 + number}",
                    "member": None,
                    "since_ms": now_ms - 600_000,
                    "waiting_events": events,
                    "waiting_bytes": size,
                    "sent_events": 48_000 + number,
                    "last_taken_ms": now_ms - 40 * events,
                }
                for number, (events, size) in enumerate(waiting)
            ]
        }

    def storage(self) -> dict[str, Any]:
        now_ms = self.clock.wall_ms()
        return {
            "log_bytes": 31_400_000,
            "database_bytes": 2_140_000_000,
            "wal_bytes": 4_100_000,
            "logs": [
                {"origin": name, "records": 90_000, "bytes": 10_400_000, "oldest_ms": now_ms - 9000}
                for name in NAMES
            ],
            "free_bytes": 212_000_000_000,
            "commits": 1_904_222,
            "commit_p50_s": 0.0011,
            "commit_p99_s": 0.0042,
            "writes_per_commit": 11.4,
            "sealed": 510_000,
            "evicted": 41_222,
            "in_memory": 611,
            "dirty": 44,
            "damaged": 0,
            "undecodable": 0,
            "encrypted": True,
            "last_checkpoint_ms": now_ms - 2000,
            "last_backup_ms": None,
        }

    def errors(self) -> dict[str, Any]:
        now_ms = self.clock.wall_ms()
        codes = [("not_found", 212, "this region knows no session x"), ("internal", 1, "KeyError")]
        return {
            "since_ms": now_ms - 5 * HOUR_MS,
            "codes": [
                {"code": code, "count": count, "last_ms": now_ms - 9000, "last_text": text}
                for code, count, text in codes
            ],
        }


def _timeline(now_ms: int) -> list[dict[str, Any]]:
    entries = [
        ("resumed", 2, "us", None, {"from": "eu", "subject": "user-3"}),
        ("retry", 4, "us", "bot-2", {"items": 12}),
        ("fenced", 5, "eu", "bot-1", {}),
        ("claimed", 6, "us", "bot-2", {"base": 212}),
        ("lapsed", 9, "us", "bot-1", {}),
        ("opened", 30, "eu", "bot-1", {}),
        ("requested", 31, "eu", None, {"agent": "bot", "by": "ana"}),
        ("sent", 31, "eu", None, {"author": "ana <b>"}),
    ]
    return [
        {
            "at_ms": now_ms // 60_000 * 60_000 - ago_s * 1000,
            "region": region,
            "kind": kind,
            "message": "m-9",
            "run": None,
            "epoch": 2 if kind in ("claimed", "retry") else 1,
            "producer": producer,
            "detail": detail,
        }
        for kind, ago_s, region, producer, detail in entries
    ]


def _handler(region: AdminRegion) -> type[BaseHTTPRequestHandler]:
    answers: dict[str, Callable[[dict[str, str]], Any]] = {
        "overview": lambda _: region.overview(),
        "history": lambda _: region.history(),
        "sessions": region.sessions,
        "connections": lambda _: region.connections(),
        "storage": lambda _: region.storage(),
        "errors": lambda _: region.errors(),
    }
    return type("Handler", (_Handler,), {"region": region, "answers": answers, "pages": files()})


class _Handler(BaseHTTPRequestHandler):
    region: AdminRegion
    answers: Mapping[str, Callable[[dict[str, str]], Any]]
    pages: Mapping[str, File]

    def log_message(self, *_: Any) -> None:
        """Nothing is printed."""

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if (page := self.pages.get(parts.path)) is not None:
            headers = {"Content-Type": page.media_type, "Content-Security-Policy": POLICY}
            self._reply(200, page.content, headers)
        elif not parts.path.startswith(UNDER):
            self._refuse(404, "not_found", "there is nothing at this path")
        elif self._may():
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            self._ask([unquote(part) for part in parts.path[len(UNDER) :].split("/")], query)

    def do_POST(self) -> None:
        length = int(self.headers.get("content-length", "0"))
        body = json.loads(self.rfile.read(length) or b"null")
        path = unquote(urlsplit(self.path).path.removeprefix(UNDER))
        self.region.acted.append(("POST", path, body))
        if path in self.region.refuses:
            self._refuse(*self.region.refuses[path])
        elif path == "verify":
            killed = self.region.killed
            regions = {name: "unreachable" if name in killed else "equal" for name in ("ap", "us")}
            self._json({"equal": not killed, "regions": regions, "sessions": 48_213})
        else:
            self._json({})

    def _may(self) -> bool:
        authorization = self.headers.get("authorization")
        if self.region.asks_grant and authorization != f"Bearer {GRANT}":
            self._refuse(401, "unauthorized", "this needs a grant")
            return False
        return True

    def _ask(self, path: list[str], query: dict[str, str]) -> None:
        if path == ["live"]:
            self._live()
        elif path[0] == "sessions" and path[2:] == ["timeline"]:
            self._json(self.region.timeline(path[1]))
        elif path[0] == "sessions" and path[2:] == ["export"]:
            self._reply(200, b'{"kind":"session"}\n', {"Content-Type": "application/x-ndjson"})
        elif path[0] == "sessions" and len(path) == 2:
            self._json(self.region.session(path[1]))
        elif len(path) == 1 and path[0] in self.answers:
            self._json(self.answers[path[0]](query))
        else:
            self._refuse(404, "not_found", "there is nothing at this path")

    def _live(self) -> None:
        region = self.region
        self._reply(200, b"", {"Content-Type": "text/event-stream"})
        # Whoever looked may be gone.
        with contextlib.suppress(OSError):
            while not region.is_silent:
                history = region.history()
                history["samples"] = history["samples"][-1:]
                for name, value in (("overview", region.overview()), ("history", history)):
                    self.wfile.write(f"event: {name}\ndata: {json.dumps(value)}\n\n".encode())
                self.wfile.flush()
                region.wait()

    def _json(self, value: Any) -> None:
        self._reply(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str, detail: str) -> None:
        body = json.dumps({"code": code, "detail": detail, "status": status}).encode()
        self._reply(status, body, {"Content-Type": "application/problem+json"})

    def _reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        with contextlib.suppress(OSError):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
