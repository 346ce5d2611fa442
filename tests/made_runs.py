"""Finished runs of `classify` that nobody classified: their parts are written as a worker would, in no time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from core.images.cells import Box
from core.model.prediction import Prediction
from pipelines.classification.listing import write_list
from pipelines.classification.record import RunArguments, RunBundle, RunCounts, RunRecord
from pipelines.classification.run_folder import ERRORS_SCHEMA, RunFolder, embeddings_schema, predictions_schema
from pipelines.classification.slides import Entry
from pipelines.classification.stains import SlideStains
from pipelines.classification.storage import open_folder

if TYPE_CHECKING:
    from pathlib import Path

CLASSES = ("EOSINOPHIL", "LYMPHOCYTE", "MONOCYTE", "NEUTROPHIL")
FEATURES = 12
STAIN = np.array([100, 70, 150, 190, 160, 190, 215, 212, 212], float)


@dataclass(frozen=True)
class MadeRun:
    """What a made run looks like."""

    seed: int = 0
    slides: int = 8
    cells: int = 60  # of each slide
    shares: tuple[float, ...] = (0.05, 0.3, 0.05, 0.6)
    unfamiliar: float = 0.03
    unlike: float = 0.02
    confidence: float = 12.0  # larger: surer
    stain: tuple[float, ...] = (1.0, 1.0, 1.0)  # factors of red, green and blue
    moved: float = 0.0  # of the embeddings
    embeddings: bool = False
    source: str = "/slides/a"
    bundle: str = "b" * 64
    preprocessing: str = "p"
    stains: int = 1
    classes: tuple[str, ...] = CLASSES
    per_part: int = 50
    empty: int = 2  # images without a cell

    def write(self, folder: Path, **changes: object) -> Path:
        """Write the run; `changes` are of its record."""
        rng, run = np.random.default_rng(self.seed), RunFolder(open_folder(str(folder)))
        rows = [row for slide in range(self.slides) for row in self._rows(f"slide-{slide}", rng)]
        parts = [rows[start : start + self.per_part] for start in range(0, len(rows), self.per_part)]
        entries = [Entry(row["slide"], row["image"], b"") for row in rows]
        write_list(run, entries, self.per_part)
        for number, part in enumerate(parts):
            self._write_part(run, number, part)
        cells = sum(row["cell"] > 0 for row in rows)
        counts = RunCounts(listed=len(rows), parts=len(parts), slides=self.slides, images=len(rows), cells=cells)
        arguments = RunArguments(
            slides=self.source,
            gradcam="none",
            colour_map="jet",
            batch_size=32,
            limit=None,
            part_size=None,
            embeddings=self.embeddings,
        )
        bundle = RunBundle(
            path="nowhere", id=self.bundle, classes=self.classes, preprocessing=self.preprocessing, stains=self.stains
        )
        record = RunRecord.begin(arguments, bundle).model_copy(update={"state": "finished", "counts": counts} | changes)
        run.write_record(record)
        return folder

    def _rows(self, slide: str, rng: np.random.Generator) -> list[dict]:
        offset, place = rng.normal(0, 3, 9), rng.normal(0, 0.3, FEATURES)
        rows = [
            {"slide": slide, "image": f"empty-{number}.png", "cell": 0, "flag": "no-cell"}
            for number in range(self.empty)
        ]
        for number in range(self.cells):
            label = int(rng.choice(len(self.classes), p=self.shares))
            unlike = rng.random() < self.unlike
            sure = float(rng.beta(self.confidence, 1))
            flag = "out-of-distribution" if unlike else "low-confidence" if sure < 0.7 else ""
            colours = (STAIN + offset + rng.normal(0, 8, 9)) * np.tile(self.stain, 3)
            features = (np.eye(FEATURES)[label] + place + rng.normal(0, 0.5, FEATURES) + self.moved).astype(np.float16)
            prediction = Prediction(
                self.classes[label],
                sure,
                np.full(len(self.classes), 0.25, np.float32),
                float(rng.normal(-8 + 5 * unlike, 1)),
                flag,
                Box(0, 0, 1, 1),
                None,
                bool(rng.random() < self.unfamiliar),
                Box(0, 0, 1, 1),
                colours if self.stains else None,
                features,
            )
            rows.append(
                {
                    "slide": slide,
                    "image": f"cell-{number}.png",
                    "cell": 1,
                    "label": prediction.label,
                    "confidence": sure,
                    "ood": prediction.ood,
                    "flag": flag,
                    "embedding": features,
                    "prediction": prediction,
                }
            )
        return rows

    def _write_part(self, run: RunFolder, number: int, rows: list[dict]) -> None:
        stains = SlideStains()
        for row in rows:
            if row["cell"]:
                stains.add(row["slide"], row["prediction"])
        table = stains.attached(pa.Table.from_pylist(rows, schema=predictions_schema(self.classes)))
        embeddings = pa.Table.from_pylist(rows, schema=embeddings_schema(FEATURES)) if self.embeddings else None
        run.write_part(number, table, ERRORS_SCHEMA.empty_table(), embeddings)
