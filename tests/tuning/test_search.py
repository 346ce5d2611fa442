"""`search`, whole, on drawn cells: what comes out, what goes wrong in a trial, what a resumed search refuses."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from drawn import draw_class_folders

from core.errors import SettingsError
from core.model.bundle import load_bundle
from core.model.predictor import Predictor
from core.model.record import SearchTrial
from core.training.recipe import load_recipe
from tuning.record import SearchRecord
from tuning.search import SearchSettings, search
from tuning.trials import Trials, read_trials

if TYPE_CHECKING:
    from playwright.sync_api import Page


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("search")
    training = {"epochs": 3, "samples_per_epoch": 32, "batch_size": 16, "step_size": 2}
    draw_class_folders(root, 6, recipe="cell-crop-step", training=training)
    return root


def settings(cells: Path, out: Path, **options: Any) -> SearchSettings:
    common = {"data": cells / "cells", "out": out, "recipe": str(cells / "recipe.json"), "weights": "none"}
    return SearchSettings.model_validate(
        common | {"groups": str(cells / "groups.csv"), "validation_share": 0.33, "num_samples": 5} | options
    )


def written(folder: Path, text: str) -> Path:
    path = folder / "space.yaml"
    path.write_text(text)
    return path


def tried(out: Path) -> Trials:
    return read_trials(str(out / "tune"))


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


SPACE = """learning_rate: {loguniform: [1e-4, 1e-2]}
step_size: {randint: [1, 4]}
optimizer: {choice: [adam, adamw]}
architecture: {choice: [test_efficientnet, test_resnet]}"""


@pytest.fixture(scope="module")
def searched(cells: Path, tmp_path_factory: pytest.TempPathFactory, cluster: None) -> Path:
    folder = tmp_path_factory.mktemp("searched")
    assert search(settings(cells, folder / "out", space=written(folder, SPACE))) == 0
    return folder / "out"


def test_the_first_trial_is_the_recipe_and_is_never_stopped(searched: Path, cells: Path) -> None:
    recipe = load_recipe(str(cells / "recipe.json")).training
    first, *others = tried(searched).records
    assert first.values == {
        name: getattr(recipe, name) for name in ("learning_rate", "step_size", "optimizer", "architecture")
    }
    assert (first.state, first.reason, len(first.epochs)) == ("finished", "all epochs", 3)
    assert len(others) == 4
    assert len({json.dumps(trial.values) for trial in others}) == 4
    assert all(len(trial.epochs) in {2, 3} for trial in others)


def test_the_best_bundle_predicts_and_says_where_it_is_from(searched: Path, cells: Path) -> None:
    best = tried(searched).ranked[0]
    bundle = load_bundle(searched / "best")
    (prediction,) = Predictor(bundle).predict(
        [Predictor(bundle).prepare(next((cells / "cells").rglob("*.jpg")).read_bytes())[1]]
    )
    assert prediction.label in bundle.class_names
    training, data = bundle.record.training, bundle.record.data
    assert training is not None
    assert training.search == SearchTrial(trials=5, trial=best.number, varied=best.values)
    assert training.learning_rate == best.values["learning_rate"]
    assert bundle.architecture == training.architecture == best.values["architecture"]
    assert data is not None
    assert data.training_images == 32
    recipe = load_recipe(str(searched / "recipe.json"))
    assert recipe.training.learning_rate == best.values["learning_rate"]


def test_the_best_is_measured_on_sources_that_it_was_not_chosen_on(searched: Path) -> None:
    """Of 16 held out images, one source of each class is watched and chosen on, the other is measured."""
    record, bundle = SearchRecord.load(searched), load_bundle(searched / "best")
    assert record.images.model_dump() == {"training": 32, "held_out": 16, "watched": 8, "measured": 8, "nested": True}
    assert bundle.metrics is not None
    assert bundle.record.data is not None
    assert bundle.metrics.validation.image.n == bundle.record.data.validation_images == 8
    assert "other sources" in bundle.record.confidence.chosen_on
    assert record.result is not None
    assert record.result.comparison is not None
    assert record.result.trial == tried(searched).ranked[0].number
    assert record.result.rival == next(trial.number for trial in tried(searched).ranked if trial.number)
    assert record.result.metrics.image.n == 8


def test_the_tables(searched: Path) -> None:
    trials, epochs = table(searched / "trials.csv"), table(searched / "epochs.csv")
    assert [row["trial"] for row in trials] == ["0", "1", "2", "3", "4"]
    assert {row["state"] for row in trials} <= {"finished", "stopped"}
    assert sum(int(row["epochs"]) for row in trials) == len(epochs)
    for row in trials:
        mine = [epoch for epoch in epochs if epoch["trial"] == row["trial"]]
        assert float(row["validation_loss"]) == min(float(epoch["validation_loss"]) for epoch in mine)
        assert row["reason"] == ("all epochs" if row["state"] == "finished" else "early stopping")


def test_disk_stays_bounded_and_tensorboard_has_its_logs(searched: Path) -> None:
    """Of each trial, one set of weights at 16 bits stays: 22 MB, however many epochs it took."""
    for record in tried(searched).records:
        (checkpoint,) = (searched / "tune" / record.id).glob("checkpoint_*")
        assert {path.name for path in checkpoint.iterdir()} == {"weights.safetensors", ".metadata.json"}
    folders = [path for path in (searched / "tune").iterdir() if path.is_dir()]
    assert len(folders) == 5
    for folder in folders:
        assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 24e6
        assert len(list(folder.glob("events.out.tfevents*"))) == 1
    assert sorted(path.name for path in searched.iterdir()) == [
        *("best", "epochs.csv", "recipe.json", "report", "search.json", "trials.csv", "tune")
    ]


def test_the_report(searched: Path, page: Page) -> None:
    page.goto((searched / "report" / "index.html").as_uri())
    assert page.locator("h1").inner_text() == "Hyperparameter search"
    assert page.locator("tr.best").count() == 1
    assert page.locator("figure img").count() == 4
    assert page.evaluate("[...document.images].every(image => image.naturalWidth > 300)")
    assert "Research Use Only" in page.locator(".banner").inner_text()


def test_a_finished_search_is_not_run_again(searched: Path, cells: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (searched / "search.json").read_bytes()
    assert search(settings(cells, searched, space=searched.parent / "space.yaml", resume=True)) == 0
    assert "is finished" in capsys.readouterr().err
    assert (searched / "search.json").read_bytes() == before


def test_another_search_is_not_continued(searched: Path, cells: Path, tmp_path: Path) -> None:
    space = searched.parent / "space.yaml"
    with pytest.raises(SettingsError, match="exists already"):
        search(settings(cells, searched, space=space))
    with pytest.raises(SettingsError, match="other space"):
        search(settings(cells, searched, space=written(tmp_path, "gamma: {uniform: [0.1, 1]}"), resume=True))
    with pytest.raises(SettingsError, match="other options"):
        search(settings(cells, searched, space=space, num_samples=9, resume=True))
    with pytest.raises(SettingsError, match="other recipe"):
        search(settings(cells, searched, space=space, epochs=4, resume=True))
    moved = tmp_path / "cells"
    draw_class_folders(tmp_path, 5, recipe="cell-crop-step", training={})
    with pytest.raises(SettingsError, match="other data"):
        search(settings(cells, searched, space=space, data=moved, groups=str(tmp_path / "groups.csv"), resume=True))
    with pytest.raises(SettingsError, match="no search of this version that could be continued"):
        search(settings(cells, tmp_path / "nowhere", space=space, resume=True))


@pytest.mark.slow
def test_trials_that_break_do_not_break_the_search(cells: Path, tmp_path: Path, cluster: None) -> None:
    """A learning rate of 1000 diverges; a batch of fifty million images is more than any memory."""
    text = "learning_rate: {grid_search: [1000, 0.001]}\nbatch_size: {grid_search: [16, 50000000]}"
    options = {"space": written(tmp_path, text), "search": "grid", "num_samples": None, "epochs": 1, "stopping": "none"}
    assert search(settings(cells, tmp_path / "out", **options)) == 1
    trials = tried(tmp_path / "out").records
    states = {(trial.values["learning_rate"], trial.values["batch_size"]): trial for trial in trials}
    assert trials[0].values == {"learning_rate": 0.001, "batch_size": 16}
    assert states[0.001, 16].state == "finished"
    assert states[1000, 16].state == "diverged"
    assert "smaller learning rate" in states[1000, 16].reason
    for rate in (0.001, 1000):
        assert states[rate, 50_000_000].state == "out-of-memory"
        assert "allocate" in states[rate, 50_000_000].reason
    training = load_bundle(tmp_path / "out" / "best").record.training
    assert training is not None
    assert training.search is not None
    assert training.search.trial == 0
    page = (tmp_path / "out" / "report" / "index.html").read_text()
    assert "diverged" in page
    assert "Too few trials" in page


@pytest.mark.slow
def test_a_search_without_any_result_says_so(cells: Path, tmp_path: Path, cluster: None) -> None:
    options = {"num_samples": 1, "epochs": 1, "learning_rate": 1000, "stopping": "none"}
    text = "learning_rate: {loguniform: [1, 10000]}"
    assert search(settings(cells, tmp_path / "out", space=written(tmp_path, text), **options)) == 1
    assert not (tmp_path / "out" / "best").exists()
    assert "No trial ended with weights" in (tmp_path / "out" / "report" / "index.html").read_text()


@pytest.mark.slow
def test_a_search_that_had_no_time_says_so(cells: Path, tmp_path: Path, cluster: None) -> None:
    assert search(settings(cells, tmp_path / "out", time_budget=0.001)) == 1
    assert "No trial ended with weights" in (tmp_path / "out" / "report" / "index.html").read_text()


@pytest.mark.slow
def test_the_time_budget_ends_a_search_with_what_there_is(cells: Path, tmp_path: Path, cluster: None) -> None:
    recipe = json.loads((cells / "recipe.json").read_text())
    recipe["training"] |= {"epochs": 5000, "patience": 5000}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    options = {"num_samples": 50, "recipe": str(tmp_path / "recipe.json"), "stopping": "none"}
    options |= {"time_budget": 45.0}  # in which workers start on a busy machine, too
    assert search(settings(cells, tmp_path / "out", **options)) == 0
    trials = tried(tmp_path / "out").records
    assert 1 <= len(trials) < 50
    assert {(trial.state, trial.reason) for trial in trials} == {("stopped", "time budget")}
    assert {row["reason"] for row in table(tmp_path / "out" / "trials.csv")} == {"time budget"}
    load_bundle(tmp_path / "out" / "best")
    assert not list((tmp_path / "out" / "tune").rglob("trainer.safetensors"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")  # MLflow's own
def test_mlflow_gets_every_trial(cells: Path, tmp_path: Path, cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert search(settings(cells, tmp_path / "out", num_samples=2, epochs=2, mlflow=True)) == 0
    client = MlflowClient(f"sqlite:///{tmp_path / 'out' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("out")
    assert experiment is not None
    runs = {run.data.params["learning_rate"]: run for run in client.search_runs([experiment.experiment_id])}
    trials = tried(tmp_path / "out").records
    assert len(trials) == len(runs) == 2
    for trial in trials:
        run = runs[str(trial.values["learning_rate"])]
        assert run.info.status == "FINISHED"
        assert run.data.metrics["validation_loss"] == pytest.approx(trial.epochs[-1]["validation_loss"])
    assert not Path("mlruns").exists()  # where MLflow keeps artifacts, if it is given any


def test_mlflow_where_it_is_not_installed(cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(SettingsError, match="pip install mlflow"):
        search(settings(cells, tmp_path / "out", mlflow=True))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"search": "grid"}, "go together"),
        ({"space": "learning_rate: {grid_search: [0.001]}"}, "go together"),
        ({"space": "augmentation.noise: {randn: [10, 0.1]}"}, "normally distributed"),
        ({"recipe": "unheard-of"}, "neither known"),
    ],
)
def test_contradictions_are_refused_before_anything_is_read(
    cells: Path, tmp_path: Path, options: dict[str, Any], says: str
) -> None:
    if "space" in options:
        options = options | {"space": written(tmp_path, options["space"])}
    with pytest.raises(SettingsError, match=says):
        search(settings(cells, tmp_path / "out", **options))
    assert not (tmp_path / "out").exists()
