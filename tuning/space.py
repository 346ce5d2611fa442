"""The search space: a YAML file of training settings and Ray Tune's domains."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from pydantic import ValidationError
from ray import tune
from ray.tune.search.sample import Categorical, Domain, Float, Integer

from core.errors import SettingsError
from core.training.config import TrainingConfig

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["DEFAULT", "Space", "configure", "load_space"]

DEFAULT = Path(__file__).resolve().parent / "space.yaml"

_DOMAINS = (
    *("uniform", "quniform", "loguniform", "qloguniform", "randn", "qrandn"),
    *("randint", "qrandint", "lograndint", "qlograndint", "choice", "grid_search"),
)
_FIXED = {
    "epochs": "it is what early stopping counts; give --epochs",
    "seed": "trials are compared at one seed; give --seed",
    "keep": "trials are compared by the weights that they keep",
    "augmentation.margin": "the images are decoded once, with one margin",
}
_ONLY_STEP = ("step_size", "gamma")
_DRAWS = 200


@dataclass(frozen=True)
class Space:
    """What a search varies.

    Attributes:
        domains: Tune's domain, or ``{"grid_search": [...]}``, by setting; ``augmentation.NAME`` for the augmentation.
        text: The same as it was written, by setting: what a resumed search is compared by.
    """

    domains: dict[str, Any]
    text: dict[str, Any]

    @property
    def is_grid(self) -> bool:
        """Whether any setting is a grid."""
        return any(isinstance(domain, dict) for domain in self.domains.values())

    @property
    def has_normal(self) -> bool:
        """Whether any setting is normally distributed, which Optuna cannot propose."""
        return any(isinstance(domain, Float) and _is_normal(domain) for domain in self.domains.values())

    @property
    def architectures(self) -> list[str]:
        """Architectures that are tried, where they are varied."""
        domain = self.domains.get("architecture")
        return [] if domain is None else list(domain["grid_search"] if isinstance(domain, dict) else domain.categories)

    def smallest_step(self, config: TrainingConfig) -> int:
        """Return the fewest epochs before a StepLR schedule of the space decays; 0 with another schedule."""
        if config.schedule != "step":
            return 0
        domain = self.domains.get("step_size")
        return config.step_size if domain is None else int(min(_ends(domain)))

    def values_of(self, config: TrainingConfig) -> dict[str, Any]:
        """Return a configuration's own values of what is varied: the search's first trial."""
        return {name: _look_up(config.model_dump(), name) for name in self.domains}


def load_space(path: Path | None, config: TrainingConfig) -> Space:
    """Read a space and check every value that it can draw.

    Args:
        path: A YAML file; None for learning rate, weight decay and, with StepLR, its step size and gamma.
        config: The recipe's training configuration, which the space varies.

    Raises:
        SettingsError: With code ``bad-space``.
    """
    text = _read(path or DEFAULT)
    if path is None and config.schedule != "step":
        text = {name: value for name, value in text.items() if name not in _ONLY_STEP}
    grids = [isinstance(value, dict) and "grid_search" in value for value in text.values()]
    if any(grids) and not all(grids):
        raise SettingsError("bad-space", "A grid has grid_search for every setting, or for none.")
    space = Space({name: _domain(name, value) for name, value in text.items()}, text)
    for name, domain in space.domains.items():
        _check(name, domain, config, varied=set(text))
        if isinstance(domain, dict):  # the recipe's own value first, so that the first trial is the recipe
            own = _look_up(config.model_dump(), name)
            domain["grid_search"].sort(key=lambda value, own=own: value != own)
    return space


def configure(config: TrainingConfig, values: Mapping[str, Any]) -> TrainingConfig:
    """Return the configuration with some settings replaced.

    Args:
        config: The recipe's.
        values: Values by setting; ``augmentation.NAME`` for the augmentation.

    Raises:
        SettingsError: With code ``bad-space`` where a setting refuses its value.
    """
    content = config.model_dump()
    for name, value in values.items():
        *parents, last = name.split(".")
        owner = content
        for parent in parents:
            owner = owner[parent]
        owner[last] = value.item() if isinstance(value, np.generic) else value
    try:
        return TrainingConfig.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SettingsError(
            "bad-space", f"The search space draws a value that {where} refuses: {first['msg']}."
        ) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise SettingsError("bad-space", f"The search space {path} cannot be read: {reason}") from error
    if not isinstance(content, dict) or not content:
        raise SettingsError("bad-space", f"The search space {path} names no setting; see {DEFAULT} for an example.")
    return {str(name): value for name, value in content.items()}


def _domain(name: str, value: Any) -> Any:  # noqa: ANN401 - whatever the YAML file holds
    example = f"{name}: {{loguniform: [0.0001, 0.01]}}"
    if not isinstance(value, dict) or len(value) != 1:
        raise SettingsError("bad-space", f"{name} needs one of Ray Tune's domains, as in {example}, not {value!r}.")
    ((kind, arguments),) = value.items()
    if kind not in _DOMAINS:
        raise SettingsError("bad-space", f"{name}: {kind!r} is not one of {', '.join(_DOMAINS)}.")
    if not isinstance(arguments, list) or not arguments:
        raise SettingsError("bad-space", f"{name}: the arguments of {kind} are a list, as in {example}.")
    arguments = [_number(argument) for argument in arguments]
    try:
        make: Any = getattr(tune, kind)
        domain = make(arguments) if kind in {"choice", "grid_search"} else make(*arguments)
        if isinstance(domain, Domain):
            domain.sample(random_state=0)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise SettingsError("bad-space", f"{name}: {kind} does not take {arguments}: {error}") from error
    return domain


def _number(value: Any) -> Any:  # noqa: ANN401
    """Read ``1e-4``, which YAML 1.1 takes for a word."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _look_up(content: dict[str, Any], name: str) -> Any:  # noqa: ANN401
    for part in name.split("."):
        if not isinstance(content, dict) or part not in content:
            known = ", ".join(sorted({*TrainingConfig.model_fields} - {*_FIXED, "augmentation"}))
            raise SettingsError("bad-space", f"{name!r} is not a training setting. Known: {known}, augmentation.NAME.")
        content = content[part]
    return content


