"""`train`, whole: drawn cells in, a bundle out that classifies them; killed and continued."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from drawn import draw_class_folders

from core.data.laboratories import TrainingData
from core.errors import BundleError, DataError, SettingsError
from core.finding.search import CellSearch
from core.images.drawings import CLASS_NAMES, draw_field
from core.images.preprocessing import Preprocessing
from core.model.bundle import load_bundle
from core.model.card import write_card
from core.model.predictor import Predictor
from core.model.record import TrainingRecord
from core.training.checkpoint import save_checkpoint
from core.training.recipe import load_recipe
from pipelines.train import TrainSettings, train
from pipelines.training.work_folder import WorkFolder

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of drawings: two views of each of eight fields per class, and one broken file."""
    root = tmp_path_factory.mktemp("train")
    training = {"epochs": 8, "samples_per_epoch": 96, "batch_size": 16, "learning_rate": 0.003}
    draw_class_folders(root, 8, recipe="cell-crop", training=training)
    (root / "cells" / "MONOCYTE" / "broken.jpg").write_bytes(b"nothing")
    with (root / "groups.csv").open("a") as stream:
        stream.write("MONOCYTE/broken.jpg,MONOCYTE-0\n")
    return root


def settings(root: Path, out: Path, **options: object) -> TrainSettings:
    return TrainSettings.model_validate(
        {
            "data": root / "cells",
            "out": out,
            "recipe": str(root / "recipe.json"),
            "weights": "none",
            "groups": str(root / "groups.csv"),
            "validation_share": 0.25,
            "samples": 3,
        }
        | options
    )


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "bundle"
    assert train(settings(data, out)) == 0
    return out


def test_the_bundle_is_complete_and_knows_the_drawings(trained: Path, data: Path) -> None:
    bundle = load_bundle(trained)
    assert bundle.class_names == CLASS_NAMES
    assert bundle.metrics.validation.image.n == 16
    assert bundle.metrics.validation.source.n == 8
    assert bundle.metrics.calibration == "same-images", "two sources of each class are too few for two halves"
    assert bundle.record.training.validation_share == bundle.record.training.validation_share_asked == 0.25
    assert bundle.record.data.sources == dict.fromkeys(CLASS_NAMES, 8)
    assert {"README.md", "confusion.png", "curves.png"} <= {path.name for path in trained.iterdir()}
    assert len(list((trained / "samples").glob("*.jpg"))) == 3
    assert not (trained.parent / ".bundle.training").exists()
    predictor = Predictor(bundle, "cpu")
    images = [path for kind in CLASS_NAMES for path in sorted((data / "cells" / kind).glob("?-0.jpg"))]
    predictions = predictor.predict([predictor.prepare(path.read_bytes())[1] for path in images])
    right = sum(p.label == path.parent.name for p, path in zip(predictions, images, strict=True))
    assert right / len(images) > 0.7


def draw_other(root: Path, kinds: dict[str, int]) -> Path:
    """Draw another laboratory's class folders; DEBRIS is drawn in false colours."""
    rng = np.random.default_rng(8)
    for kind, count in kinds.items():
        (root / kind).mkdir(parents=True)
        for number in range(count):
            rgb = draw_field(CLASS_NAMES[number % 4] if kind == "DEBRIS" else kind, rng)
            bgr = rgb if kind == "DEBRIS" else cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
            cv2.imwrite(str(root / kind / f"{number}.png"), bgr)
    return root


def write_laboratories(file: Path, data: Path, other: dict[str, object]) -> Path:
    home = {"name": "home", "path": str(data / "cells"), "groups": str(data / "groups.csv")}
    file.write_text(yaml.safe_dump({"laboratories": [home, {"name": "away", "path": "other"} | other]}))
    return file


