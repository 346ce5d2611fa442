"""The review over HTTP: the page, the cells as JSON, their pictures, and what reviewers do."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import AfterValidator, Field
from starlette.exceptions import HTTPException

from core.errors import LeukorayError
from core.images.cells import Box
from core.settings import Settings, describe_problems
from pipelines.reviewing.door import Door, refusal
from pipelines.reviewing.review import Asked, ConflictError, RefusedError
from runtime.web import add_file

if TYPE_CHECKING:
    from collections.abc import Collection

    from pipelines.reviewing.desk import Desk

__all__ = ["build_application"]

_PAGE = {
    "/": ("review.html", "text/html; charset=utf-8"),
    "/review.css": ("review.css", "text/css; charset=utf-8"),
    "/review.js": ("review.js", "text/javascript; charset=utf-8"),
    "/gallery.js": ("gallery.js", "text/javascript; charset=utf-8"),
    "/detail.js": ("detail.js", "text/javascript; charset=utf-8"),
    "/server.js": ("server.js", "text/javascript; charset=utf-8"),
}
_NOT_FOUND = {"no-picture", "no-such-cell", "no-such-slide", "no-such-image", "no-embeddings"}
_KEPT = "private, max-age=86400"
_router = APIRouter()


def _name(value: str) -> str:
    value = " ".join(value.split())
    if not value or not value.isprintable():
        raise ValueError("a name of one or more printable characters is needed")
    return value


class _Act(Settings):
    """Who does something."""

    reviewer: Annotated[str, AfterValidator(_name)] = Field(max_length=80, description="name of the reviewer")
    request: str = Field(
        pattern=r"^[A-Za-z0-9-]{8,64}$", description="name of the action; the same again is one action"
    )
    seen: int = Field(ge=0, description="number of the newest entry that the reviewer has seen")


class _Label(_Act):
    cells: list[int] = Field(min_length=1, max_length=10_000)
    label: str = Field(max_length=200)


class _Add(_Act):
    slide: int
    image: str = Field(max_length=8192)
    box: tuple[float, float, float, float]
    label: str = Field(max_length=200)


class _Note(_Act):
    cell: int
    note: str = Field(max_length=2000)


class _OfSlide(_Act):
    slide: int
    note: str = Field("", max_length=2000)


def build_application(desk: Desk, token: str, hosts: Collection[str], port: int) -> FastAPI:
    """Put the application together.

    Args:
        desk: What it shows and does.
        token: What lets people in.
        hosts: Names under which it may be asked; none: any.
        port: Port on which it will be asked.
    """
    app = FastAPI(title="Leukoray review", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.desk = desk
    app.include_router(_router)
    for path, (name, media_type) in _PAGE.items():
        add_file(app, path, files("pipelines").joinpath("reviewing", "page", name), media_type)
    add_file(app, "/icon.svg", files("runtime").joinpath("page", "icon.svg"), "image/svg+xml")
    for kind in (LeukorayError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, _to_response)
    app.add_middleware(Door, token=token, hosts=hosts, cookie=f"leukoray_review_{port}")
    return app


def _desk(request: Request) -> Desk:
    return request.app.state.desk


@_router.get("/api/run")
def run(request: Request) -> dict[str, Any]:
    """Say what is reviewed, slide by slide."""
    return _desk(request).describe()


@_router.get("/api/cells")
def cells(request: Request, slide: int | None = None) -> dict[str, Any]:
    """Give all cells of a slide, or of all."""
    return _desk(request).cells(slide)


@_router.get("/api/changes")
def changes(request: Request, after: Annotated[int, Field(ge=0)]) -> dict[str, Any]:
    """Give what changed since an entry of the log."""
    return _desk(request).changes(after)


@_router.get("/api/cells/{row}/history")
def history(request: Request, row: int) -> list[dict[str, Any]]:
    """Give everything that was said of a cell."""
    return _desk(request).history(row)


@_router.get("/api/cells/{row}/alike")
def alike(request: Request, row: int, most: Annotated[int, Field(ge=1, le=500)] = 60) -> list[int]:
    """Give the cells whose features are nearest to a cell's, nearest first."""
    return _desk(request).alike(row, most)


