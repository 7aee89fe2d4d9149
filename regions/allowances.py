"""What callers are allowed, as the operator says it: ``--limit session=200/s,burst=400``."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network

from perdure.replication import limits
from perdure.replication.buckets import Rate

RATES: Mapping[str, Rate] = {
    "address": Rate(limits.ADDRESS_UNITS_PER_S_MAX, limits.ADDRESS_UNITS_BURST_MAX),
    "key": Rate(limits.KEY_UNITS_PER_S_MAX, limits.KEY_UNITS_BURST_MAX),
    "subject": Rate(limits.SUBJECT_UNITS_PER_S_MAX, limits.SUBJECT_UNITS_BURST_MAX),
    "tenant": Rate(limits.TENANT_UNITS_PER_S_MAX, limits.TENANT_UNITS_BURST_MAX),
    "session": Rate(limits.SESSION_UNITS_PER_S_MAX, limits.SESSION_UNITS_BURST_MAX),
    "guess": Rate(limits.GUESSES_PER_S_MAX, limits.GUESSES_BURST_MAX),
}
COUNTS: Mapping[str, int] = {
    "address-streams": limits.ADDRESS_STREAMS_MAX,
    "subject-streams": limits.SUBJECT_STREAMS_MAX,
    "tenant-sessions": limits.TENANT_SESSIONS_MAX,
    "session-messages": limits.SESSION_MESSAGES_MAX,
}
OFF = "off"
PROXIES_MAX = 64
_NUMBER_MAX = 1_000_000_000
_BURST_S = 2
_RATE = re.compile(r"([0-9]{1,10})/(s|min|h)(?:,burst=([0-9]{1,10}))?\Z")
_SECONDS = {"s": 1, "min": 60, "h": 3_600}

Network = IPv4Network | IPv6Network


@dataclass(frozen=True)
class Allowances:
    """``rates`` by kind of bucket and ``counts`` by what is counted; what is in neither has no
    limit."""

    rates: Mapping[str, Rate] = field(default_factory=lambda: RATES)
    counts: Mapping[str, int] = field(default_factory=lambda: COUNTS)

    @property
    def off(self) -> bool:
        """Whether nothing at all is limited."""
        return not self.rates and not self.counts


DEFAULTS = Allowances()
# What is limited where anybody may call, which is on this machine alone.
NOTHING = Allowances({}, {})


def parse_limits(texts: Iterable[str], over: Allowances = DEFAULTS) -> Allowances:
    """The texts of ``--limit``, over what holds without them: ``KIND=N/s`` (or ``/min``, ``/h``),
    with ``,burst=N``; ``COUNT=N``; ``KIND=off``; ``off``. ``ValueError`` names the wrong one."""
    rates, counts = dict(over.rates), dict(over.counts)
    told: set[str] = set()
    for text in texts:
        name, _, value = text.partition("=")
        if name in told:
            raise ValueError(f"--limit {name} is given twice")
        told.add(name)
        if text == OFF:
            rates, counts = {}, {}
        elif name in RATES:
            rates.pop(name, None)
            if value != OFF:
                rates[name] = _rate(text, value)
        elif name in COUNTS:
            counts.pop(name, None)
            if value != OFF:
                counts[name] = _count(text, value)
        else:
            known = ", ".join([*RATES, *COUNTS])
            raise ValueError(f"--limit {text!r}: nothing has this name; there are {known}")
    if OFF in told and len(told) > 1:
        raise ValueError("--limit off is given beside others")
    return Allowances(rates, counts)


def _rate(text: str, value: str) -> Rate:
    found = _RATE.match(value)
    if found is None:
        example = "N/s (or N/min, N/h), and perhaps ,burst=N; or off"
        raise ValueError(f"--limit {text!r} must be KIND={example}")
    number, seconds = int(found[1]), _SECONDS[found[2]]
    burst = int(found[3]) if found[3] else max(1, number * _BURST_S // seconds)
    if not (0 < number <= _NUMBER_MAX and 0 < burst <= _NUMBER_MAX):
        raise ValueError(f"--limit {text!r}: numbers are from 1 to {_NUMBER_MAX:,}")
    return Rate(number / seconds, burst)


def _count(text: str, value: str) -> int:
    if not value.isascii() or not value.isdigit() or not 0 < int(value[:11]) <= _NUMBER_MAX:
        raise ValueError(f"--limit {text!r} must be COUNT=N, from 1 to {_NUMBER_MAX:,}; or off")
    return int(value)


def parse_proxies(texts: Iterable[str]) -> tuple[Network, ...]:
    """The texts of ``--trusted-proxy``; ``ValueError`` names the wrong one."""
    found: list[Network] = []
    for text in texts:
        try:
            found.append(ip_network(text))
        except ValueError as error:
            raise ValueError(f"--trusted-proxy {text!r} must be an address or CIDR") from error
    if len(found) > PROXIES_MAX:
        raise ValueError(f"--trusted-proxy is given more than {PROXIES_MAX} times")
    return tuple(found)
