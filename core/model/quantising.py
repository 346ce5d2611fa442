"""An exported network in 8 bits, by NNCF: rounded only where its answers stay what they were.

On processors without VNNI the sums of 8-bit products saturate; weights therefore take 7 bits (``overflow_fix``), which
is right on every processor. Depthwise layers and sums stay as they are: 8 bits gain nothing there and cost the most. Of
the rest NNCF puts back into floating point whatever changes the answers most, until they are near enough, on images
whose stain and light were varied as in training: what is far from home shows first there.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from core.data.augment import augment
from core.errors import SettingsError
from core.images.heatmap import find_peak
from core.model.record import ComparedLaboratory

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from core.model.bundle import Bundle
    from core.model.confidence import Confidence
    from core.model.engine import Engine

__all__ = ["LabelledImages", "compare", "quantise", "unmet"]

_LARGEST_CHANGE = 0.01
"""Mean change of the largest difference of a probability that is let be."""

_UNTOUCHED = ["GroupConvolution", "Add"]
_AT_ONCE = 50
_LEAST = {True: (0.003, 0.99), False: (0.01, 0.97)}
"""Most accuracy that may be lost, and least share of equal labels: at home, and abroad."""

_LEAST_PEAKS, _LEAST_FLAGS = 0.98, 0.97


class LabelledImages(NamedTuple):
    """Prepared images of one laboratory, of known classes.

    Attributes:
        name: Name of the laboratory.
        home: Whether the bundle was trained on this laboratory.
        pixels: (N, H, W, 3) uint8.
        labels: Class indices, (N,) int64.
    """

    name: str
    home: bool
    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]


def quantise(model: Any, bundle: Bundle, pixels: NDArray[np.uint8]) -> Any:  # noqa: ANN401
    """Round a network to 8 bits.

    Args:
        model: The network, an ``openvino.Model``.
        bundle: The bundle that it is of.
        pixels: Training images as they are prepared, (N, H, W, 3) uint8: half of them say how large the values of each
            layer become, the other half what rounding changes.

    Returns:
        Another ``openvino.Model``.

    Raises:
        SettingsError: With code ``no-nncf`` where the package is missing.
    """
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # NNCF loads it; it misses a CUDA compiler
    try:
        import nncf  # noqa: PLC0415 - optional, and slow to load
        import openvino  # noqa: PLC0415 - optional
    except ImportError:
        raise SettingsError(
            "no-nncf", "Rounding to 8 bits needs NNCF; install it with: pip install 'leukoray[int8]'"
        ) from None
    nncf.set_log_level(logging.ERROR)
    calibration, judged = (_with_variations(part, bundle) for part in (pixels[::2], pixels[1::2]))
    confidence = bundle.record.confidence
    reference = openvino.Core().compile_model(model, "CPU")
    batches = [judged[start : start + _AT_ONCE] for start in range(0, len(judged), _AT_ONCE)]
    pairs = [(batch, confidence.probabilities(reference([batch])[0])) for batch in batches]

    def closeness(compiled: Any, images: Iterable[tuple[Any, Any]]) -> tuple[float, None]:  # noqa: ANN401
        changes = [np.abs(confidence.probabilities(compiled([batch])[0]) - before).max(1) for batch, before in images]
        return 1 - float(np.concatenate(changes).mean()), None

    return nncf.quantize_with_accuracy_control(
        model,
        nncf.Dataset([image[None] for image in calibration]),
        nncf.Dataset(pairs),
        closeness,
        max_drop=_LARGEST_CHANGE,
        drop_type=nncf.DropType.ABSOLUTE,
        subset_size=len(calibration),
        ignored_scope=nncf.IgnoredScope(types=_UNTOUCHED, validate=False),
        advanced_quantization_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE),
        advanced_accuracy_restorer_parameters=nncf.AdvancedAccuracyRestorerParameters(ranking_subset_size=len(pairs)),
    )


def compare(
    images: LabelledImages, reference: Engine, other: Engine, confidence: Confidence, class_count: int
) -> ComparedLaboratory:
    """Say how near one engine's answers are to another's.

    Args:
        images: What both are asked about.
        reference: The engine that the other one is measured by.
        other: The other one.
        confidence: Temperature and thresholds of the bundle.
        class_count: Number of known classes; images of other labels are left out.
    """
    known = images.labels < class_count
    pixels, labels = images.pixels[known], images.labels[known]
    (before, maps), (after, other_maps) = (_answers(engine, pixels) for engine in (reference, other))
    guesses = [logits.argmax(axis=1) for logits in (before, after)]
    flags = [confidence.flags(logits) for logits in (before, after)]
    return ComparedLaboratory(
        name=images.name,
        home=images.home,
        images=len(labels),
        accuracy_before=float((guesses[0] == labels).mean()),
        accuracy=float((guesses[1] == labels).mean()),
        agreement=float((guesses[0] == guesses[1]).mean()),
        peaks=float(np.mean([_near(*pair) for pair in zip(maps, other_maps, strict=True)])),
        flags=float(np.mean([one == two for one, two in zip(*flags, strict=True)])),
    )


def unmet(found: ComparedLaboratory) -> list[str]:
    """Return what of a comparison is not good enough, in words; nothing where all is."""
    most_lost, least = _LEAST[found.home]
    lost = found.accuracy_before - found.accuracy
    checks = {
        f"accuracy falls by {100 * lost:.1f} points (at most {100 * most_lost:g})": lost <= most_lost,
        f"{found.agreement:.1%} get the same label (at least {least:.0%})": found.agreement >= least,
        f"{found.peaks:.1%} of the maps point at the same place (at least {_LEAST_PEAKS:.0%})": (
            found.peaks >= _LEAST_PEAKS
        ),
        f"{found.flags:.1%} get the same flag (at least {_LEAST_FLAGS:.0%})": found.flags >= _LEAST_FLAGS,
    }
    return [f"{found.name}: {words}" for words, held in checks.items() if not held]


def _with_variations(pixels: NDArray[np.uint8], bundle: Bundle) -> NDArray[np.uint8]:
    """Return images, and each again in another stain and light, where the bundle says how it was trained."""
    if bundle.record.training is None:
        return pixels
    still = {"rotation": 0.0, "scale": 0.0, "shift": 0.0, "horizontal_flip": False, "vertical_flip": False}
    amounts = bundle.record.training.augmentation.model_copy(update=still)
    generator = torch.Generator().manual_seed(0)
    views = augment(amounts, torch.from_numpy(pixels), pixels.shape[1], pixels.shape[2], generator)
    return np.concatenate([pixels, views.round().byte().permute(0, 2, 3, 1).numpy()])


def _answers(engine: Engine, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return logits (N, C) and maps (N, h, w)."""
    parts = [engine.answer(pixels[start : start + _AT_ONCE], gradcam=True) for start in range(0, len(pixels), _AT_ONCE)]
    maps = [part.maps for part in parts if part.maps is not None]
    return np.concatenate([part.logits for part in parts]), np.concatenate(maps)


def _near(one: NDArray[np.float32], two: NDArray[np.float32]) -> bool:
    """Whether two maps point at places no further apart than one of their values is from the next."""
    return bool(np.hypot(*np.subtract(find_peak(one), find_peak(two))) <= 1)
