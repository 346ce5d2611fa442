"""Images without labels: what they are taken for, how often they are drawn, what they teach."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from core.data.augmentation import Augmentation
from core.data.class_folders import Sample
from core.data.image_set import OUTLIER, UNLABELLED, ImageSet
from core.errors import SettingsError
from core.images.preprocessing import Preprocessing
from core.model.network import build_network
from core.training.config import TrainingConfig
from core.training.pseudo_labels import pseudo_targets
from core.training.trainer import Trainer, predict_logits

PREPROCESSING = Preprocessing(height=32, width=32)


class Known(nn.Module):
    """A network whose logits are the first pixels of its input."""

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return batch[:, :, 0, 0]


def test_only_sure_answers_teach_and_they_are_smoothed() -> None:
    batch = torch.zeros(3, 3, 2, 2)
    batch[0, 2], batch[1, 0], batch[2, 1] = 9.0, 0.5, 9.0
    targets = pseudo_targets(Known(), batch, 0.3)
    assert targets.tolist() == [pytest.approx(row) for row in ([0.1, 0.1, 0.8], [0, 0, 0], [0.1, 0.8, 0.1])]


def images(brighter: int, labels: torch.Tensor) -> ImageSet:
    """Two classes that differ in brightness, under a lamp of its own."""
    generator = torch.Generator().manual_seed(brighter)
    noise = torch.randint(0, 40, (len(labels), 32, 32, 3), generator=generator)
    pixels = (noise + brighter + 100 * (torch.arange(len(labels)) % 2).view(-1, 1, 1, 1)).to(torch.uint8)
    samples = tuple(Sample(path=None, label=int(label), source=None) for label in labels)  # type: ignore[arg-type]
    return ImageSet(pixels, labels, torch.arange(len(labels)), samples)


def trainer(data: ImageSet, **changes: object) -> Trainer:
    torch.manual_seed(0)
    plain = Augmentation(brightness=0, contrast=0, saturation=0, hue=0)
    given = {"epochs": 20, "step_size": 15, "batch_size": 8, "learning_rate": 1e-3, "keep": "last"}
    config = TrainingConfig.model_validate(
        given | {"augmentation": plain, "averaging": 0.8, "unlabelled_share": 0.3} | changes
    )
    network = build_network(2, architecture="test_efficientnet")
    return Trainer(network, config, PREPROCESSING, data, None, ("DARK", "LIGHT"))


def test_images_without_labels_are_learned_from_the_average() -> None:
    labels = torch.cat((torch.arange(24) % 2, torch.full((16,), UNLABELLED)))
    run = trainer(images(20, labels))
    run.fit()
    logits = predict_logits(run.network, images(20, labels).inputs, PREPROCESSING, 8)
    assert (torch.from_numpy(logits).argmax(1) == torch.arange(40) % 2).all()
    assert run.progress.history[-1]["train_accuracy"] > 0.9, "of those with labels"


def test_without_an_average_nobody_says_what_they_are() -> None:
    labels = torch.tensor([0, 1, OUTLIER, UNLABELLED] * 4)
    with pytest.raises(SettingsError, match="averaging"):
        trainer(images(20, labels), averaging=0.0)
