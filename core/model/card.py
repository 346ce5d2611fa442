"""The model card: what a bundle is for, what it was trained on, what it is worth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from core.model.bundle import BundleRecord

__all__ = ["RESEARCH_ONLY", "write_card"]

RESEARCH_ONLY = "For Research Use Only. Not for use in diagnostic procedures."
"""The wording of 21 CFR 809.10(c)(2)(i)."""

_CARD = """---
library_name: timm
pipeline_tag: image-classification
tags: [white-blood-cells, microscopy, resnet18, leukoray]
---

# {name}

ResNet18 that classifies one white blood cell per image: {classes}.

**{research_only}** Another stain, camera or magnification than it was trained
on can make it fail without a sign. It knows no other cell types: whatever else is in a picture gets one of these
names, flagged at best.

## Input

{height} x {width} pixels, RGB, {crop}, squashed with an antialiased bilinear filter. `config.json` has the
full record. timm loads the same network: `timm.create_model("local-dir:FOLDER", pretrained=True)`; the
white cell must then be cut out beforehand.

## Training

Recipe `{recipe}`, starting weights `{weights}`, {epochs} epochs, seed {seed}. {training:,} training images;
{validation:,} images of {sources:,} {units} were predicted by networks that had not seen {unit} ({how}).
In the main data set, images per class: {images}; different sources per class: {source_counts}.
{left_out:,} images were left out: unreadable, without a named source, or set aside since a test set shows their
cell.{further}

## Evaluation

Every value with its 95 % interval, from resampling sources within each class: images of one source are not
independent.

| images | n | accuracy | macro F1 | loss | calibration error | errors in the least confident tenth |
|---|---|---|---|---|---|---|
{rows}

| F1 | {headings} |
|---|{rules}
{class_rows}
{more}
## Confidence

Temperature {temperature:.3f}. A cell is flagged `low-confidence` below {min_confidence:.3f}, aiming at an error
rate of {risk:.0%} among the others, and `out-of-distribution` above a score of {max_ood:.2f}. Chosen on
{chosen_on}.
"""


def write_card(name: str, class_names: Sequence[str], record: BundleRecord, metrics: dict[str, Any]) -> str:
    """Return the model card as Markdown."""
    training, data, confidence = record.training, record.data, record.confidence
    cell = record.preprocessing.cell
    evaluations = _evaluations(metrics)
    return _CARD.format(
        name=name,
        classes=", ".join(class_names),
        research_only=RESEARCH_ONLY,
        height=record.preprocessing.height,
        width=record.preprocessing.width,
        crop=f"the square around the nucleus, {cell.scale} times its size" if cell else "the whole image",
        recipe=training.get("recipe"),
        weights=training.get("weights"),
        epochs=training.get("epochs"),
        seed=training.get("seed"),
        training=data["training_images"],
        validation=data["validation_images"],
        sources=data["validation_sources"],
        units="sources" if data["grouped"] else "unnamed sources",
        unit="their source" if data["grouped"] else "them, though perhaps other views of their field",
        how=_how(training),
        images=_counts(data["images"]),
        left_out=data["left_out"],
        source_counts=_counts(data["sources"]) if any(data["sources"].values()) else "not named",
        further=_further(data),
        headings=" | ".join(class_names),
        rules="---|" * len(class_names),
        rows="\n".join(_row(label, result) for label, result in evaluations),
        class_rows="\n".join(_class_row(label, result, class_names) for label, result in evaluations),
        more=_more(metrics.get("looks", {})),
        temperature=confidence.temperature,
        min_confidence=confidence.min_confidence,
        risk=confidence.risk,
        max_ood=confidence.max_ood,
        chosen_on=confidence.chosen_on,
    )


def _how(training: dict[str, Any]) -> str:
    chosen = "; the number of epochs was chosen on them" if training.get("keep") == "best" else ""
    return (f"{training['folds']} folds" if training.get("folds") else "one validation set") + chosen


def _evaluations(metrics: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return every evaluation, level by level, with what the table calls it."""
    parts = [("validation", metrics.get("validation")), ("validation, further data", metrics.get("validation_further"))]
    parts += [(name, look["evaluation"]) for name, look in metrics.get("looks", {}).items()]
    return [
        (f"{name}, {level}s", evaluation[level])
        for name, evaluation in parts
        if evaluation
        for level in ("image", "source")
        if level == "image" or evaluation["source"]["n"] != evaluation["image"]["n"]
    ]


def _row(label: str, result: dict[str, Any]) -> str:
    scores = ("accuracy", "macro_f1", "loss", "ece", "errors_caught")
    return f"| {label} | {result['n']:,} | {' | '.join(_interval(result[score]) for score in scores)} |"


def _class_row(label: str, result: dict[str, Any], class_names: Sequence[str]) -> str:
    scores = [result["per_class"][name] for name in class_names]
    return f"| {label} | {' | '.join(_interval(score['f1']) if score['support'] else '' for score in scores)} |"


def _interval(interval: dict[str, float | None] | None) -> str:
    if interval is None:
        return "no errors"
    text = f"{interval['value']:.3f}"
    return text if interval["low"] is None else f"{text} ({interval['low']:.3f} to {interval['high']:.3f})"


def _further(data: dict[str, Any]) -> str:
    if not data.get("further_images"):
        return ""
    outliers = f", {', '.join(data['outliers'])} among them as none of the classes" if data["outliers"] else ""
    return f" {data['further_images']:,} images of further data sets{outliers}."


def _more(looks: dict[str, Any]) -> str:
    """Say what else each look found: how often it was taken, where the heatmaps point, unknown types."""
    lines = [""]
    for name, look in looks.items():
        heatmaps, unknown, notebook = look["heatmaps"], look["unknown"], look["notebook"]
        times = "once" if look["looks"] == 1 else f"{look['looks']} times"
        lines.append(
            f"- {name}: looked at {times} with these weights. The heatmap's peak lies on the white cell in"
            f" {heatmaps['hit']:.1%} of {heatmaps['n']:,} images (chance {heatmaps['chance']:.1%}, centre of the"
            f" image {heatmaps['centre']:.1%}, centre of the crop {heatmaps['centre_of_crop']:.1%})."
        )
        if notebook:
            image = notebook["evaluation"]["image"]
            lines.append(
                f"- {name}, the notebook's 30/70 split: {image['n']:,} images, accuracy {_interval(image['accuracy'])},"
                f" loss {_interval(image['loss'])}; its validation images share"
                f" {notebook['sources_also_in_validation']} of its {notebook['sources']} sources."
            )
        if unknown:
            lines.append(
                f"- {name}: {unknown['n']:,} images of {_types(unknown)} are told from"
                f" the known ones with an AUROC of {_interval(unknown['auroc'])} (largest probability alone:"
                f" {_interval(unknown['auroc_max_softmax'])}); {unknown['flagged']:.0%} of them are flagged."
            )
    return "\n".join(lines) + "\n" if looks else ""


def _types(unknown: dict[str, Any]) -> str:
    names = ", ".join(unknown["classes"])
    if unknown["taught"]:
        return f"no known class ({names}; other images of {', '.join(unknown['taught'])} were taught as outliers)"
    return f"no known class ({names}, of which nothing was taught)"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())
