"""The best trial of a search: as a bundle, as a recipe, and beside the recipe that the search began with."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from core.evaluation.scores import compare
from core.model.confidence import Confidence
from core.training.recipe import Recipe
from core.training.run import KeptOut
from tuning.ledger import write_json
from tuning.space import configure
from tuning.trial import kept_weights

if TYPE_CHECKING:
    from pathlib import Path

    from core.training.run import TrainingRun
    from tuning.ledger import Ledger, TrialRecord

__all__ = ["write_winner"]


def write_winner(out: Path, run: TrainingRun, ledger: Ledger, *, trained_on: int, left_out: int) -> dict[str, Any]:
    """Write ``best/`` and ``recipe.json``.

    Args:
        out: Folder of the search.
        run: With the images that no trial was trained on, and no others.
        ledger: Its trials; at least one is usable.
        trained_on: Number of images that every trial was trained on.
        left_out: Number of images that took no part.

    Returns:
        What the search says of its result: the best trial, its bundle, and how the best of the others compares with
        trial 0, which may be the best of all.
    """
    ranked, first = ledger.ranked(), ledger.ordered()[0]
    best = ranked[0]
    rival = next((trial for trial in ranked if trial.id != first.id), None)
    training = configure(run.recipe.training, best.values)
    found = replace(run, recipe=Recipe(preprocessing=run.recipe.preprocessing, training=training))
    kept_out = _kept_out(found, best, out, trained_on=trained_on, left_out=left_out)
    comparison = None
    if first.usable and rival is not None:
        plain, chosen = Confidence.model_validate({}), run.known_here(kept_out.rows)
        proposed, recipe = (
            run.predicted(_kept_out(run, trial, out, trained_on=trained_on, left_out=left_out), chosen, plain)
            for trial in (rival, first)
        )
        comparison = {"trial": rival.number, **compare(proposed, recipe).model_dump(mode="json")}
    shutil.rmtree(out / "best", ignore_errors=True)
    more = {"folds": 0, "search": {"trials": len(ledger.trials), "trial": best.number, "varied": best.values}}
    bundle = found.write(out / "best", found.network(kept_weights(out / "trials" / best.id)), kept_out, more)
    write_json(out / "recipe.json", found.recipe.model_dump(mode="json"))
    return {
        "trial": best.number,
        "values": best.values,
        "bundle": bundle.id,
        "recipe_usable": first.usable,
        "comparison": comparison,
        "metrics": bundle.metrics["validation"],
    }


def _kept_out(run: TrainingRun, trial: TrialRecord, out: Path, *, trained_on: int, left_out: int) -> KeptOut:
    """Classify everything that was kept out with a trial's weights."""
    rows = np.arange(len(run.images)).tolist()
    network = run.network(kept_weights(out / "trials" / trial.id)).to(run.device)
    return KeptOut(
        rows=rows,
        logits=run.logits(network, rows),
        history=trial.epochs,
        epochs=trial.best_epoch or len(trial.epochs),
        trained_on=trained_on,
        left_out=left_out,
    )
