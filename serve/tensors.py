"""Tensors of the Open Inference Protocol v2, in JSON (nested or flat) and in binary.

Formats: the protocol's ``inference_rest.md`` and Triton's ``extension_binary_data.md``.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr, ValidationError
from pydantic_core import from_json

from core.settings import describe_problems
from serve.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

__all__ = ["InferRequest", "InputTensor", "OutputTensor", "RequestedOutput", "encode_response", "parse_request"]

_BYTES_PER_LIST = 7
"""Length of ``[1,2,3]``, the shortest list that a tensor of pixels is made of; Python takes 64 bytes for the list."""

_SPARE_LISTS = 256
_MOST_VALUES = 1_000
_LONGEST = 300

_Parameter = StrictBool | StrictInt | StrictFloat | StrictStr
_Dimension = Annotated[int, Field(strict=True, ge=0, le=1 << 31)]
Datatype = Literal[
    "BOOL",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "FP16",
    "FP32",
    "FP64",
    "BYTES",
]


class InputTensor(BaseModel):
    """An input of a request."""

    model_config = ConfigDict(extra="forbid")

    name: StrictStr
    shape: list[_Dimension] = Field(max_length=8)
    datatype: Datatype
    parameters: dict[str, _Parameter] = {}
    data: Any = Field(None, description="nested or flat; BYTES as base64; absent where it follows in binary")


class RequestedOutput(BaseModel):
    """An output that a request asks for."""

    model_config = ConfigDict(extra="forbid")

    name: StrictStr
    parameters: dict[str, _Parameter] = {}


class InferRequest(BaseModel):
    """The JSON part of a request."""

    model_config = ConfigDict(extra="forbid")

    id: StrictStr | None = Field(None, max_length=1024)
    parameters: dict[str, _Parameter] = {}
    inputs: list[InputTensor] = Field(min_length=1, max_length=16)
    outputs: list[RequestedOutput] | None = Field(None, max_length=64)


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """An output of a response.

    Attributes:
        name: Name of the output.
        datatype: ``FP32`` or ``BYTES``.
        shape: Shape of `data`.
        data: An array, or a list of bytes for ``BYTES``.
        binary: Whether it follows the JSON part.
        text: Whether BYTES are UTF-8, so that JSON holds them as they are, not in base64.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: NDArray[np.float32] | list[bytes]
    binary: bool
    text: bool = True


def parse_request(
    body: bytes, json_length: str | None, check: Callable[[InputTensor], None]
) -> tuple[InferRequest, dict[str, NDArray[np.uint8] | list[bytes]]]:
    """Read a request and its tensors, in memory that is bounded by a small multiple of the body's size.

    Args:
        body: The whole body.
        json_length: Header ``Inference-Header-Content-Length``: bytes of the JSON part, where tensors follow.
        check: Function that refuses an input by name, datatype and shape, before its data are looked at.

    Returns:
        The request, and its tensors by name: (…) uint8, or a list of bytes for BYTES.

    Raises:
        RequestError: With status 400, saying what is wrong, or as `check` says.
    """
    length = _json_length(json_length, len(body))
    request = _parse_head(body[:length])
    rest = memoryview(body)[length:]
    tensors: dict[str, NDArray[np.uint8] | list[bytes]] = {}
    for tensor in request.inputs:
        if tensor.name in tensors:
            raise _bad(f"The input {tensor.name!r} is given twice.")
        check(tensor)
        size = tensor.parameters.get("binary_data_size")
        if size is None:
            tensors[tensor.name] = _from_json(tensor)
            continue
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(rest) or tensor.data is not None:
            raise _bad(f"The input {tensor.name!r}: binary_data_size does not fit the body.")
        tensors[tensor.name] = _from_binary(tensor, rest[:size])
        rest = rest[size:]
    if len(rest):
        raise _bad(f"{len(rest)} bytes follow the last tensor.")
    return request, tensors


def encode_response(head: dict[str, Any], outputs: Sequence[OutputTensor]) -> tuple[bytes, int | None]:
    """Return a response's body, and the length of its JSON part where tensors follow in binary."""
    described: list[dict[str, Any]] = []
    binary: list[bytes] = []
    for output in outputs:
        entry: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": list(output.shape)}
        if output.binary:
            binary.append(_to_binary(output))
            entry["parameters"] = {"binary_data_size": len(binary[-1])}
        else:
            entry["data"] = _to_json(output)
            if output.datatype == "BYTES" and not output.text:
                entry["parameters"] = {"content_type": "base64"}
        described.append(entry)
    content = json.dumps({**head, "outputs": described}, allow_nan=False).encode()
    return b"".join((content, *binary)), len(content) if binary else None


def _json_length(header: str | None, size: int) -> int:
    if header is None:
        return size
    if not (header.isascii() and header.isdigit()) or int(header[:18]) > size:
        raise _bad("Inference-Header-Content-Length does not fit the body.")
    if int(header[:18]) == 0:
        raise _bad("Raw binary requests are not taken; send the JSON part too.")
    return int(header[:18])


