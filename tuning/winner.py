"""The best trial of a search: as a bundle, as a recipe, and beside the recipe that the search began with."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import BundleError, SettingsError
from core.evaluation.scores import Comparison, compare
from core.files import replace_file
from core.model.bundle import Bundle, load_bundle
from core.model.confidence import Confidence
from core.training.held_out import HeldOut, predicted
from core.training.outcome import write_bundle
from core.training.recipe import Recipe
from tuning.checkpoints import load_weights
from tuning.record import Result
from tuning.space import configure

if TYPE_CHECKING:
    from core.training.run import TrainingRun
    from tuning.preparation import Prepared
    from tuning.trials import TrialRecord, Trials

__all__ = ["refuse_foreign", "write_winner"]

BEST, RECIPE = "best", "recipe.json"


def write_winner(out: Path, prepared: Prepared, trials: Trials) -> Result:
    """Write ``best/`` and ``recipe.json``.

    Temperature and thresholds are chosen on the images that the best trial was chosen on; every score and interval is
    of the measured images, where there are enough sources for both.

    Args:
        out: Folder of the search.
        prepared: The images.
        trials: The trials; at least one is usable.

    Raises:
        SettingsError: With code ``best-foreign`` where ``best/`` is not what a search has written.
    """
    best, first = trials.ranked[0], trials.records[0]
    run = prepared.run
    found = _as_tried(run, best)
    rival, comparison = _compare(prepared, trials)
    bundle = _write_bundle(out, found, prepared, trials)
    replace_file(out / RECIPE, json.dumps(found.recipe.model_dump(mode="json"), indent=1) + "\n")
    return Result(
        trial=best.number,
        values=best.values,
        bundle=bundle.id,
        recipe_usable=first in trials.ranked,
        rival=None if rival is None else rival.number,
        comparison=comparison,
        metrics=bundle.metrics.validation,  # pyright: ignore[reportOptionalMemberAccess] - written a moment ago
    )


def refuse_foreign(out: Path) -> None:
    """Refuse to replace a ``best/`` that is not a search's bundle, or that holds more than one.

    Args:
        out: Folder of the search.

    Raises:
        SettingsError: With code ``best-foreign``.
    """
    folder = out / BEST
    if not folder.exists():
        return
    try:
        training = load_bundle(folder).record.training
        ours = training is not None and training.search is not None
    except BundleError:
        ours = False
    if not ours:
        raise SettingsError("best-foreign", f"{folder} is not what this search has written; move it elsewhere.")


def _write_bundle(out: Path, found: TrainingRun, prepared: Prepared, trials: Trials) -> Bundle:
    """Write the best trial's bundle; one that an interrupted end of this search has left is replaced, file by file."""
    refuse_foreign(out)
    best = trials.ranked[0]
    choosing, measuring = (
        _held_out(found, best, trials, prepared, rows) for rows in (prepared.choosing, prepared.measuring)
    )
    more = {"folds": 0, "search": {"trials": len(trials.records), "trial": best.number, "varied": best.values}}
    network = found.network(load_weights(trials.checkpoints[best.id]))
    with tempfile.TemporaryDirectory(prefix=".best-", dir=out) as folder:
        fresh, place = Path(folder) / BEST, out / BEST
        bundle = write_bundle(found, fresh, network, measuring, more, chosen_on=choosing if prepared.nested else None)
        if place.exists():
            for path in fresh.iterdir():
                (place / path.name).unlink(missing_ok=True)
            try:
                place.rmdir()
            except OSError as error:
                raise SettingsError("best-foreign", f"{place} holds files of others; move them elsewhere.") from error
        shutil.move(fresh, place)
    return bundle


def _compare(prepared: Prepared, trials: Trials) -> tuple[TrialRecord | None, Comparison | None]:
    """Compare the best trial but the first with the first, the recipe's own values, on the measured images."""
    first = trials.records[0]
    rival = next((trial for trial in trials.ranked if trial.id != first.id), None)
    if rival is None or first not in trials.ranked:
        return None, None
    run, plain = prepared.run, Confidence.model_validate({})
    chosen = run.known(prepared.measuring)
    proposed, recipe = (
        predicted(run, _held_out(run, trial, trials, prepared, prepared.measuring), chosen, plain)
        for trial in (rival, first)
    )
    return rival, compare(proposed, recipe)


def _as_tried(run: TrainingRun, trial: TrialRecord) -> TrainingRun:
    """Return the run with the trial's settings."""
    training = configure(run.recipe.training, trial.values)
    return replace(run, recipe=Recipe(preprocessing=run.recipe.preprocessing, training=training))


def _held_out(run: TrainingRun, trial: TrialRecord, trials: Trials, prepared: Prepared, rows: list[int]) -> HeldOut:
    """Classify images that were held out with a trial's weights."""
    network = _as_tried(run, trial).network(load_weights(trials.checkpoints[trial.id])).to(run.device)
    return HeldOut(
        rows=rows,
        logits=run.logits(network, rows),
        history=trial.epochs,
        epochs=trial.best_epoch or len(trial.epochs),
        trained_on=prepared.trained_on,
        left_out=prepared.left_out,
        how="held out of training and of choosing the trial"
        if prepared.nested
        else "held out of training; the trial was chosen on them too",
    )
