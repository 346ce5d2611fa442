"""The report of a run: static pages that open from disk, without a server or the internet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pipelines.classification.sheet import THUMBNAIL, THUMBNAIL_COLUMNS
from runtime.pages import render

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipelines.classification.record import RunRecord
    from pipelines.classification.run_folder import RunFolder
    from pipelines.classification.summary import Cell, Slide

__all__ = ["Report"]

_FEW_CELLS = 100
_COLOURS = ("#c2553f", "#3b6fb6", "#7a9a3d", "#8a5aa8", "#c98a1b", "#3f9a94", "#9a5a5a", "#66707c")


class Report:
    """Writes one page per slide as the slides come, and the overview at the end.

    Args:
        run: Folder of the run.
        class_names: Class names of the bundle, in order.
        drawn: Whether the images are drawings, which every page then says.
    """

    def __init__(self, run: RunFolder, class_names: Sequence[str], *, drawn: bool) -> None:
        self._run = run
        self._slides: list[tuple[Slide, str]] = []
        self._common = {
            "class_names": list(class_names),
            "colours": {name: _COLOURS[index % len(_COLOURS)] for index, name in enumerate(class_names)},
            "few_cells": _FEW_CELLS,
            "drawn": drawn,
        }

    def add(self, slide: Slide, *, last: bool) -> None:
        """Write a slide's page; its cells may be dropped afterwards."""
        number = len(self._slides) + 1
        groups = [(name, [_for_page(cell) for cell in slide.cells(name)]) for name in self._common["class_names"]]
        around = {"before": _page(number - 1) if number > 1 else None, "after": None if last else _page(number + 1)}
        html = render("pipelines", "slide.html", slide=slide, groups=groups, **around, **self._common)
        self._run.folder.write(f"report/slides/{_page(number)}", html.encode())
        self._slides.append((slide, f"slides/{_page(number)}"))

    def finish(self, record: RunRecord) -> None:
        """Write ``report/index.html``, with what is on record of the run."""
        html = render("pipelines", "index.html", slides=self._slides, record=record, **self._common)
        self._run.folder.write("report/index.html", html.encode())


def _page(number: int) -> str:
    return f"{number:05d}.html"


def _for_page(cell: Cell) -> dict[str, Any]:
    part, index = cell.sheet
    row, column = divmod(index, THUMBNAIL_COLUMNS)
    return {
        "image": cell.image,
        "label": cell.label,
        "confidence": cell.confidence,
        "flag": cell.flag,
        "probabilities": cell.probabilities,
        "gradcam": f"../../{quote(cell.gradcam)}" if cell.gradcam else None,
        "size": cell.size,
        "sheet": f"../thumbnails/part-{part:08d}.jpg",
        "x": -column * THUMBNAIL[0],
        "y": -row * THUMBNAIL[1],
    }
