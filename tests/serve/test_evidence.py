"""Where nothing in an image speaks for its class, service and batch show the image as it is, and say so."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hostile import encoded, picture
from local_service import local_application, talk
from PIL import Image

from core.images.decoder import decode
from core.images.overlay import NO_EVIDENCE, write_words
from core.model.bundle import load_bundle, save_bundle
from pipelines.classification.patience import Patience
from pipelines.classification.slides import Entry
from pipelines.classification.stains import SlideStains
from pipelines.classification.storage import open_folder
from pipelines.classification.worker import PartClassifier
from pipelines.classification.worker_settings import WorkerSettings
from serve.settings import ServeSettings

if TYPE_CHECKING:
    from pathlib import Path

GOOD = encoded(picture(), "PNG")


@pytest.fixture(scope="module")
def blind(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle in which every feature speaks against every class."""
    bundle = load_bundle(small_bundle)
    with torch.no_grad():
        bundle.network.get_classifier().weight.copy_(-bundle.network.get_classifier().weight.abs())
    folder = tmp_path_factory.mktemp("blind") / "bundle"
    save_bundle(folder, bundle.network, bundle.class_names, bundle.record, None, "")
    return folder


def test_the_service_shows_the_image_and_says_that_there_is_no_evidence(blind: Path) -> None:
    async def conversation(client: Any) -> list[Any]:
        addresses = ("/v1/classify?gradcam=true", "/v1/classify?gradcam=layers", "/v1/gradcam")
        return [await client.post(address, content=GOOD) for address in addresses]

    app, _ = local_application(ServeSettings(bundle=blind, device="cpu", batch_size=1))
    overlay, layers, alone = talk(app, conversation)
    assert overlay.json()["gradcam"]["evidence"] is False
    assert layers.json()["gradcam"]["evidence"] is False
    assert alone.headers["x-leukoray-evidence"] == "false"
    np.testing.assert_array_equal(decode(alone.content).rgb, np.asarray(picture()))
    heat = Image.open(io.BytesIO(base64.b64decode(layers.json()["gradcam"]["heatmap_png"])))
    assert not np.asarray(heat).any()


def test_the_service_says_that_there_is_evidence(small_bundle: Path) -> None:
    app, _ = local_application(ServeSettings(bundle=small_bundle, device="cpu", batch_size=1))
    answer = talk(app, lambda client: client.post("/v1/classify?gradcam=layers", content=GOOD))
    assert answer.json()["gradcam"]["evidence"] is True


def test_the_overlay_of_a_batch_run_is_the_image_with_the_words(blind: Path, tmp_path: Path) -> None:
    (tmp_path / "slide").mkdir()
    (tmp_path / "slide" / "cell.png").write_bytes(GOOD)
    (tmp_path / "run").mkdir()
    settings = WorkerSettings(
        slides=open_folder(str(tmp_path)).location,
        run=open_folder(str(tmp_path / "run")).location,
        patience=Patience(0),
        cells="one",
        gradcam="all",
        colour_map="jet",
        overlay_side=1024,
        overlay_quality=85,
        batch_size=1,
        threads=1,
        loaders=1,
        device="cpu",
    )
    worker = PartClassifier(load_bundle(blind), settings)
    entry = Entry("slide", "cell.png", str(tmp_path / "slide" / "cell.png").encode())
    (row,) = worker._finish([worker._load(entry)], SlideStains())  # pyright: ignore[reportArgumentType]
    drawn = decode((tmp_path / "run" / row["gradcam"]).read_bytes()).rgb
    expected = write_words(np.asarray(picture()), NO_EVIDENCE)
    assert np.abs(drawn.astype(int) - expected).mean() < 3
