"""What a run found, per slide: counts, shares with intervals, and the cells that the report shows.

The parts of a run are read one after the other; what is kept is proportional to the number of slides,
never to the number of images.
"""

from __future__ import annotations

import csv
import heapq
import io
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from core.differential import Share, share

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pipelines.run_folder import RunFolder

__all__ = ["Cell", "Slide", "slides_csv", "summarise"]


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """One classified cell, as the report shows it; cells order by confidence."""

    confidence: float
    image: str
    label: str = field(compare=False)
    flag: str = field(compare=False)
    probabilities: tuple[float, ...] = field(compare=False)
    gradcam: str | None = field(compare=False)
    size: tuple[int, int] = field(compare=False)
    sheet: tuple[int, int] = field(compare=False)


@dataclass
class Slide:
    """One slide.

    Attributes:
        name: Its name.
        counts: Cells per class.
        flagged: Cells per flag.
        cells: Per class, the least confident cells, in rising order.
        errors: The first unreadable files: image, code, message.
        n_errors: How many there are in all.
    """

    name: str
    counts: Counter[str] = field(default_factory=Counter)
    flagged: Counter[str] = field(default_factory=Counter)
    cells: dict[str, list[Cell]] = field(default_factory=dict)
    errors: list[tuple[str, str, str]] = field(default_factory=list)
    n_errors: int = 0

    @property
    def n(self) -> int:
        """Classified cells."""
        return self.counts.total()

    def share(self, label: str) -> Share:
        """Share of a class among the classified cells, in percent."""
        return share(self.counts[label], self.n)


def summarise(run: RunFolder, class_names: Sequence[str], shown: int) -> list[Slide]:
    """Read a run once.

    Args:
        run: The run.
        class_names: The bundle's classes.
        shown: Cells that are kept per slide and class, and errors per slide.

    Returns:
        The slides, by name.
    """
    slides: dict[str, Slide] = {}
    heaps: dict[tuple[str, str], list[tuple[float, int, int, Cell]]] = {}
    for part, table in run.read_parts("predictions"):
        for index, row in enumerate(table.to_pylist()):
            slide = slides.setdefault(row["slide"], Slide(row["slide"]))
            slide.counts[row["label"]] += 1
            if row["flag"]:
                slide.flagged[row["flag"]] += 1
            heap = heaps.setdefault((row["slide"], row["label"]), [])
            if len(heap) < shown or -row["confidence"] > heap[0][0]:
                cell = _cell(row, class_names, (part, index))
                item = (-row["confidence"], part, index, cell)
                (heapq.heappush if len(heap) < shown else heapq.heapreplace)(heap, item)
    for _, table in run.read_parts("errors"):
        for row in table.to_pylist():
            slide = slides.setdefault(row["slide"], Slide(row["slide"]))
            slide.n_errors += 1
            if len(slide.errors) < shown:
                slide.errors.append((row["image"], row["code"], row["message"]))
    for (name, label), heap in heaps.items():
        slides[name].cells[label] = sorted(item[3] for item in heap)
    return [slides[name] for name in sorted(slides)]


def _cell(row: dict[str, object], class_names: Sequence[str], sheet: tuple[int, int]) -> Cell:
    return Cell(
        confidence=float(row["confidence"]),  # type: ignore[arg-type]
        image=str(row["image"]),
        label=str(row["label"]),
        flag=str(row["flag"]),
        probabilities=tuple(float(row[f"p_{name}"]) for name in class_names),  # type: ignore[arg-type]
        gradcam=row["gradcam"],  # type: ignore[arg-type]
        size=(int(row["width"]), int(row["height"])),  # type: ignore[call-overload]
        sheet=sheet,
    )


def slides_csv(slides: Iterable[Slide], class_names: Sequence[str]) -> str:
    """Return ``slides.csv``: one row per slide; percentages and their 95 % limits with two decimals."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    limits = [f"pct_{name}_{end}" for name in class_names for end in ("low", "high")]
    writer.writerow(
        [
            "slide",
            "n",
            *(f"n_{name}" for name in class_names),
            *(f"pct_{name}" for name in class_names),
            *limits,
            "n_flagged",
            "n_errors",
        ]
    )
    for slide in slides:
        shares = [slide.share(name) for name in class_names]
        writer.writerow(
            [
                slide.name,
                slide.n,
                *(slide.counts[name] for name in class_names),
                *(f"{part.percent:.2f}" for part in shares),
                *(f"{value:.2f}" for part in shares for value in (part.low, part.high)),
                slide.flagged.total(),
                slide.n_errors,
            ]
        )
    return text.getvalue()
