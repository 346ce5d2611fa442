"""``evaluation.json``, and how an evaluation becomes part of its bundle's metrics and card."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from core.errors import BundleError
from core.evaluation.detection import Finding
from core.evaluation.record import EvaluatedData, Heatmaps, NotebookSplit, RecordedEvaluation, UnknownTypes
from core.evaluation.scores import Comparison, Evaluation
from core.files import replace_file
from core.model.bundle import load_bundle, write_metrics
from core.model.card import write_card
from core.model.record import CARD
from core.settings import Settings, time_stamp

if TYPE_CHECKING:
    from pathlib import Path

    from core.model.engine import Usable

__all__ = ["EvaluatedBundle", "EvaluationRecord", "check_name", "record_in_bundle"]


class EvaluatedBundle(Settings):
    """The bundle that was evaluated."""

    path: str = Field(description="folder of the bundle")
    id: str = Field(description="SHA-256 of weights and configuration")
    engine: Literal["torch", "openvino"] = Field("torch", description="what ran it")

    @classmethod
    def of(cls, path: Path, bundle: Usable) -> EvaluatedBundle:
        """Say which bundle it is that was loaded from a path."""
        return cls(path=str(path), id=bundle.id, engine=bundle.engine_name)


class EvaluationRecord(Settings):
    """An evaluation of a bundle: the content of ``evaluation.json``."""

    bundle: EvaluatedBundle = Field(description="what was evaluated")
    data: EvaluatedData = Field(description="images that it was evaluated on")
    evaluation: Evaluation = Field(description="scores of the images of known classes")
    heatmaps: Heatmaps = Field(description="where the heatmaps point")
    unknown: UnknownTypes | None = Field(None, description="images of no known class, where there were any")
    comparison: Comparison | None = Field(None, description="against a second bundle, where one was given")
    notebook: NotebookSplit | None = Field(None, description="the notebook's protocol, where it was asked for")
    finding: Finding | None = Field(None, description="how cells are found, where the images are marked fields")


def check_name(bundle: Usable, name: str, fingerprint: str) -> None:
    """Refuse an evaluation that could not be written into its bundle, before it is made.

    Args:
        bundle: The bundle.
        name: Name of the evaluation in the bundle's metrics and card.
        fingerprint: Fingerprint of the data.

    Raises:
        BundleError: With code ``bundle-without-record`` where the bundle's metrics are not of this version, or
            ``evaluation-name-taken`` where the name stands for other data.
    """
    if bundle.metrics is None or bundle.record.training is None or bundle.record.data is None:
        raise BundleError(
            "bundle-without-record",
            "The bundle's metrics are not of this version; --record needs a bundle made by train.py.",
        )
    before = bundle.metrics.evaluations.get(name)
    if before and before.data.fingerprint != fingerprint:
        raise BundleError(
            "evaluation-name-taken",
            f"The bundle has an evaluation {name!r} of other data; choose another name for --record.",
        )


def record_in_bundle(folder: Path, name: str, record: EvaluationRecord) -> None:
    """Add one evaluation to a bundle's ``metrics.json`` and write its card anew.

    A further evaluation on the same data under the same name replaces the figures and is counted.

    Args:
        folder: Folder of the bundle.
        name: Name of the evaluation in the bundle's metrics and card.
        record: The evaluation.

    Raises:
        BundleError: The bundle cannot be read, or as in `check_name`.
    """
    bundle = load_bundle(folder)
    check_name(bundle, name, record.data.fingerprint)
    metrics = bundle.metrics
    if metrics is None:  # check_name has refused it
        return
    before = metrics.evaluations.get(name)
    added = RecordedEvaluation(
        data=record.data.model_copy(update={"path": None}),
        evaluation=record.evaluation.without_curves(),
        heatmaps=record.heatmaps,
        unknown=record.unknown,
        notebook=record.notebook and _without_curves(record.notebook),
        finding=record.finding,
        times=before.times + 1 if before else 1,
        when=time_stamp(),
    )
    metrics = metrics.model_copy(update={"evaluations": metrics.evaluations | {name: added}})
    write_metrics(folder, metrics)
    card = write_card(folder.name, bundle.class_names, bundle.record, metrics, bundle.architecture)
    replace_file(folder / CARD, card)


def _without_curves(notebook: NotebookSplit) -> NotebookSplit:
    return notebook.model_copy(update={"evaluation": notebook.evaluation.without_curves()})
