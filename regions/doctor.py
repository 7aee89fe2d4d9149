"""What is judged of regions, from what they say: well, worth a look, or wrong, and what to do."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from perdure.regions.tables import span

Level = Literal["ok", "warn", "fail"]
# Beyond this, times that people compare are misleading, and beyond 60 s clients are refused.
CLOCKS_APART_MS_MAX = 500
CLOCKS_WRONG_MS_MAX = 30_000
# Well below the hour for which grants are minted unless they are told otherwise.
GRANT_ENDING_S = 600
BACKUP_AGE_S_MAX = 2 * 86_400
_DAY_MS = 86_400_000
# What to do about the problems that regions tell of themselves.
_ADVICE = {
    "link_down": "is that region running? can its peer port be reached from there, with the same"
    " secret and a certificate of the same authority? its log says why a link was refused",
    "link_suspect": "if it stays so, look at the network between the two",
    "unreachable": "is that region running? is its peer port reachable from the others?",
    "behind": "it catches up by itself; if it grows, its disk or the link is too slow",
    "clocks_apart": "run a time service (chrony, systemd-timesyncd) on both hosts",
    "different": "`perdure verify` tells which sessions; regions repair them by themselves",
    "disk_nearly_full": "make room, or give it a larger disk; writes are refused when it is full",
    "storage_failed": "its disk has failed: start it again, on another disk if it fails again",
    "name_in_use": "another live node has this region's name: stop one of them",
    "damaged": "the disk may be failing; what was damaged is fetched from the other regions",
    "not_erased": "it goes on by itself, when all regions can be reached",
    "old_wire": "upgrade the older of the two",
    "starting": "wait until it has started",
    "catching_up": "wait until it has caught up with the others",
    "draining": "it is about to stop; `perdure drain --undo` has it go on",
}
_FAILURES = frozenset({"link_down", "unreachable", "storage_failed", "name_in_use"})


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. ``advice``: what to do, where something is to be done."""

    level: Level
    check: str
    text: str
    advice: str | None = None

    def value(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def of_readiness(url: str, status: int, body: Mapping[str, Any]) -> Finding:
    """What ``/readyz`` has answered."""
    if status == 200:
        return Finding("ok", "ready", f"{url} is ready")
    reason = str(body.get("reason") or f"it answers {status}")
    code = reason.replace(" ", "_")
    advice = _ADVICE.get(code, "its log says more (journalctl -u perdure@REGION)")
    return Finding("fail", "ready", f"{url} is not ready: {reason}", advice)


def of_versions(versions: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
    """By URL, what each region is. Two URLs of one region, builds that differ, no common wire."""
    regions = {url: str(about.get("region")) for url, about in versions.items()}
    builds = {str(about.get("version")) for about in versions.values()}
    told = ", ".join(f"{regions[url]} {about.get('version')}" for url, about in versions.items())
    if len(builds) > 1:
        advice = "fine while an upgrade is rolled out; finish it"
        yield Finding("warn", "versions", f"regions differ in their version: {told}", advice)
    elif builds:
        yield Finding("ok", "versions", f"version {', '.join(builds)}")
    wires = [set(about["wire"]) for about in versions.values() if about.get("wire")]
    if wires and not set.intersection(*wires):
        advice = "upgrade one version at a time: two that follow each other have one in common"
        yield Finding("fail", "wire", f"no version of the wire is common to all: {told}", advice)
    for url, region in regions.items():
        same = [other for other in regions if regions[other] == region]
        if len(same) > 1 and url == same[0]:
            advice = "give the URL of each region once; or a proxy sends both to one region"
            text = f"{' and '.join(same)} are both region {region}"
            yield Finding("warn", "urls", text, advice)


def of_grant(claims: Mapping[str, Any] | None, now_s: int) -> Finding:
    """What the caller's grant says of itself; None: there is none, or it cannot be read."""
    if claims is None:
        return Finding("ok", "grant", "no grant is set; regions with --dev-no-auth need none")
    end = claims.get("exp")
    if not isinstance(end, int | float):
        return Finding("fail", "grant", "the grant does not say when it ends", "mint another")
    rest = int(end) - now_s
    advice = "mint another: perdure token mint --subject ops --can '*=admin'"
    if rest <= 0:
        return Finding("fail", "grant", f"the grant ended {span(-rest)} ago", advice)
    if rest < GRANT_ENDING_S:
        return Finding("warn", "grant", f"the grant ends in {span(rest)}", advice)
    return Finding("ok", "grant", f"the grant is good for {span(rest)}")


def of_clock(url: str, region_ms: float, now_ms: float) -> Finding:
    """A region's clock, beside that of this machine."""
    apart = region_ms - now_ms
    if abs(apart) <= CLOCKS_APART_MS_MAX:
        return Finding("ok", "clock", f"the clock of {url} agrees with this machine's")
    level: Level = "fail" if abs(apart) > CLOCKS_WRONG_MS_MAX else "warn"
    way = "ahead of" if apart > 0 else "behind"
    text = f"the clock of {url} is {span(abs(apart) / 1000)} {way} this machine's"
    return Finding(level, "clock", text, _ADVICE["clocks_apart"])


def of_overview(overview: Mapping[str, Any]) -> Iterator[Finding]:
    """What the regions say of each other, from one of them: problems, and whether all see all."""
    regions = [one for one in overview["regions"] if not one.get("is_gone")]
    names = {one["region"] for one in regions}
    told: set[str] = set()
    for region in regions:
        name = region["region"]
        for problem in region.get("problems") or ():
            code, text = problem.get("code", ""), str(problem.get("text", ""))
            text = text if text.startswith(f"{name} ") else f"{name}: {text}"
            told.add(text)
            level: Level = "fail" if code in _FAILURES else "warn"
            yield Finding(level, "region", text, _ADVICE.get(code))
        if region.get("reachable") is False and not region.get("problems"):
            yield Finding("fail", "region", f"{name} does not answer", _ADVICE["unreachable"])
        lacking = names - {one["region"] for one in region.get("sees") or ()} - {name}
        if region.get("reachable") and lacking:
            yield Finding(
                "fail",
                "peers",
                f"{name} does not know {', '.join(sorted(lacking))}",
                f"give {name} a --peer for each, or forget those that are gone for good",
            )
    if not told and all(one.get("reachable") for one in regions):
        yield Finding("ok", "regions", f"{len(regions)} regions see each other, and none is behind")


def of_peers(known: Mapping[str, Any]) -> Iterator[Finding]:
    """The same, of a region that has no overview."""
    region = known["region"]
    for peer in known["peers"]:
        name, state = peer["region"], peer["state"]
        if state == "up":
            yield Finding("ok", "peers", f"{region} hears {name}")
        else:
            code = "link_down" if state == "down" else "link_suspect"
            level: Level = "fail" if state == "down" else "warn"
            yield Finding(level, "peers", f"{region} sees {name} as {state}", _ADVICE[code])


def of_storage(region: str, storage: Mapping[str, Any]) -> Iterator[Finding]:
    """What a region says of its disk."""
    if storage.get("encrypted") is True:
        yield Finding("ok", "encryption", f"{region}: the data is encrypted")
    elif storage.get("encrypted") is False:
        advice = "set PERDURE_STORAGE_KEY_FILE and run `perdure rekey`, if the disk is not"
        yield Finding("ok", "encryption", f"{region}: the data is not encrypted", advice)


def of_backups(made_ms: Mapping[str, int | None], now_ms: int) -> Iterator[Finding]:
    """By region, when it was copied: each holds everything, so the newest copy of all counts."""
    advice = f"`perdure backup` copies a live region; every {BACKUP_AGE_S_MAX // 86_400} days or so"
    made = [(at_ms, region) for region, at_ms in made_ms.items() if at_ms is not None]
    if not made:
        if made_ms:
            yield Finding("warn", "backup", f"no backup was made of {', '.join(made_ms)}", advice)
        return
    last_ms, region = max(made)
    age_s = (now_ms - last_ms) / 1000
    level: Level = "warn" if age_s > BACKUP_AGE_S_MAX else "ok"
    text = f"the last backup, of {region}, is {span(max(0.0, age_s))} old"
    yield Finding(level, "backup", text, advice if level == "warn" else None)


def of_certificate(url: str, end_ms: int, now_ms: int) -> Finding:
    """When the certificate that a URL is served with ends."""
    days = (end_ms - now_ms) // _DAY_MS
    if end_ms <= now_ms:
        return Finding("fail", "certificate", f"the certificate of {url} has expired", "renew it")
    if days < 30:
        text = f"the certificate of {url} expires in {days} days"
        return Finding("warn", "certificate", text, "renew it")
    return Finding("ok", "certificate", f"the certificate of {url} is good for {days} days")


def of_passage(url: str, transport: str, seconds: float | None, why: str = "") -> Finding:
    """Whether a way for events gets through; ``seconds``: until the first came, None: never."""
    name = {"sse": "server-sent events", "websocket": "a WebSocket"}[transport]
    if seconds is not None:
        return Finding("ok", transport, f"{name} from {url} came in {span(seconds)}")
    advice = {
        "sse": "a proxy on the way gathers answers: switch that off for text/event-stream (nginx:"
        " proxy_buffering off)",
        "websocket": "a proxy on the way does not pass upgrades on (nginx: proxy_http_version 1.1"
        " with Upgrade and Connection)",
    }[transport]
    # Clients get by with another transport, at the price of more requests.
    return Finding("warn", transport, f"{name} from {url} does not come: {why}", advice)


def of_passage_refused(url: str, transport: str) -> Finding:
    """Nothing came, and the grant is one for which nothing would: no way was tried."""
    advice = "use a grant that may read all sessions, or an operator's"
    text = f"whether WebSockets from {url} get through was not seen: the grant may not read there"
    return Finding("warn", transport, text, advice)


def worst(findings: list[Finding]) -> Level:
    """The level of all of them together."""
    levels = {finding.level for finding in findings}
    return "fail" if "fail" in levels else "warn" if "warn" in levels else "ok"
