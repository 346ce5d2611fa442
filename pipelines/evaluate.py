"""Say what a bundle is worth on labelled images: ``python pipelines/evaluate.py BUNDLE DATA --out REPORT``."""

from __future__ import annotations

import json
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if __package__ in {None, ""}:  # started as a script: let the project's packages be found, not this folder's files
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from pydantic import Field
from pydantic_settings import CliPositionalArg
from sklearn.metrics import classification_report
from sklearn.model_selection import train_test_split

from core.data.class_folders import ClassFolders, Sample, read_class_folders
from core.data.groups import SourceSettings
from core.errors import DataError, SettingsError
from core.evaluation.localisation import Pointing, point
from core.evaluation.plots import confusion_png, ood_png, reliability_png, risk_coverage_png
from core.evaluation.scores import Comparison, Evaluation, Interval, Predicted, compare, evaluate, separation
from core.files import write_table
from core.images.cells import find_white_cell
from core.images.overlay import encode_jpeg, panel, shrink_to
from core.images.reading import Unreadable, read_safely
from core.model.bundle import Bundle, load_bundle
from core.model.predictor import Predictor, choose_device
from pipelines.evaluating.record import check_look, record_look
from runtime.command import refuse_existing, run_command
from runtime.pages import render
from runtime.progress import Progress, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from core.images.preprocessing import Prepared
    from core.model.prediction import Prediction

__all__ = ["EvaluateSettings", "main", "run"]

_BATCH = 64
_MISTAKE_WIDTH = 320


class EvaluateSettings(SourceSettings):
    """Measure a bundle on class folders (DATA/CLASS/**/IMAGE) and write tables, pictures and a page.

    Every score stands at two levels, images and sources (the microscope fields that the images are views of),
    with a 95 % interval that resamples sources. Name the sources with --groups; pipelines/audit.py finds them.
    """

    bundle: CliPositionalArg[Path] = Field(description="folder of the bundle")
    data: CliPositionalArg[Path] = Field(description="folder with one sub-folder per class")
    out: Path = Field(description="folder of the report")
    unknown: list[str] = Field([], description="class folders of DATA that the bundle does not know, as outliers")
    half: Literal["even", "odd"] | None = Field(
        None, description="measure every other image of each class only, in the order of their names"
    )
    compare: Path | None = Field(None, description="a second bundle, compared by source on the same images")
    protocol: Literal["all", "notebook"] = Field(
        "all", description="notebook: also the notebook's stratified 30/70 split of DATA"
    )
    mistakes: int = Field(24, ge=0, le=200, description="most mistakes that are shown, one per source")
    resamples: int = Field(1000, ge=0, le=20000, description="bootstrap resamples; 0 for no intervals")
    record: str | None = Field(None, description="write this look into the bundle's metrics and card, by this name")
    seed: int = Field(0, ge=0, description="of the resampling and of the notebook's split")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    threads: int | None = Field(None, ge=1, description="torch and decoding threads; otherwise all cores")


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is kept of a picture until its heatmap is there: its white cell, and its size."""

    cell: NDArray[np.bool_] | None
    height: int
    width: int


@dataclass(frozen=True)
class _Results:
    """One bundle's predictions of a data set, row by row."""

    samples: tuple[Sample, ...]
    predictions: tuple[Prediction, ...]
    pointings: tuple[Pointing | None, ...]
    unreadable: tuple[Unreadable, ...]

    def select(self, rows: Sequence[int]) -> _Results:
        """Return only these rows."""
        return _Results(
            tuple(self.samples[row] for row in rows),
            tuple(self.predictions[row] for row in rows),
            tuple(self.pointings[row] for row in rows),
            self.unreadable,
        )

    def predicted(self, class_names: tuple[str, ...]) -> Predicted:
        """Return the predictions as arrays."""
        known: dict[str, int] = {}
        names = (sample.source or f"\0{row}" for row, sample in enumerate(self.samples))
        probabilities = np.stack([p.probabilities for p in self.predictions]).astype(np.float64)
        return Predicted(
            probabilities=probabilities / probabilities.sum(axis=1, keepdims=True),
            labels=np.array([sample.label for sample in self.samples]),
            sources=np.array([known.setdefault(name, len(known)) for name in names]),
            class_names=class_names,
            named=np.array([sample.source is not None for sample in self.samples]),
            flags=tuple(p.flag for p in self.predictions),
            ood=np.array([p.ood for p in self.predictions], np.float64),
        )


