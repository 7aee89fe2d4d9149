"""Who may do what: every case of the model, asked of a region over HTTP and over sockets.

``make authmatrix`` asks all of them; the suite asks some of each kind, by a fixed draw.
"""

import os
import random
import time
from collections import Counter
from typing import Any

import jwt
import pytest
from perdure.api.grants import Expected, Grants
from perdure.api.verbs import VERBS as FRAME_VERBS
from perdure.replication.admission import Draft
from perdure.replication.runs import RunDraft
from perdure.replication.tenants import session_key

from .conftest import Connection, Region
from .followers import plug
from .matrix import (
    FRAMES,
    NDJSON,
    NOWHERE,
    OPERATIONS,
    TENANTS,
    THERE,
    VERBS,
    Asked,
    Case,
    cases,
    matches,
    sets_of_verbs,
)
from .test_conformance_openapi import OF_GRANTS, operations

SECRET = b"s" * 32
EXPECTED = Expected("perdure", "https://issuer.example")
ALL = bool(os.environ.get("PERDURE_AUTHMATRIX_ALL"))
STARTED = int(time.time())
# Of the cases of the model, in the suite.
SOME = 2_500


def claims(case: Case | None = None, **other: Any) -> dict[str, Any]:
    """The claims of a case's grant; of a good one for anything without."""
    now = int(time.time())
    found: dict[str, Any] = {
        "sub": "bot",
        "iat": STARTED,
        "exp": now + 600,
        "aud": "perdure",
        "iss": EXPECTED.issuer,
        "can": {"*": list(VERBS)} if case is None else {case.pattern: list(case.verbs)},
    }
    if case is not None and case.tenant:
        found["tenant"] = case.tenant
    return {**found, **other}


def signed(said: dict[str, Any], secret: bytes = SECRET, **header: Any) -> str:
    """A grant that says this."""
    return jwt.encode(said, secret, algorithm="HS256", headers=header or None)


async def fill(region: Region) -> None:
    """In every tenant the same sessions, with words of their own."""
    for tenant in TENANTS:
        for session in THERE:
            key = session_key(tenant, session)
            await region.node.create(key, {"whose": f"<{tenant or 'nobody'}>"})
            await region.node.send(key, Draft("user", id="m", text=f"of <{tenant or 'nobody'}>"))
            await region.node.request_run(key, RunDraft("bot", id="r"))
            await region.node.patch_document(key, "d", f"<{tenant or 'nobody'}>", None)


class Asking:
    """Asks on one connection as long as it lasts."""

    def __init__(self, region: Region) -> None:
        self.region = region
        self._connection: Connection | None = None

    async def ask(self, asked: Asked, session: str, grant: str) -> tuple[int, bytes]:
        """The status and the body of one request."""
        headers = [("authorization", f"Bearer {grant}"), *asked.headers]
        target = f"/v1/sessions/{session}{asked.path}"
        if asked.is_stream:
            connection = await self.region.connect()
            await connection.start(asked.method, target, headers)
            head = await connection.head()
            if head.status == 200:
                body = (await connection.event())["data"].encode()
            else:
                size = int(head.header("content-length") or 0)
                body = await connection.reader.readexactly(size)
            connection.close()
            return head.status, body
        if self._connection is None:
            self._connection = await self.region.connect()
        if asked.path.endswith("/stream"):
            headers.append(("content-type", NDJSON))
            reply = await self._connection.request(asked.method, target, b"", headers)
        else:
            reply = await self._connection.json(asked.method, target, asked.body, headers)
        if reply.header("connection") == "close":
            self._connection = None
        return reply.status, reply.body


def check(case: Case, status: int, body: bytes) -> None:
    """The answer is what the model says, and shows nothing of another tenant."""
    for tenant in TENANTS:
        if tenant != case.tenant:
            assert f"<{tenant or 'nobody'}>".encode() not in body, case
    code = f'"code": "{_code(body)}"'
    if case.expected == "hidden":
        assert status == 404, (case, status, body)
        assert f"no session {case.session}".encode() in body, (case, body)
    elif case.expected == "forbidden":
        assert (status, code) == (403, '"code": "forbidden"'), (case, status, body)
    else:
        assert status != 401, (case, body)
        assert code != '"code": "forbidden"' or _is_anothers(case), (case, body)
        if case.session in THERE:
            assert f"no session {case.session}".encode() not in body, (case, body)


