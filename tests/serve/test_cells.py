"""``?cells=all``: every white cell of an image over HTTP, and on the page."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from hostile import encoded, picture
from local_service import local_application, talk

from core.images.drawings import CLASS_NAMES, draw_smear
from core.images.overlay import encode_jpeg
from core.model.bundle import load_bundle
from core.model.predictor import Predictor
from serve.settings import ServeSettings

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

FIELD = encode_jpeg(draw_smear(["NEUTROPHIL", "MONOCYTE", "LYMPHOCYTE"], np.random.default_rng(8))[0])
EMPTY = encode_jpeg(draw_smear([], np.random.default_rng(8))[0])


@pytest.fixture
def settings(field_bundle: Path) -> ServeSettings:
    return ServeSettings(bundle=field_bundle, device="cpu", batch_size=4, max_queue=8, max_images=4)


def ask(settings: ServeSettings, data: bytes, query: str) -> Any:
    app, _ = local_application(settings)

    async def conversation(client: httpx.AsyncClient) -> Any:
        answer = await client.post(f"/v1/classify?{query}", content=data)
        return answer.status_code, answer.json()

    return talk(app, conversation)


def test_every_cell_is_answered(settings: ServeSettings, field_bundle: Path) -> None:
    status, found = ask(settings, FIELD, "cells=all")
    assert status == 200
    predictor = Predictor(load_bundle(field_bundle), "cpu")
    predictions = predictor.predict(predictor.prepare_every(FIELD)[1])
    assert [cell["label"] for cell in found["cells"]] == [one.label for one in predictions]
    np.testing.assert_allclose([cell["cell"] for cell in found["cells"]], [one.cell for one in predictions], atol=1e-3)
    assert sum(found["counts"].values()) + found["unidentified"] == 3
    assert set(found["counts"]) == set(CLASS_NAMES)
    assert (found["width"], found["height"]) == (640, 480)
    assert found["cells"][0]["gradcam"] is None


def test_layers_lie_on_their_places(settings: ServeSettings) -> None:
    _, found = ask(settings, FIELD, "cells=all&gradcam=layers")
    photo = cv2.imdecode(np.frombuffer(base64.b64decode(found["picture_jpeg"]), np.uint8), cv2.IMREAD_COLOR)
    assert photo.shape == (480, 640, 3)
    for cell in found["cells"]:
        layer = base64.b64decode(cell["gradcam"]["heatmap_png"])
        shape = cv2.imdecode(np.frombuffer(layer, np.uint8), cv2.IMREAD_UNCHANGED).shape
        left, top, right, bottom = cell["gradcam"]["place"]
        assert shape == (round(bottom - top), round(right - left), 4)
        assert left <= cell["cell"][0]
        assert right >= cell["cell"][2]


def test_an_image_without_cells_has_an_empty_list(settings: ServeSettings) -> None:
    status, found = ask(settings, EMPTY, "cells=all&gradcam=true")
    assert status == 200
    assert found["cells"] == []
    assert sum(found["counts"].values()) == 0


def test_one_cell_says_that_there_are_others(settings: ServeSettings) -> None:
    _, found = ask(settings, FIELD, "cells=one")
    assert found["flag"] in {"several-cells", "low-confidence"}
    assert found["cell"] is not None
    _, found = ask(settings, EMPTY, "cells=one")
    assert found["flag"] == "no-cell"
    assert found["cell"] is None


def test_a_field_with_more_cells_than_places_takes_its_turns(settings: ServeSettings) -> None:
    status, found = ask(settings.model_copy(update={"max_queue": 1, "max_images": 1}), FIELD, "cells=all")
    assert status == 200
    assert len(found["cells"]) == 3


def test_a_field_with_too_many_cells_is_refused(settings: ServeSettings) -> None:
    status, found = ask(settings.model_copy(update={"max_cells": 2}), FIELD, "cells=all")
    assert status == 422
    assert found["error"]["code"] == "too-many-cells"
    assert "3 cells" in found["error"]["message"]


def test_files_of_a_form_have_a_result_or_an_error_each(settings: ServeSettings) -> None:
    app, _ = local_application(settings)

    async def conversation(client: httpx.AsyncClient) -> Any:
        files = [("images", ("field.jpg", FIELD)), ("images", ("bad.jpg", b"nothing"))]
        return (await client.post("/v1/classify?cells=all", files=files)).json()

    field, bad = talk(app, conversation)["results"]
    assert len(field["cells"]) == 3
    assert bad["error"]["code"] == "not-an-image"


def test_a_bundle_without_a_finder_answers_with_one_cell(small_bundle: Path) -> None:
    _, found = ask(ServeSettings(bundle=small_bundle, device="cpu"), encoded(picture(1), "JPEG"), "cells=all")
    assert len(found["cells"]) == 1
