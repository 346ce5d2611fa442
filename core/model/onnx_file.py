"""A bundle's network as an ONNX file, for other software."""

from __future__ import annotations

import json
import logging
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from core.errors import SettingsError
from core.files import replace_file
from core.model.bundle import load_bundle
from core.model.exporting import ExportedNetwork

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["write_onnx"]

_LARGEST_DIFFERENCE = 1e-3


def write_onnx(folder: Path, out: Path) -> float:
    """Write a bundle's network as one ONNX file, and compare onnxruntime's numbers with PyTorch's.

    Args:
        folder: Folder of the bundle.
        out: The file.

    Returns:
        The largest difference of a logit or of a value of a map.

    Raises:
        BundleError: The bundle cannot be used.
        SettingsError: With code ``export-missing`` where a package is missing, ``file-exists``, ``export-failed``,
            ``export-no-maps``, or ``export-differs`` where the numbers are not PyTorch's.
    """
    try:
        import onnx  # noqa: PLC0415 - optional
        import onnxruntime  # noqa: PLC0415 - optional
        import onnxscript  # noqa: F401, PLC0415  # pyright: ignore[reportUnusedImport] - optional; torch needs it
    except ImportError as error:
        raise SettingsError(
            "export-missing", f"Exporting needs {error.name}; install it with: pip install 'leukoray[export]'"
        ) from None
    if out.exists():
        raise SettingsError("file-exists", f"{out} exists already; choose another name or remove it.")
    bundle = load_bundle(folder)
    preprocessing = bundle.record.preprocessing
    module = ExportedNetwork(bundle).eval()
    shape = (2, preprocessing.height, preprocessing.width, 3)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own, about its own deprecated calls
        program = torch.onnx.export(
            module,
            (pixels,),
            dynamo=True,
            external_data=False,
            verbose=False,
            input_names=["pixels"],
            output_names=["logits", "class_maps", "features"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},),
        )
    if program is None:
        raise SettingsError("export-failed", "PyTorch gave no ONNX program.")
    model = program.model_proto
    record = {
        "bundle": bundle.id,
        "class_names": list(bundle.class_names),
        "preprocessing": preprocessing.model_dump(mode="json"),
        "class_maps": module.engine.geometry._asdict(),
        "confidence": bundle.record.confidence.model_dump(mode="json"),
    }
    onnx.helper.set_model_props(model, {"leukoray": json.dumps(record)})
    onnx.checker.check_model(model, full_check=True)
    content = model.SerializeToString()
    difference = _difference(onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]), module)
    if difference > _LARGEST_DIFFERENCE:
        raise SettingsError("export-differs", f"onnxruntime's numbers differ from PyTorch's by {difference:.2g}.")
    replace_file(out, content)
    return difference


def _difference(session: Any, module: ExportedNetwork) -> float:  # noqa: ANN401
    """Return the largest absolute difference over batches of several sizes."""
    generator = torch.Generator().manual_seed(1)
    preprocessing = module.preprocessing
    largest = 0.0
    for count in (1, 3, 8):
        shape = (count, preprocessing.height, preprocessing.width, 3)
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        with torch.inference_mode():
            expected = module(pixels)[:2]
        found = session.run(["logits", "class_maps"], {"pixels": pixels.numpy()})
        largest = max(largest, *(float(np.abs(a - b.numpy()).max()) for a, b in zip(found, expected, strict=True)))
    return largest
