"""The training loop: resumable at every epoch, the same under Ray Tune as on its own."""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional
from torch.optim import Adam, AdamW
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, StepLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from core.data.augment import augment
from core.data.image_set import OUTLIER
from core.data.sampling import sampling_weights
from core.errors import DataError, SettingsError
from core.model.torch_engine import forward
from core.training.checkpoint import load_optimizer, optimizer_record, resumed, save_checkpoint
from core.training.mixstyle import mixed_styles
from core.training.rehearsal import Rehearsal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn

    from core.data.image_set import ImageSet
    from core.images.preprocessing import Preprocessing
    from core.model.replay import Replay
    from core.training.config import Finish, TrainingConfig

__all__ = ["Epoch", "Trainer", "has_bfloat16", "predict_logits"]

_KNOWN_ENERGY, _OUTLIER_ENERGY = -6.0, -3.0
"""Energies that images of known classes should be below, and outliers above."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one epoch gave.

    Attributes:
        number: Number of the epoch, from 1.
        train_loss: Mean loss of the training images, nats.
        train_accuracy: Share of the training images classified as labelled.
        validation_loss: Mean cross-entropy of the validation images, nats; None where there are none.
        validation_accuracy: Share of the validation images classified as labelled; None where there are none.
        learning_rate: Learning rate at its start.
        seconds: Duration, validation included.
        best: Whether its validation loss is the lowest so far.
    """

    number: int
    train_loss: float
    train_accuracy: float
    validation_loss: float | None
    validation_accuracy: float | None
    learning_rate: float
    seconds: float
    best: bool


@dataclass
class _Progress:
    epoch: int = 0
    best_loss: float = math.inf
    best_epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


