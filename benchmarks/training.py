"""Does the input pipeline hold the network back? Ratios taken side by side in one run.

Step rate of the training loop (sampling, augmentation, normalisation, labels) beside the bare network's on one
batch of tensors that is already in memory, with the same network, optimizer, precision and threads.

    python benchmarks/training.py DATA [--recipe cell-crop] [--rounds 5]
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch.nn import functional
from torch.optim import AdamW

from core.data.class_folders import read_class_folders
from core.data.image_set import load_images
from core.finding.search import CellSearch
from core.model.network import build_network
from core.training.recipe import load_recipe
from core.training.trainer import Epoch, Trainer, has_bfloat16
from runtime.training import take_cores


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="class folders")
    parser.add_argument("--recipe", default="cell-crop")
    parser.add_argument("--images", type=int, default=640, help="images that are loaded")
    parser.add_argument("--steps", type=int, default=30, help="steps per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    take_cores(None)
    recipe = load_recipe(options.recipe)
    data = read_class_folders(options.data)
    chosen = data.samples[:: max(1, len(data.samples) // options.images)]
    started = time.perf_counter()
    images = load_images(chosen, CellSearch(recipe.preprocessing), margin=recipe.training.augmentation.margin)
    decoding = (time.perf_counter() - started) / len(images)
    count = options.steps * recipe.training.batch_size
    changed = {"samples_per_epoch": count, "epochs": options.rounds + 1, "keep": "last"}
    config = recipe.training.model_copy(update=changed)
    network = build_network(len(data.class_names), architecture=config.architecture, size=recipe.preprocessing.size)
    trainer = Trainer(network, config, recipe.preprocessing, images, None, data.class_names, device=options.device)
    bare = _BareSteps(trainer)
    loop: list[float] = []
    alone: list[float] = []

    def after(epoch: Epoch) -> None:
        """Run as many bare steps as the epoch had; the first round of both warms up."""
        seconds = bare.run(options.steps)
        if epoch.number > 1:
            loop.append(count / epoch.seconds)
            alone.append(count / seconds)
            print(f"loop {loop[-1]:,.1f}, bare steps {alone[-1]:,.1f} images/s, ratio {loop[-1] / alone[-1]:.3f}")

    trainer.fit(after)
    print(
        f"training loop against steps on tensors in memory: {statistics.median(map(_ratio, loop, alone)):.3f}"
        f" (medians {statistics.median(loop):,.1f} and {statistics.median(alone):,.1f} images/s); decoding and"
        f" cropping, once per run: {1e3 * decoding:.1f} ms per image"
    )


def _ratio(one: float, other: float) -> float:
    return one / other


class _BareSteps:
    """Forward, backward and optimizer step on one batch that is ready, with a copy of the trainer's network."""

    def __init__(self, trainer: Trainer) -> None:
        self._network = copy.deepcopy(trainer.network)
        self._device = trainer.device
        self._autocast = trainer.config.precision == "auto" and has_bfloat16(trainer.device)
        self._optimizer = AdamW(self._network.parameters(), lr=1e-4)
        shape = (trainer.config.batch_size, 3, trainer.preprocessing.height, trainer.preprocessing.width)
        self._batch = torch.randn(shape, device=self._device).contiguous(memory_format=torch.channels_last)
        self._labels = torch.zeros(shape[0], dtype=torch.long, device=self._device)

    def run(self, steps: int) -> float:
        """Take that many steps; return the seconds."""
        self._network.train()
        started = time.perf_counter()
        for _ in range(steps):
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._autocast):
                logits = self._network(self._batch)
            loss = functional.cross_entropy(logits.float(), self._labels)
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self._optimizer.step()
        float(loss.detach())  # waits for a GPU
        return time.perf_counter() - started


if __name__ == "__main__":
    main()
