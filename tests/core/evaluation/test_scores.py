"""Scores and intervals against scikit-learn, and against cases whose answer is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import balanced_accuracy_score, classification_report, f1_score, log_loss

from core.evaluation.scores import Predicted, compare, evaluate, separation

NAMES = ("A", "B", "C")


def predicted(count: int = 300, views: int = 5, *, skill: float = 2.0, seed: int = 0) -> Predicted:
    """Views of one source share most of their error, as real ones do."""
    rng = np.random.default_rng(seed)
    sources = np.arange(count) // views
    labels = (sources % 3).astype(np.int64)
    logits = rng.normal(size=(sources.max() + 1, 3))[sources] + 0.2 * rng.normal(size=(count, 3))
    logits[np.arange(count), labels] += skill
    return Predicted(
        probabilities=softmax(logits, axis=1),
        labels=labels,
        sources=sources,
        class_names=NAMES,
        named=np.ones(count, bool),
        flags=("",) * count,
        ood=rng.normal(size=count),
    )


def test_point_values_are_scikit_learns() -> None:
    case = predicted()
    guess = case.probabilities.argmax(axis=1)
    level = evaluate(case, resamples=0).image
    report = classification_report(case.labels, guess, target_names=NAMES, output_dict=True)
    assert level.accuracy.value == pytest.approx((guess == case.labels).mean())
    assert level.loss.value == pytest.approx(log_loss(case.labels, case.probabilities))
    assert level.balanced_accuracy.value == pytest.approx(balanced_accuracy_score(case.labels, guess))
    assert level.macro_f1.value == pytest.approx(f1_score(case.labels, guess, average="macro"))
    for name in NAMES:
        scores = level.per_class[name]
        assert scores.precision.value == pytest.approx(report[name]["precision"])
        assert scores.recall.value == pytest.approx(report[name]["recall"])
        assert scores.f1.value == pytest.approx(report[name]["f1-score"])
        assert scores.support == report[name]["support"]
    assert level.accuracy.low is None


def test_a_class_that_is_not_there_counts_for_nothing() -> None:
    case = predicted()
    rows = case.labels != 2
    fewer = replace(
        case,
        probabilities=case.probabilities[rows],
        labels=case.labels[rows],
        sources=case.sources[rows],
        named=case.named[rows],
        flags=case.flags[: rows.sum()],
        ood=case.ood[rows],
    )
    level = evaluate(fewer).image
    guess = fewer.probabilities.argmax(axis=1)
    recalls = [(guess[fewer.labels == label] == label).mean() for label in (0, 1)]
    assert level.balanced_accuracy.value == pytest.approx(np.mean(recalls))
    assert level.per_class["C"].support == 0


def test_intervals_hold_their_value_and_are_wider_for_fewer_sources() -> None:
    many = predicted(600, views=1)
    few = replace(many, sources=np.arange(600) // 20 * 20 + many.labels)
    for case in (many, few):
        accuracy = evaluate(case).image.accuracy
        assert accuracy.low is not None
        assert accuracy.high is not None
        assert accuracy.low <= accuracy.value <= accuracy.high
    clustered = evaluate(predicted(600, views=20)).image.accuracy
    independent = evaluate(predicted(600, views=1)).image.accuracy
    assert clustered.high - clustered.low > 2 * (independent.high - independent.low)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    truth = evaluate(predicted(30_000, views=5, seed=99), resamples=0).image.accuracy.value
    covered = 0
    for seed in range(60):
        accuracy = evaluate(predicted(300, views=5, seed=seed), resamples=300).image.accuracy
        covered += accuracy.low <= truth <= accuracy.high
    assert covered >= 53


def test_source_level_averages_the_views() -> None:
    case = predicted(4, views=2)
    sharp = np.array([[0.9, 0.1, 0.0], [0.0, 0.9, 0.1], [0.1, 0.9, 0.0], [0.0, 1.0, 0.0]])
    case = replace(case, probabilities=sharp, labels=np.array([0, 0, 1, 1]))
    level = evaluate(case, resamples=0)
    assert level.image.accuracy.value == 0.75
    assert level.source.n == 2
    assert level.source.confusion == [[0, 1, 0], [0, 1, 0], [0, 0, 0]]


def test_images_without_a_source_are_left_out_of_the_source_level() -> None:
    case = predicted(30)
    named = np.arange(30) >= 5
    assert evaluate(replace(case, named=named), resamples=0).source.n == 5
    assert evaluate(replace(case, named=np.zeros(30, bool)), resamples=0).source.n == 6


def test_calibration_error_of_known_cases() -> None:
    labels = np.array([0] * 80 + [1] * 20)
    probabilities = np.tile([0.8, 0.2, 0.0], (100, 1))
    case = Predicted(probabilities, labels, np.arange(100), NAMES, np.ones(100, bool), ("",) * 100, np.zeros(100))
    assert evaluate(case, resamples=0).image.ece.value == pytest.approx(0, abs=1e-9)
    few = evaluate(predicted(60)).image.ece
    assert 0 <= few.low <= few.value <= few.high
    sure = replace(case, probabilities=np.tile([1.0, 0.0, 0.0], (100, 1)))
    assert evaluate(sure, resamples=0).image.ece.value == pytest.approx(0.2)


def test_the_least_confident_tenth_catches_what_it_holds() -> None:
    confidence = np.linspace(0.99, 0.5, 100)
    probabilities = np.stack((confidence, 1 - confidence, np.zeros(100)), 1)
    labels = np.array([0] * 90 + [1] * 5 + [0] * 5)
    labels[[3, 40, 60]] = 1
    case = Predicted(probabilities, labels, np.arange(100), NAMES, np.ones(100, bool), ("",) * 100, np.zeros(100))
    level = evaluate(case, resamples=0).image
    assert level.errors_caught.value == pytest.approx(5 / 8)
    assert (level.risk_coverage[-1].coverage, level.risk_coverage[-1].risk) == (1.0, pytest.approx(0.08))
    assert level.risk_coverage[0].risk == 0


def test_flags_are_counted() -> None:
    case = predicted(100, skill=0.5)
    wrong = case.probabilities.argmax(axis=1) != case.labels
    flagged = replace(case, flags=tuple("low-confidence" if bad else "" for bad in wrong))
    flags = evaluate(flagged, resamples=0).flags
    assert flags["errors_caught_any"] == 1
    assert flags["share_flagged_low-confidence"] == pytest.approx(wrong.mean())


def test_a_better_bundle_is_told_from_a_worse_and_not_from_itself() -> None:
    good, bad = predicted(skill=4), predicted(skill=0.5)
    difference = compare(good, bad)
    assert difference.source_accuracy.low is not None
    assert difference.source_accuracy.low > 0
    assert difference.p_value < 0.01
    assert difference.only_first_right > difference.only_second_right
    nothing = compare(good, good)
    assert nothing.image_accuracy.value == nothing.image_loss.value == 0
    assert nothing.p_value == 1


def test_separation_of_scores() -> None:
    known, unknown = np.arange(50.0), np.arange(100.0, 150)
    sources = np.arange(100)
    assert separation(known, unknown, sources, resamples=50).value == 1
    assert separation(known, known, sources, resamples=0).value == 0.5
    rng = np.random.default_rng(0)
    alike = np.repeat(rng.normal(size=5), 20), np.repeat(rng.normal(size=5), 20) + 1
    few, many = (separation(*alike, np.arange(200) // views, resamples=200) for views in (20, 1))
    assert few.high - few.low > 2 * (many.high - many.low)


def test_a_source_with_several_labels_counts_once_for_each() -> None:
    labels = np.array([0] * 10 + [1] * 40)
    perfect = np.eye(3)[labels]
    case = Predicted(perfect, labels, np.zeros(50, int), NAMES, np.ones(50, bool), ("",) * 50, np.zeros(50))
    level = evaluate(case)
    assert level.sources == 1
    assert level.source.n == 2
    assert level.source.accuracy.value == 1


def test_without_errors_there_is_no_share_of_them() -> None:
    case = predicted(30)
    perfect = replace(case, probabilities=np.eye(3)[case.labels])
    level = evaluate(perfect)
    assert level.image.errors_caught is None
    assert level.image.accuracy.value == 1


def test_a_comparison_without_resamples_has_no_interval() -> None:
    difference = compare(predicted(skill=3), predicted(skill=1), resamples=0)
    assert difference.source_accuracy.value > 0
    assert difference.source_accuracy.low is None
