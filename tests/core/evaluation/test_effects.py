"""Sizes of differences against their definitions, and intervals against what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, t

from core.evaluation.effects import cliffs_delta, cohens_h, expanded_interval, sampling_error_of_h


def test_cohens_h_is_cohens() -> None:
    assert cohens_h(np.array(0.4), np.array(0.5)) == pytest.approx(0.2014, abs=1e-4)  # Cohen 1988, table 6.2.2
    np.testing.assert_allclose(cohens_h(np.array([0.0, 1.0]), np.array([1.0, 1.0])), [np.pi, 0])


def test_its_error_is_that_of_counting_whatever_the_share_is() -> None:
    rng = np.random.default_rng(0)
    for share in (0.1, 0.5):
        found = cohens_h(rng.binomial(400, share, 20_000) / 400, rng.binomial(900, share, 20_000) / 900)
        assert found.std() == pytest.approx(sampling_error_of_h(400, 900), rel=0.05)


def test_cliffs_delta_is_the_statistic_of_mann_and_whitney() -> None:
    rng = np.random.default_rng(1)
    one, other = rng.integers(0, 9, 70), rng.integers(2, 12, 50)
    counted = [np.bincount(values, minlength=12).astype(float) for values in (one, other)]
    statistic = mannwhitneyu(other, one).statistic
    assert cliffs_delta(*counted) == pytest.approx(2 * statistic / (70 * 50) - 1)
    assert cliffs_delta(np.array([2.0, 0.0]), np.array([1.0, 1.0])) == 0.5
    many = cliffs_delta(np.stack([counted[0], counted[1]]), np.stack([counted[1], counted[1]]))
    np.testing.assert_allclose(many, [cliffs_delta(*counted), 0], atol=1e-12)


@pytest.mark.parametrize("groups", [5, 30])
def test_the_interval_of_a_mean_is_as_wide_as_students(groups: int) -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(0, 1, groups)
    means = rng.choice(values, (40_000, groups)).mean(axis=1)
    low, high = expanded_interval(means, groups)
    student = t.ppf(0.975, groups - 1) * values.std(ddof=1) / np.sqrt(groups)
    assert (high - low) / 2 == pytest.approx(student, rel=0.12)
    assert expanded_interval(np.append(means, np.nan), groups) == pytest.approx((low, high))
