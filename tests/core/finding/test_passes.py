"""How a picture is searched, and how what was found is put together."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from core.finding.passes import (
    GRANULARITY,
    WHITE,
    FoundCell,
    Pass,
    merged,
    mostly_unseen,
    passes,
    reading_order,
    without_platelets,
)
from core.images.cells import Box
from core.images.drawings import draw_smear
from core.images.light import not_margin, white_balanced


def empty_output(look: Pass) -> np.ndarray:
    height, width = (-(-side // GRANULARITY) * GRANULARITY // 4 for side in (look.height, look.width))
    output = np.zeros((5, height, width), np.float32)
    output[0] = -10
    return output


def test_a_camera_field_is_looked_at_once() -> None:
    (look,) = passes(640, 480, 256)
    assert (look.width, look.height, look.inner) == (256, 192, (False, False, False, False))


def test_a_large_picture_is_looked_at_in_overlapping_tiles_too() -> None:
    looks = list(passes(5000, 4000, 256))
    assert looks[0].region == Box(0, 0, 5000, 4000)
    tiles = looks[1:]
    assert all(max(tile.width, tile.height) == 256 for tile in looks)
    assert {tile.region.right - tile.region.left for tile in tiles} == {1024}
    seen = np.zeros((4000, 5000), np.uint8)
    for tile in tiles:
        left, top, right, bottom = map(int, tile.region)
        seen[top:bottom, left:right] += 1
    assert seen.min() >= 1
    across = sorted({tile.region.left for tile in tiles})
    assert max(np.diff(across)) <= 1024 - 320, "a cell of 320 pixels is whole in one of them"


def test_a_huge_picture_is_looked_at_in_steps() -> None:
    sides = {look.region.right - look.region.left for look in passes(12_000, 12_000, 256)}
    assert sides == {12_000, 1024, 4096}


@pytest.mark.parametrize("size", [(640, 480), (1440, 900), (416, 416), (3000, 1000), (1000, 3)])
def test_a_picture_is_made_smaller_as_by_the_mean_of_its_pixels(size: tuple[int, int]) -> None:
    rgb, _ = draw_smear(["NEUTROPHIL"], np.random.default_rng(0), width=size[0], height=max(400, size[1]))
    rgb = rgb[: size[1]]
    (look, *_) = passes(*size, 256)
    exact = np.asarray(cv2.resize(rgb, (look.width, look.height), interpolation=cv2.INTER_AREA))
    exact[~not_margin(exact)] = WHITE
    exact = white_balanced(exact, exact, WHITE)
    difference = np.abs(look.pixels(rgb)[: look.height, : look.width].astype(int) - exact)
    assert difference.mean() < 1.5


def test_what_lies_past_a_picture_is_white() -> None:
    (look,) = passes(360, 363, 256)
    pixels = look.pixels(np.full((363, 360, 3), 200, np.uint8))
    assert pixels.shape == (256, 256, 3)
    assert (pixels[:, 254:] == WHITE).all()


def test_a_black_margin_is_no_part_of_a_picture() -> None:
    rgb = np.full((192, 256, 3), 200, np.uint8)
    rgb[:40] = 5
    (look,) = passes(256, 192, 256)
    assert (look.pixels(rgb)[:40] == WHITE).all()


def test_a_peak_becomes_a_box_in_pixels_of_the_picture() -> None:
    look = Pass(Box(100, 200, 612, 584), 256, 192, (True, True, True, True))
    output = empty_output(look)
    output[0, 20, 30] = 5
    output[0, 20, 31] = 4
    output[1:, 20, 30] = np.log([3, 4, 5, 6])
    (cell,) = look.cells(output, 0.3)
    x, y = 30.5 * 4, 20.5 * 4
    expected = [100 + 2 * (x - 12), 200 + 2 * (y - 16), 100 + 2 * (x + 20), 200 + 2 * (y + 24)]
    np.testing.assert_allclose(cell.box, expected, atol=1e-3)
    assert cell.score == pytest.approx(1 / (1 + np.exp(-5)))


def test_a_cell_that_a_tile_cuts_is_left_to_the_next_one() -> None:
    output_of = {}
    for inner in (True, False):
        look = Pass(Box(0, 0, 256, 256), 256, 256, (False, False, inner, False))
        output = empty_output(look)
        output[0, 20, 60] = 5
        output[1:, 20, 60] = np.log(5)
        output_of[inner] = look.cells(output, 0.3)
    assert output_of[True] == []
    assert output_of[False][0].box.right == 256, "at the picture's own edge a box ends there"


def test_one_cell_that_was_found_twice_is_one() -> None:
    cells = [
        FoundCell(Box(0, 0, 100, 100), 0.9),
        FoundCell(Box(5, 5, 108, 100), 0.8),
        FoundCell(Box(30, 30, 60, 60), 0.7),
        FoundCell(Box(80, 0, 180, 100), 0.6),
    ]
    assert [cell.score for cell in merged(cells)] == [0.9, 0.6], "twice, a lobe of it, and a neighbour that touches it"


def test_what_is_far_smaller_than_a_cell_is_a_platelet_but_for_what_the_edge_cuts_off() -> None:
    cell, small, platelet, cut = (
        FoundCell(Box(100, 100, 190, 190), 0.8),
        FoundCell(Box(300, 100, 340, 140), 0.6),
        FoundCell(Box(200, 200, 225, 225), 0.7),
        FoundCell(Box(0, 50, 20, 80), 0.5),
    )
    assert without_platelets([cell, small, platelet, cut], 640, 480) == [cell, small, cut]
    assert without_platelets([platelet], 640, 480) == [platelet]
    assert without_platelets([], 640, 480) == []


def test_thousands_of_findings_take_no_time_and_end_as_two_thousand() -> None:
    places = [(x, y) for x in range(0, 3200, 40) for y in range(0, 3200, 40)]
    found = [FoundCell(Box(x, y, x + 30, y + 30), 0.5) for x, y in places]
    assert len(merged(found)) == 2_000


def test_cells_are_numbered_as_one_reads() -> None:
    boxes = [(300, 20, 350, 70), (10, 200, 60, 250), (10, 30, 60, 80), (200, 190, 250, 240)]
    ordered = reading_order([FoundCell(Box(*map(float, box)), 0.5) for box in boxes])
    assert [cell.box.left for cell in ordered] == [10, 300, 10, 200]
    assert [cell.box.top for cell in ordered] == [30, 20, 200, 190]


@pytest.mark.parametrize(
    ("box", "hidden"),
    [
        ((100, 100, 160, 160), False),
        ((0, 100, 40, 160), False),
        ((0, 100, 25, 160), True),
        ((100, 455, 160, 480), True),
        ((0, 0, 50, 50), True),
        ((0, 0, 640, 480), False),
    ],
)
def test_a_cell_that_the_edge_hides(box: tuple[float, ...], hidden: bool) -> None:
    assert mostly_unseen(Box(*box), 640, 480) is hidden
