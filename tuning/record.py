"""The record of a search: ``search.json``, read and written whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError

from core.errors import SettingsError
from core.evaluation.scores import Comparison, Evaluation
from core.files import replace_file
from core.settings import Settings
from tuning.settings import SearchSettings

if TYPE_CHECKING:
    from pathlib import Path

    from core.training.run import TrainingRun
    from tuning.space import Space

__all__ = ["Counts", "Identity", "Images", "Plan", "Result", "SearchRecord"]

RECORD = "search.json"
_OPTIONS = (
    *("weights", "validation_share", "repetitions", "search", "stopping", "grace_period", "reduction_factor"),
    *("seed", "unknown", "storage"),
)


class Identity(Settings):
    """What may not change when a search is continued, since trials before and after could not be compared."""

    data: dict[str, str] = Field(description="fingerprint of each laboratory's images")
    grouped: bool = Field(description="whether sources were named")
    space: dict[str, Any] = Field(description="search space, as it was written")
    recipe: dict[str, Any] = Field(description="recipe with its replacements")
    options: dict[str, Any] = Field(description="options that decide the split, the proposals and the stopping")

    @classmethod
    def of(cls, settings: SearchSettings, run: TrainingRun, space: Space) -> Identity:
        """Collect the identity of a search from its options, its data and its space."""
        return cls(
            data=run.data.fingerprints(),
            grouped=run.data.grouped,
            space=space.text,
            recipe=run.recipe.model_dump(mode="json"),
            options={name: getattr(settings, name) for name in _OPTIONS},
        )


class Plan(Settings):
    """How many trials run at once, and what each gets."""

    trials_at_once: int
    cpus: float = Field(description="logical CPUs of each trial")
    gpus: float = Field(description="GPUs of each trial")
    threads: int = Field(description="torch threads of each trial")


class Images(Settings):
    """How the images were divided."""

    training: int = Field(description="images that every trial is trained on")
    held_out: int = Field(description="images that no trial is trained on")
    watched: int = Field(description="images that trials are compared on after every epoch")
    measured: int = Field(description="images that the best trial is measured on")
    nested: bool = Field(description="whether the sources of the measured images are others than the watched ones'")


class Counts(Settings):
    """How many trials ended how, and the epochs that they took."""

    trials: int
    states: dict[str, int] = Field(description="number of trials in each state")
    unusable: int = Field(description="trials without weights that could become a bundle")
    epochs: int = Field(description="epochs trained")
    epochs_possible: int = Field(description="epochs that all trials would have taken to their ends")

    @property
    def epochs_saved(self) -> float:
        """Share of the possible epochs that were not trained, 0 to 1."""
        return 1 - self.epochs / self.epochs_possible if self.epochs_possible else 0.0


class Result(Settings):
    """The best trial, measured, and how the best of the others compares with the recipe's own values."""

    trial: int = Field(description="number of the best trial")
    values: dict[str, Any] = Field(description="its values, by setting")
    bundle: str = Field(description="identity of the bundle in best/")
    recipe_usable: bool = Field(description="whether trial 0, the recipe's own values, ended with weights")
    rival: int | None = Field(description="number of the trial that is compared with trial 0")
    comparison: Comparison | None = Field(description="the rival against trial 0, on the measured images")
    metrics: Evaluation = Field(description="evaluation of the best trial on the measured images")


class SearchRecord(Settings):
    """Everything that ``search.json`` holds."""

    version: str = Field(description="version of Leukoray that wrote it")
    started: str = Field(description="time of the first start, ISO 8601, UTC")
    state: Literal["running", "interrupted", "finished"]
    seconds: float = Field(description="time that the search has taken, pauses left out")
    settings: SearchSettings
    identity: Identity
    recipe_values: dict[str, Any] = Field(description="the recipe's own values of what is varied")
    plan: Plan
    images: Images
    counts: Counts | None = None
    result: Result | None = None

    @classmethod
    def load(cls, out: Path) -> SearchRecord:
        """Read the record of a search that is to be continued.

        Args:
            out: Folder of the search.

        Raises:
            SettingsError: With code ``nothing-to-resume``.
        """
        try:
            return cls.model_validate_json((out / RECORD).read_bytes())
        except (OSError, ValidationError) as error:
            raise SettingsError(
                "nothing-to-resume",
                f"{out} holds no search of this version that could be continued; start one with another --out"
                f" ({' '.join(str(error).split())[:200]}).",
            ) from error

    def save(self) -> None:
        """Write the record into the folder of the search."""
        replace_file(self.settings.out / RECORD, self.model_dump_json(indent=1) + "\n")

    def change(self, **changes: object) -> SearchRecord:
        """Return the record with some of its fields replaced."""
        return self.model_copy(update=changes)

    def refuse_changed(self, now: Identity, out: Path) -> None:
        """Refuse to continue another search than this one.

        Args:
            now: Identity of the search that was asked for.
            out: Its folder.

        Raises:
            SettingsError: With code ``resume-mismatch``.
        """
        if self.settings.out != out:
            raise SettingsError(
                "resume-mismatch", f"This search was begun at {self.settings.out}; move it back to continue it."
            )
        before, after = self.identity.model_dump(mode="json"), now.model_dump(mode="json")
        if changed := [name.replace("_", " ") for name in after if before[name] != after[name]]:
            raise SettingsError(
                "resume-mismatch",
                f"{out} was begun with other {', '.join(changed)}; trials before and after could not be compared."
                " Give the same again, or another --out.",
            )
