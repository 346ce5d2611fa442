"""What was reviewed goes out, and the tools that it is for open it."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import pytest
from finished_run import BUNDLE, FinishedRun, write_run

from core.data.laboratories import read_laboratories
from core.errors import DataError, LeukorayError, SettingsError
from core.images.cells import Box
from core.images.decoder import decode
from core.images.drawings import CLASS_NAMES
from pipelines.classification.storage import open_folder
from pipelines.review import ReviewSettings, review
from pipelines.reviewing.exports.export import write_export
from pipelines.reviewing.exports.review import image_path
from pipelines.reviewing.review import Asked
from pipelines.reviewing.sources import SourceImages

if TYPE_CHECKING:
    from pipelines.reviewing.exports.export import ExportKind

SLIDES = ("a+b %41 #1?", "<script>", "=1+1")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A run of which the first eight cells and all of one slide were reviewed."""
    run = write_run(tmp_path_factory.mktemp("run"), 40, SLIDES)
    work = run.review(["BASOPHIL"])
    work.label(Asked("Ann", "first-eight", 0), range(8), "BASOPHIL")
    work.label(Asked("Ann", "one-false", 100), [1], "no-cell")
    work.label(Asked("Ann", "one-strange", 100), [2], "unidentified")
    key = work.state.key(0)
    work.add(Asked("Ann", "one-missed", 100), work.state.slide_of(0), key.image, Box(5, 6, 55, 66), "MONOCYTE")
    work.note(Asked("Ann", "one-note", 100), 3, "=cmd|' /C calc'!A0\nsecond line, \"quoted\"")
    work.sign(Asked("Bob", "one-signed", 100), 2, "")
    return run


def write(run: FinishedRun, kind: ExportKind, out: Path, which: str = "reviewed") -> Path:
    work = run.review()
    sources = SourceImages(run.folder, open_folder(str(run.slides)), str(run.slides), work.state.cells)
    assert write_export(kind, work, sources, run.record, out, which) == 0  # type: ignore[arg-type]
    return out


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_the_table_has_every_cell_and_its_story(run: FinishedRun, tmp_path: Path) -> None:
    table = rows(write(run, "csv", tmp_path / "out", "all") / "cells.csv")
    assert len(table) == 42
    by_cell = {(row["slide"], row["image"], row["cell"]): row for row in table}
    work = run.review()
    note = by_cell[tuple(map(str, work.state.key(3)))]
    assert note["note"] == "=cmd|' /C calc'!A0\nsecond line, \"quoted\""
    assert (note["label"], note["by_model"], note["reviewer"]) == ("BASOPHIL", work.state.by_model(3), "Ann")
    assert {row["bundle"] for row in table} == {BUNDLE}
    assert Counter(row["reviewed"] for row in table)["yes"] == len(
        rows(write(run, "csv", tmp_path / "some") / "cells.csv")
    )
    entries = run.log().read_after(0)
    assert {entry.key for entry in entries if entry.image} <= {
        (row["slide"], row["image"], int(row["cell"])) for row in table if row["reviewed"] == "yes"
    }


def test_class_folders_are_a_laboratory(run: FinishedRun, tmp_path: Path) -> None:
    out = write(run, "folders", tmp_path / "out")
    (laboratory,) = read_laboratories(out / "laboratories.yaml")
    assert laboratory.unknown == ["BASOPHIL", "UNIDENTIFIED"]
    data = laboratory.read(CLASS_NAMES)
    wanted = Counter(cell["label"].replace("unidentified", "UNIDENTIFIED") for cell in rows(
        write(run, "csv", tmp_path / "csv") / "cells.csv") if cell["label"] != "no-cell")  # fmt: skip
    assert Counter(data.class_names[sample.label] for sample in data.samples) == wanted
    assert {sample.source for sample in data.samples} <= set(SLIDES)
    picture = decode(next(sample.path for sample in data.samples).read_bytes()).rgb
    assert picture.shape[0] == picture.shape[1]


