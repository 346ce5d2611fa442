"""The bundle: a folder with a trained model and all that is needed to use it.

``config.json`` follows timm's layout, with our own record at top level under ``leukoray``;
``model.safetensors`` holds torchvision's parameter names; ``metrics.json`` and ``README.md`` say what
the model is worth. Nothing in it is a pickle.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import tempfile
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import safetensors
import torch
import torchvision
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from core import __version__
from core.errors import BundleError
from core.images.preprocessing import Preprocessing
from core.model.confidence import Confidence
from core.model.network import ARCHITECTURE, build_network
from core.settings import Settings, describe_problems

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torchvision.models import ResNet

__all__ = ["CARD", "METRICS", "Bundle", "BundleRecord", "load_bundle", "round_weights", "save_bundle"]

CONFIG, WEIGHTS, METRICS, CARD = "config.json", "model.safetensors", "metrics.json", "README.md"


class BundleRecord(Settings):
    """Leukoray's own part of ``config.json``."""

    version: Literal[1] = Field(1, description="version of this record")
    preprocessing: Preprocessing = Field(description="from picture to input")
    confidence: Confidence = Field(description="from logits to probabilities and flags")
    weights_sha256: str = Field("", description="of model.safetensors")
    training: dict[str, Any] = Field(default_factory=dict, description="training configuration")
    data: dict[str, Any] = Field(default_factory=dict, description="data set: fingerprint, counts, split")
    versions: dict[str, str] = Field(default_factory=dict, description="of the software that made it")
    created: str = Field("", description="ISO 8601, UTC")


@dataclass(frozen=True)
class Bundle:
    """A model, ready to use.

    Attributes:
        network: In evaluation mode, on the CPU.
        class_names: In the order of the logits.
        record: Preprocessing, confidence and provenance.
        id: SHA-256 of weights and config, hexadecimal.
        metrics: The evaluation that belongs to the weights.
    """

    network: ResNet
    class_names: tuple[str, ...]
    record: BundleRecord
    id: str
    metrics: dict[str, Any] = field(default_factory=dict)


