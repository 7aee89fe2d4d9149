"""A disk whose power is cut: what was not synced is lost, or a part of it, and the last is torn.

The files are real, and hold what the running program sees. Beside them this keeps, for each file,
what it held at its last sync and what has been done to it since, and for each folder the names that
were there at its last sync. A cut freezes that; :meth:`PowerDisk.after_cut` draws one of the disks
that a machine might find when it starts again, and makes it anew elsewhere.

It is harsher than the usual file systems: a new name needs a sync of its folder, a file's own sync
does not bring it along; what was not synced may arrive in any order, sector by sector.
"""

import os
import shutil
import threading
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TypeVar

T = TypeVar("T")

# Where a write may be torn: the sectors of old disks and of new ones, or anywhere.
TEARS = (512, 4_096, 1)
FATES = ("none", "all", "prefix", "subset", "sectors")
_SHM_BYTES = 32_768


class PowerLost(Exception):
    """Nothing reaches this disk any more."""


@dataclass(frozen=True)
class Write:
    """Bytes that a file was given since its last sync."""

    offset: int
    data: bytes

    def put(self, content: bytearray) -> None:
        """Do it to the content of a file; a hole reads as zeroes."""
        content.extend(bytes(max(0, self.offset - len(content))))
        content[self.offset : self.offset + len(self.data)] = self.data


@dataclass(frozen=True)
class Truncation:
    """A new length that a file was given since its last sync."""

    size: int

    def put(self, content: bytearray) -> None:
        """Do it to the content of a file."""
        content.extend(bytes(max(0, self.size - len(content))))
        del content[self.size :]


