"""Taking a request's body: within a size, within a time, in memory alone."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from python_multipart.exceptions import MultipartParseError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from serve.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.requests import Request

    from serve.service import Service

__all__ = ["Upload", "media_type", "read_body", "read_uploads"]

_RAW_TYPES = {"", "application/octet-stream"}


@dataclass(frozen=True, slots=True)
class Upload:
    """One file of a request.

    Attributes:
        name: What the caller calls it; empty for a raw body.
        data: The whole file.
    """

    name: str
    data: bytes


class _InMemoryParser(MultiPartParser):
    """Starlette's parser, which would write larger files to disk."""

    spool_max_size = 1 << 40


def media_type(request: Request) -> str:
    """Return the body's media type in lower case, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


@asynccontextmanager
async def read_body(request: Request, service: Service) -> AsyncGenerator[bytes]:
    """Hold the whole body while the block runs.

    Raises:
        RequestError: With status 408, 413 or 415.
        BusyError: With status 503 where all bodies together are too much.
    """
    settings = service.settings
    _check_header(request, settings.max_body_bytes)
    with service.buffered() as add:

        async def collect() -> bytes:
            parts: list[bytes] = []
            size = 0
            async for part in request.stream():
                size += len(part)
                if size > settings.max_body_bytes:
                    raise _too_large(settings.max_body_bytes)
                add(len(part))
                parts.append(part)
            return parts[0] if len(parts) == 1 else b"".join(parts)

        try:
            body = await asyncio.wait_for(collect(), settings.body_timeout_s)
        except asyncio.TimeoutError:
            raise RequestError(
                "body-too-slow", f"The body did not arrive within {settings.body_timeout_s:g} s.", 408
            ) from None
        except ClientDisconnect:
            raise RequestError("client-gone", "The connection was closed before the body was complete.", 400) from None
        request.scope["leukoray.bytes"] = len(body)
        yield body


@asynccontextmanager
async def read_uploads(request: Request, service: Service) -> AsyncGenerator[tuple[list[Upload], bool]]:
    """Hold the files of a raw body or a form while the block runs; say whether it was a form.

    Raises:
        RequestError: With status 400, 408, 413 or 415.
        BusyError: With status 503 where all bodies together are too much.
    """
    kind = media_type(request)
    form = kind == "multipart/form-data"
    if not form and kind not in _RAW_TYPES and not kind.startswith("image/"):
        raise RequestError(
            "not-an-image-type",
            f"The Content-Type is {kind[:100]!r}; send image/jpeg, image/png, image/tiff, image/bmp, image/webp,"
            " application/octet-stream, or several files as multipart/form-data.",
            415,
        )
    async with read_body(request, service) as body:
        yield (await _parse_form(request, body, service) if form else [Upload("", body)]), form


def _check_header(request: Request, most: int) -> None:
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared[:18]) > most:
        raise _too_large(most)
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise RequestError("encoded-body", f"Bodies in Content-Encoding {encoding[:40]!r} are not taken.", 415)


def _too_large(most: int) -> RequestError:
    return RequestError("body-too-large", f"The body is larger than {most:,} bytes.", 413)


async def _parse_form(request: Request, body: bytes, service: Service) -> list[Upload]:
    async def stream() -> AsyncGenerator[bytes]:
        yield body

    most = service.settings.max_images
    try:
        form = await _InMemoryParser(request.headers, stream(), max_files=most + 1, max_fields=100).parse()
    except MultiPartException as error:
        if "Too many files" in error.message:
            raise _too_many(most) from None
        raise RequestError("bad-form", f"The form cannot be read ({error.message[:200]}).") from None
    except (MultipartParseError, KeyError, ValueError, LookupError) as error:
        raise RequestError("bad-form", f"The form cannot be read ({type(error).__name__}).") from None
    uploads: list[Upload] = []
    for name, value in form.multi_items():
        if not isinstance(value, UploadFile):
            raise RequestError(
                "bad-form", f"The field {name[:80]!r} is not a file; options belong in the query (?gradcam=true)."
            )
        uploads.append(Upload((value.filename or name)[:255], await value.read()))
        await value.close()
    if not uploads:
        raise RequestError("no-images", "The form holds no file.")
    if len(uploads) > most:
        raise _too_many(most)
    return uploads


def _too_many(most: int) -> RequestError:
    return RequestError("too-many-images", f"The form holds more than {most} files.", 413)
