"""The Open Inference Protocol, driven by Triton's own client and by hand."""

from __future__ import annotations

import base64
import json
import struct
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from hostile import encoded, hostile_contents, picture

from core.model.bundle import load_bundle
from core.model.predictor import Predictor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx
    from tritonclient.http import InferenceServerClient

FILES = [encoded(picture(seed), "JPEG") for seed in range(3)]
NAME = "blood-cells"


@pytest.fixture(scope="module")
def expected(small_bundle: Path) -> list[Any]:
    predictor = Predictor(load_bundle(small_bundle), "cpu")
    return predictor.predict([predictor.prepare(data)[1] for data in FILES])


@pytest.fixture
def triton(served: str) -> Iterator[InferenceServerClient]:
    from tritonclient.http import InferenceServerClient

    client = InferenceServerClient(urlsplit(served).netloc)
    yield client
    client.close()


def test_tritonclient_reads_health_and_metadata(triton: InferenceServerClient, small_bundle: Path) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    bundle = load_bundle(small_bundle)
    for name in (NAME, f"{NAME}-gradcam"):
        assert triton.is_model_ready(name)
        assert triton.is_model_ready(name, bundle.id)
        facts = triton.get_model_metadata(name, bundle.id)
        assert facts["versions"] == [bundle.id]
    assert set(triton.get_server_metadata()["extensions"]) == {"binary_tensor_data", "classification"}
    assert not triton.is_model_ready("another")
    assert not triton.is_model_ready(NAME, "1")


@pytest.mark.parametrize("binary", [True, False])
def test_tritonclient_classifies_files(triton: InferenceServerClient, expected: list[Any], *, binary: bool) -> None:
    from tritonclient.http import InferInput, InferRequestedOutput

    given = InferInput("image", [3], "BYTES")
    given.set_data_from_numpy(np.array(FILES, dtype=np.object_), binary_data=True)
    names = ["probabilities", "label", "box", "ood", "flag"]
    wanted = [InferRequestedOutput(name, binary_data=binary) for name in names]
    result = triton.infer(NAME, [given], outputs=wanted, request_id="seven")
    assert result.get_response()["id"] == "seven"
    assert np.abs(result.as_numpy("probabilities") - np.stack([one.probabilities for one in expected])).max() < 1e-5
    assert np.allclose(result.as_numpy("box"), [one.box for one in expected])
    assert np.allclose(result.as_numpy("ood"), [one.ood for one in expected], atol=1e-4)
    labels = [value.decode() if isinstance(value, bytes) else value for value in result.as_numpy("label").tolist()]
    assert labels == [one.label for one in expected]


def test_tritonclient_classifies_pixels(triton: InferenceServerClient) -> None:
    from tritonclient.http import InferInput, InferRequestedOutput

    pixels = np.stack([np.asarray(picture(seed)) for seed in range(2)])
    answers = []
    for binary in (True, False):
        given = InferInput("pixels", list(pixels.shape), "UINT8")
        given.set_data_from_numpy(pixels, binary_data=binary)
        answers.append(triton.infer(NAME, [given], outputs=[InferRequestedOutput("probabilities")]))
    assert np.allclose(answers[0].as_numpy("probabilities"), answers[1].as_numpy("probabilities"), atol=1e-6)


def test_tritonclient_asks_for_the_best_classes(triton: InferenceServerClient, expected: list[Any]) -> None:
    from tritonclient.http import InferInput, InferRequestedOutput

    given = InferInput("image", [3], "BYTES")
    given.set_data_from_numpy(np.array(FILES, dtype=np.object_))
    result = triton.infer(NAME, [given], outputs=[InferRequestedOutput("probabilities", class_count=2)])
    best = result.as_numpy("probabilities")
    assert best.shape == (3, 2)
    assert [row[0].decode().split(":")[2] for row in best] == [one.label for one in expected]