def round_weights(network: ResNet) -> None:
    """Round the convolution and head weights to what 16-bit floats can hold, in place."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.copy_(parameter.half().float())


def save_bundle(
    folder: Path,
    network: ResNet,
    class_names: tuple[str, ...],
    record: BundleRecord,
    metrics: dict[str, Any],
    card: str,
    extras: Mapping[str, bytes] | None = None,
) -> Bundle:
    """Write a bundle; `folder` appears complete or not at all.

    `extras` are further files by name: plots and sample pictures.

    Convolution and head weights are stored as 16-bit floats, half the size; give the network to
    `round_weights` before measuring it, so that the metrics belong to what is stored.

    Raises:
        BundleError: With code ``bundle-exists``, or ``bundle-damaged`` where the weights are not numbers.
    """
    if folder.exists() and any(folder.iterdir()):
        raise BundleError("bundle-exists", f"{folder} exists and is not empty; choose another folder or remove it.")
    weights = save_tensors(_stored(network), metadata={"format": "pt"})
    record = record.model_copy(
        update={
            "weights_sha256": hashlib.sha256(weights).hexdigest(),
            "versions": _versions(),
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
    )
    config = json.dumps(_config(class_names, record), indent=2) + "\n"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        unfinished = Path(temporary) / folder.name
        unfinished.mkdir()
        (unfinished / WEIGHTS).write_bytes(weights)
        (unfinished / CONFIG).write_text(config, encoding="utf-8")
        (unfinished / METRICS).write_text(json.dumps(metrics, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        (unfinished / CARD).write_text(card, encoding="utf-8")
        for name, content in (extras or {}).items():
            (unfinished / name).write_bytes(content)
        bundle = load_bundle(unfinished)
        if folder.exists():
            folder.rmdir()
        shutil.move(unfinished, folder)
    return bundle


def load_bundle(folder: Path) -> Bundle:
    """Read and check a bundle.

    Raises:
        BundleError: With code ``bundle-missing``, ``bundle-foreign`` or ``bundle-damaged``.
    """
    config_bytes, weights = _read(folder, CONFIG), _read(folder, WEIGHTS)
    config, record = _parse(folder, config_bytes)
    if hashlib.sha256(weights).hexdigest() != record.weights_sha256:
        raise BundleError("bundle-damaged", f"{folder / WEIGHTS} is not the file that {CONFIG} was written for.")
    class_names = tuple(str(name) for name in config["label_names"])
    network = build_network(len(class_names))
    try:
        state = {
            name: value.float() if value.is_floating_point() else value for name, value in load_tensors(weights).items()
        }
        network.load_state_dict(state)
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BundleError("bundle-damaged", f"The weights in {folder} do not fit {ARCHITECTURE}: {reason}") from error
    if not all(bool(torch.isfinite(value).all()) for value in state.values()):
        raise BundleError("bundle-damaged", f"The weights in {folder} hold values that are not numbers.")
    identity = hashlib.sha256(hashlib.sha256(weights).digest() + hashlib.sha256(config_bytes).digest()).hexdigest()
    return Bundle(network.eval(), class_names, record, identity, _metrics(folder))


def _read(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        if not folder.is_dir():
            raise BundleError("bundle-missing", f"There is no bundle at {folder}: the folder does not exist.") from None
        raise BundleError(
            "bundle-missing", f"{folder} is not a bundle: {name} cannot be read ({error.strerror})."
        ) from None


def _parse(folder: Path, content: bytes) -> tuple[dict[str, Any], BundleRecord]:
    try:
        config = json.loads(content)
    except ValueError as error:
        raise BundleError("bundle-damaged", f"{folder / CONFIG} is not JSON ({error}).") from None
    if not isinstance(config, dict) or "leukoray" not in config:
        raise BundleError("bundle-foreign", f"{folder} was not made by Leukoray: {CONFIG} has no 'leukoray' record.")
    if config.get("architecture") != ARCHITECTURE:
        raise BundleError(
            "bundle-foreign", f"{folder} holds a {config.get('architecture')!r}; only {ARCHITECTURE} is supported."
        )
    names = config.get("label_names")
    if not isinstance(names, list) or len(set(map(str, names))) < 2 or len(names) != config.get("num_classes"):
        raise BundleError("bundle-damaged", f"{folder / CONFIG}: label_names and num_classes do not agree.")
    try:
        return config, BundleRecord.model_validate(config["leukoray"])
    except ValidationError as error:
        problem = describe_problems(error.errors())[0]
        raise BundleError("bundle-damaged", f"{folder / CONFIG}: leukoray.{problem}.") from None


def _metrics(folder: Path) -> dict[str, Any]:
    try:
        metrics = json.loads((folder / METRICS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise BundleError("bundle-damaged", f"{folder / METRICS} cannot be read ({error}).") from None
    return metrics


def _stored(network: nn.Module) -> dict[str, torch.Tensor]:
    state = network.state_dict()
    return {
        name: (value.half() if value.ndim > 1 else value).detach().cpu().contiguous() for name, value in state.items()
    }


def _config(class_names: tuple[str, ...], record: BundleRecord) -> dict[str, Any]:
    preprocessing = record.preprocessing
    return {
        "architecture": ARCHITECTURE,
        "num_classes": len(class_names),
        "num_features": 512,
        "label_names": list(class_names),
        "pretrained_cfg": {
            "input_size": [3, preprocessing.height, preprocessing.width],
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "num_classes": len(class_names),
            "label_names": list(class_names),
            "first_conv": "conv1",
            "classifier": "fc",
        },
        "leukoray": record.model_dump(mode="json"),
    }


def _versions() -> dict[str, str]:
    return {
        "leukoray": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "safetensors": safetensors.__version__,
    }
