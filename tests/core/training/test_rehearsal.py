"""Features that a bundle keeps: what they are, that they are shown again, and that they keep what was learned."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import pytest
import torch

from core.data.augmentation import Augmentation
from core.data.class_folders import Sample
from core.data.image_set import ImageSet
from core.errors import BundleError
from core.images.preprocessing import Preprocessing
from core.model.network import build_network
from core.model.record import REPLAY
from core.model.replay import Replay, inner_layer, record_replay
from core.training.config import TrainingConfig
from core.training.rehearsal import Rehearsal, _with_stored, remembered
from core.training.trainer import Trainer, predict_logits

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

PREPROCESSING = Preprocessing(height=32, width=32)
PROBE = torch.zeros(1, 3, 32, 32)


def images(low: int, high: int, count: int = 40) -> ImageSet:
    """Two classes that differ in brightness."""
    generator = torch.Generator().manual_seed(low)
    labels = torch.arange(count) % 2
    levels = torch.where(labels == 1, high, low).view(-1, 1, 1, 1)
    pixels = (torch.randint(0, 30, (count, 32, 32, 3), generator=generator) + levels).to(torch.uint8)
    samples = tuple(Sample(path=None, label=int(label), source=None) for label in labels)  # type: ignore[arg-type]
    return ImageSet(pixels, labels, torch.arange(count), samples)


def trainer(network: nn.Module, data: ImageSet, replay: Replay | None = None, **changes: object) -> Trainer:
    plain = Augmentation(brightness=0, contrast=0, saturation=0, hue=0)
    given = {"epochs": 10, "batch_size": 8, "learning_rate": 3e-3, "keep": "last", "augmentation": plain}
    config = TrainingConfig.model_validate(given | {"replay_weight": 1.0} | changes)
    return Trainer(network, config, PREPROCESSING, data, None, ("DARK", "LIGHT"), replay=replay)


def right(network: nn.Module, data: ImageSet) -> float:
    logits = predict_logits(network, data.inputs, PREPROCESSING, 8)
    return float((torch.from_numpy(logits).argmax(1) == data.labels).float().mean())


@pytest.fixture(scope="module")
def learned() -> nn.Module:
    torch.manual_seed(0)
    run = trainer(build_network(2, architecture="test_efficientnet"), images(20, 90))
    run.fit()
    return run.network


def recorded(network: nn.Module, data: ImageSet) -> Replay:
    batches = (PREPROCESSING.normalise(part) for part in data.inputs.split(16))
    replay = record_replay(network, batches, data.labels)
    assert replay is not None
    return replay


def test_the_stored_layer_is_the_last_one_before_the_last_halving() -> None:
    assert inner_layer(build_network(4)) == "layer3"
    assert inner_layer(build_network(4, architecture="tf_efficientnet_lite0")) == "blocks.4"
    assert inner_layer(build_network(4, architecture="vit_tiny_patch16_224")) is None
    vit = build_network(4, architecture="vit_tiny_patch16_224")
    assert record_replay(vit, [torch.zeros(1, 3, 224, 224)], torch.zeros(1).long()) is None


def test_stored_features_give_the_stored_answers(learned: nn.Module) -> None:
    replay = recorded(learned, images(20, 90))
    with torch.inference_mode():
        logits = _with_stored(learned, replay, torch.arange(len(replay)), PROBE)
    assert torch.allclose(logits[1:], replay.logits, atol=0.1), "256 levels per channel"
    twice = replay.joined(recorded(learned, images(20, 160)))
    assert len(twice) == 80
    assert torch.allclose(twice.values(torch.arange(40)), replay.values(torch.arange(40)), atol=float(twice.step.max()))


def test_what_was_learned_is_kept_where_it_is_shown_again(learned: nn.Module) -> None:
    """The new laboratory calls the old one's light cells dark."""
    old, new = images(20, 90), images(90, 170)
    replay = recorded(learned, old)
    networks: list[nn.Module] = []
    for kept in (None, replay):
        network = build_network(2, architecture="test_efficientnet")
        network.load_state_dict(learned.state_dict())
        run = trainer(network, new, kept)
        run.fit()
        networks.append(run.network)
    forgot, kept_it = networks
    before = dict(learned.state_dict())
    stem = [name for name in before if name.startswith(("conv_stem", "bn1", "blocks.0"))]
    assert stem
    assert all(torch.equal(kept_it.state_dict()[name], before[name]) for name in stem), "statistics too"
    count = remembered(kept_it, replay, PROBE)
    assert count.images == 8
    assert count.before == 8
    assert count.after >= remembered(forgot, replay, PROBE).after
    distance = [
        float((torch.from_numpy(predict_logits(n, old.inputs, PREPROCESSING, 8)) - replay.logits).abs().mean())
        for n in networks
    ]
    assert distance[1] < distance[0] / 2


def test_a_rehearsal_gives_the_batchs_logits_first(learned: nn.Module) -> None:
    replay = recorded(learned, images(20, 90))
    rehearsal = Rehearsal(copy.deepcopy(learned), replay, PROBE)
    batch = PREPROCESSING.normalise(images(20, 90).inputs[:4])
    logits, distance = rehearsal.forward(batch, torch.Generator().manual_seed(0))
    assert torch.allclose(logits, learned(batch), atol=1e-4)
    assert float(distance.detach()) < 0.01


def test_a_damaged_file_is_refused(learned: nn.Module, tmp_path: Path) -> None:
    replay = recorded(learned, images(20, 90))
    content = replay.to_bytes()
    record = replay.record(content)
    with pytest.raises(BundleError, match="cannot be read"):
        Replay.load(tmp_path, record)
    (tmp_path / REPLAY).write_bytes(content)
    loaded = Replay.load(tmp_path, record)
    assert loaded.layer == replay.layer
    assert torch.equal(loaded.features, replay.features)
    assert torch.equal(loaded.labels, replay.labels)
    (tmp_path / REPLAY).write_bytes(content[:-1] + b"\x01")
    with pytest.raises(BundleError, match="not the file"):
        Replay.load(tmp_path, record)