class Trainer:
    """Trains one network on images in memory.

    Args:
        network: Network on any device; it is moved to `device`.
        config: Settings of the training.
        preprocessing: Record that the network will be used with.
        train: Training images, prepared with the margin of ``config.augmentation``. Outliers in it are taught to
            be like no class: their target is uniform (outlier exposure, Hendrycks et al. 2019, arXiv:1812.04606).
        validation: Validation images, prepared without margin; none: the last weights are kept.
        class_names: Names of the classes.
        device: Torch device.
        checkpoint: File that holds the state after every epoch; none: the state is not written.
        origin: Words for what else decides the result, such as the starting weights; compared on resume.
        replay: Features of images that the network was trained on before, to be shown again (`Rehearsal`).
    """

    def __init__(
        self,
        network: nn.Module,
        config: TrainingConfig,
        preprocessing: Preprocessing,
        train: ImageSet,
        validation: ImageSet | None,
        class_names: Sequence[str],
        *,
        device: str = "cpu",
        checkpoint: Path | None = None,
        origin: str = "",
        replay: Replay | None = None,
    ) -> None:
        self.config = config
        self.preprocessing = preprocessing
        self.device = torch.device(device)
        self.network = network.to(self.device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.class_names = tuple(class_names)
        self.train, self.validation = train, validation
        self._pixels = _resident(train.pixels, self.device)
        self.checkpoint = checkpoint
        self.origin = origin
        self.progress = _Progress()
        self._labels = train.labels
        self._weights = sampling_weights(train, self._labels, config)
        self._targets = _targets(self._labels, len(self.class_names), config.label_smoothing)
        count = config.samples_per_epoch or len(train)
        self.steps_per_epoch = max(1, count // config.batch_size)
        if len(train) < 2:
            raise DataError("too-few-images", f"Training needs at least 2 images, not {len(train)}.")
        if validation is None and config.keep == "best":
            raise SettingsError("no-validation", "Without validation images no epoch is best; keep the last weights.")
        self._autocast = config.precision == "auto" and has_bfloat16(self.device)
        probe = torch.zeros(1, 3, preprocessing.height, preprocessing.width, device=self.device)
        self._rehearsal = Rehearsal(self.network, replay, probe, config.replay_ratio) if replay else None
        self._optimizer = _optimizer(self.network, config)
        self._schedule = _schedule(self._optimizer, config, self.steps_per_epoch)
        self._average = _average(self.network, config.averaging)
        self._before_finish: dict[str, torch.Tensor] = {}
        self._best = _copy_state(self.network)

    def resume(self) -> bool:
        """Continue from the checkpoint, if there is one; return whether there was.

        Raises:
            SettingsError: With code ``resume-mismatch`` where the checkpoint is of another run.
            DataError: With code ``checkpoint-damaged``.
        """
        saved = resumed(self.checkpoint, self._identity())
        if saved is None:
            return False
        if saved.before_finish:
            self._begin_finish(saved.before_finish)
        self.network.load_state_dict(saved.network)
        self._best = saved.best
        if self._average:
            self._average.load_state_dict(saved.average)
        load_optimizer(saved, self._optimizer, self._schedule)
        self.progress = _Progress(**saved.record["progress"])
        return True

    def fit(
        self, on_epoch: Callable[[Epoch], object] | None = None, on_step: Callable[[int], object] | None = None
    ) -> None:
        """Train until the last epoch or until patience ends; then load the weights to keep.

        Args:
            on_epoch: Called after every epoch, once its checkpoint is on disk.
            on_step: Called after every step with the step's number.

        Raises:
            DataError: With code ``diverged`` where the loss stops being a number.
        """
        while not self.finished:
            epoch = self._run_epoch(on_step)
            self._save()
            if on_epoch:
                on_epoch(epoch)
        self.network.load_state_dict(self.retained)

    @property
    def finished(self) -> bool:
        """Whether the last epoch is done or patience has run out."""
        late = self.progress.epoch - self.progress.best_epoch if self.config.keep == "best" else 0
        return self.progress.epoch >= self.config.epochs or (self.progress.epoch > 0 and late >= self.config.patience)

    @property
    def retained(self) -> dict[str, torch.Tensor]:
        """Weights that the run would end with now, by name: the best epoch's, or the last, as `config.keep` says."""
        if self.config.keep == "best":
            return self._best
        last = self._judged.state_dict()
        return {
            name: self._before_finish[name].to(value.device).lerp(value, 0.5)
            if value.is_floating_point() and self._before_finish
            else value
            for name, value in last.items()
        }

    @property
    def _judged(self) -> nn.Module:
        """The network that is validated: the average, where one is kept."""
        return self._average.module if self._average else self.network

    def _run_epoch(self, on_step: Callable[[int], object] | None) -> Epoch:
        started = time.perf_counter()
        if self._finish and not self._before_finish:
            self._begin_finish(_copy_state(self._judged))
        rate = float(self._optimizer.param_groups[0]["lr"])
        loss, accuracy = self._train_epoch(on_step)
        validation_loss, validation_accuracy = self._validate()
        if self.config.schedule == "step":
            self._schedule.step()
        self.progress.epoch += 1
        best = validation_loss is not None and validation_loss < self.progress.best_loss
        if validation_loss is not None and best:
            self.progress.best_loss, self.progress.best_epoch = validation_loss, self.progress.epoch
            self._best = _copy_state(self._judged)
        seconds = time.perf_counter() - started
        number = self.progress.epoch
        row = {"epoch": number, "train_loss": loss, "train_accuracy": accuracy, "learning_rate": rate}
        if validation_loss is not None and validation_accuracy is not None:
            row |= {"validation_loss": validation_loss, "validation_accuracy": validation_accuracy}
        self.progress.history.append(row | {"seconds": seconds})
        return Epoch(number, loss, accuracy, validation_loss, validation_accuracy, rate, seconds, best)

    def _train_epoch(self, on_step: Callable[[int], object] | None) -> tuple[float, float]:
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + self.progress.epoch)
        order = self._draw(generator)
        self._rehearsal.train() if self._rehearsal else self.network.train()
        total = torch.zeros(3, device=self.device)
        with mixed_styles(self.network, self.config.mixstyle, generator):
            for step, chosen in enumerate(order.split(self.config.batch_size)[: self.steps_per_epoch], start=1):
                batch, labels, targets = self._batch(chosen, generator)
                loss, correct = self._step(batch, labels, targets, generator)
                total += torch.stack((loss, correct, (labels != OUTLIER).sum()))
                if on_step:
                    on_step(step)
        summed_loss, right, known = total.tolist()
        mean_loss, accuracy = summed_loss / self.steps_per_epoch, right / max(1.0, known)
        if not math.isfinite(mean_loss):
            raise DataError("diverged", "The training loss is not a number any more; try a smaller learning rate.")
        return mean_loss, accuracy

    @property
    def _finish(self) -> Finish | None:
        """How the last epochs differ, once one of them runs."""
        return self.config.finish if self.progress.epoch >= self.config.epochs_before_finish else None

    def _begin_finish(self, weights: dict[str, torch.Tensor]) -> None:
        """Begin the last epochs with these weights."""
        finish = self.config.finish
        if finish is None:
            return
        self._before_finish = weights
        self.network.load_state_dict(weights)
        epochs = self.config.epochs - self.config.epochs_before_finish
        config = self.config.model_copy(
            update={"learning_rate": finish.learning_rate, "epochs": epochs, "finish": None}
        )
        self._optimizer = _optimizer(self.network, config)
        self._schedule = _schedule(self._optimizer, config, self.steps_per_epoch)
        self._average = _average(self.network, config.averaging)

    def _draw(self, generator: torch.Generator) -> torch.Tensor:
        wanted = self.steps_per_epoch * self.config.batch_size
        if self._weights is not None:
            return torch.multinomial(self._weights, wanted, replacement=True, generator=generator)
        rounds = [torch.randperm(len(self.train), generator=generator) for _ in range(-(-wanted // len(self.train)))]
        return torch.cat(rounds)[:wanted]

    def _batch(
        self, chosen: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        pixels = self._pixels[chosen.to(self._pixels.device)].to(self.device, non_blocking=True)
        height, width = self.preprocessing.height, self.preprocessing.width
        augmentation = (self._finish or self.config).augmentation
        views = augment(augmentation, pixels, height, width, generator)
        batch = self.preprocessing.normalise(views).contiguous(memory_format=torch.channels_last)
        labels, targets = (part[chosen].to(self.device, non_blocking=True) for part in (self._labels, self._targets))
        return batch, labels, targets

    def _step(
        self, batch: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
            if self._rehearsal:
                logits, forgotten = self._rehearsal.forward(batch, generator)
            else:
                logits, forgotten = self.network(batch), 0.0
        loss = functional.cross_entropy(logits.float(), targets) + self.config.replay_weight * forgotten
        if self.config.energy_weight:
            loss = loss + self.config.energy_weight * _energy_loss(logits.float(), labels)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        if self._average:
            self._average.update_parameters(self.network)
        if self.config.schedule == "one-cycle":
            self._schedule.step()
        return loss.detach(), (logits.argmax(1) == labels).float().sum()

    def _validate(self) -> tuple[float, float] | tuple[None, None]:
        """Return loss and accuracy of the validation images, where there are any."""
        if self.validation is None:
            return None, None
        logits = predict_logits(self._judged, self.validation.inputs, self.preprocessing, self.config.batch_size)
        if not np.isfinite(logits).all():
            raise DataError("diverged", "The network's outputs are not numbers any more; try a smaller learning rate.")
        labels = self.validation.labels
        loss = functional.cross_entropy(torch.from_numpy(logits).double(), labels)
        return float(loss), float((torch.from_numpy(logits).argmax(1) == labels).float().mean())

    def _identity(self) -> dict[str, object]:
        return {
            "config": self.config.model_dump(mode="json"),
            "preprocessing": self.preprocessing.model_dump(mode="json"),
            "images": [_fingerprint(images) for images in (self.train, self.validation) if images],
            "origin": self.origin,
            "classes": list(self.class_names),
        }

    def _save(self) -> None:
        if self.checkpoint is None:
            return
        record = {"config": self._identity(), "progress": vars(self.progress)}
        record |= optimizer_record(self._optimizer, self._schedule)
        average = self._average.state_dict() if self._average else {}
        parts = {"network": self.network.state_dict(), "best": self._best, "average": average}
        parts["before_finish"] = self._before_finish
        save_checkpoint(self.checkpoint, parts, self._optimizer.state_dict()["state"], record)


def predict_logits(
    network: nn.Module, pixels: torch.Tensor, preprocessing: Preprocessing, batch_size: int
) -> NDArray[np.float32]:
    """Classify prepared images in evaluation mode; the network is left in it.

    Args:
        network: Network on any device.
        pixels: Prepared images, (N, H, W, 3) uint8.
        preprocessing: Record that the images were prepared with.
        batch_size: Images per forward pass.

    Returns:
        Logits, (N, C).
    """
    device = next(network.parameters()).device
    network.eval()
    logits: list[torch.Tensor] = []
    with torch.inference_mode():
        for part in pixels.split(batch_size):
            batch = preprocessing.normalise(part.to(device)).contiguous(memory_format=torch.channels_last)
            logits.append(forward(network, batch).logits.float().cpu())
    return torch.cat(logits).numpy()


def _targets(labels: torch.Tensor, num_classes: int, smoothing: float) -> torch.Tensor:
    """Return what the softmax shall be, (N, C) float32: smoothed one-hot rows, uniform for outliers."""
    one_hot = functional.one_hot(labels.clamp_min(0), num_classes).float()
    uniform = torch.full_like(one_hot, 1 / num_classes)
    return torch.where((labels == OUTLIER).unsqueeze(1), uniform, torch.lerp(one_hot, uniform, smoothing))


def _energy_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return how far energies are beyond their margins, squared, on average (Liu et al. 2020, arXiv:2010.03759)."""
    energies = -logits.logsumexp(dim=1)
    known = functional.relu(energies - _KNOWN_ENERGY)
    outliers = functional.relu(_OUTLIER_ENERGY - energies)
    return torch.where(labels == OUTLIER, outliers, known).square().mean()


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16, and does not only emulate it."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    known: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return device.type == "cpu" and bool(known.get("avx512_bf16") or known.get("amx_bf16"))


def _resident(pixels: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Move the images to a GPU that has room for them three times; elsewhere they stay where they are."""
    if device.type != "cuda":
        return pixels
    free, _ = torch.cuda.mem_get_info(device)
    return pixels.to(device) if free > 3 * pixels.nbytes else pixels


def _fingerprint(images: ImageSet) -> str:
    """SHA-256 of which images these are, and of their labels and sources."""
    digest = hashlib.sha256()
    for sample in images.samples:
        digest.update(f"{sample.path}\0{sample.label}\0{sample.source}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _optimizer(network: nn.Module, config: TrainingConfig) -> Adam | AdamW:
    kind = AdamW if config.optimizer == "adamw" else Adam
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return kind(trained, lr=config.learning_rate, weight_decay=config.weight_decay)


def _average(network: nn.Module, decay: float) -> AveragedModel | None:
    """Return the running average of the network's weights and statistics, where one is kept."""
    if not decay:
        return None
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


def _schedule(optimizer: Adam | AdamW, config: TrainingConfig, steps_per_epoch: int) -> LRScheduler:
    if config.schedule == "step":
        return StepLR(optimizer, config.step_size, config.gamma)
    return OneCycleLR(optimizer, config.learning_rate, total_steps=config.epochs_before_finish * steps_per_epoch + 1)


def _copy_state(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
