"""What operators ask of regions, for threads. Made by ``make sync-client``: change
``perdure_client/admin.py`` instead."""

from typing import Any

from perdure_client import admin as asynchronous
from perdure_client.sync.portal import Iteration, Portal
from perdure_client.transports import Event


class Admin:
    """What operators ask of regions. ``path`` is what follows ``/admin/api/``; names of sessions in
    it are the regions' own, ``tenant:id`` where there are tenants, quoted as in a URL.

    Everything raises ``PerdureError``, with the code ``forbidden`` where no operator's grant is,
    and ``NotFound`` also where a region has no such path, because it is of an older version.
    """

    def __init__(self, portal: Portal, it: asynchronous.Admin) -> None:
        self._portal = portal
        self._it = it

    def get(self, path: str, **query: str | int | None) -> dict[str, Any]:
        """What the first region that answers says."""
        return self._portal.call(self._it.get(path, **query))

    def post(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """An action at the region that is asked now, and at no other: what is drained, cut off or
        forgotten is meant where it is said. Raises ``Unavailable`` where that does not answer; the
        action may have been taken all the same."""
        return self._portal.call(self._it.post(path, body))

    def put(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Likewise, something is set."""
        return self._portal.call(self._it.put(path, body))

    def delete(self, path: str) -> dict[str, Any]:
        """Likewise, something is taken away."""
        return self._portal.call(self._it.delete(path))

    def live(self) -> Iteration[Event]:
        """What a region tells while it is watched; when it is gone, the next one goes on. For
        ever, as for any reader."""
        return Iteration(self._portal, self._it.live(), lambda it: it)
