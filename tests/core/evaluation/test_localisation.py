"""Heatmaps look at the cell, and stop doing so when what was learnt is destroyed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from core.evaluation.localisation import point
from core.images.cells import Box, find_white_cell
from core.images.drawings import CLASS_NAMES, draw_field
from core.images.heatmap import Heatmap, MapGeometry, find_peak
from core.model.bundle import load_bundle
from core.model.engine import normalise_maps
from core.model.geometry import measure_origin
from core.model.predictor import Predictor
from core.model.torch_engine import TorchEngine

if TYPE_CHECKING:
    from pathlib import Path


def test_the_white_cell_is_found_by_colour() -> None:
    rng = np.random.default_rng(2)
    for kind in CLASS_NAMES:
        rgb = draw_field(kind, rng)
        cell = find_white_cell(rgb)
        assert cell is not None
        assert 0.01 < cell.mean() < 0.3
        assert cell.shape == (120, 160)
        small = rgb[::2, ::2].astype(int)
        purple = small[..., 2] - small[..., 1]
        assert purple[cell].mean() > purple[~cell].mean() + 30


def test_without_a_nucleus_there_is_no_cell_to_point_at() -> None:
    blank = np.full((240, 320, 3), 200, np.uint8)
    assert find_white_cell(blank) is None
    assert (
        point(None, Heatmap(np.ones((3, 3), np.float32), 96, 96, MapGeometry(32)), Box(0, 0, 320, 240), 240, 320)
        is None
    )


def test_a_peak_on_the_cell_hits_and_beside_it_misses() -> None:
    rgb = draw_field("MONOCYTE", np.random.default_rng(4))
    cell = find_white_cell(rgb)
    assert cell is not None
    rows, columns = np.nonzero(cell)
    row, column = 2 * int(np.median(rows)), 2 * int(np.median(columns))
    whole = Box(0, 0, 320, 240)
    values = np.zeros((240, 320), np.float32)
    values[row, column] = 1
    hit = point(cell, Heatmap(values, 240, 320, MapGeometry(1)), whole, 240, 320)
    assert hit is not None
    assert hit.hit
    assert hit.chance == hit.chance_in_crop == pytest.approx(cell.mean())
    miss = point(cell, Heatmap(np.roll(values, (120, 160), axis=(0, 1)), 240, 320, MapGeometry(1)), whole, 240, 320)
    assert miss is not None
    assert not miss.hit
    nothing = point(cell, Heatmap(np.zeros((3, 3), np.float32), 96, 96, MapGeometry(32)), whole, 240, 320)
    assert nothing is not None
    assert not nothing.hit


def test_a_peak_lies_between_values_that_share_it() -> None:
    values = np.zeros((4, 5), np.float32)
    assert find_peak(values) == (0.0, 0.0)
    values[3, 4] = 0.5
    assert find_peak(values) == (3.0, 4.0)
    values[3, 3] = 0.5
    assert find_peak(values) == (3.0, 3.5)
    values[0, 0] = 0.4
    assert find_peak(values) == (3.0, 3.5), "what is far away does not count"


def test_where_the_maps_look_is_measured_by_turning_the_images() -> None:
    """Maps of a network whose values look 9 rows further down than its padding says."""
    rng = np.random.default_rng(0)
    places = rng.uniform(30, 98, (40, 2))

    def maps(places: np.ndarray) -> np.ndarray:
        rows, columns = (9 + 32 * np.arange(4) - places[:, [axis]] for axis in (0, 1))
        return np.exp(-(rows[:, :, None] ** 2 + columns[:, None, :] ** 2) / 2 / 24**2).astype(np.float32)

    turned = places * [-1, 1] + [127, 0]
    assert measure_origin(maps(places), maps(turned), 128, 32) == pytest.approx(9, abs=1.5)
    nothing = np.zeros((1, 4, 4), np.float32)
    assert math.isnan(measure_origin(nothing, nothing, 128, 32))


def test_the_shipped_bundle_looks_at_the_cell(shipped: Path, blood_cells: Path) -> None:
    predictor = Predictor(load_bundle(shipped), "cpu")
    files = sorted((blood_cells / "images" / "TEST_SIMPLE").glob("*/*"))
    pairs = [predictor.prepare(path.read_bytes()) for path in files]
    predictions = predictor.predict([prepared for _, prepared in pairs])
    pointings = [
        point(find_white_cell(picture.rgb), prediction.cam, prediction.box, *picture.rgb.shape[:2])
        for (picture, _), prediction in zip(pairs, predictions, strict=True)
        if prediction.cam is not None
    ]
    found = [pointing for pointing in pointings if pointing]
    assert len(found) == len(files) == 71
    assert np.mean([pointing.hit for pointing in found]) >= 0.95
    assert np.mean([pointing.chance for pointing in found]) < 0.2


def test_randomising_the_head_destroys_the_maps(shipped: Path, blood_cells: Path) -> None:
    """The sanity check of Adebayo et al. 2018 (arXiv:1810.03292): a map that ignores the weights explains nothing.

    As there, maps are compared by rank, before their negative part is cut off; and their peaks leave the cell.
    """
    bundle = load_bundle(shipped)
    predictor = Predictor(bundle, "cpu")
    files = sorted((blood_cells / "images" / "TEST_SIMPLE").glob("*/*"))
    pairs = [predictor.prepare(path.read_bytes()) for path in files]
    cells = [find_white_cell(picture.rgb) for picture, _ in pairs]
    pixels = torch.from_numpy(np.stack([prepared.pixels for _, prepared in pairs]))

    def maps(weight: torch.Tensor) -> torch.Tensor:
        return torch.einsum("nk,nkhw->nhw", weight[classes], outputs.feature_map)

    def hits(signed: torch.Tensor) -> float:
        drawn = normalise_maps(signed.relu().numpy())
        found = [
            point(cell, Heatmap(cam, *prepared.pixels.shape[:2], geometry), prepared.box, *picture.rgb.shape[:2])
            for cell, cam, (picture, prepared) in zip(cells, drawn, pairs, strict=True)
        ]
        return float(np.mean([pointing.hit for pointing in found if pointing]))

    record = bundle.record
    engine = TorchEngine(bundle.network, record.preprocessing, torch.device("cpu"), record.heatmap_origin)
    geometry = engine.geometry
    with torch.inference_mode():
        outputs = engine(pixels)
        classes = outputs.logits.argmax(1)
        weight = engine.head_weight
        assert weight is not None
        learnt = maps(weight)
        generator = torch.Generator().manual_seed(0)
        shuffles = [torch.randperm(weight.numel(), generator=generator) for _ in range(20)]
        random = [maps(weight.flatten()[order].view_as(weight)) for order in shuffles]
    ranks = [
        spearmanr(one.flatten(), other.flatten()).statistic
        for drawn in random
        for one, other in zip(learnt, drawn, strict=True)
    ]
    assert np.mean(ranks) < 0.2
    assert np.mean([hits(drawn) for drawn in random]) < hits(learnt) - 0.2
