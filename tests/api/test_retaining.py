"""The routes of retention: for operators alone, strict, noted before anything is done."""

import pytest
from perdure.api.grants import Grants

from .conftest import Region
from .test_audit import entries
from .test_granting import SECRET, bearer, grant

OPERATOR = bearer(grant(sub="ops"))
PATH = "/admin/api/retention"


@pytest.fixture
async def guarded(serve):
    """A region that asks for grants."""
    async with serve(grants=Grants(SECRET), peers=["us"]) as region:
        yield region


async def ask(region: Region, method: str, path: str = "", body=None, who=OPERATOR):
    return await region.json(method, PATH + path, body, who)


async def test_a_policy_is_set_shown_and_removed(guarded):
    """And each change is in the audit log; the region of an entry stays that of its chain."""
    body = {"age_s": 3600, "bytes": 10, "region": "us"}
    reply = await ask(guarded, "PUT", "/acme", body)
    assert reply.status == 200, reply
    said = reply.json
    assert (said["tenant"], said["age_s"], said["bytes"], said["by"], said["region"]) == (
        *("acme", 3600, 10, "last_activity", "us"),
    )
    assert said["set_by"] == "ops"
    assert said["waits"] == "us, which decides, cannot be heard"
    assert (await ask(guarded, "GET", "/acme")).json == said
    await ask(guarded, "PUT", "/-", {"audit_age_s": 86400})
    listed = (await ask(guarded, "GET")).json
    assert [(p["tenant"], p["region"]) for p in listed["policies"]] == [("-", "eu"), ("acme", "us")]
    assert (await ask(guarded, "DELETE", "/acme")).status == 204
    (await ask(guarded, "GET", "/acme")).assert_problem(404, "not_found")
    (await ask(guarded, "DELETE", "/acme")).assert_problem(404, "not_found")
    noted = [(e["action"], e["target"], e["region"]) for e in await entries(guarded)]
    assert noted == [
        ("retention.set", "acme", "eu"),
        ("retention.set", "-", "eu"),
        ("retention.remove", "acme", "eu"),
    ]


async def test_a_plan_changes_nothing(guarded):
    """It says what would go, by a policy that is there or by one that is asked about."""
    who = bearer(grant(sub="ops", **{"as": ["*"]}))
    message = {"id": "m", "role": "user", "text": "x" * 1000}
    assert (await guarded.json("POST", "/v1/sessions/s/messages", message, who)).status == 201
    await guarded.node.checkpoint.all()
    before = guarded.state()
    plan = (await ask(guarded, "GET", "/-/plan?bytes=0")).json
    assert (plan["seen"], plan["going"], plan["sessions"][0]["session"]) == (1, 1, "s")
    assert plan["going_bytes"] >= 1000
    assert (await ask(guarded, "GET", "/-/plan?age_s=60")).json["going"] == 0
    (await ask(guarded, "GET", "/-/plan")).assert_problem(404, "not_found")
    (await ask(guarded, "GET", "/-/plan?bytes=-1")).assert_problem(400, "invalid_query")
    assert guarded.state() == before


@pytest.mark.parametrize(
    ("tenant", "body", "code"),
    [
        ("acme", {}, "invalid_body"),
        ("acme", {"age_s": 59}, "invalid_body"),
        ("acme", {"age_s": "1d"}, "invalid_body"),
        ("acme", {"bytes": -1}, "invalid_body"),
        ("acme", {"age_s": 60, "by": "created"}, "invalid_body"),
        ("acme", {"age_s": 60, "region": "mars"}, "invalid_body"),
        ("acme", {"age_s": 60, "more": 1}, "invalid_body"),
        ("acme", {"audit_age_s": 60}, "invalid_body"),
        ("ACME", {"age_s": 60}, "invalid_id"),
    ],
)
async def test_what_is_no_policy_is_refused(guarded, tenant, body, code):
    """With the field named, and nothing changed."""
    (await ask(guarded, "PUT", f"/{tenant}", body)).assert_problem(400, code)
    assert (await ask(guarded, "GET")).json["policies"] == []


async def test_it_is_for_operators_alone(guarded):
    """Neither for administrators of a tenant nor for who may only read."""
    for who in (
        bearer(grant(sub="a", tenant="acme")),
        bearer(grant(sub="a", can={"*": ["read", "write"]})),
    ):
        for method, path, body in (
            ("GET", "", None),
            ("GET", "/acme", None),
            ("GET", "/acme/plan?bytes=0", None),
            ("PUT", "/acme", {"age_s": 60}),
            ("DELETE", "/acme", None),
        ):
            reply = await ask(guarded, method, path, body, who)
            reply.assert_problem(403, "forbidden")
    assert (await ask(guarded, "GET", who=())).status == 401
