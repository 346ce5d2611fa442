"""The Open Inference Protocol v2 over REST: two models, the classifier and its heatmaps.

https://github.com/kserve/open-inference-protocol, with Triton's binary tensor and classification extensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from fastapi import APIRouter, Path, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from core import __version__
from core.errors import ImageError
from serve.body import media_type, read_body
from serve.errors import RequestError
from serve.service import Classified, Places, Service, draw
from serve.siblings import all_of
from serve.tensors import InferRequest, InputTensor, OutputTensor, encode_response, parse_request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from serve.messages import Model
    from serve.tensors import RequestedOutput

__all__ = ["DEFINITIONS", "router"]

router = APIRouter(prefix="/v2", tags=["Open Inference Protocol v2"])

SCHEMA = InferRequest.model_json_schema(ref_template="#/components/schemas/{model}")
DEFINITIONS: dict[str, Any] = SCHEMA.pop("$defs")
"""Schemas that the request's schema refers to, for the OpenAPI document."""

_GRADCAM = "-gradcam"
_PLATFORMS = {"torch": "pytorch_eager", "openvino": "openvino"}
"""The protocol's names of the engines."""

_TYPES = {"", "application/json", "application/octet-stream"}


class V2Error(BaseModel):
    """The body of every error."""

    error: str


class ServerFacts(BaseModel):
    """The server."""

    name: str
    version: str
    extensions: list[str]


class TensorFacts(BaseModel):
    """An input or output of a model; -1 is a dimension that varies."""

    name: str
    datatype: str
    shape: list[int]


class V2ModelFacts(BaseModel):
    """A model."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorFacts] = Field(description="a request gives one of them")
    outputs: list[TensorFacts]


class V2Response(BaseModel):
    """The JSON part of a response."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[dict[str, Any]]


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": V2Error} for status in statuses}


