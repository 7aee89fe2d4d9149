"""What a tenant does not keep is deleted by one region, by its own clock, and by no other."""

import contextlib
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest
from perdure.regions import audit as audits
from perdure.regions import repair
from perdure.regions.audit import SESSION, Audit
from perdure.regions.audit_retention import EVERY_S
from perdure.regions.node import Node
from perdure.regions.retention import Retention
from perdure.replication.admission import Draft
from perdure.replication.chain import Checker
from perdure.replication.errors import Refusal
from perdure.replication.limits import RETENTION_EVERY_S, RETENTION_POLICIES_MAX
from perdure.replication.retention import Plan, Policy, policy_of
from perdure.replication.runs import RunDraft

from tests.regions.conftest import ManualClock, Regions
from tests.regions.linked import Linked, ShiftedClock, linked

HOUR_S = 3_600
YEAR_MS = 365 * 24 * HOUR_S * 1_000
FULL = {"eu": ["us", "ap"], "us": ["eu", "ap"], "ap": ["eu", "us"]}


def policy(region: str = "eu", **more: Any) -> Policy:
    said = {"tenant": "acme", "age_s": None, "bytes": None, "audit_age_s": None}
    return Policy(**{**said, "set_ms": 0, "set_by": "ops", "region": region, **more})


async def say(node: Node, session: str, text: str = "hello") -> None:
    await node.send(session, Draft("user", id=f"m{node.state.position}", text=text))


async def walk(node: Node, retention: Retention, clock: ManualClock | ShiftedClock) -> None:
    """So much time passes that a walk is due, and it ends."""
    if isinstance(clock, ManualClock):
        clock.pass_ms((RETENTION_EVERY_S + 1) * 1000)
    else:
        clock.shift_ms += (RETENTION_EVERY_S + 1) * 1000
    await node.work()
    retention.look()
    for task in [task for task in node._tasks if task.get_name() == "perdure-retention"]:
        await task


def left(node: Node, *sessions: str) -> str:
    """Which of them are still there, by the end of their names."""
    found = [node.state.find(session) for session in sessions]
    return "".join(s.id[-1] for s in found if s is not None and s.exists)


def acme(names: Iterable[str]) -> list[str]:
    return [f"acme:{name}" for name in names]


@pytest.fixture
async def eu(regions: Regions) -> AsyncIterator[Node]:
    node, _ = regions.node()
    node.start(None)
    yield node
    await node.stop()


async def test_what_was_quiet_for_longer_goes(regions: Regions, eu: Node) -> None:
    """And nothing else: neither what was written to since, nor what somebody has open, nor what is
    another tenant's or the regions' own. One entry in the audit log says what is about to go."""
    audit = Audit(eu)
    retention, clock = Retention(eu, audit), regions.clock
    for name in (*acme("abcde"), "other:f", "g"):
        await say(eu, name)
    opened = Draft("assistant", id="stream", producer="p", claim_id="claim-01")
    await eu.open("acme:e", opened)
    await retention.set(policy(age_s=HOUR_S))
    clock.pass_ms(HOUR_S * 1000)
    await eu.work()
    await say(eu, "acme:b")
    eu.put_member("acme:d", "ann", None, 3600)
    await walk(eu, retention, clock)
    assert left(eu, *acme("abcde"), "other:f", "g") == "bdfg"
    with pytest.raises(Refusal) as refused:
        eu.snapshot("acme:a")
    assert refused.value.code == "deleted"
    told = [entry for _, entry in audit.entries(None)]
    assert [(e["action"], e["sessions"], e["names"]) for e in told] == [
        ("retention.delete", 3, ["a", "c", "e"])
    ]
    (said,) = [retention.told(each) for each in retention.policies.values()]
    assert said["waits"] is None
    assert (said["last_walk"]["seen"], said["last_walk"]["deleted"]) == (5, 3)
    assert said["last_walk"]["kept_open"] == 1


