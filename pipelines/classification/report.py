"""The report of a run: static pages that open from disk, without a server or the internet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from core.evaluation.differential import FEW_CELLS, describe_count
from pipelines.classification.overlay_path import overlay_path
from pipelines.classification.sheet import sheet_place
from runtime.pages import render

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipelines.classification.record import RunRecord
    from pipelines.classification.run_folder import RunFolder
    from pipelines.classification.summary import Cell, Slide

__all__ = ["COLOURS", "Report"]

COLOURS = ("#c2553f", "#3b6fb6", "#7a9a3d", "#8a5aa8", "#c98a1b", "#3f9a94", "#9a5a5a", "#66707c")
"""Colours of the classes, in order."""


class Report:
    """Writes one page per slide as the slides come, and the overview at the end.

    Args:
        run: Folder of the run.
        class_names: Class names of the bundle, in order.
        drawn: Whether the images are drawings, which every page then says.
        fields: Whether there is a picture of each image with the boxes of its cells.
    """

    def __init__(self, run: RunFolder, class_names: Sequence[str], *, drawn: bool, fields: bool) -> None:
        self._run, self._fields = run, fields
        self._slides: list[tuple[Slide, str]] = []
        self._common = {
            "class_names": list(class_names),
            "colours": {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(class_names)},
            "describe_count": describe_count,
            "few_cells": FEW_CELLS,
            "drawn": drawn,
        }

    def add(self, slide: Slide, *, last: bool) -> None:
        """Write a slide's page; its cells may be dropped afterwards."""
        number = len(self._slides) + 1
        names = [*self._common["class_names"], ""]
        groups = [(name, [self._for_page(slide, cell) for cell in slide.cells(name)]) for name in names]
        around = {"before": _page(number - 1) if number > 1 else None, "after": None if last else _page(number + 1)}
        html = render("pipelines", "slide.html", slide=slide, groups=groups, **around, **self._common)
        self._run.folder.write(f"report/slides/{_page(number)}", html.encode())
        self._slides.append((slide, f"slides/{_page(number)}"))

    def finish(self, record: RunRecord) -> None:
        """Write ``report/index.html``, with what is on record of the run."""
        html = render("pipelines", "index.html", slides=self._slides, record=record, **self._common)
        self._run.folder.write("report/index.html", html.encode())

    def _for_page(self, slide: Slide, cell: Cell) -> dict[str, Any]:
        sheet, left, top = sheet_place(*cell.sheet)
        field = overlay_path(slide.name, cell.image, 0) if self._fields and cell.number else None
        return {
            "image": cell.image,
            "number": cell.number if self._fields else 0,
            "label": cell.label,
            "confidence": cell.confidence,
            "flag": cell.flag,
            "probabilities": cell.probabilities,
            "gradcam": _link(cell.gradcam),
            "field": _link(field),
            "size": cell.size,
            "sheet": f"../thumbnails/{sheet}",
            "x": -left,
            "y": -top,
        }


def _link(path: str | None) -> str | None:
    return f"../../{quote(path)}" if path else None


def _page(number: int) -> str:
    return f"{number:05d}.html"
