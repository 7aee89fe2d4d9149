"""Asking whether what was deleted is gone."""

import pytest
from perdure.api.grants import Grants

from .test_granting import SECRET, bearer, grant


@pytest.mark.parametrize(
    "path", ["erasure", "messages/m/erasure", "documents/d/erasure", "messages/none/erasure"]
)
async def test_nothing_was_deleted(region, path):
    """404, for what is there and for what never was."""
    await region.json("POST", "/v1/sessions/s/messages", {"id": "m", "role": "user", "text": "hi"})
    await region.json("PATCH", "/v1/sessions/s/documents/d", {"text": "hi"})
    reply = await region.json("GET", f"/v1/sessions/s/{path}")
    assert (reply.status, reply.json["code"]) == (404, "not_found")


async def test_each_says_what_it_is_of(region):
    """A message, a document, the session; and a message of a deleted session is the session's."""
    await region.json("POST", "/v1/sessions/s/messages", {"id": "m", "role": "user", "text": "hi"})
    await region.json("PATCH", "/v1/sessions/s/documents/d", {"text": "hi"})
    for path in ("/messages/m", "/documents/d", ""):
        await region.json("DELETE", f"/v1/sessions/s{path}")
    assert await region.node.eraser.erase()
    values = [
        (await region.json("GET", f"/v1/sessions/s{path}/erasure")).json
        for path in ("/messages/m", "/documents/d", "", "/messages/other")
    ]
    for value in values:
        assert value["regions"] == {"eu": "done"} and value["state"] == "done"
        assert value["requested"].endswith("Z")
    named = [(v["session"], v.get("message"), v.get("document")) for v in values]
    assert named == [("s", "m", None), ("s", None, "d"), ("s", None, None), ("s", None, None)]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/sessions/!/erasure", 400),
        ("/v1/sessions/s/messages/!/erasure", 400),
        ("/v1/sessions/s/documents/!/erasure", 400),
        ("/v1/sessions/s/erasure?x=1", 400),
    ],
)
async def test_bad_questions(region, path, status):
    """Bad ids and unknown parameters are refused."""
    assert (await region.json("GET", path)).status == status


async def test_who_may(serve) -> None:
    """Administrators of the tenant; and the request is noted."""
    async with serve(grants=Grants(SECRET)) as region:
        body = {"subject": "ana"}
        for token, status in (
            (grant(can={"*": ["read", "write"]}), 403),
            (grant(tenant="acme"), 202),
            (grant(), 202),
        ):
            reply = await region.json("POST", "/v1/erasures", body, bearer(token))
            assert reply.status == status
        path = f"/v1/erasures/{reply.json['id']}"
        assert (await region.request("GET", path, None, bearer(grant()))).status == 200
        other = await region.request("GET", path, None, bearer(grant(tenant="acme")))
        other.assert_problem(404, "not_found")
        for wrong in ({}, {"subject": ""}, {"subject": 1}, {"x": 1}):
            assert (await region.json("POST", "/v1/erasures", wrong, bearer(grant()))).status == 400
        log = (await region.request("GET", "/v1/audit", None, bearer(grant()))).json["entries"]
        assert [(e["action"], e["target"], e["tenant"]) for e in log] == [
            ("subject.erase", "ana", "acme"),
            ("subject.erase", "ana", ""),
        ]
