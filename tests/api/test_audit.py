"""The audit log: who did what, in a chain that shows what was done to it, in all regions."""

import asyncio
import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from perdure.api import auditing
from perdure.api.grants import Grants
from perdure.regions.audit import SESSION, Audit
from perdure.regions.ports import StorageFull
from perdure.replication import limits
from perdure.replication.chain import START, faults, linked

from .conftest import Region
from .followers import plug
from .test_granting import SECRET, bearer, grant

READER = bearer(grant(sub="auditor"))


async def entries(region: Region) -> list[dict]:
    """The whole log, by pages, without what its reading adds."""
    found, after = [], ""
    while after is not None:
        query = f"?limit=3&after={after}" if after else "?limit=3"
        reply = await region.request("GET", f"/v1/audit{query}", None, READER)
        assert reply.status == 200, reply
        found += reply.json["entries"]
        after = reply.json["next"]
    return [entry for entry in found if entry["action"] != "audit.read"]


@pytest.fixture
async def guarded(serve):
    """A region that asks for grants."""
    async with serve(grants=Grants(SECRET)) as region:
        yield region


async def test_what_is_noted(guarded):
    """Claims, cancels, deletes, grants, keys, revocations, what administrators see: by whom."""
    ana = bearer(grant(jti="g1", **{"as": ["*"]}))
    path = "/v1/sessions/s"
    opening = {"id": "m", "role": "a", "producer": "ana", "claim_id": "claim-0001"}
    claim = {"producer": "ana", "claim_id": "claim-0002", "mode": "continue"}
    steps = (
        ("POST", f"{path}/messages", opening, None),
        ("POST", f"{path}/messages/m/claim", claim, ("message.claim", "s", "m")),
        ("POST", f"{path}/messages/m/cancel", None, ("message.cancel", "s", "m")),
        ("POST", f"{path}/messages/gone/cancel", None, None),
        ("DELETE", f"{path}/messages/m", None, ("message.delete", "s", "m")),
        ("POST", f"{path}/runs", {"id": "r", "agent": "bot"}, None),
        ("POST", f"{path}/runs/r/claim", {**claim, "lease_s": 9}, ("run.claim", "s", "r")),
        ("POST", f"{path}/runs/r/cancel", None, ("run.cancel", "s", "r")),
        ("POST", f"{path}/tickets", None, None),
        ("POST", "/v1/revocations", {"subject": "x"}, ("revoke", None, "subject x")),
        ("GET", "/v1/regions", None, ("regions.show", None, None)),
        ("DELETE", path, None, ("session.delete", "s", None)),
        ("DELETE", path, None, ("session.delete", "s", None)),
    )
    expected = []
    for method, target, body, noted in steps:
        reply = await guarded.json(method, target, body, ana)
        if noted is not None and reply.status < 400:
            expected.append(noted)
        assert (noted is None) or reply.status < 400 or reply.status == 410, (target, reply)
    found = await entries(guarded)
    assert [(e["action"], e["session"], e["target"]) for e in found] == expected
    assert {(e["actor"], e["grant"], e["tenant"], e["region"]) for e in found} == {
        ("ana", "g1", "", "eu")
    }
    assert [e["n"] for e in found] == list(range(1, len(found) + 1))
    assert faults(found) == [] and found[0]["prev"] == START


async def test_frames_are_noted(guarded):
    """What is done over a socket is noted as over HTTP."""
    socket = await plug(guarded, additional_headers=dict(bearer(grant())))
    assert (await socket.do("run", id="r", agent="bot"))["status"] == 201
    assert (await socket.do("cancel_run", run="r"))["status"] == 200
    assert (await socket.do("cancel_run", run="none"))["status"] == 404
    assert (await socket.do("delete", document="none"))["status"] == 404
    assert (await socket.do("delete"))["status"] == 204
    await socket.connection.close()
    found = await entries(guarded)
    assert [(e["action"], e["target"]) for e in found] == [
        ("run.cancel", "r"),
        ("session.delete", None),
    ]


