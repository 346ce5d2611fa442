"""The options of a search."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator
from pydantic_settings import CliPositionalArg

from core.training.run import TrainingSettings

__all__ = ["SearchSettings"]


class SearchSettings(TrainingSettings):
    """Search learning rate, weight decay and StepLR settings on class folders (DATA/CLASS/**/IMAGE).

    A trial is one training run with its own values. Part of DATA is held out of all of them: on one half of
    it the trial with the lowest validation loss is chosen, on the other half, of other sources, it is measured. The
    first trial has the recipe's own values; by default Optuna's TPE proposes the others from what it has seen, and ASHA
    stops the weak ones early.

    In the folder that --out names: report/index.html, which a person opens; best/, the best trial's best epoch as a
    bundle for classify.py and Serve; recipe.json, its values for train.py --recipe; trials.csv; tune/, Ray Tune's own
    state, the trials' weights, and logs for TensorBoard. Images that you keep for a final test stay out of DATA: the
    search must not see them, evaluate.py does.

        python tuning/search.py my-cells --out my-search --groups groups.csv
        python tuning/search.py my-cells --out my-search --groups groups.csv --num-samples 200 --time-budget 28800
        python tuning/search.py my-cells --out my-search --groups groups.csv --resume
    """

    data: CliPositionalArg[Path] = Field(
        description="folder with one sub-folder per class, or a YAML file of laboratories"
    )
    out: Path = Field(description="folder of the search")
    storage: str | None = Field(
        None,
        description="where the trials keep their state and weights: a folder that every node reaches, or"
        " s3://BUCKET/FOLDER; otherwise --out, which is enough on one machine",
    )
    recipe: str = Field("cell-crop-step", description="cell-crop-step, cell-crop, notebook, or a JSON file")
    learning_rate: float | None = Field(
        None, gt=0, description="learning rate of the first trial, instead of the recipe's"
    )
    num_samples: int | None = Field(
        None,
        ge=1,
        description="number of trials, the recipe's own among them; these or --time-budget, whichever is first, end the"
        " search; otherwise 20; with a grid, repetitions of its points, otherwise 1",
    )
    time_budget: float | None = Field(
        None,
        gt=0,
        description="seconds for all trials together (8 hours: 28800); those under way are then stopped, each with its"
        " best epoch so far, and the report is written; after --resume, only what is left of it is used",
    )
    seed: int = Field(0, ge=0, description="seed of the split, the weights, the augmentation and the proposals")
    space: Path | None = Field(
        None,
        description="YAML file of what is varied; otherwise tuning/space.yaml: copy it, and add for example"
        " batch_size: {choice: [16, 32, 64]}",
    )
    search: Literal["tpe", "random", "grid"] = Field(
        "tpe", description="how values are proposed: tpe learns from earlier trials; grid: all that --space lists"
    )
    stopping: Literal["asha", "none"] = Field("asha", description="what stops weak trials early")
    grace_period: int | None = Field(
        None, ge=1, description="epochs before a trial may be stopped; otherwise one more than the smallest step size"
    )
    reduction_factor: int = Field(
        3,
        ge=2,
        description="3: after the grace period G, 3 G, 9 G ... a trial goes on if it is in the best third of those that"
        " have come so far",
    )
    cpus_per_trial: float | None = Field(None, gt=0, description="otherwise as many as keep every core busy")
    gpus_per_trial: float | None = Field(
        None,
        ge=0,
        description="0.5: two trials share a GPU; otherwise up to four do; 1 where its memory is too small for more",
    )
    max_concurrent: int | None = Field(
        None, ge=1, description="trials at once; otherwise as many as machine or cluster hold"
    )
    threads: int | None = Field(None, ge=1, description="torch threads per trial; otherwise its CPUs")
    address: str | None = Field(
        None,
        description="HOST:PORT of a Ray cluster, from one of its nodes, each of which reaches --storage;"
        " otherwise the cluster that the command is a job of, or this machine",
    )
    wait: float | None = Field(
        None, gt=0, description="seconds to wait for a cluster that others use; otherwise until there is room"
    )
    mlflow: bool = Field(False, description="log to MLflow too, where MLFLOW_TRACKING_URI says, or mlflow.db in --out")
    resume: bool = Field(
        False,
        description="continue a killed search: add it to the same command (another --time-budget may be given); never"
        " in a folder from a stranger, whose code could run here",
    )

    @field_validator("storage")
    @classmethod
    def _without_secrets(cls, storage: str | None) -> str | None:
        """Refuse credentials in the URI, since the search's record and Ray Tune's state would show them."""
        if storage and "@" in storage.partition("://")[2].partition("/")[0]:
            raise ValueError("give credentials by the environment (AWS_ACCESS_KEY_ID and so on), not in the URI")
        return storage

    @property
    def repetitions(self) -> int:
        """Ray Tune's ``num_samples``: the number of trials, or of rounds through the grid."""
        return self.num_samples or (1 if self.search == "grid" else 20)