def test_tritonclient_gets_heatmaps(triton: InferenceServerClient, expected: list[Any]) -> None:
    from tritonclient.http import InferInput

    given = InferInput("image", [3], "BYTES")
    given.set_data_from_numpy(np.array(FILES, dtype=np.object_))
    result = triton.infer(f"{NAME}-gradcam", [given])
    assert np.abs(result.as_numpy("map") - np.stack([one.cam.values for one in expected])).max() < 1e-4
    overlays = result.as_numpy("overlay")
    assert len(overlays) == 3


def infer(client: httpx.Client, body: object, name: str = NAME, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client.post(f"/v2/models/{name}/infer", content=content, headers=headers)


def as_json(files: list[bytes], **more: object) -> dict[str, Any]:
    data = [base64.b64encode(one).decode() for one in files]
    return {"inputs": [{"name": "image", "shape": [len(files)], "datatype": "BYTES", "data": data, **more}]}


def test_json_nested_and_flat(client: httpx.Client, expected: list[Any]) -> None:
    answer = infer(client, as_json(FILES)).json()
    outputs = {one["name"]: one for one in answer["outputs"]}
    shares = np.concatenate([one.probabilities for one in expected])
    assert np.allclose(outputs["probabilities"]["data"], shares, atol=1e-5)
    assert outputs["probabilities"]["shape"] == [3, 4]
    small = np.asarray(picture(0).resize((40, 30)))[None]
    tensor = {"name": "pixels", "shape": list(small.shape), "datatype": "UINT8"}
    nested = infer(client, {"inputs": [{**tensor, "data": small.tolist()}]}).json()
    flat = infer(client, {"inputs": [{**tensor, "data": small.ravel().tolist()}]}).json()
    assert nested["outputs"][0]["data"] == pytest.approx(flat["outputs"][0]["data"], abs=1e-6)


def test_binary_by_hand(remote: httpx.Client, expected: list[Any]) -> None:
    tensor = b"".join(struct.pack("<I", len(one)) + one for one in FILES)
    part = {"name": "image", "shape": [3], "datatype": "BYTES", "parameters": {"binary_data_size": len(tensor)}}
    head = json.dumps({"inputs": [part], "parameters": {"binary_data_output": True}}).encode()
    answer = infer(remote, head + tensor, **{"inference-header-content-length": str(len(head))})
    length = int(answer.headers["inference-header-content-length"])
    content = json.loads(answer.content[:length])
    first = content["outputs"][0]
    values = np.frombuffer(answer.content[length : length + first["parameters"]["binary_data_size"]], "<f4")
    assert np.allclose(values.reshape(3, 4), [one.probabilities for one in expected], atol=1e-5)


PIXELS = {"name": "pixels", "shape": [1, 20, 20, 3], "datatype": "UINT8", "data": [7] * 1200}
BAD: dict[str, Any] = {
    "nothing": b"",
    "no JSON": b"{",
    "a list": [],
    "a number": 3,
    "deep": b"[" * 200_000,
    "NaN": b'{"inputs": [{"name": "pixels", "shape": [1], "datatype": "UINT8", "data": [NaN]}]}',
    "no inputs": {"inputs": []},
    "unknown field": {**as_json(FILES[:1]), "more": 1},
    "unknown input": {"inputs": [{**PIXELS, "name": "x"}]},
    "twice": {"inputs": [PIXELS, PIXELS]},
    "both": {"inputs": [PIXELS, as_json(FILES[:1])["inputs"][0]]},
    "unknown output": {"inputs": [PIXELS], "outputs": [{"name": "x"}]},
    "shape": {"inputs": [{**PIXELS, "shape": [1, 20, 20, 4]}]},
    "rank": {"inputs": [{**PIXELS, "shape": [20, 20, 3], "data": [7] * 1200}]},
    "negative shape": {"inputs": [{**PIXELS, "shape": [-1, 20, 20, 3]}]},
    "huge shape": {"inputs": [{**PIXELS, "shape": [2**31, 2**31, 2**31, 3]}]},
    "empty": {"inputs": [{**PIXELS, "shape": [0, 20, 20, 3], "data": []}]},
    "ragged": {"inputs": [{**PIXELS, "data": [[1], [2, 3]]}]},
    "strings": {"inputs": [{**PIXELS, "data": ["a"] * 1200}]},
    "floats": {"inputs": [{**PIXELS, "data": [0.5] * 1200}]},
    "booleans": {"inputs": [{**PIXELS, "data": [True] * 1200}]},
    "too large": {"inputs": [{**PIXELS, "data": [256] * 1200}]},
    "too small": {"inputs": [{**PIXELS, "data": [-1] * 1200}]},
    "enormous": {"inputs": [{**PIXELS, "data": [10**400] * 1200}]},
    "null": {"inputs": [{**PIXELS, "data": None}]},
    "float tensor": {"inputs": [{**PIXELS, "datatype": "FP32"}]},
    "no such type": {"inputs": [{**PIXELS, "datatype": "FLOAT"}]},
    "not base64": {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": ["*"]}]},
    "bytes of numbers": {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [3]}]},
    "too few": {"inputs": [{"name": "image", "shape": [2], "datatype": "BYTES", "data": [""]}]},
    "binary without": {"inputs": [{**PIXELS, "parameters": {"binary_data_size": 5}}]},
    "list parameter": {"inputs": [{**PIXELS, "parameters": {"a": [1]}}]},
    "classes": {"inputs": [PIXELS], "outputs": [{"name": "label", "parameters": {"classification": 1}}]},
    "two dimensions": {"inputs": [{**as_json(FILES[:1])["inputs"][0], "shape": [1, 1]}]},
    "nested bytes": {"inputs": [{**as_json(FILES[:1])["inputs"][0], "data": [["AAAA"]]}]},
    "long string": {"inputs": [{**PIXELS, "data": [7] * 1199 + ["x" * 5_000]}]},
    "zero classes": {"inputs": [PIXELS], "outputs": [{"name": "probabilities", "parameters": {"classification": 0}}]},
    "id": {**as_json(FILES[:1]), "id": 7},
}