def test_two_laboratories_in_folds(data: Path, tmp_path: Path) -> None:
    draw_other(tmp_path / "other", {**dict.fromkeys(CLASS_NAMES, 4), "DEBRIS": 4})
    file = write_laboratories(tmp_path / "labs.yaml", data, {"unknown": ["DEBRIS"], "half": "even", "share": 0.5})
    options = {"data": file, "groups": None, "folds": 5, "epochs": 1, "samples": 1}
    assert train(settings(data, tmp_path / "bundle", **options)) == 0
    bundle = load_bundle(tmp_path / "bundle")
    assert bundle.class_names == CLASS_NAMES
    assert bundle.metrics.validation.image.n == 64 + 8
    assert bundle.metrics.validation.source.n == 32 + 8
    assert {name: part.image.n for name, part in bundle.metrics.laboratories.items()} == {"home": 64, "away": 8}
    assert bundle.metrics.calibration == "cross-fitted"
    home, away = bundle.record.data.laboratories
    assert (home.name, home.unknown, home.share) == ("home", [], 1.0)
    assert (away.name, away.unknown, away.share) == ("away", ["DEBRIS"], 0.5)
    assert bundle.record.data.images == dict.fromkeys(CLASS_NAMES, 18) | {"MONOCYTE": 19}, "a broken file is one, too"
    assert bundle.record.data.outliers == ["DEBRIS"]
    assert (bundle.record.training.folds, bundle.record.training.folds_asked) == (5, 5)
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert "the temperature and the thresholds used on each half of the sources were chosen on the other half" in card
    assert "| away | EOSINOPHIL 2, LYMPHOCYTE 2, MONOCYTE 2, NEUTROPHIL 2, DEBRIS 2 | DEBRIS | 0.5 |" in card
    assert "validation, away, images" in card


def test_a_laboratory_with_few_sources_does_not_shrink_the_run(data: Path, tmp_path: Path) -> None:
    """One image of a class is enough: it is trained on, or validated, once."""
    draw_other(tmp_path / "other", {"EOSINOPHIL": 1, "MONOCYTE": 3})
    file = write_laboratories(tmp_path / "labs.yaml", data, {})
    read = TrainingData.read(settings(data, tmp_path / "b", data=file, groups=None))
    images = read.load(CellSearch(Preprocessing(height=32, width=32)), 1.0, 2)
    folds = read.folds(images, 5, 0)
    assert len(folds) == 5
    assert sorted(row for _, validation in folds for row in validation) == list(range(64 + 4))
    for training, validation in folds:
        assert sorted([*training, *validation]) == list(range(64 + 4))


def test_one_folder_with_an_unknown_class(data: Path, tmp_path: Path) -> None:
    draw_other(tmp_path / "other", {"EOSINOPHIL": 3, "MONOCYTE": 3, "DEBRIS": 2})
    read = TrainingData.read(settings(data, tmp_path / "b", data=tmp_path / "other", groups=None, unknown=["DEBRIS"]))
    assert read.class_names == ("EOSINOPHIL", "MONOCYTE")
    labels = read.load(CellSearch(Preprocessing(height=32, width=32)), 1.0, 2).labels
    assert sorted(labels.tolist()) == [-1, -1, 0, 0, 0, 1, 1, 1]
    with pytest.raises(DataError, match="has no class SMUDGE"):
        train(settings(data, tmp_path / "b", unknown=["SMUDGE"]))


@pytest.mark.slow
def test_a_run_with_folds_continues(data: Path, tmp_path: Path) -> None:
    options = {"folds": 2, "epochs": 1, "samples": 0, "seed": 3}
    undisturbed, continued = tmp_path / "undisturbed", tmp_path / "continued"
    assert train(settings(data, undisturbed, **options)) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("core.training.outcome.save_bundle", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(settings(data, continued, **options))
    (tmp_path / ".continued.training" / "final.safetensors").unlink()
    (tmp_path / ".continued.training" / "fold-2.safetensors").unlink()
    assert train(settings(data, continued, resume=True, **options)) == 0
    one, other = load_bundle(undisturbed), load_bundle(continued)
    assert one.record.weights_sha256 == other.record.weights_sha256
    assert one.metrics.validation == other.metrics.validation


def test_metrics_belong_to_the_weights_that_are_stored(trained: Path) -> None:
    bundle = load_bundle(trained)
    for name, value in bundle.network.named_parameters():
        if value.ndim > 1:
            assert (value == value.half().float()).all(), name


def test_one_fold_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="at least 2"):
        train(settings(data, tmp_path / "b", folds=1))