def _is_anothers(case: Case) -> bool:
    # Only what one has written may be deleted with ``write`` alone.
    is_message = case.asked.path.startswith("/messages/") and case.asked.method == "DELETE"
    return is_message and "admin" not in case.verbs


def _code(body: bytes) -> str:
    _, _, rest = body.partition(b'"code": "')
    return rest.partition(b'"')[0].decode() if rest else ""


def chosen() -> list[Case]:
    """The cases that are asked: all, or a draw with every operation and expectation in it."""
    # What ends a session for ever is asked of sessions that are its own.
    found = list(cases())
    if ALL:
        return found
    draw = random.Random(6)
    kinds: dict[tuple[int, str], list[Case]] = {}
    for case in found:
        kinds.setdefault((OPERATIONS.index(case.asked), case.expected), []).append(case)
    each = SOME // len(kinds) + 1
    return [case for kind in kinds.values() for case in draw.sample(kind, min(each, len(kind)))]


def _own(case: Case, number: int) -> Case:
    """A deletion of a session is of one that nobody else asks for."""
    is_final = case.asked.method == "DELETE" and case.asked.path == ""
    if not is_final or case.expected != "allowed" or not case.pattern.endswith("*"):
        return case
    return case._replace(session=f"{case.pattern[:-1]}{number}")


@pytest.mark.failure("S5", "S7")
async def test_every_case(serve):
    """Allowed is what the grant says, in its tenant; forbidden the rest of what may be seen; and
    what may not be seen is as if it were not there."""
    counted: Counter[str] = Counter()
    async with serve(grants=Grants(SECRET, EXPECTED)) as region:
        await fill(region)
        asking = Asking(region)
        for number, case in enumerate(chosen()):
            if case.asked.method == "DELETE" and case.asked.path == "" and _is_kept(case):
                continue
            case = _own(case, number)
            status, body = await asking.ask(case.asked, case.session, signed(claims(case)))
            check(case, status, body)
            counted[case.expected] += 1
        assert len(await _left(region)) == len(TENANTS) * len(THERE)
    print(f"\n{sum(counted.values()):,} cases: {dict(counted)}")
    assert sum(counted.values()) >= 1_000 and min(counted.values()) > 100


def _is_kept(case: Case) -> bool:
    """It would end one of the sessions that the others ask for."""
    return case.expected == "allowed" and not case.pattern.endswith("*")


async def _left(region: Region) -> list[str]:
    return [
        session
        for tenant in TENANTS
        for session in THERE
        if region.node.snapshot(session_key(tenant, session))["metadata"]["whose"]
    ]


async def test_hidden_is_not_there(serve):
    """Byte by byte, but for its name, what is hidden and there answers as what is not there."""
    async with serve(grants=Grants(SECRET, EXPECTED)) as region:
        await fill(region)
        asking = Asking(region)
        grant = signed(claims(can={"other-*": list(VERBS)}))
        for asked in OPERATIONS:
            there = await asking.ask(asked, THERE[0], grant)
            nowhere = await asking.ask(asked, NOWHERE, grant)
            assert there[0] == nowhere[0] == 404
            assert there[1].replace(THERE[0].encode(), NOWHERE.encode()) == nowhere[1], asked


