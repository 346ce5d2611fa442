"""Confident learning on features and probabilities whose wrong labels are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from core.data.class_folders import ClassFolders, Sample
from core.errors import DataError
from core.evaluation.look_alikes import LookAlikes
from core.evaluation.out_of_fold import predict_out_of_fold
from core.evaluation.suspects import by_source, calibrate_joint, class_thresholds, find_suspects

NAMES = ("A", "B", "C")


def folders(labels: np.ndarray, sources: np.ndarray | None = None, names: tuple[str, ...] = NAMES) -> ClassFolders:
    named = [None] * len(labels) if sources is None else [f"s{source}" for source in sources]
    rows = zip(labels.tolist(), named, strict=True)
    samples = (Sample(Path(f"/d/{row}.png"), label, source) for row, (label, source) in enumerate(rows))
    return ClassFolders(Path("/d"), names, tuple(samples))


def clouds(rng: np.random.Generator, per_class: int) -> tuple[np.ndarray, np.ndarray]:
    """Three clouds of 32 features that overlap a little."""
    labels = np.repeat(np.arange(3), per_class)
    centres = rng.normal(size=(3, 32))
    return (centres[labels] * 0.8 + rng.normal(size=(len(labels), 32))).astype(np.float32), labels


def test_swapped_labels_come_first() -> None:
    rng = np.random.default_rng(6)
    features, truth = clouds(rng, 80)
    labels, swapped = truth.copy(), rng.choice(len(truth), 12, replace=False)
    labels[swapped] = (labels[swapped] + rng.integers(1, 3, 12)) % 3
    result = predict_out_of_fold(folders(labels), features, 5)
    assert result.folds == 5
    assert np.allclose(result.probabilities.sum(axis=1), 1)
    suspects = find_suspects(result.probabilities, labels)
    assert set(suspects.rows[:10]) <= set(swapped)
    assert len(set(swapped) & set(suspects.rows)) >= 11  # the clouds overlap
    right = suspects.suggested == truth[suspects.rows]
    assert right[:10].all()
    wrong = calibrate_joint(suspects.joint, labels)
    assert wrong.sum() == pytest.approx(len(labels))
    assert 6 < wrong.sum() - np.trace(wrong) < 24


def test_the_joint_by_hand() -> None:
    """Thresholds 0.7 and 0.6: the fourth image reaches that of the other class, the fifth none."""
    first = np.array([0.9, 0.8, 0.8, 0.7, 0.5, 0.1, 0.1])
    probabilities = np.stack((first, 1 - first), 1)
    labels = np.array([0, 0, 0, 1, 0, 1, 1])
    assert class_thresholds(probabilities, labels) == pytest.approx([0.75, 0.7])
    assert len(find_suspects(probabilities, labels)) == 0  # 0.7 is less than the mean of the first class
    probabilities[3] = 0.8, 0.2
    suspects = find_suspects(probabilities, labels)
    assert suspects.rows.tolist() == [3]
    assert suspects.suggested.tolist() == [0]
    assert suspects.margins == pytest.approx([0.6])
    assert suspects.joint.tolist() == [[3, 0], [1, 2]]
    assert calibrate_joint(suspects.joint, labels) == pytest.approx(np.array([[4, 0], [1, 2]]))


def test_a_label_that_is_most_probable_is_not_suspect() -> None:
    """The last image reaches the low threshold of C, and not the high one of its own class."""
    probabilities = np.array([[0.98, 0.01, 0.01]] * 3 + [[0.01, 0.69, 0.3]] * 2 + [[0.6, 0.0, 0.4]])
    labels = np.array([0, 0, 0, 2, 2, 0])
    suspects = find_suspects(probabilities, labels)
    assert suspects.joint[0].tolist() == [3, 0, 1]
    assert suspects.rows.tolist() == []


def test_a_class_without_images_is_never_found() -> None:
    probabilities = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.9, 0.1, 0.0]])
    labels = np.array([0, 1, 1])
    assert class_thresholds(probabilities, labels)[2] == np.inf
    suspects = find_suspects(probabilities, labels)
    assert suspects.rows.tolist() == [2]
    joint = calibrate_joint(suspects.joint, labels)
    assert np.isfinite(joint).all()
    assert joint.sum() == pytest.approx(3)


def test_views_of_one_field_are_put_together() -> None:
    """One of four views is very suspect, and all of two others; the mean over the views decides."""
    probabilities = np.array([[0.99, 0.01], [0.3, 0.7], [0.2, 0.8], [0.2, 0.8], [0.85, 0.15], [0.9, 0.1], [0.9, 0.1]])
    labels = np.array([1, 1, 1, 1, 1, 1, 0])
    sources = np.array([7, 7, 7, 7, 8, 8, 9])
    suspects = find_suspects(probabilities, labels)
    assert suspects.rows.tolist() == [0, 5]
    found = by_source(suspects, probabilities, labels, sources)
    assert [(one.places, one.suggested, one.images) for one in found] == [((1,), 0, 2), ((0,), 0, 4)]
    assert found[0].margin == pytest.approx(0.75)
    assert found[1].margin < 0


def test_views_in_other_folds_do_not_teach_a_wrong_label() -> None:
    """All views of a source have the same wrong label: only a classifier that saw none of them says so."""
    rng = np.random.default_rng(6)
    features, truth = clouds(rng, 20)
    features = np.repeat(features, 6, axis=0) + 0.01 * rng.normal(size=(360, 32)).astype(np.float32)
    labels, sources = np.repeat(truth, 6), np.repeat(np.arange(60), 6)
    labels[sources == 3] = 2
    result = predict_out_of_fold(folders(labels, sources), features, 5)
    suspects = find_suspects(result.probabilities, labels)
    best, *_ = by_source(suspects, result.probabilities, labels, sources)
    assert {int(sources[suspects.rows[place]]) for place in best.places} == {3}
    assert (len(best.places), best.images, best.suggested) == (6, 6, 0)


def test_features_that_only_two_images_have_decide_nothing() -> None:
    """Images of A and of B share in pairs what no other has; without a bound it outweighs all else."""
    rng = np.random.default_rng(6)
    features, labels = clouds(rng, 80)
    pairs = np.arange(8)[:, None] + [0, 80]
    rare = np.zeros((len(features), 8, 64), np.float32)
    for number, pair in enumerate(pairs):
        rare[pair, number] = 1.0
    features = np.concatenate((features, rare.reshape(len(features), -1)), axis=1)
    probabilities = predict_out_of_fold(folders(labels), features, 5).probabilities
    assert (probabilities[pairs].argmax(axis=2) == [0, 1]).all()


def test_few_sources_make_fewer_folds_and_a_single_one_is_refused() -> None:
    rng = np.random.default_rng(5)
    features, labels = clouds(rng, 20)
    few = np.r_[np.arange(40), 40, 41, 42]
    assert predict_out_of_fold(folders(labels[few]), features[few], 5).folds == 3
    with pytest.raises(DataError, match=r"The class C has a single image.*\[too-few-sources\]"):
        predict_out_of_fold(folders(labels[:41]), features[:41], 5)
    with pytest.raises(DataError, match=r"labelled A; .*\[single-class\]"):
        predict_out_of_fold(folders(labels[:20]), features[:20], 5)
    unused = predict_out_of_fold(folders(labels[:40]), features[:40], 5).probabilities
    assert (unused[:, 2] == 0).all()


def test_look_alikes_are_of_other_sources_one_each() -> None:
    features = np.array([[1, 0], [1, 0.1], [1, 0.2], [1, 0.3], [-1, 0], [-1, -0.3]], np.float32)
    sources = np.array([0, 0, 1, 1, 2, 3])
    everyone = np.ones(6, bool)
    alike = LookAlikes(features, sources)
    assert alike.nearest(0, everyone, 9)[0] in {2, 3}
    assert sorted(sources[alike.nearest(0, everyone, 9)].tolist()) == [1, 2, 3]
    assert alike.nearest(0, np.zeros(6, bool), 2) == []
