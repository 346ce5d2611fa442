"""How often images are drawn: classes alike, sources alike, data sets and outliers by their shares."""

from __future__ import annotations

import pytest
import torch

from core.data.image_set import OUTLIER, ImageSet
from core.data.sampling import sampling_weights
from core.training.config import TrainingConfig


def images(
    labels: list[int], sources: list[int], domains: list[int] | None = None, shares: tuple[float, ...] = ()
) -> ImageSet:
    pixels = torch.zeros(len(labels), 4, 4, 3, dtype=torch.uint8)
    places = None if domains is None else torch.tensor(domains)
    shared = torch.tensor(shares).double()[places] if shares else None
    return ImageSet(pixels, torch.tensor(labels), torch.tensor(sources), (), domains=places, shares=shared)


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
def test_laboratories_and_outliers_get_their_shares(balance: str) -> None:
    domains, shares = [0, 0, 0, 0, 0, 1, 1, 2], (1.0, 0.25, 3.0)
    data = images([0, 0, 0, 1, 1, 1, OUTLIER, 0], list(range(8)), domains, shares)
    weights = weigh(data, balance=balance, outlier_share=0.2)
    assert weights is not None
    assert float(weights.sum()) == pytest.approx(1)
    assert float(weights[6]) == pytest.approx(0.2)
    assert float(weights[7] / weights[data.labels == 0].sum()) == pytest.approx(3 / 4)
    assert float(weights[5] / weights[data.labels == 1].sum()) == pytest.approx(0.25 / 1.25)


def test_a_class_that_only_one_laboratory_has_keeps_its_weight() -> None:
    weights = weigh(images([0, 1], [0, 1], [0, 1], (1.0, 5.0)), balance="class")
    assert weights is not None
    assert weights.tolist() == pytest.approx([0.5, 0.5])
