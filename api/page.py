"""The page of ``perdure demo chat``: some files without a build step, where the demo asks for it.

The policy that goes with each of them lets the page load nothing but these files, run no script and
take no style that stands in a page, and talk to the regions of the demo alone.
"""

from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from fastapi import FastAPI, Response
from perdure.api.answers import answer

_SCRIPT = "text/javascript; charset=utf-8"
# What is served under ``/demo``, out of which package, and as what.
_FILES = {
    "chat": ("perdure.page", "chat.html", "text/html; charset=utf-8"),
    "chat.css": ("perdure.page", "chat.css", "text/css; charset=utf-8"),
    "chat.mjs": ("perdure.page", "chat.mjs", _SCRIPT),
    "show.mjs": ("perdure.page", "show.mjs", _SCRIPT),
    "draft.mjs": ("perdure.page", "draft.mjs", _SCRIPT),
    "grant.mjs": ("perdure.page", "grant.mjs", _SCRIPT),
    "shared_text.mjs": ("perdure.page", "shared_text.mjs", _SCRIPT),
    "pieces.mjs": ("perdure.page", "pieces.mjs", _SCRIPT),
    "lib0.mjs": ("perdure.page", "lib0.mjs", _SCRIPT),
    "icon.svg": ("perdure.page", "icon.svg", "image/svg+xml"),
    "perdure.js": ("perdure.browser", "perdure.js", _SCRIPT),
}


class _File(NamedTuple):
    content: bytes
    media_type: str


# A grant of the page is good for so long: it is renewed while somebody looks.
GRANT_S = 120
# Everything of the page is below, and is given without a grant.
UNDER = "/demo/"
_CAN = {"*": ["read", "write", "presence", "cancel"]}


def add_page(
    routes: FastAPI,
    region: str,
    regions: Mapping[str, str],
    mint: Callable[[Mapping[str, Any], int], str] | None,
) -> None:
    """``/demo/…``. ``regions``: those that the page offers, and the URLs for their clients;
    ``mint`` gives grants for so many seconds, where one is asked for."""
    found = {
        path: _File(_read(package, name), media_type)
        for path, (package, name, media_type) in _FILES.items()
    }
    headers = {
        "Content-Security-Policy": policy(regions.values()),
        "Cache-Control": "no-cache",
    }

    def add(path: str, file: _File) -> None:
        @routes.get(f"/demo/{path}", include_in_schema=False)
        async def page() -> Response:
            return Response(file.content, media_type=file.media_type, headers=headers)

    for path, file in found.items():
        add(path, file)

    @routes.get("/demo/regions", include_in_schema=False)
    async def page_regions() -> Response:
        known = [{"name": name, "url": url} for name, url in regions.items()]
        return answer({"region": region, "regions": known})

    @routes.get("/demo/grant", include_in_schema=False)
    async def page_grant() -> Response:
        """A grant for who looks at the page; its name is the visitor's own choice."""
        if mint is None:
            return answer({"grant": None})
        grant = mint({"sub": "visitor", "as": ["*"], "can": _CAN}, GRANT_S)
        return answer({"grant": grant, "ttl_s": GRANT_S})


def _read(package: str, name: str) -> bytes:
    """A file of a package that has no modules; ``importlib.resources`` does not find it there when
    the package is installed to be edited."""
    spec = find_spec(package)
    folders = [] if spec is None else spec.submodule_search_locations or []
    paths = (Path(folder) / name for folder in folders)
    return next(path for path in paths if path.is_file()).read_bytes()


def policy(urls: Iterable[str]) -> str:
    """What a browser lets the page do."""
    hosts = [host for url in urls for host in (url, url.replace("http", "ws", 1))]
    return "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self'",
            f"connect-src 'self' {' '.join(hosts)}",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )
