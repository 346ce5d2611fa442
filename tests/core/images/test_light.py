"""The background of a picture, brought to one level."""

from __future__ import annotations

import numpy as np
import pytest

from core.images.drawings import draw_field
from core.images.light import white_balanced


@pytest.mark.parametrize("size", [(16, 16), (37, 150), (240, 320), (480, 640)])
@pytest.mark.parametrize("drawn", [True, False])
def test_the_brightest_tenth_begins_with_the_level_that_is_asked_for(size: tuple[int, int], drawn: bool) -> None:
    rng = np.random.default_rng(sum(size))
    rgb = draw_field("MONOCYTE", rng)[: size[0], : size[1]] if drawn else rng.integers(60, 256, (*size, 3), np.uint8)
    step = max(1, round(max(rgb.shape[:2]) / 80))
    background = np.percentile(rgb[::step, ::step].reshape(-1, 3), 90, axis=0)
    expected = np.clip(np.rint(rgb * (225 / np.maximum(background, 60))), 0, 255)
    np.testing.assert_allclose(white_balanced(rgb, rgb, 225.0), expected, atol=1)
    assert (white_balanced(rgb, rgb, 225.0) != expected).mean() < 0.01