async def test_minted_grants_are_traced(guarded):
    """A grant is traced to the key that minted it, and that to who made it."""
    body = {"subject": "web", "can": {"*": ["read"]}}
    made = await guarded.json("POST", "/v1/keys", body, bearer(grant(sub="root")))
    token = await guarded.json("POST", "/v1/tokens", None, bearer(made.json["key"]))
    making, minting = await entries(guarded)
    assert (making["actor"], making["target"]) == ("root", made.json["id"])
    assert (minting["actor"], minting["grant"]) == (made.json["id"], token.json["id"])
    text = json.dumps([making, minting])
    assert made.json["key"] not in text and token.json["grant"] not in text


async def test_tenants_see_their_own(guarded):
    """Administrators of a tenant see what is of it, operators all, and nobody else anything."""
    for tenant in ("acme", "umbrella"):
        reply = await guarded.json(
            "POST", "/v1/revocations", {"subject": "x"}, bearer(grant(tenant=tenant))
        )
        assert reply.status == 201
    page = await guarded.request("GET", "/v1/audit", None, bearer(grant(tenant="acme")))
    assert {e["tenant"] for e in page.json["entries"]} == {"acme"}
    assert {e["tenant"] for e in await entries(guarded)} >= {"acme", "umbrella"}
    reader = bearer(grant(can={"*": ["read"]}))
    (await guarded.request("GET", "/v1/audit", None, reader)).assert_problem(403, "forbidden")
    for after in ("x", "_", "a_b", "a" * 300 + "_1"):
        reply = await guarded.request("GET", f"/v1/audit?after={after}", None, READER)
        reply.assert_problem(400, "invalid_query")


async def test_it_goes_on_after_a_restart(serve):
    """The chain of a region goes on where it was; logs are of bounded length."""
    for _ in range(2):
        async with serve(grants=Grants(SECRET)) as region:
            await region.json("POST", "/v1/revocations", {"subject": "x"}, READER)
            assert len(await entries(region)) > 0
            full = [entry for _, entry in Audit(region.node).entries(None)]
            assert faults(full) == [] and [e["n"] for e in full] == list(range(1, len(full) + 1))


async def test_logs_are_bounded(guarded, monkeypatch):
    """So many entries fill a log; those that are noted at once are all there, in order."""
    monkeypatch.setattr("perdure.regions.audit.AUDIT_ENTRIES_MAX", 4)
    audit = Audit(guarded.node)
    await asyncio.gather(*(audit.record("test", tenant="", number=n) for n in range(11)))
    found = [entry for _, entry in audit.entries(None)]
    assert [e["number"] for e in found] == list(range(11))
    assert faults(found) == []
    assert len(guarded.node.messages(SESSION, None, 100)["messages"]) == 3
    assert limits.AUDIT_ENTRIES_MAX > 4


async def test_nothing_is_answered_that_is_not_noted(guarded):
    """Where the log cannot be written, the answer says so; later entries go on from the last."""
    audit = Audit(guarded.node)
    await audit.record("one", tenant="")
    guarded.storage.failure = StorageFull("full")
    for _ in range(2):
        with pytest.raises(StorageFull):
            await audit.record("lost", tenant="")
    guarded.storage.failure = None
    await audit.record("two", tenant="")
    found = [entry for _, entry in audit.entries(None)]
    assert [e["action"] for e in found] == ["one", "two"] and faults(found) == []
    guarded.storage.failure = StorageFull("full")
    reply = await guarded.json("POST", "/v1/revocations", {"subject": "x"}, READER)
    reply.assert_problem(507, "storage_full")
    guarded.storage.failure = None


async def test_who_looks_is_answered_though_it_cannot_be_noted(guarded, caplog):
    """An operator must see how a region is whose disk is full; what changes something is refused,
    as a write is, and is no internal error."""
    guarded.storage.failure = StorageFull("full")
    for target in ("/v1/regions", "/v1/keys", "/v1/audit"):
        assert (await guarded.request("GET", target, None, READER)).status == 200
    assert "regions.show by 'auditor' is not noted" in caplog.text
    body = {"grant": READER[0][1].removeprefix("Bearer ")}
    reply = await guarded.json("POST", "/v1/grants/renew", body, READER)
    reply.assert_problem(507, "storage_full")
    guarded.storage.failure = None
    assert [entry["action"] for entry in await entries(guarded)] == []


