from __future__ import annotations

import csv
from itertools import islice
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from core.images.cells import Box, CellFinder, find_nucleus
from core.images.decoder import decode
from core.images.drawings import CLASS_NAMES, draw_field
from core.images.preprocessing import Preprocessing, crop_with_margin

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("kind", CLASS_NAMES)
def test_the_drawn_cell_is_found_at_any_magnification(kind: str) -> None:
    rgb = draw_field(kind, np.random.default_rng(5))
    reference = find_nucleus(rgb)
    assert reference is not None
    for factor in (0.4, 2.0, 5.0):
        scaled = cv2.resize(rgb, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        found = find_nucleus(np.asarray(scaled, np.uint8))
        assert found is not None
        np.testing.assert_allclose(np.array(found) / factor, reference, atol=8)


def test_the_square_stays_inside_the_image_and_holds_the_nucleus(fields: list[np.ndarray]) -> None:
    for rgb in fields:
        nucleus, box = find_nucleus(rgb), CellFinder().box(rgb)
        assert nucleus is not None
        assert box is not None
        assert box.right - box.left == pytest.approx(box.bottom - box.top)
        assert box.left >= 0
        assert box.top >= 0
        assert box.right <= rgb.shape[1] + 1e-6
        assert box.bottom <= rgb.shape[0] + 1e-6
        assert box.left <= nucleus.left + 1
        assert box.right >= nucleus.right - 1


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_blank_image_has_no_cell(value: int) -> None:
    assert find_nucleus(np.full((240, 320, 3), value, np.uint8)) is None


def test_a_field_without_a_white_cell_has_no_nucleus() -> None:
    assert find_nucleus(draw_field("NEUTROPHIL", np.random.default_rng(0), oddity="no-cell")) is None


def test_on_real_views_the_size_agrees_with_the_original_field(blood_cells: Path) -> None:
    with (blood_cells / "sources.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["path"].startswith("TRAIN") and row["source"]]
    agreed = 0
    chosen = list(islice(rows, 0, None, 100))
    for row in chosen:
        view = find_nucleus(decode((blood_cells / "images" / row["path"]).read_bytes()).rgb)
        field = find_nucleus(decode((blood_cells / "originals" / f"{row['source']}.jpg").read_bytes()).rgb)
        if view is None or field is None:
            continue
        sizes = [max(box.right - box.left, box.bottom - box.top) for box in (view, field)]
        agreed += abs(np.log(2 * sizes[0] / sizes[1])) < 0.45
    assert agreed / len(chosen) > 0.97


TINTS = {
    "as drawn": np.eye(3),
    "bluish red cells": np.array([[1, 0.25, 0], [0, 1, 0], [0, 0, 0.25]]),
    "pink": np.array([[1, 0.3, 0.1], [0, 0.8, 0], [0, 0.2, 0.2]]),
    "pale": np.array([[0.5, 0.2, 0], [0.1, 0.5, 0], [0, 0.2, 0.5]]),
}
"""Mixings of the channels' optical densities, as other stains and cameras give them."""


@pytest.mark.parametrize("tint", TINTS)
@pytest.mark.parametrize("kind", CLASS_NAMES)
def test_densities_find_the_nucleus_in_any_tint(kind: str, tint: str) -> None:
    rng = np.random.default_rng(2)
    for _ in range(4):
        rgb = draw_field(kind, rng)
        density = np.log(235 / np.maximum(rgb, 1)) @ TINTS[tint].T
        tinted = np.asarray(np.clip(235 * np.exp(-density), 0, 255), np.uint8)
        reference, found = find_nucleus(rgb), find_nucleus(tinted, "density-otsu")
        assert reference is not None
        assert found is not None
        assert overlap(reference, found) > 0.6


@pytest.mark.parametrize("value", [0, 128, 255])
def test_densities_find_nothing_where_nothing_is(value: int) -> None:
    assert find_nucleus(np.full((240, 320, 3), value, np.uint8), "density-otsu") is None
    empty = draw_field("NEUTROPHIL", np.random.default_rng(0), oddity="no-cell")
    assert find_nucleus(empty, "density-otsu") is None


def overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    width = max(0.0, min(one.right, other.right) - max(one.left, other.left))
    height = max(0.0, min(one.bottom, other.bottom) - max(one.top, other.top))
    areas = sum((box.right - box.left) * (box.bottom - box.top) for box in (one, other))
    return width * height / (areas - width * height)


def test_a_marked_cell_is_cut_out_by_its_own_size() -> None:
    field = np.zeros((600, 900, 3), np.uint8)  # nothing is looked for
    box = CellFinder(scale=2.6).box_around(field, Box(400, 300, 480, 360))
    assert box == Box(360, 250, 520, 410)
    near_the_edge = CellFinder(scale=2.6).box_around(field, Box(0, 0, 80, 80))
    assert near_the_edge == Box(0, 0, 160, 160)
    assert CellFinder(scale=2.6).box_around(field, Box(0, 0, 900, 600)) == Box(150, 0, 750, 600)


def test_a_cell_at_the_edge_stays_in_the_middle_where_the_square_may_go_beyond(fields: list[np.ndarray]) -> None:
    rgb = np.ascontiguousarray(fields[0])
    inside, nucleus = CellFinder(scale=2.0).box(rgb), find_nucleus(rgb)
    assert inside is not None
    assert nucleus is not None
    cut = np.ascontiguousarray(rgb[int(nucleus.top) :, int(nucleus.left) :])  # the nucleus in the corner
    finder = CellFinder(scale=2.0, beyond=True)
    box = finder.box(cut)
    assert box is not None
    found = find_nucleus(cut)
    assert found is not None
    assert (box.left + box.right) / 2 == pytest.approx((found.left + found.right) / 2, abs=1)
    assert (box.top + box.bottom) / 2 == pytest.approx((found.top + found.bottom) / 2, abs=1)
    assert min(box.left, box.top) < 0
    side = int(box.right - box.left)
    prepared = Preprocessing(height=side, width=side, cell=finder).prepare(cut)
    pad = int(max(-box.left, -box.top))
    mirrored = np.pad(cut, ((pad, pad), (pad, pad), (0, 0)), "reflect")
    left, top = int(box.left) + pad, int(box.top) + pad
    np.testing.assert_array_equal(prepared.pixels, mirrored[top : top + side, left : left + side])
    wide = crop_with_margin(cut, Preprocessing(height=side, width=side, cell=finder), 1.25, prepared)
    assert wide.shape == (round(side * 1.25), round(side * 1.25), 3)
    margin = (wide.shape[0] - side) // 2
    middle = wide[margin : margin + side, margin : margin + side].astype(int)
    assert np.abs(middle - prepared.pixels).mean() < 6
    assert CellFinder(scale=2.0).box(rgb) == inside, "without it the square stays inside"
