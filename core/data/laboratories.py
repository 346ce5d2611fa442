"""What a training run learns from: the images of one laboratory or of several; read, decoded once, folded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import torch
import yaml
from pydantic import AfterValidator, Field, ValidationError

from core.data.boxes import read_boxed_cells, read_boxes
from core.data.class_folders import ClassFolders, class_folder_names, read_class_folders
from core.data.folds import fitting_folds, folds_by_source, most_folds
from core.data.groups import SourceSettings
from core.data.image_set import OUTLIER, ImageSet, join_images, load_images
from core.errors import DataError, SettingsError
from core.settings import Settings, describe_problems

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from core.data.class_folders import Sample
    from core.finding.search import CellSearch

__all__ = ["DataOptions", "DataSettings", "Laboratory", "TrainingData", "names_laboratories", "read_laboratories"]


def _plain(name: str) -> str:
    if not name.strip() or not name.isprintable() or "/" in name:
        raise ValueError("a name of letters, digits, spaces and dashes")
    return name


class Laboratory(SourceSettings):
    """Labelled images of one place, stain and microscope."""

    name: Annotated[str, AfterValidator(_plain)] = Field(description="name in tables and options")
    path: Path = Field(description="folder with one sub-folder per class, or with fields where `boxes` is given")
    boxes: Path | None = Field(None, description="CSV image,label,left,top,right,bottom, where images are fields")
    unknown: list[str] = Field([], description="classes of it that are taught as none of the known ones")
    ignored: list[str] = Field([], description="classes of it that are left out")
    not_white: list[str] = Field(
        [], description="labels of what is no white cell, such as platelets: shown to a finder, left out otherwise"
    )
    half: Literal["even", "odd"] | None = Field(
        None, description="use every other image of each class only, in the order of their names"
    )
    credit: str = Field("", max_length=500, description="who the images are by, and their licence; stands in the card")
    share: float = Field(1.0, gt=0, le=1000, description="how often its images are drawn, relative to the others'")

    @property
    def found_classes(self) -> set[str]:
        """Names of all classes on disk but those that are left out."""
        names = class_folder_names(self.path) if self.boxes is None else {cell.label for cell in read_boxes(self.boxes)}
        return set(names) - set(self.ignored) - set(self.not_white)

    def read(self, class_names: Sequence[str]) -> ClassFolders:
        """List its images.

        Args:
            class_names: Known classes; those of its own that are unknown are numbered after them.

        Raises:
            DataError: Folder, boxes or groups cannot be used.
        """
        names = (*class_names, *sorted(set(self.unknown)))
        ignored = [*self.ignored, *(name for name in self.not_white if name not in names)]
        if self.boxes is None:
            data = read_class_folders(self.path, names, ignored=ignored)
        else:
            data = read_boxed_cells(self.path, self.boxes, names, ignored=ignored)
        data = data.half(self.half) if self.half else data
        return data if self.groups is None else data.with_sources(self.groups, self.linked_groups)


class _LaboratoriesFile(Settings):
    laboratories: list[Laboratory] = Field(min_length=1)


def read_laboratories(file: Path) -> tuple[Laboratory, ...]:
    """Read a YAML file that names laboratories; paths in it are relative to its folder.

    Args:
        file: A file with one entry, ``laboratories``: a list of `Laboratory`.

    Raises:
        DataError: With code ``laboratories-unreadable``.

    Example:
        >>> [laboratory.name for laboratory in read_laboratories(Path("laboratories.yaml"))]
        ['barcelona', 'bangkok']
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        listed = _LaboratoriesFile.model_validate(content).laboratories
    except ValidationError as error:
        problem = describe_problems(error.errors())[0]
        raise DataError("laboratories-unreadable", f"{file}: {problem}.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise DataError("laboratories-unreadable", f"{file} is not a file of laboratories ({reason}).") from error
    names = [laboratory.name for laboratory in listed]
    if double := sorted({name for name in names if names.count(name) > 1}):
        raise DataError("laboratories-unreadable", f"{file} names {', '.join(double)} more than once.")
    return tuple(_placed(laboratory, file.parent) for laboratory in listed)


def _placed(laboratory: Laboratory, folder: Path) -> Laboratory:
    """Resolve the paths of an entry against the folder of its file."""
    rule = laboratory.groups
    by_file = rule is not None and rule.partition(":")[0] not in {"folder", "name"}
    return laboratory.model_copy(
        update={
            "path": folder / laboratory.path,
            "boxes": None if laboratory.boxes is None else folder / laboratory.boxes,
            "groups": str(folder / rule) if by_file and rule else rule,
            "linked_groups": None if laboratory.linked_groups is None else folder / laboratory.linked_groups,
        }
    )


class DataOptions(SourceSettings):
    """The options that say how the images under DATA are taken."""

    unknown: list[str] = Field(
        [], description="class folders of DATA of cells that are none of the known classes: taught as such"
    )
    half: Literal["even", "odd"] | None = Field(
        None, description="use every other image of each class only, in the order of their names"
    )
    leave_out: list[str] = Field([], description="laboratories of the file that take no part")

    def laboratories_in(self, data: Path) -> tuple[Laboratory, ...]:
        """Return the laboratories that are named.

        Args:
            data: DATA, a folder of classes or a file of laboratories.

        Raises:
            DataError: With code ``laboratories-unreadable``.
            SettingsError: With code ``laboratories-options`` where options contradict the file.
        """
        if not names_laboratories(data):
            if self.leave_out:
                raise SettingsError("laboratories-options", "--leave-out needs a file of laboratories as DATA.")
            return (
                Laboratory(
                    name=data.absolute().name or "data",
                    path=data,
                    groups=self.groups,
                    linked_groups=self.linked_groups,
                    unknown=self.unknown,
                    half=self.half,
                    boxes=None,
                    ignored=[],
                    not_white=[],
                    credit="",
                    share=1.0,
                ),
            )
        if self.groups or self.linked_groups or self.unknown or self.half:
            raise SettingsError(
                "laboratories-options",
                f"Groups, unknown classes and halves stand in {data} itself, for each laboratory; leave their"
                " options away.",
            )
        found = read_laboratories(data)
        if absent := set(self.leave_out) - {laboratory.name for laboratory in found}:
            raise SettingsError("laboratories-options", f"{data} has no laboratory {', '.join(sorted(absent))}.")
        chosen = tuple(laboratory for laboratory in found if laboratory.name not in self.leave_out)
        if not chosen:
            raise SettingsError("laboratories-options", "No laboratory is left to train on.")
        return chosen


class DataSettings(DataOptions):
    """The options that name the data."""

    data: Path = Field(description="folder with one sub-folder per class, or a YAML file of laboratories")


def names_laboratories(data: Path) -> bool:
    """Whether DATA is a file of laboratories, and not a folder of classes."""
    return data.suffix.lower() in {".yaml", ".yml"}


@dataclass(frozen=True)
class TrainingData:
    """The data of a run.

    Attributes:
        laboratories: Where the images come from.
        sets: The images of each laboratory, known classes first.
        class_names: The known classes.
    """

    laboratories: tuple[Laboratory, ...]
    sets: tuple[ClassFolders, ...]
    class_names: tuple[str, ...]

    @classmethod
    def read(cls, settings: DataSettings, class_names: tuple[str, ...] | None = None) -> TrainingData:
        """List the images and name their sources.

        Args:
            settings: Options that name the data.
            class_names: The known classes, where a bundle fixes them; otherwise those that are found.

        Raises:
            DataError: A folder, boxes or a file of groups cannot be used.
            SettingsError: Options contradict each other.
        """
        laboratories = settings.laboratories_in(settings.data)
        found = [laboratory.found_classes for laboratory in laboratories]
        unknown = {name for laboratory in laboratories for name in laboratory.unknown}
        names = class_names or tuple(sorted(set().union(*found) - unknown))
        if foreign := sorted(set().union(*found) - unknown - set(names)):
            raise DataError(
                "unknown-class",
                f"The bundle does not know {', '.join(foreign)}; give each as --unknown, or leave it out of the data.",
            )
        for laboratory, classes in zip(laboratories, found, strict=True):
            if missing := set(laboratory.unknown) - classes:
                raise DataError("empty-class", f"{laboratory.path} has no class {', '.join(sorted(missing))}.")
            if not classes & set(names):
                raise DataError("no-classes", f"{laboratory.path} holds none of the classes {', '.join(names)}.")
        sets = [laboratory.read(names) for laboratory in laboratories]
        if len(sets) > 1:
            sets = [data.with_prefix(laboratory.name) for laboratory, data in zip(laboratories, sets, strict=True)]
        return cls(laboratories, tuple(sets), names)

    @property
    def size(self) -> int:
        """Number of images of all laboratories."""
        return sum(len(data.samples) for data in self.sets)

    def fingerprints(self) -> dict[str, str]:
        """Return what identifies each laboratory's images, by name; every file's size is looked at."""
        return {
            laboratory.name: data.fingerprint for laboratory, data in zip(self.laboratories, self.sets, strict=True)
        }

    @property
    def grouped(self) -> bool:
        """Whether any laboratory's sources are named."""
        return any(laboratory.groups is not None for laboratory in self.laboratories)

    @property
    def shares(self) -> tuple[float, ...]:
        """How often each laboratory's images are drawn, relative to the others'."""
        return tuple(laboratory.share for laboratory in self.laboratories)

    def load(
        self, cells: CellSearch, margin: float, threads: int, on_image: Callable[[], object] | None = None
    ) -> ImageSet:
        """Decode every image once; the labels of unknown classes are `OUTLIER`.

        Args:
            cells: What finds and prepares the cells, as it will be used with the network.
            margin: Room around the input for augmentation, relative to the input's side.
            threads: Number of threads that decode.
            on_image: Called after each image.

        Raises:
            DataError: None of a laboratory's images can be read.
        """
        known = len(self.class_names)
        loaded: list[ImageSet] = []
        for data in self.sets:
            images = load_images(data.samples, cells, margin=margin, workers=threads, on_image=on_image)
            labels = torch.where(images.labels < known, images.labels, OUTLIER)
            loaded.append(replace(images, labels=labels))
        return loaded[0] if len(loaded) == 1 else join_images(loaded, self.shares)

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
        taken, count = fitting_folds(share, self._most_folds())
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
            Per fold, the rows of `images` to train on and those to validate on; fewer folds where no laboratory has
            so many sources of its scarcest class.

        Raises:
            DataError: With code ``too-few-sources``.
        """
        row_of = {sample: row for row, sample in enumerate(images.samples)}
        folds = min(count, self._most_folds())
        per_set = [folds_by_source(data, folds, seed, exactly=True) for data in self.sets]
        return [
            (
                [row for sides in per_set for row in _rows(sides[fold][0], row_of)],
                [row for sides in per_set for row in _rows(sides[fold][1], row_of)],
            )
            for fold in range(folds)
        ]

    def _most_folds(self) -> int:
        """Return how many folds the laboratory with the most sources of its scarcest class allows."""
        most: list[int] = []
        problems: list[DataError] = []
        for data in self.sets:
            try:
                most.append(most_folds(data))
            except DataError as error:  # noqa: PERF203 - there are a few laboratories
                problems.append(error)
        if not most:
            raise problems[0]
        return max(most)


def _rows(data: ClassFolders, row_of: dict[Sample, int]) -> list[int]:
    return [row_of[sample] for sample in data.samples if sample in row_of]
