"""Drawn blood smears: no photograph, any number, the same for the demo and the tests.

A field is drawn at twice its size, then blurred, shrunk and given camera noise. The shapes follow what
a haematology atlas teaches: neutrophils have three to five joined lobes in pale cytoplasm, eosinophils
two lobes among coarse red granules, lymphocytes a round nucleus that nearly fills a small cell, monocytes
a large folded nucleus in grey-blue cytoplasm with vacuoles.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

__all__ = ["CLASS_NAMES", "HEIGHT", "ODDITIES", "WIDTH", "DrawnCell", "draw_field", "draw_smear", "restain"]

CLASS_NAMES = ("EOSINOPHIL", "LYMPHOCYTE", "MONOCYTE", "NEUTROPHIL")
"""The cell types that can be drawn, in the order of the shipped bundle's classes."""

ODDITIES = ("no-cell", "out-of-focus", "cut-off", "odd-stain")
"""What can be wrong with a field that a person should look at."""

WIDTH, HEIGHT = 320, 240
_ZOOM = 2

_Colour = tuple[float, float, float]

_REACH = 130
_RED_CELLS_PER_FIELD = 160

_PLASMA: _Colour = (214, 213, 206)
_RED_CELL: _Colour = (196, 160, 152)
_CHROMATIN: _Colour = (112, 76, 178)
_DENSE_CHROMATIN: _Colour = (84, 52, 152)


_OTHER_STAIN = ((0, 1, 0), (0, 0, 1), (1, 0, 0))
"""Which channel's optical density goes where in `restain`."""


class DrawnCell(NamedTuple):
    """A white cell of a drawn field.

    Attributes:
        kind: Its name in `CLASS_NAMES`.
        box: Left, top, right and bottom in pixels, as far as it is seen.
    """

    kind: str
    box: tuple[float, float, float, float]


def draw_field(kind: str, rng: np.random.Generator, *, oddity: str = "") -> NDArray[np.uint8]:
    """Draw one microscope field with one white cell.

    Args:
        kind: A name in `CLASS_NAMES`.
        rng: Decides position, size, colours and shapes.
        oddity: Empty, or a name in `ODDITIES`.

    Returns:
        (240, 320, 3) uint8 RGB.
    """
    canvas = np.empty((HEIGHT * _ZOOM, WIDTH * _ZOOM, 3), np.float32)
    canvas[:] = np.array(_PLASMA) + rng.normal(0, 3, 3)
    centre = _centre(rng, at_edge=oddity == "cut-off")
    _draw_red_cells(canvas, rng, centre)
    if oddity != "no-cell":
        _draw_white_cell(canvas, kind, rng, centre)
    return _photograph(canvas, rng, oddity)


def draw_smear(
    kinds: Sequence[str],
    rng: np.random.Generator,
    *,
    width: int = 640,
    height: int = 480,
    centres: Sequence[tuple[float, float]] | None = None,
) -> tuple[NDArray[np.uint8], list[DrawnCell]]:
    """Draw a camera field with any number of white cells.

    Args:
        kinds: Names in `CLASS_NAMES`, one for each white cell.
        rng: Decides positions, sizes, colours and shapes.
        width: Width in pixels.
        height: Height in pixels.
        centres: Where the cells are, in pixels; otherwise anywhere, apart from each other while there is room.

    Returns:
        (height, width, 3) uint8 RGB, and the cells in the order of `kinds`.
    """
    canvas = np.empty((height * _ZOOM, width * _ZOOM, 3), np.float32)
    canvas[:] = np.array(_PLASMA) + rng.normal(0, 3, 3)
    places = _scattered(len(kinds), canvas, rng) if centres is None else [(x * _ZOOM, y * _ZOOM) for x, y in centres]
    _draw_red_cells(canvas, rng, *places)
    cells: list[DrawnCell] = []
    for kind, place in zip(kinds, places, strict=True):
        left, top, right, bottom = _draw_white_cell(canvas, kind, rng, place)
        cells.append(DrawnCell(kind, (left / _ZOOM, top / _ZOOM, right / _ZOOM, bottom / _ZOOM)))
    return _photograph(canvas, rng, ""), cells


