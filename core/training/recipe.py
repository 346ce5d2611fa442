"""Recipes: ways to train, as data."""

from __future__ import annotations

import json
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from core.errors import SettingsError
from core.images.preprocessing import Preprocessing
from core.settings import Settings, describe_problems
from core.training.config import TrainingConfig

__all__ = ["Recipe", "load_recipe"]


class Recipe(Settings):
    """A way to train: what the network sees and how it learns."""

    preprocessing: Preprocessing = Field(description="what the network sees of a picture")
    training: TrainingConfig = Field(description="how the network learns")


def load_recipe(
    name: str, overrides: dict[str, Any] | None = None, preprocessing: Preprocessing | None = None
) -> Recipe:
    """Read a recipe by name or from a file, with single training settings replaced.

    Args:
        name: Name of a recipe in ``core/training/recipes``, or a path that ends in ``.json``.
        overrides: Training settings by name; None leaves the recipe's.
        preprocessing: What the network sees instead of the recipe's; ``adapt`` has none of its own.

    Example:
        >>> load_recipe("cell-crop", {"epochs": 5}).training.epochs
        5

    Raises:
        SettingsError: With code ``bad-recipe``.
    """
    with as_file(files("core.training").joinpath("recipes")) as folder:
        path = Path(name) if name.endswith(".json") else folder / f"{name}.json"
        known = ", ".join(sorted(entry.stem for entry in folder.glob("*.json")))
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if preprocessing is not None:
                content["preprocessing"] = preprocessing.model_dump(mode="json")
            content["training"] |= {key: value for key, value in (overrides or {}).items() if value is not None}
            return Recipe.model_validate(content)
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = describe_problems(error.errors())[0] if isinstance(error, ValidationError) else error
            raise SettingsError(
                "bad-recipe", f"The recipe {name!r} is neither known ({known}) nor a usable file: {reason}"
            ) from error
