"""Regions whose certificates an authority of their operator's own has signed."""

import asyncio
import json
import ssl

import pytest

from perdure_client import Client
from perdure_client.errors import Unavailable
from tests.regions.authority import Authority

BODY = json.dumps({"region": "eu"}).encode()
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"


async def test_an_authority_of_ones_own(tmp_path, monkeypatch):
    """Is believed where ``SSL_CERT_FILE`` names it, and else not."""
    authority = Authority()
    files = authority.issue(tmp_path, "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ANSWER % (len(BODY), BODY))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "localhost", 0, ssl=context)
    url = f"https://localhost:{server.sockets[0].getsockname()[1]}"
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    async with Client([url], give_up_s=0.1) as client:
        with pytest.raises(Unavailable):
            await client.peers()
    monkeypatch.setenv("SSL_CERT_FILE", str(files.ca))
    async with Client([url], give_up_s=5) as client:
        assert await client.peers() == {"region": "eu"}
    server.close()
    await server.wait_closed()
