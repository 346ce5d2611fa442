"""The routes under ``/v1``: images in, results out."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from core.errors import ImageError
from core.model.confidence import UNIDENTIFIED
from serve.body import Upload, read_uploads
from serve.errors import RequestError
from serve.service import Classified, Places, Service, draw, draw_heatmap, draw_picture
from serve.siblings import all_of

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from serve.messages import Model
    from serve.service import Seen

__all__ = ["ERRORS", "ErrorBody", "router"]

router = APIRouter(prefix="/v1", tags=["classify"])

REASONS = {
    "": "",
    "low-confidence": "The network is not sure enough, or too little of the cell is seen; a person should look.",
    "out-of-distribution": "Unlike what the network knows; a person should look.",
    "no-cell": "No white cell was found; all of the image was classified, and a person should look.",
    "several-cells": "The image shows other white cells, too; a person should look, or all cells be asked for.",
}


class ErrorDetail(BaseModel):
    """What went wrong."""

    code: str = Field(description="stable, machine-readable", examples=["truncated"])
    message: str = Field(description="a sentence for a person")


class ErrorBody(BaseModel):
    """The body of every error."""

    error: ErrorDetail


class Heatmap(BaseModel):
    """What is said of every heatmap."""

    evidence: bool = Field(description="false: no evidence, the network saw nothing that speaks for the class")


_Edges = tuple[float, float, float, float]


class Layer(Heatmap):
    """The heatmap of one cell of several, to be laid on its place in the image."""

    heatmap_png: str = Field(description="heatmap, clear where the network saw nothing, base64")
    place: _Edges = Field(description="where it lies: left, top, right, bottom in pixels of the upright image")


class Layers(Layer):
    """Image and heatmap, to be laid on one another."""

    picture_jpeg: str = Field(description="upright image, longer side at most 1024 pixels, base64")


class Overlay(Heatmap):
    """The heatmap on the image."""

    overlay_png: str = Field(
        description="upright image, or the surroundings of a cell of several; longer side at most 1024 pixels, base64"
    )


class Cell(BaseModel):
    """One classified cell."""

    label: str = Field(description="most probable class", examples=["NEUTROPHIL"])
    confidence: float = Field(description="its probability", ge=0, le=1)
    probabilities: dict[str, float] = Field(description="probability of each class")
    ood: float = Field(description="out-of-distribution score, higher is less like the training data")
    flag: Literal["", "low-confidence", "out-of-distribution", "no-cell", "several-cells"] = Field(
        description="why a person should look"
    )
    flag_reason: str = Field(description="the same as a sentence")
    cell: _Edges | None = Field(
        description="the white cell: left, top, right, bottom in pixels of the upright image; null where none was found"
    )
    box: _Edges = Field(description="what the network saw: left, top, right, bottom in pixels of the upright image")
    gradcam: Overlay | Layers | Layer | None = Field(None, description="where the network looked")


class Image(BaseModel):
    """What is said of every image."""

    name: str = Field(description="the file's name; empty for a raw body")
    width: int = Field(description="width of the upright image, in pixels")
    height: int = Field(description="height of the upright image, in pixels")
    format: str = Field(examples=["JPEG"])
    bundle: str = Field(description="the bundle that made this prediction")


class Classification(Image, Cell):
    """One classified image: its main cell."""


class Cells(Image):
    """One image with all its white cells."""

    cells: list[Cell] = Field(description="the cells, row by row, each row from the left; empty where there is none")
    counts: dict[str, int] = Field(description="cells of each class; those unlike every class are not among them")
    unidentified: int = Field(description="cells unlike every class that the bundle knows")
    picture_jpeg: str | None = Field(None, description="for layers: the upright image, base64")


class Failure(BaseModel):
    """A file of a form that could not be used."""

    name: str
    error: ErrorDetail


class Results(BaseModel):
    """One entry per file of a form, in its order."""

    results: list[Classification | Cells | Failure]


class ModelFacts(BaseModel):
    """The bundle that is served."""

    bundle: str = Field(description="SHA-256 of weights and configuration")
    name: str
    engine: str = Field(description="what runs the network: torch or openvino")
    class_names: list[str]
    preprocessing: dict[str, Any]
    finder: dict[str, Any] | None = Field(description="the learned finder of white cells, if the bundle has one")
    confidence: dict[str, Any]
    created: str
    versions: dict[str, str]
    metrics: dict[str, Any]
    refused: dict[str, str] | None = Field(description="a bundle that was asked for and could not be used, and why")


_SENTENCES = {
    400: "Malformed request",
    401: "No key, or an unknown one",
    408: "The body arrived too slowly",
    413: "The body is too large, or holds too many files",
    415: "Not an image type",
    422: "An image that cannot be used",
    429: "No room now; Retry-After says when",
    500: "An error of the service",
    503: "Not ready, or no room for the body; Retry-After says when",
    504: "No result in time",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": sentence} for status, sentence in _SENTENCES.items()
}
_FILE = {"schema": {"type": "string", "format": "binary"}}
_IMAGE_BODY = {f"image/{kind}": _FILE for kind in ("jpeg", "png", "tiff", "bmp", "webp")} | {
    "application/octet-stream": _FILE
}
_FORM = {
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "properties": {"images": {"type": "array", "minItems": 1, "items": _FILE["schema"]}},
            "required": ["images"],
        }
    }
}
_EXAMPLE = {
    "name": "",
    "label": "NEUTROPHIL",
    "confidence": 0.97,
    "probabilities": {"EOSINOPHIL": 0.02, "LYMPHOCYTE": 0.0, "MONOCYTE": 0.01, "NEUTROPHIL": 0.97},
    "ood": -3.4,
    "flag": "",
    "flag_reason": "",
    "cell": [118.0, 80.0, 192.0, 154.0],
    "box": [96.0, 58.0, 214.0, 176.0],
    "width": 320,
    "height": 240,
    "format": "JPEG",
    "bundle": "f8bd399e…",
    "gradcam": None,
}


@router.post(
    "/classify",
    summary="Classify one image, or several in a form",
    response_model=None,
    responses={
        200: {
            "model": Classification | Cells | Results,
            "description": "One result for a raw body, `results` for a form: a result or an error for each file",
            "content": {"application/json": {"example": _EXAMPLE}},
        },
        **ERRORS,
    },
    openapi_extra={"requestBody": {"required": True, "content": _IMAGE_BODY | _FORM}},
)
async def classify(
    request: Request,
    gradcam: Annotated[
        Literal["false", "true", "layers"],
        Query(description="true: add the heatmap on the image; layers: add image and heatmap apart"),
    ] = "false",
    cells: Annotated[
        Literal["one", "all"],
        Query(description="one: the main cell of each image; all: every white cell of each image"),
    ] = "one",
) -> Response:
    """Send one image as the body (`image/jpeg` and so on), or several as `multipart/form-data`."""
    service: Service = request.app.state.service
    service.check_room()
    async with read_uploads(request, service) as (uploads, form):
        request.scope["leukoray.images"] = len(uploads)

        async def answer(places: Places) -> Response:
            if cells == "all":
                work = (_classify_cells(service, upload, places, gradcam) for upload in uploads)
            else:
                work = (_classify(service, upload, gradcam) for upload in uploads)
            results = await all_of(
                _in_form(upload, one) if form else one for upload, one in zip(uploads, work, strict=True)
            )
            return JSONResponse({"results": results} if form else results[0])

        return await service.within_limits(len(uploads), answer)


@router.post(
    "/gradcam",
    summary="Show where the network looked",
    response_model=None,
    responses={
        200: {
            "description": "The heatmap on the upright image, its longer side at most 1024 pixels",
            "content": {"image/png": _FILE},
            "headers": {
                f"X-Leukoray-{name}": {"schema": {"type": "string"}}
                for name in ("Label", "Confidence", "Flag", "Bundle", "Evidence")
            },
        },
        **ERRORS,
    },
    openapi_extra={"requestBody": {"required": True, "content": _IMAGE_BODY}},
)
async def gradcam(
    request: Request,
    colour_map: Annotated[
        Literal["jet", "turbo", "viridis", "inferno"], Query(description="colours of the heatmap")
    ] = "jet",
    strength: Annotated[float, Query(ge=0, le=1, description="weight of the colours")] = 0.4,
) -> Response:
    """Send one image as the body; get a PNG."""
    service: Service = request.app.state.service
    service.check_room()
    async with read_uploads(request, service) as (uploads, form):
        if form and len(uploads) != 1:
            raise RequestError("too-many-images", "This route takes one image.", 400)
        request.scope["leukoray.images"] = 1

        async def answer(_: Places) -> Response:
            found = await service.classify_file(uploads[0].data, gradcam=True)
            if isinstance(found, ImageError):
                raise found
            png = await service.compute(lambda _: draw(found, colour_map=colour_map, strength=strength))
            return Response(png, media_type="image/png", headers=_headers(found))

        return await service.within_limits(1, answer)


def _headers(found: Classified) -> dict[str, str]:
    """Say in headers what a picture cannot."""
    return {
        "X-Leukoray-Label": quote(found.prediction.label),
        "X-Leukoray-Confidence": f"{found.prediction.confidence:.6f}",
        "X-Leukoray-Flag": found.prediction.flag,
        "X-Leukoray-Evidence": "true" if found.prediction.has_evidence else "false",
        "X-Leukoray-Bundle": found.model.id,
    }


@router.get(
    "/model",
    summary="The bundle that is served",
    response_model=None,
    responses={200: {"model": ModelFacts}, **{status: ERRORS[status] for status in (401, 503)}},
)
async def model(request: Request) -> Response:
    """Classes, preprocessing, thresholds, metrics, and what was refused."""
    service: Service = request.app.state.service
    served, refused = await service.describe()
    return JSONResponse({**served.facts, "refused": refused})


async def _in_form(upload: Upload, work: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
    """Let an error of one file of a form be its own result."""
    try:
        return await work
    except ImageError as error:
        return {"name": upload.name, "error": {"code": error.code, "message": error.message}}


async def _classify(service: Service, upload: Upload, gradcam: str) -> dict[str, Any]:
    """Classify one file and render the result as JSON.

    Raises:
        ImageError: The file cannot be used.
    """
    found = await service.classify_file(upload.data, gradcam=gradcam != "false")
    if isinstance(found, ImageError):
        raise found
    drawn = await _draw(service, found, gradcam)
    if gradcam == "layers" and drawn:
        drawn["picture_jpeg"] = await service.compute(lambda _: draw_picture(found.image))
    return _describe_image(upload.name, found.image, found.model) | _describe(found, drawn)


async def _classify_cells(service: Service, upload: Upload, places: Places, gradcam: str) -> dict[str, Any]:
    """Classify every cell of one file and render the result as JSON.

    Raises:
        ImageError: The file cannot be used.
    """
    found = await service.classify_cells(upload.data, places, gradcam=gradcam != "false")
    if isinstance(found, ImageError):
        raise found
    identified = [cell.prediction.label for cell in found.cells if cell.prediction.flag not in UNIDENTIFIED]
    return {
        **_describe_image(upload.name, found.image, found.model),
        "cells": [_describe(cell, await _draw(service, cell, gradcam)) for cell in found.cells],
        "counts": {name: identified.count(name) for name in found.model.class_names},
        "unidentified": len(found.cells) - len(identified),
        "picture_jpeg": await service.compute(lambda _: draw_picture(found.image)) if gradcam == "layers" else None,
    }


async def _draw(service: Service, found: Classified, gradcam: str) -> dict[str, Any] | None:
    if gradcam == "false" or found.view is None:
        return None
    if gradcam == "layers":
        heatmap = await service.compute(lambda _: draw_heatmap(found))
        pictures = {"heatmap_png": heatmap, "place": list(found.view.region)}
    else:
        pictures = {"overlay_png": base64.b64encode(await service.compute(lambda _: draw(found))).decode()}
    return {**pictures, "evidence": found.prediction.has_evidence}


def _describe_image(name: str, image: Seen, model: Model) -> dict[str, Any]:
    return {
        "name": name,
        "width": image.width,
        "height": image.height,
        "format": image.format,
        "bundle": model.id,
    }


def _describe(found: Classified, gradcam: dict[str, Any] | None) -> dict[str, Any]:
    """Render one cell as JSON."""
    prediction = found.prediction
    shares = zip(found.model.class_names, prediction.probabilities.tolist(), strict=True)
    return {
        "label": prediction.label,
        "confidence": prediction.confidence,
        "probabilities": dict(shares),
        "ood": prediction.ood,
        "flag": prediction.flag,
        "flag_reason": REASONS[prediction.flag],
        "cell": list(prediction.cell) if prediction.cell else None,
        "box": list(prediction.box),
        "gradcam": gradcam,
    }
