"""What a run found, per slide: counts, shares with intervals, and the cells that the report shows.

The parts of a run are read one after the other, and a slide's cells are dropped once its page is written: what
stays is a few numbers per slide.
"""

from __future__ import annotations

import csv
import heapq
import io
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from core.evaluation.differential import Share, share
from core.model.confidence import UNIDENTIFIED
from pipelines.classification.stains import unfamiliar_cells

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pipelines.classification.run_folder import RunFolder

__all__ = ["Cell", "Slide", "slides_csv", "summarise"]

_UNFAMILIAR_PERCENT = 25.0
"""Lower limit of the 95 % interval of a slide's share of unfamiliar cells, above which the whole slide is."""


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """One classified cell, or an image without any, as the report shows it; cells order by confidence."""

    confidence: float
    image: str
    number: int
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
        name: Name of the slide.
        counts: Identified cells per class.
        flagged: Cells and empty images per flag.
        least_confident: Per class, and for what is not identified under "", a heap of the least confident cells.
        errors: The first unreadable files: image, code, message.
        n_errors: Number of unreadable files.
        n_unidentified: Cells unlike everything that the bundle knows, which no share counts.
        n_images: Images that could be read.
        n_empty: Those of them in which no white cell was found.
        n_unfamiliar: Cells that are stained unlike the training images.
    """

    name: str
    counts: Counter[str] = field(default_factory=Counter)
    flagged: Counter[str] = field(default_factory=Counter)
    least_confident: dict[str, list[tuple[float, tuple[int, int], Cell]]] = field(default_factory=dict)
    errors: list[tuple[str, str, str]] = field(default_factory=list)
    n_errors: int = 0
    n_unidentified: int = 0
    n_images: int = 0
    n_empty: int = 0
    n_unfamiliar: int = 0

    @property
    def unfamiliar(self) -> bool:
        """Whether the slide as a whole is unlike the training images: surely more cells than chance would give.

        One training image in twenty is by itself, and up to a fifth of some slides.
        """
        return share(self.n_unfamiliar, self.n).low > _UNFAMILIAR_PERCENT

    @property
    def n(self) -> int:
        """White cells."""
        return self.n_identified + self.n_unidentified

    @property
    def n_identified(self) -> int:
        """Cells that the differential counts."""
        return self.counts.total()

    def count(self, cell: Cell, shown: int) -> None:
        """Count one row; remember it if it is among the `shown` least confident ones of its class."""
        self.n_images += cell.number <= 1
        identified = cell.flag not in UNIDENTIFIED
        if identified:
            self.counts[cell.label] += 1
        elif cell.number:
            self.n_unidentified += 1
        else:
            self.n_empty += 1
        if cell.flag:
            self.flagged[cell.flag] += 1
        heap = self.least_confident.setdefault(cell.label if identified else "", [])
        item = (-cell.confidence, cell.sheet, cell)
        if len(heap) < shown:
            heapq.heappush(heap, item)
        else:
            heapq.heappushpop(heap, item)

    def count_error(self, row: dict[str, str], shown: int) -> None:
        """Count one unreadable file; remember the first `shown`."""
        self.n_errors += 1
        if len(self.errors) < shown:
            self.errors.append((row["image"], row["code"], row["message"]))

    def cells(self, label: str) -> list[Cell]:
        """Return the least confident cells of a class, in order; of those that are not identified under ""."""
        return sorted(item[2] for item in self.least_confident.get(label, ()))

    def drop_cells(self) -> None:
        """Drop cells and errors, which take memory; the counts stay."""
        self.least_confident.clear()
        self.errors.clear()

    def share(self, label: str) -> Share:
        """Share of a class among the identified cells, in percent."""
        return share(self.counts[label], self.n_identified)


def summarise(run: RunFolder, class_names: Sequence[str], shown: int, top: str) -> Iterator[Slide]:
    """Read a run once, part by part, and yield each slide as soon as its last part has passed.

    Args:
        run: Folder of the run, all parts finished.
        class_names: Class names of the bundle, in order.
        shown: Number of cells to remember per slide and class, and of errors per slide.
        top: Name of the slide of images directly in SLIDES; they stand between the other slides, so it comes last.
    """
    begun: dict[str, Slide] = {}
    errors = dict(run.part_files("errors"))
    for part, name in run.part_files("predictions"):
        tables = (run.read_table(name), run.read_table(errors[part]))
        for index, row in enumerate(tables[0].to_pylist()):
            slide = begun.setdefault(row["slide"], Slide(row["slide"]))
            slide.count(_cell(row, class_names, (part, index)), shown)
        for of_slide, count in unfamiliar_cells(tables[0]).items():
            begun[of_slide].n_unfamiliar += count
        for row in tables[1].to_pylist():
            begun.setdefault(row["slide"], Slide(row["slide"])).count_error(row, shown)
        present = {name for table in tables for name in table.column("slide").unique().to_pylist()}
        for done in sorted(begun.keys() - present - {top}):
            yield begun.pop(done)
    yield from (begun[name] for name in sorted(begun, key=lambda name: (name == top, name)))


def _cell(row: dict[str, object], class_names: Sequence[str], sheet: tuple[int, int]) -> Cell:
    known = row["label"] is not None
    return Cell(
        confidence=float(row["confidence"]) if known else 0.0,  # type: ignore[arg-type]
        image=str(row["image"]),
        number=int(row["cell"]),  # type: ignore[call-overload]
        label=str(row["label"]) if known else "",
        flag=str(row["flag"]),
        probabilities=tuple(float(row[f"p_{name}"]) for name in class_names) if known else (),  # type: ignore[arg-type]
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
            "n_identified",
            *(f"n_{name}" for name in class_names),
            *(f"pct_{name}" for name in class_names),
            *limits,
            "n_flagged",
            "n_unidentified",
            "n_images",
            "n_empty",
            "n_errors",
            "unfamiliar",
        ]
    )
    for slide in slides:
        shares = [slide.share(name) for name in class_names]
        writer.writerow(
            [
                slide.name,
                slide.n,
                slide.n_identified,
                *(slide.counts[name] for name in class_names),
                *(f"{part.percent:.2f}" for part in shares),
                *(f"{value:.2f}" for part in shares for value in (part.low, part.high)),
                slide.flagged.total(),
                slide.n_unidentified,
                slide.n_images,
                slide.n_empty,
                slide.n_errors,
                "yes" if slide.unfamiliar else "no",
            ]
        )
    return text.getvalue()
