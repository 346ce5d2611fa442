"""Images over HTTP: results, pictures, odd files."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
import pytest
from hostile import encoded, odd_contents, picture
from PIL import Image
from without_ray import work_here

from core.model.bundle import load_bundle
from core.model.predictor import Predictor
from pipelines.classify import ClassifySettings, classify
from serve.v1 import Classification, ModelFacts, Results

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

JPEG = {"content-type": "image/jpeg"}


@pytest.fixture(scope="module")
def predictor(small_bundle: Path) -> Predictor:
    return Predictor(load_bundle(small_bundle), "cpu")


def test_a_raw_image_gives_what_the_predictor_gives(remote: httpx.Client, predictor: Predictor) -> None:
    for seed in range(6):
        data = encoded(picture(seed), "JPEG")
        answer = remote.post("/v1/classify", content=data, headers=JPEG)
        assert answer.status_code == 200, answer.text
        found = Classification.model_validate(answer.json())
        image, prepared = predictor.prepare(data)
        (expected,) = predictor.predict([prepared])
        assert found.label == expected.label
        assert np.abs(np.array(list(found.probabilities.values())) - expected.probabilities).max() < 1e-5
        assert list(found.probabilities) == list(predictor.bundle.class_names)
        assert abs(found.ood - expected.ood) < 1e-4
        assert found.flag == expected.flag
        assert bool(found.flag_reason) == bool(found.flag)
        assert found.box == tuple(expected.box)
        assert (found.width, found.height, found.format) == (image.width, image.height, "JPEG")
        assert found.bundle == predictor.bundle.id


def test_a_form_gives_one_entry_per_file(client: httpx.Client) -> None:
    good = encoded(picture(), "PNG")
    files = [("a", ("one.png", good)), ("b", ("bad.jpg", b"no image")), ("a", ("zwei-\u00e9.png", good))]
    answer = client.post("/v1/classify", files=files)
    assert answer.status_code == 200
    first, bad, second = Results.model_validate(answer.json()).results
    assert isinstance(first, Classification)
    assert isinstance(second, Classification)
    assert (first.name, second.name) == ("one.png", "zwei-\u00e9.png")
    assert first.probabilities == pytest.approx(second.probabilities, abs=1e-5)
    assert bad.model_dump()["error"]["code"] == "not-an-image"


def test_one_bad_image_does_not_fail_its_neighbours(client: httpx.Client) -> None:
    good = encoded(picture(), "PNG")
    files = [("images", (f"{number}", good if number % 2 else b"bad")) for number in range(8)]
    results = client.post("/v1/classify", files=files).json()["results"]
    assert ["label" in result for result in results] == [bool(number % 2) for number in range(8)]


def test_overlays_and_layers(client: httpx.Client) -> None:
    data = encoded(picture(), "JPEG")
    overlay = client.post("/v1/classify?gradcam=true", content=data, headers=JPEG).json()["gradcam"]["overlay_png"]
    layers = client.post("/v1/classify?gradcam=layers", content=data, headers=JPEG).json()["gradcam"]
    alone = client.post("/v1/gradcam", content=data, headers=JPEG)
    assert alone.headers["content-type"] == "image/png"
    assert alone.headers["x-leukoray-bundle"]
    assert base64.b64decode(overlay) == alone.content
    shown = Image.open(io.BytesIO(base64.b64decode(layers["picture_jpeg"])))
    heat = Image.open(io.BytesIO(base64.b64decode(layers["heatmap_png"])))
    assert shown.size == heat.size == picture().size
    assert heat.mode == "RGBA"
    assert client.post("/v1/classify", content=data, headers=JPEG).json()["gradcam"] is None
    other = client.post("/v1/gradcam?colour_map=viridis&strength=0.8", content=data, headers=JPEG)
    assert other.status_code == 200
    assert other.content != alone.content


@pytest.mark.parametrize("name", sorted(odd_contents()))
def test_odd_files_are_classified(client: httpx.Client, name: str) -> None:
    answer = client.post("/v1/classify?gradcam=true", content=odd_contents()[name])
    assert answer.status_code == 200, answer.text


def test_a_turned_image_is_upright(client: httpx.Client) -> None:
    turned = client.post("/v1/classify", content=odd_contents()["turned.jpg"]).json()
    plain = picture(3)
    assert (turned["width"], turned["height"]) == (plain.height, plain.width)


def test_sizes_from_tiny_to_the_limit(remote: httpx.Client) -> None:
    field = picture(2)
    for size in ((160, 120), (2_000, 1_500), (5_770, 4_330)):
        data = encoded(field.resize(size), "JPEG", quality=80)
        answer = remote.post("/v1/classify?gradcam=layers", content=data, headers=JPEG)
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert (found["width"], found["height"]) == size
        shown = Image.open(io.BytesIO(base64.b64decode(found["gradcam"]["picture_jpeg"])))
        assert max(shown.size) == min(1024, max(size))
        left, top, right, bottom = found["box"]
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]


def test_the_model_is_described(client: httpx.Client, predictor: Predictor) -> None:
    facts = ModelFacts.model_validate(client.get("/v1/model").json())
    assert facts.bundle == predictor.bundle.id
    assert facts.metrics == {}, "a bundle without metrics"
    assert facts.refused is None


def test_request_ids_and_headers(remote: httpx.Client) -> None:
    answer = remote.get("/healthz", headers={"x-request-id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    assert remote.get("/healthz").headers["x-request-id"]
    for name in ("content-security-policy", "x-content-type-options", "x-frame-options", "referrer-policy"):
        assert answer.headers[name], name


def test_the_documentation_needs_nothing_from_outside(client: httpx.Client) -> None:
    page = client.get("/docs").text
    assert "https://" not in page
    assert client.get("/docs/assets/swagger-ui-bundle.js").status_code == 200
    schema = client.get("/openapi.json").json()
    assert {"/v1/classify", "/v1/gradcam", "/v1/model", "/v2/models/{name}/infer"} <= set(schema["paths"])
    assert schema["paths"]["/v1/classify"]["post"]["responses"]["200"]["content"]["application/json"]["example"]


def test_metrics_count(remote: httpx.Client) -> None:
    remote.post("/v1/classify", content=encoded(picture(), "JPEG"), headers=JPEG)
    text = remote.get("/metrics").text
    for name in ("request_seconds", "images_total", "confidence", "batch_size", "forward_seconds", "waiting_images"):
        assert f"leukoray_{name}" in text, name
    assert "leukoray_waiting_images 0.0" in text


def test_a_batch_run_gives_the_same_numbers(
    remote: httpx.Client, small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = tmp_path / "slides" / "smear"
    contents = {name: data for name, data in odd_contents().items() if name.count(".") == 1 and name.isascii()}
    slide.mkdir(parents=True)
    for name, data in contents.items():
        (slide / name).write_bytes(data)
    work_here(monkeypatch)
    settings = ClassifySettings(slides=str(tmp_path / "slides"), out=str(tmp_path / "run"), model=small_bundle)
    assert classify(settings) == 0
    rows = pq.read_table(tmp_path / "run" / "predictions").to_pylist()
    assert {row["image"] for row in rows} == set(contents)
    for row in rows:
        found = remote.post("/v1/classify", content=contents[row["image"]]).json()
        assert (found["label"], found["flag"], found["bundle"]) == (row["label"], row["flag"], row["bundle"])
        assert (found["width"], found["height"]) == (row["width"], row["height"])
        assert found["ood"] == pytest.approx(row["ood"], abs=1e-4)
        for name, share in found["probabilities"].items():
            assert share == pytest.approx(row[f"p_{name}"], abs=1e-5)
