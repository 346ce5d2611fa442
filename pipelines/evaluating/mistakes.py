"""The mistakes that a report shows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.images.overlay import encode_jpeg, panel, shrink_to
from core.model.predictor import Predictor

if TYPE_CHECKING:
    from pathlib import Path

    from core.model.engine import Usable
    from pipelines.evaluating.results import Results

__all__ = ["Mistake", "write_mistakes"]

_WIDTH = 320


@dataclass(frozen=True, slots=True)
class Mistake:
    """One image that the bundle classifies otherwise than it is labelled.

    Attributes:
        picture: File of original, heatmap and overlay, relative to the report.
        path: The image, relative to the data.
        source: Its source, where that is named.
        label: What it is labelled as.
        predicted: What it is classified as.
        confidence: Probability of that.
        flag: Its flag, empty where there is none.
        evidence: Whether the heatmap shows anything that speaks for the predicted class.
        count: Wrong images of its source.
        of: Images of its source.
    """

    picture: str
    path: str
    source: str | None
    label: str
    predicted: str
    confidence: float
    flag: str
    evidence: bool
    count: int
    of: int


def write_mistakes(out: Path, bundle: Usable, results: Results, data: Path, limit: int) -> list[Mistake]:
    """Write the most confident mistake of each source as original, heatmap and overlay.

    Args:
        out: Folder of the report; pictures lie in ``mistakes`` in it.
        bundle: The bundle.
        results: Predictions of images of known classes.
        data: Folder of the images; paths are relative to it.
        limit: Most mistakes to write.

    Returns:
        The mistakes, the sources with the most wrong images first.
    """
    worst, count = _worst(results, bundle.class_names)
    order = sorted(worst, key=lambda key: (-count[key], -results.predictions[worst[key]].confidence))[:limit]
    if not order:
        return []
    (out / "mistakes").mkdir()
    predictor = Predictor(bundle, "cpu")
    images = Counter(sample.source for sample in results.samples)
    shown: list[Mistake] = []
    for number, key in enumerate(order):
        sample = results.samples[worst[key]]
        picture, prepared = predictor.prepare(sample.path.read_bytes(), sample.box)
        (prediction,) = predictor.predict([prepared])
        name = f"mistakes/{number:03d}.jpg"
        if prediction.cam is not None:
            three = panel(picture.rgb, prediction.cam, prediction.box)
            (out / name).write_bytes(encode_jpeg(shrink_to(three, 3 * _WIDTH)[0]))
        shown.append(
            Mistake(
                picture=name,
                path=sample.path.relative_to(data).as_posix(),
                source=sample.source,
                label=bundle.class_names[sample.label],
                predicted=prediction.label,
                confidence=prediction.confidence,
                flag=prediction.flag,
                evidence=prediction.has_evidence,
                count=count[key],
                of=images[sample.source] if sample.source else 1,
            )
        )
    return shown


def _worst(results: Results, class_names: tuple[str, ...]) -> tuple[dict[str, int], Counter[str]]:
    """Return the row of each source's most confident mistake, and how many mistakes each source has."""
    worst: dict[str, int] = {}
    count: Counter[str] = Counter()
    for row, (sample, prediction) in enumerate(zip(results.samples, results.predictions, strict=True)):
        if prediction.label == class_names[sample.label]:
            continue
        key = sample.source or str(sample.path)
        count[key] += 1
        if key not in worst or results.predictions[worst[key]].confidence < prediction.confidence:
            worst[key] = row
    return worst, count
