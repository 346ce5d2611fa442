"""What one evaluation found beyond its scores, as ``evaluation.json`` and a bundle's ``metrics.json`` have it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from core.evaluation.detection import Finding
from core.evaluation.scores import Evaluation, Interval
from core.settings import Settings

__all__ = ["EvaluatedData", "Heatmaps", "NotebookSplit", "RecordedEvaluation", "UnknownTypes"]


class EvaluatedData(Settings):
    """Images that were evaluated."""

    path: str | None = Field(None, description="folder of the images; none in a bundle, which travels")
    fingerprint: str = Field(description="SHA-256 of the names, sizes and labels of the files")
    grouped: bool = Field(description="whether sources were named")
    unnamed: int = Field(description="images without a source, where others have one")
    unreadable: int = Field(description="files that could not be used")
    half: Literal["even", "odd"] | None = Field(description="which half of each class, where only one was evaluated")


class Heatmaps(Settings):
    """The pointing game over all images: shares of the images, 0 to 1."""

    n: int = Field(description="images with a white cell and a heatmap")
    hit: float = Field(description="the heatmap's peak lies on the white cell")
    chance: float = Field(description="a random pixel of the image does")
    chance_in_crop: float = Field(description="a random pixel of what the network saw does")
    centre: float = Field(description="the image's centre does")
    centre_of_crop: float = Field(description="the centre of what the network saw does")


class UnknownTypes(Settings):
    """How images of no known class are told from the known ones."""

    classes: list[str] = Field(description="class folders of these images")
    n: int = Field(description="number of these images")
    taught: list[str] = Field(description="which of the classes the bundle was taught as outliers, on other images")
    auroc: Interval = Field(description="area under the ROC curve of the out-of-distribution score")
    auroc_max_softmax: Interval = Field(description="the same of the largest probability alone")
    flagged: float = Field(description="share of them that is flagged")
    flagged_out_of_distribution: float = Field(description="share of them that is flagged out-of-distribution")
    known_flagged_out_of_distribution: float = Field(description="the same share of the known ones")


class NotebookSplit(Settings):
    """The notebook's protocol: a stratified random split of the images, whatever their sources."""

    validation_images: int = Field(description="images on the validation side")
    test_images: int = Field(description="images on the test side, which are measured")
    seed: int = Field(description="seed of the split")
    sources: int = Field(description="named sources on the test side")
    sources_also_in_validation: int = Field(description="how many of them are on the validation side too")
    evaluation: Evaluation = Field(description="scores on the test side")
    report: str = Field(description="scikit-learn's classification report of the test side")


class RecordedEvaluation(Settings):
    """An evaluation that was written into its bundle."""

    data: EvaluatedData = Field(description="images that were evaluated")
    evaluation: Evaluation = Field(description="scores, without curves")
    heatmaps: Heatmaps = Field(description="where the heatmaps point")
    unknown: UnknownTypes | None = Field(description="images of no known class, where there were any")
    notebook: NotebookSplit | None = Field(description="the notebook's protocol, where it was asked for")
    finding: Finding | None = Field(None, description="how cells are found, where the images are marked fields")
    times: int = Field(ge=1, description="how often these weights have been evaluated on these images")
    when: str = Field(description="time of the last evaluation, ISO 8601, UTC")
