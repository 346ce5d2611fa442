"""Heatmaps look at the cell, and stop doing so when what was learnt is destroyed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from core.bundle import load_bundle
from core.cell import Box, find_white_cell
from core.decoder import decode
from core.gradcam import normalise_maps, one_pass_gradcam
from core.localisation import point
from core.network import forward
from core.predictor import Predictor
from core.synthetic import CLASS_NAMES, draw_field

if TYPE_CHECKING:
    from pathlib import Path


def test_the_white_cell_is_found_by_colour() -> None:
    rng = np.random.default_rng(2)
    for kind in CLASS_NAMES:
        rgb = draw_field(kind, rng)
        cell = find_white_cell(rgb)
        assert cell is not None
        assert 0.01 < cell.mean() < 0.3
        purple = rgb[..., 2].astype(int) - rgb[..., 1]
        assert purple[cell].mean() > purple[~cell].mean() + 30


def test_without_a_nucleus_there_is_no_cell_to_point_at() -> None:
    blank = np.full((240, 320, 3), 200, np.uint8)
    assert find_white_cell(blank) is None
    assert point(blank, np.ones((3, 3), np.float32), Box(0, 0, 320, 240)) is None


def test_a_peak_on_the_cell_hits_and_beside_it_misses() -> None:
    rgb = draw_field("MONOCYTE", np.random.default_rng(4))
    cell = find_white_cell(rgb)
    assert cell is not None
    rows, columns = np.nonzero(cell)
    row, column = int(np.median(rows)), int(np.median(columns))
    whole = Box(0, 0, 320, 240)
    cam = np.zeros((240, 320), np.float32)
    cam[row, column] = 1
    hit = point(rgb, cam, whole)
    assert hit is not None
    assert hit.hit
    assert hit.chance == hit.chance_in_crop == pytest.approx(cell.mean())
    miss = point(rgb, np.roll(cam, (120, 160), axis=(0, 1)), whole)
    assert miss is not None
    assert not miss.hit
    assert point(rgb, np.zeros((3, 3), np.float32), whole) is None


def test_the_shipped_bundle_looks_at_the_cell(shipped: Path, blood_cells: Path) -> None:
    predictor = Predictor(load_bundle(shipped), "cpu")
    files = sorted((blood_cells / "images" / "TEST_SIMPLE").glob("*/*"))
    pairs = [predictor.prepare(path.read_bytes()) for path in files]
    predictions = predictor.predict([prepared for _, prepared in pairs])
    pointings = [
        point(picture.rgb, prediction.cam, prediction.box)
        for (picture, _), prediction in zip(pairs, predictions, strict=True)
        if prediction.cam is not None
    ]
    found = [pointing for pointing in pointings if pointing]
    assert len(found) == len(files) == 71
    assert np.mean([pointing.hit for pointing in found]) >= 0.95
    assert np.mean([pointing.chance for pointing in found]) < 0.2


def test_randomising_the_head_destroys_the_maps(shipped: Path, blood_cells: Path) -> None:
    """The sanity check of Adebayo et al. 2018 (arXiv:1810.03292): a map that ignores the weights explains nothing."""
    bundle = load_bundle(shipped)
    preprocessing = bundle.record.preprocessing
    files = sorted((blood_cells / "images" / "TEST_SIMPLE").glob("*/*"))[::3]
    pixels = np.stack([preprocessing.prepare(decode(path.read_bytes()).rgb).pixels for path in files])
    with torch.inference_mode():
        outputs = forward(bundle.network, preprocessing.normalise(torch.from_numpy(pixels)))
        classes = outputs.logits.argmax(1)
        weight = bundle.network.fc.weight
        learnt = normalise_maps(one_pass_gradcam(outputs.feature_map, weight, classes))
        generator = torch.Generator().manual_seed(0)
        likeness: list[float] = []
        for _ in range(10):
            shuffled = weight.flatten()[torch.randperm(weight.numel(), generator=generator)].view_as(weight)
            random = normalise_maps(one_pass_gradcam(outputs.feature_map, shuffled, classes))
            likeness += [
                float(np.nan_to_num(np.corrcoef(a.flatten(), b.flatten())[0, 1]))
                for a, b in zip(learnt.numpy(), random.numpy(), strict=True)
                if a.any() and b.any()
            ]
    assert np.mean(likeness) < 0.3
