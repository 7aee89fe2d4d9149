"""Yjs updates from outside: what is done with one, and what must come of it."""

from random import Random
from typing import Any

from perdure.replication.lib0 import YjsError
from perdure.replication.yjs_outline import Holds, Outline
from perdure.replication.yjs_parser import Update, missing, parse_update, parse_vector
from pycrdt import Array, Doc, Map, Text, XmlFragment

from tests.fuzz.corpus import corpus, history
from tests.fuzz.mutations import Inputs
from tests.fuzz.taking import Broken, Target

# pycrdt says so of XML that lies in an Array or a Map; it is no fault of the update.
NO_PYTHON = "has no Python equivalent"
# How often a document is made anew from its snapshot, which costs more than all the rest.
RETELL_EVERY = 4


def base(seed: int) -> bytes:
    """The document with content, as an update."""
    docs, _ = history(Random(seed), 40)
    for doc in docs[1:]:
        docs[0].apply_update(doc.get_update(docs[0].get_state()))
    return docs[0].get_update()


def campaign_inputs(seed: int) -> Inputs:
    """The inputs of the campaign with this seed."""
    return Inputs(seed, corpus(seed), Living(base(seed)).outline.state)


class Living:
    """A document, and its outline."""

    def __init__(self, content: bytes | None = None) -> None:
        self.doc: Doc[Any] = Doc(client_id=1)
        self.outline = Outline()
        self.takes = -1
        if content is not None:
            self.take(content, parse_update(content))

    def take(self, data: bytes, update: Update) -> None:
        """Apply what fits, or ``YjsError``; ``Broken`` when pycrdt sees it otherwise."""
        fitting = self.outline.fit(update)
        if needs := missing(update, self.outline.state):
            raise Broken(f"fits, and yet {needs} are missing")
        self.doc.apply_update(data)
        self.outline.add(fitting)
        self.takes += 1
        if parse_vector(self.doc.get_state()) != self.outline.state:
            raise Broken(f"the state is {self.doc.get_state().hex()}, not {self.outline.state}")

    def read(self) -> None:
        """Everything that anybody may ask of it, by the outline's advice."""
        for name, holds in self.outline.roots.items():
            text = self.doc.get(name, type=Text)
            str(text)
            text.diff()
            if not holds & Holds.TEXT:
                array = self.doc.get(name, type=Array)
                str(array)
                _python(array)
            map_ = self.doc.get(name, type=Map)
            str(map_)
            _python(map_)
            str(self.doc.get(name, type=XmlFragment))

    def retell(self) -> "Living":
        """The same document from its own snapshot, which must pass like everybody's update."""
        other = Living(self.doc.get_update())
        for one, two in ((self, other), (other, self)):
            rest = one.doc.get_update(two.doc.get_state())
            if parse_update(rest).blocks:
                raise Broken(f"a snapshot leaves out {rest.hex()}")
        return other


def _python(shared: Array[Any] | Map[Any]) -> None:
    try:
        shared.to_py()
    except ValueError as error:
        if NO_PYTHON not in str(error):
            raise


class YjsTarget(Target):
    """Each input into the parser, and what is accepted into two documents: an empty one, and one
    with content that lives for a chunk."""

    def __init__(self, seed: int) -> None:
        self._content = base(seed)
        self.inputs = campaign_inputs(seed)
        self._full = Living(self._content)

    def begin(self) -> None:
        """The document with content, as it was."""
        self._full = Living(self._content)

    def put(self, data: bytes) -> str:
        """``taken`` when either document took it."""
        try:
            update = parse_update(data)
        except YjsError as error:
            return f"parser: {error.code}"
        fits = [self._into(Living(), data, update), self._into(self._full, data, update)]
        told = sorted({code for code in fits if code != "taken"})
        return "taken" if "taken" in fits else f"outline: {told[0]}"

    @staticmethod
    def _into(living: Living, data: bytes, update: Update) -> str:
        try:
            living.take(data, update)
        except YjsError as error:
            return error.code
        living.read()
        if living.takes % RETELL_EVERY == 0:
            living.retell().read()
        return "taken"
