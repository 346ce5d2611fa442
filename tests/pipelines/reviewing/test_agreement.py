"""Agreement of readers, against scikit-learn, derivatives, resampling and numbers worked out by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from finished_run import FinishedRun, write_run
from sklearn.metrics import cohen_kappa_score

from core.images.drawings import CLASS_NAMES
from pipelines.reviewing.agreement import Agreement, agree, between_reviewers, second_reading
from pipelines.reviewing.review import Asked, Review

if TYPE_CHECKING:
    from pathlib import Path

EOSINOPHIL, LYMPHOCYTE, MONOCYTE, NEUTROPHIL = CLASS_NAMES


@pytest.fixture
def review(tmp_path: Path) -> Review:
    run: FinishedRun = write_run(tmp_path, drawn=False)
    return run.review(["BASOPHIL"])


_requests = iter(range(10**9))


def asked(review: Review, who: str, reading: int = 1) -> Asked:
    return Asked(who, f"request-{next(_requests)}", review.state.last, reading)


def two_readers(cells: int, same: float, seed: int = 0) -> tuple[list[str], list[str]]:
    rng = np.random.default_rng(seed)
    first = rng.choice(CLASS_NAMES, cells, p=(0.05, 0.3, 0.05, 0.6))
    second = np.where(rng.random(cells) < same, first, rng.choice(CLASS_NAMES, cells))
    return first.tolist(), second.tolist()


def test_by_hand() -> None:
    """Two readers, 50 cells: both say A of 20 and B of 15; agreement 0.7, by chance 0.5, so kappa 0.4 (Cohen 1960)."""
    first = ["A"] * 25 + ["B"] * 25
    second = ["A"] * 20 + ["B"] * 5 + ["A"] * 10 + ["B"] * 15
    found = agree(first, second)
    assert found.table.tolist() == [[20, 5], [10, 15]]
    assert (found.n, found.observed.percent) == (50, pytest.approx(70))
    assert found.kappa is not None
    assert found.kappa.value == pytest.approx(0.4)
    agreed = 0.4 * (1 - (0.5 + 0.6) * 0.6) ** 2 + 0.3 * (1 - (0.5 + 0.4) * 0.6) ** 2
    differed = 0.6**2 * (0.1 * (0.6 + 0.5) ** 2 + 0.2 * (0.4 + 0.5) ** 2)
    error = np.sqrt((agreed + differed - (0.4 - 0.5 * 0.6) ** 2) / (0.5**2 * 50))
    assert error == pytest.approx(_standard_error_by_derivative(found.table), abs=1e-6)
    assert found.kappa.low == pytest.approx(0.4 - 1.959964 * error)
    assert found.kappa.high == pytest.approx(0.4 + 1.959964 * error)


def _kappa(shares: np.ndarray) -> float:
    shares = shares / shares.sum()
    chance = shares.sum(0) @ shares.sum(1)
    return (np.trace(shares) - chance) / (1 - chance)


def _standard_error_by_derivative(table: np.ndarray) -> float:
    """The delta method for a multinomial, its derivatives taken numerically: no formula of kappa's own."""
    shares, step = table / table.sum(), 1e-6
    slopes = np.zeros_like(shares)
    for place in np.ndindex(shares.shape):
        more, less = shares.copy(), shares.copy()
        more[place] += step
        less[place] -= step
        slopes[place] = (_kappa(more) - _kappa(less)) / (2 * step)
    variance = (shares * slopes**2).sum() - (shares * slopes).sum() ** 2
    return float(np.sqrt(variance / table.sum()))


@pytest.mark.parametrize(("cells", "same"), [(40, 0.9), (200, 0.5), (1000, 0.0), (1000, 0.97)])
def test_against_scikit_learn_and_the_delta_method(cells: int, same: float) -> None:
    first, second = two_readers(cells, same)
    found = agree(first, second, CLASS_NAMES)
    kappa = found.kappa
    assert kappa is not None
    assert kappa.value == pytest.approx(cohen_kappa_score(first, second), abs=1e-12)
    error = _standard_error_by_derivative(found.table)
    assert kappa.low == pytest.approx(kappa.value - 1.959964 * error, abs=1e-5)
    assert kappa.high == pytest.approx(min(1, kappa.value + 1.959964 * error), abs=1e-5)
    for label in found.labels:
        one = found.against_rest(label)
        binary = [[name == label for name in said] for said in (first, second)]
        assert one.n == cells
        assert one.observed.percent == pytest.approx(100 * np.mean(np.equal(*binary)))
        assert one.kappa is not None
        assert one.kappa.value == pytest.approx(cohen_kappa_score(*binary), abs=1e-12)


