"""How the held out images are divided: what the best trial is measured on has no source that it was chosen on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from drawn import draw_class_folders

from core.training.run import TrainingRun, TrainingSettings
from tuning.preparation import Prepared
from tuning.space import load_space

if TYPE_CHECKING:
    from pathlib import Path


def prepared(folder: Path, **more: Any) -> Prepared:
    options = {"data": folder / "cells", "recipe": str(folder / "recipe.json"), "weights": "none"}
    settings = TrainingSettings.model_validate(options | {"groups": str(folder / "groups.csv")} | more)
    run = TrainingRun.prepare(settings)
    return Prepared.of(run, load_space(None, run.recipe.training))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("prepared")
    draw_class_folders(root, 6, recipe="cell-crop-step", training={})
    return root


def test_chosen_and_measured_on_different_sources(folder: Path) -> None:
    made = prepared(folder, validation_share=0.33)
    images = made.run.images
    chosen, measured = (set(images.sources[rows].tolist()) for rows in (made.choosing, made.measuring))
    assert made.nested
    assert chosen
    assert measured
    assert not chosen & measured
    assert sorted([*made.choosing, *made.measuring]) == list(range(len(images)))
    for rows in (made.choosing, made.measuring):  # every class is on both sides
        assert set(images.labels[rows].tolist()) == set(range(len(made.run.data.class_names)))
    assert set(made.watched.sources.tolist()) == chosen
    assert not set(made.train.sources.tolist()) & (chosen | measured)


def test_too_few_sources_are_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = prepared(folder, validation_share=0.15)  # one source of each class
    assert not made.nested
    assert made.choosing == made.measuring
    assert not made.counts.nested
    assert "too few sources to measure the best trial on others" in capsys.readouterr().err