def test_images_of_one_cell_go_out_as_they_are(run: FinishedRun, tmp_path: Path) -> None:
    arguments = run.record.arguments.model_copy(update={"cells": "one"})
    record = run.record.model_copy(update={"arguments": arguments})
    work = run.review()
    sources = SourceImages(run.folder, open_folder(str(run.slides)), str(run.slides), work.state.cells)
    write_export("folders", work, sources, record, tmp_path / "out", "reviewed")
    original = next(run.slides.rglob("*.jpg")).read_bytes()
    assert all(path.read_bytes() == original for path in (tmp_path / "out").rglob("*.jpg"))


def test_boxes_are_a_laboratory_of_whole_images(run: FinishedRun, tmp_path: Path) -> None:
    out = write(run, "boxes", tmp_path / "out")
    (laboratory,) = read_laboratories(out / "laboratories.yaml")
    data = laboratory.read(CLASS_NAMES)
    images = Counter(sample.path for sample in data.samples)
    assert all(path.is_file() for path in images)
    assert set(images.values()) <= {
        3,
        4,
    }  # of each image all cells; one of the first image's four is none, one was added
    assert any(sample.box == pytest.approx(Box(5, 6, 55, 66)) for sample in data.samples)


def test_a_single_slide_still_makes_several_sources(tmp_path: Path) -> None:
    run = write_run(tmp_path, 16, ["only"])
    run.review().label(Asked("Ann", "everything", 0), range(16), "MONOCYTE")
    sources = {row["source"] for row in rows(write(run, "folders", tmp_path / "out") / "groups.csv")}
    assert len(sources) == 4


def test_qupath_reads_the_geojson(run: FinishedRun, tmp_path: Path) -> None:
    shapely = pytest.importorskip("shapely")
    out = write(run, "geojson", tmp_path / "out", "all")
    count = 0
    for path in out.rglob("*.geojson"):
        content = path.read_text(encoding="utf-8")
        shapes = shapely.from_geojson(content)
        assert all(shape.is_valid and shape.area > 0 for shape in shapes.geoms)
        features = json.loads(content)["features"]
        assert all(feature["properties"]["objectType"] == "detection" for feature in features)
        assert all(len(feature["properties"]["classification"]["color"]) == 3 for feature in features)
        count += len(features)
    assert count == 40  # 40 of the run, one of them none, one added


