"""The way from the program to the disk, with a :class:`PowerDisk` in it.

SQLite's own functions for opening, writing, truncating, syncing and deleting are replaced in its
default VFS and in the files that it opens; so are the calls of ``os`` by which the storage makes
its directory, its database file and its lock. Everything above runs as it ships. Reads, locks and
the shared memory of the WAL go straight through: they change nothing on disk.
"""

import contextlib
import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from tests.powercut.disk import File, Folder, PowerDisk, PowerLost, Truncation, Write
from tests.regions.faulty_disk import Vfs, library

_P, _I, _I64 = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
# Names stay addresses: SQLite keeps them, and what stands behind them.
_OPEN = ctypes.CFUNCTYPE(_I, _P, _P, _P, _I, _P)
_DELETE = ctypes.CFUNCTYPE(_I, _P, _P, _I)
_CLOSE = ctypes.CFUNCTYPE(_I, _P)
_WRITE = ctypes.CFUNCTYPE(_I, _P, _P, _I, _I64)
_TRUNCATE = ctypes.CFUNCTYPE(_I, _P, _I64)
_SYNC = ctypes.CFUNCTYPE(_I, _P, _I)
_OPEN_DIRECTORY = ctypes.CFUNCTYPE(_I, _P, _P)
_GET_SYSTEM_CALL = ctypes.CFUNCTYPE(_P, _P, ctypes.c_char_p)
# sqlite3.h: results, and places in sqlite3_vfs and sqlite3_io_methods.
_OK, _CANTOPEN = 0, 14
_IOERR_WRITE, _IOERR_FSYNC, _IOERR_TRUNCATE, _IOERR_DELETE = 778, 1_034, 1_546, 2_570
_OPEN_CREATE = 4
_X_OPEN, _X_DELETE = 0, 1
_X_CLOSE, _X_WRITE, _X_TRUNCATE, _X_SYNC = 0, 2, 3, 4


class _Methods(ctypes.Structure):
    """``sqlite3_io_methods``, version 3."""

    _fields_ = (("iVersion", ctypes.c_int), ("calls", _P * 18))


class _FullVfs(ctypes.Structure):
    """``sqlite3_vfs`` to its end."""

    _fields_ = (("head", Vfs), ("xGetSystemCall", _P), ("xNextSystemCall", _P))


class SqliteCalls:
    """Replaces SQLite's calls, once in a process; they go to the disk in ``disk``, if any."""

    def __init__(self) -> None:
        self.disk: PowerDisk | None = None
        # Open files, by the address of SQLite's own object.
        self._files: dict[int, tuple[PowerDisk, Path, File]] = {}
        self._methods: dict[int, _Methods] = {}
        self._kept: list[Any] = []
        sqlite = library()
        assert sqlite is not None
        sqlite.sqlite3_vfs_find.restype = ctypes.POINTER(_FullVfs)
        self._vfs = sqlite.sqlite3_vfs_find(None)
        calls = self._vfs.contents.head.methods
        self._open = _OPEN(calls[_X_OPEN])
        self._delete = _DELETE(calls[_X_DELETE])
        calls[_X_OPEN] = self._keep(_OPEN, self._on_open)
        calls[_X_DELETE] = self._keep(_DELETE, self._on_delete)
        self._hook_directories()

    def _keep(self, kind: Any, function: Callable[..., int]) -> int | None:
        hook = kind(function)
        self._kept.append(hook)
        return ctypes.cast(hook, _P).value

    def _hook_directories(self) -> None:
        # SQLite opens a directory for one purpose, to sync it, and does that by a call that cannot
        # be replaced; so the opening stands for both.
        vfs = ctypes.addressof(self._vfs.contents)
        get = _GET_SYSTEM_CALL(self._vfs.contents.xGetSystemCall)
        self._open_directory = _OPEN_DIRECTORY(get(vfs, b"openDirectory"))
        hook = self._keep(_OPEN_DIRECTORY, self._on_open_directory)
        code = self._vfs.contents.head.xSetSystemCall(vfs, b"openDirectory", hook)
        assert code == _OK, code

    def _on_open(self, vfs: int, name: int | None, file: int, flags: int, out: int) -> int:
        path = None if name is None else _path(name)
        if path is None or self.disk is None or not self.disk.inside(path):
            return int(self._open(vfs, name, file, flags, out))
        with self.disk.lock:
            return self._open_ours(self.disk, path, (vfs, name, file, flags, out))

    def _open_ours(self, disk: PowerDisk, path: Path, call: tuple[Any, ...]) -> int:
        _, _, file, flags, _ = call
        try:
            if disk.find(path) is None:
                if not flags & _OPEN_CREATE:
                    return int(self._open(*call))
                disk.create(path, File())
        except PowerLost:
            # SQLite looks here for what it has to close.
            ctypes.c_void_p.from_address(file).value = None
            return _CANTOPEN
        code = int(self._open(*call))
        found = disk.find(path)
        if code == _OK and isinstance(found, File):
            self._files[file] = (disk, path, found)
            self._replace_methods(file)
        return code

    def _replace_methods(self, file: int) -> None:
        place = ctypes.c_void_p.from_address(file)
        original = place.value
        assert original is not None
        if original not in self._methods:
            methods = _Methods.from_buffer_copy(_Methods.from_address(original))
            calls = methods.calls
            calls[_X_CLOSE] = self._keep(_CLOSE, self._on_close(_CLOSE(calls[_X_CLOSE])))
            calls[_X_WRITE] = self._keep(_WRITE, self._on_write(_WRITE(calls[_X_WRITE])))
            calls[_X_TRUNCATE] = self._keep(
                _TRUNCATE, self._on_truncate(_TRUNCATE(calls[_X_TRUNCATE]))
            )
            calls[_X_SYNC] = self._keep(_SYNC, self._on_sync(_SYNC(calls[_X_SYNC])))
            self._methods[original] = methods
        place.value = ctypes.addressof(self._methods[original])

    def _on_close(self, close: Any) -> Callable[[int], int]:
        def on_close(file: int) -> int:
            self._files.pop(file, None)
            return int(close(file))

        return on_close

    def _on_write(self, write: Any) -> Callable[[int, int, int, int], int]:
        def on_write(file: int, data: int, size: int, offset: int) -> int:
            disk, path, what = self._files[file]
            with disk.lock:
                try:
                    disk.change(path, what, Write(offset, ctypes.string_at(data, size)))
                except PowerLost:
                    return _IOERR_WRITE
                return int(write(file, data, size, offset))

        return on_write

    def _on_truncate(self, truncate: Any) -> Callable[[int, int], int]:
        def on_truncate(file: int, size: int) -> int:
            disk, path, what = self._files[file]
            with disk.lock:
                try:
                    disk.change(path, what, Truncation(size))
                except PowerLost:
                    return _IOERR_TRUNCATE
                return int(truncate(file, size))

        return on_truncate

    def _on_sync(self, sync: Any) -> Callable[[int, int], int]:
        def on_sync(file: int, flags: int) -> int:
            disk, path, what = self._files[file]
            with disk.lock:
                try:
                    disk.sync(path.name, what)
                except PowerLost:
                    return _IOERR_FSYNC
                # It syncs the directory of a new file as well, by openDirectory.
                return int(sync(file, flags))

        return on_sync

    def _on_delete(self, vfs: int, name: int, sync_directory: int) -> int:
        path, disk = _path(name), self.disk
        if disk is None or not disk.inside(path):
            return int(self._delete(vfs, name, sync_directory))
        with disk.lock:
            try:
                if disk.find(path) is not None:
                    disk.unlink(path)
            except PowerLost:
                return _IOERR_DELETE
            return int(self._delete(vfs, name, sync_directory))

    def _on_open_directory(self, name: int, file: int) -> int:
        path = _path(name).parent
        if self.disk is not None and (path == self.disk.root or self.disk.inside(path)):
            folder = self.disk.find(path)
            with contextlib.suppress(PowerLost):
                if isinstance(folder, Folder):
                    self.disk.sync(path.name, folder)
        return int(self._open_directory(name, file))


