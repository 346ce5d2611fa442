"""Tensors of the protocol: what a body may cost, and what is refused before it costs anything."""

from __future__ import annotations

import json
import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest

from serve.errors import RequestError
from serve.tensors import InputTensor, parse_request

SIZE = 60_000
ROW = {"name": "pixels", "shape": [1, 20, 20, 3], "datatype": "UINT8"}


def as_body(data: str, **changes: Any) -> bytes:
    """A request of which the data are given as JSON, to be longer than a test wants to build in Python."""
    head = json.dumps({"inputs": [{**ROW, **changes, "data": None}]})
    return head.replace("null", data).encode()


def numbers(count: int) -> str:
    return ",".join(["7"] * count)


HOSTILE = {
    "numbers and one long string": as_body(f'[{numbers(SIZE // 3)},"{"x" * SIZE}"]'),
    "one long string": as_body(f'["{"x" * SIZE}"]', shape=[1]),
    "too many numbers": as_body(f"[{numbers(SIZE)}]"),
    "nested wrongly": as_body(f"[{','.join(['[1,2,3]'] * (SIZE // 8))}]"),
    "empty lists": as_body(f"[{','.join(['[]'] * (SIZE // 3))}]"),
    "lists of one": as_body(f"[{','.join(['[1]'] * (SIZE // 4))}]"),
    "objects": as_body(f"[{','.join(['{}'] * (SIZE // 3))}]"),
    "deep": as_body("[" * SIZE + "]" * SIZE),
    "fractions": as_body(f"[{','.join(['0.5'] * (SIZE // 4))}]", shape=[SIZE // 4]),
    "numbers of many digits": as_body(f"[{'9' * SIZE}]", shape=[1]),
    "a huge shape": as_body("[1]", shape=[2**31] * 8),
    "a shape of zeros": as_body(f"[{numbers(SIZE)}]", shape=[0, 2**31, 2**31, 3]),
    "strings": as_body("[" + ",".join(['"QQ=="'] * (SIZE // 7)) + "]", datatype="BYTES", shape=[2**31]),
    "a long name": json.dumps({"inputs": [{**ROW, "name": "n" * SIZE, "data": [1]}]}).encode(),
    "a long shape": as_body("[1]", shape=["a"] * (SIZE // 5)),
    "many parameters": as_body("[1]", parameters={f"p{number}": [] for number in range(SIZE // 12)}),
    "unknown fields": as_body("[1]", **{f"f{number}": 0 for number in range(SIZE // 12)}),
    "many inputs": json.dumps({"inputs": [7] * (SIZE // 3)}).encode(),
    "many outputs": json.dumps({"inputs": [{**ROW, "data": [7] * 1200}], "outputs": [7] * (SIZE // 3)}).encode(),
}


def accept(_: InputTensor) -> None:
    """Refuse nothing, so that the tensors' own checks are met."""


@pytest.mark.parametrize("what", HOSTILE)
def test_memory_is_bounded_by_the_size_of_the_body(what: str) -> None:
    body = HOSTILE[what]
    tracemalloc.start()
    try:
        with pytest.raises(RequestError) as caught:
            parse_request(body, None, accept)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 * len(body) + 500_000, f"{peak / len(body):.1f} times the body"
    assert caught.value.status == 400
    assert len(caught.value.message) < 400


@pytest.mark.parametrize("elements", [[b""] * 50_000, [b"a"] * 50_000])
def test_binary_elements_are_counted_before_they_are_copied(elements: list[bytes]) -> None:
    tensor = b"".join(struct.pack("<I", len(one)) + one for one in elements)
    part = {"name": "image", "shape": [3], "datatype": "BYTES", "parameters": {"binary_data_size": len(tensor)}}
    head = json.dumps({"inputs": [part]}).encode()
    body = head + tensor
    tracemalloc.start()
    try:
        with pytest.raises(RequestError, match="does not hold 3 elements"):
            parse_request(body, str(len(head)), accept)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 200_000


@pytest.mark.parametrize("nested", [True, False])
def test_good_pixels_cost_little_and_come_out_as_they_are(*, nested: bool) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (2, 60, 80, 3), np.uint8)
    data = pixels.tolist() if nested else pixels.ravel().tolist()
    body = json.dumps({"inputs": [{**ROW, "shape": list(pixels.shape), "data": data}]}, separators=(",", ":")).encode()
    tracemalloc.start()
    _, tensors = parse_request(body, None, accept)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(tensors["pixels"], pixels)
    assert peak < 16 * len(body) + 500_000


def test_the_smallest_nested_pixels_are_taken() -> None:
    data = [[[[0, 0, 0]] * 300] * 300]
    body = json.dumps({"inputs": [{**ROW, "shape": [1, 300, 300, 3], "data": data}]}, separators=(",", ":")).encode()
    _, tensors = parse_request(body, None, accept)
    assert np.shape(tensors["pixels"]) == (1, 300, 300, 3)
