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
from typing import TYPE_CHECKING, Annotated, Any, Literal

import safetensors
import torch
import torchvision
from pydantic import BeforeValidator, Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from core import __version__
from core.errors import BundleError, SettingsError
from core.files import replace_file
from core.finding.finder import FINDER, Finder, FinderRecord
from core.images.preprocessing import Preprocessing
from core.model.confidence import Confidence
from core.model.familiarity import Familiarity
from core.model.metrics import BundleMetrics
from core.model.network import RESNET18, build_network, model_arguments
from core.model.replay import Replay, ReplayRecord
from core.settings import Settings, describe_problems, time_stamp
from core.training.config import TrainingConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "CARD",
    "CONFIG",
    "METRICS",
    "WEIGHTS",
    "AdaptationRecord",
    "Bundle",
    "BundleRecord",
    "DataRecord",
    "LaboratoryRecord",
    "Remembered",
    "SearchTrial",
    "TrainingRecord",
    "load_bundle",
    "round_weights",
    "save_bundle",
    "write_metrics",
]

CONFIG, WEIGHTS, METRICS, CARD = "config.json", "model.safetensors", "metrics.json", "README.md"


class SearchTrial(Settings):
    """The trial of a hyperparameter search that a bundle comes from."""

    trials: int = Field(description="trials of the search")
    trial: int = Field(description="number of the trial that the bundle comes from")
    varied: dict[str, Any] = Field(description="settings that the search varied, with the trial's values")


class Remembered(Settings):
    """What is left of what the bundle knew that training started from, on images whose features it keeps."""

    images: int = Field(description="stored images of known classes that were not shown in training")
    before: int = Field(description="how many of them the starting bundle was right on")
    after: int = Field(description="how many of them this bundle is right on")


