"""What the admin API tells, as lines for people: problems in words first, then tables.

A region of a newer version may tell more, and one of an older one less: what is missing is left
blank.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from perdure.regions.tables import bars, harmless, moment, number, size, span, table

Value = dict[str, Any]
_PLOT_COLUMNS = 40
_DETAIL_CHARS_MAX = 120


def of_regions(value: Value, width: int | None) -> list[str]:
    """Every region, and how each sees the others."""
    overview = value.get("overview")
    if overview is None:
        return _of_peers(value)
    regions = overview["regions"]
    lines = _problems(regions)
    head = ("REGION", "STATE", "VERSION", "WIRE", "UP", "SESSIONS", "READERS", "RUNS", "PRESENT",
            "TOKENS/S", "EVENTS/S", "LOGGED", "DISK FREE")  # fmt: skip
    rows = [_region_row(region, overview["region"], regions) for region in regions]
    return [*lines, *table(head, rows, width), "", *_matrix(regions, width)]


def _problems(regions: Sequence[Value]) -> list[str]:
    found = []
    for region in regions:
        told = [
            problem.get("text", problem.get("code")) for problem in region.get("problems") or ()
        ]
        if not told and not region.get("reachable", True) and not region.get("is_gone"):
            told = ["does not answer"]
        found += [f"! {_about(region['region'], text)}" for text in told]
    return [*found, ""] if found else ["all is well", ""]


def _about(region: str, text: object) -> str:
    """What is told of a region, with its name unless it begins with that."""
    told = harmless(text)
    name = harmless(region)
    return told if told.startswith(f"{name} ") else f"{name}: {told}"


def _region_row(region: Value, here: str, regions: Sequence[Value]) -> Sequence[object]:
    name = region["region"] + (" *" if region["region"] == here else "")
    if not region.get("reachable", True):
        # What it said last is no news of what it does.
        return (name, _state(region, regions), region.get("version"), *[None] * 10)
    wire = region.get("wire")
    return (
        name,
        _state(region, regions),
        region.get("version"),
        "-".join(map(str, (wire[0], wire[-1]) if len(wire) > 1 else wire)) if wire else None,
        span(region.get("uptime_s")),
        region.get("sessions"),
        region.get("readers"),
        region.get("open_runs"),
        region.get("present"),
        region.get("tokens_per_s"),
        region.get("events_per_s"),
        size(region.get("log_bytes")),
        size(region.get("disk_free_bytes")),
    )


def _state(region: Value, regions: Sequence[Value]) -> str:
    if region.get("is_gone"):
        return "gone for good"
    if not region.get("reachable", True):
        silent_ms = _silent_ms(region["region"], regions)
        since = "" if silent_ms is None else f", for {span(silent_ms / 1000)}"
        return f"not reachable{since}"
    return region.get("state") or "ready"


def _silent_ms(name: str, regions: Sequence[Value]) -> float | None:
    """How long nobody has heard a region. What it said last may be older: nobody asked for it."""
    answering = [one for one in regions if one.get("reachable", True)]
    links = [link for one in answering for link in one.get("sees") or () if link["region"] == name]
    heard = [link["last_seen_ms"] for link in links if link.get("last_seen_ms") is not None]
    return min(heard, default=None)


def _matrix(regions: Sequence[Value], width: int | None) -> list[str]:
    """Who sees whom, and how: a line for each region that looks, a column for each it sees."""
    names = [region["region"] for region in regions if not region.get("is_gone")]
    rows = []
    for region in regions:
        seen = {one["region"]: one for one in region.get("sees") or ()}
        if seen:
            own = region["region"]
            cells = ("" if name == own else _seen(seen.get(name)) for name in names)
            age_ms = None if region.get("reachable", True) else region.get("age_ms")
            said = "" if age_ms is None else f", {span(age_ms / 1000)} ago"
            rows.append((own + said, *cells))
    return table(("SEEN BY", *names), rows, width)


def _seen(link: Value | None) -> str | None:
    if link is None:
        return None
    parts = [link.get("state") or "unknown"]
    if link.get("rtt_ms") is not None:
        parts.append(f"{number(float(link['rtt_ms']))} ms")
    if link.get("behind_operations"):
        behind = f"{link['behind_operations']:,} behind"
        rest = [size(link.get("behind_bytes")), span(link.get("behind_s"))]
        told = ", ".join(each for each in rest if each)
        parts.append(f"{behind} ({told})" if told else behind)
    if abs(link.get("clock_offset_ms") or 0) >= 500:
        parts.append(f"clock {link['clock_offset_ms'] / 1000:+.1f} s")
    if link.get("digests") == "different":
        parts.append("differs")
    if link.get("state") != "up" and link.get("last_seen_ms") is not None:
        parts.append(f"seen {span(link['last_seen_ms'] / 1000)} ago")
    return " ".join(parts)


def _of_peers(known: Value) -> list[str]:
    """What anybody may know of the regions."""
    lines = [f"{known['region']:<12} this one  {known['counters']['sessions']} sessions"]
    for peer in known["peers"]:
        seen = "never" if peer["last_seen_ms"] is None else f"{peer['last_seen_ms']} ms ago"
        lines.append(
            f"{peer['region']:<12} {peer['state']:<8}  {peer['behind']} behind, seen {seen}"
        )
    return lines


def of_sessions(value: Value, width: int | None) -> list[str]:
    """A page of sessions."""
    head = (
        "SESSION",
        "MESSAGES",
        "SIZE",
        "MEMBERS",
        "READERS",
        "RUNS",
        "TOKENS/S",
        "UPDATED",
        "AT",
    )
    rows = [
        (
            one["session"],
            one.get("messages"),
            size(one.get("bytes")),
            one.get("members"),
            one.get("readers"),
            one.get("active_runs"),
            one.get("tokens_per_s"),
            _when(one.get("updated")),
            _positions(one.get("positions")),
        )
        for one in value["sessions"]
    ]
    return [*table(head, rows, width), *_more(value)]


def _positions(positions: Mapping[str, str] | None) -> str:
    """In which regions it is the same: only what is not is told."""
    odd = [f"{name} {word}" for name, word in (positions or {}).items() if word != "equal"]
    return ", ".join(odd) or ("equal" if positions else "-")


def _when(value: Any) -> str | None:
    return moment(value) if isinstance(value, int | float) else value


def _more(value: Value) -> list[str]:
    return [f"… more: --after {harmless(value['next'])}"] if value.get("next") else []


def of_session(value: Value, width: int | None) -> list[str]:
    """One session: what it is, who is here, its runs, what happened."""
    about = f"{value.get('messages', 0):,} messages, {size(value.get('bytes')) or 'size not known'}"
    updated = _when(value.get("updated")) or "-"
    lines = [f"{harmless(value['session'])}: {about}, updated {updated}"]
    for region, word in (value.get("positions") or {}).items():
        lines.append(f"  {harmless(region)}: {harmless(word)}")
    presence = [
        (one["member"], ", ".join(one.get("regions") or ()), one.get("connections"))
        for one in value.get("presence") or ()
    ]
    if presence:
        lines += ["", *table(("MEMBER", "REGIONS", "CONNECTIONS"), presence, width)]
    runs = [
        (
            run.get("run") or run.get("id"),
            run.get("agent"),
            run.get("state") or run.get("status"),
            run.get("message"),
            run.get("region"),
        )
        for run in value.get("runs") or ()
    ]
    if runs:
        lines += ["", *table(("RUN", "AGENT", "STATE", "MESSAGE", "REGION"), runs, width)]
    return [*lines, "", *of_timeline({"entries": value.get("timeline") or ()}, width)]


def of_timeline(value: Value, width: int | None) -> list[str]:
    """What happened, the newest first."""
    head = ("TIME (UTC)", "REGION", "WHAT", "MESSAGE", "RUN", "EPOCH", "BY", "")
    rows = [
        (
            moment(entry.get("at_ms")),
            entry.get("region"),
            entry["kind"],
            entry.get("message"),
            entry.get("run"),
            entry.get("epoch"),
            entry.get("producer"),
            _detail(entry.get("detail")),
        )
        for entry in value["entries"]
    ]
    more = [f"… earlier: --before {harmless(value['next'])}"] if value.get("next") else []
    return [*table(head, rows, width), *more]


def _detail(detail: Any) -> str:
    if not isinstance(detail, dict):
        return "" if detail is None else str(detail)
    text = " ".join(f"{name}={each}" for name, each in detail.items() if each is not None)
    return text if len(text) <= _DETAIL_CHARS_MAX else f"{text[:_DETAIL_CHARS_MAX]}…"


def of_connections(value: Value, width: int | None) -> list[str]:
    """Who is connected, and how much waits for each."""
    head = ("ID", "KIND", "SESSION", "SUBJECT", "MEMBER", "ADDRESS", "SINCE", "WAITING", "BYTES",
            "SENT", "LAST TAKEN")  # fmt: skip
    rows = [
        (
            str(one["id"]),
            one.get("kind"),
            one.get("session"),
            one.get("subject"),
            one.get("member"),
            one.get("address"),
            moment(one.get("since_ms")),
            one.get("waiting_events"),
            size(one.get("waiting_bytes")),
            one.get("sent_events"),
            moment(one.get("last_taken_ms")),
        )
        for one in value["connections"]
    ]
    return table(head, rows, width)


def of_storage(value: Value, width: int | None) -> list[str]:
    """What the disk of a region holds."""
    lines = []
    for name, each in value.items():
        if name == "logs":
            continue
        shown: object = each
        if name.endswith("_bytes"):
            shown = size(each)
        elif name.endswith("_s"):
            shown = span(each)
        elif name.endswith("_ms"):
            shown = moment(each)
        elif isinstance(each, bool):
            shown = "yes" if each else "no"
        elif isinstance(each, int | float):
            shown = number(float(each))
        label = name.removesuffix("_bytes").removesuffix("_ms").removesuffix("_s").replace("_", " ")
        lines.append(f"{label:<20} {harmless('-' if shown is None else shown)}")
    logs = [
        (
            log.get("origin"),
            log.get("records"),
            size(log.get("bytes")),
            moment(log.get("oldest_ms")),
        )
        for log in value.get("logs") or ()
    ]
    return [*lines, "", *table(("LOG OF", "RECORDS", "SIZE", "OLDEST"), logs, width)]


def of_errors(value: Value, width: int | None) -> list[str]:
    """What was refused or failed, by its code."""
    since = moment(value.get("since_ms"))
    codes = sorted(value["codes"], key=lambda one: -one.get("count", 0))
    rows = [
        (one["code"], one.get("count"), moment(one.get("last_ms")), one.get("last_text"))
        for one in codes
    ]
    if not rows:
        return [f"nothing was refused since {since or 'the start'}"]
    return [f"since {since}", *table(("CODE", "COUNT", "LAST", "TEXT"), rows, width)]


def of_history(value: Value, width: int | None) -> list[str]:
    """Rates and latencies of the last minutes, as bars."""
    rows = []
    columns = _PLOT_COLUMNS if width is None else max(8, min(_PLOT_COLUMNS, width - 50))
    for at, name in enumerate(value["names"], 1):
        values = [sample[at] for sample in value["samples"]]
        known = [one for one in values if one is not None]
        now = values[-1] if values else None
        most = max(known, default=None)
        rows.append((name, _number(now), _number(most), bars(values, columns)))
    step = value.get("step_s")
    head = ("", "NOW", "MOST", f"EVERY {step:g} s" if step else "")
    return table(head, rows, width)


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
