"""Messages as clients describe them: the fields of a draft, over HTTP and over a socket."""

from perdure.api.fields import Fields
from perdure.replication.admission import Draft
from perdure.replication.errors import Refusal

DRAFT_FIELDS = frozenset(
    (
        *("id", "role", "text", "author", "metadata"),
        *("after", "replaces", "producer", "claim_id", "header", "run"),
    )
)


def only_header(fields: Fields) -> str:
    """The header of a reopening, which stands alone; ``Refusal`` ``invalid_body``."""
    for name in sorted(DRAFT_FIELDS - {"header"}):
        if fields.has(name):
            raise Refusal("invalid_body", f"header stands alone, without {name}", field=name)
    return fields.needed("header")


def draft_of(fields: Fields, idempotency_key: str | None) -> Draft:
    """The message that is to be sent or opened; ``Refusal`` ``invalid_body``."""
    return Draft(
        role=fields.needed("role"),
        id=fields.text("id"),
        text=fields.text("text"),
        author=fields.text("author"),
        metadata=fields.object("metadata"),
        after=fields.text("after"),
        replaces=fields.text("replaces"),
        producer=fields.text("producer"),
        claim_id=fields.text("claim_id"),
        idempotency_key=idempotency_key,
        run=fields.text("run"),
    )
