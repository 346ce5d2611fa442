"""The model card: what a bundle is for, what it was trained on, what it is worth."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from core.evaluation.detection import Finding
    from core.evaluation.record import NotebookSplit, RecordedEvaluation, UnknownTypes
    from core.evaluation.scores import Evaluation, Interval, Level
    from core.finding.record import FinderRecord
    from core.model.bundle import Bundle
    from core.model.metrics import BundleMetrics
    from core.model.record import (
        AdaptationRecord,
        BundleRecord,
        DataRecord,
        ExportRecord,
        Remembered,
        ReplayRecord,
        TrainingRecord,
    )

__all__ = ["CALIBRATION", "RESEARCH_ONLY", "write_adapted_card", "write_card", "write_card_with_finder"]

RESEARCH_ONLY = "For Research Use Only. Not for use in diagnostic procedures."
"""The wording of 21 CFR 809.10(c)(2)(i)."""

CALIBRATION = {
    "same-images": "Temperature and thresholds were chosen on the validation images themselves, so that calibration"
    " error, loss and flags in their rows are somewhat too good; the other rows are free of that.",
    "cross-fitted": "Loss, calibration error and flags in the validation rows are cross-fitted: the temperature and the"
    " thresholds used on each half of the sources were chosen on the other half.",
    "other-sources": "Temperature and thresholds were chosen on images of other sources than the validation rows show.",
}
"""What a reader must know of the validation's calibration error, by `BundleMetrics.calibration`."""

_AWAY = (
    " Each laboratory never seen is judged by the temperature and thresholds that the others left out chose. The"
    " bundle's own (below) were chosen on all of them, not on validation images, and hold for the evaluations below."
)

_HEAD = """---
library_name: timm
pipeline_tag: image-classification
tags: [white-blood-cells, microscopy, {architecture}, leukoray]
---

# {name}

`{architecture}` that classifies one white blood cell per image: {classes}.

**{research_only}**"""

_ADAPTED = (
    _HEAD
    + """

Adapted from the bundle {bundle} to {images:,} unlabelled images of {slides:,} slides: the statistics of its batch norms
are, by {share:.0%}, those of these images. No other weight was changed.

**Nothing was measured with these weights**: the images have no labels, and what was measured of the bundle that they
come from does not hold for them. `leukoray evaluate FOLDER DATA` measures them on labelled images. Temperature and
thresholds are those of that bundle.
"""
)

_NEW_FINDER = (
    _HEAD
    + """

The bundle {bundle} with another finder of white cells. {finder}

**Nothing was measured of its classes with this finder**: it cuts cells out in another way than the one that the network
was trained with. `leukoray evaluate FOLDER DATA` measures it; `leukoray train DATA --finder FOLDER` trains a network
with it. Temperature and thresholds are those of the bundle before.
"""
)

_CARD = (
    _HEAD
    + """{holds}

Another stain, camera or magnification than it was trained on can make it fail without a sign{unfamiliar}. It knows no
other cell types: whatever else is in a picture gets one of these names, flagged at best.

## Input

{height} x {width} pixels, RGB, {crop}, squashed with an antialiased bilinear filter.{finder} `config.json` has the full
record. timm loads the same network: `timm.create_model("local-dir:FOLDER", pretrained=True)`; the
white cell must then be cut out beforehand.{export}

## Training

{training}

## Evaluation

Every value with its 95 % interval, from resampling sources within each class: images of one source are not
independent. {calibration}

| images | n | accuracy | macro F1 | loss | calibration error | errors in the least confident tenth |
|---|---|---|---|---|---|---|
{rows}

| F1 | {headings} |
|---|{rules}
{class_rows}
{more}
## Confidence

Temperature {temperature:.3f}. A cell is flagged `low-confidence` below {min_confidence:.3f}{aim}, and
`out-of-distribution` above a score of {max_ood:.2f}. Chosen on {chosen_on}.
"""
)

_UNFAMILIAR = """ on a
single image; slides whose stain as a whole is unlike the training images' are marked `unfamiliar`"""

