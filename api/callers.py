"""Whose address a request comes from, where proxies stand before this region.

Rule of this file: a header is what the caller wrote, unless a proxy that the operator named brought
it; and of what such a proxy brings, only what it has added itself.
"""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

from perdure.api.bodies import Scope
from perdure.regions.allowances import Network

UNKNOWN = "unknown"
# Addresses whose meaning is remembered.
_CACHED_MAX = 4_096
# Of an IPv6 address, what one household or one machine is given.
_PREFIX_BITS = 64
_HOPS_MAX = 32

Address = IPv4Address | IPv6Address


class Callers:
    """Finds who calls; ``proxies``: those whose ``X-Forwarded-For`` is believed."""

    def __init__(self, proxies: Sequence[Network] = ()) -> None:
        self._proxies = tuple(proxies)
        self._named = lru_cache(_CACHED_MAX)(self._name)

    def address(self, scope: Scope) -> str:
        """The address that a request is counted under: of IPv6, the first 64 bits."""
        client = scope.get("client")
        peer: str = client[0] if client else ""
        name, is_proxy = self._named(peer)
        return self._forwarded(scope, name) if is_proxy else name

    def _name(self, text: str) -> tuple[str, bool]:
        address = _parse(text)
        if address is None:
            return UNKNOWN, False
        return _prefix(address), any(address in network for network in self._proxies)

    def _forwarded(self, scope: Scope, proxy: str) -> str:
        """The last hop that is no proxy of ours. What stands before it may be invented."""
        fields = [value for key, value in scope["headers"] if key == b"x-forwarded-for"]
        hops = b",".join(fields).decode("latin-1").split(",")
        found = proxy
        for hop in reversed(hops[-_HOPS_MAX:]):
            name, is_proxy = self._named(hop.strip())
            if name == UNKNOWN:
                # A proxy that writes what is no address: nothing before that can be trusted.
                return found
            found = name
            if not is_proxy:
                return found
        return found


def _parse(text: str) -> Address | None:
    # With a port, as some proxies write it.
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _prefix(address: Address) -> str:
    if isinstance(address, IPv4Address):
        return str(address)
    cut = int(address) >> (128 - _PREFIX_BITS) << (128 - _PREFIX_BITS)
    return f"{IPv6Address(cut)}/{_PREFIX_BITS}"
