"""Find what makes an evaluation too good to be true: ``python pipelines/audit.py DATA --out AUDIT``.

Views of one microscope field, duplicates, conflicting labels, unreadable files, what the splits of a data set share,
and with a bundle the labels that are probably wrong; as tables and as a page with the pictures side by side.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if __package__ in {None, ""}:  # started as a script: let the project's packages be found, not this folder's files
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import cv2
import torch
from pydantic import Field
from pydantic_settings import CliPositionalArg
from threadpoolctl import threadpool_limits

from core.data.laboratories import names_laboratories
from core.errors import DataError, SettingsError
from core.model.opening import EngineName, open_bundle
from core.model.predictor import Predictor
from core.settings import Settings
from pipelines.auditing.data import read_parts, with_compared
from pipelines.auditing.findings import Findings
from pipelines.auditing.labels import judge_labels
from pipelines.auditing.report import write_audit
from runtime.command import refuse_existing, run_command
from runtime.progress import say

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["AuditSettings", "audit", "main"]


class AuditSettings(Settings):
    """Look for leaks in a data set (DATA/CLASS/**/IMAGE, or DATA/SPLIT/CLASS/**/IMAGE), or in several laboratories.

    Finds images that show the same microscope field (rotated, sheared, shifted or mirrored), exact and near
    duplicates, conflicting labels, unreadable files, and what the splits share. Writes groups.csv, which
    train.py and evaluate.py take as --groups, further tables, and index.html. Where DATA is a file of laboratories,
    names begin with the laboratory's, and what two of them share is found; of a field only the whole is looked at.

    With --bundle each label is judged by the images of other fields: suspects.csv ranks those that are probably wrong.
    """

    data: CliPositionalArg[Path] = Field(
        description="folder of class folders, or of splits of them; or a YAML file of laboratories"
    )
    out: Path = Field(description="folder of the report")
    compare: Path | None = Field(
        None, description="CSV with the columns path and source: compare what is found with it"
    )
    linked_groups: Path | None = Field(
        None, description="CSV with the columns source and same_as: sources of --compare or --groups that are one"
    )
    pictures: int = Field(60, ge=0, le=1000, description="most pairs of each kind that the page shows")
    bundle: Path | None = Field(
        None, description="folder of a bundle whose features judge the labels; it need not know the classes"
    )
    groups: str | None = Field(
        None,
        description="sources to keep on one side where labels are judged, beside the fields that are found: a CSV with"
        " the columns path and source, folder:1, or 'name:PATTERN', as for train.py",
    )
    folds: int = Field(5, ge=2, le=50, description="folds in which labels are judged")
    suspects: int = Field(40, ge=0, le=1000, description="most sources with suspect labels that the page shows")
    device: str = Field("auto", description="what the bundle runs on: auto, cpu, cuda or cuda:N")
    engine: EngineName = Field("auto", description="what runs the bundle; auto: openvino on CPUs where it has it")
    threads: int | None = Field(None, ge=1, description="threads; otherwise all cores")


def audit(settings: AuditSettings) -> int:
    """Run the command; return its exit code.

    Raises:
        LeukorayError: The data or the options cannot be used. Where only the labels cannot be judged, the rest of
            the report is written.
    """
    refuse_existing(settings.out)
    several = names_laboratories(settings.data)
    bundle = open_bundle(settings.bundle, settings.engine, settings.device) if settings.bundle else None
    splits = read_parts(settings.data)
    if settings.compare:
        splits = with_compared(splits, settings.compare, settings.linked_groups)
    if settings.groups and (several or not bundle):
        raise SettingsError(
            "groups-unused", "--groups needs --bundle, and a folder as DATA: a file of laboratories has its own."
        )
    named = splits
    if settings.groups:
        named = {name: data.with_sources(settings.groups, settings.linked_groups) for name, data in splits.items()}
    kind = "laboratories" if several else "splits"
    say(f"{kind}: {', '.join(splits)}" if len(splits) > 1 else f"one set of class folders, not divided into {kind}")
    threads = settings.threads or torch.get_num_threads()
    with _one_image_a_thread():
        with threadpool_limits(1):
            result = Findings(splits, threads, None if several else settings.data)
        try:
            judged = (
                judge_labels(
                    result, named, Predictor(bundle, settings.device, threads), folds=settings.folds, threads=threads
                )
                if bundle
                else None
            )
        except DataError:
            write_audit(result, settings.out, str(settings.data), settings.pictures)
            raise
    record = write_audit(result, settings.out, str(settings.data), settings.pictures, judged, settings.suspects)
    print(record.found.model_dump_json(indent=2))
    if record.labels:
        say(f"{record.labels.suspects:,} of {record.labels.cells:,} labels are suspect")
    say(f"report: {settings.out / 'index.html'}")
    return 0


@contextmanager
def _one_image_a_thread() -> Iterator[None]:
    """Keep OpenCV from dividing the work on one image: the images are the parallel part."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def main() -> int:
    """Entry point of the command."""
    return run_command(AuditSettings, audit)


if __name__ == "__main__":
    sys.exit(main())
