"""The path over a GPU: on the GPU where there is one, else on one that computes nothing but knows what is where."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from pretended_gpu import pretended_gpu

from core.data.augmentation import Augmentation
from core.data.class_folders import Sample
from core.data.image_set import OUTLIER, ImageSet
from core.images.overlay import encode_jpeg
from core.images.preprocessing import Preprocessing
from core.model.network import build_network
from core.model.predictor import Predictor
from core.training.config import TrainingConfig
from core.training.trainer import Epoch, Trainer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from core.model.bundle import Bundle

EVERYTHING = Augmentation(
    scale=0.1, shift=0.1, density=0.2, stain=0.1, illumination=0.1, blur=1.0, noise=4.0, margin=1.25
)
GPU = torch.cuda.is_available()


@pytest.fixture
def _gpu() -> Iterator[None]:
    with nullcontext() if GPU else pretended_gpu():
        yield


def images(count: int = 24) -> ImageSet:
    labels = torch.arange(count) % 2
    labels[-2:] = OUTLIER
    pixels = torch.randint(0, 255, (count, 40, 40, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    samples = tuple(Sample(path=None, label=int(label), source=None) for label in labels)  # type: ignore[arg-type]
    return ImageSet(pixels, labels, torch.arange(count), samples)


def trainer(checkpoint: Path | None = None, **changes: object) -> Trainer:
    config = TrainingConfig.model_validate(
        {"epochs": 3, "batch_size": 8, "augmentation": EVERYTHING, "keep": "last"} | changes
    )
    known = images()
    validation = ImageSet(known.pixels[:8, 4:36, 4:36], known.labels[:8], known.sources[:8], known.samples[:8])
    preprocessing = Preprocessing(height=32, width=32)
    names = ("DARK", "LIGHT")
    return Trainer(
        build_network(2, architecture="test_efficientnet"),
        config,
        preprocessing,
        known,
        validation,
        names,
        device="cuda",
        checkpoint=checkpoint,
    )


@pytest.mark.usefixtures("_gpu")
@pytest.mark.parametrize(("precision", "schedule"), [("float32", "step"), ("auto", "one-cycle")])
def test_a_run_on_the_card_can_be_continued(precision: str, schedule: str, tmp_path: Path) -> None:
    options = {"precision": precision, "schedule": schedule, "balance": "source", "optimizer": "adamw"}
    run = trainer(tmp_path / "c.safetensors", **options)

    def interrupt(epoch: Epoch) -> None:
        if epoch.number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.fit(interrupt)
    again = trainer(tmp_path / "c.safetensors", **options)
    assert again.resume()
    again.fit()
    assert [row["epoch"] for row in again.progress.history] == [1, 2, 3]
    assert {value.device.type for value in again.network.state_dict().values()} == {"cuda"}


@pytest.mark.usefixtures("_gpu")
def test_images_live_on_the_card_that_has_room() -> None:
    assert trainer()._pixels.device.type == "cuda"


@pytest.mark.skipif(GPU, reason="a real card has room for them")
def test_images_stay_where_they_are_where_the_card_has_no_room() -> None:
    with pretended_gpu(free=10_000):
        run = trainer()
        assert run._pixels.device.type == "cpu"
        run.fit()


@pytest.mark.usefixtures("_gpu")
def test_the_card_classifies_and_explains(bundle: Bundle, fields: list[np.ndarray]) -> None:
    predictor = Predictor(bundle, "auto")
    found = predictor.predict([predictor.prepare(encode_jpeg(rgb))[1] for rgb in fields])
    assert all(one.cam is not None for one in found)


@pytest.mark.skipif(not GPU, reason="no GPU here")
def test_the_card_says_what_the_cpu_says(bundle: Bundle, fields: list[np.ndarray]) -> None:
    here, there = Predictor(bundle, "cpu"), Predictor(bundle, "cuda")
    prepared = [here.prepare(encode_jpeg(rgb))[1] for rgb in fields]
    for one, other in zip(here.predict(prepared), there.predict(prepared), strict=True):
        assert other.label == one.label
        np.testing.assert_allclose(other.probabilities, one.probabilities, atol=5e-3, rtol=0)


@pytest.mark.skipif(GPU, reason="a real card refuses it by itself")
def test_the_pretended_card_refuses_what_a_card_refuses() -> None:
    with pretended_gpu(), pytest.raises(RuntimeError, match="same device"):
        torch.rand(3).to("cuda") + torch.rand(3)
