"""Limits on callers, over real sockets: who is refused, what goes on, and that no token is lost."""

import asyncio
import json

import jwt
import pytest
from perdure.api import door
from perdure.api.grants import Grants
from perdure.regions.clock import SystemClock
from perdure.replication.buckets import Buckets

from .conftest import Connection, Reply
from .followers import plug

SECRET = b"g" * 32
ALL = {"*": ["read", "write", "presence", "run", "cancel", "admin"]}


class Shifted(SystemClock):
    """The system's time, and what the test adds to it."""

    added_ms = 0

    def monotonic_ms(self) -> int:
        return super().monotonic_ms() + self.added_ms


def grant(subject: str = "ann", **claims: object) -> list[tuple[str, str]]:
    """The header of a good grant."""
    said = {"sub": subject, "exp": 4_000_000_000, "can": ALL, "as": ["*"], **claims}
    return [("authorization", f"Bearer {jwt.encode(said, SECRET, algorithm='HS256')}")]


def refused(reply: Reply, limit: str) -> int:
    """It is a whole refusal of this limit; after how many seconds to come back."""
    problem = reply.assert_problem(429, "too_many")
    assert problem["limit"] == limit and problem.keys().isdisjoint({"fields", "retry_after_s"})
    assert (reply.header("ratelimit") or "").startswith(f'"{limit}";r=0;t=')
    assert (reply.header("ratelimit-policy") or "").startswith(f'"{limit}";q=')
    return int(reply.header("retry-after") or 0)


async def test_a_session_that_is_asked_too_much_of(serve):
    """Its writers are refused, whoever they are, and change nothing; its readers are not, nor are
    writers of others; and to come back when it is said is enough."""
    clock = Shifted()
    async with serve(clock=clock, limits=["session=1/min,burst=3"]) as region:
        lane, other = await region.open(), await region.open("t")
        for seq in range(2):
            assert (await region.append(lane, seq, ["x"])).status == 200
        before = region.state()
        wait_s = refused(await region.append(lane, 2, ["x"]), "session")
        assert 50 < wait_s <= 60
        assert region.state() == before
        assert (await region.append(other, 0, ["x"])).status == 200
        for _ in range(10):
            assert (await region.request("GET", lane.path)).status == 200
            (await region.follow()).close()
        clock.added_ms += wait_s * 1_000
        assert (await region.append(lane, 2, ["x"])).status == 200
        assert (await region.request("GET", lane.path)).json["text"] == "xxx"


async def test_answers_say_what_is_left(serve):
    """Of appends, of other routes and of streams; not outside /v1, and not where nothing is
    limited."""
    async with serve(limits=["address=1/s,burst=100"]) as region:
        lane = await region.open()
        appended = await region.append(lane, 0, ["x"])
        assert appended.header("ratelimit-policy") == '"address";q=100;w=100'
        assert appended.header("ratelimit") == '"address";r=98'
        read = await region.request("GET", "/v1/sessions/s")
        assert read.header("ratelimit") == '"address";r=97'
        connection = await region.connect()
        await connection.start("GET", "/v1/sessions/s/events")
        assert (await connection.head()).header("ratelimit") == '"address";r=96'
        for path in ("/livez", "/version"):
            assert (await region.request("GET", path)).header("ratelimit") is None
    async with serve(name="us") as region:
        assert (await region.request("GET", "/v1/sessions")).header("ratelimit") is None


async def test_a_batch_costs_more_than_a_token(serve):
    """4,096 items are taken, as they were sent, and the next append waits for them."""
    async with serve(limits=["session=1/s,burst=10"]) as region:
        lane = await region.open()
        assert (await region.append(lane, 0, ["x"] * 4_096)).json["next"] == 4_096
        assert 50 <= refused(await region.append(lane, 4_096, ["x"]), "session") <= 63


async def test_bytes_cost_more_too(serve):
    """One message of a megabyte as much as 64 short ones."""
    async with serve(limits=["session=1/s,burst=10"]) as region:
        body = {"id": "big", "role": "user", "text": "x" * 1_048_576}
        assert (await region.json("POST", "/v1/sessions/s/messages", body)).status == 201
        assert refused(await region.json("PUT", "/v1/sessions/s", {}), "session") >= 50


