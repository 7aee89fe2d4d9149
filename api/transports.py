"""How events can be had here (``docs/PROTOCOL.md`` A.7), the best first."""

from typing import Any

from perdure.replication.limits import (
    BODY_BYTES_MAX,
    KEEPALIVE_S,
    POLL_WAIT_MS_MAX,
    SOCKET_SESSIONS_MAX,
)

# The subprotocol of the WebSocket.
PROTOCOL = "perdure.v1"
TRANSPORTS: list[dict[str, Any]] = [
    {
        "name": "websocket",
        "path": "/v1/sessions/{s}/ws",
        "protocol": PROTOCOL,
        "sessions_max": SOCKET_SESSIONS_MAX,
        "frame_bytes_max": BODY_BYTES_MAX,
        "keepalive_s": KEEPALIVE_S,
    },
    {"name": "sse", "path": "/v1/sessions/{s}/events", "keepalive_s": KEEPALIVE_S},
    {"name": "poll", "path": "/v1/sessions/{s}/poll", "wait_ms_max": POLL_WAIT_MS_MAX},
]