async def test_a_run_that_is_not_over_keeps_its_session(regions: Regions, eu: Node) -> None:
    """However long nobody has said a word of it; once it is over the session is as any other."""
    retention = Retention(eu, None)
    await eu.request_run("acme:a", RunDraft("bot", "r"))
    await retention.set(policy(age_s=HOUR_S))
    regions.clock.pass_ms(9 * HOUR_S * 1000)
    await walk(eu, retention, regions.clock)
    assert left(eu, "acme:a") == "a"
    await eu.cancel_run("acme:a", "r")
    await walk(eu, retention, regions.clock)
    assert left(eu, "acme:a") == "a"
    regions.clock.pass_ms(HOUR_S * 1000)
    await walk(eu, retention, regions.clock)
    assert left(eu, "acme:a") == ""


async def test_by_size_the_longest_quiet_go_first(regions: Regions, eu: Node) -> None:
    """Until the tenant is below; what is written to again is the last to go."""
    retention, clock = Retention(eu, None), regions.clock
    for name in acme("abcd"):
        await say(eu, name, "x" * 10_000)
        clock.pass_ms(1000)
        await eu.work()
    await say(eu, "acme:a")
    await eu.checkpoint.all()
    await retention.set(policy(bytes=25_000))
    plan = await retention.plan("acme", None, 25_000)
    assert [kept.session for kept in plan.due()] == acme("bc")
    await walk(eu, retention, clock)
    assert left(eu, *acme("abcd")) == "ad"
    await walk(eu, retention, clock)
    assert left(eu, *acme("abcd")) == "ad"


async def test_a_policy_can_be_taken_back_before_anything_goes(regions: Regions, eu: Node) -> None:
    """Replaced, or removed, within the time until it is carried out; and the newest one counts."""
    retention = Retention(eu, None)
    await say(eu, "acme:a")
    regions.clock.pass_ms(2 * HOUR_S * 1000)
    await retention.set(policy(age_s=HOUR_S))
    await eu.work()
    retention.look()
    assert left(eu, "acme:a") == "a"
    await retention.set(policy(age_s=9 * HOUR_S))
    await walk(eu, retention, regions.clock)
    assert left(eu, "acme:a") == "a"
    await retention.set(policy(age_s=HOUR_S))
    await retention.remove("acme")
    await walk(eu, retention, regions.clock)
    assert (left(eu, "acme:a"), retention.policies) == ("a", {})
    with pytest.raises(Refusal, match="no policy"):
        await retention.remove("acme")
    with pytest.raises(Refusal, match="must be one of eu"):
        await retention.set(policy("mars", age_s=HOUR_S))


async def test_when_something_was_written_survives_a_start(regions: Regions) -> None:
    """What is stored says when; what is only in the log counts as written when it was read."""
    eu, disk = regions.node()
    eu.start(None)
    await say(eu, "acme:a")
    await eu.checkpoint.all()
    regions.clock.pass_ms(2 * HOUR_S * 1000)
    await eu.work()
    await say(eu, "acme:b")
    eu.checkpoint.close = nothing  # type: ignore[method-assign]
    await eu.stop()
    regions.clock.pass_ms(HOUR_S * 1000)
    eu, disk = regions.node()
    retention = Retention(eu, None)
    plan = await retention.plan("acme", HOUR_S - 1, None)
    assert [kept.session for kept in plan.due()] == ["acme:a"]
    page = eu.sessions(None, 10)
    assert "touched_ms" not in str(page)
    disk.close()


async def test_what_was_stored_before_that_was_noted_counts_from_the_first_walk(
    regions: Regions,
) -> None:
    """Where no message says when it was written to: it may have been a moment ago."""
    eu, _ = regions.node()
    eu.start(None)
    retention, clock = Retention(eu, None), regions.clock
    for name in acme("abc"):
        await eu.create(name, {"title": "x"})
    for name in acme("bc"):
        await say(eu, name)
    await eu.append_document("acme:c", "d", "x")
    for session in list(eu.state.sessions.values()):
        session.touched_ms = 0
    await eu.checkpoint.all()
    clock.pass_ms(2 * HOUR_S * 1000)
    await eu.work()
    await retention.set(policy(age_s=HOUR_S))
    await walk(eu, retention, clock)
    assert left(eu, *acme("abc")) == "ac"
    clock.pass_ms(HOUR_S * 1000)
    await walk(eu, retention, clock)
    assert left(eu, *acme("abc")) == ""
    await eu.stop()