def restain(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a picture as if another stain had been used, in colours that no laboratory's stain gives.

    The optical densities of the three channels change places.

    Args:
        rgb: (H, W, 3) uint8.

    Returns:
        The same shape.
    """
    density = -np.log((rgb.astype(np.float32) + 1) / 256)
    light = 256 * np.exp(-density @ np.array(_OTHER_STAIN, np.float32)) - 1
    return np.asarray(light.clip(0, 255).round(), np.uint8)


def _scattered(count: int, canvas: NDArray[np.float32], rng: np.random.Generator) -> list[tuple[float, float]]:
    """Return places for white cells, apart from each other and from the edge while there is room."""
    height, width = canvas.shape[:2]
    places: list[tuple[float, float]] = []
    for _ in range(count):
        tries = [(float(rng.uniform(100, width - 100)), float(rng.uniform(100, height - 100))) for _ in range(200)]
        free = (place for place in tries if all(math.dist(place, other) > 1.6 * _REACH for other in places))
        places.append(next(free, tries[0]))
    return places


def _draw_white_cell(
    canvas: NDArray[np.float32], kind: str, rng: np.random.Generator, centre: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Draw a white cell; return left, top, right and bottom of what it covers of the canvas."""
    part, inside = _window(canvas, centre, _REACH)
    before = part.copy()
    _CELLS[kind](part, rng, inside)
    left, top, wide, high = cv2.boundingRect(np.asarray((np.abs(part - before) > 1).any(axis=2), np.uint8))
    across, down = round(centre[0] - inside[0]), round(centre[1] - inside[1])
    return left + across, top + down, left + across + wide, top + down + high


def _centre(rng: np.random.Generator, *, at_edge: bool) -> tuple[float, float]:
    width, height = WIDTH * _ZOOM, HEIGHT * _ZOOM
    if at_edge:
        return float(rng.uniform(0.3, 0.7) * width), height + 6.0
    return float(rng.uniform(0.33, 0.67) * width), float(rng.uniform(0.36, 0.64) * height)


def _photograph(canvas: NDArray[np.float32], rng: np.random.Generator, oddity: str) -> NDArray[np.uint8]:
    if oddity == "odd-stain":
        canvas = canvas[:, :, [2, 1, 0]] * np.array([0.75, 1.05, 0.8], np.float32)
    sigma = 14.0 if oddity == "out-of-focus" else rng.uniform(2.2, 3.0)
    soft = cv2.GaussianBlur(canvas, (0, 0), float(sigma))
    size = (soft.shape[1] // _ZOOM, soft.shape[0] // _ZOOM)
    small = cv2.resize(soft, size, interpolation=cv2.INTER_AREA)
    noisy = small * rng.uniform(0.97, 1.03) + rng.normal(0, 1.5, small.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def _draw_red_cells(canvas: NDArray[np.float32], rng: np.random.Generator, *keep_free: tuple[float, float]) -> None:
    height, width = canvas.shape[:2]
    placed: list[tuple[float, float]] = []
    for _ in range(round(_RED_CELLS_PER_FIELD * height * width / (HEIGHT * WIDTH * _ZOOM**2))):
        x, y = float(rng.uniform(0, width)), float(rng.uniform(0, height))
        if any(math.dist((x, y), place) < 118 for place in keep_free) or any(
            math.dist((x, y), other) < 62 for other in placed
        ):
            continue
        placed.append((x, y))
        radius = rng.uniform(36, 43)
        colour = np.array(_RED_CELL) + rng.normal(0, 3, 3)
        part, centre = _window(canvas, (x, y), 48)
        _paint(part, _blob(part, centre, radius, rng, roughness=0.05), colour, 0.92)
        pallor = cv2.GaussianBlur(_blob(part, centre, radius * 0.45, rng, roughness=0.05), (0, 0), 6)
        _paint(part, np.asarray(pallor, np.float32), colour + 34, 0.85)


def _window(
    canvas: NDArray[np.float32], centre: tuple[float, float], reach: int
) -> tuple[NDArray[np.float32], tuple[float, float]]:
    """Return the part of the canvas around a point, as a view, and the point within it."""
    left, top = max(0, int(centre[0]) - reach), max(0, int(centre[1]) - reach)
    part = canvas[top : int(centre[1]) + reach, left : int(centre[0]) + reach]
    return part, (centre[0] - left, centre[1] - top)


def _blob(
    canvas: NDArray[np.float32],
    centre: tuple[float, float],
    radius: float,
    rng: np.random.Generator,
    *,
    roughness: float = 0.08,
    stretch: float = 1.0,
    angle: float = 0.0,
) -> NDArray[np.floating]:
    """Return the mask (H, W) in [0, 1] of a closed, slightly irregular outline."""
    turns = np.linspace(0, 2 * math.pi, 72, endpoint=False)
    radii = np.full_like(turns, radius)
    for harmonic in (2, 3, 4, 5):
        wave = np.cos(harmonic * turns + rng.uniform(0, 2 * math.pi))
        radii += radius * roughness / harmonic * rng.normal() * wave
    x, y = radii * np.cos(turns) * stretch, radii * np.sin(turns) / stretch
    points = np.stack(
        (
            centre[0] + x * math.cos(angle) - y * math.sin(angle),
            centre[1] + x * math.sin(angle) + y * math.cos(angle),
        ),
        axis=1,
    )
    mask = np.zeros(canvas.shape[:2], np.uint8)
    cv2.fillPoly(mask, [np.rint(points * 16).astype(np.int32)], 255, cv2.LINE_AA, shift=4)
    return mask.astype(np.float32) / np.float32(255)


def _paint(canvas: NDArray[np.float32], mask: NDArray[np.floating], colour: object, opacity: float = 1.0) -> None:
    weight = (mask * np.float32(opacity))[:, :, None]
    canvas *= 1 - weight
    canvas += weight * np.asarray(colour, np.float32)


def _chromatin(
    canvas: NDArray[np.float32], mask: NDArray[np.floating], colour: _Colour, rng: np.random.Generator, contrast: float
) -> None:
    """Paint a nucleus with clumped texture."""
    grain = rng.normal(0, 1, (max(1, canvas.shape[0] // 8), max(1, canvas.shape[1] // 8))).astype(np.float32)
    texture = cv2.resize(grain, (canvas.shape[1], canvas.shape[0]), interpolation=cv2.INTER_CUBIC)
    shade = np.array(colour, np.float32) + rng.normal(0, 4, 3).astype(np.float32)
    textured = shade + texture[:, :, None] * contrast * np.array([1.0, 0.9, 0.7], np.float32)
    weight = mask[:, :, None]
    canvas *= 1 - weight
    canvas += weight * textured


def _lobes(
    canvas: NDArray[np.float32],
    rng: np.random.Generator,
    centre: tuple[float, float],
    count: int,
    radius: float,
    ring: float,
    arc: float,
) -> NDArray[np.floating]:
    """Return the mask of `count` lobes along an arc, joined by strands."""
    start = rng.uniform(0, 2 * math.pi)
    angles = start + np.linspace(-arc / 2, arc / 2, count) + rng.normal(0, 0.08, count)
    spots = [(centre[0] + ring * math.cos(a), centre[1] + ring * math.sin(a)) for a in angles]
    mask = np.zeros(canvas.shape[:2], np.float32)
    for (x, y), angle in zip(spots, angles, strict=True):
        size = radius * rng.uniform(0.88, 1.12)
        lobe = _blob(canvas, (x, y), size, rng, stretch=1.12, angle=angle + math.pi / 2)
        mask = np.maximum(mask, lobe)
    strand = np.zeros(canvas.shape[:2], np.uint8)
    points = np.rint(np.array(spots)).astype(np.int32)
    cv2.polylines(strand, [points], isClosed=False, color=255, thickness=int(radius * 0.7), lineType=cv2.LINE_AA)
    return np.maximum(mask, strand.astype(np.float32) / 255)


def _granules(
    canvas: NDArray[np.float32],
    rng: np.random.Generator,
    where: NDArray[np.floating],
    count: int,
    radius: float,
    colour: _Colour,
    opacity: float,
) -> None:
    ys, xs = np.nonzero(where > 0.5)
    for pick in rng.integers(0, len(xs), count) if len(xs) else ():
        tint = np.array(colour) + rng.normal(0, 10, 3)
        size = radius * rng.uniform(0.7, 1.3)
        left, top = int(xs[pick] - 3 * radius), int(ys[pick] - 3 * radius)
        left, top = max(left, 0), max(top, 0)
        part = canvas[top : top + int(6 * radius) + 1, left : left + int(6 * radius) + 1]
        mask = np.zeros(part.shape[:2], np.uint8)
        cv2.circle(mask, (int(xs[pick]) - left, int(ys[pick]) - top), max(1, round(size)), 255, -1, cv2.LINE_AA)
        _paint(part, mask.astype(np.float32) / np.float32(255), tint, opacity)


def _draw_neutrophil(canvas: NDArray[np.float32], rng: np.random.Generator, centre: tuple[float, float]) -> None:
    radius = rng.uniform(64, 76)
    body = _blob(canvas, centre, radius, rng, roughness=0.05)
    _paint(canvas, body, np.array((207, 178, 200)) + rng.normal(0, 4, 3), 0.95)
    _granules(canvas, rng, body, 320, 2.2, (196, 156, 190), 0.5)
    nucleus = _lobes(canvas, rng, centre, int(rng.integers(3, 5)), radius * 0.30, radius * 0.50, rng.uniform(3.8, 5.0))
    _chromatin(canvas, nucleus, _CHROMATIN, rng, 9)


def _draw_eosinophil(canvas: NDArray[np.float32], rng: np.random.Generator, centre: tuple[float, float]) -> None:
    radius = rng.uniform(68, 80)
    body = _blob(canvas, centre, radius, rng, roughness=0.05)
    _paint(canvas, body, np.array((206, 150, 168)) + rng.normal(0, 4, 3), 0.95)
    nucleus = _lobes(canvas, rng, centre, 2, radius * 0.40, radius * 0.42, rng.uniform(1.9, 2.6))
    _chromatin(canvas, nucleus, _CHROMATIN, rng, 8)
    _granules(canvas, rng, body * (1 - nucleus), 420, 4.2, (196, 108, 128), 0.75)
    _granules(canvas, rng, nucleus, 40, 4.0, (180, 100, 150), 0.5)


def _draw_lymphocyte(canvas: NDArray[np.float32], rng: np.random.Generator, centre: tuple[float, float]) -> None:
    radius = rng.uniform(46, 56)
    body = _blob(canvas, centre, radius * 1.14, rng, roughness=0.06)
    _paint(canvas, body, np.array((158, 164, 214)) + rng.normal(0, 4, 3), 0.9)
    shift = (centre[0] + rng.normal(0, 3), centre[1] + rng.normal(0, 3))
    nucleus = _blob(canvas, shift, radius, rng, roughness=0.06, stretch=rng.uniform(1.0, 1.1), angle=rng.uniform(0, 3))
    _chromatin(canvas, nucleus, _DENSE_CHROMATIN, rng, 10)


def _draw_monocyte(canvas: NDArray[np.float32], rng: np.random.Generator, centre: tuple[float, float]) -> None:
    radius = rng.uniform(86, 98)
    body = _blob(canvas, centre, radius, rng, roughness=0.16)
    _paint(canvas, body, np.array((172, 172, 200)) + rng.normal(0, 4, 3), 0.95)
    _granules(canvas, rng, body, 300, 1.5, (160, 150, 196), 0.5)
    turn = rng.uniform(0, 2 * math.pi)
    nucleus = _blob(canvas, centre, radius * 0.70, rng, roughness=0.12, stretch=1.15, angle=turn)
    notch = (centre[0] - radius * 0.72 * math.sin(turn), centre[1] + radius * 0.72 * math.cos(turn))
    nucleus = nucleus * (1 - _blob(canvas, notch, radius * 0.34, rng))
    _chromatin(canvas, nucleus, _CHROMATIN, rng, 12)
    _granules(canvas, rng, body * (1 - nucleus), 9, 5.0, (206, 206, 216), 0.8)


_CELLS: dict[str, Callable[[NDArray[np.float32], np.random.Generator, tuple[float, float]], None]] = {
    "EOSINOPHIL": _draw_eosinophil,
    "LYMPHOCYTE": _draw_lymphocyte,
    "MONOCYTE": _draw_monocyte,
    "NEUTROPHIL": _draw_neutrophil,
}