_TRAINING = """Recipe `{recipe}`, starting weights `{weights}`, {epochs} epochs, seed {seed}.
{training:,} training images; {validation:,} images of {sources:,} {units} were predicted by
networks that had not seen {unit} ({how}).
Images per class: {images}; different sources per class: {source_counts}.
{left_out:,} images were left out: unreadable, without a named source, or set aside since a test set shows their
cell.{further}{laboratories}{replay}"""


def write_card(
    name: str,
    class_names: Sequence[str],
    record: BundleRecord,
    metrics: BundleMetrics,
    architecture: str,
) -> str:
    """Return the model card as Markdown.

    Args:
        name: Name of the bundle.
        class_names: Names of the classes, in the order of the logits.
        record: Leukoray's part of the bundle's ``config.json``.
        metrics: Evaluations of the bundle.
        architecture: Name of the network, as timm knows it.
    """
    confidence, cell = record.confidence, record.preprocessing.cell
    levels = _levels(metrics)
    return _CARD.format(
        name=name,
        architecture=architecture,
        classes=", ".join(class_names),
        research_only=RESEARCH_ONLY,
        holds=_holds(metrics),
        unfamiliar=_UNFAMILIAR if record.familiarity else "",
        height=record.preprocessing.height,
        width=record.preprocessing.width,
        crop=f"the square around the nucleus, {cell.scale} times its size" if cell else "the whole image",
        finder=f" {_finder(record.finder)}" if record.finder else "",
        export=f" {_export(record.export)}" if record.export else "",
        training=_training(record.training, record.data, record.replay)
        if record.training and record.data
        else "Not recorded.",
        calibration=CALIBRATION[metrics.calibration] + (_AWAY if metrics.away else ""),
        headings=" | ".join(class_names),
        rules="---|" * len(class_names),
        rows="\n".join(_row(label, level) for label, level in levels),
        class_rows="\n".join(_class_row(label, level, class_names) for label, level in levels),
        more=_more(metrics.evaluations),
        temperature=confidence.temperature,
        min_confidence=confidence.min_confidence,
        aim=f", aiming at an error rate of {confidence.risk:.0%} among the others"
        if confidence.risk
        else ", so that a fifth of the cells of a laboratory that it does not know is flagged in all",
        max_ood=confidence.max_ood,
        chosen_on=confidence.chosen_on,
    )


def write_adapted_card(name: str, bundle: Bundle, adaptation: AdaptationRecord) -> str:
    """Return the model card of a bundle that was adapted to unlabelled images.

    Args:
        name: Name of the new bundle.
        bundle: The bundle that was adapted.
        adaptation: The images, and how much they count.
    """
    return _unmeasured(
        _ADAPTED, name, bundle, images=adaptation.images, slides=adaptation.slides, share=adaptation.share
    )


def write_card_with_finder(name: str, bundle: Bundle, finder: FinderRecord) -> str:
    """Return the model card of a bundle that was given another finder.

    Args:
        name: Name of the new bundle.
        bundle: The bundle that got it.
        finder: What is known of the finder.
    """
    return _unmeasured(_NEW_FINDER, name, bundle, finder=_finder(finder))


def _unmeasured(template: str, name: str, bundle: Bundle, **more: object) -> str:
    """Fill in a card of a bundle that was made of another one and not measured."""
    return template.format(
        name=name,
        architecture=bundle.architecture,
        classes=", ".join(bundle.class_names),
        research_only=RESEARCH_ONLY,
        bundle=bundle.id[:12],
        **more,
    )


def _finder(finder: FinderRecord) -> str:
    """Say how white cells are found."""
    text = f"A small network finds the white cells (pictures of {finder.side} pixels, score {finder.threshold:.2f})"
    if finder.training is None:
        return f"{text}."
    learned = ", ".join(f"{name} {count:,}" for name, count in finder.training.laboratories.items())
    text += f", trained on marked images ({learned})"
    if finder.training.held_out:
        text += (
            f"; of {finder.training.held_out:,} cells of other slides it found {finder.training.recall:.1%}, and"
            f" {finder.training.precision:.1%} of what it found were cells"
        )
    text += "."
    if not finder.cuts_out:
        text += " Images of one cell are cut out by its colour, as when the network was trained."
    return text


