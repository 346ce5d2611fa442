"""What a bundle says of itself: the record in ``config.json``, and how it is read and checked. Needs no torch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from core.errors import BundleError
from core.finding.record import FinderRecord
from core.images.heatmap import MapGeometry
from core.images.preprocessing import Preprocessing
from core.model.confidence import Confidence
from core.model.familiarity import Familiarity
from core.settings import Settings, describe_problems
from core.training.config import TrainingConfig

if TYPE_CHECKING:
    from pathlib import Path

    from core.model.metrics import BundleMetrics

__all__ = [
    "CARD",
    "CONFIG",
    "METRICS",
    "REPLAY",
    "WEIGHTS",
    "AdaptationRecord",
    "BundleFolder",
    "BundleRecord",
    "ComparedLaboratory",
    "DataRecord",
    "LaboratoryRecord",
    "Remembered",
    "ReplayRecord",
    "SearchTrial",
    "TrainingRecord",
    "read_bundle",
    "read_part",
]

CONFIG, WEIGHTS, METRICS, CARD = "config.json", "model.safetensors", "metrics.json", "README.md"
REPLAY = "replay.safetensors"
"""Features of training images."""


class ReplayRecord(Settings):
    """What a bundle says of the features that it keeps."""

    layer: str = Field(description="module whose output they are")
    images: int = Field(description="number of training images that they are of")
    sha256: str = Field(description="SHA-256 of the file")


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


class ComparedLaboratory(Settings):
    """How near the answers of a network in 8 bits are to PyTorch's, on labelled images of one laboratory."""

    name: str = Field(description="name of the laboratory")
    home: bool = Field(description="whether the bundle was trained on it")
    images: int = Field(description="images of known classes that both were asked about")
    accuracy_before: float = Field(description="share of them that PyTorch is right on")
    accuracy: float = Field(description="share of them that the network in 8 bits is right on")
    agreement: float = Field(description="share with the same label")
    peaks: float = Field(description="share whose maps point at places at most one value of the map apart")
    flags: float = Field(description="share with the same flag")


class ExportRecord(Settings):
    """The same network in the format of another engine (``openvino/``), and how near its answers are."""

    engine: Literal["openvino"] = Field(description="the engine")
    precision: Literal["fp32", "int8"] = Field(description="what it computes in")
    files: dict[str, str] = Field(description="SHA-256 of each of its files, by name")
    heatmap: MapGeometry = Field(description="the grid of the maps on the input")
    compared: int = Field(description="images that both engines were asked about")
    agreement: float = Field(description="share of them with the same label")
    difference: float = Field(description="largest difference of a probability among them")
    laboratories: list[ComparedLaboratory] = Field([], description="what rounding to 8 bits changed, where it is that")


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
    export: ExportRecord | None = Field(None, description="the same network for another engine, if it was exported")
    versions: dict[str, str] = Field(default_factory=dict, description="versions of the software that made it")
    created: str = Field("", description="time of its making, ISO 8601, UTC")


@dataclass(frozen=True)
class BundleFolder:
    """What stands in a bundle's folder beside the network itself.

    Attributes:
        folder: The folder.
        class_names: In the order of the logits.
        architecture: Name of the network, as timm knows it.
        record: Leukoray's part of ``config.json``.
        weights: Content of ``model.safetensors``; it is the file that the record was written for.
        id: SHA-256 of weights and config, hexadecimal; the config holds those of all other files that decide an answer.
    """

    folder: Path
    class_names: tuple[str, ...]
    architecture: str
    record: BundleRecord
    weights: bytes
    id: str

    def metrics(self) -> BundleMetrics | None:
        """Read the evaluations; None where there are none, or none that this version writes.

        Raises:
            BundleError: With code ``bundle-damaged``.
        """
        from core.model.metrics import BundleMetrics  # noqa: PLC0415 - needs scikit-learn, which a worker does not

        try:
            content = json.loads((self.folder / METRICS).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise BundleError("bundle-damaged", f"{self.folder / METRICS} cannot be read ({error}).") from None
        try:
            return BundleMetrics.model_validate(content)
        except ValidationError:
            return None


def read_bundle(folder: Path) -> BundleFolder:
    """Read and check a bundle's record and weights.

    Args:
        folder: Folder of the bundle.

    Raises:
        BundleError: With code ``bundle-missing``, ``bundle-foreign`` or ``bundle-damaged``.
    """
    content = read_part(folder, CONFIG)
    config, record = _parse(folder, content)
    weights = read_part(folder, WEIGHTS, record.weights_sha256)
    identity = hashlib.sha256(hashlib.sha256(weights).digest() + hashlib.sha256(content).digest()).hexdigest()
    names = tuple(str(name) for name in config["label_names"])
    return BundleFolder(folder, names, str(config["architecture"]), record, weights, identity)


def read_part(folder: Path, name: str, sha256: str | None = None) -> bytes:
    """Read one file of a bundle.

    Args:
        folder: Folder of the bundle.
        name: Path of the file in it.
        sha256: What its SHA-256 must be, if that is known.

    Raises:
        BundleError: With code ``bundle-missing`` or ``bundle-damaged``.
    """
    try:
        content = (folder / name).read_bytes()
    except OSError as error:
        if not folder.is_dir():
            raise BundleError("bundle-missing", f"There is no bundle at {folder}: the folder does not exist.") from None
        raise BundleError(
            "bundle-missing", f"{folder} is not a bundle: {name} cannot be read ({error.strerror})."
        ) from None
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise BundleError("bundle-damaged", f"{folder / name} is not the file that {CONFIG} was written for.")
    return content


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
