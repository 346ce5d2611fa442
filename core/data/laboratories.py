"""What a training run learns from: the main data set, further ones, and outliers; read, decoded once, folded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field

from core.data.class_folders import ClassFolders, read_class_folders
from core.data.folds import fitting_folds, folds_by_source, most_folds
from core.data.groups import SourceSettings
from core.data.image_set import OUTLIER, ImageSet, join_images, load_images
from core.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from core.images.preprocessing import Preprocessing

__all__ = ["DataSettings", "TrainingData"]


class DataSettings(SourceSettings):
    """The options that name the data."""

    data: Path = Field(description="folder with one sub-folder per class")
    also: list[Path] = Field(
        [], description="further class folders, of another microscope, each image a source of its own"
    )
    also_half: Literal["even", "odd"] | None = Field(
        None, description="use every other image of --also only, in the order of their names"
    )
    outliers: list[str] = Field([], description="class folders of --also, of cells of no class here: taught as such")


@dataclass(frozen=True)
class TrainingData:
    """The data sets of a run; the first is the main one."""

    sets: tuple[ClassFolders, ...]

    @classmethod
    def read(cls, settings: DataSettings) -> TrainingData:
        """List the images and name their sources.

        Raises:
            DataError: A folder or a file of groups cannot be used.
            SettingsError: An outlier is a known class, or there is no further data to hold outliers.
        """
        main = read_class_folders(settings.data)
        if settings.outliers and not settings.also:
            raise SettingsError("outliers-nowhere", "--outliers names class folders of --also; none is given.")
        if taught := set(settings.outliers) & set(main.class_names):
            raise SettingsError("outliers-known", f"{', '.join(sorted(taught))} is a class of {settings.data}.")
        if settings.groups is not None:
            main = main.with_sources(settings.groups, settings.linked_groups)
        return cls((main, *(_further(path, main.class_names, settings) for path in settings.also)))

    @property
    def main(self) -> ClassFolders:
        """The main data set."""
        return self.sets[0]

    @property
    def size(self) -> int:
        """Number of images of all data sets."""
        return sum(len(data.samples) for data in self.sets)

    def load(
        self, preprocessing: Preprocessing, margin: float, threads: int, on_image: Callable[[], object] | None = None
    ) -> ImageSet:
        """Decode every image once; the labels of outliers are `OUTLIER`.

        Args:
            preprocessing: The record that the network will be used with.
            margin: Room around the input for augmentation, relative to the input's side.
            threads: Number of threads that decode.
            on_image: Called after each image.

        Raises:
            DataError: None of a data set's images can be read.
        """
        known = len(self.main.class_names)
        loaded: list[ImageSet] = []
        for data in self.sets:
            images = load_images(data.samples, preprocessing, margin=margin, workers=threads, on_image=on_image)
            labels = torch.where(images.labels < known, images.labels, OUTLIER)
            loaded.append(replace(images, labels=labels))
        return loaded[0] if len(loaded) == 1 else join_images(loaded)

    def split(self, images: ImageSet, share: float, seed: int) -> tuple[list[int], list[int]]:
        """Divide the images in two by source, stratified by class.

        Args:
            images: What `load` gave.
            share: Share of the images wanted for validation, between 0 and 1.
            seed: Seed of the shuffle.

        Returns:
            Rows of `images` to train on, and rows to validate on: as near to the share as the sources allow.

        Raises:
            DataError: With code ``too-few-sources``.
        """
        taken, count = fitting_folds(share, min(most_folds(data) for data in self.sets))
        folds = self.folds(images, count, seed)
        validation = [row for _, held_out in folds[:taken] for row in held_out]
        chosen = set(validation)
        return [
            row for training, held_out in folds[:1] for row in (*training, *held_out) if row not in chosen
        ], validation

    def folds(self, images: ImageSet, count: int, seed: int) -> list[tuple[list[int], list[int]]]:
        """Divide the images into folds by source.

        Args:
            images: What `load` gave.
            count: Number of folds.
            seed: Seed of the shuffle.

        Returns:
            Per fold, the rows of `images` to train on and those to validate on; fewer folds where the scarcest
            class of any set has fewer sources.
        """
        row_of = {sample.path: row for row, sample in enumerate(images.samples)}
        folds = min(count, *(most_folds(data) for data in self.sets))
        per_set = [folds_by_source(data, folds, seed) for data in self.sets]
        return [
            (
                [row for sides in per_set for row in _rows(sides[fold][0], row_of)],
                [row for sides in per_set for row in _rows(sides[fold][1], row_of)],
            )
            for fold in range(folds)
        ]


def _further(path: Path, class_names: Sequence[str], settings: DataSettings) -> ClassFolders:
    data = read_class_folders(path, (*class_names, *settings.outliers))
    return data.half(settings.also_half) if settings.also_half else data


def _rows(data: ClassFolders, row_of: dict[Path, int]) -> list[int]:
    return [row_of[sample.path] for sample in data.samples if sample.path in row_of]
