"""The bundle: a folder with a trained model and all that is needed to use it.

``config.json`` follows timm's layout, with our own record at top level under ``leukoray``;
``model.safetensors`` holds timm's parameter names; ``metrics.json`` and ``README.md`` say what
the model is worth. Nothing in it is a pickle.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import safetensors
import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from core import __version__
from core.errors import BundleError, SettingsError
from core.files import replace_file
from core.finding.network import FinderNetwork
from core.finding.record import FINDER
from core.finding.search import CellSearch
from core.finding.torch_finder import TorchFinder
from core.model.network import RESNET18, build_network, model_arguments
from core.model.record import CARD, CONFIG, METRICS, WEIGHTS, read_bundle, read_part
from core.model.replay import Replay
from core.model.torch_engine import TorchEngine, choose_device
from core.settings import time_stamp

if TYPE_CHECKING:
    from collections.abc import Mapping

    from core.finding.record import FinderRecord
    from core.model.metrics import BundleMetrics
    from core.model.record import BundleRecord

__all__ = ["Bundle", "load_bundle", "round_weights", "save_bundle", "write_metrics"]


@dataclass(frozen=True)
class Bundle:
    """A model, ready to use in PyTorch.

    Attributes:
        network: In evaluation mode, on the CPU.
        class_names: In the order of the logits.
        record: Preprocessing, confidence and provenance.
        id: SHA-256 of weights and config, hexadecimal.
        metrics: The evaluations that belong to the weights; None where ``metrics.json`` is missing or is not one that
            this version writes, which is no reason to refuse the weights.
        architecture: Name of the network, as timm knows it.
        replay: Features of training images, where they were asked for and the bundle keeps any.
        finder: The learned finder, on the CPU; None where the bundle has none.
    """

    network: nn.Module
    class_names: tuple[str, ...]
    record: BundleRecord
    id: str
    metrics: BundleMetrics | None = None
    architecture: str = RESNET18
    replay: Replay | None = None
    finder: TorchFinder | None = None

    @property
    def engine_name(self) -> Literal["torch"]:
        """What runs it."""
        return "torch"

    def engine(self, device: str = "auto", threads: int | None = None) -> TorchEngine:
        """Return what runs the network.

        Args:
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
            threads: Number of threads that PyTorch computes with from now on, in all of this process; None: as before.

        Raises:
            SettingsError: With code ``no-gpu`` where a GPU is asked for and there is none.
        """
        chosen = choose_device(device)
        if threads is not None:
            torch.set_num_threads(threads)
        return TorchEngine(self.network, self.record.preprocessing, chosen, self.record.heatmap_origin)

    def cell_search(self, device: str = "cpu") -> CellSearch:
        """Return what finds and prepares the cells for the network.

        Args:
            device: Device that a learned finder runs on.
        """
        return CellSearch(self.record.preprocessing, self.finder.on(choose_device(device)) if self.finder else None)


def round_weights(network: nn.Module) -> None:
    """Round the convolution and head weights to what 16-bit floats can hold, in place."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.copy_(parameter.half().float())


def save_bundle(
    folder: Path,
    network: nn.Module,
    class_names: tuple[str, ...],
    record: BundleRecord,
    metrics: BundleMetrics | None,
    card: str,
    extras: Mapping[str, bytes] | None = None,
    *,
    architecture: str = RESNET18,
    finder: TorchFinder | None = None,
) -> Bundle:
    """Write a bundle; `folder` appears complete or not at all.

    Convolution and head weights are stored as 16-bit floats, half the size; give the network to
    `round_weights` before measuring it, so that the metrics belong to what is stored.

    Args:
        folder: Folder of the new bundle; it is missing or empty.
        network: Network whose weights are stored.
        class_names: Names of the classes, in the order of the logits.
        record: Leukoray's part of ``config.json``; hashes, finder, versions and time are filled in.
        metrics: Evaluations of these weights; None where nothing was measured.
        card: Model card, Markdown.
        extras: Further files by name: plots and sample pictures.
        architecture: Name of the network, as `build_network` takes it.
        finder: Learned finder, if it has one.

    Raises:
        BundleError: With code ``bundle-exists``, or ``bundle-damaged`` where the weights are not numbers.
    """
    if folder.exists() and any(folder.iterdir()):
        raise BundleError("bundle-exists", f"{folder} exists and is not empty; choose another folder or remove it.")
    weights = save_tensors(_stored(network), metadata={"format": "pt"})
    extras = dict(extras or {})
    finds = None
    if finder is not None:
        extras[FINDER] = save_tensors(_plain(finder.network), metadata={"format": "pt"})
        finds = finder.record.model_copy(update={"sha256": hashlib.sha256(extras[FINDER]).hexdigest()})
    record = record.model_copy(
        update={
            "finder": finds,
            "export": None,
            "weights_sha256": hashlib.sha256(weights).hexdigest(),
            "versions": _versions(),
            "created": time_stamp(),
        }
    )
    config = json.dumps(_config(network, architecture, class_names, record), indent=2) + "\n"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        unfinished = Path(temporary) / folder.name
        unfinished.mkdir()
        (unfinished / WEIGHTS).write_bytes(weights)
        (unfinished / CONFIG).write_text(config, encoding="utf-8")
        if metrics is not None:
            write_metrics(unfinished, metrics)
        (unfinished / CARD).write_text(card, encoding="utf-8")
        for name, content in extras.items():
            (unfinished / name).write_bytes(content)
        bundle = load_bundle(unfinished)
        if folder.exists():
            folder.rmdir()
        shutil.move(unfinished, folder)
    return bundle