def _path(name: int) -> Path:
    return Path(os.fsdecode(ctypes.string_at(name)))


class OsCalls:
    """What the storage itself asks of the system: ``os.open`` and what goes with it."""

    def __init__(self, disk: PowerDisk) -> None:
        self._disk = disk
        self._files: dict[int, Path] = {}
        self._real = {name: getattr(os, name) for name in _OS_CALLS}

    @contextlib.contextmanager
    def replaced(self) -> Iterator[None]:
        """For as long as this lasts, they go to the disk."""
        with mock.patch.multiple(os, **{name: getattr(self, f"_{name}") for name in _OS_CALLS}):
            yield

    @staticmethod
    @contextlib.contextmanager
    def _failing() -> Iterator[None]:
        try:
            yield
        except PowerLost as error:
            raise OSError(errno.EIO, os.strerror(errno.EIO)) from error

    def _open(self, path: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
        place = Path(os.fsdecode(path))
        ours = self._disk.inside(place) or place == self._disk.root
        if ours and flags & os.O_CREAT and self._disk.find(place) is None:
            with self._failing():
                self._disk.create(place, File())
        file: int = self._real["open"](path, flags, mode, **more)
        if ours:
            self._files[file] = place
        return file

    def _mkdir(self, path: Any, mode: int = 0o777, **more: Any) -> None:
        place = Path(os.fsdecode(path))
        if self._disk.inside(place) and place.parent.exists() and self._disk.find(place) is None:
            with self._failing():
                self._disk.create(place, Folder())
        self._real["mkdir"](path, mode, **more)

    def _close(self, file: int) -> None:
        self._files.pop(file, None)
        self._real["close"](file)

    def _fsync(self, file: int) -> None:
        place = self._files.get(file)
        if place is None:
            return self._real["fsync"](file)  # type: ignore[no-any-return]
        what = self._disk.find(place)
        assert what is not None, place
        with self._failing():
            self._disk.sync(place.name, what)
        return None

    def _write(self, file: int, data: bytes) -> int:
        self._change(file, lambda: Write(os.lseek(file, 0, os.SEEK_CUR), bytes(data)))
        return self._real["write"](file, data)  # type: ignore[no-any-return]

    def _ftruncate(self, file: int, size: int) -> None:
        self._change(file, lambda: Truncation(size))
        self._real["ftruncate"](file, size)

    def _change(self, file: int, change: Callable[[], Write | Truncation]) -> None:
        place = self._files.get(file)
        what = None if place is None else self._disk.find(place)
        if place is not None and isinstance(what, File):
            with self._failing():
                self._disk.change(place, what, change())


_OS_CALLS = ("open", "mkdir", "close", "fsync", "write", "ftruncate")
_installed: list[SqliteCalls] = []


@contextlib.contextmanager
def powered(disk: PowerDisk) -> Iterator[None]:
    """This process reaches the disk, and nothing below its root without it."""
    if not _installed:
        _installed.append(SqliteCalls())
    (calls,) = _installed
    calls.disk = disk
    try:
        with OsCalls(disk).replaced():
            yield
    finally:
        calls.disk = None
