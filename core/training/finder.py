"""Training the finder of white cells on marked fields."""

from __future__ import annotations

import copy
import hashlib
import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import Field
from torch.nn import functional
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.ops import generalized_box_iou_loss

from core.data.augment import augment
from core.data.augmentation import Augmentation
from core.errors import DataError
from core.finding.network import FinderNetwork
from core.finding.torch_finder import normalise
from core.finding.views import draw_views, targets_of
from core.settings import Settings
from core.training.checkpoint import load_optimizer, optimizer_record, resumed, save_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from core.finding.marked import MarkedField
    from core.finding.views import Targets, Views

__all__ = ["FinderConfig", "FinderTrainer"]

_SAVED_EVERY = 100
_CLIP = 5.0


def _strong_variation() -> Augmentation:
    return Augmentation.model_validate(
        {
            "horizontal_flip": False,
            "vertical_flip": False,
            "rotation": 0,
            "brightness": 0.2,
            "contrast": 0.3,
            "saturation": 0.5,
            "hue": 0.15,
            "density": 0.5,
            "stain": 0.3,
            "illumination": 0.2,
            "blur": 2.0,
            "noise": 8,
            "mild_share": 0.4,
        }
    )


class FinderConfig(Settings):
    """Everything that decides how a finder is trained."""

    steps: int = Field(2000, ge=1, description="training steps")
    batch_size: int = Field(16, ge=1, description="views per step")
    side: int = Field(256, ge=64, le=1024, multiple_of=32, description="height and width of a view in pixels")
    learning_rate: float = Field(3e-3, gt=0, description="largest learning rate of the one cycle")
    weight_decay: float = Field(1e-2, ge=0, description="decoupled weight decay")
    averaging: float = Field(0.995, ge=0, lt=1, description="decay per step of the running average that is kept")
    seed: int = Field(0, ge=0, description="seed of weights and views")
    augmentation: Augmentation = Field(default_factory=_strong_variation, description="colours, light, blur and noise")