def _parse_head(content: bytes) -> InferRequest:
    """Read the JSON part; refuse what would take far more memory than it has bytes before it takes any."""
    if content.count(b"[") + content.count(b"{") > len(content) // _BYTES_PER_LIST + _SPARE_LISTS:
        raise _bad("The JSON holds too many lists or objects for its size.")
    try:
        value = from_json(content, allow_inf_nan=False)
    except ValueError as error:
        raise _bad(f"The body is not JSON ({str(error)[:120]}).") from None
    _check_extent(value)
    try:
        return InferRequest.model_validate(value)
    except ValidationError as error:
        raise _bad(describe_problems(error.errors(include_url=False, include_input=False))[0]) from None


def _check_extent(value: object) -> None:
    """Refuse a request that holds many things beside its tensors' data: each might be an error to report."""
    waiting, seen = [value], 0
    while waiting:
        one = waiting.pop()
        if not isinstance(one, (list, dict)):
            continue
        seen += len(one)
        if seen > _MOST_VALUES:
            raise _bad(f"The request holds more than {_MOST_VALUES} values beside its data.")
        waiting += [part for key, part in one.items() if key != "data"] if isinstance(one, dict) else one


def _from_json(tensor: InputTensor) -> NDArray[np.uint8] | list[bytes]:
    if not isinstance(tensor.data, list):
        raise _bad(f"The input {tensor.name!r}: data is not a list.")
    if tensor.datatype == "BYTES":
        return _decode_strings(tensor, tensor.data)
    if tensor.datatype != "UINT8":
        raise _wrong_type(tensor)
    flat = len(tensor.shape) == 1 or not isinstance(next(iter(tensor.data), None), list)
    shape = [math.prod(tensor.shape)] if flat else tensor.shape
    values = bytearray()
    for row in _rows(tensor, tensor.data, shape):
        values += _whole_numbers(tensor, row)
    return np.frombuffer(values, np.uint8).reshape(tensor.shape)


def _rows(tensor: InputTensor, data: object, shape: list[int]) -> Iterator[list[object]]:
    """Give the innermost lists of nested data, each checked against the shape before it is looked into."""
    if not isinstance(data, list) or len(data) != shape[0]:
        raise _bad(f"The input {tensor.name!r}: data is not of shape {tensor.shape}, neither flat nor nested.")
    if len(shape) == 1:
        yield data
        return
    for part in data:
        yield from _rows(tensor, part, shape[1:])


def _whole_numbers(tensor: InputTensor, row: list[object]) -> bytes:
    if not set(map(type, row)) <= {int}:  # bool is a kind of int, but no number in JSON
        raise _bad(f"The input {tensor.name!r}: data is not of whole numbers.")
    try:
        return bytes(cast("list[int]", row))
    except (ValueError, OverflowError):
        raise _bad(f"The input {tensor.name!r}: a value is not within 0 to 255.") from None


def _from_binary(tensor: InputTensor, data: memoryview) -> NDArray[np.uint8] | list[bytes]:
    count = math.prod(tensor.shape)
    if tensor.datatype == "BYTES":
        return _split_elements(tensor, data, count)
    if tensor.datatype != "UINT8":
        raise _wrong_type(tensor)
    if len(data) != count:
        raise _bad(f"The input {tensor.name!r} holds {len(data)} bytes, not {count}.")
    return np.frombuffer(data, np.uint8).reshape(tensor.shape)


def _split_elements(tensor: InputTensor, data: memoryview, count: int) -> list[bytes]:
    elements: list[bytes] = []
    at = 0
    while at < len(data) and len(elements) < count:
        length = struct.unpack_from("<I", data, at)[0] if at + 4 <= len(data) else len(data)
        if at + 4 + length > len(data):
            raise _bad(f"The input {tensor.name!r}: an element reaches past its end.")
        elements.append(bytes(data[at + 4 : at + 4 + length]))
        at += 4 + length
    if len(elements) != count or at != len(data):
        raise _bad(f"The input {tensor.name!r} does not hold {count} elements.")
    return elements


def _decode_strings(tensor: InputTensor, values: list[object]) -> list[bytes]:
    count = math.prod(tensor.shape)
    if len(values) != count:
        raise _bad(f"The input {tensor.name!r} holds {len(values)} elements, not {count}.")
    elements: list[bytes] = []
    for value in values:
        if not isinstance(value, str):
            raise _not_base64(tensor)
        try:
            elements.append(base64.b64decode(value, validate=True))
        except (binascii.Error, ValueError):
            raise _not_base64(tensor) from None
    return elements


def _to_json(output: OutputTensor) -> list[Any]:
    if isinstance(output.data, list):
        return [value.decode() if output.text else base64.b64encode(value).decode() for value in output.data]
    return output.data.ravel().tolist()


def _to_binary(output: OutputTensor) -> bytes:
    if isinstance(output.data, list):
        return b"".join(struct.pack("<I", len(value)) + value for value in output.data)
    return output.data.astype("<f4").tobytes()


def _bad(message: str) -> RequestError:
    """Refuse with a sentence, which may quote the caller: in moderation."""
    return RequestError("malformed", message if len(message) <= _LONGEST else f"{message[:_LONGEST]}…", 400)


def _not_base64(tensor: InputTensor) -> RequestError:
    return _bad(f"The input {tensor.name!r}: BYTES in JSON are base64; or send them in binary.")


def _wrong_type(tensor: InputTensor) -> RequestError:
    return _bad(f"The input {tensor.name!r} has datatype {tensor.datatype}; pixels are UINT8, files BYTES.")