async def nothing() -> None:
    """Instead of storing what is dirty."""


@contextlib.asynccontextmanager
async def three(path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Linked]:
    monkeypatch.setattr(repair, "SETTLE_S", 0)
    async with linked(path, FULL, start=False) as regions:
        yield regions


class OffClock(ShiftedClock):
    """A clock whose calendar is wrong."""

    def __init__(self, off_ms: int) -> None:
        self._off_ms = off_ms

    def wall_ms(self) -> int:
        return super().wall_ms() + self._off_ms


class PassingClock(ShiftedClock):
    """Both readings move on."""

    def wall_ms(self) -> int:
        return super().wall_ms() + self.shift_ms


async def test_the_clocks_of_other_regions_do_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One a year behind, one a year ahead: what was written there just now stays, what was written
    there before goes; and no region but the one that is named deletes anything."""
    async with three(tmp_path, monkeypatch) as regions:
        regions.clock = clock = PassingClock()
        eu = await regions.start("eu")
        regions.clock = behind = OffClock(-YEAR_MS)
        us = await regions.start("us")
        regions.clock = OffClock(YEAR_MS)
        ap = await regions.start("ap")
        # Nobody has told anybody of a time yet: its own is as wrong as it can be.
        await say(us, "acme:a")
        await regions.until(regions.same)
        await say(ap, "acme:b")
        await regions.until(regions.same)
        decide, there = Retention(eu, None), Retention(us, None)
        await there.set(policy("eu", age_s=HOUR_S))
        await regions.until(lambda: bool(decide.policies))
        for _ in range(2):
            await walk(eu, decide, clock)
            await walk(us, there, behind)
        assert all(left(node, *acme("ab")) == "ab" for node in (eu, us, ap))
        clock.shift_ms += HOUR_S * 1000
        await eu.work()
        await say(ap, "acme:b")
        await regions.until(regions.same)
        behind.shift_ms += HOUR_S * 1000
        await walk(us, there, behind)
        assert left(us, *acme("ab")) == "ab"
        for peer in eu.gossip.peers.values():
            peer.heard_ms = clock.monotonic_ms() + (RETENTION_EVERY_S + 1) * 1000
        await walk(eu, decide, clock)
        assert left(eu, *acme("ab")) == "b"
        await regions.until(regions.same)
        assert all(left(node, *acme("ab")) == "b" for node in (us, ap))


async def test_a_clock_that_has_leapt_deletes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of the region that decides is ahead of all others: it says so, until it is right."""
    async with three(tmp_path, monkeypatch) as regions:
        us, ap = await regions.start("us"), await regions.start("ap")
        regions.clock = clock = OffClock(0)
        eu = await regions.start("eu")
        await say(us, "acme:a")
        await regions.until(regions.same)
        retention = Retention(eu, None)
        await retention.set(policy("eu", age_s=HOUR_S))
        await regions.until(regions.same)
        clock._off_ms = YEAR_MS
        for peer in eu.gossip.peers.values():
            peer.heard_ms = clock.monotonic_ms() + (RETENTION_EVERY_S + 1) * 1000
        await walk(eu, retention, clock)
        assert [left(node, "acme:a") for node in (eu, us, ap)] == ["a", "a", "a"]
        assert "ahead of all other regions" in str(retention.waits("eu"))
        clock._off_ms = 0
        for peer in eu.gossip.peers.values():
            peer.heard_ms = clock.monotonic_ms() + (RETENTION_EVERY_S + 1) * 1000
        await walk(eu, retention, clock)
        assert retention.waits("eu") is None


