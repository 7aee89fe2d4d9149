"""Where nobody says what a producer is called, it has a name that the grant allows."""

import jwt
import pytest
from perdure.api.grants import read_claims

from perdure_client.own_names import claims_of, new_producer

SECRET = "s" * 32
TIME = 4_000_000_000


@pytest.mark.parametrize(
    ("claims", "begins"),
    [
        ({"sub": "ana"}, "ana~p-"),
        ({"sub": "ana", "as": ["*"]}, "p-"),
        ({"sub": "ana", "as": ["bot", "p-*"]}, "p-"),
        ({"sub": "ana", "as": ["bot", "bot-*", "ben"]}, "bot-p-"),
        ({"sub": "ana|1", "as": ["bot", "ben"]}, "bot"),
        ({"sub": "a" * 128}, "p-"),
        ({"sub": "ana|1"}, "p-"),
        ({"sub": "ana", "as": []}, "p-"),
    ],
)
def test_a_producer_has_a_name_that_the_grant_allows(
    claims: dict[str, object], begins: str
) -> None:
    """Below one of its names, or one of them; where there is none the region says what is lacking,
    and no two are the same where that can be."""
    token = jwt.encode({**claims, "exp": TIME}, SECRET)
    names = {new_producer(f"Bearer {token}") for _ in range(3)}
    assert all(name.startswith(begins) for name in names)
    assert len(names) == (1 if begins == "bot" else 3)
    authority = read_claims({**claims, "exp": TIME}, token, None)
    if begins != "p-" or claims.get("as"):
        for name in names:
            authority.check_name(name, "producer")


@pytest.mark.parametrize("text", ["", "x", "Bearer a.W10.c", "Bearer a.e30.c", "Bearer a.\xff.c"])
def test_a_grant_that_cannot_be_read_names_nobody(text: str) -> None:
    """That is for the regions to refuse."""
    assert claims_of(text) == {}
    assert new_producer(text).startswith("p-")
    assert new_producer(None).startswith("p-")
