"""Numbering sources: images of one source share a number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from core.data.class_folders import Sample

__all__ = ["number_sources"]


def number_sources(samples: Iterable[Sample]) -> NDArray[np.int64]:
    """Give each image the number of its source, in the order in which the sources appear.

    Args:
        samples: Images of a data set; one without a named source is a source of its own.

    Returns:
        Numbers from 0, (N,).

    Example:
        >>> number_sources([Sample(a, 0, "field-7"), Sample(b, 0, "field-8"), Sample(c, 0, "field-7")])
        array([0, 1, 0])
    """
    numbers: dict[str, int] = {}
    names = (sample.source or f"\0{position}" for position, sample in enumerate(samples))
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)
