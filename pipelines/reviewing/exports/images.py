"""The images of a review, each with its cells: what every export goes through, one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.images.cells import Box
from core.model.confidence import SEVERAL_CELLS
from pipelines.reviewing.cells import NO_CELL
from pipelines.reviewing.outcome import reviewed_cells

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipelines.reviewing.outcome import ReviewedCell, Which
    from pipelines.reviewing.state import ReviewState

__all__ = ["ReviewedImage", "box_inside", "reviewed_images"]


@dataclass(frozen=True, slots=True)
class ReviewedImage:
    """One image of a run after a review.

    Attributes:
        slide: Name of its slide.
        image: Path relative to the slide, printable.
        size: Width and height in pixels, upright.
        part: Number of the part of the run that it belongs to.
        cells: Cells that were asked for, by number; those that are no cell included.
        complete: Whether a person has said what each of its cells is, or signed its slide off, and no other cell is
            seen in it.
        doubled: Whether two files have this name once it is printable, so that nobody knows whose cells these are.
    """

    slide: str
    image: str
    size: tuple[int, int]
    part: int
    cells: tuple[ReviewedCell, ...]
    complete: bool
    doubled: bool

    @property
    def white(self) -> list[ReviewedCell]:
        """The cells that are white cells."""
        return [cell for cell in self.cells if cell.label != NO_CELL]


def reviewed_images(state: ReviewState, which: Which) -> list[ReviewedImage]:
    """Return the images that have a cell that is asked for, or are asked for as empty, in the order of the run.

    Args:
        state: What the review says.
        which: ``reviewed`` for cells that a person has said something of, or whose slide is signed off.
    """
    parts = state.cells.place[:, 0].tolist()
    groups: dict[tuple[str, str], list[ReviewedCell]] = {}
    seen: dict[tuple[str, str], set[int]] = {}
    for row, cell in enumerate(reviewed_cells(state)):
        name = cell.key[:2]
        groups.setdefault(name, []).append(cell)
        if row < len(parts):
            seen.setdefault(name, set()).add(parts[row])
    images = (_image(cells, seen[name], which) for name, cells in groups.items())
    return [image for image in images if image.cells]


def _image(cells: Sequence[ReviewedCell], parts: set[int], which: Which) -> ReviewedImage:
    first = cells[0]
    wanted = [cell for cell in cells if which == "all" or cell.reviewed]
    return ReviewedImage(
        slide=first.key.slide,
        image=first.key.image,
        size=first.size,
        part=min(parts),
        cells=tuple(sorted(wanted, key=lambda cell: cell.key.number)),
        complete=all(cell.reviewed and cell.flag != SEVERAL_CELLS for cell in cells),
        doubled=len(parts) > 1 or len({cell.key.number for cell in cells}) < len(cells),
    )


def box_inside(cell: ReviewedCell) -> Box | None:
    """Return the box of a cell as far as its image reaches, to a thousandth of a pixel; None where it has none."""
    if cell.box is None:
        return None
    width, height = cell.size
    left, right = (round(min(max(edge, 0.0), float(width)), 3) for edge in (cell.box.left, cell.box.right))
    top, bottom = (round(min(max(edge, 0.0), float(height)), 3) for edge in (cell.box.top, cell.box.bottom))
    return Box(left, top, right, bottom) if left < right and top < bottom else None
