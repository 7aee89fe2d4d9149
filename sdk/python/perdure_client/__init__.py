"""The Python client of perdure: durable sessions for AI applications, in several regions."""

from perdure_client.admin import Admin
from perdure_client.agents import Agent
from perdure_client.client import Client
from perdure_client.documents import Document, DocumentValue
from perdure_client.errors import (
    BufferLost,
    Cancelled,
    Conflict,
    Deleted,
    Ended,
    Fenced,
    Invalid,
    NotFound,
    OutOfStep,
    PerdureError,
    Unavailable,
)
from perdure_client.reducer import MessageView, SessionView, apply
from perdure_client.session import Session
from perdure_client.standing import standing
from perdure_client.transports import Event
from perdure_client.turns import Turn
from perdure_client.vendor_parts import VendorError
from perdure_client.writer import Writer

__version__ = "0.1.0"
__all__ = [
    "Admin",
    "Agent",
    "BufferLost",
    "Cancelled",
    "Client",
    "Conflict",
    "Deleted",
    "Document",
    "DocumentValue",
    "Ended",
    "Event",
    "Fenced",
    "Invalid",
    "MessageView",
    "NotFound",
    "OutOfStep",
    "PerdureError",
    "Session",
    "SessionView",
    "Turn",
    "Unavailable",
    "VendorError",
    "Writer",
    "apply",
    "standing",
]
