"""The page for who runs the regions: ``/admin`` and the files that it is made of.

The files hold nothing of this region and are given to anybody; what the page shows it asks for
under ``/admin/api``, with a grant. The policy lets it load these files alone, run no script and
take no style that stands in a page, and talk to this region alone: another region's page is opened
there.
"""

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from fastapi import FastAPI, Response

PATH = "/admin"
_SCRIPT = "text/javascript; charset=utf-8"
_KINDS = {".css": "text/css; charset=utf-8", ".mjs": _SCRIPT}
_FILES_UNDER = re.compile(r"/admin/[a-z_]+\.(?:css|mjs|js|svg)\Z")
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}


class File(NamedTuple):
    """A file as it is served."""

    content: bytes
    media_type: str


def is_open(path: str) -> bool:
    """Whether this path is of the page itself, which needs no grant."""
    return path in (PATH, f"{PATH}/") or _FILES_UNDER.match(path) is not None


def add_admin_page(routes: FastAPI) -> None:
    """``/admin``, and its files below."""

    def add(path: str, file: File) -> None:
        @routes.get(path, include_in_schema=False)
        async def page() -> Response:
            return Response(file.content, media_type=file.media_type, headers=_HEADERS)

    for path, file in files().items():
        add(path, file)

    @routes.get(f"{PATH}/", include_in_schema=False)
    async def with_slash() -> Response:
        # Relative, so that it holds behind a proxy that serves regions below a path.
        return Response(status_code=308, headers={**_HEADERS, "Location": "../admin"})


def files() -> dict[str, File]:
    """All files of the page, by their paths."""
    found = {
        f"{PATH}/{file.name}": File(file.read_bytes(), _KINDS[file.suffix])
        for file in sorted(_paths("perdure.page", "admin*"))
        if file.suffix in _KINDS
    }
    for package, name, kind in (
        ("perdure.page", "icon.svg", "image/svg+xml"),
        ("perdure.browser", "perdure.js", _SCRIPT),
    ):
        found[f"{PATH}/{name}"] = File(next(_paths(package, name)).read_bytes(), kind)
    html = next(_paths("perdure.page", "admin.html"))
    return {PATH: File(html.read_bytes(), "text/html; charset=utf-8"), **found}


def _paths(package: str, pattern: str) -> Iterator[Path]:
    """Files of a package that has no modules; ``importlib.resources`` does not find it there when
    the package is installed to be edited."""
    spec = find_spec(package)
    folders = [] if spec is None else spec.submodule_search_locations or []
    for folder in folders:
        yield from Path(folder).glob(pattern)
