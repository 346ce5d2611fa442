"""The report of a run: static pages that open from disk, without a server or the internet."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from jinja2 import DictLoader, Environment, StrictUndefined

from pipelines.worker import THUMBNAIL, THUMBNAIL_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipelines.run_folder import RunFolder
    from pipelines.summary import Cell, Slide

__all__ = ["RESEARCH_ONLY", "write_report"]

RESEARCH_ONLY = "For Research Use Only. Not for use in diagnostic procedures."
"""The wording of 21 CFR 809.10(c)(2)(i)."""

_FEW_CELLS = 100
_COLOURS = ("#c2553f", "#3b6fb6", "#7a9a3d", "#8a5aa8", "#c98a1b", "#3f9a94", "#9a5a5a", "#66707c")


def write_report(
    run: RunFolder,
    slides: Sequence[Slide],
    class_names: Sequence[str],
    record: dict[str, Any],
    *,
    shown: int,
    drawn: bool = False,
) -> None:
    """Write ``report/index.html`` and one page per slide.

    Args:
        run: The run.
        slides: What `summarise` gave.
        class_names: The bundle's classes.
        record: The content of ``run.json``.
        shown: The limit that `summarise` was given.
        drawn: Whether the images are drawings, which every page then says.
    """
    colours = {name: _COLOURS[index % len(_COLOURS)] for index, name in enumerate(class_names)}
    common = {
        "class_names": list(class_names),
        "colours": colours,
        "record": record,
        "research_only": RESEARCH_ONLY,
        "few_cells": _FEW_CELLS,
        "drawn": drawn,
        "shown": shown,
    }
    pages = [f"slides/{number:05d}.html" for number in range(1, len(slides) + 1)]
    index = _environment().get_template("index.html").render(slides=list(zip(slides, pages, strict=True)), **common)
    for position, (slide, page) in enumerate(zip(slides, pages, strict=True)):
        around = {
            "before": PurePosixPath(pages[position - 1]).name if position else None,
            "after": PurePosixPath(pages[position + 1]).name if position + 1 < len(pages) else None,
        }
        groups = [(name, [_for_page(cell) for cell in slide.cells.get(name, ())]) for name in class_names]
        html = _environment().get_template("slide.html").render(slide=slide, groups=groups, **around, **common)
        run.folder.write(f"report/{page}", html.encode())
    run.folder.write("report/index.html", index.encode())


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


@cache
def _environment() -> Environment:
    folder = files("pipelines").joinpath("templates")
    templates = {entry.name: entry.read_text(encoding="utf-8") for entry in folder.iterdir()}
    environment = Environment(
        loader=DictLoader(templates), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["json"] = json.dumps
    environment.filters["percent"] = lambda value: f"{value:.1f}"
    environment.filters["count"] = lambda value: f"{value:,}"
    return environment
