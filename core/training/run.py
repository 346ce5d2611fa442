"""A training run from class folders to a bundle: what train.py does once and a search does for its best trial."""

from __future__ import annotations

import copy
import hashlib
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import Field

from core.data.image_set import UNLABELLED
from core.data.laboratories import DataSettings, TrainingData
from core.data.sampling import sampling_weights
from core.errors import SettingsError
from core.evaluation.plots import confusion_png, curves_png
from core.evaluation.scores import Evaluation, Predicted, evaluate
from core.model.bundle import (
    Bundle,
    BundleRecord,
    DataRecord,
    LaboratoryRecord,
    Remembered,
    TrainingRecord,
    save_bundle,
)
from core.model.card import write_card
from core.model.confidence import energy
from core.model.familiarity import Familiarity, fit_familiarity
from core.model.metrics import BundleMetrics, EpochRecord
from core.model.network import build_network
from core.model.predictor import choose_device
from core.model.replay import REPLAY, Replay, record_replay
from core.training.calibration import Answers, cross_fit_confidence, fit_confidence, fit_confidence_away
from core.training.recipe import Recipe, load_recipe
from core.training.rehearsal import remembered
from core.training.trainer import Trainer, predict_logits

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn

    from core.data.image_set import ImageSet
    from core.model.confidence import Confidence

