from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from core.errors import ImageError, SettingsError
from core.images.drawings import draw_field
from core.images.overlay import encode_jpeg
from core.model.confidence import Confidence, energy
from core.model.predictor import Predictor

if TYPE_CHECKING:
    from core.model.bundle import Bundle


@pytest.fixture(scope="module")
def predictor(bundle: Bundle) -> Predictor:
    return Predictor(bundle, "cpu")


def test_a_prediction_is_complete(predictor: Predictor, fields: list[np.ndarray]) -> None:
    for rgb, prediction in zip(
        fields, predictor.predict([predictor.prepare(encode_jpeg(rgb))[1] for rgb in fields]), strict=True
    ):
        assert prediction.label in predictor.bundle.class_names
        assert prediction.probabilities.sum() == pytest.approx(1, abs=1e-6)
        assert prediction.confidence == pytest.approx(float(prediction.probabilities.max()))
        assert prediction.cam is not None
        assert prediction.cam.values.dtype == np.float32
        assert prediction.cam.values.min() >= 0
        assert prediction.cam.values.max() in {0.0, 1.0}
        assert prediction.box.right <= rgb.shape[1]


def test_a_batch_gives_what_single_images_give(predictor: Predictor, fields: list[np.ndarray]) -> None:
    prepared = [predictor.prepare(encode_jpeg(rgb))[1] for rgb in fields]
    together = predictor.predict(prepared)
    for image, expected in zip(prepared, together, strict=True):
        (alone,) = predictor.predict([image])
        assert alone.label == expected.label
        np.testing.assert_allclose(alone.probabilities, expected.probabilities, atol=1e-5)
        np.testing.assert_allclose(alone.cam.values, expected.cam.values, atol=1e-5)


def test_no_image_gives_no_prediction(predictor: Predictor) -> None:
    assert predictor.predict([]) == []


def test_maps_are_left_out_where_nobody_wants_them(predictor: Predictor, fields: list[np.ndarray]) -> None:
    (prediction,) = predictor.predict([predictor.prepare(encode_jpeg(fields[0]))[1]], gradcam=False)
    assert prediction.cam is None


def test_an_image_without_a_cell_is_classified_whole_and_flagged(predictor: Predictor) -> None:
    empty = draw_field("MONOCYTE", np.random.default_rng(2), oddity="no-cell")
    (prediction,) = predictor.predict([predictor.prepare(encode_jpeg(empty))[1]])
    assert prediction.flag == "no-cell"
    assert prediction.cell is None
    assert tuple(prediction.box) == (0, 0, 320, 240)


def test_a_bad_file_is_an_image_error(predictor: Predictor) -> None:
    with pytest.raises(ImageError):
        predictor.prepare(b"nothing")


def test_a_gpu_that_is_not_there_is_not_used(bundle: Bundle) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(SettingsError, match="no GPU"):
        Predictor(bundle, "cuda")


def test_flags() -> None:
    confidence = Confidence(min_confidence=0.6, max_ood=-1.0)
    assert confidence.flag(0.9, -3.0, found=True) == ""
    assert confidence.flag(0.5, -3.0, found=True) == "low-confidence"
    assert confidence.flag(0.9, -0.5, found=True) == "out-of-distribution"
    assert confidence.flag(0.9, -3.0, found=False) == "no-cell"
    assert confidence.flag(0.9, -3.0, found=True, hidden=True) == "low-confidence"
    assert confidence.flag(0.9, -3.0, found=True, others=2) == "several-cells"
    assert confidence.flag(0.5, -3.0, found=True, others=2) == "low-confidence", "the gravest one"


def test_energy_is_minus_logsumexp() -> None:
    logits = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    np.testing.assert_allclose(energy(logits), -logsumexp(logits, axis=1), rtol=1e-6)


@pytest.mark.parametrize(
    ("step", "error", "code"),
    [
        ("core.images.preprocessing._resize", cv2.error("no"), "not-processable"),
        ("core.images.decoder._to_rgb", ValueError(), "not-processable"),
        ("core.images.decoder._to_rgb", MemoryError(), "out-of-memory"),
    ],
)
def test_what_no_check_foresaw_is_an_image_error(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch, step: str, error: Exception, code: str
) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(step, refuse)
    with pytest.raises(ImageError) as caught:
        predictor.prepare(encode_jpeg(np.zeros((40, 40, 3), np.uint8)))
    assert caught.value.code == code
