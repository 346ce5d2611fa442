"""Export a bundle for other engines, and check it.

python pipelines/export.py BUNDLE --out FILE.onnx
python pipelines/export.py BUNDLE --engine openvino [--precision int8 --images DATA --compare DATA]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if __package__ in {None, ""}:  # started as a script: let the project's packages be found, not this folder's files
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from pydantic import Field
from pydantic_settings import CliPositionalArg

from core.data.image_set import load_images
from core.data.laboratories import DataOptions
from core.errors import SettingsError
from core.model.bundle import load_bundle
from core.model.exporting import Rounding, write_openvino
from core.model.onnx_file import write_onnx
from core.model.quantising import LabelledImages
from core.settings import Settings
from runtime.command import run_command
from runtime.progress import Progress, say

if TYPE_CHECKING:
    from core.model.bundle import Bundle

__all__ = ["ExportSettings", "export", "main"]

_CALIBRATED, _COMPARED = 200, 3_000
"""Most images of a laboratory that a network is rounded by, and that it is compared on."""


class ExportSettings(Settings):
    """Write a bundle as one ONNX file, or for OpenVINO into the bundle itself, and compare it with PyTorch.

    With --engine openvino the network and the finder are added to BUNDLE, which thereby gets another identity;
    classify.py, evaluate.py and the service then run them on CPUs instead of PyTorch. With --precision int8 layers are
    rounded to 8 bits where that changes little on --images; nothing is written where accuracy, labels, maps or flags on
    --compare change by more than a little: 0.3 points and 1 % of the labels in laboratories that the bundle was trained
    on, by their names in the file, 1 point and 3 % in others.

    In the ONNX file, input `pixels`: (batch, height, width, 3) uint8, RGB, the white cell cut out as the bundle's
    config says. Outputs: `logits` (batch, classes), `features` (batch, K), the spatial mean of the last feature map,
    and `class_maps` (batch, classes, h, w), whose positive part is Grad-CAM of each class; value (i, j) looks at
    input pixel (top + i * stride, left + j * stride). Class names, temperature, thresholds and that grid are in the
    file's metadata under `leukoray`.
    """

    bundle: CliPositionalArg[Path] = Field(description="folder of the bundle")
    out: Path | None = Field(None, description="the ONNX file")
    engine: Literal["onnx", "openvino"] = Field("onnx", description="what to write")
    precision: Literal["fp32", "int8"] = Field("fp32", description="what OpenVINO computes in")
    images: Path | None = Field(None, description="training images, a folder of classes or a file of laboratories")
    compare: Path | None = Field(None, description="labelled images that the bundle was not trained on, the same")


def export(settings: ExportSettings) -> int:
    """Run the command; return its exit code.

    Raises:
        LeukorayError: Bundle, images or options cannot be used, packages are missing, or the answers differ.
    """
    rounded = settings.precision == "int8"
    if (settings.images is not None, settings.compare is not None) != (rounded, rounded):
        raise SettingsError("export-options", "--precision int8 needs --images and --compare, and nothing else does.")
    if settings.engine == "openvino":
        if settings.out is not None:
            raise SettingsError("export-options", "OpenVINO's files go into the bundle itself; leave --out away.")
        return _export_openvino(settings)
    if settings.out is None or rounded:
        raise SettingsError(
            "export-options", "Give the ONNX file that is to be written as --out; --precision is for --engine openvino."
        )
    difference = write_onnx(settings.bundle, settings.out)
    say(f"{settings.out}: {settings.out.stat().st_size / 1e6:.1f} MB; differs from PyTorch by at most {difference:.1e}")
    return 0


def _export_openvino(settings: ExportSettings) -> int:
    rounding = None
    if settings.images is not None and settings.compare is not None:
        bundle = load_bundle(settings.bundle)
        calibration = np.concatenate([one.pixels for one in _read(settings.images, bundle, _CALIBRATED)])
        rounding = Rounding(calibration, _read(settings.compare, bundle, _COMPARED))
        say("rounding to 8 bits, a few minutes")
    record = write_openvino(settings.bundle, rounding)
    say(
        f"{settings.bundle}: OpenVINO ({record.precision}) agrees with PyTorch on {record.agreement:.1%} of"
        f" {record.compared} drawn images; probabilities differ by at most {record.difference:.1e}"
    )
    for one in record.laboratories:
        say(
            f"{one.name}, {one.images:,} images: right on {one.accuracy:.1%} (PyTorch {one.accuracy_before:.1%});"
            f" the same label {one.agreement:.1%}, maps {one.peaks:.1%}, flags {one.flags:.1%}"
        )
    return 0


def _read(data: Path, bundle: Bundle, most: int) -> list[LabelledImages]:
    """Prepare images of each laboratory, a random choice where there are many."""
    known = {laboratory.name for laboratory in bundle.record.data.laboratories} if bundle.record.data else set()
    found: list[LabelledImages] = []
    for laboratory in DataOptions.model_validate({}).laboratories_in(data):
        samples = laboratory.read(bundle.class_names).samples
        rows = np.sort(np.random.default_rng(0).permutation(len(samples))[:most])
        with Progress(len(rows), "images decoded") as progress:
            images = load_images([samples[row] for row in rows], bundle.cell_search(), on_image=progress.advance)
        home = laboratory.name in known
        found.append(LabelledImages(laboratory.name, home, images.inputs.numpy(), images.labels.numpy()))
    return found


def main() -> int:
    """Entry point of the command."""
    return run_command(ExportSettings, export)


if __name__ == "__main__":
    sys.exit(main())
