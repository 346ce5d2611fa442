"""The loop that a laboratory goes through: classify, review some cells, adapt, classify again; by the commands."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from drawn import PROJECT
from review_server import reviewing

from core.images.drawings import CLASS_NAMES, draw_field, restain
from core.images.overlay import encode_jpeg
from pipelines.classification.run_folder import RunFolder
from pipelines.classification.storage import open_folder
from pipelines.reviewing.cells import read_cells

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["Errors", "draw_strange_slides", "loop"]

Truth = dict[tuple[str, str], str]
"""The label of each image, by slide and name."""


@dataclass(frozen=True)
class Errors:
    """Of the cells that were not reviewed: how many, and how many of them were called something else."""

    cells: int
    before: int
    after: int


def draw_strange_slides(slides: Path, images: int, names: tuple[str, ...] = ("smear-1", "smear-2", "smear-3")) -> Truth:
    """Draw images of one cell each in a stain that no bundle knows."""
    rng, truth = np.random.default_rng(7), {}
    for slide in names:
        (slides / slide).mkdir(parents=True)
        for number in range(images):
            kind = CLASS_NAMES[number % len(CLASS_NAMES)]
            name = f"cell-{number:04d}.jpg"
            (slides / slide / name).write_bytes(encode_jpeg(restain(draw_field(kind, rng)), 92))
            truth[slide, name] = kind
    return truth


def loop(slides: Path, truth: Mapping[tuple[str, str], str], work: Path, *training: str, reviewed: int = 100) -> Errors:
    """Classify, review, export, adapt and classify again, with the commands that users type.

    Args:
        slides: Folder of slides, one cell to an image.
        truth: The label of each image.
        work: Folder for what comes out.
        training: Further options of the training.
        reviewed: Most cells that are reviewed, as many of each class that the model gives, in the page's order.
    """
    bundle = PROJECT / "models" / "blood-cells"
    run("classify.py", slides, "--out", work / "before", "--gradcam", "none")
    seen = review(work / "before", truth, reviewed)
    run("review.py", work / "before", "--export", "folders", "--out", work / "cells")
    run("train.py", work / "cells" / "laboratories.yaml", "--start", bundle, "--out", work / "bundle", *training)
    run("classify.py", slides, "--out", work / "after", "--gradcam", "none", "--model", work / "bundle")
    before, after = (answers(work / name) for name in ("before", "after"))
    rest = [image for image in truth if image not in seen]
    wrong = [sum(labels.get(image) != truth[image] for image in rest) for labels in (before, after)]
    return Errors(len(rest), *wrong)


def run(command: str, *arguments: object) -> None:
    subprocess.run(
        [sys.executable, f"pipelines/{command}", *map(str, arguments)], cwd=PROJECT, env=os.environ, check=True
    )


def answers(run_folder: Path) -> Truth:
    folder = RunFolder(open_folder(str(run_folder)))
    cells = read_cells(folder, folder.read_record())
    return {cells.key(row)[:2]: label for row, label in enumerate(cells.labels)}


def review(run_folder: Path, truth: Mapping[tuple[str, str], str], count: int) -> set[tuple[str, str]]:
    """Say what some cells are, as a reviewer does who begins at the top of each class; return their images."""
    seen: set[tuple[str, str]] = set()
    with reviewing(str(run_folder), "--reviewer", "Ann") as server:
        told, columns = server.client.get("/api/run").json(), server.client.get("/api/cells").json()["columns"]
        share = -(-count // (len(told["labels"]) - 1))
        for label in range(len(told["labels"])):
            rows = [index for index, one in enumerate(columns["label"]) if one == label]
            rows.sort(key=lambda index: (not columns["flag"][index], max(columns["probabilities"][index])))
            for index in rows[:share]:
                image = (
                    told["slides"][str(columns["slide"][index])]["name"],
                    columns["images"][columns["image"][index]],
                )
                content = {"cells": [columns["row"][index]], "label": truth[image]}
                server.act("label", f"what-is-cell-{columns['row'][index]}", seen=10**6, **content).raise_for_status()
                seen.add(image)
    return seen
