"""`classify` on a real local Ray cluster, with a small bundle: invariants of a run."""

from __future__ import annotations

import csv
import json
import re
import shutil
import time
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from hostile import write_hostile_files, write_odd_files
from PIL import Image
from without_ray import work_here

from core.errors import BundleError, DataError, ImageError, LeukorayError, SettingsError
from core.images.drawings import CLASS_NAMES
from core.model.bundle import load_bundle
from core.model.predictor import Predictor
from pipelines.classification.listing import write_list
from pipelines.classification.patience import Patience
from pipelines.classification.record import RunRecord
from pipelines.classification.run_folder import RunFolder
from pipelines.classification.slides import list_slides
from pipelines.classification.storage import open_folder
from pipelines.classification.worker import PartClassifier
from pipelines.classification.worker_settings import WorkerSettings
from pipelines.classify import ClassifySettings, classify
from pipelines.demo import draw_slides

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from pipelines.classification.storage import Folder

COLUMNS = [
    "slide",
    "image",
    "cell",
    "left",
    "top",
    "right",
    "bottom",
    "label",
    "confidence",
    *(f"p_{name}" for name in CLASS_NAMES),
    "ood",
    "flag",
    "gradcam",
    "width",
    "height",
    "bytes",
    "bundle",
]


def rows(run: Path, kind: str = "predictions") -> pd.DataFrame:
    return pq.read_table(run / kind).to_pandas().sort_values(["slide", "image"], ignore_index=True)


def settings(slides: Path, out: Path, model: Path, **options: object) -> ClassifySettings:
    return ClassifySettings.model_validate(
        {"slides": str(slides), "out": str(out), "model": model, "batch_size": 8, "part_size": 16} | options
    )


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "slides"
    draw_slides(folder, 20, broken=False)
    return folder


