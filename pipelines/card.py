"""The model card: what a bundle is for, what it was trained on, what it is worth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipelines.report import RESEARCH_ONLY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from core.bundle import BundleRecord

__all__ = ["write_card"]

_CARD = """---
library_name: timm
pipeline_tag: image-classification
tags: [white-blood-cells, microscopy, resnet18, leukoray]
---

# {name}

ResNet18 that classifies one white blood cell per image: {classes}.

**{research_only}** Another stain, camera or magnification than it was trained
on can make it fail without a sign. It knows no other cell types: whatever else is in a picture gets one of these
names.

## Input

{height} x {width} pixels, RGB, {crop}, squashed with an antialiased bilinear filter. `config.json` has the
full record. timm loads the same network: `timm.create_model("local-dir:FOLDER", pretrained=True)`; the
white cell must then be cut out beforehand.

## Training

Recipe `{recipe}`, starting weights `{weights}`, {epochs} epochs, seed {seed}. {training:,} training images, and
{validation:,} validation images of {sources:,} sources, none of which has an image in training where sources
were named; {left_out:,} images were left out, since no source is named for them or the linked groups set it
aside. In the whole data set, images per class: {images}; different sources per class: {source_counts}.

## Evaluation

| images | n | accuracy | loss | {headings} |
|---|---|---|---|{rules}
{rows}

F1 per class in the last columns. Source-level: the mean probability over the images of one source.

Temperature {temperature:.3f}; a cell is flagged `low-confidence` below {min_confidence:.3f} and
`out-of-distribution` above an energy of {max_ood:.2f}. Chosen on {chosen_on}.
"""


def write_card(name: str, class_names: Sequence[str], record: BundleRecord, metrics: dict[str, Any]) -> str:
    """Return the model card as Markdown."""
    training, data, confidence = record.training, record.data, record.confidence
    cell = record.preprocessing.cell
    return _CARD.format(
        name=name,
        classes=", ".join(class_names),
        research_only=RESEARCH_ONLY,
        height=record.preprocessing.height,
        width=record.preprocessing.width,
        crop=f"the square around the nucleus, {cell.scale} times its size" if cell else "the whole image",
        recipe=training.get("recipe"),
        weights=training.get("weights"),
        epochs=len(metrics["history"]),
        seed=training.get("seed"),
        training=data["training_images"],
        left_out=data["left_out"],
        validation=data["validation_images"],
        sources=data["validation_sources"],
        images=_counts(data["images"]),
        source_counts=_counts(data["sources"]) if any(data["sources"].values()) else "not named",
        headings=" | ".join(class_names),
        rules="---|" * len(class_names),
        rows="\n".join(_rows(class_names, metrics)),
        temperature=confidence.temperature,
        min_confidence=confidence.min_confidence,
        max_ood=confidence.max_ood,
        chosen_on=confidence.chosen_on,
    )


def _rows(class_names: Sequence[str], metrics: dict[str, Any]) -> list[str]:
    rows: list[str] = []
    for part in ("validation", "test"):
        for level, result in metrics.get(part, {}).items():
            scores = " | ".join(f"{result['report'][name]['f1-score']:.3f}" for name in class_names)
            measured = f"{result['n']:,} | {result['accuracy']:.4f} | {result['loss']:.4f}"
            rows.append(f"| {part}, {level}-level | {measured} | {scores} |")
    return rows


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())
