"""A training run: images in memory, and the networks that learn from them, for train.py and for a search."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import Field

from core.data.image_set import OUTLIER
from core.data.laboratories import DataSettings, TrainingData
from core.errors import SettingsError
from core.finding.search import CellSearch
from core.model.bundle import load_bundle
from core.model.network import build_network
from core.model.torch_engine import choose_device
from core.training.recipe import Recipe, load_recipe
from core.training.trainer import Trainer, predict_logits

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from numpy.typing import NDArray
    from torch import nn

    from core.data.image_set import ImageSet
    from core.finding.torch_finder import TorchFinder
    from core.model.bundle import Bundle
    from core.model.record import BundleRecord
    from core.model.replay import Replay

__all__ = ["TrainingRun", "TrainingSettings"]

_WATCHED_PER_SOURCE = 8
_EVALUATED_AT_ONCE = 64
_OVERRIDES = ("architecture", "epochs", "samples_per_epoch", "batch_size", "learning_rate", "seed")


class TrainingSettings(DataSettings):
    """The options that decide a training run."""

    recipe: str = Field("cell-crop", description="cell-crop, cell-crop-step, notebook, or a JSON file")
    weights: str = Field(
        "imagenet",
        description="start from: imagenet (of a package, or downloaded once); a .safetensors or .pth file of the"
        " architecture's weights, where there is no internet; or none (random)",
    )
    validation_share: float = Field(0.15, gt=0, le=0.5, description="share of the images held out for validation")
    risk: float = Field(0.05, gt=0, lt=1, description="error rate aimed at among the cells that are not flagged")
    finder: Path | None = Field(None, description="bundle whose learned finder cuts the cells out, as the new one will")
    architecture: str | None = Field(None, description="resnet18 or a name of timm's, instead of the recipe's")
    epochs: int | None = Field(None, ge=1, description="value to use instead of the recipe's")
    samples_per_epoch: int | None = Field(None, ge=1, description="value to use instead of the recipe's")
    batch_size: int | None = Field(None, ge=2, description="value to use instead of the recipe's")
    learning_rate: float | None = Field(None, gt=0, description="value to use instead of the recipe's")
    seed: int = Field(0, ge=0, description="seed of the split, the weights and the augmentation")

    def load_recipe(self, start: Bundle | None = None) -> Recipe:
        """Return the recipe with what these settings replace.

        Args:
            start: Bundle that training starts from, whose architecture and preprocessing stay.

        Raises:
            SettingsError: With code ``bad-recipe``.
        """
        overrides = {name: getattr(self, name) for name in _OVERRIDES}
        if start is None:
            return load_recipe(self.recipe, overrides)
        return load_recipe(self.recipe, overrides | {"architecture": start.architecture}, start.record.preprocessing)


@dataclass(frozen=True)
class TrainingRun:
    """The images in memory, and where networks that learn from parts of them start.

    Attributes:
        settings: Options of the run.
        recipe: The recipe, with what the options replace.
        data: The data sets on disk.
        images: All images, decoded once.
        starts: Weights that networks start from, by architecture.
        device: Torch device.
        origin: Words that say which weights these are.
        start: Record of the bundle that training starts from, if it does.
        replay: What that bundle keeps of its own training images, if anything.
        finder: The learned finder of the new bundles, if they are to have one.
    """

    settings: TrainingSettings
    recipe: Recipe
    data: TrainingData
    images: ImageSet
    starts: Mapping[str, Mapping[str, torch.Tensor]]
    device: str
    origin: str
    start: BundleRecord | None = None
    replay: Replay | None = None
    finder: TorchFinder | None = None

    @classmethod
    def prepare(
        cls,
        settings: TrainingSettings,
        *,
        device: str = "auto",
        threads: int = 2,
        data: TrainingData | None = None,
        start: Bundle | None = None,
        architectures: Collection[str] = (),
        on_image: Callable[[], object] | None = None,
    ) -> TrainingRun:
        """Read recipe, weights and data, and decode the images.

        Args:
            settings: Options of the run.
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
            threads: Number of threads that decode.
            data: The data sets, where they have been read before.
            start: Bundle that training starts from, instead of the weights that the settings name, with what it keeps
                of its own training images.
            architectures: Architectures that will be used beside the recipe's.
            on_image: Called after each image.

        Raises:
            LeukorayError: The recipe, the weights or the data cannot be used.
        """
        recipe = settings.load_recipe(start)
        data = data or TrainingData.read(settings, start.class_names if start else None)
        chosen = choose_device(device)
        starts: dict[str, Mapping[str, torch.Tensor]] = {}
        for architecture in {recipe.training.architecture, *architectures}:
            torch.manual_seed(settings.seed)  # what is missing shows now, before an image is read
            network = (
                start.network
                if start
                else build_network(len(data.class_names), settings.weights, architecture, recipe.preprocessing.size)
            )
            starts[architecture] = copy.deepcopy(network.state_dict())
        finder = start.finder if start else _finder_of(settings.finder)
        used = finder.on(chosen) if finder and finder.record.cuts_out else None
        cells = CellSearch(recipe.preprocessing, used)
        images = data.load(cells, recipe.training.augmentation.margin, threads, on_image)
        origin = f"bundle {start.id[:12]}" if start else settings.weights
        record, replay = (start.record, start.replay) if start else (None, None)
        return cls(settings, recipe, data, images, starts, str(chosen), origin, record, replay, finder)

    def split(self) -> tuple[list[int], list[int]]:
        """Return the rows to train on and those to validate on, apart by source.

        Raises:
            DataError: With code ``too-few-sources``.
        """
        return self.data.split(self.images, self.settings.validation_share, self.settings.seed)

    def without_each(self, names: list[str]) -> dict[str, tuple[list[int], list[int]]]:
        """Return, for each of some laboratories, the rows of all others and its own.

        Args:
            names: Names of the laboratories.
        """
        domains = torch.zeros_like(self.images.labels) if self.images.domains is None else self.images.domains
        known = [laboratory.name for laboratory in self.data.laboratories]
        own = {name: domains == known.index(name) for name in names}
        return {name: ((~part).nonzero()[:, 0].tolist(), part.nonzero()[:, 0].tolist()) for name, part in own.items()}

    def left_out(self, rows: list[int]) -> int:
        """Count the images that are not among `rows`: unreadable, unnamed, or set aside."""
        return self.data.size - len(rows)

    def watched(self, validation: list[int]) -> ImageSet:
        """Choose the images that are classified after each epoch: of known classes, of each source at most eight."""
        seen: Counter[int] = Counter()
        chosen: list[int] = []
        for row in validation:
            source = int(self.images.sources[row])
            if int(self.images.labels[row]) != OUTLIER and seen[source] < _WATCHED_PER_SOURCE:
                chosen.append(row)
            seen[source] += 1
        return self.images.select(chosen)

    def trainer(
        self, training: list[int], validation: list[int] | None, *, checkpoint: Path, name: str, epochs: int | None
    ) -> Trainer:
        """Make a trainer of one network.

        Args:
            training: Rows to train on.
            validation: Rows to watch; none: the last weights are retained.
            checkpoint: File that holds the state after every epoch.
            name: Name of the network in this run; a checkpoint continues only the network that it is of.
            epochs: Number of epochs instead of the recipe's, where nothing is watched.
        """
        config = self.recipe.training
        if validation is None:
            config = config.model_copy(update={"keep": "last", "epochs": epochs or config.epochs})
        return Trainer(
            self.network(),
            config,
            self.recipe.preprocessing,
            self.images.select(training),
            self.watched(validation) if validation else None,
            self.data.class_names,
            device=self.device,
            checkpoint=checkpoint,
            origin=f"weights {self.origin}, recipe {self.settings.recipe}, {name}{self._cut_out_by()}",
            replay=self.replay,
        )

    def _cut_out_by(self) -> str:
        finder = self.finder
        return f", finder {finder.record.sha256[:12]}" if finder and finder.record.cuts_out else ""

    def network(self, state: Mapping[str, torch.Tensor] | None = None) -> nn.Module:
        """Return a new network with these weights, or with the starting ones."""
        architecture, size = self.recipe.training.architecture, self.recipe.preprocessing.size
        network = build_network(len(self.data.class_names), architecture=architecture, size=size)
        network.load_state_dict(self.starts[architecture] if state is None else state)
        return network

    def logits(self, network: nn.Module, rows: list[int]) -> NDArray[np.float32]:
        """Classify some of the images; (N, C) float32."""
        parts = [
            predict_logits(network, self.images.inputs[part], self.recipe.preprocessing, _EVALUATED_AT_ONCE)
            for part in torch.tensor(rows).split(1024)
        ]
        return np.concatenate(parts)

    def with_only(self, rows: list[int]) -> TrainingRun:
        """Return the run with some of its images; the others' memory can be given back."""
        return replace(self, images=self.images.select(rows))

    def known(self, rows: list[int]) -> NDArray[np.bool_]:
        """Say which rows are of known classes, (N,) bool."""
        return self.images.labels.numpy()[rows] != OUTLIER

    def domains(self, rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Return the number of each row's laboratory, where there are several."""
        return None if self.images.domains is None else self.images.domains.numpy()[rows]


def _finder_of(folder: Path | None) -> TorchFinder | None:
    """Return a bundle's finder, for a network that learns from what it cuts out."""
    if folder is None:
        return None
    finder = load_bundle(folder).finder
    if finder is None:
        raise SettingsError("no-finder", f"The bundle {folder} has no learned finder.")
    return finder.cutting_out()