class TrainingRecord(TrainingConfig):
    """How a bundle was trained: the recipe's settings as they were used, and what the recipe does not say."""

    @model_validator(mode="before")
    @classmethod
    def _without_old_settings(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Leave out what only older versions had, so that their bundles can be loaded."""
        return {name: value for name, value in values.items() if name != "further_share"}

    recipe: str = Field(description="name or file of the recipe")
    weights: str = Field(description="starting weights")
    folds: int = Field(0, description="folds that were validated out of training; 0: one validation set")
    folds_asked: int | None = Field(None, description="folds asked for; more than `folds` where sources are few")
    validation_share: float | None = Field(None, description="share of the images held out, with one validation set")
    validation_share_asked: float | None = Field(None, description="share that was asked for")
    remembered: Remembered | None = Field(
        None, description="what the starting bundle's own images say, if it keeps any"
    )
    search: SearchTrial | None = Field(None, description="the search that chose the settings, where one did")


class AdaptationRecord(Settings):
    """The unlabelled images that a bundle's statistics were adapted to."""

    bundle: str = Field(description="identity of the bundle that was adapted")
    images: int = Field(description="images that were looked at")
    slides: int = Field(description="slides that they are of")
    share: float = Field(description="weight of their statistics against the training images'")
    chosen: str = Field(description="SHA-256 of the names of these images")


class LaboratoryRecord(Settings):
    """The images of one laboratory that a bundle was trained and validated on."""

    name: str = Field(description="name of the laboratory")
    fingerprint: str = Field(description="SHA-256 of the names, sizes, labels and boxes of its files")
    images: dict[str, int] = Field(description="images, or marked cells, per class; unknown classes after the known")
    sources: dict[str, int] = Field(description="named sources per class")
    unknown: list[str] = Field(description="classes that were taught as none of the known ones")
    share: float = Field(description="how often its images were drawn, relative to the others'")
    credit: str = Field("", description="who the images are by, and their licence")


class DataRecord(Settings):
    """The images that a bundle was trained and validated on."""

    fingerprint: str = Field(description="SHA-256 of the names, sizes and labels of all files")
    images: dict[str, int] = Field(description="images per known class, of all laboratories")
    sources: dict[str, int] = Field(description="named sources per known class")
    left_out: int = Field(description="images that took no part")
    training_images: int = Field(description="images that the weights were trained on")
    validation: str = Field(description="how the validation images were held out")
    grouped: bool = Field(description="whether sources were named")
    validation_images: int = Field(description="validation images of known classes")
    validation_sources: int = Field(description="sources of the validation images")
    further_images: int = Field(0, description="images beside the ones counted above (older bundles)")
    outliers: list[str] = Field(description="classes that were taught as none of the known ones")
    laboratories: list[LaboratoryRecord] = Field([], description="where the images come from; none in older bundles")


def _none_if_empty(value: object) -> object:
    return value or None


class BundleRecord(Settings):
    """Leukoray's own part of ``config.json``."""

    version: Literal[1] = Field(1, description="version of this record")
    preprocessing: Preprocessing = Field(description="from picture to input")
    confidence: Confidence = Field(description="from logits to probabilities and flags")
    familiarity: Familiarity | None = Field(None, description="the stains it was trained on; none in older bundles")
    weights_sha256: str = Field("", description="SHA-256 of model.safetensors")
    training: Annotated[TrainingRecord | None, BeforeValidator(_none_if_empty)] = Field(
        None, description="how it was trained; none where that is not known"
    )
    data: Annotated[DataRecord | None, BeforeValidator(_none_if_empty)] = Field(
        None, description="the images it was trained on; none where they are not known"
    )
    heatmap_origin: tuple[float, float] | None = Field(
        None, description="row and column of the input that the last map's first value looks at; none: by the padding"
    )
    finder: FinderRecord | None = Field(None, description="the learned finder of white cells, if it has one")
    replay: ReplayRecord | None = Field(None, description="features of training images that it keeps, if any")
    adaptation: AdaptationRecord | None = Field(None, description="the unlabelled images it was adapted to, if any")
    versions: dict[str, str] = Field(default_factory=dict, description="versions of the software that made it")
    created: str = Field("", description="time of its making, ISO 8601, UTC")


@dataclass(frozen=True)
class Bundle:
    """A model, ready to use.

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
    finder: Finder | None = None


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
    finder: Finder | None = None,
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
    config_bytes, weights = _read(folder, CONFIG), _read(folder, WEIGHTS)
    config, record = _parse(folder, config_bytes)
    if hashlib.sha256(weights).hexdigest() != record.weights_sha256:
        raise BundleError("bundle-damaged", f"{folder / WEIGHTS} is not the file that {CONFIG} was written for.")
    class_names = tuple(str(name) for name in config["label_names"])
    architecture = str(config["architecture"])
    try:
        network = build_network(len(class_names), architecture=architecture, size=record.preprocessing.size)
    except SettingsError as error:
        raise BundleError("bundle-foreign", f"{folder} cannot be used: {error.message}.") from None
    try:
        state = {
            name: value.float() if value.is_floating_point() else value for name, value in load_tensors(weights).items()
        }
        network.load_state_dict(state)
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BundleError("bundle-damaged", f"The weights in {folder} do not fit {architecture}: {reason}") from error
    if not all(bool(torch.isfinite(value).all()) for value in state.values()):
        raise BundleError("bundle-damaged", f"The weights in {folder} hold values that are not numbers.")
    identity = hashlib.sha256(hashlib.sha256(weights).digest() + hashlib.sha256(config_bytes).digest()).hexdigest()
    replay = Replay.load(folder, record.replay) if with_replay and record.replay else None
    finder = _load_finder(folder, record.finder) if record.finder else None
    return Bundle(network.eval(), class_names, record, identity, _metrics(folder), architecture, replay, finder)


def _load_finder(folder: Path, record: FinderRecord) -> Finder:
    content = _read(folder, FINDER)
    if hashlib.sha256(content).hexdigest() != record.sha256:
        raise BundleError("bundle-damaged", f"{folder / FINDER} is not the file that {CONFIG} was written for.")
    network = record.build_network()
    try:
        network.load_state_dict(load_tensors(content))
    except (SafetensorError, RuntimeError) as error:
        raise BundleError("bundle-damaged", f"{folder / FINDER} holds no finder of this version.") from error
    if not all(bool(torch.isfinite(value).all()) for value in network.state_dict().values()):
        raise BundleError("bundle-damaged", f"{folder / FINDER} holds values that are not numbers.")
    return Finder(network.eval(), record)


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
    if not isinstance(config.get("architecture"), str):
        raise BundleError("bundle-damaged", f"{folder / CONFIG} names no architecture.")
    names = config.get("label_names")
    if not isinstance(names, list) or len(set(map(str, names))) < 2 or len(names) != config.get("num_classes"):
        raise BundleError("bundle-damaged", f"{folder / CONFIG}: label_names and num_classes do not agree.")
    try:
        return config, BundleRecord.model_validate(config["leukoray"])
    except ValidationError as error:
        problem = describe_problems(error.errors())[0]
        raise BundleError("bundle-damaged", f"{folder / CONFIG}: leukoray.{problem}.") from None


def _metrics(folder: Path) -> BundleMetrics | None:
    try:
        content = json.loads((folder / METRICS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise BundleError("bundle-damaged", f"{folder / METRICS} cannot be read ({error}).") from None
    try:
        return BundleMetrics.model_validate(content)
    except ValidationError:
        return None


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