def run(settings: EvaluateSettings) -> int:
    """Run the command; return its exit code.

    Raises:
        LeukorayError: Where bundle, data or options cannot be used.
    """
    refuse_existing(settings.out)
    bundle = load_bundle(settings.bundle)
    second = load_bundle(settings.compare) if settings.compare else None
    if second and second.class_names != bundle.class_names:
        raise SettingsError(
            "other-classes", f"{settings.compare} knows {', '.join(second.class_names)}; the two cannot be compared."
        )
    torch.set_num_threads(settings.threads or torch.get_num_threads())
    data = _read_data(settings, bundle)
    if settings.record:
        check_look(bundle, settings.record, data.fingerprint)
    results = _predict(bundle, data.samples, settings)
    known = [row for row, sample in enumerate(results.samples) if sample.label < len(bundle.class_names)]
    if not known:
        raise DataError("nothing-readable", f"No readable image under {settings.data} is of a class that is known.")
    mine = results.select(known)
    predicted = mine.predicted(bundle.class_names)
    evaluation = evaluate(predicted, resamples=settings.resamples, seed=settings.seed)
    record: dict[str, Any] = {
        "bundle": {"path": str(settings.bundle), "id": bundle.id},
        "data": {
            "path": str(settings.data),
            "fingerprint": data.fingerprint,
            "grouped": bool(predicted.named.any()),
            "unnamed": int((~predicted.named).sum()) if predicted.named.any() else 0,
            "unreadable": len(results.unreadable),
            "half": settings.half,
        },
        "evaluation": evaluation.model_dump(mode="json"),
        "heatmaps": _pointing(mine.pointings),
        "unknown": _unknown(results, predicted, bundle, settings),
        "comparison": _comparison(predicted, second, mine, settings).model_dump(mode="json") if second else None,
        "notebook": _notebook(mine, bundle, settings) if settings.protocol == "notebook" else None,
    }
    _write(settings, bundle, record, evaluation, mine, results)
    if settings.record:
        record_look(settings.bundle, settings.record, record)
    _print(record, bundle)
    say(f"report: {settings.out / 'index.html'}")
    return 0


def _read_data(settings: EvaluateSettings, bundle: Bundle) -> ClassFolders:
    names = (*bundle.class_names, *settings.unknown)
    if missing := [name for name in settings.unknown if not (settings.data / name).is_dir()]:
        raise DataError("no-classes", f"{settings.data} holds no folder {missing[0]}, which --unknown names.")
    try:
        data = read_class_folders(settings.data, names)
    except DataError as error:
        if error.code != "unknown-class":
            raise
        raise DataError(error.code, f"{error.message} Name it with --unknown to measure it as an outlier.") from None
    if settings.half:
        data = data.half(settings.half)
    if settings.groups is None:
        say("warning: without --groups every image counts as independent; see pipelines/audit.py")
        return data
    return data.with_sources(settings.groups, settings.linked_groups)


def _predict(bundle: Bundle, samples: Sequence[Sample], settings: EvaluateSettings) -> _Results:
    predictor = Predictor(bundle, str(choose_device(settings.device)))
    kept: list[Sample] = []
    predictions: list[Prediction] = []
    pointings: list[Pointing | None] = []
    unreadable: list[Unreadable] = []

    def see(data: bytes) -> tuple[_Seen, Prepared]:
        picture, prepared = predictor.prepare(data)
        return _Seen(find_white_cell(picture.rgb), picture.height, picture.width), prepared

    def prepare(sample: Sample) -> tuple[_Seen, Prepared] | Unreadable:
        return read_safely(sample.path, see)

    with (
        Progress(len(samples), "images") as progress,
        ThreadPoolExecutor(settings.threads or torch.get_num_threads()) as pool,
    ):
        for start in range(0, len(samples), _BATCH):
            block = samples[start : start + _BATCH]
            usable: list[tuple[Sample, _Seen, Prepared]] = []
            for sample, result in zip(block, pool.map(prepare, block), strict=True):
                if isinstance(result, Unreadable):
                    unreadable.append(result)
                else:
                    usable.append((sample, *result))
            found = predictor.predict([prepared for _, _, prepared in usable])
            pointings.extend(_point(seen, prediction) for (_, seen, _), prediction in zip(usable, found, strict=True))
            predictions.extend(replace(prediction, cam=None) for prediction in found)
            kept.extend(sample for sample, _, _ in usable)
            progress.advance(len(block))
    for bad in unreadable:
        say(f"left out: {bad.path}: {bad.message} [{bad.code}]")
    return _Results(tuple(kept), tuple(predictions), tuple(pointings), tuple(unreadable))


