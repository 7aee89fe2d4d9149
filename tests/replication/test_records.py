"""Records and their origins: one text for one origin, and a checksum that every change breaks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from perdure.replication.errors import Malformed
from perdure.replication.limits import ID_CHARS_MAX
from perdure.replication.records import (
    INCARNATION_MAX,
    LSN_MAX,
    Origin,
    Record,
    bytes_of,
    intact,
    parse_origin,
    seal,
)

regions = st.from_regex(r"[A-Za-z0-9_~-]{1,12}", fullmatch=True)
origins = st.builds(Origin, regions, st.integers(0, INCARNATION_MAX))
lsns = st.integers(1, LSN_MAX)


@given(origins)
def test_an_origin_is_its_text(origin: Origin) -> None:
    """There and back; the incarnation has 16 digits also where it is small."""
    assert parse_origin(str(origin)) == origin
    assert len(str(origin)) == len(origin.region) + 17


@given(st.text(max_size=40) | st.from_regex(r"[a-z./]{0,3}/[0-9a-fA-Fx_ +-]{14,18}"))
def test_an_origin_has_one_text_only(text: str) -> None:
    """What is taken is what would be written: else one origin would have two vector entries."""
    try:
        origin = parse_origin(text)
    except Malformed:
        return
    assert str(origin) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "eu",
        "eu/",
        "eu/1",
        "/0000000000000001",
        "eu/000000000000000A",
        "eu/0x00000000000001",
        "eu/+000000000000001",
        "eu/0000_00000000001",
        "eu/ 000000000000001",
        "eu/0000000000000001\n",
        "eu/00000000000000001",
        "eu/\u0661000000000000000",
        "e u/0000000000000001",
        "eu\n/0000000000000001",
        "./0000000000000001",
        "../0000000000000001",
        "eu/us/0000000000000001",
        "é/0000000000000001",
        "e" * (ID_CHARS_MAX + 1) + "/0000000000000001",
    ],
)
def test_what_is_no_origin_is_refused(text: str) -> None:
    """Nearly right is wrong."""
    with pytest.raises(Malformed):
        parse_origin(text)


def test_the_bounds_of_an_origin_are_taken() -> None:
    """The longest name, the least and the greatest incarnation."""
    for incarnation in (0, INCARNATION_MAX):
        origin = Origin("e" * ID_CHARS_MAX, incarnation)
        assert parse_origin(str(origin)) == origin


@given(origins, lsns, st.binary(max_size=60))
def test_a_sealed_record_is_intact(origin: Origin, lsn: int, body: bytes) -> None:
    """It is what was sealed, and it says so."""
    record = seal(origin, lsn, body)
    assert intact(record)
    assert record[:3] == (origin, lsn, body)


@given(origins, lsns, st.binary(min_size=1, max_size=60), st.data())
def test_no_change_of_a_record_is_missed(
    origin: Origin, lsn: int, body: bytes, data: st.DataObject
) -> None:
    """Of its body by a byte, of its lsn, of its origin, of its checksum: a record that moved to
    another place of a log is damaged as well."""
    record = seal(origin, lsn, body)
    at = data.draw(st.integers(0, len(body) - 1))
    changed = bytes([body[at] ^ data.draw(st.integers(1, 255))])
    other = data.draw(lsns.filter(lambda number: number != lsn))
    stranger = Origin(origin.region, origin.incarnation ^ 1)
    for wrong in (
        record._replace(body=body[:at] + changed + body[at + 1 :]),
        record._replace(lsn=other),
        record._replace(origin=stranger),
        record._replace(crc=record.crc ^ 1),
    ):
        assert not intact(wrong)


def test_the_place_and_the_body_cannot_flow_into_each_other() -> None:
    """The end of the lsn is marked: lsn 1 with "1x" is not lsn 11 with "x"."""
    origin = Origin("eu", 1)
    assert seal(origin, 1, b"1x").crc != seal(origin, 11, b"x").crc


def test_sizes_are_those_of_the_bodies() -> None:
    """In bytes; of nothing, nothing."""
    origin = Origin("eu", 1)
    assert bytes_of([]) == 0
    assert bytes_of([seal(origin, 1, b"abc"), Record(origin, 2, "é".encode(), 0)]) == 5
