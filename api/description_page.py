"""``/docs``: the description of the API as a page that needs nothing but itself.

FastAPI's own page loads its scripts from another host, whoever that is by then, and runs one that
stands in the page. This one has no script at all, and its policy allows none.
"""

import base64
import json
from collections.abc import Iterator
from hashlib import sha256
from html import escape
from typing import Any

from fastapi import FastAPI, Response

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h2 { font-size: 1.1rem; margin: 2.5rem 0 0.25rem } h2 b { display: inline-block; min-width: 5rem }
code, pre { font: 14px/1.4 ui-monospace, monospace } pre { overflow-x: auto; padding: 0.75rem }
pre, th { background: #8882 } table { border-collapse: collapse; margin: 0.5rem 0 }
th, td { border: 1px solid #8886; padding: 0.2rem 0.6rem; text-align: left; vertical-align: top }
:root { color-scheme: light dark }
"""


def policy() -> str:
    """What a browser lets the page do: show itself, in the style that it brings."""
    digest = base64.b64encode(sha256(_STYLE.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'none'"
    )


def add_description_page(routes: FastAPI) -> None:
    """``/docs``."""
    headers = {"Content-Security-Policy": policy()}

    @routes.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        """The description, for people."""
        return Response(page(routes.openapi()), media_type="text/html", headers=headers)


def page(document: dict[str, Any]) -> str:
    """The page of an OpenAPI document."""
    title = escape(f"{document['info']['title']} {document['info']['version']}")
    parts = [
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{title}</title>',
        '<meta name="viewport" content="width=device-width">',
        f"<style>{_STYLE}</style>\n<h1>{title}</h1>",
        '<p>The same for programs: <a href="/openapi.json"><code>/openapi.json</code></a>.</p>',
    ]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts += _operation(path, method, operation)
    parts.append("<h1>Schemas</h1>")
    for name, schema in sorted(document["components"]["schemas"].items()):
        text = json.dumps(schema, indent=2, ensure_ascii=False)
        parts.append(f'<h2 id="{escape(name)}">{escape(name)}</h2><pre>{escape(text)}</pre>')
    return "\n".join([*parts, "</html>\n"])


def _operation(path: str, method: str, operation: dict[str, Any]) -> Iterator[str]:
    told = operation.get("description") or operation.get("summary", "")
    yield f"<h2><b>{escape(method.upper())}</b> <code>{escape(path)}</code></h2>"
    yield f"<p>{escape(told)}</p><table>"
    for parameter in operation.get("parameters", ()):
        must = "" if parameter.get("required") else ", may be left out"
        yield _row(
            parameter["name"], f"in the {parameter['in']}{must}", parameter.get("description", "")
        )
    if body := operation.get("requestBody"):
        must = "" if body.get("required") else ", may be left out"
        yield _row("body", f"{', '.join(body['content'])}{must}", links=_links(body))
    for status, response in operation["responses"].items():
        kinds = ", ".join(response.get("content", {}))
        yield _row(status, kinds, response["description"], links=_links(response))
    yield "</table>"


def _row(name: str, what: str, text: str = "", links: str = "") -> str:
    cells = (escape(name), escape(what), escape(text) + links)
    return f"<tr><th>{cells[0]}</th><td>{cells[1]}</td><td>{cells[2]}</td></tr>"


def _links(described: dict[str, Any]) -> str:
    """Links to the schemas that it names."""
    names = [
        content["schema"]["$ref"].rpartition("/")[2]
        for content in described.get("content", {}).values()
        if "$ref" in content.get("schema", {})
    ]
    return "".join(
        f' <a href="#{escape(name)}">{escape(name)}</a>' for name in dict.fromkeys(names)
    )
