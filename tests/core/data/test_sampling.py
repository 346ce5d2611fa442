"""How often images are drawn: classes alike, sources alike, data sets and outliers by their shares."""

from __future__ import annotations

import pytest
import torch

from core.data.image_set import OUTLIER, ImageSet
from core.data.sampling import sampling_weights
from core.training.config import TrainingConfig


def images(labels: list[int], sources: list[int], domains: list[int] | None = None) -> ImageSet:
    pixels = torch.zeros(len(labels), 4, 4, 3, dtype=torch.uint8)
    further = None if domains is None else torch.tensor(domains)
    return ImageSet(pixels, torch.tensor(labels), torch.tensor(sources), (), domains=further)


def weigh(data: ImageSet, **config: object) -> torch.Tensor | None:
    return sampling_weights(data, data.labels, TrainingConfig.model_validate(config))


def test_without_balance_everything_is_drawn_once_per_pass() -> None:
    assert weigh(images([0, 0, 1], [0, 1, 2])) is None


def test_classes_are_drawn_alike() -> None:
    weights = weigh(images([0, 0, 0, 1], [0, 1, 2, 3]), balance="class")
    assert weights is not None
    assert weights.tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2])


def test_sources_of_a_class_are_drawn_alike() -> None:
    weights = weigh(images([0, 0, 0, 1], [0, 0, 1, 2]), balance="source")
    assert weights is not None
    assert weights.tolist() == pytest.approx([1 / 8, 1 / 8, 1 / 4, 1 / 2])


def test_a_source_with_two_labels_counts_in_both_classes() -> None:
    weights = weigh(images([0, 0, 1], [0, 1, 0]), balance="source")
    assert weights is not None
    assert weights.tolist() == pytest.approx([1 / 4, 1 / 4, 1 / 2])


@pytest.mark.parametrize("balance", ["none", "class", "source"])
def test_further_sets_and_outliers_get_their_shares(balance: str) -> None:
    data = images([0, 0, 0, 1, 1, 1, OUTLIER, 0], list(range(8)), [0, 0, 0, 0, 0, 1, 1, 2])
    weights = weigh(data, balance=balance, further_share=0.3, outlier_share=0.2)
    assert weights is not None
    assert float(weights.sum()) == pytest.approx(1)
    assert float(weights[6]) == pytest.approx(0.2)
    for label, further in ((0, 7), (1, 5)):
        of_class = data.labels == label
        assert float(weights[further] / weights[of_class].sum()) == pytest.approx(0.3)


def test_a_class_that_only_the_further_set_has_keeps_its_weight() -> None:
    weights = weigh(images([0, 1], [0, 1], [0, 1]), balance="class", further_share=0.3)
    assert weights is not None
    assert weights.tolist() == pytest.approx([0.5, 0.5])
