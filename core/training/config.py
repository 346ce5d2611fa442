"""Every setting that decides how a network is trained."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from core.data.augmentation import Augmentation
from core.settings import Settings

__all__ = ["Finish", "TrainingConfig"]


class Finish(Settings):
    """The last epochs: another cycle of the learning rate, on other views.

    They begin with the average of the weights, and the mean of that and of what they end with is kept (weights of one
    beginning can be averaged: Izmailov et al. 2018, arXiv:1803.05407; Wortsman et al. 2022, arXiv:2203.05482).
    """

    share: float = Field(gt=0, lt=1, description="share of all epochs that they are")
    learning_rate: float = Field(gt=0, description="largest learning rate")
    augmentation: Augmentation = Field(description="their random views")


class TrainingConfig(Settings):
    """Everything that decides a training run; the defaults are the notebook's."""

    architecture: str = Field("resnet18", description="resnet18 (torchvision's), or a name of timm's")
    epochs: int = Field(15, ge=1, description="passes over the data")
    samples_per_epoch: int | None = Field(None, ge=1, description="images drawn per epoch; none: as many as there are")
    batch_size: int = Field(32, ge=2, description="images per step")
    optimizer: Literal["adam", "adamw"] = Field("adam", description="adam (L2 penalty) or adamw (decoupled decay)")
    learning_rate: float = Field(1e-3, gt=0, description="initial, or with one-cycle the largest")
    weight_decay: float = Field(1e-4, ge=0, description="weight decay")
    schedule: Literal["step", "one-cycle"] = Field("step", description="step: StepLR per epoch; one-cycle per step")
    step_size: int = Field(7, ge=1, description="epochs between decays (step)")
    gamma: float = Field(0.1, gt=0, le=1, description="factor of each decay (step)")
    patience: int = Field(
        5, ge=1, description="epochs without a better validation loss before stopping, where the best are kept"
    )
    keep: Literal["best", "last"] = Field(
        "best", description="weights to keep: of the best validation loss, or of the last epoch (for one-cycle)"
    )
    finish: Finish | None = Field(None, description="how the last epochs differ; none: they do not")
    mixstyle: float = Field(
        0.0, ge=0, le=10, description="beta parameter of mixing the early features' styles between images; 0: none"
    )
    energy_weight: float = Field(
        0.0, ge=0, description="weight of the loss that keeps the energies of outliers apart from the others'"
    )
    averaging: float = Field(
        0.0, ge=0, lt=1, description="decay per step of the running average of the weights that is kept; 0: none"
    )
    precision: Literal["float32", "auto"] = Field(
        "float32", description="precision of the forward pass; auto: bfloat16 where the device computes in it"
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of a label spread over all classes")
    balance: Literal["none", "class", "source"] = Field(
        "none", description="draw images evenly, by class, or by class, laboratory and source"
    )
    outlier_share: float = Field(
        0.1, ge=0, lt=1, description="share of the images drawn that are outliers, where there are any"
    )
    replay: int = Field(
        0,
        ge=0,
        description="training images whose inner features the bundle keeps, to be shown again when it is adapted",
    )
    replay_ratio: int = Field(
        1, ge=1, le=16, description="stored images shown beside each new one, where training starts from a bundle"
    )
    replay_weight: float = Field(
        0.1, ge=0, description="weight of the loss that keeps the answers to them, where training starts from a bundle"
    )
    seed: int = Field(0, ge=0, description="seed of weights, order and augmentation")
    augmentation: Augmentation = Field(
        default_factory=lambda: Augmentation.model_validate({}), description="random views"
    )

    @model_validator(mode="after")
    def _check_finish(self) -> TrainingConfig:
        if self.finish and self.keep == "best":
            raise ValueError("a finish keeps the last weights; set keep to last")
        return self

    @property
    def epochs_before_finish(self) -> int:
        """Number of epochs before those of `finish`; at least one."""
        return max(1, self.epochs - (round(self.epochs * self.finish.share) if self.finish else 0))