@pytest.mark.parametrize("what", BAD)
def test_bad_requests(client: httpx.Client, what: str) -> None:
    answer = infer(client, BAD[what])
    assert answer.status_code == 400, answer.text
    assert isinstance(answer.json()["error"], str)


def test_bad_binary(client: httpx.Client) -> None:
    part = {"name": "image", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 8}}
    head = json.dumps({"inputs": [part]}).encode()
    for length, tail in (
        (len(head), struct.pack("<II", 99, 1)),
        (len(head), b"\1\2\3"),
        (len(head), b"\0" * 20),
        (0, b""),
        (len(head) + 999, b"\0" * 8),
        (3, b"\0" * 8),
        ("x", b"\0" * 8),
        (len(head), b"\0" * 8),
    ):
        answer = infer(client, head + tail, **{"inference-header-content-length": str(length)})
        assert answer.status_code == 400, answer.text
        assert isinstance(answer.json()["error"], str)


def test_other_refusals(client: httpx.Client, bundle: Any) -> None:
    body = as_json(FILES[:1])
    assert infer(client, body, "nobody").status_code == 404
    assert client.post(f"/v2/models/{NAME}/versions/1/infer", json=body).status_code == 404
    assert client.post(f"/v2/models/{NAME}/versions/{bundle.id}/infer", json=body).status_code == 200
    assert infer(client, as_json([b"no image"])).status_code == 422
    assert infer(client, as_json(FILES * 3)).status_code == 413
    assert infer(client, body, **{"content-type": "text/plain"}).status_code == 415
    assert "Image 1" in infer(client, as_json([FILES[0], hostile_contents()["cut.tif"][0]])).json()["error"]
    for path in ("/v2/nothing", "/v2/models", f"/v2/models/{NAME}/nothing"):
        answer = client.get(path)
        assert answer.status_code == 404
        assert isinstance(answer.json()["error"], str)
