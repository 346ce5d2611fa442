"""One trial, in its own process: core's training loop on images that all trials of a node share."""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import torch
from ray import tune

from core.errors import DataError
from core.model.network import build_network
from core.training.trainer import Epoch, Trainer
from runtime.training import take_cores
from tuning.checkpoints import TRAINER, WEIGHTS, newest_first, save_weights
from tuning.space import configure

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from core.training.recipe import Recipe
    from tuning.shared_images import SharedImages

__all__ = ["WORST", "TrialData", "run_trial"]

WORST = 1e6
"""What a trial without a usable loss reports, so that the search keeps away from its values."""

_NO_MEMORY = (
    "can't allocate memory",  # torch on a CPU
    "CUDA error: out of memory",  # the driver, as where a trial beside this one has taken the card
    "_STATUS_ALLOC_FAILED",  # cuBLAS and cuDNN
)


@dataclass(frozen=True)
class TrialData:
    """What every trial of a search shares.

    Attributes:
        recipe: Recipe that the trials vary.
        class_names: Names of the classes.
        train: Training images, with the recipe's margin.
        validation: Images that a trial is judged on after every epoch, without margin.
        starts: Weights that trials start from, as arrays by name, by architecture.
        device: Torch device.
        threads: Torch threads of each trial.
        origin: What else makes this search this search, for the trainer's checkpoint.
    """

    recipe: Recipe
    class_names: tuple[str, ...]
    train: SharedImages
    validation: SharedImages
    starts: dict[str, dict[str, NDArray[Any]]]
    device: str
    threads: int
    origin: str


def run_trial(config: dict[str, Any], data: TrialData) -> None:
    """Train with these values, and report every epoch to Ray Tune with a checkpoint.

    A trial that has a checkpoint goes on from it; one that had ended already reports its end again.

    Args:
        config: Values of what is varied, by setting.
        data: What all trials share.
    """
    started = time.monotonic()
    take_cores(data.threads)
    cv2.setNumThreads(data.threads)
    with tempfile.TemporaryDirectory(prefix="trial-") as folder:
        attempt = _Attempt(config, data, Path(folder), started)
        try:
            attempt.run()
        except DataError as error:
            if error.code != "diverged":
                raise
            attempt.end("diverged", error.message)
        except (MemoryError, RuntimeError) as error:
            if not _is_memory(error):
                raise
            said = " ".join(str(error).split()).rpartition("err == 0. ")[2]
            attempt.end("out-of-memory", said.partition(" Error code")[0][:200] or "out of memory")
        finally:
            if data.device != "cpu":
                torch.cuda.empty_cache()


class _Attempt:
    """One process's work on a trial: from its start, or from its last checkpoint, to its end."""

    def __init__(self, config: dict[str, Any], data: TrialData, folder: Path, started: float) -> None:
        self._config, self._data, self._folder, self._started = config, data, folder, started
        self._first_step: float | None = None
        self._last: dict[str, Any] = {"epoch": 0, "score": WORST, "history": ()}

    def run(self) -> None:
        """Train to the end, or from the checkpoint on."""
        known = tune.get_checkpoint()
        found = None if known is None else self._resume(known)
        if found is None:
            trainer = self._trainer()
        elif isinstance(found, Trainer):
            trainer = found
        else:
            tune.report(found)
            return

        def on_epoch(_epoch: Epoch) -> None:
            self._report(trainer)

        trainer.fit(on_epoch, self._on_step)

    def end(self, ends: str, reason: str) -> None:
        """Report that the trial has ended without a result."""
        tune.report(self._last | {"score": WORST, "ends": ends, "reason": reason})

    def _resume(self, known: tune.Checkpoint) -> Trainer | dict[str, Any] | None:
        """Return the trainer with the newest state that can be read, or the last report of a trial that had ended."""
        for checkpoint in newest_first(known):
            with checkpoint.as_directory() as saved:
                if not Path(saved, TRAINER).exists():
                    if report := checkpoint.get_metadata():
                        return report
                    continue
                shutil.copyfile(Path(saved, TRAINER), self._folder / TRAINER)
                trainer = self._trainer()
                try:
                    trainer.resume()
                except DataError as error:
                    if error.code != "checkpoint-damaged":
                        raise
                    continue  # the process was killed while it wrote this one
            if checkpoint.path != known.path:  # Ray Tune has not heard of this epoch
                self._report(trainer)
            return trainer
        (self._folder / TRAINER).unlink(missing_ok=True)
        return None

    def _trainer(self) -> Trainer:
        data, preprocessing = self._data, self._data.recipe.preprocessing
        config = configure(data.recipe.training, self._config)
        network = build_network(len(data.class_names), architecture=config.architecture, size=preprocessing.size)
        network.load_state_dict({name: torch.tensor(value) for name, value in data.starts[config.architecture].items()})
        return Trainer(
            network,
            config,
            preprocessing,
            data.train.view(),
            data.validation.view(),
            data.class_names,
            device=data.device,
            checkpoint=self._folder / TRAINER,
            origin=data.origin,
        )

    def _on_step(self, _step: int) -> None:
        if self._first_step is None:
            self._first_step = time.monotonic() - self._started

    def _report(self, trainer: Trainer) -> None:
        progress, best = trainer.progress, trainer.config.keep == "best"
        row = progress.history[-1]
        done = progress.epoch >= trainer.config.epochs
        self._last = {
            **row,
            "epoch": progress.epoch,
            "score": progress.best_loss if best else row["validation_loss"],
            "best_epoch": progress.best_epoch if best else progress.epoch,
            "first_step": self._first_step,
            "ends": "finished" if trainer.finished else "",
            "reason": "" if not trainer.finished else "all epochs" if done else "patience",
            "history": tuple(progress.history),  # a tuple, since TensorBoard's logger takes a list for a histogram
        }
        save_weights(self._folder / WEIGHTS, trainer.retained)
        checkpoint = tune.Checkpoint.from_directory(self._folder)
        checkpoint.set_metadata(self._last)
        tune.report(self._last, checkpoint=checkpoint)


def _is_memory(error: Exception) -> bool:
    """Whether the machine or the GPU ran out of memory, which not only torch's own allocator says."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(said in str(error) for said in _NO_MEMORY)
