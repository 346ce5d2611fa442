"""The content of ``audit.json``."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from core.evaluation.scores import Evaluation
from core.settings import Settings

__all__ = ["Agreement", "AuditRecord", "ClassCounts", "Found", "LabelCheck", "SeenInTraining", "WrongLabels"]


class ClassCounts(Settings):
    """Images and sources of one class in one split."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_by_name=True, validate_by_alias=True)

    split: str = Field(description="name of the split; empty where the data set is not divided")
    label: str = Field(alias="class", description="name of the class")
    images: int = Field(description="readable images")
    sources: int = Field(description="groups of images that show one field")


class Agreement(Settings):
    """How the groups compare with named sources, over all pairs of images whose source is named."""

    images: int = Field(description="images with a named source")
    pairs: int = Field(description="pairs of these images")
    right: float = Field(description="share of the pairs that are decided as the names say")
    same_found: float = Field(description="share of the pairs of one named source that are in one group")
    found_same: float = Field(description="share of the pairs in one group that are of one named source")


class Found(Settings):
    """Figures of an audit."""

    images: int = Field(description="readable images")
    sources: int = Field(description="groups of images that show one field")
    sources_in_several_splits: int
    sources_with_conflicting_labels: int
    exact_duplicates: int = Field(description="images with the same pixels as an earlier one")
    near_duplicates: int = Field(description="images that look the same as an earlier one")
    unreadable: int = Field(description="files that could not be decoded")
    agreement: Agreement | None = Field(description="comparison with named sources, where some were given")


class SeenInTraining(Settings):
    """A part of the data that the bundle's network was trained on."""

    part: str = Field(description="split or laboratory of the data; empty where they are not divided")
    laboratory: str = Field(description="name of the training data in the bundle's record")
    exactly: bool = Field(
        description="whether names, sizes, labels and sources agree; otherwise the number of images of each class does"
    )


class WrongLabels(Settings):
    """Images of one label that are found to be of one other class."""

    label: str = Field(description="what they are labelled")
    found: str = Field(description="what they are found to be")
    suspects: int = Field(description="images that are suspect")
    estimated: float = Field(description="images expected to be wrong in this way, by the calibrated confident joint")


class LabelCheck(Settings):
    """Suspect labels, by confident learning from probabilities out of fold."""

    bundle: str = Field(description="identity of the bundle whose features were used")
    engine: str = Field(description="what ran its network")
    cells: int = Field(description="labelled cells that were judged: images, or marked cells of fields")
    folds: int = Field(description="number of folds; fewer than asked for where the scarcest class has fewer sources")
    grouped: bool = Field(description="whether named sources were kept together too, beside the fields that were found")
    suspects: int = Field(description="cells whose label is suspect")
    suspect_sources: int = Field(description="sources with suspect cells, counted once for each of their labels")
    wrong: list[WrongLabels] = Field(description="pairs of label and found class, the most suspects first")
    seen_in_training: list[SeenInTraining] = Field(
        description="parts of the data that the network was trained on: it may have learned their wrong labels, too"
    )
    evaluation: Evaluation = Field(description="how far the probabilities out of fold can be trusted")


class AuditRecord(Settings):
    """An audit of a data set."""

    data: str = Field(description="folder of the data set")
    found: Found
    counts: list[ClassCounts]
    labels: LabelCheck | None = Field(None, description="suspect labels, where a bundle was given")