class FinderTrainer:
    """Trains a finder; resumable after every hundred steps.

    Args:
        fields: Marked fields.
        config: Settings.
        shares: How often each laboratory's fields are drawn, relative to the others'; evenly where none is named.
        device: Torch device.
        checkpoint: File that holds the state.
        origin: Words that say what the network begins with; a checkpoint continues only a run that began alike, on
            the same fields.
        start: Network to start from; otherwise random weights.
    """

    def __init__(
        self,
        fields: Sequence[MarkedField],
        config: FinderConfig,
        shares: dict[str, float] | None = None,
        *,
        device: torch.device | str = "cpu",
        checkpoint: Path | None = None,
        origin: str = "",
        start: FinderNetwork | None = None,
    ) -> None:
        self.config, self.step = config, 0
        self._fields, self._device, self._checkpoint, self._origin = fields, torch.device(device), checkpoint, origin
        self._shares = dict(sorted((shares or {}).items()))
        self._likely = _likely(fields, self._shares)
        torch.manual_seed(config.seed)
        network = copy.deepcopy(start) if start else FinderNetwork()
        self._network = network.to(self._device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self._average = AveragedModel(
            self._network, multi_avg_fn=get_ema_multi_avg_fn(config.averaging), use_buffers=True
        )
        self._optimizer = AdamW(self._network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        self._schedule = OneCycleLR(self._optimizer, config.learning_rate, total_steps=config.steps + 1)

    @property
    def network(self) -> FinderNetwork:
        """The running average of the weights, in evaluation mode."""
        average = self._average.module.eval()
        assert isinstance(average, FinderNetwork)  # noqa: S101 - what the constructor gave it
        return average

    def fit(self, on_step: Callable[[int, float], object] | None = None) -> None:
        """Train to the last step.

        Args:
            on_step: Called after every step with its number and the loss.

        Raises:
            DataError: With code ``diverged`` where the loss stops being a number.
        """
        while self.step < self.config.steps:
            loss = self._take_step()
            if not math.isfinite(loss):
                raise DataError("diverged", "The training loss is not a number any more; try a smaller learning rate.")
            self.step += 1
            if self.step % _SAVED_EVERY == 0 or self.step == self.config.steps:
                self._save()
            if on_step:
                on_step(self.step, loss)

    def resume(self) -> bool:
        """Continue from the checkpoint, if there is one; return whether there was.

        Raises:
            SettingsError: With code ``resume-mismatch`` where the checkpoint is of another run.
            DataError: With code ``checkpoint-damaged``.
        """
        saved = resumed(self._checkpoint, self._identity())
        if saved is None:
            return False
        self._network.load_state_dict(saved.network)
        self._average.load_state_dict(saved.average)
        load_optimizer(saved, self._optimizer, self._schedule)
        self.step = int(saved.record["step"])
        return True

    def _take_step(self) -> float:
        rng = np.random.default_rng((self.config.seed, self.step))
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + self.step)
        views = draw_views(
            lambda: self._fields[rng.choice(len(self._fields), p=self._likely)],
            self.config.batch_size,
            self.config.side,
            rng,
        )
        targets = targets_of(views)
        pixels = torch.from_numpy(views.pixels).to(self._device)
        side = self.config.side
        batch = normalise(augment(self.config.augmentation, pixels, side, side, generator))
        self._network.train()
        loss = _loss(self._network(batch).float(), _on(targets, self._device), views)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._network.parameters(), _CLIP)
        self._optimizer.step()
        self._schedule.step()
        self._average.update_parameters(self._network)
        return float(loss.detach())

    def _identity(self) -> dict[str, object]:
        content = hashlib.sha256()
        for field in self._fields:
            content.update(f"{field.file.laboratory}/{field.file.path.name}/{field.pixels.shape}".encode())
            content.update(field.boxes.tobytes())
        return {
            "config": self.config.model_dump(mode="json"),
            "origin": self._origin,
            "fields": content.hexdigest(),
            "shares": self._shares,
        }

    def _save(self) -> None:
        if self._checkpoint is None:
            return
        parts = {"network": self._network.state_dict(), "average": self._average.state_dict()}
        record = {"config": self._identity(), "step": self.step} | optimizer_record(self._optimizer, self._schedule)
        save_checkpoint(self._checkpoint, parts, self._optimizer.state_dict()["state"], record)


def _likely(fields: Sequence[MarkedField], shares: dict[str, float]) -> np.ndarray:
    """Return how likely each field is to be drawn: laboratories by their shares, the fields of one alike."""
    names, counts = np.unique([field.file.laboratory for field in fields], return_counts=True)
    weights = {str(name): shares.get(str(name), 1.0) / count for name, count in zip(names, counts, strict=True)}
    likely = np.array([weights[field.file.laboratory] for field in fields])
    return likely / likely.sum()


def _on(targets: Targets, device: torch.device) -> Targets:
    return type(targets)(*(part.to(device) for part in targets))


def _loss(output: torch.Tensor, targets: Targets, views: Views) -> torch.Tensor:
    """Return the loss of scores (penalty-reduced focal loss, CenterNet) and of boxes (Rezatofighi et al. 2019)."""
    cells = max(1, sum(len(boxes) for boxes in views.boxes))
    logit, peaks = output[:, 0], targets.peaks
    score = logit.sigmoid()
    middle = peaks == 1
    found = functional.logsigmoid(logit) * (1 - score) ** 2
    absent = functional.logsigmoid(-logit) * score**2 * (1 - peaks) ** 4
    scores = -(torch.where(middle, found, absent) * targets.counts).sum() / cells
    places = targets.weight > 0
    if not places.any():
        return scores + 0 * output[:, 1:].sum()
    weight = targets.weight[places]
    guess = output[:, 1:].permute(0, 2, 3, 1)[places].clamp_max(6.0).exp()
    truth = targets.reach.permute(0, 2, 3, 1)[places]
    signs = output.new_tensor([-1.0, -1.0, 1.0, 1.0])
    boxes = (generalized_box_iou_loss(guess * signs, truth * signs) * weight).sum() / weight.sum()
    return scores + 2 * boxes