def test_the_interval_is_that_of_resampled_cells() -> None:
    first, second = (np.array(said) for said in two_readers(400, 0.8, seed=2))
    kappa = agree(first.tolist(), second.tolist()).kappa
    assert kappa is not None
    rng = np.random.default_rng(0)
    drawn = [rng.integers(400, size=400) for _ in range(1000)]
    resampled = [agree(first[rows].tolist(), second[rows].tolist()).kappa for rows in drawn]
    low, high = np.percentile([one.value for one in resampled if one], [2.5, 97.5])
    assert (kappa.low, kappa.high) == (pytest.approx(low, abs=0.015), pytest.approx(high, abs=0.015))


def test_what_is_undefined_is_none() -> None:
    only_one = agree(["A"] * 9, ["A"] * 9)
    assert only_one.kappa is None
    assert only_one.observed.percent == 100
    assert only_one.against_rest("A").kappa is None
    nothing = agree([], [])
    assert (nothing.n, nothing.kappa, nothing.labels) == (0, None, ())
    never_differ = agree(["A", "B"] * 20, ["A", "B"] * 20)
    assert never_differ.kappa == (1.0, None, None)
    assert never_differ.observed.low == pytest.approx(91.2, abs=0.05)  # 40 of 40
    assert agree(["A"] * 5, ["B"] * 5).kappa == (0.0, None, None)
    one_sided = agree(["A"] * 13 + ["B"], ["A"] * 14).kappa  # its standard error is 0, but for rounding
    assert one_sided is not None
    assert one_sided.value == pytest.approx(0)
    assert one_sided.low is one_sided.high is None


def test_labels_stand_in_the_given_order() -> None:
    found = agree(["b", "x"], ["a", "b"], ["b", "unused", "a"])
    assert found.labels == ("b", "a", "x")
    assert found.table.tolist() == [[0, 1, 0], [0, 0, 0], [1, 0, 0]]


def test_the_second_reading_is_compared_where_the_first_one_came(review: Review) -> None:
    assert second_reading(review.state) is None
    state = review.state
    rows = [row for row in range(40) if state.slide_of(row) == 0]
    other = [row for row in range(40) if state.slide_of(row) == 1][:3]
    review.label(asked(review, "Ann"), rows[:2], EOSINOPHIL)
    review.label(asked(review, "Cem", 2), rows[:1], EOSINOPHIL)
    review.label(asked(review, "Cem", 2), rows[1:2], MONOCYTE)
    review.label(asked(review, "Dora", 2), rows[2:4], "BASOPHIL")
    review.label(asked(review, "Dora", 2), other, "BASOPHIL")
    found = second_reading(state)
    assert found is not None
    assert (found.all.n, found.waiting) == (2, 5)
    assert (found.first, found.second) == ({"Ann": 2}, {"Cem": 2})
    assert found.all.labels == (EOSINOPHIL, MONOCYTE)
    assert found.all.table.tolist() == [[1, 1], [0, 0]]
    assert list(found.slides) == ["first"]

    review.sign(asked(review, "Bob"), 1, "")  # accepts what the model says of the three
    found = second_reading(state)
    assert found is not None
    assert (found.all.n, found.waiting) == (5, 2)
    assert (found.first, found.second) == ({"Ann": 2, "": 3}, {"Cem": 2, "Dora": 3})
    assert found.slides["second"].n == 3
    assert found.slides["second"].observed.percent == 0
    first = [state.label(row) for row in [*rows[:2], *other]]
    second = [EOSINOPHIL, MONOCYTE, *["BASOPHIL"] * 3]
    assert found.all.kappa is not None
    assert found.all.kappa.value == pytest.approx(cohen_kappa_score(first, second))


def test_a_word_taken_back_is_not_compared(review: Review) -> None:
    review.label(asked(review, "Ann"), [0, 1], EOSINOPHIL)
    review.label(asked(review, "Cem", 2), [0, 1], EOSINOPHIL)
    review.undo(asked(review, "Cem", 2))
    assert second_reading(review.state) is None


def test_any_two_reviewers_of_the_same_cells(review: Review) -> None:
    review.label(asked(review, "Cem"), [0, 1, 2, 3], NEUTROPHIL)
    review.label(asked(review, "Ann"), [0, 1], NEUTROPHIL)
    review.label(asked(review, "Ann"), [2], LYMPHOCYTE)
    review.label(asked(review, "Bob"), [5], LYMPHOCYTE)
    review.label(asked(review, "Bob"), [3], MONOCYTE)
    pairs = between_reviewers(review.state)
    assert [(pair.first, pair.second, pair.agreement.n) for pair in pairs] == [("Ann", "Cem", 3), ("Bob", "Cem", 1)]
    found: Agreement = pairs[0].agreement
    assert found.labels == (LYMPHOCYTE, NEUTROPHIL)
    assert found.table.tolist() == [[0, 1], [0, 2]]
    assert found.kappa is not None
    assert found.kappa.value == pytest.approx(0)
    review.label(asked(review, "Ann"), [2], NEUTROPHIL)  # the last word counts
    assert between_reviewers(review.state)[0].agreement.kappa is None
