"""What the records and images on a disk say of messages that are said to be gone."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from perdure.replication.records import Record
from perdure.replication.subjects import Erasure, Subject

_NAMES_ONLY = ("delete", "discard", "erased")


def told_of(body: bytes) -> Iterator[Subject]:
    """The messages and documents that a body says something of."""
    yield from _told_of(json.loads(body))


def _told_of(fields: list[Any]) -> Iterator[Subject]:
    kind, session, *rest = fields
    if kind == "absorb":
        for operation in rest[0]:
            yield from _told_of(operation)
    elif kind == "document":
        yield Subject(session, None, rest[0])
    elif kind not in _NAMES_ONLY:
        yield Subject(session, rest[0] if isinstance(rest[0], str) else None)


def in_records(
    records: Iterable[Record], known: Mapping[Subject, Erasure]
) -> Iterator[tuple[Record, Subject]]:
    """Records that say something of what is said to be gone."""
    done = {subject for subject, erasure in known.items() if erasure.is_done}
    if done:
        for record in records:
            for subject in told_of(record.body):
                if subject in done or Subject(subject.session) in done:
                    yield record, subject


def in_images(images: Mapping[str, Any], known: Mapping[Subject, Erasure]) -> Iterator[Subject]:
    """Messages that have a body though they are said to be gone."""
    for (session, message, _), erasure in known.items():
        archive, _ = images.get(session, (None, None))
        bodies = {} if archive is None else archive.bodies
        if erasure.is_done and message is not None and bodies.get(message):
            yield Subject(session, message)
