"""Whether two images are views of one microscope field: local features that agree on one affine map.

Augmented data sets hold many rotated, sheared, shifted and mirrored copies of few fields. Features are
SIFT (Lowe 2004, doi:10.1023/B:VISI.0000029664.99615.94) compared as RootSIFT (Arandjelovic and Zisserman
2012, doi:10.1109/CVPR.2012.6248018); the map is fitted by RANSAC. A mirrored image needs no second look:
mirroring permutes the bins of a SIFT descriptor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ENOUGH_INLIERS", "Features", "Registration", "find_features", "mirrored", "register"]

ENOUGH_INLIERS = 10
"""Features that must agree on one plausible map before two images count as views of one field."""

_WORKING_SIDE = 320
_LARGEST_FACTOR = 4.0
"""Enlarging a tiny crop further only makes up features that all such crops share."""

_MARGIN = 6.0
_RATIO = 0.85
_TOLERANCE = 4.0
_BINS = np.arange(128).reshape(4, 4, 8)
_MIRROR = _BINS[::-1, :, (-np.arange(8)) % 8].reshape(-1)
"""A descriptor's bins after mirroring: rows across the keypoint's direction and angles change sign."""


@dataclass(frozen=True, slots=True)
class Features:
    """Local features of one image, the strongest first.

    Attributes:
        points: Places in pixels of a copy whose longer side has at most 320 pixels, (N, 2) float32.
        descriptors: RootSIFT of unit length, (N, 128) float32.
    """

    points: NDArray[np.float32]
    descriptors: NDArray[np.float32]

    def __len__(self) -> int:
        """Return the number of features."""
        return len(self.points)


@dataclass(frozen=True, slots=True)
class Registration:
    """How one image lies on another.

    Attributes:
        inliers: Features that agree on the map.
        mirrored: Whether the map mirrors.
    """

    inliers: int
    mirrored: bool

    @property
    def same_field(self) -> bool:
        """Whether the two images are views of one field."""
        return self.inliers >= ENOUGH_INLIERS


def find_features(rgb: NDArray[np.uint8], limit: int = 250) -> Features:
    """Find an image's features; black fill and what borders on it is left out.

    Args:
        rgb: Image, (H, W, 3) uint8.
        limit: Most features to keep.
    """
    factor = min(_WORKING_SIDE / max(rgb.shape[:2]), _LARGEST_FACTOR)
    size = (max(1, round(rgb.shape[1] * factor)), max(1, round(rgb.shape[0] * factor)))
    grey = cv2.cvtColor(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    mask = cv2.erode(np.asarray(grey > 12, np.uint8), np.ones((9, 9), np.uint8), borderValue=1)
    detector = cv2.SIFT.create(nfeatures=limit, contrastThreshold=0.015, edgeThreshold=12)
    keypoints, raw = detector.detectAndCompute(grey, mask * 255)
    if not len(keypoints):
        return Features(np.zeros((0, 2), np.float32), np.zeros((0, 128), np.float32))
    order = np.argsort([-keypoint.response for keypoint in keypoints], kind="stable")[:limit]
    points = np.array([keypoints[i].pt for i in order], np.float32)
    chosen = np.asarray(raw, np.float32)[order]
    return Features(points, np.sqrt(chosen / np.maximum(chosen.sum(axis=1, keepdims=True), 1e-6)))


def mirrored(features: Features) -> Features:
    """Return what `find_features` would find in the mirrored image; points are mirrored at x = 0."""
    return Features(features.points * np.array([-1, 1], np.float32), features.descriptors[:, _MIRROR])


def register(one: Features, other: Features) -> Registration:
    """Fit the affine map from one image to another, mirrored or not, whichever more features agree on."""
    straight, flipped = _agree(one, other), _agree(mirrored(one), other)
    return Registration(max(straight, flipped), flipped > straight)


def _agree(one: Features, other: Features) -> int:
    """Return how many matched features agree on a plausible affine map."""
    if len(one) < 4 or len(other) < 4:
        return 0
    likeness = one.descriptors @ other.descriptors.T
    rows = np.arange(len(one))
    best = likeness.argmax(axis=1)
    first = likeness[rows, best]
    likeness[rows, best] = -1
    second = likeness.max(axis=1)
    # Unit vectors: the squared distance is 2 - 2 * likeness.
    matched = (1 - first) < _RATIO**2 * (1 - second)
    if matched.sum() < 4:
        return 0
    start, end = one.points[matched], other.points[best[matched]]
    matrix, inside = cv2.estimateAffine2D(
        start, end, method=cv2.RANSAC, ransacReprojThreshold=_TOLERANCE, maxIters=1000, confidence=0.99
    )
    if not np.any(inside) or not _plausible(np.asarray(matrix, float)[:, :2]):  # no map was found, or an odd one
        return 0
    agreeing = inside.ravel().astype(bool)
    # Several features at one place say one thing.
    return min(len(_places(start[agreeing])), len(_places(end[agreeing])))


def _places(points: NDArray[np.float32]) -> NDArray[np.int64]:
    return np.unique((points / _MARGIN).astype(np.int64), axis=0)


def _plausible(linear: NDArray[np.float64]) -> bool:
    """Whether a linear map keeps orientation and stretches by no more than a factor of 1.8 either way."""
    stretches = np.linalg.svd(linear, compute_uv=False)
    return bool(np.linalg.det(linear) > 0 and stretches[1] > 1 / 1.8 and stretches[0] < 1.8)
