"""Random views of marked fields, and what is asked of a finder there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from core.finding.marked import MarkedField, MarkedFile
from core.finding.passes import Pass
from core.finding.views import Views, draw_views, targets_of
from core.images.cells import Box

SIDE = 128


def field(boxes: list[list[float]], *, exact: bool = True) -> MarkedField:
    """A grey field whose cells are black."""
    pixels = np.full((240, 320, 3), 225, np.uint8)
    for left, top, right, bottom in boxes:
        pixels[int(top) : int(bottom), int(left) : int(right)] = 0
    marked = np.array(boxes, np.float32).reshape(-1, 4)
    return MarkedField(MarkedFile(Path("a.png"), "lab", "slide", ()), pixels, marked, exact)


def drawn(*fields: MarkedField, count: int = 24) -> Views:
    rng = np.random.default_rng(5)
    return draw_views(lambda: fields[rng.integers(len(fields))], count, SIDE, rng)


def test_boxes_lie_on_their_cells() -> None:
    views = drawn(field([[40, 60, 100, 130], [200, 40, 260, 90]]))
    assert sum(map(len, views.boxes)) > 20
    for pixels, boxes in zip(views.pixels, views.boxes, strict=True):
        for left, top, right, bottom in boxes.round().astype(int):
            inside = pixels[top + 2 : bottom - 2, left + 2 : right - 2]
            assert inside.size == 0 or inside.mean() < 40


def test_what_is_black_is_asked_for_or_left_open() -> None:
    views = drawn(field([[40, 60, 100, 130], [200, 40, 260, 90]]))
    for pixels, boxes, unsure in zip(views.pixels, views.boxes, views.unsure, strict=True):
        rest = pixels.copy()
        for left, top, right, bottom in np.concatenate([boxes, unsure]).round().astype(int):
            rest[max(0, top - 2) : bottom + 2, max(0, left - 2) : right + 2] = 225
        assert (rest < 100).mean() < 0.01, "only slivers at the edge are neither"


def test_a_finder_that_says_what_is_asked_finds_the_boxes() -> None:
    views = drawn(field([[40, 60, 100, 130], [200, 40, 260, 90]]))
    targets = targets_of(views)
    for number, boxes in enumerate(views.boxes):
        peaks = targets.peaks[number].numpy().clip(1e-4, 1 - 1e-4)
        output = np.concatenate([np.log(peaks / (1 - peaks))[None], np.log(targets.reach[number].numpy())])
        look = Pass(Box(0, 0, SIDE, SIDE), SIDE, SIDE, (False,) * 4)
        found = look.cells(output.astype(np.float32), 0.9)
        assert len(found) == len(boxes)
        for box in boxes:
            assert min(np.abs(np.subtract(cell.box, box)).max() for cell in found) < 1.5


def test_guessed_boxes_teach_no_edges() -> None:
    targets = targets_of(drawn(field([[40, 60, 100, 130]], exact=False)))
    assert (targets.peaks == 1).any()
    assert not targets.weight.any()


def test_a_field_without_cells_asks_for_none() -> None:
    views = drawn(field([]))
    assert not any(map(len, views.boxes))
    assert not targets_of(views).peaks.any()


def test_what_is_hardly_seen_does_not_count() -> None:
    views = Views(
        np.zeros((1, SIDE, SIDE, 3), np.uint8),
        [np.zeros((0, 4), np.float32)],
        [np.zeros(0, bool)],
        [np.array([[0, 40, 12, 80]], np.float32)],
    )
    counts = targets_of(views).counts[0]
    assert not counts[10:20, 0:3].any()
    assert counts[10:20, 4:].all()


@pytest.mark.parametrize("seed", range(3))
def test_the_same_seed_gives_the_same_views(seed: int) -> None:
    one, other = (
        draw_views(lambda: field([[40, 60, 100, 130]]), 3, SIDE, np.random.default_rng(seed)) for _ in range(2)
    )
    assert (one.pixels == other.pixels).all()
