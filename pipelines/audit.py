"""Find what makes an evaluation too good to be true: ``python pipelines/audit.py DATA --out AUDIT``.

Views of one microscope field, duplicates, conflicting labels, unreadable files, and what the splits of a
data set share; as tables and as a page with the pairs side by side.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in {None, ""}:  # started as a script: let the project's packages be found, not this folder's files
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import cv2
import torch
from pydantic import Field
from pydantic_settings import CliPositionalArg
from threadpoolctl import threadpool_limits

from core.data.class_folders import ClassFolders, read_splits
from core.data.groups import read_groups, read_linked_groups
from core.data.laboratories import names_laboratories, read_laboratories
from core.settings import Settings
from pipelines.auditing.findings import Findings
from pipelines.auditing.report import write_audit
from runtime.command import refuse_existing, run_command
from runtime.progress import say

__all__ = ["AuditSettings", "audit", "main"]


class AuditSettings(Settings):
    """Look for leaks in a data set (DATA/CLASS/**/IMAGE, or DATA/SPLIT/CLASS/**/IMAGE), or in several laboratories.

    Finds images that show the same microscope field (rotated, sheared, shifted or mirrored), exact and near
    duplicates, conflicting labels, unreadable files, and what the splits share. Writes groups.csv, which
    train.py and evaluate.py take as --groups, further tables, and index.html. Where DATA is a file of laboratories,
    names begin with the laboratory's, and what two of them share is found; of a field only the whole is looked at.
    """

    data: CliPositionalArg[Path] = Field(
        description="folder of class folders, or of splits of them; or a YAML file of laboratories"
    )
    out: Path = Field(description="folder of the report")
    compare: Path | None = Field(
        None, description="CSV with the columns path and source: compare what is found with it"
    )
    linked_groups: Path | None = Field(
        None, description="CSV with the columns source and same_as, for --compare: sources that show the same cell"
    )
    pictures: int = Field(60, ge=0, le=1000, description="most pairs of each kind that the page shows")
    threads: int | None = Field(None, ge=1, description="threads; otherwise all cores")


def audit(settings: AuditSettings) -> int:
    """Run the command; return its exit code.

    Raises:
        LeukorayError: The data or the options cannot be used.
    """
    refuse_existing(settings.out)
    several = names_laboratories(settings.data)
    splits = _laboratories(settings.data) if several else read_splits(settings.data)
    if settings.compare:
        linked = read_linked_groups(settings.linked_groups) if settings.linked_groups else {}
        linked = {source: same or source for source, same in linked.items()}
        splits = {name: data.with_groups(read_groups(settings.compare), linked) for name, data in splits.items()}
    kind = "laboratories" if several else "splits"
    say(f"{kind}: {', '.join(splits)}" if len(splits) > 1 else f"one set of class folders, not divided into {kind}")
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)  # the images are the parallel part
    try:
        with threadpool_limits(1):
            threads = settings.threads or torch.get_num_threads()
            result = Findings(splits, threads, None if several else settings.data)
    finally:
        cv2.setNumThreads(before)
    record = write_audit(result, settings.out, str(settings.data), settings.pictures)
    print(record.found.model_dump_json(indent=2))
    say(f"report: {settings.out / 'index.html'}")
    return 0


def _laboratories(file: Path) -> dict[str, ClassFolders]:
    """Return the images of each laboratory of a file, all with the same classes."""
    laboratories = read_laboratories(file)
    names = sorted(set().union(*(laboratory.found_classes for laboratory in laboratories)))
    plain = (laboratory.model_copy(update={"unknown": []}) for laboratory in laboratories)
    return {laboratory.name: laboratory.read(names) for laboratory in plain}


def main() -> int:
    """Entry point of the command."""
    return run_command(AuditSettings, audit)


if __name__ == "__main__":
    sys.exit(main())
