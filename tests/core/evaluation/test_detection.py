"""Recall, precision and average precision of found cells."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from core.evaluation.detection import (
    average_precision,
    best_threshold,
    match_field,
    measure_finding,
    recall_precision,
)
from core.finding.passes import FoundCell
from core.images.cells import Box


def box(x: float, y: float, side: float = 20) -> Box:
    return Box(x, y, x + side, y + side)


def test_each_marked_cell_is_hit_at_most_once() -> None:
    found = [FoundCell(box(0, 0), 0.9), FoundCell(box(2, 2), 0.8), FoundCell(box(100, 100), 0.7)]
    field = match_field(found, [box(1, 1), box(50, 50)])
    assert field.hits.tolist().count(0) == 1
    assert recall_precision([field]) == (0.5, pytest.approx(1 / 3))
    assert recall_precision([field], 0.85) == (0.5, 1.0)


def test_as_many_cells_as_possible_have_a_partner() -> None:
    """The first found cell lies in both marked boxes, the second in one only."""
    marked = [Box(0, 0, 40, 40), Box(20, 0, 60, 40)]
    field = match_field([FoundCell(Box(20, 10, 40, 30), 0.9), FoundCell(Box(0, 10, 20, 30), 0.8)], marked)
    assert sorted(field.hits.tolist()) == [0, 1]


def test_nothing_found_and_nothing_there() -> None:
    empty = match_field([], [])
    assert recall_precision([empty]) == (1.0, 1.0)
    assert recall_precision([match_field([], [box(0, 0)])]) == (0.0, 1.0)
    assert recall_precision([match_field([FoundCell(box(0, 0), 0.5)], [])]) == (1.0, 0.0)


def test_average_precision_is_the_area_under_the_curve() -> None:
    found = [FoundCell(box(0, 0), 0.9), FoundCell(box(200, 0), 0.8), FoundCell(box(50, 0), 0.7)]
    field = match_field(found, [box(0, 0), box(50, 0), box(100, 0)])
    assert average_precision([field]) == pytest.approx((1 + 2 / 3) / 3)
    shifted = match_field([FoundCell(box(14, 0), 0.9)], [box(0, 0)])
    assert average_precision([shifted]) == 0, "less than half of the union in common"


def test_the_best_threshold_is_the_lowest_that_leaves_wrong_ones_out() -> None:
    found = [FoundCell(box(0, 0), 0.8), FoundCell(box(200, 0), 0.3)]
    assert best_threshold([match_field(found, [box(0, 0)])]) == pytest.approx(0.35)


def test_intervals_resample_slides() -> None:
    good = match_field([FoundCell(box(0, 0), 0.9)], [box(0, 0)], "good")
    bad = match_field([], [box(0, 0)], "bad")
    finding = measure_finding([good] * 30 + [bad] * 10)
    assert (finding.fields, finding.slides, finding.marked, finding.found) == (40, 2, 40, 30)
    assert finding.recall.value == 0.75
    assert (finding.recall.low, finding.recall.high) == (0.0, 1.0)
    assert measure_finding([good]).recall.low is None, "one slide cannot be resampled"
    assert finding.differential_error is None


def test_a_differential_is_compared_slide_by_slide() -> None:
    one = match_field([], [], "one")
    right = replace(one, labelled=np.array([5, 5]), counted=np.array([6, 6]))
    wrong = replace(one, slide="other", labelled=np.array([5, 5]), counted=np.array([10, 0]))
    finding = measure_finding([right, wrong], resamples=0)
    assert finding.differential_error is not None
    assert finding.differential_error.value == pytest.approx(25)
