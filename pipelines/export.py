"""Export a bundle to ONNX, with class maps, and check it: ``python pipelines/export.py BUNDLE --out FILE.onnx``."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if __package__ in {None, ""}:  # started as a script: let the project's packages be found, not this folder's files
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from pydantic import Field
from pydantic_settings import CliPositionalArg
from torch import nn

from core.errors import SettingsError
from core.files import replace_file
from core.model.bundle import Bundle, load_bundle
from core.model.engine import TorchEngine
from core.settings import Settings
from runtime.command import run_command
from runtime.progress import say

if TYPE_CHECKING:
    from core.images.preprocessing import Preprocessing

__all__ = ["ExportSettings", "export", "main"]

_LARGEST_DIFFERENCE = 1e-3


class ExportSettings(Settings):
    """Write a bundle as one ONNX file and compare it with PyTorch in onnxruntime.

    Input `pixels`: (batch, height, width, 3) uint8, RGB, the white cell cut out as the bundle's config says.
    Outputs: `logits` (batch, classes), and `class_maps` (batch, classes, h, w), whose positive part is Grad-CAM
    of each class; value (i, j) looks at input pixel (top + i * stride, left + j * stride). Class names, temperature,
    thresholds and that grid are in the file's metadata under `leukoray`.
    """

    bundle: CliPositionalArg[Path] = Field(description="folder of the bundle")
    out: Path = Field(description="the ONNX file")


class _Exported(nn.Module):
    """From pixels to logits and class maps; what the ONNX file computes."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.preprocessing: Preprocessing = bundle.record.preprocessing
        origin = bundle.record.heatmap_origin
        self.engine = TorchEngine(bundle.network, self.preprocessing, torch.device("cpu"), origin)
        if self.engine.head_weight is None:
            raise SettingsError(
                "export-no-maps",
                f"{bundle.architecture} does not end in pooling and one linear layer, so that its maps are no product"
                " that ONNX could hold.",
            )
        self.weight = self.engine.head_weight

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        outputs = self.engine(pixels)
        cells = outputs.feature_map.shape[2] * outputs.feature_map.shape[3]
        return outputs.logits, torch.einsum("ck,nkhw->nchw", self.weight, outputs.feature_map) / cells


def export(settings: ExportSettings) -> int:
    """Run the command; return its exit code.

    Raises:
        LeukorayError: Bundle or options cannot be used, or the packages are missing.
    """
    try:
        import onnx  # noqa: PLC0415 - optional
        import onnxruntime  # noqa: PLC0415 - optional
        import onnxscript  # noqa: F401, PLC0415 - optional; torch needs it
    except ImportError as error:
        raise SettingsError(
            "export-missing", f"Exporting needs {error.name}; install it with: pip install 'leukoray[export]'"
        ) from None
    if settings.out.exists():
        raise SettingsError("file-exists", f"{settings.out} exists already; choose another name or remove it.")
    bundle = load_bundle(settings.bundle)
    preprocessing = bundle.record.preprocessing
    module = _Exported(bundle).eval()
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
            output_names=["logits", "class_maps"],
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
    replace_file(settings.out, content)
    say(f"{settings.out}: {len(content) / 1e6:.1f} MB; differs from PyTorch by at most {difference:.1e}")
    return 0


def _difference(session: object, module: _Exported) -> float:
    """Return the largest absolute difference over batches of several sizes."""
    generator = torch.Generator().manual_seed(1)
    preprocessing = module.preprocessing
    largest = 0.0
    for count in (1, 3, 8):
        shape = (count, preprocessing.height, preprocessing.width, 3)
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        with torch.inference_mode():
            expected = module(pixels)
        found = session.run(None, {"pixels": pixels.numpy()})
        largest = max(largest, *(float(np.abs(a - b.numpy()).max()) for a, b in zip(found, expected, strict=True)))
    return largest


def main() -> int:
    """Entry point of the command."""
    return run_command(ExportSettings, export)


if __name__ == "__main__":
    sys.exit(main())