_Name = Annotated[str, Path(max_length=200)]
_EXAMPLE = {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": ["/9j/4AAQSkZJRg…"]}]}
_FACTS: dict[str, Any] = {
    "response_model": None,
    "responses": {200: {"model": V2ModelFacts}, **_errors(400, 401, 404, 503)},
}
_READY: dict[str, Any] = {"response_model": None, "responses": _errors(400, 401, 404, 503)}
_INFER: dict[str, Any] = {
    "response_model": None,
    "responses": {
        200: {"model": V2Response},
        **_errors(400, 401, 404, 408, 413, 415, 422, 429, 500, 503, 504),
    },
    "openapi_extra": {
        "requestBody": {"required": True, "content": {"application/json": {"schema": SCHEMA, "example": _EXAMPLE}}}
    },
}


@router.get("", summary="The server", response_model=None, responses={200: {"model": ServerFacts}, **_errors(401)})
async def server() -> Response:
    """Name, version, extensions."""
    return JSONResponse(
        {"name": "leukoray", "version": __version__, "extensions": ["binary_tensor_data", "classification"]}
    )


@router.get("/health/live", summary="Whether the server runs", response_model=None)
async def live() -> Response:
    """Answer that it does."""
    return JSONResponse({"live": True})


@router.get("/health/ready", summary="Whether images can be sent", response_model=None, responses=_errors(503))
async def ready(request: Request) -> Response:
    """Ask the classifier."""
    await _service(request).describe()
    return JSONResponse({"ready": True})


@router.get("/models/{name}", summary="A model's inputs and outputs", **_FACTS)
@router.get("/models/{name}/versions/{version}", summary="A model's inputs and outputs, by version", **_FACTS)
async def facts(request: Request, name: _Name, version: _Name | None = None) -> Response:
    """Describe one of the two models; a version is a bundle's identity."""
    asked = await _find(request, name, version)
    inputs = [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
    inputs += [{"name": "pixels", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}]
    outputs = [{"name": one.name, "datatype": one.datatype, "shape": [-1, *one.shape]} for one in asked.outputs]
    platform = _PLATFORMS[asked.model.facts["engine"]]
    content = {"name": name, "versions": [asked.model.id], "platform": platform, "inputs": inputs, "outputs": outputs}
    return JSONResponse(content)


@router.get("/models/{name}/ready", summary="Whether a model can be used", **_READY)
@router.get("/models/{name}/versions/{version}/ready", summary="Whether a model can be used, by version", **_READY)
async def model_ready(request: Request, name: _Name, version: _Name | None = None) -> Response:
    """Ask the classifier."""
    await _find(request, name, version)
    return JSONResponse({"name": name, "ready": True})


@router.post("/models/{name}/infer", summary="Classify images", **_INFER)
@router.post("/models/{name}/versions/{version}/infer", summary="Classify images, by version", **_INFER)
async def infer(request: Request, name: _Name, version: _Name | None = None) -> Response:
    """Take image files (`image`, BYTES) or decoded images of one size (`pixels`, UINT8, RGB)."""
    service = _service(request)
    asked = await _find(request, name, version, known=True)
    service.check_room()
    if media_type(request) not in _TYPES:
        raise RequestError("not-json", "The Content-Type must be application/json or application/octet-stream.", 415)
    async with read_body(request, service) as body:
        return await service.within_limits(1, lambda places: _infer(request, asked, body, places))


async def _infer(request: Request, asked: _Asked, body: bytes, places: Places) -> Response:
    """Do what a request asks for, its body at hand."""
    service = _service(request)
    length = request.headers.get("inference-header-content-length")
    wanted, tensors = await service.compute(lambda _: parse_request(body, length, _check_input))
    chosen = _choose(asked, wanted)
    images = _images(tensors, service.settings.max_images)
    places.take(len(images) - 1)
    request.scope["leukoray.images"] = len(images)
    found = await _classify(service, images, gradcam=asked.gradcam)
    if len({one.model.id for one in found}) > 1:  # the bundle changed in between; a response names one
        found = await _classify(service, images, gradcam=asked.gradcam)
    overlays: list[bytes] = []
    if any(output.name == "overlay" for output, _ in chosen):
        overlays = await all_of(service.compute(lambda _, one=one: draw(one)) for one in found)
    return await service.compute(lambda _: _render(wanted, chosen, found, overlays, asked.name))


def _render(
    wanted: InferRequest,
    chosen: Sequence[tuple[_Output, RequestedOutput | None]],
    found: Sequence[Classified],
    overlays: Sequence[bytes],
    name: str,
) -> Response:
    outputs = [_output(one, how, found, overlays, wanted) for one, how in chosen]
    head = {"model_name": name, "model_version": found[0].model.id}
    content, json_length = encode_response(head if wanted.id is None else {**head, "id": wanted.id}, outputs)
    if json_length is None:
        return Response(content, media_type="application/json")
    headers = {"Inference-Header-Content-Length": str(json_length)}
    return Response(content, media_type="application/octet-stream", headers=headers)


@dataclass(frozen=True, slots=True)
class _Output:
    """An output of a model, without the batch dimension."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Asked:
    """The model that a request names."""

    name: str
    model: Model
    gradcam: bool

    @property
    def outputs(self) -> tuple[_Output, ...]:
        common = (_Output("label", "BYTES", ()), _Output("box", "FP32", (4,)))
        if self.gradcam:
            return (_Output("map", "FP32", self.model.map_shape), *common, _Output("overlay", "BYTES", ()))
        return (
            _Output("probabilities", "FP32", (len(self.model.class_names),)),
            *common,
            _Output("ood", "FP32", ()),
            _Output("flag", "BYTES", ()),
        )


def _service(request: Request) -> Service:
    return request.app.state.service


async def _find(request: Request, name: str, version: str | None, *, known: bool = False) -> _Asked:
    """Find the model that a request names; `known` spares the classifier the question where the answer is at hand."""
    service = _service(request)
    base = service.settings.model_name
    if name not in {base, base + _GRADCAM}:
        message = f"There is no model {name!r}; there are {base!r} and {base + _GRADCAM!r}."
        raise RequestError("no-model", message, 404)
    model = await service.model() if known else (await service.describe())[0]
    if known and version is not None and version != model.id:
        model, _ = await service.describe()
    if version is not None and version != model.id:
        raise RequestError("no-version", f"The version {version!r} is not served; {model.id!r} is.", 404)
    return _Asked(name, model, name != base)


def _choose(asked: _Asked, wanted: InferRequest) -> list[tuple[_Output, RequestedOutput | None]]:
    """Match the outputs that a request asks for; all of them where it names none."""
    known = {output.name: output for output in asked.outputs}
    if not wanted.outputs:
        return [(output, None) for output in known.values()]
    unknown = [one.name for one in wanted.outputs if one.name not in known]
    if unknown:
        raise RequestError("no-output", f"There is no output {unknown[0]!r}; there are {', '.join(known)}.")
    return [(known[one.name], one) for one in wanted.outputs]


def _check_input(tensor: InputTensor) -> None:
    """Refuse, before its data are read, an input that the models do not have.

    Raises:
        RequestError: With status 400.
    """
    shape = tensor.shape
    files = tensor.name == "image" and tensor.datatype == "BYTES" and len(shape) == 1
    pixels = tensor.name == "pixels" and tensor.datatype == "UINT8" and len(shape) == 4 and shape[3] == 3
    if not files and not pixels:
        raise RequestError(
            "malformed",
            "Give one input: 'image', BYTES of shape [N], or 'pixels', UINT8 of shape [N, H, W, 3];"
            f" this one is {tensor.name[:80]!r}, {tensor.datatype} of shape {shape}.",
        )


def _images(tensors: dict[str, NDArray[np.uint8] | list[bytes]], most: int) -> list[bytes] | list[NDArray[np.uint8]]:
    """Return the images of the one input that a request gives.

    Raises:
        RequestError: With status 400, or 413 where it holds too many images.
    """
    if len(tensors) != 1:
        raise RequestError("malformed", "Give one input: 'image' (BYTES) or 'pixels' (UINT8), not both.")
    ((name, tensor),) = tensors.items()
    if not 0 < len(tensor) <= most:
        message = f"The input {name!r} must hold 1 to {most} images."
        raise RequestError("malformed", message, 413 if len(tensor) else 400)
    return tensor if isinstance(tensor, list) else list(tensor)


async def _classify(
    service: Service, images: list[bytes] | list[NDArray[np.uint8]], *, gradcam: bool
) -> list[Classified]:
    return await all_of(_classify_one(service, number, image, gradcam=gradcam) for number, image in enumerate(images))


async def _classify_one(
    service: Service, number: int, image: bytes | NDArray[np.uint8], *, gradcam: bool
) -> Classified:
    if isinstance(image, bytes):
        found = await service.classify_file(image, gradcam=gradcam)
    else:
        found = await service.classify_pixels(image, gradcam=gradcam)
    if isinstance(found, ImageError):
        raise ImageError(found.code, f"Image {number}: {found.message}")
    return found


def _output(
    output: _Output,
    how: RequestedOutput | None,
    found: Sequence[Classified],
    overlays: Sequence[bytes],
    wanted: InferRequest,
) -> OutputTensor:
    parameters = how.parameters if how is not None else {}
    binary = bool(parameters.get("binary_data", wanted.parameters.get("binary_data_output", False)))
    top = parameters.get("classification")
    if top is not None:
        return _top_classes(output, found, top, binary=binary)
    if output.name == "overlay":
        return OutputTensor("overlay", "BYTES", (len(found),), list(overlays), binary, text=False)
    if output.datatype == "BYTES":
        texts = [(one.prediction.label if output.name == "label" else one.prediction.flag).encode() for one in found]
        return OutputTensor(output.name, "BYTES", (len(found),), texts, binary)
    values = np.stack([_values(output.name, one) for one in found])
    return OutputTensor(output.name, "FP32", values.shape, values, binary)


def _values(name: str, one: Classified) -> NDArray[np.float32]:
    prediction = one.prediction
    if name == "probabilities":
        return prediction.probabilities
    if name == "map" and prediction.cam is not None:
        return prediction.cam.values
    return np.asarray(prediction.box if name == "box" else prediction.ood, np.float32)


def _top_classes(output: _Output, found: Sequence[Classified], top: object, *, binary: bool) -> OutputTensor:
    """Triton's classification extension: ``value:index:label`` of the most probable classes."""
    if output.name != "probabilities" or isinstance(top, bool) or not isinstance(top, int) or top < 1:
        raise RequestError("malformed", "'classification' is a whole number of classes, for 'probabilities' alone.")
    names = found[0].model.class_names
    count = min(top, len(names))
    texts = [
        f"{one.prediction.probabilities[index]:f}:{index}:{names[index]}".encode()
        for one in found
        for index in np.argsort(-one.prediction.probabilities, kind="stable")[:count]
    ]
    return OutputTensor(output.name, "BYTES", (len(found), count), texts, binary)