def _export(export: ExportRecord) -> str:
    """Say for which engine the network is there once more."""
    text = (
        f"`openvino/` holds network and finder for OpenVINO ({export.precision}, on CPUs): {export.agreement:.1%} of"
        f" {export.compared} drawn images get the same label, and probabilities differ by at most"
        f" {export.difference:.1e}."
    )
    for one in export.laboratories:
        text += (
            f" Rounded to 8 bits it is right on {one.accuracy:.1%} of {one.images:,} images of {one.name}"
            f" ({one.accuracy_before:.1%} in PyTorch); {one.agreement:.1%} get the same label."
        )
    return text


def _training(training: TrainingRecord, data: DataRecord, replay: ReplayRecord | None) -> str:
    return _TRAINING.format(
        recipe=training.recipe,
        weights=training.weights,
        epochs=training.epochs,
        seed=training.seed,
        training=data.training_images,
        validation=data.validation_images,
        sources=data.validation_sources,
        units="sources" if data.grouped else "unnamed sources",
        unit="their source" if data.grouped else "them, though perhaps other views of their field",
        how=_how(training),
        images=_counts(data.images),
        left_out=data.left_out,
        source_counts=_counts(data.sources) if any(data.sources.values()) else "not named",
        further=_further(data),
        laboratories=_laboratories(data),
        replay=_replay(training.remembered, replay),
    )


def _replay(remembered: Remembered | None, kept: ReplayRecord | None) -> str:
    """Say what is left of what the starting bundle knew, and what this one keeps for the next."""
    text = ""
    if remembered:
        text += (
            f"\n\nOf what the starting bundle had learned it is right on {remembered.after} of {remembered.images}"
            f" stored images that were not shown again; the starting bundle was right on {remembered.before}."
        )
    if kept:
        text += (
            f"\n\n`replay.safetensors` holds inner features (`{kept.layer}`) of {kept.images:,} training images: they"
            " are shown again where training starts from this bundle, and are not needed to classify."
        )
    return text


def _how(training: TrainingRecord) -> str:
    """Say how images were held out, and where that is not what was asked for."""
    chosen = "; the number of epochs was chosen on them" if training.keep == "best" else ""
    if training.folds:
        few = training.folds_asked is not None and training.folds_asked > training.folds
        asked = f" of {training.folds_asked} asked for: the scarcest class has no more sources" if few else ""
        return f"{training.folds} folds{asked}{chosen}"
    if training.validation_share is None:
        return f"one validation set{chosen}"
    done, asked = f"{training.validation_share:.0%}", f"{training.validation_share_asked or 0:.0%}"
    wanted = f"; {asked} asked for, as near as whole sources allow" if asked not in {done, "0%"} else ""
    return f"one validation set, {done} of the images{wanted}{chosen}"


def _holds(metrics: BundleMetrics) -> str:
    """Say in a line where the bundle was right, and how often: what a reader must know first."""
    found = {name: recorded.evaluation for name, recorded in metrics.evaluations.items()}
    found |= {f"{name}, had it never been seen in training,": part for name, part in metrics.away.items()}
    if not found:
        return ""
    shares = "; ".join(f"{name} {part.image.accuracy.value:.1%}" for name, part in found.items())
    return f" Share of images right: {shares}."


def _levels(metrics: BundleMetrics) -> list[tuple[str, Level]]:
    """Return every evaluation, level by level, with what the tables call it."""
    parts: list[tuple[str, Evaluation]] = [("validation", metrics.validation)]
    if metrics.validation_further:
        parts.append(("validation, further data", metrics.validation_further))
    parts += [(f"validation, {name}", evaluation) for name, evaluation in metrics.laboratories.items()]
    parts += [(f"never seen, {name}", evaluation) for name, evaluation in metrics.away.items()]
    parts += [(name, recorded.evaluation) for name, recorded in metrics.evaluations.items()]
    levels: list[tuple[str, Level]] = []
    for name, evaluation in parts:
        levels.append((f"{name}, images", evaluation.image))
        if evaluation.source.n != evaluation.image.n:
            levels.append((f"{name}, sources", evaluation.source))
    return levels