def test_the_work_folder_loses_only_checkpoints(tmp_path: Path) -> None:
    work = WorkFolder(tmp_path / "bundle", resume=False)
    for name in ("checkpoint", "final", "fold-12"):
        save_checkpoint(work.checkpoint(name), {}, {}, {})
    (work.path / ".fold-12.safetensors.4711.tmp").write_bytes(b"what a kill leaves")
    notes = work.path / "notes.txt"
    notes.write_text("mine")
    (work.path / "mine.safetensors").write_bytes(b"mine")
    with pytest.raises(SettingsError, match="--resume"):
        WorkFolder(tmp_path / "bundle", resume=False)
    assert WorkFolder(tmp_path / "bundle", resume=True).remove() == [work.path / "mine.safetensors", notes]
    assert sorted(path.name for path in work.path.iterdir()) == ["mine.safetensors", "notes.txt"]
    (work.path / "mine.safetensors").unlink()
    notes.unlink()
    assert work.remove() == []
    assert not work.path.exists()


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"folds": 3, "folds_asked": 10}, "3 folds of 10 asked for: the scarcest class has no more sources"),
        ({"folds": 3, "folds_asked": 3}, "(3 folds)"),
        ({"folds": 3}, "(3 folds)"),
        ({"validation_share": 0.5, "validation_share_asked": 0.4}, "set, 50% of the images; 40% asked for"),
        ({"validation_share": 0.4, "validation_share_asked": 0.4}, "(one validation set, 40% of the images)"),
        ({}, "(one validation set)"),
    ],
)
def test_the_card_says_what_was_done_and_where_that_is_not_what_was_asked_for(
    facts: dict[str, float], words: str, shipped: Path
) -> None:
    bundle = load_bundle(shipped)
    dropped = {"folds", "folds_asked", "validation_share", "validation_share_asked"}
    training = TrainingRecord.model_validate(bundle.record.training.model_dump(exclude=dropped) | facts)
    record = bundle.record.model_copy(update={"training": training})
    assert words in write_card("x", bundle.class_names, record, bundle.metrics, bundle.architecture)


def test_an_existing_bundle_is_kept(trained: Path, data: Path) -> None:
    with pytest.raises(SettingsError, match="exists already"):
        train(settings(data, trained))


def test_a_killed_run_continues(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bundle"
    command = [sys.executable, "pipelines/train.py", str(data / "cells"), "--out", str(out)]
    command += ["--recipe", str(data / "recipe.json"), "--weights", "none", "--groups", str(data / "groups.csv")]
    command += ["--validation-share", "0.25", "--samples", "0"]
    process = subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.PIPE, text=True)
    checkpoint = tmp_path / ".bundle.training" / "checkpoint.safetensors"
    for _ in range(2_000):
        if checkpoint.exists():
            break
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not out.exists()
    with pytest.raises(SettingsError, match="--resume"):
        train(settings(data, out, samples=0))
    assert train(settings(data, out, samples=0, resume=True)) == 0
    assert "continuing after epoch" in capsys.readouterr().err
    assert [row.epoch for row in load_bundle(out).metrics.history] == list(range(1, 9))


def test_the_notebooks_recipe_is_the_notebooks() -> None:
    recipe = load_recipe("notebook")
    training = recipe.training
    assert (recipe.preprocessing.height, recipe.preprocessing.width) == (224, 224)
    assert (recipe.preprocessing.mean, recipe.preprocessing.std) == ((0, 0, 0), (1, 1, 1))
    assert (training.optimizer, training.learning_rate, training.weight_decay) == ("adam", 1e-3, 1e-4)
    assert (training.schedule, training.step_size, training.gamma) == ("step", 7, 0.1)
    assert (training.epochs, training.batch_size, training.keep) == (15, 32, "best")


@pytest.mark.parametrize(
    "content", ["", "{", '{"training": {"epochs": 0}}', '{"preprocessing": {}, "training": {"x": 1}}']
)
def test_a_bad_recipe_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(SettingsError, match="cell-crop, cell-crop-step, notebook"):
        load_recipe(str(tmp_path / "r.json"))
    with pytest.raises(SettingsError, match="neither known"):
        load_recipe("unheard-of")


def start_settings(data: Path, start: Path | None, out: Path, **options: object) -> TrainSettings:
    """What a user gives to adapt a bundle to cells of their own, and fewer steps."""
    given = {"data": data, "start": start, "out": out, "samples": 0, "epochs": 1, "samples_per_epoch": 64}
    return TrainSettings.model_validate(given | options)