def _check(name: str, domain: Any, config: TrainingConfig, varied: set[str]) -> None:  # noqa: ANN401
    """Refuse what cannot be varied, values that the setting refuses, and a recipe outside the space."""
    if name in _FIXED:
        raise SettingsError("bad-space", f"{name} cannot be searched: {_FIXED[name]}.")
    own = _look_up(config.model_dump(), name)
    if name in _ONLY_STEP and config.schedule != "step" and "schedule" not in varied:
        raise SettingsError("bad-space", f"{name} does nothing with the recipe's schedule, {config.schedule}.")
    for value in _ends(domain):
        configure(config, {name: value})
    if not _contains(domain, own):
        raise SettingsError(
            "bad-space", f"The recipe's {name}, {own}, lies outside the space. It is the first trial; include it."
        )


def _ends(domain: Any) -> Iterable[Any]:  # noqa: ANN401
    """Return the values at the ends of a domain, or all of a choice, or some draws of an endless one."""
    if isinstance(domain, dict):
        return domain["grid_search"]
    if isinstance(domain, Categorical):
        return domain.categories
    if isinstance(domain, Integer):
        return [domain.lower, domain.upper - 1 if domain.sampler is None or not _quantised(domain) else domain.upper]
    if _is_normal(domain):
        return domain.sample(size=_DRAWS, random_state=0)
    return [domain.lower, domain.upper]


def _contains(domain: Any, value: Any) -> bool:  # noqa: ANN401
    if isinstance(domain, (dict, Categorical)):
        return value in _ends(domain)
    if _is_normal(domain):
        return True
    ends = list(_ends(domain))
    return isinstance(value, (int, float)) and min(ends) <= value <= max(ends)


def _is_normal(domain: Any) -> bool:  # noqa: ANN401
    return isinstance(domain, Float) and not np.isfinite([domain.lower, domain.upper]).all()


def _quantised(domain: Integer) -> bool:
    return hasattr(domain.sampler, "q")
