"""Rehearsal: training goes on while what was learned before is shown again, from features kept in the bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from core.model.record import Remembered

if TYPE_CHECKING:
    from core.model.replay import Replay

__all__ = ["Rehearsal", "remembered"]

_HELD_BACK = 5
"""Of so many stored images one is not shown: what is forgotten is measured on it."""


class Rehearsal:
    """Shows a network stored features beside each batch, and asks for the answers that they had.

    The layers below the stored ones are frozen, so that the features stay what those layers would give.

    Args:
        network: The network, as it was when the features were stored, on the device that it is trained on.
        replay: The stored features.
        probe: An input, (1, 3, H, W) float32.
        ratio: Stored images shown beside each image of a batch.
    """

    def __init__(self, network: nn.Module, replay: Replay, probe: torch.Tensor, ratio: int = 1) -> None:
        self._network, self._replay, self._ratio = network, replay, ratio
        self._below = _called_before(network, network.get_submodule(replay.layer), probe)
        for module in self._below:
            module.requires_grad_(requires_grad=False)
        rows = torch.arange(len(replay))
        self._shown = rows[rows % _HELD_BACK != 0]

    def train(self) -> None:
        """Put the network into training mode, but for what is frozen."""
        self._network.train()
        for module in self._below:
            module.eval()

    def forward(self, batch: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the network on a batch and on stored images.

        Args:
            batch: Normalised input, (N, 3, H, W) float32.
            generator: CPU generator that chooses the stored images.

        Returns:
            The batch's logits (N, C), and the mean squared distance of the other logits from what they were.
        """
        chosen = torch.randint(len(self._shown), (self._ratio * len(batch),), generator=generator)
        rows = self._shown[chosen]
        logits = _with_stored(self._network, self._replay, rows, batch)
        wanted = self._replay.logits[rows].to(logits.device)
        return logits[: len(batch)], functional.mse_loss(logits[len(batch) :].float(), wanted)


def remembered(network: nn.Module, replay: Replay, probe: torch.Tensor) -> Remembered:
    """Count what a network still knows, on stored images of known classes that a `Rehearsal` does not show.

    Args:
        network: The network as it is now; it is put into evaluation mode.
        replay: The stored features.
        probe: An input, (1, 3, H, W) float32.
    """
    rows = torch.arange(0, len(replay), _HELD_BACK)
    rows = rows[replay.labels[rows] >= 0]
    with torch.inference_mode():
        now = _with_stored(network.eval(), replay, rows, probe)[len(probe) :].argmax(1).cpu()
    labels = replay.labels[rows]
    return Remembered(
        images=len(rows),
        before=int((replay.logits[rows].argmax(1) == labels).sum()),
        after=int((now == labels).sum()),
    )


def _with_stored(network: nn.Module, replay: Replay, rows: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
    """Return the logits of a batch, and after them those of stored images."""
    features = replay.values(rows).to(batch.device)

    def append(_module: nn.Module, _given: object, output: torch.Tensor) -> torch.Tensor:
        return torch.cat((output.detach(), features.to(output.dtype)))

    hook = network.get_submodule(replay.layer).register_forward_hook(append)
    try:
        return network(batch)
    finally:
        hook.remove()


def _called_before(network: nn.Module, stage: nn.Module, probe: torch.Tensor) -> list[nn.Module]:
    """Return the modules that a forward pass has run through once it leaves a stage."""
    called: list[nn.Module] = []
    left: list[nn.Module] = []

    def see(module: nn.Module, _given: object, _output: object) -> None:
        if not left:
            called.append(module)

    hooks = [module.register_forward_hook(see) for module in network.modules()]
    hooks.append(stage.register_forward_hook(lambda module, _given, _output: left.append(module)))
    try:
        with torch.inference_mode():
            network.eval()(probe)
    finally:
        for hook in hooks:
            hook.remove()
    return called
