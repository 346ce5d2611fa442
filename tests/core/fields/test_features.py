"""Registration and grouping: views of one field are found, other fields are not taken for it."""

from __future__ import annotations

import csv
from itertools import combinations
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from core.fields.features import Features, find_features, mirrored, register
from core.fields.grouping import ViewGroups
from core.images.decoder import decode
from core.images.drawings import CLASS_NAMES, draw_field

if TYPE_CHECKING:
    from pathlib import Path

RNG = np.random.default_rng(5)


def view(rgb: np.ndarray, angle: float, shear: float, shift: tuple[float, float], *, flip: bool) -> np.ndarray:
    """Rotate, shear, shift and mirror, with black fill, as data sets are augmented."""
    height, width = rgb.shape[:2]
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    linear = np.array([[cos, -sin], [sin, cos]]) @ np.array([[1, shear], [0, 1]])
    centre = np.array([width / 2, height / 2])
    matrix = np.column_stack((linear, centre - linear @ centre + np.array(shift)))
    moved = cv2.warpAffine(rgb, matrix.astype(np.float32), (width, height))
    return np.ascontiguousarray(moved[:, ::-1] if flip else moved).astype(np.uint8)


def views_of(rgb: np.ndarray, count: int) -> list[np.ndarray]:
    return [
        view(
            rgb,
            RNG.uniform(-20, 20),
            RNG.uniform(-0.2, 0.2),
            (RNG.uniform(-30, 30), RNG.uniform(-22, 22)),
            flip=bool(number % 2),
        )
        for number in range(count)
    ]


@pytest.fixture(scope="module")
def drawn() -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [draw_field(kind, rng) for kind in CLASS_NAMES for _ in range(3)]


def test_mirroring_features_is_mirroring_the_image(drawn: list[np.ndarray]) -> None:
    rgb = drawn[0]
    computed = mirrored(find_features(rgb))
    found = find_features(np.ascontiguousarray(rgb[:, ::-1]))
    width = 320 - 1
    distance = np.linalg.norm(computed.points[:, None] + np.array([width, 0], np.float32) - found.points[None], axis=2)
    same = distance.min(axis=1) < 1
    likeness = (computed.descriptors * found.descriptors[distance.argmin(axis=1)]).sum(axis=1)
    assert same.mean() > 0.7
    assert np.median(likeness[same]) > 0.98


def test_a_view_is_found_and_its_mirroring_told(drawn: list[np.ndarray]) -> None:
    for rgb in drawn[:4]:
        plain, flipped = views_of(rgb, 2)
        whole = find_features(rgb)
        one, other = register(find_features(plain), whole), register(find_features(flipped), whole)
        assert one.same_field
        assert not one.mirrored
        assert other.same_field
        assert other.mirrored


def test_other_fields_are_not_views(drawn: list[np.ndarray]) -> None:
    features = [find_features(rgb) for rgb in drawn]
    assert not any(register(one, other).same_field for one, other in combinations(features, 2))


def test_an_image_without_features_agrees_with_nothing() -> None:
    blank = find_features(np.full((40, 50, 3), 128, np.uint8))
    black = find_features(np.zeros((40, 50, 3), np.uint8))
    assert len(blank) == len(black) == 0
    assert register(blank, black).inliers == 0
    groups = ViewGroups()
    groups.add(0, blank)
    groups.add(1, black)
    assert groups.groups() == [[0], [1]]


def test_views_are_grouped_by_field_whatever_their_order(drawn: list[np.ndarray]) -> None:
    images = [(field, picture) for field, rgb in enumerate(drawn) for picture in (rgb, *views_of(rgb, 4))]
    order = np.random.default_rng(0).permutation(len(images))
    groups = ViewGroups()
    for number, place in enumerate(order):
        groups.add(number, find_features(images[place][1]))
    found = sorted(sorted(images[order[number]][0] for number in group) for group in groups.groups())
    assert found == [[field] * 5 for field in range(len(drawn))]
    assert all(link.registration.same_field for link in groups.links)


@pytest.mark.slow
def test_real_views_are_decided_right(blood_cells: Path) -> None:
    """Six hundred real images against the recovered sources; re-photographed cells count as one source."""
    with (blood_cells / "sources.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["source"] and row["path"].startswith("TEST/")]
    rows = [rows[place] for place in np.random.default_rng(1).permutation(len(rows))[:600]]
    groups = ViewGroups()
    for number, row in enumerate(rows):
        groups.add(number, find_features(decode((blood_cells / "images" / row["path"]).read_bytes()).rgb))
    group_of = {image: number for number, group in enumerate(groups.groups()) for image in group}
    pairs = list(combinations(range(len(rows)), 2))
    same = [rows[one]["source"] == rows[other]["source"] for one, other in pairs]
    found = [group_of[one] == group_of[other] for one, other in pairs]
    right = sum(a == b for a, b in zip(same, found, strict=True)) / len(pairs)
    assert all(b for a, b in zip(same, found, strict=True) if a)
    assert right > 0.99


def test_tiny_crops_are_not_merged() -> None:
    rng = np.random.default_rng(9)
    groups = ViewGroups()
    for number in range(24):
        crop = draw_field(CLASS_NAMES[number % 4], rng)[56:184, 96:224]
        small = np.asarray(cv2.resize(crop, (28, 28), interpolation=cv2.INTER_AREA), np.uint8)
        groups.add(number, find_features(small))
    assert max(len(group) for group in groups.groups()) <= 2


def test_features_are_bounded_and_of_unit_length(drawn: list[np.ndarray]) -> None:
    features: Features = find_features(drawn[0], limit=50)
    assert 10 < len(features) <= 50
    np.testing.assert_allclose(np.linalg.norm(features.descriptors, axis=1), 1, atol=1e-3)