FAULTS: dict[str, Any] = {
    "expired": lambda: signed(claims(exp=int(time.time()) - 60)),
    "not yet": lambda: signed(claims(nbf=int(time.time()) + 300)),
    "given in the future": lambda: signed(claims(iat=int(time.time()) + 300)),
    "without an end": lambda: signed({k: v for k, v in claims().items() if k != "exp"}),
    "of nobody": lambda: signed({k: v for k, v in claims().items() if k != "sub"}),
    "for another audience": lambda: signed(claims(aud="somebody")),
    "for no audience": lambda: signed({k: v for k, v in claims().items() if k != "aud"}),
    "of another issuer": lambda: signed(claims(iss="https://evil.example")),
    "of no issuer": lambda: signed({k: v for k, v in claims().items() if k != "iss"}),
    "by another secret": lambda: signed(claims(), b"x" * 32),
    "by an unknown key": lambda: signed(claims(), kid="other"),
    "of a tenant that is none": lambda: signed(claims(tenant="a:b")),
    "of a tenant in capitals": lambda: signed(claims(tenant="Acme")),
    "with an unknown verb": lambda: signed(claims(can={"*": ["read", "fly"]})),
    "with a star in the middle": lambda: signed(claims(can={"a*b": ["read"]})),
    "across tenants": lambda: signed(claims(can={"umbrella:*": ["read"]})),
    "with names that are none": lambda: signed(claims(**{"as": ["a b"]})),
    "with a list for can": lambda: signed(claims(can=["*"])),
    "unsigned": lambda: jwt.encode(claims(), None, algorithm="none"),
    "cut": lambda: signed(claims())[:-3],
    "revoked": lambda: signed(claims(jti="stolen")),
    "of a revoked subject": lambda: signed(claims(sub="mallory")),
}


@pytest.mark.failure("S1", "S4")
async def test_every_fault(serve):
    """Whatever is wrong with a grant, every operation answers 401 and shows nothing."""
    counted = 0
    async with serve(grants=Grants(SECRET, EXPECTED)) as region:
        await fill(region)
        good = [("authorization", f"Bearer {signed(claims())}")]
        for what in ({"grant": "stolen"}, {"subject": "mallory"}):
            reply = await region.json("POST", "/v1/revocations", what, good)
            assert reply.status == 201, reply
        asking = Asking(region)
        for name, make in FAULTS.items():
            grant = make()
            for asked in OPERATIONS:
                status, body = await asking.ask(asked, THERE[0], grant)
                assert status == 401 and _code(body) == "unauthorized", (name, asked, body)
                assert b"nobody" not in body
                counted += 1
    assert counted == len(FAULTS) * len(OPERATIONS) > 600


async def test_frames(serve):
    """Over a socket each frame needs what its request needs, in any session that it names."""
    assert {do for do, _, _ in FRAMES} == FRAME_VERBS.keys() - {"work", "rest", "renew"}
    counted = 0
    async with serve(grants=Grants(SECRET, EXPECTED)) as region:
        await fill(region)
        for verbs in sets_of_verbs():
            if not verbs:
                continue
            can = {"chat-*": list(verbs), "own": ["read"]}
            header = {"authorization": f"Bearer {signed(claims(can=can))}"}
            socket = await plug(region, "own", additional_headers=header)
            for do, fields, verb in FRAMES:
                for session, pattern in ((f"chat-{do}", "chat-*"), (THERE[1], "chat-*")):
                    answer = await socket.do(do, session=session, **fields)
                    code = (answer["body"] or {}).get("code")
                    if not matches(pattern, session):
                        assert (answer["status"], code) == (404, "not_found"), (do, answer)
                    elif verb not in verbs:
                        assert (answer["status"], code) == (403, "forbidden"), (do, verbs, answer)
                    else:
                        assert code != "forbidden", (do, verbs, answer)
                    counted += 1
            await socket.connection.close()
    assert counted > 400


async def test_the_model_has_every_operation(serve):
    """Nothing that the API describes is missing in the model."""
    async with serve() as region:
        document = (await region.json("GET", "/openapi.json")).json
    named = {"messages": "m", "presence": "member", "runs": "r", "documents": "d"}
    modelled = set()
    for asked in OPERATIONS:
        parts = asked.path.partition("?")[0].split("/")
        if len(parts) > 2:
            parts[2] = f"{{{named[parts[1]]}}}"
        modelled.add((asked.method.lower(), "/v1/sessions/{s}" + "/".join(parts)))
    described = {
        operation
        for operation, _ in operations(document)
        if operation[1].startswith("/v1/sessions/{s}")
    }
    assert described == modelled
    assert {op for op in OF_GRANTS if op[1].startswith("/v1/sessions")} < described
