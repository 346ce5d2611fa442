"""What a trial keeps on disk, and which of its checkpoints it goes on from; no Ray process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from ray.tune import Checkpoint

from tuning.checkpoints import TRAINER, WEIGHTS, load_weights, newest_first, release_trainer, save_weights

if TYPE_CHECKING:
    from pathlib import Path


def checkpoint(folder: Path, number: int) -> Checkpoint:
    path = folder / f"checkpoint_{number:06d}"
    path.mkdir(parents=True)
    (path / TRAINER).write_bytes(b"everything")
    save_weights(path / WEIGHTS, {"fc.weight": torch.ones(2, 3), "fc.bias": torch.full((2,), 1 / 3)})
    made = Checkpoint.from_directory(path)
    made.set_metadata({"epoch": number, "ends": "", "reason": ""})
    return made


def test_weights_come_back_as_a_bundle_stores_them(tmp_path: Path) -> None:
    state = load_weights(checkpoint(tmp_path, 1))
    assert {name: value.dtype for name, value in state.items()} == {
        "fc.weight": torch.float32,
        "fc.bias": torch.float32,
    }
    assert state["fc.bias"][0].item() == pytest.approx(1 / 3, abs=1e-8)


def test_an_ended_trial_keeps_its_weights_and_says_how_it_ended(tmp_path: Path) -> None:
    ended = checkpoint(tmp_path, 1)
    release_trainer(ended, {"ends": "stopped", "reason": "early stopping"})
    release_trainer(ended, {"ends": "stopped", "reason": "time budget"})  # the first word stays
    assert sorted(path.name for path in (tmp_path / "checkpoint_000001").iterdir()) == [".metadata.json", WEIGHTS]
    assert ended.get_metadata() == {"epoch": 1, "ends": "stopped", "reason": "early stopping"}
    assert set(load_weights(ended)) == {"fc.weight", "fc.bias"}


def test_an_ended_trial_loses_checkpoints_that_ray_tune_has_not_heard_of(tmp_path: Path) -> None:
    ended = checkpoint(tmp_path, 1)
    checkpoint(tmp_path, 2)
    release_trainer(Checkpoint(str(tmp_path / "checkpoint_000000"), ended.filesystem), {"ends": "stopped"})
    assert len(list(tmp_path.iterdir())) == 2, "the one that Ray Tune names is gone: the next is all there is"
    release_trainer(ended, {"ends": "stopped", "reason": "time budget"})
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint_000001"]


def test_the_newest_checkpoint_is_found_whichever_is_asked_for(tmp_path: Path) -> None:
    known = checkpoint(tmp_path, 4)
    checkpoint(tmp_path, 5)
    assert [found.path[-1] for found in newest_first(known)] == ["5", "4"]
    gone = Checkpoint(str(tmp_path / "checkpoint_000003"), known.filesystem)
    assert [found.path[-1] for found in newest_first(gone)] == ["5", "4"]
    nowhere = Checkpoint(str(tmp_path / "away" / "checkpoint_000003"), known.filesystem)
    assert newest_first(nowhere) == []
