"""What requests cost, who is counted as whom, and how a refusal is said."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from perdure.api.callers import UNKNOWN, Callers
from perdure.api.pace import cost_of
from perdure.api.problems import problem
from perdure.api.rates import Rates
from perdure.regions.allowances import NOTHING, Allowances, parse_limits, parse_proxies
from perdure.replication.buckets import Rate
from perdure.replication.errors import Refusal
from perdure.replication.limits import APPEND_ITEMS_MAX, SESSION_UNITS_BURST_MAX

from tests.regions.conftest import ManualClock


@dataclass(frozen=True)
class Somebody:
    """Who calls."""

    subject: str
    tenant: str = "acme"
    key: str | None = "k1"
    token: str = "hash"


ANN = Somebody("ann")


def rates(*texts: str, clock: ManualClock | None = None) -> Rates:
    return Rates(clock or ManualClock(), parse_limits(texts))


def refused(work: Rates, *call: object) -> Refusal:
    with pytest.raises(Refusal) as found:
        work.check(*call)  # type: ignore[arg-type]
    assert found.value.code == "too_many"
    return found.value


@pytest.mark.parametrize(
    ("kind", "same", "other"),
    [
        ("address", ("10.0.0.1", None), ("10.0.0.2", None)),
        ("key", ("10.0.0.1", Somebody("bob")), ("10.0.0.1", Somebody("ann", key="k2"))),
        ("subject", ("10.0.0.9", Somebody("ann", key="k2")), ("10.0.0.1", Somebody("bob"))),
        ("tenant", ("10.0.0.9", Somebody("bob", key="k2")), ("10.0.0.1", Somebody("ann", "x"))),
        ("session", ("10.0.0.9", Somebody("bob"), "acme:s"), ("10.0.0.1", ANN, "acme:s2")),
    ],
)
def test_each_kind_is_counted_by_itself(kind: str, same: tuple, other: tuple) -> None:
    """What has used its bucket up is refused wherever it comes from; others are not."""
    work = rates(f"{kind}=1/min,burst=3")
    for _ in range(3):
        work.check("10.0.0.1", ANN, "acme:s")
    assert refused(work, *same).extra["limit"] == kind
    work.check(*other)


def test_a_refusal_says_when_to_come_back() -> None:
    """As 429 with Retry-After in whole seconds, rounded up, and both header fields; and to come
    back then is enough."""
    clock = ManualClock()
    work = rates("session=1/min,burst=2", clock=clock)
    for _ in range(2):
        work.check("10.0.0.1", ANN, "acme:s")
    clock.pass_ms(500)
    found = problem(refused(work, "10.0.0.1", ANN, "acme:s"))
    assert found.status == 429
    assert found.body["code"] == "too_many" and found.body["limit"] == "session"
    assert "fields" not in found.body
    headers = dict(found.headers)
    assert headers["retry-after"] == "60"
    assert headers["ratelimit"] == '"session";r=0;t=60'
    assert headers["ratelimit-policy"] == '"session";q=2;w=120'
    clock.pass_ms(60_000)
    work.check("10.0.0.1", ANN, "acme:s")


def test_an_answer_says_what_is_left() -> None:
    """Of the bucket that has the least left for its size."""
    work = rates("subject=10/s,burst=20", "session=5/s,burst=10")
    fields = dict(work.check("10.0.0.1", ANN, "acme:s"))
    assert fields == {b"ratelimit-policy": b'"session";q=10;w=2', b"ratelimit": b'"session";r=9'}


def test_subjects_of_two_tenants_are_two() -> None:
    """And so are their keys, whatever they are called."""
    work = rates("subject=1/min,burst=1", "key=1/min,burst=1")
    work.check("10.0.0.1", ANN)
    work.check("10.0.0.1", Somebody("ann", tenant="other"))
    refused(work, "10.0.0.1", ANN)


def test_who_is_nobody_is_counted_by_address_alone() -> None:
    """Where no grants are asked for, callers are not one subject; and the tenant without a name is
    no tenant."""
    work = rates("subject=1/min,burst=1", "tenant=1/min,burst=1")
    for _ in range(10):
        assert dict(work.check("10.0.0.1", Somebody("", tenant="", key=None)))
    refused_at = rates("tenant=1/min,burst=1")
    for name in "abcdefgh":
        refused_at.check("10.0.0.1", Somebody(name, tenant=""))


def test_wrong_grants_are_slow_and_good_ones_are_not() -> None:
    """After so many wrong grants of an address, the next is not looked at; one that is known to be
    good is served all the while."""
    clock = ManualClock()
    work = rates("guess=1/s,burst=5", clock=clock)
    for _ in range(6):
        work.check_guess("10.0.0.1")
        work.guessed("10.0.0.1")
    with pytest.raises(Refusal, match="not valid") as found:
        work.check_guess("10.0.0.1")
    assert found.value.extra["retry_after_s"] == 1
    work.check("10.0.0.1", ANN)
    work.check_guess("10.0.0.2")
    clock.pass_ms(2_000)
    work.check_guess("10.0.0.1")


def test_what_is_brought_is_owed_and_the_next_waits() -> None:
    """4,096 items cost more than one, and are not refused after they were sent."""
    assert cost_of(APPEND_ITEMS_MAX) == 63 and cost_of(64) == cost_of(1, 100) == 0
    assert cost_of(1, 1_048_576) == 63
    work = rates("session=10/s,burst=20")
    work.check("10.0.0.1", ANN, "acme:s")
    pace = work.pace("10.0.0.1", ANN, "acme:s")
    assert pace is not None
    assert pace.owe(cost_of(APPEND_ITEMS_MAX)) == pytest.approx(4.4)
    assert refused(work, "10.0.0.1", ANN, "acme:s").extra["retry_after_s"] == 5
    assert pace.of("acme:other").owe(1) == 0


def test_streams_are_counted_while_they_last() -> None:
    """By address and by subject; one too many is refused, and takes no place."""
    work = rates("subject-streams=2", "address-streams=3")
    with work.connected("10.0.0.1", ANN), work.connected("10.0.0.1", ANN):
        with pytest.raises(Refusal, match="subject"), work.connected("10.0.0.2", ANN):
            pass
        with work.connected("10.0.0.1", Somebody("bob")):
            with pytest.raises(Refusal, match="address"), work.connected("10.0.0.1", None):
                pass
            with work.connected("10.0.0.2", Somebody("bob")):
                pass
    assert work._streams == {}


def test_nothing_is_limited_where_nothing_is_allowed_for() -> None:
    """No header fields, no refusals, no buckets."""
    work = Rates(ManualClock(), NOTHING)
    assert all(work.check("10.0.0.1", ANN, "acme:s") == [] for _ in range(10_000))
    assert work.pace("10.0.0.1", ANN, "acme:s") is None
    work.check_guess("10.0.0.1")


@pytest.mark.parametrize(
    ("client", "forwarded", "address"),
    [
        ("203.0.113.7", (), "203.0.113.7"),
        ("203.0.113.7", ("198.51.100.1",), "203.0.113.7"),
        ("10.0.0.1", (), "10.0.0.1"),
        ("10.0.0.1", ("198.51.100.1",), "198.51.100.1"),
        ("10.0.0.1", ("1.2.3.4, 198.51.100.1",), "198.51.100.1"),
        ("10.0.0.1", ("1.2.3.4, 198.51.100.1, 10.9.9.9",), "198.51.100.1"),
        ("10.0.0.1", ("1.2.3.4", "198.51.100.1 , 10.9.9.9"), "198.51.100.1"),
        ("10.0.0.1", ("1.2.3.4, junk, 10.9.9.9",), "10.9.9.9"),
        ("10.0.0.1", ("198.51.100.1:4711",), "198.51.100.1"),
        ("10.0.0.1", ("[2001:db8:1:2:3::1]:4711",), "2001:db8:1:2::/64"),
        ("10.0.0.1", ("10.2.3.4, 10.9.9.9",), "10.2.3.4"),
        ("::ffff:10.0.0.1", ("198.51.100.1",), "198.51.100.1"),
        ("2001:db8:1:2:ffff::9", (), "2001:db8:1:2::/64"),
        ("fe80::1%eth0", (), "fe80::/64"),
        ("10.0.0.1", (",".join(["1.1.1.1"] * 100_000),), "1.1.1.1"),
        ("nonsense", ("198.51.100.1",), UNKNOWN),
    ],
)
def test_whose_address(client: str, forwarded: Sequence[str], address: str) -> None:
    """The last hop that no trusted proxy is, and what stands before it counts for nothing. Without
    a trusted proxy the header counts for nothing."""
    callers = Callers(parse_proxies(["10.0.0.0/8"]))
    headers = [(b"x-forwarded-for", text.encode()) for text in forwarded]
    assert callers.address({"client": (client, 1), "headers": headers}) == address


def test_a_header_is_not_believed_without_a_proxy() -> None:
    """Whoever writes it is counted by its own address."""
    scope = {"client": ("10.0.0.1", 1), "headers": [(b"x-forwarded-for", b"198.51.100.1")]}
    assert Callers().address(scope) == "10.0.0.1"
    assert Callers().address({"client": None, "headers": []}) == UNKNOWN


def test_limits_as_operators_write_them() -> None:
    """Over the defaults, a kind at a time."""
    found = parse_limits(["session=200/s,burst=400", "key=30/min", "tenant=off", "guess=1/h"])
    assert found.rates["session"] == Rate(200, 400)
    assert found.rates["key"] == Rate(0.5, 1)
    assert found.rates["guess"] == Rate(1 / 3600, 1)
    assert "tenant" not in found.rates and found.rates["subject"].per_s > 100
    assert parse_limits([]).rates["session"].burst == SESSION_UNITS_BURST_MAX
    assert parse_limits(["off"]).off and not parse_limits(["session=off"]).off
    assert parse_limits(["address-streams=7"]).counts["address-streams"] == 7
    assert parse_limits([]) == Allowances()
    assert parse_limits(["key=1/s"], NOTHING) == Allowances({"key": Rate(1, 2)}, {})


@pytest.mark.parametrize(
    "texts",
    [
        ["session"],
        ["session="],
        ["session=5"],
        ["session=0/s"],
        ["session=-1/s"],
        ["session=5/day"],
        ["session=5/s,burst=0"],
        ["session=5/s,burst=x"],
        ["session=99999999999/s"],
        ["session=5/s", "session=6/s"],
        ["sessions=5/s"],
        ["address-streams=5/s"],
        ["address-streams=0"],
        ["address-streams=99999999999999"],
        ["address-streams=\u0665"],
        ["off", "session=5/s"],
        [""],
    ],
)
def test_a_wrong_limit_is_named(texts: list[str]) -> None:
    """Nothing is guessed at."""
    with pytest.raises(ValueError, match="--limit"):
        parse_limits(texts)


@pytest.mark.parametrize("text", ["", "proxy", "10.0.0.1/8", "10.0.0.0/33", "::1/x"])
def test_a_wrong_proxy_is_named(text: str) -> None:
    """A network with bits beyond its prefix is a slip too."""
    with pytest.raises(ValueError, match="--trusted-proxy"):
        parse_proxies([text])
