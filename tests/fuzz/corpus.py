"""Real updates to begin with: random edits by pycrdt on every kind of type, and what Yjs wrote."""

from random import Random
from typing import Any

from pycrdt import Array, Doc, Map, Text, XmlElement, XmlFragment, XmlText

WORDS = ("hello", "é", "日本", "a😀", "\n", "x" * 30)
VALUES: tuple[Any, ...] = (1, 2.5, "x😀", None, True, [1, {"a": 2}], b"abc", {"k": [1]})
CLIENTS = (10, 11, 12)


def edges(text: Text) -> list[int]:
    """The places of a text, in the bytes that pycrdt counts."""
    at = [0]
    for piece, _ in text.diff():
        for part in piece if isinstance(piece, str) else [""]:
            at.append(at[-1] + (len(part.encode()) or 1))
    return at


def edit_text(doc: Doc[Any], random: Random) -> None:
    text = doc.get("t", type=Text)
    places = edges(text)
    start, stop = sorted((random.choice(places), random.choice(places)))
    choice = random.randrange(6)
    if choice <= 1:
        text.insert(start, random.choice(WORDS))
    elif choice == 2:
        text.insert(start, "b", {"bold": True})
    elif choice == 3 and start < stop:
        text.format(start, stop, {"i": random.choice((True, None, {"a": 1}))})
    elif choice == 4:
        text.insert_embed(start, random.choice(({"image": "u"}, "s", 3, None)))
    elif start < stop:
        del text[start:stop]


def edit_array(doc: Doc[Any], random: Random) -> None:
    array = doc.get("a", type=Array)
    choice = random.randrange(5)
    if choice <= 1:
        array.insert(random.randint(0, len(array)), random.choice(VALUES))
    elif choice == 2:
        array.append(random.choice((Array([1, Text("q")]), Map({"a": Array([2])}), Text("n😀"))))
    elif choice == 3:
        array.extend(random.sample(VALUES, 3))
    elif len(array) > 1:
        start, stop = sorted(random.sample(range(len(array)), 2))
        del array[start:stop]


def edit_map(doc: Doc[Any], random: Random) -> None:
    map_ = doc.get("m", type=Map)
    key = random.choice("abc")
    choice = random.randrange(4)
    if choice <= 1:
        map_[key] = random.choice(VALUES)
    elif choice == 2:
        map_[key] = random.choice((Text("z"), Array([1]), Map({"a": 1, "t": Text("u")})))
    elif key in map_:
        del map_[key]


def edit_xml(doc: Doc[Any], random: Random) -> None:
    children = doc.get("x", type=XmlFragment).children
    choice = random.randrange(3)
    if choice == 0 and len(children):
        del children[random.randrange(len(children))]
    else:
        element = children.append(XmlElement("p", {"c": "d😀"}))
        inner = element.children.append(XmlText("hey"))
        inner.format(0, 2, {"b": "1"})
        inner.attributes["k"] = "v"
        element.attributes["z"] = "1"


def edit(doc: Doc[Any], random: Random) -> None:
    """One random edit, in one transaction or in several."""
    some = random.choices((edit_text, edit_array, edit_map, edit_xml), k=random.choice((1, 1, 2)))
    if random.random() < 0.5:
        with doc.transaction():
            for one in some:
                one(doc, random)
    else:
        for one in some:
            one(doc, random)


def history(random: Random, steps: int) -> tuple[list[Doc[Any]], list[list[bytes]]]:
    """Three documents that were edited and sometimes merged, and every update each of them saw."""
    docs: list[Doc[Any]] = [Doc(client_id=client) for client in CLIENTS]
    logs: list[list[bytes]] = [[] for _ in docs]
    for doc, log in zip(docs, logs, strict=True):
        doc.observe(lambda event, log=log: log.append(event.update))
    for _ in range(steps):
        one, other = random.choice(docs), random.choice(docs)
        if random.random() < 0.3 and one is not other:
            one.apply_update(other.get_update(one.get_state()))
        edit(one, random)
    return docs, logs


def corpus(seed: int, documents: int = 12) -> list[bytes]:
    """Updates of all sizes up to some kilobytes."""
    found: list[bytes] = []
    for number in range(documents):
        docs, logs = history(Random(seed * 1_000 + number), 6 + 3 * number)
        found += [update for log in logs for update in log]
        found += [doc.get_update() for doc in docs]
    return list(dict.fromkeys(update for update in found if len(update) > 2))
