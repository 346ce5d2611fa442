"""Logits become probabilities in one place."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from core.model.confidence import Confidence, energy

LOGITS = np.random.default_rng(0).normal(0, 4, (20, 5)).astype(np.float32)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_probabilities_are_the_softmax_of_the_logits_over_the_temperature(temperature):
    found = Confidence(temperature=temperature).probabilities(LOGITS)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, softmax(LOGITS.astype(np.float64) / temperature, axis=1), rtol=1e-12)


def test_logits_of_one_image_give_its_probabilities():
    confidence = Confidence(temperature=1.7)
    np.testing.assert_array_equal(confidence.probabilities(LOGITS[3]), confidence.probabilities(LOGITS)[3])


def test_large_logits_do_not_overflow():
    found = Confidence().probabilities(np.array([[1000.0, 0.0, -1000.0]], np.float32))
    np.testing.assert_array_equal(found, [[1.0, 0.0, 0.0]])
    assert np.isfinite(energy(np.array([[1000.0, 0.0]], np.float32))).all()
