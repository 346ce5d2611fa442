"""Export a bundle for other engines, and check it.

python pipelines/export.py BUNDLE --out FILE.onnx
python pipelines/export.py BUNDLE --engine openvino
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Literal

if __package__ in {None, ""}:  # started as a script: let the project's packages be found, not this folder's files
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from pydantic import Field
from pydantic_settings import CliPositionalArg

from core.errors import SettingsError
from core.files import replace_file
from core.model.bundle import load_bundle
from core.model.exporting import ExportedNetwork, write_openvino
from core.settings import Settings
from runtime.command import run_command
from runtime.progress import say

__all__ = ["ExportSettings", "export", "main"]

_LARGEST_DIFFERENCE = 1e-3


class ExportSettings(Settings):
    """Write a bundle as one ONNX file, or for OpenVINO into the bundle itself, and compare it with PyTorch.

    With --engine openvino the network and the finder are added to BUNDLE, which thereby gets another identity;
    classify.py and evaluate.py then run them on CPUs instead of PyTorch.

    In the ONNX file, input `pixels`: (batch, height, width, 3) uint8, RGB, the white cell cut out as the bundle's
    config says. Outputs: `logits` (batch, classes), `features` (batch, K), the spatial mean of the last feature map,
    and `class_maps` (batch, classes, h, w), whose positive part is Grad-CAM of each class; value (i, j) looks at
    input pixel (top + i * stride, left + j * stride). Class names, temperature, thresholds and that grid are in the
    file's metadata under `leukoray`.
    """

    bundle: CliPositionalArg[Path] = Field(description="folder of the bundle")
    out: Path | None = Field(None, description="the ONNX file")
    engine: Literal["onnx", "openvino"] = Field("onnx", description="what to write")


def export(settings: ExportSettings) -> int:
    """Run the command; return its exit code.

    Raises:
        LeukorayError: Bundle or options cannot be used, or the packages are missing.
    """
    if settings.engine == "openvino":
        if settings.out is not None:
            raise SettingsError("export-options", "OpenVINO's files go into the bundle itself; leave --out away.")
        record = write_openvino(settings.bundle)
        say(
            f"{settings.bundle}: OpenVINO ({record.precision}) agrees with PyTorch on {record.agreement:.1%} of"
            f" {record.compared} drawn images; probabilities differ by at most {record.difference:.1e}"
        )
        return 0
    if settings.out is None:
        raise SettingsError("export-options", "Give the ONNX file that is to be written as --out.")
    return _export_onnx(settings.bundle, settings.out)


def _export_onnx(folder: Path, out: Path) -> int:
    try:
        import onnx  # noqa: PLC0415 - optional
        import onnxruntime  # noqa: PLC0415 - optional
        import onnxscript  # noqa: F401, PLC0415 - optional; torch needs it
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
    say(f"{out}: {len(content) / 1e6:.1f} MB; differs from PyTorch by at most {difference:.1e}")
    return 0


def _difference(session: object, module: ExportedNetwork) -> float:
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


def main() -> int:
    """Entry point of the command."""
    return run_command(ExportSettings, export)


if __name__ == "__main__":
    sys.exit(main())
