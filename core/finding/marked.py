"""Marked fields in memory: what a finder learns from, and what it is judged by."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from core.data.boxes import read_boxes
from core.errors import DataError
from core.finding.passes import WHITE
from core.images.cells import Box, cell_around, find_nucleus
from core.images.decoder import decode
from core.images.drawings import CLASS_NAMES, draw_smear
from core.images.light import white_balanced
from core.images.overlay import shrink_to
from core.images.reading import Unreadable, read_safely

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from core.data.laboratories import Laboratory

__all__ = ["DRAWN", "MarkedField", "MarkedFile", "draw_fields", "list_fields", "load_fields"]

DRAWN = "drawings"
"""What stands for the laboratory of drawn fields."""

_MOST_DRAWN = 8
_TOUCHING = (34.0, 52.0)
"""Distance in pixels of drawn cells that touch or overlap."""


@dataclass(frozen=True)
class MarkedFile:
    """An image file whose white cells are known.

    Attributes:
        path: The file.
        laboratory: Name of its laboratory.
        slide: What it hangs together with: the name of its slide or field.
        boxes: Every white cell, in pixels of the image; None where the image is of one cell that nobody marked.
    """

    path: Path
    laboratory: str
    slide: str
    boxes: tuple[Box, ...] | None


@dataclass(frozen=True)
class MarkedField:
    """The same in memory, made smaller.

    Attributes:
        file: Where it is from.
        pixels: (H, W, 3) uint8, white-balanced.
        boxes: White cells in pixels of `pixels`, (K, 4) float32: left, top, right, bottom.
        exact: Whether the boxes were marked; otherwise they were guessed from the nucleus.
    """

    file: MarkedFile
    pixels: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    exact: bool


def list_fields(laboratory: Laboratory) -> list[MarkedFile]:
    """List the images of a laboratory with their white cells.

    Where there are boxes, every image that they name is taken, and all its white cells must be marked. Otherwise the
    images are of one cell each, but for those of classes that are no white cells. Where sources are named, images
    without one are left out. Of fields, a half is every other field, and those with a label that is left out are, too:
    whether it is a white cell is not known.

    Args:
        laboratory: Where the images are.

    Raises:
        DataError: Folder or boxes cannot be used.
    """
    if laboratory.boxes is not None:
        whole = laboratory.model_copy(update={"half": None, "ignored": []})
        fields = _list_images(whole)
        left_out = {
            laboratory.path / cell.image for cell in read_boxes(laboratory.boxes) if cell.label in laboratory.ignored
        }
        first = 1 if laboratory.half == "odd" else 0
        fields = sorted(fields, key=lambda file: file.path)[first :: 2 if laboratory.half else 1]
        return [field for field in fields if field.path not in left_out]
    return _list_images(laboratory)


def _list_images(laboratory: Laboratory) -> list[MarkedFile]:
    known = sorted((laboratory.found_classes | set(laboratory.not_white)) - set(laboratory.unknown))
    names = [*known, *sorted(set(laboratory.unknown))]
    white = [name not in laboratory.not_white for name in names]
    files: dict[Path, MarkedFile] = {}
    for sample in laboratory.read(known).samples:
        boxes: tuple[Box, ...] | None = ()
        if white[sample.label]:
            boxes = None if sample.box is None else (sample.box,)
        file = files.get(sample.path)
        if laboratory.groups and not sample.source:
            continue
        slide = sample.source or str(sample.path)
        if file is None:
            files[sample.path] = MarkedFile(sample.path, laboratory.name, slide, boxes)
        elif file.boxes is not None and boxes:
            files[sample.path] = replace(file, boxes=(*file.boxes, *boxes))
    return list(files.values())


def draw_fields(count: int, seed: int) -> list[MarkedField]:
    """Draw fields with none to eight white cells, some of which touch and some of which are cut by the edge.

    Args:
        count: Number of fields.
        seed: Seed of everything in them.
    """
    rng = np.random.default_rng(seed)
    fields: list[MarkedField] = []
    for number in range(count):
        width, height = int(rng.integers(320, 641)), int(rng.integers(320, 641))
        centres: list[tuple[float, float]] = []
        for _ in range(int(rng.integers(_MOST_DRAWN // 2 + 1))):
            x, y = float(rng.uniform(0, width)), float(rng.uniform(0, height))
            if all(math.dist((x, y), other) > 2 * _TOUCHING[1] for other in centres):
                centres.append((x, y))
                if rng.random() < 0.5:
                    turn, far = rng.uniform(0, 2 * math.pi), rng.uniform(*_TOUCHING) + 14
                    centres.append((x + far * math.cos(turn), y + far * math.sin(turn)))
        kinds = rng.choice(CLASS_NAMES, len(centres)).tolist()
        rgb, cells = draw_smear(kinds, rng, width=width, height=height, centres=centres)
        boxes = np.array([cell.box for cell in cells], np.float32).reshape(-1, 4)
        seen = (boxes[:, 2] - boxes[:, 0] > 8) & (boxes[:, 3] - boxes[:, 1] > 8)
        file = MarkedFile(Path(f"{number}.png"), DRAWN, f"{number}", ())
        fields.append(MarkedField(file, white_balanced(rgb, rgb, WHITE), boxes[seen], exact=True))
    return fields


def load_fields(
    files: Sequence[MarkedFile],
    longest: int,
    workers: int = 2,
    on_image: Callable[[], object] | None = None,
) -> tuple[list[MarkedField], list[Unreadable]]:
    """Decode images once and make them smaller.

    Args:
        files: What to load.
        longest: Longer side of what is kept, in pixels.
        workers: Number of threads that decode.
        on_image: Called after each image.

    Returns:
        The fields, and the files that cannot be read.
    """

    def load(file: MarkedFile) -> MarkedField | Unreadable:
        return read_safely(file.path, lambda data: _load(file, data, longest))

    fields: list[MarkedField] = []
    unreadable: list[Unreadable] = []
    with ThreadPoolExecutor(workers) as pool:
        for loaded in pool.map(load, files):
            if isinstance(loaded, Unreadable):
                unreadable.append(loaded)
            else:
                fields.append(loaded)
            if on_image:
                on_image()
    if not fields:
        raise DataError("nothing-readable", f"None of the {len(files)} images can be read.")
    return fields, unreadable


def _load(file: MarkedFile, data: bytes, longest: int) -> MarkedField:
    rgb = decode(data).rgb
    boxes, exact = file.boxes, True
    if boxes is None:
        nucleus = find_nucleus(rgb, "density-otsu")
        boxes, exact = (() if nucleus is None else (cell_around(rgb, nucleus),)), False
    rgb, factor = shrink_to(rgb, longest)
    scaled = np.array([box.scaled(factor) for box in boxes], np.float32).reshape(-1, 4)
    return MarkedField(file, white_balanced(rgb, rgb, WHITE), scaled, exact)