def _row(label: str, level: Level) -> str:
    scores = (level.accuracy, level.macro_f1, level.loss, level.ece, level.errors_caught)
    return f"| {label} | {level.n:,} | {' | '.join(_interval(score) for score in scores)} |"


def _class_row(label: str, level: Level, class_names: Sequence[str]) -> str:
    scores = [level.per_class[name] for name in class_names]
    return f"| {label} | {' | '.join(_interval(score.f1) if score.support else '' for score in scores)} |"


def _interval(interval: Interval | None) -> str:
    if interval is None:
        return "no errors"
    text = f"{interval.value:.3f}"
    return text if interval.low is None else f"{text} ({interval.low:.3f} to {interval.high:.3f})"


def _further(data: DataRecord) -> str:
    if not data.further_images:
        return ""
    outliers = f", {', '.join(data.outliers)} among them as none of the classes" if data.outliers else ""
    return f" {data.further_images:,} images of further data sets{outliers}."


def _laboratories(data: DataRecord) -> str:
    """Say where the images come from, a row for each laboratory."""
    if not data.laboratories:
        return ""
    rows = [
        f"| {laboratory.name} | {_counts(laboratory.images)} | {', '.join(laboratory.unknown) or 'none'} |"
        f" {laboratory.share:g} |"
        for laboratory in data.laboratories
    ]
    head = ["", "", "| laboratory | images | taught as none of the classes | share |", "|---|---|---|---|"]
    credit_lines = [
        f"- {laboratory.name}: {laboratory.credit}" for laboratory in data.laboratories if laboratory.credit
    ]
    return "\n".join([*head, *rows, *(["", "Images by:", "", *credit_lines] if credit_lines else [])])


def _more(evaluations: Mapping[str, RecordedEvaluation]) -> str:
    """Say what else each evaluation found: where the heatmaps point, the notebook's split, unknown types."""
    lines = [""]
    for name, recorded in evaluations.items():
        heatmaps = recorded.heatmaps
        times = "once" if recorded.times == 1 else f"{recorded.times} times"
        lines.append(
            f"- {name}: evaluated {times} with these weights."
            + (
                f" The heatmap's peak lies on the white cell in {heatmaps.hit:.1%} of {heatmaps.n:,} images (chance"
                f" {heatmaps.chance:.1%}, centre of the image {heatmaps.centre:.1%}, centre of the crop"
                f" {heatmaps.centre_of_crop:.1%})."
                if heatmaps.n
                else ""
            )
        )
        if recorded.finding:
            lines.append(_finding(name, recorded.finding))
        if recorded.notebook:
            lines.append(_notebook(name, recorded.notebook))
        if recorded.unknown:
            lines.append(_unknown(name, recorded.unknown))
    return "\n".join(lines) + "\n" if evaluations else ""


def _finding(name: str, finding: Finding) -> str:
    return (
        f"- {name}, white cells of {finding.fields:,} fields: recall {_interval(finding.recall)}, precision"
        f" {_interval(finding.precision)}, average precision {_interval(finding.average_precision)}."
    )


def _notebook(name: str, notebook: NotebookSplit) -> str:
    image = notebook.evaluation.image
    shared = (
        f"its validation images share {notebook.sources_also_in_validation} of its {notebook.sources} sources"
        if notebook.sources
        else "its sources were not named, and a random split shares them"
    )
    return (
        f"- {name}, the notebook's 30/70 split: {image.n:,} images, accuracy {_interval(image.accuracy)},"
        f" loss {_interval(image.loss)}; {shared}."
    )


def _unknown(name: str, unknown: UnknownTypes) -> str:
    return (
        f"- {name}: {unknown.n:,} images of {_types(unknown)} are told from"
        f" the known ones with an AUROC of {_interval(unknown.auroc)} (largest probability alone:"
        f" {_interval(unknown.auroc_max_softmax)}); {unknown.flagged:.0%} of them are flagged."
    )


def _types(unknown: UnknownTypes) -> str:
    names = ", ".join(unknown.classes)
    if unknown.taught:
        return f"no known class ({names}; other images of {', '.join(unknown.taught)} were taught as outliers)"
    return f"no known class ({names}, of which nothing was taught)"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())
