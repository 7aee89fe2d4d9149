"""Sockets that listen, or why they do not."""

import os
import socket

BACKLOG = 4_096


class CannotListen(Exception):
    """A port is taken, or the address is not this machine's."""

    def __init__(self, what: str, host: str, port: int, error: OSError) -> None:
        # The event loop's own text says where again; a failed look-up of a name has no errno.
        known = error.errno is not None and error.errno > 0
        why = os.strerror(error.errno) if known and error.errno else error.strerror or error
        super().__init__(f"cannot listen on {what} {port} of {host}: {why}")


def listen(what: str, host: str, port: int) -> socket.socket:
    """A socket that listens. Ours and not uvicorn's, so that a port that is taken is found before
    anything is started or announced. Raises ``CannotListen``."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise CannotListen(what, host, port, error) from error