def _point(seen: _Seen, prediction: Prediction) -> Pointing | None:
    if prediction.cam is None:
        return None
    return point(seen.cell, prediction.cam, prediction.box, seen.height, seen.width)


def _pointing(pointings: Sequence[Pointing | None]) -> dict[str, float]:
    """Return the share of maps whose peak lies on the cell, and what chance and centre would reach."""
    found = [pointing for pointing in pointings if pointing]
    shares = {
        item.name: float(np.mean([getattr(pointing, item.name) for pointing in found])) if found else 0.0
        for item in fields(Pointing)
    }
    return {"n": len(found), **shares}


def _unknown(
    results: _Results, predicted: Predicted, bundle: Bundle, settings: EvaluateSettings
) -> dict[str, Any] | None:
    rows = [row for row, sample in enumerate(results.samples) if sample.label >= len(bundle.class_names)]
    if not rows:
        return None
    unknown = results.select(rows)
    others = unknown.predicted(bundle.class_names)
    sources = np.r_[predicted.sources, others.sources]
    flags = [p.flag for p in unknown.predictions]
    options = {"resamples": settings.resamples, "seed": settings.seed}
    return {
        "classes": settings.unknown,
        "n": len(rows),
        "taught": [name for name in settings.unknown if name in bundle.record.data.get("outliers", [])],
        "auroc": separation(predicted.ood, others.ood, sources, **options).model_dump(),
        "auroc_max_softmax": separation(
            -predicted.probabilities.max(axis=1), -others.probabilities.max(axis=1), sources, **options
        ).model_dump(),
        "flagged": float(np.mean([flag != "" for flag in flags])),
        "flagged_out_of_distribution": float(np.mean([flag == "out-of-distribution" for flag in flags])),
        "known_flagged_out_of_distribution": float(
            np.mean([flag == "out-of-distribution" for flag in predicted.flags])
        ),
    }


def _comparison(predicted: Predicted, second: Bundle, mine: _Results, settings: EvaluateSettings) -> Comparison:
    other = _predict(second, mine.samples, settings)
    return compare(predicted, other.predicted(second.class_names), resamples=settings.resamples, seed=settings.seed)


def _notebook(mine: _Results, bundle: Bundle, settings: EvaluateSettings) -> dict[str, Any]:
    """Measure on 70 % of the images, as the notebook did, and say what the split shares."""
    labels = [sample.label for sample in mine.samples]
    rows = list(range(len(labels)))
    try:
        sides: list[list[int]] = train_test_split(rows, test_size=0.3, stratify=labels, random_state=settings.seed)
    except ValueError as error:
        raise DataError("too-few-images", f"The notebook's 30/70 split needs more images ({error}).") from None
    test, validation = sides
    part = mine.select(test).predicted(bundle.class_names)
    evaluation = evaluate(part, resamples=settings.resamples, seed=settings.seed)
    sources = {mine.samples[row].source for row in test} - {None}
    shared = sources & {mine.samples[row].source for row in validation}
    report: Any = classification_report(
        part.labels,
        part.probabilities.argmax(axis=1),
        labels=list(range(len(bundle.class_names))),
        target_names=list(bundle.class_names),
        digits=4,
        zero_division=0.0,  # pyright: ignore[reportArgumentType]
    )
    return {
        "validation_images": len(validation),
        "test_images": len(test),
        "seed": settings.seed,
        "sources": len(sources),
        "sources_also_in_validation": len(shared),
        "evaluation": evaluation.model_dump(mode="json"),
        "report": str(report),
    }


