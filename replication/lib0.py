"""The encoding of Yjs's bytes (lib0): numbers, strings, byte strings and ``any`` values, both ways.

Rule of this file: what is read was there. Nothing is reserved for a length that was only declared,
nothing recurses without a limit, and every byte sequence either is what it should be or raises
:class:`YjsError`; nothing else is ever raised.
"""

import json
from collections.abc import Iterable
from typing import Any

from perdure.replication.limits import JSON_DEPTH_MAX

UINT_MAX = 2**53 - 1
# A number of 53 bits takes eight bytes.
_UINT_BYTES_MAX = 8
# Read or converted, a value costs up to some microseconds, however few bytes it takes.
YJS_VALUES_MAX = 65_536

# What leads an ``any`` value, and how long what follows is, where that is fixed.
_FIXED = {127: 0, 126: 0, 124: 4, 123: 8, 122: 8, 121: 0, 120: 0}
_INTEGER, _STRING, _OBJECT, _ARRAY, _BYTES = 125, 119, 118, 117, 116


class YjsError(Exception):
    """Bytes from outside that we do not take; ``code`` is stable and fit for a counter's label."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code


class Reader:
    """Reads from the front; ``values`` counts the ``any`` and JSON values met so far."""

    __slots__ = ("_data", "at", "end", "values")
    values_max = YJS_VALUES_MAX

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0
        self.end = len(data)
        self.values = 0

    @property
    def left(self) -> int:
        """How many bytes are still to be read."""
        return self.end - self.at

    def finish(self) -> None:
        """Everything has been read, or ``YjsError``."""
        if self.at != self.end:
            raise YjsError("trailing", f"{self.left} bytes")

    def byte(self) -> int:
        """The next byte."""
        at = self.at
        if at >= self.end:
            raise YjsError("truncated")
        self.at = at + 1
        return self._data[at]

    def uint(self, most: int = UINT_MAX) -> int:
        """A varuint of at most ``most``, in as few bytes as it takes: everybody writes it so, and
        pycrdt reads some of them as one byte."""
        number = self.byte()
        if number > 0x7F:
            number &= 0x7F
            for shift in range(7, 7 * _UINT_BYTES_MAX, 7):
                byte = self.byte()
                number |= (byte & 0x7F) << shift
                if byte <= 0x7F:
                    break
            if byte == 0 or byte > 0x7F:
                raise YjsError("number", "too many bytes")
        if number > most:
            raise YjsError("number", "too large")
        return number

    def count(self, bytes_each: int, most: int) -> int:
        """How many things follow, of at least ``bytes_each``: no more than there is room for."""
        number = self.uint()
        if number > most:
            raise YjsError("too_many", f"{number}, at most {most}")
        if number * bytes_each > self.left:
            raise YjsError("truncated", f"{number} are declared")
        return number

    def integer(self) -> int:
        """A varint: six bits and a sign in the first byte, seven bits in each further one."""
        byte = self.byte()
        negative, number, shift = byte & 0x40, byte & 0x3F, 6
        while byte > 0x7F:
            if shift > 6 + 7 * (_UINT_BYTES_MAX - 1):
                raise YjsError("number", "too many bytes")
            byte = self.byte()
            number |= (byte & 0x7F) << shift
            shift += 7
        if number > UINT_MAX or (byte == 0 and shift > 6):
            raise YjsError("number", "too large, or in too many bytes")
        return -number if negative else number

    def take(self, length: int) -> bytes:
        """The next ``length`` bytes."""
        at, stop = self.at, self.at + length
        if stop > self.end:
            raise YjsError("truncated", f"{length} bytes are declared")
        self.at = stop
        return self._data[at:stop]

    def octets(self) -> bytes:
        """A byte string with its length in front."""
        return self.take(self.uint())

    def text(self, bytes_max: int = UINT_MAX) -> str:
        """A string: UTF-8 as it should be, without lone surrogates."""
        raw = self.octets()
        if len(raw) > bytes_max:
            raise YjsError("too_long", f"a string of {len(raw)} bytes, at most {bytes_max}")
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise YjsError("utf8") from error

    def pass_any(self, depth: int = 1) -> None:
        """One ``any`` value, looked at whole and not kept."""
        self.count_value(depth)
        tag = self.byte()
        if tag in _FIXED:
            self.take(_FIXED[tag])
        elif tag == _STRING:
            self.text()
        elif tag == _INTEGER:
            self.integer()
        elif tag == _BYTES:
            self.octets()
        elif tag == _ARRAY:
            for _ in range(self.count(1, YJS_VALUES_MAX)):
                self.pass_any(depth + 1)
        elif tag == _OBJECT:
            keys = set()
            for _ in range(self.count(2, YJS_VALUES_MAX)):
                key = self.text()
                if key in keys:
                    raise YjsError("any", "a key twice")
                keys.add(key)
                self.pass_any(depth + 1)
        else:
            raise YjsError("any", f"type {tag}")

    def json_of(self, text: str) -> Any:
        """The value of a string that has been read and holds JSON."""
        value = parse_json(text)
        level = [value]
        depth = 0
        while level:
            depth += 1
            below: list[Any] = []
            for one in level:
                self.count_value(depth)
                if isinstance(one, dict):
                    below += one.values()
                elif isinstance(one, list):
                    below += one
            level = below
        return value

    def count_value(self, depth: int = 1) -> None:
        """One more value has been met, at this depth."""
        self.values += 1
        if self.values > self.values_max:
            raise YjsError("too_many", f"more than {self.values_max} values")
        if depth > JSON_DEPTH_MAX:
            raise YjsError("too_deep", f"values deeper than {JSON_DEPTH_MAX}")


def parse_json(text: str) -> Any:
    """The value of JSON as browsers write it: no NaN, no infinity, no lone surrogate."""
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise YjsError("json") from error
    return value


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if number - number != 0:
        raise ValueError("a number without end")
    return number


def encode_uint(number: int) -> bytes:
    """A varuint."""
    out = bytearray()
    while number > 0x7F:
        out.append(0x80 | (number & 0x7F))
        number >>= 7
    out.append(number)
    return bytes(out)


def encode_octets(raw: bytes) -> bytes:
    """A byte string with its length in front."""
    return encode_uint(len(raw)) + raw


def encode_text(text: str) -> bytes:
    """A string with its length in bytes in front."""
    return encode_octets(text.encode())


def encode_uints(numbers: Iterable[int]) -> bytes:
    """Varuints, one after the other."""
    return b"".join(map(encode_uint, numbers))
