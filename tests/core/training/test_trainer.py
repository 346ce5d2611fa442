from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.special import softmax
from sklearn.metrics import log_loss

from core.data.augment import augment
from core.data.augmentation import Augmentation
from core.data.class_folders import Sample
from core.data.image_set import ImageSet
from core.errors import DataError, SettingsError
from core.images.preprocessing import Preprocessing
from core.model.network import build_network
from core.training.config import TrainingConfig
from core.training.trainer import Epoch, Trainer, _energy_loss, predict_logits

if TYPE_CHECKING:
    from pathlib import Path

PREPROCESSING = Preprocessing(height=32, width=32)


def images(count: int = 24) -> ImageSet:
    """Two classes that differ in brightness."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 2
    noise = torch.randint(0, 60, (count, 32, 32, 3), generator=generator)
    pixels = (noise + 120 * labels.view(-1, 1, 1, 1)).to(torch.uint8)
    samples = tuple(Sample(path=None, label=int(label), source=None) for label in labels)  # type: ignore[arg-type]
    return ImageSet(pixels, labels, torch.arange(count), samples)


def trainer(config: TrainingConfig, checkpoint: Path | None = None) -> Trainer:
    torch.manual_seed(0)
    data = images()
    return Trainer(
        build_network(2, architecture="test_efficientnet"),
        config,
        PREPROCESSING,
        data,
        data,
        ("DARK", "LIGHT"),
        checkpoint=checkpoint,
    )


def config(**changes: object) -> TrainingConfig:
    augmentation = Augmentation(brightness=0, contrast=0, saturation=0, hue=0)
    return TrainingConfig.model_validate(
        {"epochs": 4, "batch_size": 8, "learning_rate": 3e-4, "augmentation": augmentation} | changes
    )


def test_it_learns_and_keeps_the_best_weights() -> None:
    run = trainer(config(epochs=10, patience=10, learning_rate=1e-3))
    epochs: list[Epoch] = []
    run.fit(epochs.append)
    losses = [epoch.validation_loss for epoch in epochs]
    best = epochs[losses.index(min(losses))]
    assert [epoch.number for epoch in epochs if epoch.best][-1] == best.number
    assert best.validation_accuracy == 1.0
    logits = predict_logits(run.network, images().inputs, PREPROCESSING, 8)
    probabilities = softmax(logits.astype(np.float64), axis=1)
    assert log_loss(images().labels, probabilities) == pytest.approx(best.validation_loss, abs=1e-6)


def test_the_last_weights_are_retained_where_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    best, last = (trainer(config(keep=keep, epochs=3, patience=3)) for keep in ("best", "last"))
    losses = iter([(0.1, 1.0), (0.2, 1.0), (0.3, 1.0)] * 3)
    monkeypatch.setattr(Trainer, "_validate", lambda _: next(losses))  # the first epoch is the best
    for run in (best, last):
        run.fit()
    alone = trainer(config(keep="last", epochs=1))
    alone.fit()
    for one, three, kept in zip(
        alone.network.parameters(), last.network.parameters(), best.network.parameters(), strict=True
    ):
        torch.testing.assert_close(kept, one, atol=0, rtol=0)
        assert (three != one).any()


def test_the_same_seed_gives_the_same_weights() -> None:
    runs = [trainer(config(epochs=1)) for _ in range(2)]
    for run in runs:
        run.fit()
    for one, other in zip(runs[0].network.parameters(), runs[1].network.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=0)


@pytest.mark.parametrize("keep", ["best", "last"])
def test_the_average_of_the_weights_is_kept_and_validated(keep: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trainer(config(keep=keep, epochs=1, averaging=0.6))
    weights, steps = [], []
    inner = Trainer._step

    def step(self: Trainer, *batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        result = inner(self, *batch)
        weights.append({name: value.clone() for name, value in self.network.state_dict().items()})
        return result

    monkeypatch.setattr(Trainer, "_step", step)
    run.fit(steps.append)
    expected = weights[0]
    for later in weights[1:]:
        expected = {
            name: 0.6 * value + 0.4 * later[name] if value.is_floating_point() else value
            for name, value in expected.items()
        }
    for name, value in run.network.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=1e-5)
    logits = torch.from_numpy(predict_logits(run.network, images().inputs, PREPROCESSING, 8))
    loss = torch.nn.functional.cross_entropy(logits.double(), images().labels)
    assert float(loss) == pytest.approx(steps[0].validation_loss, abs=1e-6)


@pytest.mark.parametrize(
    ("schedule", "more"), [("step", {}), ("one-cycle", {}), ("one-cycle", {"averaging": 0.9, "mixstyle": 0.2})]
)
def test_a_killed_run_continues_to_the_same_weights(schedule: str, more: dict[str, float], tmp_path: Path) -> None:
    settings = config(epochs=3, schedule=schedule, step_size=1, gamma=0.5, **more)
    undisturbed = trainer(settings)
    undisturbed.fit()

    killed = trainer(settings, tmp_path / "c.safetensors")

    def kill(epoch: Epoch) -> None:
        if epoch.number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed.fit(kill)
    resumed = trainer(settings, tmp_path / "c.safetensors")
    assert resumed.resume()
    assert resumed.progress.epoch == 2
    resumed.fit()
    assert [row["epoch"] for row in resumed.progress.history] == [1, 2, 3]
    for one, other in zip(undisturbed.network.parameters(), resumed.network.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_resuming_with_other_settings_is_refused(tmp_path: Path) -> None:
    trainer(config(epochs=1), tmp_path / "c.safetensors").fit()
    with pytest.raises(SettingsError, match="other settings"):
        trainer(config(epochs=2), tmp_path / "c.safetensors").resume()


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.safetensors").write_bytes(b"\0" * 50)
    with pytest.raises(DataError, match="cannot be read"):
        trainer(config(), tmp_path / "c.safetensors").resume()


def test_nothing_to_resume_is_not_an_error(tmp_path: Path) -> None:
    assert not trainer(config(), tmp_path / "none.safetensors").resume()


def test_a_full_disk_while_saving_is_an_error_that_names_the_checkpoint(tmp_path: Path, small_disk: int) -> None:
    path = tmp_path / "c.safetensors"
    with pytest.raises(OSError, match=r"c\.safetensors") as full:
        trainer(config(epochs=1), path).fit()
    assert full.value.filename == str(path)
    assert small_disk
    assert list(tmp_path.iterdir()) == []


def test_patience_stops_early(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([(0.3, 1.0), (0.2, 1.0), (0.25, 1.0), (0.2, 1.0), (0.1, 1.0)])
    monkeypatch.setattr(Trainer, "_validate", lambda _: next(losses))
    run = trainer(config(epochs=5, patience=2))
    run.fit()
    assert (run.progress.epoch, run.progress.best_epoch) == (4, 2)


def test_a_loss_that_is_no_number_ends_the_run() -> None:
    with pytest.raises(DataError) as caught:
        trainer(config(learning_rate=1e30, epochs=6, patience=6)).fit()
    assert caught.value.code == "diverged"


def test_step_decay_is_the_notebooks() -> None:
    rates: list[float] = []
    trainer(config(epochs=3, step_size=2, gamma=0.1, patience=9)).fit(lambda epoch: rates.append(epoch.learning_rate))
    np.testing.assert_allclose(rates, [3e-4, 3e-4, 3e-5])


def test_balance_draws_rare_sources_as_often() -> None:
    data = images(20)
    sources = torch.tensor([0] * 17 + [1, 2, 3])
    labels = torch.tensor([0] * 17 + [0, 1, 1])
    skewed = ImageSet(data.pixels, labels, sources, data.samples)
    run = Trainer(
        build_network(2, architecture="test_efficientnet"),
        config(balance="source"),
        PREPROCESSING,
        skewed,
        skewed,
        ("A", "B"),
    )
    assert run._weights is not None
    share = run._weights / run._weights.sum()
    np.testing.assert_allclose([share[:17].sum(), share[17], share[18], share[19]], [0.25] * 4)


def test_augmentation_without_amounts_changes_nothing() -> None:
    still = Augmentation(
        horizontal_flip=False, vertical_flip=False, rotation=0, brightness=0, contrast=0, saturation=0, hue=0
    )
    pixels = images(4).pixels
    views = augment(still, pixels, 32, 32, torch.Generator().manual_seed(0))
    torch.testing.assert_close(views, pixels.permute(0, 3, 1, 2).float(), atol=1e-3, rtol=0)


def test_augmentation_is_decided_by_the_generator() -> None:
    views = [
        augment(Augmentation(rotation=90), images(4).pixels, 32, 32, torch.Generator().manual_seed(3)) for _ in "ab"
    ]
    torch.testing.assert_close(*views, atol=0, rtol=0)
    assert views[0].min() >= 0
    assert views[0].max() <= 255


def test_energies_of_outliers_are_kept_apart() -> None:
    losses = {}
    for labels in ((0, 1), (-1, -1)):
        logits = torch.tensor([[9.0, 0.0], [0.0, 9.0]]), torch.tensor([[0.0, 0.0], [0.5, 0.5]])
        losses[labels] = [float(_energy_loss(part, torch.tensor(labels))) for part in logits]
    assert losses[0, 1][0] == 0.0
    assert losses[-1, -1][1] == 0.0
    assert losses[0, 1][1] == pytest.approx(((6 - np.log(2)) ** 2 + (6 - 0.5 - np.log(2)) ** 2) / 2)
    assert losses[-1, -1][0] == pytest.approx((np.log(np.exp(9) + 1) - 3) ** 2, rel=1e-5)


def test_the_last_epochs_are_a_cycle_of_their_own_and_the_mean_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    contrasts: list[float] = []

    def watched(amounts: Augmentation, *given: Any) -> torch.Tensor:
        contrasts.append(amounts.contrast)
        return augment(amounts, *given)

    monkeypatch.setattr("core.training.trainer.augment", watched)
    finish = {"share": 0.4, "learning_rate": 1e-4, "augmentation": {"contrast": 0.1}}
    settings = config(epochs=5, finish=finish, batch_size=24, keep="last", schedule="one-cycle", averaging=0.5)
    run = trainer(settings)
    states: list[dict[str, torch.Tensor]] = []
    run.fit(lambda _: states.append({name: value.clone() for name, value in run._judged.state_dict().items()}))
    assert contrasts == [0.0, 0.0, 0.0, 0.1, 0.1]
    rates = [row["learning_rate"] for row in run.progress.history]
    assert rates[1] > rates[2]
    assert rates[2] < rates[3] <= 1e-4, "a cycle begins anew, at its own rate"
    for name, value in run.network.state_dict().items():
        if value.is_floating_point():
            assert torch.allclose(value, (states[2][name] + states[4][name]) / 2, atol=1e-6)
    for last in (3, 4):
        killed = trainer(settings, tmp_path / f"{last}")
        with pytest.raises(KeyboardInterrupt):
            killed.fit(lambda epoch, last=last: (_ for _ in ()).throw(KeyboardInterrupt) if epoch.number == last else 0)
        resumed = trainer(settings, tmp_path / f"{last}")
        assert resumed.resume()
        resumed.fit()
        for one, other in zip(run.network.parameters(), resumed.network.parameters(), strict=True):
            assert torch.equal(one, other)
    with pytest.raises(ValidationError, match="set keep to last"):
        config(finish=finish, keep="best")