def _write(
    settings: EvaluateSettings,
    bundle: Bundle,
    record: dict[str, Any],
    evaluation: Evaluation,
    mine: _Results,
    results: _Results,
) -> None:
    out = settings.out
    out.mkdir(parents=True, exist_ok=True)
    (out / "evaluation.json").write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    _tables(out, bundle, evaluation, results, settings)
    levels = [("Images", evaluation.image), ("Sources", evaluation.source)][: 2 if record["data"]["grouped"] else 1]
    (out / "confusion.png").write_bytes(confusion_png(evaluation.image.confusion, bundle.class_names, title="Images"))
    (out / "reliability.png").write_bytes(reliability_png([level for _, level in levels]))
    (out / "risk_coverage.png").write_bytes(risk_coverage_png([level for _, level in levels]))
    if record["unknown"]:
        scores = {"known": [], "unknown": []}
        for sample, prediction in zip(results.samples, results.predictions, strict=True):
            scores["known" if sample.label < len(bundle.class_names) else "unknown"].append(prediction.ood)
        (out / "ood.png").write_bytes(ood_png(scores, bundle.record.confidence.max_ood))
    mistakes = _mistakes(settings, bundle, mine)
    page = render(
        "pipelines",
        "evaluation.html",
        record=record,
        levels=levels,
        class_names=bundle.class_names,
        confidence=bundle.record.confidence,
        mistakes=mistakes,
        wrong=sum(p.label != bundle.class_names[s.label] for s, p in zip(mine.samples, mine.predictions, strict=True)),
        unreadable=[(str(u.path), u.code, u.message) for u in results.unreadable],
    )
    (out / "index.html").write_text(page, encoding="utf-8", errors="backslashreplace")


def _tables(out: Path, bundle: Bundle, evaluation: Evaluation, results: _Results, settings: EvaluateSettings) -> None:
    names = (*bundle.class_names, *settings.unknown)
    write_table(
        out / "predictions.csv",
        ("path", "source", "label", "predicted", "confidence", *(f"p_{n}" for n in bundle.class_names), "ood", "flag"),
        (
            (
                sample.path.relative_to(settings.data).as_posix(),
                sample.source or "",
                names[sample.label],
                p.label,
                f"{p.confidence:.6f}",
                *(f"{value:.6f}" for value in p.probabilities),
                f"{p.ood:.5f}",
                p.flag,
            )
            for sample, p in zip(results.samples, results.predictions, strict=True)
        ),
    )
    levels = (("image", evaluation.image), ("source", evaluation.source))
    scores = ("loss", "accuracy", "balanced_accuracy", "macro_f1", "ece", "aurc", "errors_caught")
    named = ((level, score, getattr(result, score)) for level, result in levels for score in scores)
    overall = ((level, "", score, interval) for level, score, interval in named if interval)
    single = (
        (level, name, score, getattr(parts, score))
        for level, result in levels
        for name, parts in result.per_class.items()
        for score in ("precision", "recall", "f1")
    )
    write_table(
        out / "scores.csv",
        ("level", "class", "score", "value", "low", "high"),
        (
            (level, name, score, *_numbers(interval))
            for part in (overall, single)
            for level, name, score, interval in part
        ),
    )
    write_table(
        out / "confusion.csv",
        ("level", "labelled", *bundle.class_names),
        (
            (level, name, *row)
            for level, result in levels
            for name, row in zip(bundle.class_names, result.confusion, strict=True)
        ),
    )
    for table in ("reliability", "risk_coverage"):
        rows = [{"level": level, **row} for level, result in levels for row in getattr(result, table)]
        write_table(out / f"{table}.csv", tuple(rows[0]), (row.values() for row in rows))


def _numbers(interval: Interval) -> tuple[object, ...]:
    return tuple("" if number is None else f"{number:.6f}" for number in (interval.value, interval.low, interval.high))


