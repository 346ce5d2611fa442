"""Colours of labels in other tools."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.reviewing.cells import UNIDENTIFIED

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Colour", "label_colours"]

Colour = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""

_COLOURS: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (213, 94, 0),
    (204, 121, 167),
    (0, 114, 178),
    (240, 228, 66),
)
"""Colours that colour-blind people tell apart too (Okabe and Ito 2008); further labels begin again, darker."""

_GREY: Colour = (128, 128, 128)


def label_colours(labels: Sequence[str]) -> dict[str, Colour]:
    """Return a colour for each label; grey for unidentified cells."""
    colours: dict[str, Colour] = {}
    for place, label in enumerate(labels):
        again, base = divmod(place, len(_COLOURS))
        red, green, blue = (round(level * 0.7**again) for level in _COLOURS[base])
        colours[label] = _GREY if label == UNIDENTIFIED else (red, green, blue)
    return colours
