"""What every export is made from."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

from core.errors import LeukorayError
from pipelines.classification.overlay_path import fitting
from pipelines.reviewing.cells import NO_CELL, UNIDENTIFIED

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipelines.reviewing.outcome import ReviewedCell
    from pipelines.reviewing.sources import SourceImages

__all__ = ["ExportedReview", "class_folder", "image_path", "of_complete_images"]


@dataclass
class ExportedReview:
    """A review on its way out.

    Attributes:
        title: What the run is called.
        bundle: Bundle of the run.
        class_names: Classes that the bundle knows.
        labels: Every label that a cell may have, in order.
        colours: The colour of each label that has one, ``#rrggbb``.
        cells: The cells, those of an image together and in order.
        fields: Whether images are fields with any number of cells.
        sources: The images.
        skipped: Images that could not be read, with the reason.
        taken: Number of images that could.
    """

    title: str
    bundle: str
    class_names: Sequence[str]
    labels: Sequence[str]
    colours: dict[str, str]
    cells: Sequence[ReviewedCell]
    fields: bool
    sources: SourceImages
    skipped: list[tuple[str, str]] = field(default_factory=list)
    taken: int = 0

    @property
    def boxed(self) -> list[ReviewedCell]:
        """Cells that have a box and are cells."""
        return [cell for cell in self.cells if cell.box is not None and cell.label != NO_CELL]

    @property
    def categories(self) -> list[str]:
        """Labels that a cell can have and be a cell."""
        return [label for label in self.labels if label != NO_CELL]

    def images(self) -> Iterator[tuple[str, str, list[ReviewedCell]]]:
        """Yield each image with its cells: slide, name, cells."""
        for (slide, name), cells in groupby(self.cells, key=lambda cell: cell.key[:2]):
            yield slide, name, list(cells)

    def colour(self, label: str) -> tuple[int, int, int]:
        """Return a label's colour; grey where it has none."""
        text = self.colours.get(label, "#8a93a0")
        return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)

    def read(self, slide: str, image: str) -> bytes | None:
        """Return the file of an image; None, and a note in `skipped`, where it cannot be read."""
        try:
            data = self.sources.read(slide, image)
        except (OSError, LeukorayError) as error:
            self.skip(slide, image, error)
            return None
        self.taken += 1
        return data

    def skip(self, slide: str, image: str, why: Exception) -> None:
        """Note that an image is left out."""
        self.skipped.append((f"{slide}/{image}", str(why)))


def of_complete_images(cells: Sequence[ReviewedCell]) -> list[ReviewedCell]:
    """Return the cells of images of which every cell was reviewed.

    Args:
        cells: All cells, those of an image together.
    """
    images = (list(group) for _, group in groupby(cells, key=lambda cell: cell.key[:2]))
    return [cell for image in images if all(cell.reviewed for cell in image) for cell in image]


def image_path(slide: str, image: str) -> str:
    """Return a relative path for an image that no name can lead out of its folder, and no other image has.

    Example:
        >>> image_path("smear 1", "a/b.jpg")
        'smear 1/a/b.jpg'
    """
    *folders, name = image.split("/")
    stem, dot, ending = name.rpartition(".")
    suffix = f".{ending}" if dot and stem and len(ending) <= 8 and ending.isalnum() else ""
    return "/".join((*(fitting(part) for part in (slide, *folders)), fitting(name, suffix)))


def class_folder(label: str) -> str:
    """Return the name under which training knows a label."""
    return label.upper() if label == UNIDENTIFIED else label
