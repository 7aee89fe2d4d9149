"""A region, as a process, on a disk that fails: what clients are told, how it ends, what is there
after it."""

import shutil
from pathlib import Path
from typing import Any

import httpx2
import pytest
from perdure.regions.serving import EXIT_STORAGE_FAILED

from tests.regions import faulty_disk
from tests.regions.processes import Served

# Fails every sync, while the file that PERDURE_TEST_BROKEN names is there.
SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
static int fails(void) {
    const char *path = getenv("TEST_BROKEN");
    return path && access(path, F_OK) == 0;
}
int fsync(int fd) {
    if (fails()) { errno = EIO; return -1; }
    return ((int (*)(int)) dlsym(RTLD_NEXT, "fsync"))(fd);
}
int fdatasync(int fd) {
    if (fails()) { errno = EIO; return -1; }
    return ((int (*)(int)) dlsym(RTLD_NEXT, "fdatasync"))(fd);
}
"""

needs_sqlite = pytest.mark.skipif(
    faulty_disk.library() is None,
    reason="this Python hides its SQLite; tests/regions/test_storage.py has the same faults",
)
needs_compiler = pytest.mark.skipif(
    shutil.which("cc") is None,
    reason="no C compiler for a failing fsync; a failing write is tested without one",
)


def hooked(directory: Path) -> str:
    """Python that makes the disk of its process obey the files in the directory."""
    return (
        "from pathlib import Path; from tests.regions.faulty_disk import install;"
        f" kept = install(Path({str(directory)!r}))"
    )


async def answer(served: Served, method: str, path: str) -> httpx2.Response:
    async with httpx2.AsyncClient(trust_env=False, timeout=10) as http:
        return await http.request(method, served.url + path)


async def message(served: Served) -> dict[str, Any]:
    found: dict[str, Any] = await served.ask("GET", "/v1/sessions/s/messages/m")
    return found


async def refused(served: Served, epoch: str, seq: int) -> httpx2.Response:
    """What an append gets that cannot be kept."""
    headers = {"Producer-Id": "p", "Producer-Epoch": epoch, "Producer-Seq": str(seq)}
    async with httpx2.AsyncClient(trust_env=False, timeout=10) as http:
        return await http.post(
            f"{served.url}/v1/sessions/s/messages/m/tokens",
            json={"tokens": ["never acknowledged"]},
            headers=headers,
        )


@pytest.mark.failure("P7")
@needs_sqlite
async def test_a_full_disk_acknowledges_nothing_and_recovers(tmp_path: Path) -> None:
    """507 with Retry-After for every write; reads go on, and it stays ready to serve them; when
    there is room again writes go on, without a restart; and nothing of it was half done."""
    served, full = Served(tmp_path / "data"), tmp_path / "full"
    async with served.serve(code=hooked(tmp_path)):
        epoch = (await served.open())["epoch"]
        assert (await served.append(epoch, 0, "kept"))["accepted"] == 1
        full.touch()
        for _ in range(2):
            found = await refused(served, epoch, 1)
            assert (found.status_code, found.json()["code"]) == (507, "storage_full")
            assert int(found.headers["retry-after"]) >= 1
        assert (await answer(served, "PUT", "/v1/sessions/other")).status_code == 507
        assert (await message(served))["text"] == "kept"
        assert (await answer(served, "GET", "/v1/sessions/other")).status_code == 404
        assert (await answer(served, "GET", "/readyz")).status_code == 200
        full.unlink()
        assert (await served.append(epoch, 1, " too"))["accepted"] == 2
    async with served.serve():
        assert (await message(served))["text"] == "kept too"


async def ends_by_its_disk(served: Served, running: Any, epoch: str) -> None:
    """The write that meets the fault is not acknowledged, and the process ends as it says."""
    found = await refused(served, epoch, 1)
    assert (found.status_code, found.json()["code"]) == (503, "storage_failed")
    end = await running.end()
    assert (end.code, "the disk has failed" in end.err) == (EXIT_STORAGE_FAILED, True), end


async def still_there(served: Served) -> None:
    """A start finds what was acknowledged, and goes on; what was not may be there or not."""
    async with served.serve():
        found = await message(served)
        assert found["text"] in ("kept", "keptnever acknowledged")
        assert (await answer(served, "GET", "/readyz")).status_code == 200


@pytest.mark.failure("P8")
@needs_sqlite
async def test_a_failing_write_stops_the_region(tmp_path: Path) -> None:
    """Fail-stop: nothing is believed of that disk until a start has read it anew."""
    served = Served(tmp_path / "data")
    async with served.serve(code=hooked(tmp_path)) as running:
        epoch = (await served.open())["epoch"]
        await served.append(epoch, 0, "kept")
        (tmp_path / "broken").touch()
        await ends_by_its_disk(served, running, epoch)
    await still_there(served)


@pytest.fixture
def shim(tmp_path: Path) -> Path:
    """The compiled shim."""
    return faulty_disk.compiled(SHIM, tmp_path)


@pytest.mark.failure("P8")
@needs_compiler
async def test_a_failing_fsync_stops_the_region(tmp_path: Path, shim: Path) -> None:
    """The kernel may have dropped the pages that it could not write, so a second fsync that
    succeeds says nothing: fail-stop, and recovery at the start."""
    served = Served(tmp_path / "data")
    environment = {"LD_PRELOAD": str(shim), "TEST_BROKEN": str(tmp_path / "broken")}
    async with served.serve(environment=environment) as running:
        epoch = (await served.open())["epoch"]
        await served.append(epoch, 0, "kept")
        (tmp_path / "broken").touch()
        await ends_by_its_disk(served, running, epoch)
    await still_there(served)


@pytest.mark.failure("P10")
async def test_a_deleted_database_stops_the_region(tmp_path: Path) -> None:
    """Also when nobody writes: what is written to a file without a name, nobody will ever find."""
    served = Served(tmp_path / "data")
    async with served.serve() as running:
        epoch = (await served.open())["epoch"]
        await served.append(epoch, 0, "kept")
        path = tmp_path / "data" / "perdure.sqlite"
        path.rename(path.with_suffix(".gone"))
        end = await running.end()
        assert (end.code, "the disk has failed" in end.err) == (EXIT_STORAGE_FAILED, True), end
        assert "the database file is gone" in end.err
        path.with_suffix(".gone").rename(path)
    await still_there(served)