def _mistakes(settings: EvaluateSettings, bundle: Bundle, mine: _Results) -> list[dict[str, Any]]:
    """Write the most confident mistake of each source as original, heatmap and overlay."""
    worst: dict[str, int] = {}
    count: dict[str, int] = {}
    for row, (sample, prediction) in enumerate(zip(mine.samples, mine.predictions, strict=True)):
        if prediction.label == bundle.class_names[sample.label]:
            continue
        key = sample.source or str(sample.path)
        count[key] = count.get(key, 0) + 1
        if key not in worst or mine.predictions[worst[key]].confidence < prediction.confidence:
            worst[key] = row
    order = sorted(worst, key=lambda key: (-count[key], -mine.predictions[worst[key]].confidence))
    if not order[: settings.mistakes]:
        return []
    (settings.out / "mistakes").mkdir()
    predictor = Predictor(bundle, "cpu")
    images = Counter(sample.source for sample in mine.samples)
    shown: list[dict[str, Any]] = []
    for number, key in enumerate(order[: settings.mistakes]):
        sample = mine.samples[worst[key]]
        picture, prepared = predictor.prepare(sample.path.read_bytes())
        (prediction,) = predictor.predict([prepared])
        name = f"mistakes/{number:03d}.jpg"
        if prediction.cam is not None:
            three = panel(picture.rgb, prediction.cam, prediction.box)
            (settings.out / name).write_bytes(encode_jpeg(shrink_to(three, 3 * _MISTAKE_WIDTH)[0]))
        shown.append(
            {
                "picture": name,
                "path": sample.path.relative_to(settings.data).as_posix(),
                "source": sample.source,
                "label": bundle.class_names[sample.label],
                "predicted": prediction.label,
                "confidence": prediction.confidence,
                "flag": prediction.flag,
                "evidence": prediction.has_evidence,
                "count": count[key],
                "of": images[sample.source] if sample.source else 1,
            }
        )
    return shown


def _print(record: dict[str, Any], bundle: Bundle) -> None:
    """Say the figures that matter, on standard output."""
    if record["notebook"]:
        part = record["notebook"]
        loss = part["evaluation"]["image"]["loss"]["value"]
        print(f"notebook's protocol: {part['test_images']:,} images, loss {loss:.4f}")
        print(part["report"])
        shared = (
            f"{part['sources_also_in_validation']} of its {part['sources']} sources are also in its validation images"
            if part["sources"]
            else "sources were not named, and a random split shares them"
        )
        print(f"warning: {shared}; its images are not independent. The figures below are the ones to believe.\n")
    for name in ("image", "source"):
        level = record["evaluation"][name]
        print(f"{name}-level, n = {level['n']:,}")
        for score in ("accuracy", "balanced_accuracy", "macro_f1", "loss", "ece", "errors_caught"):
            print(f"  {score.replace('_', ' '):20} {_as_text(level[score])}")
        for label in bundle.class_names:
            print(f"  F1 {label.lower():17} {_as_text(level['per_class'][label]['f1'])}")
    heatmaps = record["heatmaps"]
    print(
        f"heatmap's peak on the cell: {heatmaps['hit']:.3f} of {heatmaps['n']:,}"
        f" (chance {heatmaps['chance']:.3f}, in the crop {heatmaps['chance_in_crop']:.3f};"
        f" centre of the image {heatmaps['centre']:.3f}, of the crop {heatmaps['centre_of_crop']:.3f})"
    )
    if unknown := record["unknown"]:
        print(f"unknown types ({', '.join(unknown['classes'])}), AUROC: {_as_text(unknown['auroc'])}")
    if comparison := record["comparison"]:
        print(
            f"against the second bundle, by source: accuracy {_as_text(comparison['source_accuracy'])},"
            f" only one right: {comparison['only_first_right']} against {comparison['only_second_right']},"
            f" p = {comparison['p_value']:.3f}"
        )


def _as_text(interval: dict[str, float | None] | None) -> str:
    if interval is None:
        return "no errors"
    text = f"{interval['value']:.4f}"
    return text if interval["low"] is None else f"{text} [{interval['low']:.4f}, {interval['high']:.4f}]"


def main() -> int:
    """Entry point of the command."""
    return run_command(EvaluateSettings, run)


if __name__ == "__main__":
    sys.exit(main())