@pytest.mark.parametrize(
    ("limit", "same"),
    [("subject", grant("ann", jti="2")), ("key", grant("ann")), ("tenant", grant("bob"))],
)
async def test_who_is_counted(serve, limit, same):
    """By subject whatever the grant, by grant, and by tenant whoever it is; the subject of another
    tenant with the same name is somebody else."""
    first = grant("ann", tenant="acme", jti="1") if limit != "key" else grant("ann")
    if limit == "subject":
        same = grant("ann", tenant="acme", jti="2")
    if limit == "tenant":
        same = grant("bob", tenant="acme")
    async with serve(grants=Grants(SECRET), limits=[f"{limit}=1/min,burst=2"]) as region:
        for _ in range(2):
            assert (await region.json("GET", "/v1/sessions", None, first)).status == 200
        refused(await region.json("GET", "/v1/sessions", None, same), limit)
        elsewhere = grant("ann", tenant="other", jti="1")
        assert (await region.json("GET", "/v1/sessions", None, elsewhere)).status == 200


async def test_nobody_draws_from_a_session_that_is_not_theirs(serve):
    """A grant that may do nothing with a session, or not write to it, spends its own units and none
    of that session's."""
    async with serve(
        grants=Grants(SECRET), limits=["session=1/min,burst=3", "subject=1/min,burst=20"]
    ) as region:
        reader = grant("eve", can={"s": ["read"]})
        for headers, status in ((grant("eve", can={}), 404), (reader, 403)):
            for _ in range(5):
                assert (await region.json("PUT", "/v1/sessions/s", {}, headers)).status == status
        for _ in range(3):
            assert (await region.json("PUT", "/v1/sessions/s", {}, grant())).status < 300
        for _ in range(10):
            await region.json("PUT", "/v1/sessions/s", {}, reader)
        refused(await region.json("PUT", "/v1/sessions/s", {}, reader), "subject")


@pytest.mark.failure("S16")
async def test_guessing_at_grants_is_slow(serve):
    """After so many wrong ones none is looked at that is not known, by this address, whatever it
    is: grants, API keys or tickets. Who has been let in goes on."""
    async with serve(grants=Grants(SECRET), limits=["guess=1/min,burst=4"]) as region:
        assert (await region.json("GET", "/v1/sessions", None, grant())).status == 200
        wrong = [("authorization", "Bearer wrong")]
        codes = [
            (await region.json("GET", "/v1/sessions", None, wrong)).status,
            (await region.json("POST", "/v1/tokens", {}, wrong)).status,
            (await region.request("GET", "/v1/sessions/s/events?ticket=abcd")).status,
            (await region.json("GET", "/v1/sessions", None, wrong)).status,
            (await region.json("GET", "/v1/sessions", None, wrong)).status,
        ]
        assert codes == [401] * 5
        refused(await region.json("GET", "/v1/sessions", None, wrong), "guess")
        refused(await region.json("POST", "/v1/tokens", {}, wrong), "guess")
        refused(await region.json("GET", "/v1/sessions", None, grant("bob")), "guess")
        assert (await region.json("GET", "/v1/sessions", None, grant())).status == 200
        # Without a grant nothing is guessed.
        assert (await region.json("GET", "/v1/sessions")).status == 401


async def test_who_was_let_in_is_not_shut_out_by_who_guesses(serve, monkeypatch):
    """Behind the same address, and when what is known to be good has been forgotten for a while; a
    grant that is good no more is a guess like any."""
    monkeypatch.setattr(door, "TRUST_GRANT_S", 0)
    clock = Shifted()
    limits = ["guess=1/min,burst=4"]
    async with serve(grants=Grants(SECRET), clock=clock, limits=limits) as region:
        ana = grant()
        assert (await region.json("GET", "/v1/sessions", None, ana)).status == 200
        wrong = [("authorization", "Bearer wrong")]
        for _ in range(5):
            assert (await region.json("GET", "/v1/sessions", None, wrong)).status == 401
        refused(await region.json("GET", "/v1/sessions", None, wrong), "guess")
        for _ in range(3):
            assert (await region.json("GET", "/v1/sessions", None, ana)).status == 200


