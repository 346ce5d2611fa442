"""The report of an audit: tables, pictures of pairs, and a page that opens from disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from core.files import replace_file, write_table
from core.images.decoder import decode
from core.images.overlay import encode_jpeg, shrink_to
from pipelines.auditing.record import AuditRecord, Found
from pipelines.auditing.suspect_report import describe_labels, show_suspects, write_suspects
from runtime.pages import render

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from pipelines.auditing.findings import Findings, Pair
    from pipelines.auditing.labels import JudgedLabels

__all__ = ["write_audit"]

_PICTURE = 320


def write_audit(
    result: Findings,
    out: Path,
    data: str,
    most_pictures: int,
    labels: JudgedLabels | None = None,
    most_suspects: int = 0,
) -> AuditRecord:
    """Write ``groups.csv`` and the other tables, ``audit.json``, pictures of the pairs, and the page.

    Args:
        result: What was found.
        out: Folder of the report.
        data: How the user named the data set.
        most_pictures: Number of pairs of each kind that the page shows at the most.
        labels: What was found out about the labels, where that was asked for.
        most_suspects: Number of sources with suspect labels that the page shows at the most.

    Returns:
        The content of ``audit.json``.
    """
    pairs = {
        "shared": result.shared() if len(result.splits) > 1 else [],
        "conflicts": result.conflicts(),
        "exact": result.exact,
        "near": result.near,
    }
    out.mkdir(parents=True, exist_ok=True)
    record = _record(result, data, pairs, labels)
    _write_tables(result, out, pairs, record)
    if labels:
        write_suspects(labels, result, out)
    replace_file(out / "audit.json", record.model_dump_json(indent=2, by_alias=True) + "\n")
    page = render(
        "pipelines",
        "audit.html",
        record=record,
        kinds=pairs,
        shown={kind: _pictures(result, found[:most_pictures], out, kind) for kind, found in pairs.items()},
        suspects=show_suspects(labels, result, out, most_suspects) if labels else [],
        unreadable=[(name, bad.code, bad.message) for name, bad in result.unreadable],
        splits=result.splits,
        parts=result.parts_are,
        class_names=result.class_names,
    )
    (out / "index.html").write_text(page, encoding="utf-8", errors="backslashreplace")
    return record


def _record(result: Findings, data: str, pairs: dict[str, list[Pair]], labels: JudgedLabels | None) -> AuditRecord:
    sources = {kind: len({result.group_of[pair.one] for pair in pairs[kind]}) for kind in ("shared", "conflicts")}
    found = Found(
        images=len(result.images),
        sources=len(result.groups),
        sources_in_several_splits=sources["shared"],
        sources_with_conflicting_labels=sources["conflicts"],
        exact_duplicates=len(pairs["exact"]),
        near_duplicates=len(pairs["near"]),
        unreadable=len(result.unreadable),
        agreement=result.agreement(),
    )
    return AuditRecord(data=data, found=found, counts=result.counts(), labels=labels and describe_labels(labels))


def _write_tables(result: Findings, out: Path, pairs: dict[str, list[Pair]], record: AuditRecord) -> None:
    images = result.images
    write_table(
        out / "groups.csv",
        ("path", "source", "split", "class"),
        ((image.name, result.source(number), image.split, image.label) for number, image in enumerate(images)),
    )
    write_table(
        out / "pairs.csv",
        ("kind", "one", "other", "one_class", "other_class", "reason"),
        (
            (kind, images[p.one].name, images[p.other].name, images[p.one].label, images[p.other].label, p.reason)
            for kind, found in pairs.items()
            for p in found
        ),
    )
    write_table(
        out / "counts.csv",
        ("split", "class", "images", "sources"),
        ((row.split, row.label, row.images, row.sources) for row in record.counts),
    )
    write_table(
        out / "unreadable.csv",
        ("path", "code", "message"),
        ((name, bad.code, bad.message) for name, bad in result.unreadable),
    )


def _pictures(result: Findings, pairs: Sequence[Pair], out: Path, kind: str) -> list[dict[str, Any]]:
    """Write each pair side by side; return what the page says of it."""
    shown: list[dict[str, Any]] = []
    (out / "pairs").mkdir(exist_ok=True)
    for number, pair in enumerate(pairs):
        sides = [_fit(decode(result.images[image].path.read_bytes()).rgb) for image in (pair.one, pair.other)]
        name = f"pairs/{kind}-{number:04d}.jpg"
        (out / name).write_bytes(encode_jpeg(np.hstack(sides)))
        shown.append(
            {
                "picture": name,
                "one": result.images[pair.one],
                "other": result.images[pair.other],
                "source": result.source(pair.one),
                "reason": pair.reason,
            }
        )
    return shown


def _fit(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Shrink or enlarge an image to a frame of 320x240, keeping its shape."""
    small, _ = shrink_to(rgb, _PICTURE)
    frame = np.full((_PICTURE * 3 // 4, _PICTURE, 3), 255, np.uint8)
    factor = min(frame.shape[0] / small.shape[0], frame.shape[1] / small.shape[1])
    size = (max(1, int(small.shape[1] * factor)), max(1, int(small.shape[0] * factor)))
    part = np.asarray(cv2.resize(small, size, interpolation=cv2.INTER_AREA), np.uint8)
    frame[: part.shape[0], : part.shape[1]] = part
    return frame