@dataclass(eq=False)
class File:
    """What of a file survives for certain, and what may."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[Write | Truncation] = field(default_factory=list)

    def live(self) -> bytes:
        """What the program sees."""
        content = bytearray(self.durable)
        for change in self.pending:
            change.put(content)
        return bytes(content)

    def sync(self) -> None:
        """All of it survives from now on."""
        for change in self.pending:
            change.put(self.durable)
        self.pending.clear()


@dataclass(eq=False)
class Folder:
    """The names in a folder: those that survive for certain, all of them, and the changes between
    the two, in their order."""

    durable: "dict[str, File | Folder]" = field(default_factory=dict)
    live: "dict[str, File | Folder]" = field(default_factory=dict)
    pending: "list[tuple[str, File | Folder | None]]" = field(default_factory=list)

    def name(self, name: str, what: "File | Folder | None") -> None:
        """Give a name to something, or take it away."""
        self.pending.append((name, what))
        _rename(self.live, name, what)

    def sync(self) -> None:
        """The names survive from now on."""
        self.durable = dict(self.live)
        self.pending.clear()


def _rename(names: "dict[str, File | Folder]", name: str, what: "File | Folder | None") -> None:
    if what is None:
        names.pop(name, None)
    else:
        names[name] = what


class PowerDisk:
    """Everything below ``root``, until the power goes; see :meth:`arm`."""

    def __init__(self, root: Path, random: Random) -> None:
        root.mkdir(parents=True)
        self.root = root.resolve()
        self.top = Folder()
        self.calls = 0
        self.dead = False
        self.kills = False
        self._cut_at: int | None = None
        self._cut_on = ""
        self._met = 0
        # How often each was begun.
        self.kinds: Counter[str] = Counter()
        # What was the last to be begun; and how a disk looked that was drawn.
        self.last = ""
        self.fate = ""
        # Of the names of all calls, in their order.
        self.trace = 0
        # Held while the disk and the files are made to agree.
        self.lock = threading.RLock()
        # Called in the moment of the cut.
        self.on_cut = lambda: None
        self._random = random
        self._left: Path | None = None

    def arm(self, cut_at: int | None, cut_on: str = "", *, kills: bool = False) -> None:
        """Begin to count: of the changes and syncs that are called ``cut_on`` (``write``, ``sync
        perdure.sqlite``; all for an empty text), the ``cut_at``-th is the last that is begun; None
        for never. ``kills``: it is the process that dies there, and the machine goes on."""
        self._cut_at, self._cut_on, self.kills = cut_at, cut_on, kills
        self.calls = self._met = 0

    # What the layer above tells

    def inside(self, path: Path) -> bool:
        """Whether the path is on this disk, below its root."""
        return self.root in path.parents

    def find(self, path: Path) -> File | Folder | None:
        """What has this name now."""
        found: File | Folder | None = self.top
        for part in path.relative_to(self.root).parts:
            found = found.live.get(part) if isinstance(found, Folder) else None
        return found

    def create(self, path: Path, what: File | Folder) -> None:
        """Something new gets a name. Raises ``PowerLost`` as the others do: then the caller must
        not do it either."""
        cut = self._begin(f"create {path.name}")
        if not cut or self._perhaps():
            self._folder(path.parent).name(path.name, what)
            if cut:
                self._touch(path, what)
        self._end(cut)

    def unlink(self, path: Path) -> None:
        """A name goes."""
        cut = self._begin(f"unlink {path.name}")
        if not cut or self._perhaps():
            self._folder(path.parent).name(path.name, None)
            if cut and self.kills:
                path.unlink(missing_ok=True)
        self._end(cut)

    def change(self, path: Path, file: File, change: Write | Truncation) -> None:
        """A file is written to, or gets another length."""
        cut = self._begin(f"{type(change).__name__.lower()} {path.name}")
        if not cut or self._perhaps():
            file.pending.append(change)
            if cut and self.kills:
                _change_file(path, change)
        self._end(cut)

    def sync(self, name: str, what: File | Folder) -> None:
        """A file or a folder is synced."""
        cut = self._begin(f"sync {name}")
        if not cut:
            what.sync()
        self._end(cut)

    def _folder(self, path: Path) -> Folder:
        found = self.find(path)
        assert isinstance(found, Folder), path
        return found

    def _begin(self, what: str) -> bool:
        """Whether the power goes in this call."""
        if self.dead:
            raise PowerLost(what)
        self.calls += 1
        self.last = what
        self.kinds[what] += 1
        self.trace = zlib.crc32(what.encode(), self.trace)
        if self._cut_on not in (what, what.partition(" ")[0], ""):
            return False
        self._met += 1
        return self._met == self._cut_at

    def _end(self, cut: bool) -> None:
        if cut:
            self.cut()
            raise PowerLost(self.last)

    def _perhaps(self) -> bool:
        """Whether what was begun when the power went had any effect."""
        return self._random.random() < 0.7

    def _touch(self, path: Path, what: File | Folder) -> None:
        if self.kills:
            path.mkdir() if isinstance(what, Folder) else path.touch()

    def cut(self) -> None:
        """The power goes, or the process, between two calls."""
        with self.lock:
            if self.dead:
                return
            self.dead = True
            if self.kills:
                self._left = self.root.with_name(self.root.name + "-left")
                shutil.copytree(self.root, self._left)
        self.on_cut()

    def unseen(self) -> list[str]:
        """Files whose content is not what this disk was told: then something has passed it by."""
        return [str(path) for path in self._unseen(self.top, self.root)]

    def _unseen(self, folder: Folder, path: Path) -> Iterator[Path]:
        names = {entry.name for entry in path.iterdir() if not entry.name.endswith("-shm")}
        yield from (path / name for name in names ^ folder.live.keys())
        for name in names & folder.live.keys():
            what = folder.live[name]
            if isinstance(what, Folder):
                yield from self._unseen(what, path / name)
            elif what.live() != (path / name).read_bytes():
                yield path / name

    # What is found afterwards

    def after_kill(self, root: Path) -> "PowerDisk":
        """The disk as the next process finds it: all that was done is there, and what was not
        synced is still not."""
        assert self.dead and self.kills and self._left is not None
        disk = PowerDisk(root, self._random)
        disk.top, disk.fate = self.top, "the process was killed"
        shutil.copytree(self._left, disk.root, dirs_exist_ok=True)
        shutil.rmtree(self._left)
        return disk

    def after_cut(self, root: Path) -> "PowerDisk":
        """A disk that may be found when the power is back."""
        assert self.dead
        draw = Fate(self._random)
        disk = PowerDisk(root, self._random)
        disk.fate = draw.name
        disk.top = self._found(self.top, disk.root, draw)
        return disk

    def _found(self, folder: Folder, path: Path, draw: "Fate") -> Folder:
        names = dict(folder.durable)
        for name, what in draw.names(folder.pending):
            _rename(names, name, what)
        found = Folder()
        for name, what in names.items():
            if isinstance(what, Folder):
                (path / name).mkdir()
                found.live[name] = self._found(what, path / name, draw)
            else:
                content = draw.content(what)
                (path / name).write_bytes(content)
                found.live[name] = File(content)
                if name.endswith(".sqlite"):
                    self._leave_shm(path / f"{name}-shm")
        found.durable = dict(found.live)
        return found

    def _leave_shm(self, path: Path) -> None:
        """Nobody ever syncs the index of a WAL: it is not there, or holds anything."""
        if self._random.random() < 0.5:
            path.write_bytes(self._random.randbytes(_SHM_BYTES))


def _change_file(path: Path, change: Write | Truncation) -> None:
    if isinstance(change, Truncation):
        os.truncate(path, change.size)
        return
    with path.open("r+b") as file:
        file.seek(change.offset)
        file.write(change.data)


class Fate:
    """What becomes of that which was not synced: one way for a whole cut, or one for each file and
    for the names (``mixed``).

    ``none`` of it is there, or ``all``, or what came first (``prefix``), or some changes
    (``subset``), or some sectors (``sectors``). The last that is there may be torn; what is missing
    of it is as it was, zeroes, or garbage.
    """

    def __init__(self, random: Random, name: str | None = None) -> None:
        self.name = name or random.choice((*FATES, "mixed"))
        self._now = self.name
        self._random = random
        self._keeps = random.choice((0.1, 0.5, 0.9))
        self._tear = random.choice(TEARS)

    def names(
        self, pending: list[tuple[str, File | Folder | None]]
    ) -> list[tuple[str, File | Folder | None]]:
        """The changes of names that are there."""
        self._draw()
        return self._chosen(pending)

    def content(self, file: File) -> bytearray:
        """What a file holds."""
        self._draw()
        content = bytearray(file.durable)
        chosen = self._chosen(file.pending)
        for number, change in enumerate(chosen):
            last = number == len(chosen) - 1
            if isinstance(change, Truncation):
                change.put(content)
            elif self._now == "sectors":
                self._put_sectors(content, change)
            elif last and self._random.random() < 0.7:
                self._put_torn(content, change)
            else:
                change.put(content)
        return content

    def _draw(self) -> None:
        if self.name == "mixed":
            self._now = self._random.choice(FATES)

    def _chosen(self, pending: list[T]) -> list[T]:
        match self._now:
            case "none":
                return []
            case "prefix":
                return pending[: self._random.randint(0, len(pending))]
            case "subset":
                return [change for change in pending if self._random.random() < self._keeps]
        return list(pending)

    def _put_sectors(self, content: bytearray, write: Write) -> None:
        size = max(self._tear, 512)
        at = write.offset
        end = write.offset + len(write.data)
        while at < end:
            upto = min(end, (at // size + 1) * size)
            if self._random.random() < self._keeps:
                Write(at, write.data[at - write.offset : upto - write.offset]).put(content)
            at = upto

    def _put_torn(self, content: bytearray, write: Write) -> None:
        end = write.offset + len(write.data)
        at = self._random.randint(write.offset, end) // self._tear * self._tear
        at = max(at, write.offset)
        Write(write.offset, write.data[: at - write.offset]).put(content)
        rest = min(end, at + self._random.choice((512, 4_096, end))) - at
        kind = self._random.choice(("old", "zeroes", "garbage"))
        if rest > 0 and kind != "old":
            data = bytes(rest) if kind == "zeroes" else self._random.randbytes(rest)
            Write(at, data).put(content)
