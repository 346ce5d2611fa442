"""Suspect labels in the report of an audit: the table, the pictures, and what the page and the record say of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from core.evaluation.scores import evaluate
from core.evaluation.suspects import calibrate_joint
from core.files import write_table
from core.images.decoder import decode
from core.images.overlay import encode_jpeg
from core.images.view import View
from pipelines.auditing.record import LabelCheck, WrongLabels

if TYPE_CHECKING:
    from pathlib import Path

    from core.evaluation.suspects import SuspectSource
    from pipelines.auditing.findings import Findings
    from pipelines.auditing.labels import JudgedLabels

__all__ = ["describe_labels", "show_suspects", "write_suspects"]

_LARGE, _SMALL = 320, 128
_ALIKE_SUGGESTED, _ALIKE_LABELLED = 4, 2
_LIKELIEST = 3
_FURTHER_VIEWS = 4
"""Further suspect views of a source that the page shows."""


@dataclass(frozen=True, slots=True)
class _Shown:
    """One cell on the page."""

    picture: str
    name: str
    label: str


def describe_labels(judged: JudgedLabels) -> LabelCheck:
    """Return what ``audit.json`` says of the labels."""
    names, suspects = judged.data.class_names, judged.suspects
    counts = Counter(zip(judged.labels[suspects.rows].tolist(), suspects.suggested.tolist(), strict=True))
    expected = calibrate_joint(suspects.joint, judged.labels)
    return LabelCheck(
        bundle=judged.bundle.id,
        engine=judged.bundle.engine_name,
        cells=len(judged.labels),
        folds=judged.folds,
        grouped=judged.grouped,
        suspects=len(suspects),
        suspect_sources=len(judged.sources),
        wrong=[
            WrongLabels(
                label=names[label], found=names[found], suspects=count, estimated=round(expected[label, found], 1)
            )
            for (label, found), count in counts.most_common()
        ],
        seen_in_training=judged.seen_in_training,
        evaluation=evaluate(judged.predicted).without_curves(),
    )


def write_suspects(judged: JudgedLabels, findings: Findings, out: Path) -> None:
    """Write ``suspects.csv``: a row per suspect cell, sources in the order of their mean margin.

    Args:
        judged: What was found.
        findings: Where the images are.
        out: Folder of the report.
    """
    names, suspects, rows = judged.data.class_names, judged.suspects, []
    for source in judged.sources:
        for place in source.places:
            row, suggested = int(suspects.rows[place]), int(suspects.suggested[place])
            sample, image, p = judged.data.samples[row], judged.images[row], judged.probabilities[row]
            rows.append(
                (
                    len(rows) + 1,
                    findings.images[image].name,
                    names[sample.label],
                    names[suggested],
                    f"{p[sample.label]:.4f}",
                    f"{p[suggested]:.4f}",
                    f"{suspects.margins[place]:.4f}",
                    findings.source(image),
                    len(source.places) - 1,
                    source.images - 1,
                    *(sample.box or ("",) * 4),
                    *(f"{value:.4f}" for value in p),
                )
            )
    header = ("rank", "path", "label", "suggested", "p_label", "p_suggested", "margin", "source")
    views = ("other_suspect_views", "other_views", "left", "top", "right", "bottom")
    write_table(out / "suspects.csv", (*header, *views, *(f"p_{name}" for name in names)), rows)


def show_suspects(judged: JudgedLabels, findings: Findings, out: Path, most: int) -> list[dict[str, Any]]:
    """Write the pictures of the most suspect sources and of what looks like them; return what the page says.

    Args:
        judged: What was found.
        findings: Where the images are.
        out: Folder of the report; pictures lie in ``suspects`` in it.
        most: Most sources to show.
    """
    (out / "suspects").mkdir(exist_ok=True)
    return [_show(source, judged, findings, out) for source in judged.sources[:most]]


def _show(source: SuspectSource, judged: JudgedLabels, findings: Findings, out: Path) -> dict[str, Any]:
    names = judged.data.class_names
    rows = [int(judged.suspects.rows[place]) for place in source.places]
    first, p = rows[0], judged.probabilities[rows[0]]
    label = int(judged.labels[first])
    likeliest = sorted({*np.argsort(-p)[:_LIKELIEST].tolist(), source.suggested, label}, key=lambda index: -p[index])

    def pictures(chosen: list[int], longest: int = _SMALL) -> list[_Shown]:
        return [_picture(row, judged, findings, out, longest) for row in chosen]

    return {
        "cell": pictures([first], _LARGE)[0],
        "label": names[label],
        "suggested": names[source.suggested],
        "source": findings.source(judged.images[first]),
        "views": source.images,
        "suspects": len(rows),
        "mean": source.margin,
        "probabilities": [(names[index], float(p[index])) for index in likeliest],
        "further": pictures(rows[1 : 1 + _FURTHER_VIEWS]),
        "alike": pictures(judged.look_alikes(first, source.suggested, _ALIKE_SUGGESTED)),
        "own": pictures(judged.look_alikes(first, label, _ALIKE_LABELLED)),
    }


def _picture(row: int, judged: JudgedLabels, findings: Findings, out: Path, longest: int) -> _Shown:
    """Write what the network saw of one cell, with some room around it, unless it is there already."""
    sample = judged.data.samples[row]
    name = f"suspects/{row:06d}-{longest}.jpg"
    if not (out / name).exists():
        rgb = decode(sample.path.read_bytes()).rgb
        (out / name).write_bytes(encode_jpeg(View.around(rgb, judged.seen[row], longest).rgb))
    return _Shown(name, findings.images[judged.images[row]].name, judged.data.class_names[sample.label])
