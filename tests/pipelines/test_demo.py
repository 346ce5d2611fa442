"""The drawn demo, through the bundle that ships."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from core.images.drawings import CLASS_NAMES, draw_field
from core.images.overlay import encode_jpeg
from core.model.bundle import load_bundle
from core.model.predictor import Predictor
from pipelines.demo import draw_slides

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def predictor(shipped: Path) -> Predictor:
    return Predictor(load_bundle(shipped), "cpu")


@pytest.mark.parametrize("kind", CLASS_NAMES)
def test_the_shipped_bundle_recognises_drawn_cells(kind: str, predictor: Predictor) -> None:
    rng = np.random.default_rng(21)
    drawn = [predictor.prepare(encode_jpeg(draw_field(kind, rng)))[1] for _ in range(40)]
    right = [prediction.label == kind for prediction in predictor.predict(drawn)]
    assert np.mean(right) >= 0.75


def test_fields_without_a_cell_and_with_an_odd_stain_are_flagged(predictor: Predictor) -> None:
    rng = np.random.default_rng(22)
    for oddity in ("no-cell", "odd-stain"):
        drawn = [predictor.prepare(encode_jpeg(draw_field("NEUTROPHIL", rng, oddity=oddity)))[1] for _ in range(10)]
        assert np.mean([prediction.flag != "" for prediction in predictor.predict(drawn)]) >= 0.8


def test_the_same_seed_draws_the_same_slides(tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert draw_slides(tmp_path / name, 20, seed=5) == 60
    for path in (tmp_path / "one").rglob("*.*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()
