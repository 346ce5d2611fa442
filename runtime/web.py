"""Pages that Leukoray serves: their files, and headers that keep other sites, and scripts of others, out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import Response

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from fastapi import FastAPI
    from starlette.datastructures import MutableHeaders

__all__ = ["PAGE", "STRICT", "add_file", "add_security_headers"]

STRICT = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
"""Content security policy of what is no page."""

PAGE = STRICT + "; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'"
"""Content security policy of a page with files of its own."""

_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",
}


def add_security_headers(headers: MutableHeaders, policy: str = STRICT) -> None:
    """Add to an answer's headers what they do not say themselves.

    Args:
        headers: Headers of the answer.
        policy: Its content security policy.
    """
    for name, value in {**_HEADERS, "content-security-policy": policy}.items():
        headers.setdefault(name, value)


def add_file(app: FastAPI, path: str, file: Traversable, media_type: str) -> None:
    """Serve a file of a page.

    Args:
        app: The application.
        path: Where it is asked for.
        file: The file; read once, now.
        media_type: What it is.
    """
    content = file.read_bytes()

    async def serve_file() -> Response:
        return Response(content, headers={"Content-Type": media_type, "Cache-Control": "no-cache"})

    app.add_api_route(path, serve_file, methods=["GET"], include_in_schema=False)
