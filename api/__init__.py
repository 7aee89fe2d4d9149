"""The edge for clients: HTTP, server-sent events, grants."""
