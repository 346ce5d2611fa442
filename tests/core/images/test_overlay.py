"""Heatmaps lie where the network looked, at every size of the input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from core.errors import SettingsError
from core.evaluation.localisation import point
from core.images.cells import Box
from core.images.drawings import draw_field
from core.images.heatmap import Heatmap, MapGeometry
from core.images.overlay import (
    NO_EVIDENCE,
    apply_colours,
    heatmap_layer,
    lay_back,
    overlay,
    panel,
    shrink_to,
    write_words,
)
from core.images.preprocessing import Preprocessing
from core.model.bundle import Bundle
from core.model.confidence import Confidence
from core.model.network import build_network
from core.model.predictor import Predictor
from core.model.record import BundleRecord
from core.model.torch_engine import forward

EVERYWHERE = Heatmap(np.ones((4, 4), np.float32), 128, 128, MapGeometry(32))
NOWHERE = Heatmap(np.zeros((4, 4), np.float32), 128, 128, MapGeometry(32))
SIDES = [100, 112, 150, 200, 224, 250]


@pytest.fixture(scope="module")
def smooth() -> torch.nn.Module:
    """A ResNet18 whose every filter is flat and positive, so that nothing but its shape decides where it looks."""
    network = build_network(2).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.constant_(module.weight, 1 / module.weight[0].numel())
    torch.nn.init.constant_(network.fc.weight, 1.0)
    torch.nn.init.zeros_(network.fc.bias)
    return network


def smooth_predictor(network: torch.nn.Module, height: int, width: int) -> Predictor:
    preprocessing = Preprocessing.model_validate({"height": height, "width": width})
    record = BundleRecord(preprocessing=preprocessing, confidence=Confidence())
    return Predictor(Bundle(network, ("A", "B"), record, "smooth"), "cpu")


@pytest.mark.parametrize("side", [100, 150, 224])
def test_each_value_is_laid_where_its_receptive_field_is_centred(smooth, side: int) -> None:
    """The gradient of one value of the last map says which pixels it sees; the laid-back value is in their middle."""
    columns = -(-side // 32)
    middle = columns // 2
    pixels = torch.rand(1, 3, 512, 512, requires_grad=True)
    forward(smooth, pixels).feature_map[0, :, middle + 4, middle + 4].sum().backward()
    assert pixels.grad is not None
    influence = pixels.grad.abs().sum(dim=(0, 1, 2))
    centre = float((influence * torch.arange(512)).sum() / influence.sum()) - 4 * 32
    values = np.zeros((columns, columns), np.float32)
    values[middle, middle] = 1
    whole = lay_back(Heatmap(values, side, side, MapGeometry(32)), Box(0, 0, side, side), side, side)
    row, column = np.unravel_index(whole.argmax(), whole.shape)
    assert row == column == pytest.approx(centre, abs=1)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("place", [0.25, 0.6])
def test_a_bright_spot_is_where_the_overlay_says_it_is(smooth, side: int, place: float) -> None:
    """The peak is on the spot, as far as values that are 32 pixels apart can say."""
    predictor = smooth_predictor(smooth, side, side)
    image = np.zeros((side, side, 3), np.uint8)
    row, column = int(place * side), int((1 - place) * side)
    spread = max(2, side // 16)
    image[row - spread : row + spread, column - spread : column + spread] = 255
    whole_image = Box(0, 0, side, side)
    (prediction,) = predictor.predict([predictor.bundle.record.preprocessing.prepare(image)])
    assert prediction.cam is not None
    assert prediction.cam.values.shape == (-(-side // 32), -(-side // 32))
    laid = lay_back(prediction.cam, whole_image, side, side)
    peaks = np.argwhere(laid >= laid.max() - 1e-6).mean(axis=0)
    assert np.abs(peaks - (row, column)).max() <= 16 + spread
    down, across = prediction.cam.peak()
    assert abs(down * side - row) <= 16 + spread
    assert abs(across * side - column) <= 16 + spread


def test_height_and_width_of_the_input_may_differ(smooth) -> None:
    values = np.zeros((5, 4), np.float32)
    values[3, 2] = 1
    cam = Heatmap(values, 150, 100, MapGeometry(32))
    whole = lay_back(cam, Box(0, 0, 200, 300), 300, 200)
    row, column = np.unravel_index(whole.argmax(), whole.shape)
    assert row == pytest.approx(3 * 32 * 2, abs=1)
    assert column == pytest.approx(2 * 32 * 2, abs=1)
    predictor = smooth_predictor(smooth, 150, 100)
    (prediction,) = predictor.predict([predictor.bundle.record.preprocessing.prepare(np.zeros((60, 40, 3), np.uint8))])
    assert prediction.cam is not None
    assert (prediction.cam.values.shape, prediction.cam.height, prediction.cam.width) == ((5, 4), 150, 100)


@pytest.mark.parametrize("side", [100, 112, 150, 200, 224])
def test_the_pointing_game_asks_at_the_place_that_the_overlay_shows(side: int) -> None:
    columns = -(-side // 32)
    for index in range(columns):
        values = np.zeros((columns, columns), np.float32)
        values[index, index] = 1
        cell = np.zeros((side, side), bool)
        cell[32 * index, 32 * index] = True
        found = point(cell, Heatmap(values, side, side, MapGeometry(32)), Box(0, 0, side, side), side, side)
        assert found is not None
        assert found.hit


def test_without_evidence_the_image_is_shown_as_it_is() -> None:
    rgb = draw_field("MONOCYTE", np.random.default_rng(0))
    box = Box(50, 60, 150, 160)
    assert EVERYWHERE.has_evidence
    assert not NOWHERE.has_evidence
    np.testing.assert_array_equal(overlay(rgb, NOWHERE, box), rgb)
    assert not heatmap_layer(NOWHERE, box, *rgb.shape[:2]).any()
    assert heatmap_layer(EVERYWHERE, box, *rgb.shape[:2])[60:160, 50:150, 3].all()
    original, colours, laid = np.hsplit(panel(rgb, NOWHERE, box), 3)
    np.testing.assert_array_equal(original, rgb)
    np.testing.assert_array_equal(laid, rgb)
    np.testing.assert_array_equal(colours, write_words(np.full_like(rgb, 236), NO_EVIDENCE))
    assert (colours.max(axis=2) == colours.min(axis=2)).all()


@pytest.mark.parametrize("shape", [(40, 30, 3), (240, 320, 3), (1024, 768, 3), (16, 1024, 3)])
def test_words_fit_into_a_picture_of_any_size(shape: tuple[int, int, int]) -> None:
    rgb = np.full(shape, 100, np.uint8)
    written = write_words(rgb, NO_EVIDENCE)
    assert written.shape == shape
    assert (rgb == 100).all()
    assert (written[: shape[0] // 2] == 100).all()
    assert written.min() < 100
    assert (written[:, -1] >= 100).all()


def test_a_network_that_sees_no_evidence_says_so(smooth) -> None:
    predictor = smooth_predictor(smooth, 64, 64)
    (prediction,) = predictor.predict([predictor.bundle.record.preprocessing.prepare(np.zeros((64, 64, 3), np.uint8))])
    assert not prediction.has_evidence
    (prediction,) = predictor.predict(
        [predictor.bundle.record.preprocessing.prepare(np.full((64, 64, 3), 9, np.uint8))]
    )
    assert prediction.has_evidence


def test_a_map_is_laid_back_onto_its_box() -> None:
    values = np.zeros((4, 4), np.float32)
    values[1, 2] = 1
    whole = lay_back(Heatmap(values, 128, 128, MapGeometry(32)), Box(100, 40, 180, 120), 240, 320)
    assert whole.shape == (240, 320)
    assert whole[:40].max() == whole[120:].max() == whole[:, :100].max() == whole[:, 180:].max() == 0
    row, column = np.unravel_index(whole.argmax(), whole.shape)
    assert abs(row - (40 + 1 * 20)) <= 1
    assert abs(column - (100 + 2 * 20)) <= 1


def test_laying_back_interpolates_between_the_centres_of_the_receptive_fields() -> None:
    cam = np.random.default_rng(0).random((7, 7)).astype(np.float32)
    rows, columns = np.mgrid[:224, :224] / 32
    expected = map_coordinates(cam, (rows, columns), order=1, mode="nearest")
    np.testing.assert_allclose(
        lay_back(Heatmap(cam, 224, 224, MapGeometry(32)), Box(0, 0, 224, 224), 224, 224), expected, atol=0.02
    )


def test_the_centres_of_the_receptive_fields_are_where_the_network_looks() -> None:
    """A value of the last map is influenced alike by the pixels left and right of its centre."""
    network = build_network(2).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.constant_(module.weight, 0.01)
    pixels = torch.rand(1, 3, 512, 512, requires_grad=True)
    forward(network, pixels).feature_map[0, :, 8, 8].sum().backward()
    assert pixels.grad is not None
    influence = pixels.grad.abs().sum(dim=(0, 1, 2))
    centre = float((influence * torch.arange(512)).sum() / influence.sum())
    assert centre == pytest.approx(8 * 32, abs=1)


def test_the_overlay_changes_only_the_box() -> None:
    rgb = draw_field("MONOCYTE", np.random.default_rng(0))
    drawn = overlay(rgb, EVERYWHERE, Box(50, 60, 150, 160))
    outside = np.ones(rgb.shape[:2], bool)
    outside[60:160, 50:150] = False
    np.testing.assert_array_equal(drawn[outside], rgb[outside])
    assert (drawn[80:140, 70:130] != rgb[80:140, 70:130]).any()
    assert panel(rgb, EVERYWHERE, Box(0, 0, 320, 240)).shape == (240, 960, 3)


def test_heatmap_colours() -> None:
    ends = apply_colours(np.array([[0.0, 1.0]], np.float32), "jet")
    assert ends[0, 0, 2] > ends[0, 0, 0]
    assert ends[0, 1, 0] > ends[0, 1, 2]
    with pytest.raises(SettingsError, match="viridis"):
        apply_colours(np.zeros((2, 2), np.float32), "rainbow")


def test_large_images_are_shrunk_for_display() -> None:
    small, factor = shrink_to(np.zeros((3_000, 4_000, 3), np.uint8), 1_024)
    assert small.shape == (768, 1_024, 3)
    assert factor == pytest.approx(0.256)
