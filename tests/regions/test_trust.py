"""Regions whose certificates an authority of their operator's own has signed."""

import json
import ssl
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from perdure_client import Client
from perdure_client.errors import Unavailable
from tests.regions.authority import Authority

BODY = json.dumps({"region": "eu"}).encode()


class Eu(BaseHTTPRequestHandler):
    """Answers what a region does that is asked who it knows."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Server(HTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that does not believe the certificate has left."""


@pytest.fixture
def authority(tmp_path) -> Iterator[tuple[str, str]]:
    """The URL of a region, and the file of who signed its certificate."""
    files = Authority().issue(tmp_path, "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key)
    with Server(("localhost", 0), Eu) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        serving = Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        yield f"https://localhost:{server.server_port}", str(files.ca)
        server.shutdown()
        serving.join()


async def test_an_authority_of_ones_own(authority, monkeypatch):
    """Is believed where ``SSL_CERT_FILE`` names it, and else not."""
    url, file = authority
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    async with Client([url], give_up_s=0.1) as client:
        with pytest.raises(Unavailable):
            await client.peers()
    monkeypatch.setenv("SSL_CERT_FILE", file)
    async with Client([url], give_up_s=5) as client:
        assert await client.peers() == {"region": "eu"}
