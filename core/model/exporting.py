"""Writing a bundle's network in the format of another engine."""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from safetensors.numpy import save as save_arrays
from torch import nn

from core.errors import SettingsError
from core.files import replace_file
from core.finding.torch_finder import normalise
from core.images.drawings import CLASS_NAMES, draw_field
from core.model.bundle import load_bundle
from core.model.exported import FOLDER, LARGEST_DIFFERENCE, OpenVinoEngine
from core.model.quantising import compare, quantise, unmet
from core.model.record import CONFIG, ExportRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    from core.finding.torch_finder import TorchFinder
    from core.images.preprocessing import Preprocessing
    from core.model.bundle import Bundle
    from core.model.quantising import LabelledImages
    from core.model.torch_engine import TorchEngine

__all__ = ["ExportedNetwork", "Rounding", "write_openvino"]

_COMPARED = 48
_STORED = 8


class Rounding(NamedTuple):
    """What a network is rounded to 8 bits by.

    Attributes:
        calibration: Training images as they are prepared, (N, H, W, 3) uint8.
        compared: Labelled images that it was not calibrated on.
    """

    calibration: np.ndarray
    compared: Sequence[LabelledImages]


class ExportedNetwork(nn.Module):
    """From pixels to logits, class maps and features: what an exported file computes.

    Args:
        bundle: The bundle.

    Attributes:
        preprocessing: The record that the network was trained with.
        engine: The network in PyTorch.

    Raises:
        SettingsError: With code ``export-no-maps`` where the network does not end in pooling and one linear layer.
    """

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.preprocessing: Preprocessing = bundle.record.preprocessing
        self.engine: TorchEngine = bundle.engine("cpu")
        if self.engine.head_weight is None:
            raise SettingsError(
                "export-no-maps",
                f"{bundle.architecture} does not end in pooling and one linear layer, so that its maps are no product"
                " that a file could hold.",
            )
        self._weight = self.engine.head_weight

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return logits (N, C), class maps (N, C, h, w) and features (N, K) of pixels (N, H, W, 3) uint8."""
        outputs = self.engine(pixels)
        cells = outputs.feature_map.shape[2] * outputs.feature_map.shape[3]
        maps = torch.einsum("ck,nkhw->nchw", self._weight, outputs.feature_map) / cells
        return outputs.logits, maps, outputs.features


class _ExportedFinder(nn.Module):
    def __init__(self, finder: TorchFinder) -> None:
        super().__init__()
        self._network = finder.folded

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self._network(normalise(pixels))


def write_openvino(folder: Path, rounding: Rounding | None = None) -> ExportRecord:
    """Add a bundle's network and finder in OpenVINO's format to it, and say how near the answers are.

    Weights are stored as 16-bit floats and computed with in 32 bits; or layers are rounded to 8 bits where that changes
    little. The config, and so the bundle's identity, changes last: a kill leaves the bundle as it was for PyTorch, and
    an older export, if there was one, refused until it is written again.

    Args:
        folder: Folder of the bundle.
        rounding: The images that rounding to 8 bits is done by; none: it is not rounded.

    Raises:
        BundleError: The bundle cannot be used.
        SettingsError: With code ``no-openvino`` or ``no-nncf`` where a package is missing, ``export-no-maps`` where the
            network's maps cannot be exported, or ``export-differs`` where OpenVINO's answers are not PyTorch's.
    """
    bundle = load_bundle(folder)
    network = ExportedNetwork(bundle).eval()
    height, width = bundle.record.preprocessing.size
    model = _converted(network, torch.zeros(2, height, width, 3, dtype=torch.uint8), free=(0,))
    precision: Literal["fp32", "int8"] = "fp32" if rounding is None else "int8"
    files = _saved("model", model if rounding is None else quantise(model, bundle, rounding.calibration))
    if bundle.finder is not None:
        field = torch.zeros(1, 192, 256, 3, dtype=torch.uint8)
        files |= _saved("finder", _converted(_ExportedFinder(bundle.finder).eval(), field, free=(1, 2)))
    pixels = _drawn(bundle)
    confidence, geometry = bundle.record.confidence, network.engine.geometry
    ours = network.engine.answer(pixels, gradcam=False).logits
    engine = OpenVinoEngine(files["model.xml"], files["model.bin"], geometry, torch.get_num_threads())
    theirs = engine.answer(pixels, gradcam=False).logits
    expected, found = confidence.probabilities(ours), confidence.probabilities(theirs)
    difference = float(np.abs(expected - found).max())
    if not difference <= LARGEST_DIFFERENCE[precision]:
        raise SettingsError(
            "export-differs", f"OpenVINO's probabilities differ from PyTorch's by up to {difference:.2g}."
        )
    compared = [
        compare(images, network.engine, engine, confidence, len(bundle.class_names))
        for images in (rounding.compared if rounding else ())
    ]
    if missed := [words for one in compared for words in unmet(one)]:
        raise SettingsError(
            "export-differs", f"In 8 bits the network is not the same: {'; '.join(missed)}. Nothing was written."
        )
    files["probe.safetensors"] = save_arrays(
        {"pixels": pixels[:_STORED], "probabilities": expected[:_STORED].astype(np.float32)}
    )
    record = ExportRecord(
        engine="openvino",
        precision=precision,
        files={name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        heatmap=geometry,
        compared=len(pixels),
        agreement=float((ours.argmax(axis=1) == theirs.argmax(axis=1)).mean()),
        difference=difference,
        laboratories=compared,
    )
    _write(folder, files, record)
    return record


def _write(folder: Path, files: dict[str, bytes], record: ExportRecord) -> None:
    (folder / FOLDER).mkdir(exist_ok=True)
    for name, content in files.items():
        replace_file(folder / FOLDER / name, content)
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    config["leukoray"]["export"] = record.model_dump(mode="json")
    replace_file(folder / CONFIG, json.dumps(config, indent=2) + "\n")


def _converted(network: nn.Module, example: torch.Tensor, free: tuple[int, ...]) -> Any:  # noqa: ANN401
    """Return a network as an ``openvino.Model`` whose input may have any length along the free axes."""
    sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType] - it reports to its maker
    try:
        import openvino  # noqa: PLC0415 - optional
    except ImportError:
        raise SettingsError(
            "no-openvino", "Exporting for OpenVINO needs its package; install it with: pip install 'leukoray[openvino]'"
        ) from None
    convert: Any = openvino.convert_model
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # OpenVINO's own, about what it calls in PyTorch
        program = torch.export.export(network, (example,), dynamic_shapes=(dict.fromkeys(free, torch.export.Dim.AUTO),))
        model = convert(program)
    model.reshape(openvino.PartialShape([-1 if axis in free else size for axis, size in enumerate(example.shape)]))
    return model


def _saved(name: str, model: Any) -> dict[str, bytes]:  # noqa: ANN401
    """Return the files of an ``openvino.Model``, by name."""
    import openvino  # noqa: PLC0415 - optional

    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary) / f"{name}.xml"
        openvino.save_model(model, place, compress_to_fp16=True)
        return {file: (Path(temporary) / file).read_bytes() for file in (f"{name}.xml", f"{name}.bin")}


def _drawn(bundle: Bundle) -> np.ndarray:
    """Return drawn cells as the network gets them, (N, H, W, 3) uint8."""
    rng, cells = np.random.default_rng(0), bundle.cell_search()
    kinds = [CLASS_NAMES[number % len(CLASS_NAMES)] for number in range(_COMPARED)]
    return np.stack([cells.prepare(draw_field(kind, rng)).pixels for kind in kinds])