def write_metrics(folder: Path, metrics: BundleMetrics) -> None:
    """Write the ``metrics.json`` of a bundle in one step.

    Args:
        folder: Folder of the bundle.
        metrics: Evaluations of its weights.
    """
    replace_file(folder / METRICS, metrics.model_dump_json(indent=2) + "\n")


def load_bundle(folder: Path, *, with_replay: bool = False) -> Bundle:
    """Read and check a bundle.

    Args:
        folder: Folder of the bundle.
        with_replay: Whether to read what it keeps of its training images too, which only training needs.

    Example:
        >>> load_bundle(Path("models/blood-cells")).class_names
        ('EOSINOPHIL', 'LYMPHOCYTE', 'MONOCYTE', 'NEUTROPHIL')

    Raises:
        BundleError: With code ``bundle-missing``, ``bundle-foreign`` or ``bundle-damaged``.
    """
    read = read_bundle(folder)
    record, architecture = read.record, read.architecture
    try:
        network = build_network(len(read.class_names), architecture=architecture, size=record.preprocessing.size)
    except SettingsError as error:
        raise BundleError("bundle-foreign", f"{folder} cannot be used: {error.message}.") from None
    try:
        stored = load_tensors(read.weights)
        state = {name: value.float() if value.is_floating_point() else value for name, value in stored.items()}
        network.load_state_dict(state)
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BundleError("bundle-damaged", f"The weights in {folder} do not fit {architecture}: {reason}") from error
    if not all(bool(torch.isfinite(value).all()) for value in state.values()):
        raise BundleError("bundle-damaged", f"The weights in {folder} hold values that are not numbers.")
    replay = Replay.load(folder, record.replay) if with_replay and record.replay else None
    finder = _load_finder(folder, record.finder) if record.finder else None
    return Bundle(network.eval(), read.class_names, record, read.id, read.metrics(), architecture, replay, finder)


def _load_finder(folder: Path, record: FinderRecord) -> TorchFinder:
    content = read_part(folder, FINDER, record.sha256)
    network = FinderNetwork(record.widths, record.blocks)
    try:
        network.load_state_dict(load_tensors(content))
    except (SafetensorError, RuntimeError) as error:
        raise BundleError("bundle-damaged", f"{folder / FINDER} holds no finder of this version.") from error
    if not all(bool(torch.isfinite(value).all()) for value in network.state_dict().values()):
        raise BundleError("bundle-damaged", f"{folder / FINDER} holds values that are not numbers.")
    return TorchFinder(network.eval(), record)


def _stored(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.half() if value.ndim > 1 else value for name, value in _plain(network).items()}


def _plain(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}


def _config(
    network: nn.Module, architecture: str, class_names: tuple[str, ...], record: BundleRecord
) -> dict[str, Any]:
    preprocessing = record.preprocessing
    arguments = model_arguments(architecture, preprocessing.size)
    model: Any = network
    return {
        "architecture": architecture,
        "num_classes": len(class_names),
        "num_features": model.num_features,
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
            "first_conv": model.pretrained_cfg["first_conv"],
            "classifier": model.pretrained_cfg["classifier"],
        },
        **({"model_args": arguments} if arguments else {}),
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
