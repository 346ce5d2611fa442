"""What is retained of a picture to draw on."""

from __future__ import annotations

import numpy as np

from core.images.cells import Box
from core.images.view import View
from core.model.prediction import Prediction


def test_a_view_of_a_large_picture_is_small() -> None:
    view = View.of(np.zeros((3000, 4000, 3), np.uint8))
    assert view.rgb.shape == (768, 1024, 3)
    np.testing.assert_allclose(view.region, (0, 0, 4000, 3000), atol=1)
    np.testing.assert_allclose(view.place(Box(400, 300, 800, 600)), (102.4, 76.8, 204.8, 153.6), atol=0.1)


def test_the_surroundings_of_a_cell_end_with_the_picture() -> None:
    rgb = np.arange(100 * 120 * 3, dtype=np.uint32).reshape(100, 120, 3).astype(np.uint8)
    view = View.around(rgb, Box(-10, 10, 30, 50))
    assert view.region == Box(0, 0, 40, 60)
    assert (view.rgb == rgb[0:60, 0:40]).all()
    assert not np.shares_memory(view.rgb, rgb), "the picture's memory can be given back"
    assert view.place(Box(5, 12, 25, 32)) == Box(5, 12, 25, 32)


def test_boxes_are_drawn_where_the_cells_are() -> None:
    view = View.of(np.full((200, 200, 3), 255, np.uint8))
    sure = Prediction("A", 0.9, np.ones(1, np.float32), 0.0, "", Box(0, 0, 1, 1), None, cell=Box(50, 60, 90, 100))
    none = Prediction("A", 0.9, np.ones(1, np.float32), 0.0, "", Box(0, 0, 1, 1), None)
    drawn = view.with_boxes([(1, sure), (2, none)])
    changed = (drawn != 255).any(axis=2)
    assert changed[80, 50]
    assert changed[99, 70]
    assert not changed[65:95, 58:85].any()
    assert not changed[120:].any()
    assert (view.rgb == 255).all()
