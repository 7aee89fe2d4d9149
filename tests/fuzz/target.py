"""What is done with one input, and what must come of it; runs in a process that may be killed."""

import gc
import resource
import time
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any

from perdure.replication.lib0 import YjsError
from perdure.replication.yjs_outline import Holds, Outline
from perdure.replication.yjs_parser import Update, missing, parse_update, parse_vector
from pycrdt import Array, Doc, Map, Text, XmlFragment

from tests.fuzz.corpus import corpus, history
from tests.fuzz.mutations import Inputs

INPUT_CPU_MS_MAX = 50
# pycrdt says so of XML that lies in an Array or a Map; it is no fault of the update.
NO_PYTHON = "has no Python equivalent"
# A document that grows by what is accepted begins anew after so many inputs.
CHUNK_INPUTS = 100
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


class Broken(Exception):
    """Something did not come as it must."""


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


@dataclass
class Figures:
    """What came of some inputs."""

    inputs: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    worst_ms: float = 0.0
    worst_input: int = -1
    failures: list[tuple[int, str]] = field(default_factory=list)
    rss_kib: int = 0

    def add(self, other: "Figures") -> None:
        """Put the figures of later inputs to these."""
        self.inputs += other.inputs
        self.codes += other.codes
        self.failures += other.failures
        self.rss_kib = other.rss_kib
        if other.worst_ms > self.worst_ms:
            self.worst_ms, self.worst_input = other.worst_ms, other.worst_input


class Target:
    """Takes inputs in chunks, each chunk into documents of its own."""

    def __init__(self, seed: int) -> None:
        self._content = base(seed)
        self._inputs = campaign_inputs(seed)

    def run(self, numbers: range, begin: Any) -> Figures:
        """Put in a chunk; ``begin.value`` says meanwhile which input is being put in."""
        figures = Figures()
        full = Living(self._content)
        gc.disable()
        for number in numbers:
            begin.value = number
            data = self._inputs[number]
            before = time.process_time()
            try:
                code = self._put(data, full)
            except BaseException as error:  # pycrdt's panics are no Exceptions
                if isinstance(error, KeyboardInterrupt | SystemExit):
                    raise
                code = "failed"
                figures.failures.append((number, f"{type(error).__name__}: {error}"[:500]))
                full = Living(self._content)
            spent_ms = (time.process_time() - before) * 1_000
            figures.inputs += 1
            figures.codes[code] += 1
            if spent_ms > figures.worst_ms:
                figures.worst_ms, figures.worst_input = spent_ms, number
            if spent_ms > INPUT_CPU_MS_MAX:
                figures.failures.append((number, f"{spent_ms:.0f} ms of CPU"))
        begin.value = -1
        gc.enable()
        gc.collect(1)
        figures.rss_kib = _rss_kib()
        return figures

    def _put(self, data: bytes, full: Living) -> str:
        try:
            update = parse_update(data)
        except YjsError as error:
            return f"parser: {error.code}"
        fits = [self._into(Living(), data, update), self._into(full, data, update)]
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


def _rss_kib() -> int:
    with open("/proc/self/statm") as lines:
        return int(lines.read().split()[1]) * resource.getpagesize() // 1_024