@pytest.mark.failure("L4")
async def test_streams_and_sockets_are_counted(serve):
    """One too many is refused; one that has ended makes room."""
    async with serve(limits=["address-streams=2"]) as region:
        await region.json("PUT", "/v1/sessions/s", {})
        first = await region.follow()
        plugged = await plug(region)
        reply = await region.request("GET", "/v1/sessions/s/events")
        problem = reply.assert_problem(429, "too_many")
        assert problem["limit"] == "address-streams" and reply.header("retry-after") == "1"
        first.close()
        async with asyncio.timeout(10):
            while (await region.request("GET", "/v1/sessions/s/poll?wait_ms=0")).status == 429:
                await asyncio.sleep(0)
        await plugged.connection.close()


async def lines(connection: Connection, wanted: int) -> list[dict]:
    """Acknowledgements, until so many items are accepted."""
    found: list[dict] = []
    while not found or found[-1]["accepted"] < wanted:
        found += [json.loads(row) for row in (await connection.piece()).splitlines()]
    return found


async def test_a_long_request_is_slowed_down_and_loses_nothing(serve):
    """It is never refused: every line is taken, in its order, at the rate of the session."""
    async with serve(limits=["session=200/s,burst=2"]) as region:
        lane = await region.open()
        connection = await region.connect()
        head = [("transfer-encoding", "chunked"), *lane.headers(None)]
        await connection.start("POST", f"{lane.path}/stream", head)
        assert (await connection.head()).status == 200
        began = asyncio.get_running_loop().time()
        for seq in range(20):
            await connection.chunk(json.dumps({"seq": seq, "token": f"{seq} "}).encode() + b"\n")
            assert (await lines(connection, seq + 1))[-1]["accepted"] == seq + 1
        assert asyncio.get_running_loop().time() - began >= 0.08
        await connection.chunk(b'{"seq":20,"end":"complete"}\n')
        await connection.chunk(b"")
        while await connection.piece():
            pass
        shown = (await region.request("GET", lane.path)).json
        assert shown["text"] == "".join(f"{seq} " for seq in range(20))
        assert shown["status"] == "complete"


async def test_a_socket_is_slowed_down_and_loses_nothing(serve):
    """As a long request; also when all frames are there at once."""
    async with serve(limits=["session=200/s,burst=2"]) as region:
        lane = await region.open()
        plugged = await plug(region)
        began = asyncio.get_running_loop().time()
        for seq in range(20):
            named = {"message": "m", "producer": "p", "epoch": lane.epoch}
            told = await plugged.do("append", **named, seq=seq, tokens=[f"{seq} "])
            assert told["status"] == 200
        assert asyncio.get_running_loop().time() - began >= 0.08
        text = (await region.request("GET", lane.path)).json["text"]
        assert text == "".join(f"{seq} " for seq in range(20))
        await plugged.connection.close()


async def test_a_long_request_that_waits_ends_with_the_region(serve):
    """It owes for minutes, and still hears at once that the region drains; what it had sent is
    taken first."""
    async with serve(limits=["session=1/min,burst=2"]) as region:
        lane = await region.open()
        connection = await region.connect()
        head = [("transfer-encoding", "chunked"), *lane.headers(None)]
        await connection.start("POST", f"{lane.path}/stream", head)
        assert (await connection.head()).status == 200
        await connection.chunk(b'{"seq":0,"token":"a"}\n')
        await lines(connection, 1)
        region.node.leaving.set()
        async with asyncio.timeout(10):
            told = json.loads(await connection.piece())
        assert told["code"] == "draining"


def test_many_buckets_are_little_memory():
    """A full table of one kind: what BUCKETS_MAX names take stays below 40 MiB."""
    import tracemalloc

    from perdure.replication.buckets import Rate
    from perdure.replication.limits import BUCKETS_MAX

    tracemalloc.start()
    buckets = Buckets({"address": Rate(1, 10)})
    for n in range(BUCKETS_MAX + 1_000):
        buckets.take(0, (("address", f"2001:db8:{n:x}::/64"),))
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(buckets) == BUCKETS_MAX
    assert size < 40 * 2**20
