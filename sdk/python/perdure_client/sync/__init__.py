"""The client for programs that are not asynchronous: the same classes, with methods that block.

Everything happens on one event loop in a thread of the client's own; any thread may use it.
"""

from perdure_client.sync.admin import Admin
from perdure_client.sync.agents import Agent
from perdure_client.sync.client import Client
from perdure_client.sync.documents import Document
from perdure_client.sync.portal import Iteration
from perdure_client.sync.session import Session
from perdure_client.sync.turns import Turn
from perdure_client.sync.writer import Writer

__all__ = ["Admin", "Agent", "Client", "Document", "Iteration", "Session", "Turn", "Writer"]
