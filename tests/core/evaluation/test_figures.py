"""Numbers with a known answer: metrics, the differential's intervals, calibration, drawings."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from core.evaluation.differential import share
from core.evaluation.metrics import measure
from core.images.drawings import CLASS_NAMES, ODDITIES, draw_field
from core.training.calibration import fit_confidence

# Exact binomial 95 % limits in percent, as haematology tabulates them (Rümke): seen %, cells, low, high.
RUMKE = [
    (0, 100, 0.0, 3.6),
    (1, 100, 0.0, 5.4),
    (5, 200, 2.4, 9.0),
    (10, 100, 4.9, 17.6),
    (20, 400, 16.2, 24.3),
    (50, 1000, 46.9, 53.1),
    (60, 200, 52.9, 66.8),
]


@pytest.mark.parametrize(("seen", "cells", "low", "high"), RUMKE)
def test_the_interval_is_rumkes(seen: int, cells: int, low: float, high: float) -> None:
    part = share(seen * cells // 100, cells)
    assert part.percent == pytest.approx(seen)
    assert part.low == pytest.approx(low, abs=0.06)
    assert part.high == pytest.approx(high, abs=0.06)


def test_no_cells_mean_no_knowledge() -> None:
    assert share(0, 0) == (0.0, 0.0, 100.0)
    assert share(7, 7).high == 100.0


def test_metrics_of_a_known_table() -> None:
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]])
    metrics = measure(probabilities, np.array([0, 1, 1, 1]), ["A", "B"])
    assert metrics.accuracy == 0.75
    assert metrics.confusion == [[1, 0], [1, 2]]
    assert metrics.loss == pytest.approx(-np.log([0.9, 0.8, 0.4, 0.7]).mean())
    assert metrics.report["B"]["recall"] == pytest.approx(2 / 3)
    assert measure(probabilities, np.eye(2)[[0, 1, 1, 1]], ["A", "B"]) == metrics


def test_the_temperature_of_overconfident_logits_is_found() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6_000, 4)) * 2
    labels = np.array([rng.choice(4, p=row) for row in softmax(logits, axis=1)])
    confidence = fit_confidence(logits * 3, labels, on="a simulation")
    assert confidence.temperature == pytest.approx(3, rel=0.08)


def test_the_flag_keeps_the_risk_that_was_asked_for() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6_000, 4)) * 4  # 18 % wrong, 9 % of the surest three quarters
    labels = np.array([rng.choice(4, p=row) for row in softmax(logits, axis=1)])
    confidence = fit_confidence(logits, labels, risk=0.12, on="a simulation")
    probabilities = softmax(logits / confidence.temperature, axis=1)
    kept = probabilities.max(axis=1) >= confidence.min_confidence
    assert (probabilities.argmax(axis=1) != labels)[kept].mean() == pytest.approx(0.12, abs=0.002)
    assert confidence.risk == 0.12
    strict = fit_confidence(logits, labels, risk=0.0001, on="a simulation")
    assert (probabilities.max(axis=1) < strict.min_confidence).mean() == pytest.approx(0.25, abs=0.001)


@pytest.mark.parametrize("kind", CLASS_NAMES)
def test_drawings_repeat_under_a_seed(kind: str) -> None:
    one, other = (draw_field(kind, np.random.default_rng(4)) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    assert one.shape == (240, 320, 3)


@pytest.mark.parametrize("oddity", ODDITIES)
def test_odd_drawings_differ(oddity: str) -> None:
    rng = np.random.default_rng
    assert (draw_field("EOSINOPHIL", rng(4), oddity=oddity) != draw_field("EOSINOPHIL", rng(4))).any()
