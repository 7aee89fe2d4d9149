"""The power goes while a database is given another key."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest
from perdure.regions import rewriting
from perdure.regions.ports import StorageError

from tests.powercut.disk import File, Folder, PowerDisk
from tests.powercut.hooks import powered
from tests.regions.encrypted import KEY, NEXT, holding, made, rekey, seen
from tests.regions.faulty_disk import library

pytestmark = pytest.mark.skipif(
    library() is None, reason="this Python hides its SQLite: its calls cannot be replaced"
)

CUTS = 40
# What it is encrypted with, with which keys it is rewritten, and what it is encrypted with then.
CHANGES: dict[str, tuple[Sequence[bytes], Sequence[bytes], Sequence[bytes]]] = {
    "encrypt": ([], [KEY], [KEY]),
    "rotate": ([KEY], [NEXT, KEY], [NEXT]),
    "decrypt": ([KEY], [KEY], []),
}


def placed(source: Path, root: Path, random: Random) -> PowerDisk:
    """A disk on which a directory has been for long."""
    disk = PowerDisk(root, random)
    folder = Folder()
    shutil.copytree(source, disk.root / "eu")
    for path in source.iterdir():
        folder.live[path.name] = File(bytearray(path.read_bytes()))
    folder.sync()
    disk.top.live["eu"] = folder
    disk.top.sync()
    return disk


@pytest.mark.failure("P6")
@pytest.mark.parametrize("change", CHANGES)
def test_a_power_cut_while_the_key_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """At any call, twice: the same command goes on, everything is there, and in the end nothing is
    left of what was before."""
    monkeypatch.setattr(rewriting, "REKEY_BYTES_MAX", 4_000)
    before, given, after = CHANGES[change]
    shows = made(tmp_path / "source", *before)
    disk = placed(tmp_path / "source", tmp_path / "whole", Random(0))
    disk.arm(None)
    with powered(disk):
        rekey(disk.root / "eu", *given, decrypt=not after)
    assert not disk.unseen() and disk.calls > 50
    cuts = 0
    for seed in range(CUTS):
        random = Random(f"{change} {seed}")
        now = placed(tmp_path / "source", tmp_path / f"{seed}", random)
        for number in range(2):
            now.arm(random.randint(1, disk.calls))
            with powered(now):
                try:
                    rekey(now.root / "eu", *given, decrypt=not after)
                except StorageError:
                    assert now.dead
            if now.dead:
                cuts += 1
                now = now.after_cut(tmp_path / f"{seed} {number}")
        now.arm(None)
        with powered(now):
            rekey(now.root / "eu", *given, decrypt=not after)
            assert not after or holding(now.root / "eu") == []
        assert seen(now.root / "eu", *after) == shows
    assert cuts > CUTS
