"""Numbers with a known answer: the differential's intervals, calibration, drawings."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from core.evaluation.differential import share
from core.images.drawings import CLASS_NAMES, ODDITIES, draw_field
from core.model.confidence import energy
from core.training.calibration import Answers, cross_fit_confidence, fit_confidence, fit_confidence_away

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
    unflagged = probabilities.max(axis=1) >= confidence.min_confidence
    assert (probabilities.argmax(axis=1) != labels)[unflagged].mean() == pytest.approx(0.12, abs=0.002)
    assert confidence.risk == 0.12
    strict = fit_confidence(logits, labels, risk=0.0001, on="a simulation")
    assert (probabilities.max(axis=1) < strict.min_confidence).mean() == pytest.approx(0.25, abs=0.001)


def test_every_laboratory_counts_the_same_however_many_images_it_has() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4_000, 4)) * 2
    labels = np.array([rng.choice(4, p=row) for row in softmax(logits, axis=1)])
    few = np.arange(4_000) >= 3_600  # a laboratory of which the network is too sure
    logits[few] *= 4
    evened = fit_confidence(logits, labels, domains=few.astype(int), on="a simulation")
    rows = np.concatenate([np.flatnonzero(~few), np.tile(np.flatnonzero(few), 9)])
    assert evened == fit_confidence(logits[rows], labels[rows], on="a simulation")
    assert evened.temperature > fit_confidence(logits, labels, on="a simulation").temperature + 0.2


def test_a_fifth_of_every_left_out_laboratory_is_flagged_on_average() -> None:
    rng = np.random.default_rng(0)

    def answers(counts: list[int], doubt: list[float]) -> Answers:
        logits = np.concatenate([rng.normal(size=(n, 4)) * 4 / d for n, d in zip(counts, doubt, strict=True)])
        labels = np.array([rng.choice(4, p=row) for row in softmax(logits, axis=1)])
        return Answers(logits, labels, np.repeat(np.arange(len(counts)), counts))

    home, away = answers([3_000, 500], [1, 1]), answers([4_000, 400], [1, 3])
    confidence = fit_confidence_away(home, away, on="a simulation")
    assert confidence.temperature == pytest.approx(1, abs=0.1)
    probabilities, unlike = confidence.probabilities(away.logits), energy(away.logits)
    flags = [confidence.flag(float(p.max()), float(o), found=True) for p, o in zip(probabilities, unlike, strict=True)]
    flagged = np.array([flag != "" for flag in flags])
    shares = [flagged[away.domains == domain].mean() for domain in (0, 1)]
    assert np.mean(shares) == pytest.approx(0.2, abs=0.01)
    assert shares[0] < shares[1]


def views(sources: int, per_source: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits, labels and sources of a network that is overconfident: views of one source share their fate."""
    logits = np.repeat(rng.normal(size=(sources, 4)) * 3, per_source, axis=0)
    labels = np.repeat([rng.choice(4, p=row) for row in softmax(logits[::per_source] / 3, axis=1)], per_source)
    return logits, labels, np.repeat(np.arange(sources), per_source)


def test_each_half_of_the_sources_is_given_what_the_other_chose() -> None:
    logits, labels, sources = views(60, 5, np.random.default_rng(4))
    (one, first), (other, second) = cross_fit_confidence(logits, labels, sources)
    assert sorted([*one, *other]) == list(range(300))
    assert not set(sources[one]) & set(sources[other])
    assert first == fit_confidence(logits[other], labels[other], on=first.chosen_on)
    assert second == fit_confidence(logits[one], labels[one], on=second.chosen_on)


def test_cross_fitting_is_not_too_good() -> None:
    """Over many small data sets, the loss with one's own temperature is below the truth, the cross-fitted is not."""
    rng = np.random.default_rng(1)
    own, crossed, true = [], [], []
    for _ in range(40):
        logits, labels, sources = views(40, 2, rng)
        picked = (np.arange(len(labels)), labels)
        if not (halves := cross_fit_confidence(logits, labels, sources)):
            continue
        fitted = np.empty(logits.shape)
        for rows, confidence in halves:
            fitted[rows] = confidence.probabilities(logits[rows])
        whole = fit_confidence(logits, labels, on="the same").probabilities(logits)
        for losses, probabilities in ((own, whole), (crossed, fitted), (true, softmax(logits / 3, axis=1))):
            losses.append(-np.log(probabilities[picked]).mean())
    assert len(true) > 30
    assert np.mean(own) < np.mean(true) <= np.mean(crossed)


def test_too_few_sources_cannot_be_cross_fitted() -> None:
    logits, labels, sources = views(60, 5, np.random.default_rng(4))
    rare = np.isin(sources, np.unique(sources[labels == 2])[:3]) | (labels != 2)
    assert cross_fit_confidence(logits[rare], labels[rare], sources[rare]) == []


@pytest.mark.parametrize("kind", CLASS_NAMES)
def test_drawings_repeat_under_a_seed(kind: str) -> None:
    one, other = (draw_field(kind, np.random.default_rng(4)) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    assert one.shape == (240, 320, 3)


@pytest.mark.parametrize("oddity", ODDITIES)
def test_odd_drawings_differ(oddity: str) -> None:
    rng = np.random.default_rng
    assert (draw_field("EOSINOPHIL", rng(4), oddity=oddity) != draw_field("EOSINOPHIL", rng(4))).any()