def test_a_bundle_is_adapted_to_cells_of_which_one_type_is_missing(trained: Path, tmp_path: Path) -> None:
    cells = draw_other(tmp_path / "cells", {**dict.fromkeys(CLASS_NAMES[:3], 8), "DEBRIS": 4})
    assert train(start_settings(cells, trained, tmp_path / "new", unknown=["DEBRIS"])) == 0
    before, after = load_bundle(trained), load_bundle(tmp_path / "new")
    assert after.class_names == CLASS_NAMES
    assert after.architecture == before.architecture
    assert after.record.preprocessing == before.record.preprocessing
    training = after.record.training
    assert (training.recipe, training.weights, training.folds) == ("adapt", f"bundle {before.id[:12]}", 3)
    assert after.metrics.validation.image.n == 24
    assert after.record.data.outliers == ["DEBRIS"]
    predictor = Predictor(after, "cpu")
    paths = [path for kind in CLASS_NAMES[:3] for path in sorted((cells / kind).iterdir())]
    found = predictor.predict([predictor.prepare(path.read_bytes())[1] for path in paths])
    assert sum(p.label == path.parent.name for p, path in zip(found, paths, strict=True)) >= 18


def test_options_that_a_start_decides_are_refused(trained: Path, tmp_path: Path) -> None:
    cells = draw_other(tmp_path / "cells", dict.fromkeys(CLASS_NAMES, 2))
    for name, value in (("weights", "none"), ("architecture", "resnet18")):
        with pytest.raises(SettingsError, match=f"leave --{name} away"):
            train(start_settings(cells, trained, tmp_path / "new", **{name: value}))
    (cells / "BASOPHIL").mkdir()
    shutil.copy(next((cells / "MONOCYTE").iterdir()), cells / "BASOPHIL")
    with pytest.raises(DataError, match=r"does not know BASOPHIL; give each as --unknown"):
        train(start_settings(cells, trained, tmp_path / "new"))
    with pytest.raises(SettingsError, match="preprocessing"):
        train(start_settings(cells, None, tmp_path / "new", recipe="adapt"))
    assert not (tmp_path / "new").exists()


def test_what_was_learned_before_is_shown_again(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads((data / "recipe.json").read_text())
    content["training"] |= {"replay": 40}
    (tmp_path / "keeping.json").write_text(json.dumps(content))
    first = tmp_path / "first"
    assert train(settings(data, first, recipe=str(tmp_path / "keeping.json"), samples=0)) == 0
    kept = load_bundle(first).record.replay
    assert kept is not None
    assert kept.images == 40
    cells = draw_other(tmp_path / "cells", dict.fromkeys(CLASS_NAMES, 4))
    capsys.readouterr()
    assert train(start_settings(cells, first, tmp_path / "new", folds=2)) == 0
    assert "what they taught it will fade" not in capsys.readouterr().err
    new = load_bundle(tmp_path / "new")
    assert new.record.replay is not None
    assert new.record.replay.images == 40 + 16, "the next bundle remembers both laboratories"
    remembered = new.record.training.remembered
    assert remembered is not None
    assert remembered.images == 8
    assert remembered.after >= remembered.before - 2
    assert f"right on {remembered.after} of 8" in (tmp_path / "new" / "README.md").read_text()
    (first / "replay.safetensors").write_bytes(b"nothing")
    with pytest.raises(BundleError, match="is not the file that the bundle was written with"):
        train(start_settings(cells, first, tmp_path / "newer"))
    (first / "replay.safetensors").unlink()
    assert load_bundle(first).id, "what classifies does not need it"


def test_each_laboratory_is_left_out_and_chooses_the_thresholds(data: Path, tmp_path: Path) -> None:
    draw_other(tmp_path / "other", {**dict.fromkeys(CLASS_NAMES, 4), "DEBRIS": 4})
    file = write_laboratories(tmp_path / "labs.yaml", data, {"unknown": ["DEBRIS"]})
    options = {"data": file, "groups": None, "epochs": 1, "samples": 0, "in_turn": ["home", "away"]}
    assert train(settings(data, tmp_path / "bundle", **options)) == 0
    bundle = load_bundle(tmp_path / "bundle")
    assert {name: part.image.n for name, part in bundle.metrics.away.items()} == {"home": 64, "away": 16}
    assert bundle.record.confidence.chosen_on.startswith("80 images of laboratories that were left out of training")
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert "never seen, away" in card
    assert "a fifth" in card
    with pytest.raises(SettingsError, match="no laboratory elsewhere"):
        train(settings(data, tmp_path / "b", **options | {"in_turn": ["elsewhere"]}))
    with pytest.raises(SettingsError, match="needs a file of laboratories"):
        train(settings(data, tmp_path / "other-bundle", in_turn=["home"]))
