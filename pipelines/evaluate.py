"""Say what a bundle is worth on labelled images: ``python pipelines/evaluate.py BUNDLE DATA --out REPORT``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if __package__ in {None, ""}:  # started as a script: let the project's packages be found, not this folder's files
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from pydantic import Field
from pydantic_settings import CliPositionalArg

from core.data.laboratories import DataOptions, names_laboratories
from core.errors import DataError
from core.evaluation.scores import compare
from core.evaluation.scores import evaluate as measure
from core.model.opening import EngineName, open_bundle
from pipelines.evaluating.data import describe_data, load_second, read_data
from pipelines.evaluating.finding import measure_fields
from pipelines.evaluating.measures import measure_heatmaps, measure_notebook_split, measure_unknown_types
from pipelines.evaluating.record import EvaluatedBundle, EvaluationRecord, check_name, record_in_bundle
from pipelines.evaluating.report import write_report
from pipelines.evaluating.results import Results, predict
from pipelines.evaluating.summary import summarise
from runtime.command import refuse_existing, run_command
from runtime.progress import say

if TYPE_CHECKING:
    from core.data.class_folders import ClassFolders
    from core.data.laboratories import Laboratory
    from core.model.engine import Usable

__all__ = ["EvaluateSettings", "evaluate", "main"]


class EvaluateSettings(DataOptions):
    """Measure a bundle on class folders (DATA/CLASS/**/IMAGE), or on each laboratory of a YAML file.

    Writes tables, pictures and a page, for each laboratory in a folder of its name; boxes also tell what is found.
    Every score stands at two levels, images and sources (the microscope fields that the images are views of),
    with a 95 % interval that resamples sources. Name the sources with --groups; pipelines/audit.py finds them.
    """

    bundle: CliPositionalArg[Path] = Field(description="folder of the bundle")
    data: CliPositionalArg[Path] = Field(description="folder with one sub-folder per class, or a YAML file")
    out: Path = Field(description="folder of the report")
    unknown: list[str] = Field([], description="class folders of DATA that the bundle does not know, as outliers")
    compare: Path | None = Field(None, description="a second bundle, compared by source on the same images")
    protocol: Literal["all", "notebook"] = Field(
        "all", description="notebook: also the notebook's stratified 30/70 split of DATA"
    )
    mistakes: int = Field(24, ge=0, le=200, description="most mistakes that are shown, one per source")
    resamples: int = Field(1000, ge=0, le=20000, description="bootstrap resamples; 0 for no intervals")
    record: str | None = Field(None, description="write this evaluation into the bundle's metrics and card, so named")
    seed: int = Field(0, ge=0, description="seed of the resampling and of the notebook's split")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    engine: EngineName = Field("auto", description="what runs the networks; auto: openvino on CPUs where they have it")
    threads: int | None = Field(None, ge=1, description="torch and decoding threads; otherwise all cores")


def evaluate(settings: EvaluateSettings) -> int:
    """Run the command; return its exit code.

    Raises:
        LeukorayError: The bundle, the data or the options cannot be used.
    """
    refuse_existing(settings.out)
    bundle = open_bundle(settings.bundle, settings.engine, settings.device)
    second = load_second(settings.compare, bundle, settings.engine, settings.device) if settings.compare else None
    torch.set_num_threads(settings.threads or torch.get_num_threads())
    laboratories = settings.laboratories_in(settings.data)
    data = [read_data(laboratory, bundle.class_names) for laboratory in laboratories]
    names = [_record_name(settings, laboratory) for laboratory in laboratories]
    for name, images in zip(names, data, strict=True):
        if name:
            check_name(bundle, name, images.fingerprint)
    for laboratory, images, name in zip(laboratories, data, names, strict=True):
        out = settings.out / laboratory.name if names_laboratories(settings.data) else settings.out
        _evaluate(settings, laboratory, images, (bundle, second), out, name)
    return 0


def _record_name(settings: EvaluateSettings, laboratory: Laboratory) -> str:
    """Return the name under which an evaluation is written into the bundle; empty where none is."""
    several = names_laboratories(settings.data)
    return f"{settings.record}, {laboratory.name}" if settings.record and several else settings.record or ""


def _evaluate(
    settings: EvaluateSettings,
    laboratory: Laboratory,
    data: ClassFolders,
    bundles: tuple[Usable, Usable | None],
    out: Path,
    name: str,
) -> None:
    bundle, second = bundles
    results = predict(bundle, data.samples, device=settings.device, threads=torch.get_num_threads())
    record = _measure(settings, laboratory, bundle, second, data, results)
    write_report(out, record, bundle, results, laboratory.path, mistakes=settings.mistakes)
    if name:
        record_in_bundle(settings.bundle, name, record)
    if names_laboratories(settings.data):
        print(f"{laboratory.name}:")
    for line in summarise(record, bundle.class_names):
        print(line)
    say(f"report: {out / 'index.html'}")


def _measure(
    settings: EvaluateSettings,
    laboratory: Laboratory,
    bundle: Usable,
    second: Usable | None,
    data: ClassFolders,
    results: Results,
) -> EvaluationRecord:
    known, others = results.divide(len(bundle.class_names))
    if not known.samples:
        raise DataError("nothing-readable", f"No readable image under {laboratory.path} is of a class that is known.")
    predicted = known.predicted(bundle.class_names)
    unknown = others.predicted(bundle.class_names) if others.samples else None
    drawn = {"resamples": settings.resamples, "seed": settings.seed}
    outliers = bundle.record.data.outliers if bundle.record.data else []
    notebook = settings.protocol == "notebook"
    here: dict[str, Any] = {"device": settings.device, "threads": torch.get_num_threads()}
    rival = second and predict(second, known.samples, **here).predicted(second.class_names)
    return EvaluationRecord(
        bundle=EvaluatedBundle.of(settings.bundle, bundle),
        data=describe_data(data, predicted, half=laboratory.half, unreadable=len(results.unreadable)),
        evaluation=measure(predicted, **drawn),
        heatmaps=measure_heatmaps(known.pointings),
        unknown=unknown
        and measure_unknown_types(predicted, unknown, classes=laboratory.unknown, outliers=outliers, **drawn),
        comparison=rival and compare(predicted, rival, **drawn),
        notebook=measure_notebook_split(known, bundle.class_names, **drawn) if notebook else None,
        finding=measure_fields(bundle, laboratory, data, **here, **drawn),
    )


def main() -> int:
    """Entry point of the command."""
    return run_command(EvaluateSettings, evaluate)


if __name__ == "__main__":
    sys.exit(main())