@pytest.fixture(scope="module")
def run(slides: Path, small_bundle: Path, cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    assert classify(settings(slides, out, small_bundle)) == 0
    return out


def test_every_image_is_one_row(run: Path, slides: Path) -> None:
    table = rows(run)
    images = {(path.parent.name, path.name) for path in slides.glob("*/*.jpg")}
    assert len(table) == len(images) == 60
    assert set(zip(table["slide"], table["image"], strict=True)) == images
    assert len(rows(run, "errors")) == 0


def test_the_columns_are_the_agreed_ones(run: Path) -> None:
    schema = pq.read_schema(next((run / "predictions").glob("*.parquet")))
    assert schema.names == COLUMNS
    assert str(schema.field("ood").type) == "float"
    assert str(schema.field("confidence").type) == "float"


def test_the_rows_are_what_the_predictor_says(run: Path, slides: Path, small_bundle: Path) -> None:
    predictor = Predictor(load_bundle(small_bundle), "cpu")
    for _, row in rows(run).iloc[::9].iterrows():
        data = (slides / row["slide"] / row["image"]).read_bytes()
        (prediction,) = predictor.predict([predictor.prepare(data)[1]])
        assert row["label"] == prediction.label
        np.testing.assert_allclose([row[f"p_{name}"] for name in CLASS_NAMES], prediction.probabilities, atol=1e-5)
        assert row["ood"] == pytest.approx(prediction.ood, abs=1e-4)
        assert row["flag"] == prediction.flag
        assert row["bundle"] == predictor.bundle.id
        assert row["bytes"] == len(data)
        assert row["cell"] == (prediction.cell is not None)
        if prediction.cell is not None:
            np.testing.assert_allclose(row[["left", "top", "right", "bottom"]].tolist(), prediction.cell, atol=1e-3)


def test_every_overlay_is_a_picture_of_its_image(run: Path) -> None:
    table = rows(run)
    assert table["gradcam"].is_unique
    for path, width, height in zip(table["gradcam"], table["width"], table["height"], strict=True):
        assert cv2.imread(str(run / path)).shape == (height, width, 3)


def test_slides_csv_and_run_json_add_up(run: Path) -> None:
    with (run / "slides.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    assert [row["slide"] for row in table] == ["smear-1-adult", "smear-2-allergic", "smear-3-viral"]
    for row in table:
        assert int(row["n_images"]) == 20 == int(row["n"]) + int(row["n_empty"])
        assert int(row["n_identified"]) == sum(int(row[f"n_{name}"]) for name in CLASS_NAMES)
        assert int(row["n"]) == int(row["n_identified"]) + int(row["n_unidentified"])
        for name in CLASS_NAMES:
            low, high = float(row[f"pct_{name}_low"]), float(row[f"pct_{name}_high"])
            assert low <= float(row[f"pct_{name}"]) <= high
    record = json.loads((run / "run.json").read_text())
    assert record["state"] == "finished"
    assert record["counts"]["images"] == record["counts"]["listed"] == 60
    assert record["bundle"]["id"] == rows(run)["bundle"][0]
    assert record["throughput"]["images_per_s"] > 0


def test_the_report_needs_nothing_else(run: Path) -> None:
    for page in (run / "report").rglob("*.html"):
        html = page.read_text()
        assert "http" not in re.sub(r"https?://www\.w3\.org\S*", "", html)
        assert "For Research Use Only. Not for use in diagnostic procedures." in html
        for target in re.findall(r'(?:href|src)="([^"#]+)"', html):
            assert (page.parent / target).exists(), target


@pytest.mark.usefixtures("in_this_process")
def test_overlays_can_be_left_out(slides: Path, small_bundle: Path, run: Path, tmp_path: Path) -> None:
    assert classify(settings(slides, tmp_path / "none", small_bundle, gradcam="none")) == 0
    assert rows(tmp_path / "none")["gradcam"].isna().all()
    assert not (tmp_path / "none" / "gradcam").exists()
    assert classify(settings(slides, tmp_path / "flagged", small_bundle, gradcam="flagged")) == 0
    table = rows(tmp_path / "flagged")
    assert ((table["flag"] != "") == table["gradcam"].notna()).all()
    assert 0 < table["gradcam"].notna().sum() < 60
    drop = ["gradcam"]
    assert table.drop(columns=drop).equals(rows(run).drop(columns=drop))


@pytest.mark.usefixtures("in_this_process")
def test_limit_takes_the_first(slides: Path, small_bundle: Path, run: Path, tmp_path: Path) -> None:
    assert classify(settings(slides, tmp_path / "run", small_bundle, limit=23)) == 0
    table = rows(tmp_path / "run")
    assert len(table) == 23
    assert set(table["image"] + table["slide"]) == set((rows(run)["image"] + rows(run)["slide"])[:23])


def test_an_existing_run_is_never_mixed(
    slides: Path, small_bundle: Path, run: Path, shipped: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    with pytest.raises(SettingsError, match="--resume"):
        classify(settings(slides, copy, small_bundle))
    with pytest.raises(SettingsError, match="another bundle"):
        classify(settings(slides, copy, shipped, resume=True))
    for option, value in {"gradcam": "none", "limit": 3, "batch_size": 9, "part_size": 7}.items():
        with pytest.raises(SettingsError, match=option):
            classify(settings(slides, copy, small_bundle, resume=True, **{option: value}))
    assert classify(settings(slides, copy, small_bundle, resume=True)) == 0
    assert rows(copy).equals(rows(run))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(SettingsError, match="not empty"):
        classify(settings(slides, tmp_path / "other", small_bundle))


@pytest.mark.usefixtures("in_this_process")
def test_only_what_is_missing_is_done_again(slides: Path, small_bundle: Path, run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    for path in sorted((copy / "predictions").iterdir())[1::2]:
        path.unlink()
    record = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(record | {"state": "running"}))
    kept = {path: path.stat().st_mtime_ns for path in (copy / "predictions").iterdir()}
    assert classify(settings(slides, copy, small_bundle, resume=True)) == 0
    assert rows(copy).equals(rows(run))
    assert all(path.stat().st_mtime_ns == before for path, before in kept.items())
    session = json.loads((copy / "run.json").read_text())["sessions"][-1]
    assert session["parts"] == 2
    assert session["images"] == 16 + 12


def test_wrong_folders_are_refused(slides: Path, small_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        classify(settings(tmp_path / "nowhere", tmp_path / "run", small_bundle))
    with pytest.raises(SettingsError, match="inside SLIDES"):
        classify(settings(slides, slides / "run", small_bundle))
    with pytest.raises(BundleError, match="no bundle"):
        classify(settings(slides, tmp_path / "run", tmp_path / "nobundle"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image file"):
        classify(settings(tmp_path / "empty", tmp_path / "run", small_bundle))
    assert not (slides / "run").exists()


def test_a_worker_that_cannot_write_ends_the_run_with_a_sentence(
    small_bundle: Path, cluster: None, slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with pytest.raises(SettingsError, match="do not fit"):
        classify(settings(slides, out, small_bundle, workers=1000, cpus_per_worker=1))
    (out / "gradcam").write_text("in the way")
    with pytest.raises(LeukorayError, match=r"gradcam.*--resume") as caught:  # a start that failed needs no --resume
        classify(settings(slides, out, small_bundle))
    assert caught.value.code == "storage-refuses"
    record = RunRecord.model_validate_json((out / "run.json").read_text())
    assert record.state == "failed"
    assert "gradcam" in (record.error or "")
    (out / "gradcam").unlink()
    work_here(monkeypatch)
    assert classify(settings(slides, out, small_bundle, resume=True)) == 0
    assert RunRecord.model_validate_json((out / "run.json").read_text()).error is None


@pytest.mark.parametrize("content", ["{}", "[1]", "not json", '{"state": "finished", "pages": 3}'])
def test_a_foreign_or_older_run_json_is_refused_and_left_alone(
    small_bundle: Path, slides: Path, tmp_path: Path, content: str
) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(SettingsError, match="not the record of a run of this version") as caught:
        classify(settings(slides, tmp_path, small_bundle))
    assert caught.value.code == "run-damaged"
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("run.json", content)]


@pytest.mark.usefixtures("in_this_process")
def test_extreme_shapes_and_clashing_names_are_classified(small_bundle: Path, tmp_path: Path) -> None:
    slide = tmp_path / "slides" / "a"
    (slide / "x.png.jpg").mkdir(parents=True)
    for name, size in {
        "x.png": (64, 64),
        "x.png.jpg/y.jpg": (64, 64),
        "wide.png": (40_000, 16),
        "tall.png": (16, 9_000),
    }.items():
        Image.new("RGB", size, (120, 60, 180)).save(slide / name)
    assert classify(settings(tmp_path / "slides", tmp_path / "run", small_bundle, max_error_rate=0.3)) == 0
    table = rows(tmp_path / "run")
    assert set(table["image"]) == {"x.png", "x.png.jpg/y.jpg", "wide.png", "tall.png"}
    assert all((tmp_path / "run" / path).is_file() for path in table["gradcam"])
    assert table["gradcam"].is_unique


def snapshot(folder: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_mtime_ns for path in folder.rglob("*") if path.is_file() or path.is_symlink()}


@pytest.mark.usefixtures("in_this_process")
def test_a_hostile_folder_becomes_rows(small_bundle: Path, tmp_path: Path) -> None:
    slides = tmp_path / "slides"
    draw_slides(slides, 20, broken=False)
    expected = write_hostile_files(slides / "smear-1-adult")
    odd = write_odd_files(slides / "odd")
    before = snapshot(slides)
    out = tmp_path / "run"
    assert classify(settings(slides, out, small_bundle)) == 1
    errors, good = rows(out, "errors"), rows(out)
    assert len(expected) >= 40
    assert dict(zip(errors["image"], errors["code"], strict=True)).keys() == expected.keys()
    for image, code in zip(errors["image"], errors["code"], strict=True):
        assert code in expected[image], image
    assert errors["message"].str.len().min() > 10
    assert set(good.loc[good["slide"] == "odd", "image"]) == odd
    assert len(good) == 60 + len(odd)
    assert all((out / path).is_file() for path in good["gradcam"])
    assert snapshot(slides) == before
    assert {path.name for path in tmp_path.iterdir()} == {"slides", "run"}
    html = "".join(path.read_text() for path in (out / "report").rglob("*.html"))
    assert "<img src=x" not in html
    assert classify(settings(slides, out, small_bundle, resume=True, max_error_rate=1)) == 0


def worker_settings(source: Folder, run: RunFolder, patience: Patience | None = None) -> WorkerSettings:
    return WorkerSettings(
        slides=source.location,
        run=run.folder.location,
        patience=patience or Patience(),
        cells="one",
        gradcam="none",
        colour_map="jet",
        overlay_side=1024,
        overlay_quality=85,
        batch_size=8,
        threads=1,
        loaders=2,
        device="cpu",
    )


@pytest.mark.parametrize("failures", [2, 10_000])
def test_too_little_memory_is_no_fault_of_the_file(
    failures: int, small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried again; where it lasts, the part stays unfinished."""
    draw_slides(tmp_path / "slides", 20, broken=False)
    source, folder = open_folder(str(tmp_path / "slides")), RunFolder(open_folder(str(tmp_path / "run")))
    write_list(folder, list_slides(source), 60)
    settings = worker_settings(source, folder, Patience(limit_s=0.3, first_s=0.01))
    classifier = PartClassifier(load_bundle(small_bundle), settings)
    prepare, left = classifier._predictor.prepare, iter(range(failures))

    def short_of_memory(data: bytes) -> object:
        if next(left, None) is not None:
            raise ImageError("out-of-memory", "There is too little memory.")
        return prepare(data)

    monkeypatch.setattr(classifier._predictor, "prepare", short_of_memory)
    if failures == 2:
        assert classifier.classify(0) == {"images": 60, "errors": 0, "begun": pytest.approx(time.time(), abs=60)}
        return
    with pytest.raises(LeukorayError, match=r"too little memory to decode cell-\d+\.jpg .*--workers.*--resume"):
        classifier.classify(0)
    assert not (tmp_path / "run" / "predictions").exists()


def test_a_file_that_kills_its_worker_is_left_out_in_the_end(small_bundle: Path, tmp_path: Path) -> None:
    """A part that was begun three times is worked through on record; the recorded file is not tried again."""
    draw_slides(tmp_path / "slides", 20, broken=False)
    source, folder = open_folder(str(tmp_path / "slides")), RunFolder(open_folder(str(tmp_path / "run")))
    write_list(folder, list_slides(source), 60)
    record = {"number": 3, "deaths": {"4": 2, "9": 1}, "decoding": 9}
    folder.folder.write(".work/attempts/part-00000000.json", json.dumps(record).encode())
    worker = worker_settings(source, folder)
    progress: list[str] = []
    counts = PartClassifier(load_bundle(small_bundle), worker, lambda: progress.append("")).classify(0)
    assert counts["errors"] == 2
    assert len(progress) == 2  # a file was found to be deadly, and the part is written
    assert set(rows(tmp_path / "run", "errors")["code"]) == {"crashes-decoder"}
    assert len(rows(tmp_path / "run")) == 58
    assert not list((tmp_path / "run" / ".work" / "attempts").iterdir())
