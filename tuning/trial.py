"""One trial, in its own process: core's training loop on images that all trials of a node share."""

from __future__ import annotations

import json
import time
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import torch
from ray import tune
from safetensors.torch import load_file, save_file

from core.data.image_set import ImageSet
from core.errors import DataError
from core.files import replacing
from core.model.network import build_network
from core.training.checkpoint import load_checkpoint
from core.training.trainer import Epoch, Trainer
from tuning.ledger import write_json
from tuning.space import configure

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from core.data.class_folders import Sample
    from core.training.recipe import Recipe

__all__ = ["WORST", "SharedImages", "TrialData", "keep_weights", "kept_weights", "run_trial"]

WORST = 1e6
"""What a trial without a usable loss reports, so that the search keeps away from its values."""

_NO_MEMORY = (
    "can't allocate memory",  # torch on a CPU
    "CUDA error: out of memory",  # the driver, as where a trial beside this one has taken the card
    "_STATUS_ALLOC_FAILED",  # cuBLAS and cuDNN
)
CHECKPOINT, WEIGHTS, OUTCOME = "checkpoint.safetensors", "weights.safetensors", "outcome.json"


@dataclass(frozen=True)
class SharedImages:
    """An `ImageSet` as arrays, which Ray hands to every process of a node without a copy.

    Attributes:
        pixels: (N, H, W, 3) uint8.
        labels: (N,) int64.
        sources: (N,) int64.
        domains: (N,) int64, or None.
        samples: Where each image came from.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    sources: NDArray[np.int64]
    domains: NDArray[np.int64] | None
    samples: tuple[Sample, ...]

    @classmethod
    def of(cls, images: ImageSet, pixels: torch.Tensor) -> SharedImages:
        """Take `pixels`, with or without their margin, and the rest from `images`."""
        domains = None if images.domains is None else images.domains.numpy()
        return cls(pixels.numpy(), images.labels.numpy(), images.sources.numpy(), domains, images.samples)

    @property
    def nbytes(self) -> int:
        """Size of the pixels."""
        return self.pixels.nbytes

    def view(self) -> ImageSet:
        """Return the images as tensors on the same memory, which nobody may write to."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            tensors = [torch.from_numpy(part) for part in (self.pixels, self.labels, self.sources)]
            domains = None if self.domains is None else torch.from_numpy(self.domains)
        return ImageSet(tensors[0], tensors[1], tensors[2], self.samples, domains=domains)


@dataclass(frozen=True)
class TrialData:
    """What every trial of a search shares.

    Attributes:
        recipe: What the trials vary.
        class_names: Names of the classes.
        train: Training images, with the recipe's margin.
        validation: What is looked at after every epoch, without margin.
        start: Weights that every trial starts from, as arrays by name.
        folder: Of the trials; every node reaches it under this path.
        device: Torch device.
        threads: Torch threads of each trial.
        origin: What else makes this search this search.
    """

    recipe: Recipe
    class_names: tuple[str, ...]
    train: SharedImages
    validation: SharedImages
    start: dict[str, NDArray[Any]]
    folder: Path
    device: str
    threads: int
    origin: str


def run_trial(config: dict[str, Any], data: TrialData) -> None:
    """Train with these values and report every epoch to Ray Tune.

    A trial whose folder holds a checkpoint goes on from it; one that has ended only repeats its last report.

    Args:
        config: Values of what is varied, by setting.
        data: What all trials share.
    """
    started = time.monotonic()
    folder = data.folder / tune.get_context().get_trial_id()
    if (outcome := folder / OUTCOME).exists():
        last = json.loads(outcome.read_text(encoding="utf-8"))
        tune.report(last | {"repeats": True, "score": WORST if last["score"] is None else last["score"]})
        return
    torch.set_num_threads(data.threads)
    cv2.setNumThreads(data.threads)
    progress = _Reporter(started)
    try:
        progress.train(_trainer(config, data, folder))
    except DataError as error:
        if error.code != "diverged":
            raise
        progress.end("diverged", error.message)
    except (MemoryError, RuntimeError) as error:
        if not _is_memory(error):
            raise
        said = " ".join(str(error).split()).rpartition("err == 0. ")[2]
        progress.end("out-of-memory", said.partition(" Error code")[0][:200] or "out of memory")
    finally:
        if data.device != "cpu":
            torch.cuda.empty_cache()


class _Reporter:
    """Turns epochs into reports."""

    def __init__(self, started: float) -> None:
        self._started = started
        self._first_step: float | None = None
        self._last: dict[str, Any] = {"epoch": 0, "score": WORST}

    def train(self, trainer: Trainer) -> None:
        """Train to the end, or from the checkpoint on."""
        if trainer.resume() and trainer.progress.history:
            self._report(trainer, trainer.progress.history[-1], repeats=True)

        def on_epoch(_epoch: Epoch) -> None:
            self._report(trainer, trainer.progress.history[-1], repeats=False)

        trainer.fit(on_epoch, self._on_step)

    def end(self, ends: str, reason: str) -> None:
        """Report that the trial has ended without a result."""
        tune.report(self._last | {"score": WORST, "ends": ends, "reason": reason, "repeats": True})

    def _on_step(self, _step: int) -> None:
        if self._first_step is None:
            self._first_step = time.monotonic() - self._started

    def _report(self, trainer: Trainer, row: Mapping[str, float], *, repeats: bool) -> None:
        progress, best = trainer.progress, trainer.config.keep == "best"
        done = progress.epoch >= trainer.config.epochs
        self._last = {
            **row,
            "epoch": int(row["epoch"]),
            "score": progress.best_loss if best else row["validation_loss"],
            "best_epoch": progress.best_epoch if best else progress.epoch,
            "first_step": self._first_step,
            "ends": "finished" if trainer.finished else "",
            "reason": "" if not trainer.finished else "all epochs" if done else "patience",
            "repeats": repeats,
        }
        tune.report(self._last)


def _trainer(config: dict[str, Any], data: TrialData, folder: Path) -> Trainer:
    network = build_network(len(data.class_names))
    network.load_state_dict({name: torch.tensor(value) for name, value in data.start.items()})
    return Trainer(
        network,
        configure(data.recipe.training, config),
        data.recipe.preprocessing,
        data.train.view(),
        data.validation.view(),
        data.class_names,
        device=data.device,
        checkpoint=folder / CHECKPOINT,
        origin=data.origin,
    )


def _is_memory(error: Exception) -> bool:
    """Whether the machine or the GPU ran out of memory, which not only torch's own allocator says."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(said in str(error) for said in _NO_MEMORY)


def keep_weights(folder: Path, outcome: Mapping[str, Any], *, usable: bool, keep: str) -> None:
    """Put what is needed of an ended trial in the place of its checkpoint, an eighth of its size.

    Args:
        folder: Of the trial.
        outcome: Its last report.
        usable: Whether its weights can become a bundle.
        keep: Which weights, ``best`` or ``last``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / CHECKPOINT
    if usable and checkpoint.exists():
        saved = load_checkpoint(checkpoint)
        state = saved.best if keep == "best" else saved.network
        rounded = {name: (value.half() if value.ndim > 1 else value).contiguous() for name, value in state.items()}
        with replacing(folder / WEIGHTS) as unfinished:
            save_file(rounded, unfinished, metadata={"format": "pt"})
    write_json(folder / OUTCOME, dict(outcome))
    checkpoint.unlink(missing_ok=True)


def kept_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return what `keep_weights` kept, float32 by name."""
    state = load_file(folder / WEIGHTS)
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
