"""Folds and splits that keep the images of one source together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from core.data.class_folders import ClassFolders, Sample, read_class_folders
from core.data.folds import fitting_folds, folds_by_source
from core.data.groups import read_groups
from core.data.image_set import ImageSet
from core.data.laboratories import Laboratory, TrainingData
from core.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path


def test_no_source_is_on_both_sides(folders: Path) -> None:
    data = read_class_folders(folders).with_groups(read_groups(folders.parent / "groups.csv"))
    assert data.source_counts() == {"A": 4, "B": 4}
    for seed in range(5):
        train, validation = folds_by_source(data, 4, seed)[0]
        assert not {s.source for s in train.samples} & {s.source for s in validation.samples}
        assert len(train.samples) + len(validation.samples) == 24
        assert validation.counts() == {"A": 3, "B": 3}


def test_folds_divide_the_sources(folders: Path) -> None:
    data = read_class_folders(folders).with_sources(str(folders.parent / "groups.csv"))
    folds = folds_by_source(data, 4, 0)
    assert len(folds) == 4
    held_out = [sample.path for _, validation in folds for sample in validation.samples]
    assert sorted(held_out) == sorted(sample.path for sample in data.samples)
    for train, validation in folds:
        assert not {s.source for s in train.samples} & {s.source for s in validation.samples}


def test_a_class_with_one_source_cannot_be_split(folders: Path) -> None:
    groups = read_groups(folders.parent / "groups.csv")
    data = read_class_folders(folders).with_groups({path: "A0" if "/A/" in path else s for path, s in groups.items()})
    with pytest.raises(DataError, match="The class A has a single source"):
        folds_by_source(data, 5, 0)


def test_a_class_of_one_image_is_named(folders: Path) -> None:
    (folders / "Blast").mkdir()
    (folders / "A" / "0.png").rename(folders / "Blast" / "0.png")
    with pytest.raises(DataError, match=r"The class Blast has a single image.* add another image of it"):
        folds_by_source(read_class_folders(folders), 5, 0)
    named = read_class_folders(folders).with_groups(read_groups(folders.parent / "groups.csv"))
    with pytest.raises(DataError, match="No image of Blast has a source"):
        folds_by_source(named, 5, 0)


@pytest.mark.parametrize(
    ("share", "most", "folds"),
    [(0.5, 50, (1, 2)), (0.4, 50, (2, 5)), (0.15, 50, (1, 7)), (0.3, 50, (3, 10)), (0.4, 3, (1, 3)), (0.01, 5, (1, 5))],
)
def test_a_share_becomes_the_nearest_folds(share: float, most: int, folds: tuple[int, int]) -> None:
    assert fitting_folds(share, most) == folds


@pytest.mark.parametrize("share", [0.1, 0.15, 0.25, 0.33, 0.4, 0.5])
def test_the_validation_share_is_what_was_asked_for(share: float, tmp_path: Path) -> None:
    samples = tuple(Sample(tmp_path / f"{number}.png", number % 2, f"s{number // 4}") for number in range(400))
    data = TrainingData(
        (Laboratory(name="here", path=tmp_path),), (ClassFolders(tmp_path, ("A", "B"), samples),), ("A", "B")
    )
    images = ImageSet(torch.zeros(400, 1, 1, 3), torch.arange(400) % 2, torch.arange(400) // 4, samples)
    training, validation = data.split(images, share, 0)
    assert sorted(training + validation) == list(range(400))
    assert len(validation) / 400 == pytest.approx(share, abs=0.02)
    assert not {samples[row].source for row in training} & {samples[row].source for row in validation}