async def test_nothing_is_deleted_while_a_region_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by another while the one that decides is away, nor by that one while it cannot hear
    another; each says so. A policy that names another lets that one go on."""
    async with three(tmp_path, monkeypatch) as regions:
        regions.clock = clock = PassingClock()
        eu, us = await regions.start("eu"), await regions.start("us")
        await say(eu, "acme:a")
        await regions.until(regions.same)
        here, there = Retention(eu, None), Retention(us, None)
        await here.set(policy("eu", age_s=HOUR_S))
        await regions.until(lambda: bool(there.policies))
        clock.shift_ms += 2 * HOUR_S * 1000
        await walk(eu, here, clock)
        assert left(eu, "acme:a") == "a"
        assert here.waits("eu") == "ap cannot be heard: what was written there is not known"
        assert "no region any more" in str(here.waits("mars"))
        await regions.stop("eu")
        clock.shift_ms += 60_000
        await walk(us, there, clock)
        assert left(us, "acme:a") == "a"
        assert there.waits("eu") == "eu, which decides, cannot be heard"
        await there.set(policy("us", age_s=HOUR_S))
        del us.gossip.peers["eu"], us.gossip.peers["ap"]
        await walk(us, there, clock)
        assert left(us, "acme:a") == ""


async def test_the_audit_log_is_cut_and_can_still_be_checked(
    regions: Regions, eu: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole logs go at the old end, when they were full for so long; an anchor says where each
    chain begins now. Without it, or with another, it does not check."""
    monkeypatch.setattr(audits, "AUDIT_ENTRIES_MAX", 3)
    audit = Audit(eu)
    retention = Retention(eu, audit)
    for n in range(8):
        await audit.record("something", target=str(n))
    await retention.set(policy(tenant="", audit_age_s=24 * HOUR_S))
    await walk(eu, retention, regions.clock)
    assert len(numbers(audit)) == 8
    for _ in range(2):
        regions.clock.pass_ms(24 * HOUR_S * 1000)
        await walk(eu, retention, regions.clock)
    assert numbers(audit)[:4] == [7, 8, 9]
    assert eu.state.find(SESSION).messages.count == 1  # type: ignore[union-attr]
    told = [entry for _, entry in audit.entries(None)]
    assert told[-1]["action"] == "audit.cut"
    assert told[-1]["anchors"]["eu"] == [6, told[0]["prev"]]
    assert checked(told) == []
    assert "no anchor" in checked(told[1:])[0]
    assert "no anchor" in checked(told[:-1])[0]
    # A start goes on from what is left.
    again = Audit(eu)
    again._logs = 100
    await again.record("later")
    assert checked([entry for _, entry in again.entries(None)]) == []
    regions.clock.pass_ms(EVERY_S * 1000)
    await walk(eu, retention, regions.clock)
    assert numbers(audit)[0] == 7


def numbers(audit: Audit) -> list[int]:
    return [entry["n"] for _, entry in audit.entries(None)]


def checked(entries: list[dict[str, Any]]) -> list[str]:
    checker = Checker()
    found = [fault for entry in entries if (fault := checker.fault(entry)) is not None]
    return found + checker.unanchored()


def test_a_plan_is_bounded_and_takes_the_oldest() -> None:
    """What one plan has no room for, the next takes; a clock that was put back makes nothing
    old."""
    plan = Plan(10, None, 100_000, most=3)
    for n in (5, 3, 1, 4, 2):
        plan.look(f"s{n}", n * 1000, 7)
    assert (plan.sessions, plan.bytes) == (5, 35)
    assert [kept.session for kept in plan.due()] == ["s1", "s2", "s3"]
    plan = Plan(10, None, 100_000)
    plan.look("later", 900_000, 1)
    plan.look("now", 90_000, 1)
    assert plan.due() == []


def test_what_is_not_understood_deletes_nothing() -> None:
    """A policy of a newer version."""
    known = policy(age_s=60)
    assert policy_of(known.value()) == known
    assert policy_of({**known.value(), "by": "weather"}) is None
    assert policy_of({**known.value(), "more": 1}) is None


async def test_so_many_tenants_have_a_policy(regions: Regions, eu: Node) -> None:
    """One more is refused; one that is there can be changed."""
    retention = Retention(eu, None)
    made = {f"t{n}": ("x", policy(tenant=f"t{n}")) for n in range(RETENTION_POLICIES_MAX)}
    retention._newest = {**made}
    with pytest.raises(Refusal) as refused:
        await retention.set(policy(age_s=60))
    assert refused.value.code == "too_large"
