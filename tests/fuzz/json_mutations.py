"""JSON that is nearly what is expected: a value of it is another, is missing, or there twice."""

import json
from random import Random
from typing import Any

# Unquoted texts stand as they are: what Python's json would take and others would not.
RAW = ("NaN", "-Infinity", "1e999", "-0", "1.0", "9" * 5_000, '"\\ud800"', "[" * 2_000)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 255, 2**31, 2**53 + 1, 2**64, 2**70, -(2**64), 0.5),
    *("", "a", "é", "\0", "../..", "x" * 200, "0" * 16, "eu/0000000000000001", "true"),
    # Ranges that name much in few bytes.
    *([[2, 16_000]], [2, 2**20], [[0, [[2, 2**40]]]], [1, [[3, 20_000]]]),
    *([], {}, [[]], [None], [0, 0, 0], {"a": []}, {"": 1}),
)
_MARK = "\x01 stands for a text that is not quoted \x01"


def spoil(random: Random, text: bytes) -> bytes:
    """The text with some values changed; it need not be JSON any more."""
    value = json.loads(text)
    raw = None
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        if random.random() < 0.05:
            raw = random.choice(RAW)
        value = _changed(random, value, _MARK if raw is not None else random.choice(VALUES))
    told = json.dumps(value, ensure_ascii=random.random() < 0.2, separators=(",", ":"))
    if raw is not None:
        told = told.replace(json.dumps(_MARK), raw)
    return told.encode("utf-8", "surrogatepass")


def _changed(random: Random, value: Any, other: Any) -> Any:
    """The same with ``other`` somewhere in it, mostly far down."""
    if not isinstance(value, list | dict) or not value or random.random() < 0.1:
        return other
    if isinstance(value, dict):
        return _changed_object(random, dict(value), other)
    found, at = list(value), random.randrange(len(value))
    way = random.randrange(12)
    if way == 0:
        del found[at]
    elif way == 1:
        found.insert(at, other)
    elif way == 2:
        found += [found[at]] * random.choice((1, 1, 40))
    else:
        found[at] = _changed(random, found[at], other)
    return found


def _changed_object(random: Random, found: dict[str, Any], other: Any) -> dict[str, Any]:
    name = random.choice(list(found))
    way = random.randrange(12)
    if way == 0:
        del found[name]
    elif way == 1:
        found[f"{name}{random.choice(('', ' ', '/', '0'))}x"] = other
    elif way == 2:
        found[random.choice(("", "\0", "é/0", "a" * 300, "NaN"))] = found.pop(name)
    else:
        found[name] = _changed(random, found[name], other)
    return found
