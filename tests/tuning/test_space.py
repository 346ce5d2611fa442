"""The search space: what it takes, what it refuses, and that the recipe is in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError
from ray.tune.search.sample import Float

from core.errors import SettingsError
from core.settings import describe_problems
from core.training.recipe import load_recipe
from tuning.settings import SearchSettings
from tuning.space import configure, load_space

if TYPE_CHECKING:
    from pathlib import Path

STEP = load_recipe("cell-crop-step").training
ONE_CYCLE = load_recipe("cell-crop").training


def written(folder: Path, text: str) -> Path:
    path = folder / "space.yaml"
    path.write_text(text)
    return path


def test_the_default_is_learning_rate_weight_decay_and_step() -> None:
    space = load_space(None, STEP)
    assert set(space.domains) == {"learning_rate", "weight_decay", "step_size", "gamma"}
    assert space.values_of(STEP) == {name: getattr(STEP, name) for name in space.domains}
    assert space.smallest_step(STEP) == 2
    assert set(load_space(None, ONE_CYCLE).domains) == {"learning_rate", "weight_decay"}
    assert load_space(None, ONE_CYCLE).smallest_step(ONE_CYCLE) == 0


def test_numbers_that_yaml_takes_for_words(tmp_path: Path) -> None:
    domain = load_space(written(tmp_path, "learning_rate: {loguniform: [1e-4, 1e-2]}"), STEP).domains["learning_rate"]
    assert isinstance(domain, Float)
    assert (domain.lower, domain.upper) == (1e-4, 1e-2)


def test_a_grid_begins_with_the_recipe(tmp_path: Path) -> None:
    space = load_space(written(tmp_path, "gamma: {grid_search: [0.1, 0.5, 0.3]}"), STEP)
    assert space.is_grid
    assert space.domains["gamma"]["grid_search"][0] == STEP.gamma


def test_nested_settings(tmp_path: Path) -> None:
    space = load_space(written(tmp_path, "augmentation.stain: {uniform: [0, 0.2]}"), STEP)
    assert space.values_of(STEP) == {"augmentation.stain": STEP.augmentation.stain}
    assert configure(STEP, {"augmentation.stain": 0.1, "batch_size": 16}).augmentation.stain == 0.1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "names no setting"),
        ("[1", "cannot be read"),
        ("- learning_rate", "names no setting"),
        ("learning_rat: {uniform: [0, 1]}", "not a training setting"),
        ("augmentation.foo: {uniform: [0, 1]}", "not a training setting"),
        ("learning_rate: 0.1", "needs one of Ray Tune's domains"),
        ("learning_rate: {lognormal: [0, 1]}", "is not one of"),
        ("learning_rate: {sample_from: ['lambda: 1']}", "is not one of"),
        ("learning_rate: {uniform: 3}", "are a list"),
        ("learning_rate: {uniform: [1, 2, 3]}", "does not take"),
        ("learning_rate: {uniform: [a, b]}", "does not take"),
        ("learning_rate: {loguniform: [0, 1]}", "does not take"),
        ("learning_rate: {uniform: [-1, 1]}", "refuses"),
        ("gamma: {uniform: [0.1, 2]}", "refuses"),
        ("optimizer: {choice: [adamw, sgd]}", "refuses"),
        ("weight_decay: {randn: [0, 1]}", "refuses"),
        ("learning_rate: {loguniform: [0.01, 0.1]}", "outside the space"),
        ("batch_size: {choice: [64, 128]}", "outside the space"),
        ("epochs: {choice: [12]}", "--epochs"),
        ("augmentation.margin: {uniform: [1, 2]}", "decoded once"),
        ("gamma: {grid_search: [0.3]}\nlearning_rate: {uniform: [0.0001, 1]}", "for every setting"),
    ],
)
def test_what_cannot_be_searched_is_refused_with_a_sentence(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says) as caught:
        load_space(written(tmp_path, text), STEP)
    assert caught.value.code == "bad-space"


def test_a_step_without_steps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="does nothing"):
        load_space(written(tmp_path, "gamma: {uniform: [0.1, 1]}"), ONE_CYCLE)
    with pytest.raises(SettingsError, match="cannot be read"):
        load_space(tmp_path / "nowhere.yaml", STEP)


def test_credentials_do_not_stand_in_the_storage_uri() -> None:
    common = {"data": "cells", "out": "out"}
    assert SearchSettings.model_validate(common | {"storage": "s3://bucket/a@b"}).storage == "s3://bucket/a@b"
    with pytest.raises(ValidationError, match="give credentials by the environment") as refused:
        SearchSettings.model_validate(common | {"storage": "s3://KEY:SECRET@bucket/folder"})
    assert "SECRET" not in "".join(describe_problems(refused.value.errors()))