@_router.get("/api/agreement")
def agreement(request: Request) -> dict[str, Any]:
    """Compare the blind reading with the first one."""
    return _desk(request).agreement()


@_router.post("/api/label")
def label(request: Request, act: _Label) -> dict[str, Any]:
    """Say what cells are."""
    desk = _desk(request)
    desk.review.label(_asked(desk, act), act.cells, act.label)
    return desk.changes(act.seen)


@_router.post("/api/add")
def add(request: Request, act: _Add) -> dict[str, Any]:
    """Add a cell that was missed."""
    desk = _desk(request)
    desk.review.add(_asked(desk, act), act.slide, act.image, Box(*act.box), act.label)
    return desk.changes(act.seen)


@_router.post("/api/note")
def note(request: Request, act: _Note) -> dict[str, Any]:
    """Write something down about a cell."""
    desk = _desk(request)
    desk.review.note(_asked(desk, act), act.cell, act.note)
    return desk.changes(act.seen)


@_router.post("/api/undo")
def undo(request: Request, act: _Act) -> dict[str, Any]:
    """Take the reviewer's newest action back."""
    desk = _desk(request)
    entries = desk.review.undo(_asked(desk, act))
    undone = [row for entry in entries if (row := desk.review.state.row(entry.key)) is not None]
    return desk.changes(act.seen) | {"undone": undone}


@_router.post("/api/sign")
def sign(request: Request, act: _OfSlide) -> dict[str, Any]:
    """Sign a slide off."""
    desk = _desk(request)
    desk.review.sign(_asked(desk, act), act.slide, act.note)
    desk.write_outcome()
    return desk.changes(act.seen)


@_router.post("/api/reopen")
def reopen(request: Request, act: _OfSlide) -> dict[str, Any]:
    """Open a slide again that was signed off."""
    desk = _desk(request)
    desk.review.reopen(_asked(desk, act), act.slide, act.note)
    desk.write_outcome()
    return desk.changes(act.seen)


@_router.get("/pictures/cells/{row}.jpg")
def picture(request: Request, row: int, side: Annotated[int, Field(ge=32, le=800)] = 120) -> Response:
    """Show a cell."""
    return _jpeg(_desk(request).picture("cell", row, side))


@_router.get("/pictures/fields/{row}.jpg")
def field(request: Request, row: int) -> Response:
    """Show the whole image of a cell."""
    return _jpeg(_desk(request).picture("field", row))


@_router.get("/pictures/heatmaps/{row}.jpg")
def heatmap(request: Request, row: int) -> Response:
    """Show where the network looked."""
    return _jpeg(_desk(request).picture("heatmap", row))


def _jpeg(content: bytes) -> Response:
    tag = hashlib.sha256(content).hexdigest()[:16]
    return Response(content, headers={"Content-Type": "image/jpeg", "Cache-Control": _KEPT, "ETag": f'"{tag}"'})


def _asked(desk: Desk, act: _Act) -> Asked:
    return Asked(desk.reviewer or act.reviewer, act.request, act.seen, desk.reading)


def _to_response(_request: Request, error: Exception) -> Response:
    """Turn an error that was raised on purpose into its status and body."""
    if isinstance(error, ConflictError):
        return refusal(409, error.code, error.message, cells=list(error.rows))
    if isinstance(error, LeukorayError):
        return refusal(_status(error), error.code, error.message)
    if isinstance(error, RequestValidationError):
        return refusal(400, "malformed", describe_problems(error.errors())[0])
    if isinstance(error, HTTPException):
        return refusal(error.status_code, "refused", str(error.detail))
    raise error


def _status(error: LeukorayError) -> int:
    if error.code in _NOT_FOUND:
        return 404
    if isinstance(error, RefusedError):
        return 409
    return 503 if error.code in {"not-saved", "database-fails"} else 500