def test_pycocotools_reads_the_coco_file(run: FinishedRun, tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    read = coco.COCO(str(write(run, "coco", tmp_path / "out", "all") / "coco.json"))
    names = {one["id"]: one["name"] for one in read.loadCats(read.getCatIds())}
    labels = Counter(names[one["category_id"]] for one in read.loadAnns(read.getAnnIds()))
    work = run.review()
    counts = sum((slide.counts for slide in work.state.slides), Counter())
    del counts["no-cell"]
    assert labels == +counts
    assert len(read.getImgIds()) == 11
    assert all(
        one["bbox"][2] * one["bbox"][3] == pytest.approx(one["area"], abs=0.1)
        for one in read.loadAnns(read.getAnnIds())
    )


def test_fiftyone_finds_images_and_boxes(run: FinishedRun, tmp_path: Path) -> None:
    """As docs.voxel51.com describes FiftyOneImageDetectionDataset; the tool itself brings a database."""
    out = write(run, "fiftyone", tmp_path / "out", "all")
    content = json.loads((out / "labels.json").read_text(encoding="utf-8"))
    assert set(content) == {"classes", "labels"}
    images = {str(path.relative_to(out / "data").with_suffix("")) for path in (out / "data").rglob("*.jpg")}
    assert images == set(content["labels"])
    found = [one for labels in content["labels"].values() for one in labels]
    assert len(found) == 40
    for one in found:
        assert 0 <= one["label"] < len(content["classes"])
        left, top, width, height = one["bounding_box"]
        assert 0 <= left < left + width <= 1
        assert 0 <= top < top + height <= 1


def test_label_studio_gets_annotations_and_predictions(run: FinishedRun, tmp_path: Path) -> None:
    out = write(run, "label-studio", tmp_path / "out", "all")
    tasks = json.loads((out / "tasks.json").read_text(encoding="utf-8"))
    assert sum(len(one["result"]) for task in tasks for one in task["predictions"]) == 40
    reviewed = [one for one in run.review().state.touched.values() if one.label != "no-cell"]
    assert sum(len(one["result"]) for task in tasks for one in task["annotations"]) >= len(reviewed)


CHECK = """
import json, sys
from label_studio_sdk.label_interface import LabelInterface
interface = LabelInterface(open(sys.argv[1] + "/config.xml", encoding="utf-8").read())
interface.validate()
tasks = json.load(open(sys.argv[1] + "/tasks.json", encoding="utf-8"))
for task in tasks:
    for kind in ("annotations", "predictions"):
        for one in task[kind]:
            check = interface.validate_annotation if kind == "annotations" else interface.validate_prediction
            assert check(one), one
print(len(tasks))
"""


@pytest.mark.slow
def test_label_studios_own_code_takes_it(run: FinishedRun, tmp_path: Path) -> None:
    """In an environment of its own: the package brings a second OpenCV."""
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = environment / "bin" / "python"
    done = subprocess.run([python, "-m", "pip", "install", "--quiet", "label-studio-sdk>=2"], check=False)
    if done.returncode:
        pytest.skip("label-studio-sdk cannot be installed here")
    out = write(run, "label-studio", tmp_path / "out", "all")
    checked = subprocess.run([python, "-c", CHECK, out], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr[-3000:]
    assert checked.stdout.strip() == "11"


@pytest.mark.parametrize("kind", ["folders", "boxes", "csv", "geojson", "coco", "label-studio", "fiftyone"])
def test_no_name_leads_out_of_the_export_and_the_same_review_gives_the_same_files(
    run: FinishedRun, tmp_path: Path, kind: ExportKind
) -> None:
    first, second = (write(run, kind, tmp_path / name / "out", "all") for name in ("first", "second"))
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert files
    assert files == sorted(path.relative_to(second) for path in second.rglob("*") if path.is_file())
    assert all((first / path).read_bytes() == (second / path).read_bytes() for path in files)
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == ["out"]


@pytest.mark.parametrize("name", ["..", "a/../../b.jpg", "x" * 300 + ".jpg", "back\\slash.jpg", "/abs.jpg"])
def test_odd_names_stay_inside(name: str) -> None:
    place = Path(image_path("..", name))
    assert not place.is_absolute()
    assert ".." not in place.parts
    assert all(len(part.encode()) <= 255 for part in place.parts)


def test_an_image_that_is_gone_is_left_out_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path, 16)
    next((run.slides / "first").iterdir()).unlink()
    command: dict[str, Any] = {"run": run.path, "only": "all"}
    assert review(ReviewSettings(**command, export="folders", out=tmp_path / "out")) == 1
    assert "left out: first/" in capsys.readouterr().err
    with pytest.raises(DataError, match="--slides"):
        review(ReviewSettings(**command, export="folders", out=tmp_path / "other", slides=str(tmp_path / "nowhere")))
    assert not (tmp_path / "other").exists()
    moved = tmp_path / "moved"
    run.slides.rename(moved)
    assert review(ReviewSettings(**command, export="fiftyone", out=tmp_path / "third", slides=str(moved))) == 1


def test_what_cannot_be_exported_is_said(run: FinishedRun, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="exists already"):
        write(run, "csv", Path(run.path))
    with pytest.raises(ValueError, match="go together"):
        ReviewSettings(run=run.path, export="csv")
    untouched = write_run(tmp_path / "untouched", 8, drawn=False)
    with pytest.raises(LeukorayError, match="Nobody has said anything"):
        write(untouched, "csv", tmp_path / "out")


def test_cut_outs_at_the_edge_keep_the_cell_in_the_middle(tmp_path: Path) -> None:
    run = write_run(tmp_path, 4, ["only"])
    work = run.review()
    work.add(Asked("Ann", "at-the-edge", 0), 0, work.state.key(0).image, Box(0, 0, 40, 50), "MONOCYTE")
    out = write(run, "folders", tmp_path / "out")
    (path,) = out.rglob("*.png")
    assert cv2.imread(str(path)).shape == (100, 100, 3)