async def test_no_client_reaches_it(guarded):
    """The log is a session that nobody can name."""
    await guarded.json("POST", "/v1/revocations", {"subject": "x"}, READER)
    for session in (":audit", "%3Aaudit", "audit", ":keys", ":revocations"):
        for method in ("GET", "DELETE", "PUT"):
            reply = await guarded.request(method, f"/v1/sessions/{session}", None, READER)
            assert reply.status in (400, 404) or session == "audit", (method, session)
    assert faults(await entries(guarded)) == []
    listed = await guarded.request("GET", "/v1/sessions", None, READER)
    assert all(":" not in each["id"] for each in listed.json["sessions"])


# The chain


RECORDS = st.lists(st.dictionaries(st.sampled_from("ab"), st.integers()), min_size=2, max_size=9)


@given(RECORDS, st.data())
def test_a_chain_shows_what_was_done_to_it(values, data):
    """A record that is changed, taken out (but at the ends), put in or moved is found."""
    chain, last = [], START
    for n, value in enumerate(values, 1):
        chain.append(linked({**value, "n": n, "region": "eu"}, last))
        last = chain[-1]["hash"]
    other = linked({"n": 1, "region": "us"}, START)
    assert faults([chain[0], other, *chain[1:]]) == []
    at = data.draw(st.integers(0, len(chain) - 1))
    changed = copy.deepcopy(chain)
    changed[at]["c"] = 1
    assert len(faults(changed)) >= 1
    # Also where its own hash is made anew.
    changed[at] = linked({"n": at + 1, "region": "eu", "c": 1}, chain[at]["prev"])
    assert bool(faults(changed)) == (at < len(chain) - 1)
    if 0 < at < len(chain) - 1:
        assert faults(chain[:at] + chain[at + 1 :])
    assert faults([*chain, chain[at]])


async def test_names_with_other_line_ends(serve):
    """A name that holds what some take for the end of a line breaks no entry, and no start."""
    names = ["a\u2028b", "a\u2029b", "a\x85b"]
    async with serve(grants=Grants(SECRET)) as region:
        for name in names:
            what = {"subject": name}
            reply = await region.json("POST", "/v1/revocations", what, bearer(grant(tenant="acme")))
            assert reply.status == 201
    async with serve(grants=Grants(SECRET)) as region:
        found = await entries(region)
        assert [entry["target"] for entry in found] == [f"subject {name}" for name in names]
        assert faults(found) == []


async def test_one_request_looks_at_some_only(guarded, monkeypatch):
    """Who administers a tenant of which there is little is given empty pages, and all in the
    end."""
    monkeypatch.setattr(auditing, "ENTRIES_LOOKED_AT_MAX", 4)
    for name in ("first", "last"):
        head = bearer(grant(tenant="acme", sub=name))
        assert (await guarded.request("GET", "/v1/keys", None, head)).status == 200
        for _ in range(10):
            assert (await guarded.request("GET", "/v1/keys", None, READER)).status == 200
    found, pages, after = [], 0, ""
    head = bearer(grant(tenant="acme"))
    while after is not None:
        reply = await guarded.request("GET", f"/v1/audit{after and '?after='}{after}", None, head)
        found += [
            entry["actor"] for entry in reply.json["entries"] if entry["action"] == "key.list"
        ]
        pages, after = pages + 1, reply.json["next"]
    assert found == ["first", "last"] and pages > 3


async def test_renewals_over_sockets_are_noted(guarded):
    """As those over HTTP."""
    socket = await plug(guarded, additional_headers=dict(bearer(grant())))
    assert (await socket.do("renew", grant=grant(exp=2_000_000_000)))["status"] == 200
    assert (await socket.do("renew", grant="x.y.z"))["status"] == 401
    (entry,) = await entries(guarded)
    assert (entry["action"], entry["actor"], entry["session"]) == ("grant.renew", "ana", None)
    await socket.connection.close()


async def test_who_is_cut_off_does_not_break_the_chain(guarded):
    """A socket that ends while its entry is being written: that is there, and the next follows."""
    audit = Audit(guarded.node)
    await audit.record("one", tenant="")
    cut = asyncio.create_task(audit.record("two", tenant=""))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    cut.cancel()
    await asyncio.gather(cut, return_exceptions=True)
    await audit.record("three", tenant="")
    found = [entry for _, entry in audit.entries(None)]
    assert [e["action"] for e in found] == ["one", "two", "three"] and faults(found) == []