__all__ = ["HeldOut", "TrainingRun", "TrainingSettings"]

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
class HeldOut:
    """What networks said of images that they were not trained on.

    Attributes:
        rows: Rows of the run's images.
        logits: What the networks gave, (N, C) float32.
        history: Training and validation per epoch.
        epochs: Number of epochs that the retained weights were trained for.
        trained_on: Number of images that the bundle's weights were trained on.
        left_out: Number of images that took no part.
        how: Words that say how the images were held out.
    """

    rows: list[int]
    logits: NDArray[np.float32]
    history: list[dict[str, float]]
    epochs: int
    trained_on: int
    left_out: int
    how: str = "held out of training"


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
        replay: What the starting bundle keeps of its own training images, if anything.
    """

    settings: TrainingSettings
    recipe: Recipe
    data: TrainingData
    images: ImageSet
    starts: Mapping[str, Mapping[str, torch.Tensor]]
    device: str
    origin: str
    replay: Replay | None = None

    @classmethod
    def prepare(
        cls,
        settings: TrainingSettings,
        *,
        device: str = "auto",
        threads: int = 2,
        data: TrainingData | None = None,
        start: Bundle | None = None,
        replay: Replay | None = None,
        architectures: Collection[str] = (),
        on_image: Callable[[], object] | None = None,
    ) -> TrainingRun:
        """Read recipe, weights and data, and decode the images.

        Args:
            settings: Options of the run.
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
            threads: Number of threads that decode.
            data: The data sets, where they have been read before.
            start: Bundle that training starts from, instead of the weights that the settings name.
            replay: What that bundle keeps of its own training images.
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
        images = data.load(recipe.preprocessing, recipe.training.augmentation.margin, threads, on_image)
        origin = f"bundle {start.id[:12]}" if start else settings.weights
        return cls(settings, recipe, data, images, starts, str(chosen), origin, replay)

    def split(self) -> tuple[list[int], list[int]]:
        """Return the rows to train on and those to validate on, apart by source.

        Raises:
            DataError: With code ``too-few-sources``.
        """
        return self.data.split(self.images, self.settings.validation_share, self.settings.seed)

    def without_each(self) -> dict[str, tuple[list[int], list[int]]]:
        """Return, for each laboratory with images of known classes, the rows of the others and its own labelled ones.

        Raises:
            SettingsError: With code ``one-laboratory`` where there are no others.
        """
        labels = self.images.labels
        domains = torch.zeros_like(labels) if self.images.domains is None else self.images.domains
        sides: dict[str, tuple[list[int], list[int]]] = {}
        for number, laboratory in enumerate(self.data.laboratories):
            own = domains == number
            if not bool((own & (labels >= 0)).any()):
                continue
            rest = (~own).nonzero()[:, 0].tolist()
            if not bool((~own & (labels >= 0)).any()):
                raise SettingsError("one-laboratory", f"Without {laboratory.name} no labelled laboratory is left.")
            sides[laboratory.name] = (rest, (own & (labels != UNLABELLED)).nonzero()[:, 0].tolist())
        return sides

    def left_out(self, rows: list[int]) -> int:
        """Count the images that are not among `rows`: unreadable, unnamed, or set aside."""
        return self.data.size - len(rows)

    def watched(self, validation: list[int]) -> ImageSet:
        """Choose the images that are classified after each epoch: of known classes, of each source at most eight."""
        seen: Counter[int] = Counter()
        chosen: list[int] = []
        for row in validation:
            source = int(self.images.sources[row])
            if int(self.images.labels[row]) >= 0 and seen[source] < _WATCHED_PER_SOURCE:
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
            origin=f"weights {self.origin}, recipe {self.settings.recipe}, {name}",
            replay=self.replay,
        )

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

    def predicted(self, held_out: HeldOut, chosen: NDArray[np.bool_], confidence: Confidence) -> Predicted:
        """Set predictions beside labels.

        Args:
            held_out: Predictions of images that were not trained on.
            chosen: Images to take, (N,) bool; they are of known classes.
            confidence: How logits become probabilities and flags.
        """
        return self._predicted(held_out, np.flatnonzero(chosen), [(np.arange(int(chosen.sum())), confidence)])

    def cross_fitted(self, held_out: HeldOut, chosen: NDArray[np.bool_]) -> Predicted | None:
        """Set predictions beside labels, with temperature and thresholds chosen on other sources.

        Args:
            held_out: Predictions of images that were not trained on.
            chosen: Images to take, (N,) bool; they are of known classes.

        Returns:
            The predictions; None where a class has too few sources for two halves.
        """
        rows = np.asarray(held_out.rows)[chosen]
        halves = cross_fit_confidence(
            held_out.logits[chosen],
            self.images.labels.numpy()[rows],
            self.images.sources.numpy()[rows],
            domains=self._domains(rows),
            risk=self.settings.risk,
        )
        return self._predicted(held_out, np.flatnonzero(chosen), halves) if halves else None

    def _predicted(
        self, held_out: HeldOut, chosen: NDArray[np.int64], parts: list[tuple[NDArray[np.int64], Confidence]]
    ) -> Predicted:
        """Set predictions beside labels; each part of the chosen ones has its own confidence."""
        rows, logits = np.asarray(held_out.rows)[chosen], held_out.logits[chosen]
        found = np.ones(len(rows), bool) if self.images.found is None else self.images.found.numpy()[rows]
        probabilities, ood = np.empty(logits.shape, np.float64), energy(logits)
        flags = [""] * len(rows)
        for members, confidence in parts:
            probabilities[members] = confidence.probabilities(logits[members])
            for place in members:
                largest, is_found = float(probabilities[place].max()), bool(found[place])
                flags[place] = confidence.flag(largest, float(ood[place]), found=is_found)
        samples = [self.images.samples[row] for row in rows]
        return Predicted.of_samples(samples, self.data.class_names, probabilities, ood=ood, flags=flags)

    def known(self, rows: list[int]) -> NDArray[np.bool_]:
        """Say which rows are of known classes, (N,) bool."""
        return self.images.labels.numpy()[rows] >= 0

    def write(
        self,
        out: Path,
        network: nn.Module,
        held_out: HeldOut,
        more: dict[str, Any],
        *,
        chosen_on: HeldOut | None = None,
        away: HeldOut | None = None,
    ) -> Bundle:
        """Measure on the images that were held out, and write the bundle with the weights as they were measured.

        Args:
            out: Folder of the new bundle.
            network: Network whose weights are rounded already (`round_weights`).
            held_out: Predictions of images that no network had been trained on.
            more: What else the bundle records of its training, by the names of `TrainingRecord`.
            chosen_on: Predictions that temperature and thresholds are chosen on; otherwise those that are measured.
            away: Predictions of every laboratory by networks that never saw it; thresholds are then chosen on these.

        Raises:
            BundleError: The bundle cannot be written.
        """
        names = self.data.class_names
        confidence = self._choose_confidence(chosen_on or held_out, other=chosen_on is not None)
        metrics = self._measure(held_out, confidence, other=chosen_on is not None)
        if away:
            confidence, measured = self._choose_away(held_out, away)
            metrics = metrics.model_copy(update={"away": measured})
        more = {"remembered": self._remembered(network), **more}
        facts = {"recipe": self.settings.recipe, "weights": self.origin, **more}
        kept = self._kept(network)
        content = kept.to_bytes() if kept else b""
        record = BundleRecord(  # pyright: ignore[reportCallIssue] - the rest has defaults, filled in by save_bundle
            preprocessing=self.recipe.preprocessing,
            confidence=confidence,
            training=TrainingRecord.model_validate(facts | self.recipe.training.model_dump()),
            data=self._data_record(held_out),
            familiarity=self._familiarity(),
            replay=kept.record(content) if kept else None,
        )
        extras = {
            "confusion.png": confusion_png(metrics.validation.image.confusion, names),
            "curves.png": curves_png(held_out.history),
        }
        extras |= {REPLAY: content} if kept else {}
        architecture = self.recipe.training.architecture
        card = write_card(out.name, names, record, metrics, architecture)
        return save_bundle(out, network.cpu(), names, record, metrics, card, extras, architecture=architecture)

    def _choose_confidence(self, held_out: HeldOut, *, other: bool) -> Confidence:
        """Choose temperature and thresholds; `other` says that the scores are measured on other sources."""
        known = self.known(held_out.rows)
        rows = np.asarray(held_out.rows)[known]
        labels = self.images.labels.numpy()[rows]
        how = "held out of training, of other sources than the measured ones" if other else held_out.how
        on = f"{len(labels)} images, {how}{' by source' if self.data.grouped and not other else ''}"
        domains = self._domains(rows)
        on += ", each laboratory's counted the same" if domains is not None else ""
        return fit_confidence(held_out.logits[known], labels, domains=domains, risk=self.settings.risk, on=on)

    def _choose_away(self, held_out: HeldOut, away: HeldOut) -> tuple[Confidence, dict[str, Evaluation]]:
        """Choose temperature and thresholds on laboratories left out; measure each with what the others chose."""
        home = self._answers(held_out)
        answers = self._answers(away)
        known = self.known(away.rows)
        measured: dict[str, Evaluation] = {}
        for number, laboratory in enumerate(self.data.laboratories):
            own = answers.domains == number
            if own.any() and not own.all():
                confidence = fit_confidence_away(home, answers.select(~own), on="the other laboratories")
                chosen = known.copy()
                chosen[known] = own
                measured[laboratory.name] = evaluate(self.predicted(away, chosen, confidence))
        on = f"{len(answers.labels)} images of laboratories that were left out of training, each counted the same"
        return fit_confidence_away(home, answers, on=on), measured

    def _answers(self, held_out: HeldOut) -> Answers:
        known = self.known(held_out.rows)
        rows = np.asarray(held_out.rows)[known]
        domains = self._domains(rows)
        domains = np.zeros(len(rows), np.int64) if domains is None else domains
        return Answers(held_out.logits[known], self.images.labels.numpy()[rows], domains)

    def _domains(self, rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Return the number of each row's laboratory, where there are several."""
        return None if self.images.domains is None else self.images.domains.numpy()[rows]

    def _measure(self, held_out: HeldOut, confidence: Confidence, *, other: bool) -> BundleMetrics:
        """Measure; where the measured images chose the confidence too, each half of the sources gets the other's."""
        known = self.known(held_out.rows)
        crossed = None if other else self.cross_fitted(held_out, known)
        predicted = crossed or self.predicted(held_out, known, confidence)
        return BundleMetrics(
            validation=evaluate(predicted),
            laboratories=self._by_laboratory(np.asarray(held_out.rows)[known], predicted),
            calibration="other-sources" if other else "cross-fitted" if crossed else "same-images",
            history=[EpochRecord.model_validate(epoch) for epoch in held_out.history],
        )

    def _by_laboratory(self, rows: NDArray[np.int64], predicted: Predicted) -> dict[str, Evaluation]:
        """Measure each laboratory's images by themselves, where there are several with images of two classes."""
        if self.images.domains is None:
            return {}
        domains, labels = self.images.domains.numpy()[rows], self.images.labels.numpy()[rows]
        parts = {laboratory.name: domains == number for number, laboratory in enumerate(self.data.laboratories)}
        return {
            name: evaluate(predicted.select(part)) for name, part in parts.items() if len(np.unique(labels[part])) > 1
        }

    def _familiarity(self) -> Familiarity | None:
        """Learn the stains of all laboratories from their inputs."""
        pixels = self.images.inputs.numpy()
        domains = np.zeros(len(pixels), np.int64) if self.images.domains is None else self.images.domains.numpy()
        found = np.ones(len(pixels), bool) if self.images.found is None else self.images.found.numpy()
        return fit_familiarity(
            {
                laboratory.name: pixels[found & (domains == number)]
                for number, laboratory in enumerate(self.data.laboratories)
            }
        )

    def _remembered(self, network: nn.Module) -> Remembered | None:
        """Count what is left of what the starting bundle knew, where it keeps features of its training images."""
        if self.replay is None:
            return None
        probe = torch.zeros(1, 3, *self.recipe.preprocessing.size, device=self.device)
        return Remembered.model_validate(remembered(network.to(self.device), self.replay, probe)._asdict())

    def _kept(self, network: nn.Module) -> Replay | None:
        """Choose images as training does, and keep their inner features, with those that the starting bundle kept."""
        config, size = self.recipe.training, self.recipe.preprocessing.size
        weights = sampling_weights(self.images, self.images.labels, config)
        weights = torch.ones(len(self.images), dtype=torch.float64) if weights is None else weights
        weights = torch.where(self.images.labels == UNLABELLED, 0.0, weights)
        count = min(config.replay, int((weights > 0).sum()))
        if not count:
            return self.replay
        generator = torch.Generator().manual_seed(config.seed)
        rows = torch.multinomial(weights, count, generator=generator)
        mild = config.augmentation.model_copy(update={"mild_share": 1.0})
        device = next(network.parameters()).device
        batches = (
            self.recipe.preprocessing.normalise(mild.apply(self.images.pixels[part], *size, generator)).to(device)
            for part in rows.split(_EVALUATED_AT_ONCE)
        )
        new = record_replay(network, batches, self.images.labels[rows])
        return self.replay.joined(new) if self.replay and new else new

    def _data_record(self, held_out: HeldOut) -> DataRecord:
        known = self.known(held_out.rows)
        parts, prints = list(zip(self.data.laboratories, self.data.sets, strict=True)), self.data.fingerprints()
        return DataRecord(
            fingerprint=hashlib.sha256("".join(prints.values()).encode()).hexdigest()
            if len(parts) > 1
            else prints[parts[0][0].name],
            images=self._sum([data.counts() for _, data in parts]),
            sources=self._sum([data.source_counts() for _, data in parts]),
            left_out=held_out.left_out,
            training_images=held_out.trained_on,
            validation=held_out.how,
            grouped=self.data.grouped,
            validation_images=int(known.sum()),
            validation_sources=int(np.unique(self.images.sources.numpy()[held_out.rows][known]).size),
            further_images=0,
            outliers=sorted({name for laboratory, _ in parts for name in laboratory.unknown}),
            laboratories=[
                LaboratoryRecord(
                    name=laboratory.name,
                    fingerprint=prints[laboratory.name],
                    images=data.counts(),
                    sources=data.source_counts(),
                    unknown=laboratory.unknown,
                    unlabelled=laboratory.unlabelled,
                    share=laboratory.share,
                    credit=laboratory.credit,
                )
                for laboratory, data in parts
            ],
        )

    def _sum(self, counts: list[dict[str, int]]) -> dict[str, int]:
        return {name: sum(part.get(name, 0) for part in counts) for name in self.data.class_names}
