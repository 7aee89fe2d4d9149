"""``perdure`` on a disk that fails when it is told to: run as ``python -m tests.regions.faulty_disk
DIRECTORY serve …``.

SQLite's own way to the system is replaced (``sqlite3_vfs.xSetSystemCall``), so everything above it
is what users run. While ``DIRECTORY/full`` exists, writes find no room (ENOSPC); while
``DIRECTORY/broken`` exists, they fail (EIO).
"""

import _sqlite3
import ctypes
import errno
import os
import subprocess
import sys
from pathlib import Path

from perdure.regions.main import main

_PWRITE = ctypes.CFUNCTYPE(
    ctypes.c_ssize_t,
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int64,
    use_errno=True,
)
_SET_SYSTEM_CALL = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)


class Vfs(ctypes.Structure):
    """``sqlite3_vfs`` of sqlite3.h, as far as it is needed."""

    _fields_ = (
        ("iVersion", ctypes.c_int),
        ("szOsFile", ctypes.c_int),
        ("mxPathname", ctypes.c_int),
        ("pNext", ctypes.c_void_p),
        ("zName", ctypes.c_char_p),
        ("pAppData", ctypes.c_void_p),
        ("methods", ctypes.c_void_p * 12),
        ("xCurrentTimeInt64", ctypes.c_void_p),
        ("xSetSystemCall", _SET_SYSTEM_CALL),
    )


def library() -> ctypes.CDLL | None:
    """The SQLite that Python uses; None where it cannot be reached from here."""
    sqlite = ctypes.CDLL(_sqlite3.__file__)
    return sqlite if hasattr(sqlite, "sqlite3_vfs_find") else None


def install(directory: Path) -> object:
    """Let writes fail as the files in the directory say; what must be kept alive."""
    sqlite = library()
    assert sqlite is not None
    sqlite.sqlite3_vfs_find.restype = ctypes.POINTER(Vfs)
    full, broken = directory / "full", directory / "broken"

    def pwrite(file: int, data: int, size: int, offset: int) -> int:
        number = errno.ENOSPC if full.exists() else errno.EIO if broken.exists() else 0
        if number:
            ctypes.set_errno(number)
            return -1
        return os.pwrite(file, ctypes.string_at(data, size), offset)

    hook = _PWRITE(pwrite)
    vfs = sqlite.sqlite3_vfs_find(None)
    for name in (b"pwrite", b"pwrite64"):
        code = vfs.contents.xSetSystemCall(
            ctypes.addressof(vfs.contents), name, ctypes.cast(hook, ctypes.c_void_p)
        )
        assert code == 0, code
    return hook


def compiled(source: str, folder: Path) -> Path:
    """A library of this C, to be loaded before others (``LD_PRELOAD``)."""
    text, library = folder / "shim.c", folder / "shim.so"
    text.write_text(source)
    command = ["cc", "-shared", "-fPIC", "-o", str(library), str(text), "-ldl"]
    subprocess.run(command, check=True, timeout=60)
    return library


if __name__ == "__main__":
    kept = install(Path(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
