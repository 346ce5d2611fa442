"""What a review gives to training and to other tools, for names of every kind, checked by those tools' own code."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np
import pyarrow as pa
import pytest
from object_store import ObjectStore
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from core.data.class_folders import EXTENSIONS
from core.data.laboratories import DataSettings, TrainingData, read_laboratories
from core.errors import DataError, SettingsError
from core.finding.marked import list_fields
from core.images.cells import Box, CellFinder
from core.images.decoder import decode
from core.images.drawings import CLASS_NAMES, draw_smear
from core.images.preprocessing import Preprocessing
from pipelines.classification.listing import write_list
from pipelines.classification.record import RunArguments, RunBundle, RunRecord
from pipelines.classification.run_folder import ERRORS_SCHEMA, RunFolder, predictions_schema
from pipelines.classification.slides import list_slides, top_slide
from pipelines.classification.storage import open_folder
from pipelines.reviewing.cells import NO_CELL, UNIDENTIFIED, read_cells
from pipelines.reviewing.exports.export import KINDS, Kind, export
from pipelines.reviewing.exports.folders import TRAINED_ENDINGS
from pipelines.reviewing.exports.places import Places
from pipelines.reviewing.log import ReviewLog, local_database
from pipelines.reviewing.outcome import reviewed_cells
from pipelines.reviewing.review import Asked, Review

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipelines.classification.storage import Folder
    from pipelines.reviewing.exports.export import Exported
    from pipelines.reviewing.outcome import Which

BUNDLE = "b" * 64
HOSTILE: tuple[bytes, ...] = (
    b"a+b %41 #1?/cell.png",
    b"a+b %41 #1?/cell.jpg",
    b"a+b %41 #1?/sub/cell.png",
    b"<script>alert(1)<script>/=HYPERLINK(1).png",
    b'<script>alert(1)<script>/quo"te, comma.png',
    b"new\r\nslide/new\rline.png",
    b"new\r\nslide/new\nline.png",
    b"\xff\xfe/\xfd.png",
    b"plain/" + b"n" * 240 + b".png",
    "plain/Zelle Ü.png".encode(),
    b"plain/empty.png",
    b"on top.png",
)
"""Three cells in each but the empty one."""


@dataclass
class Reviewed:
    """A run and its review."""

    run: RunFolder
    record: RunRecord
    source: Folder
    review: Review
    requests: int = 0

    def asked(self) -> Asked:
        self.requests += 1
        return Asked("ann", str(self.requests), self.review.state.last)

    def label(self, rows: Sequence[int], label: str) -> None:
        self.review.label(self.asked(), rows, label)

    def rows_of(self, image: str) -> list[int]:
        return [row for row in range(len(self.review.state)) if self.review.state.key(row).image == image]

    def sign_all(self) -> None:
        for slide in range(len(self.review.state.slides)):
            self.review.sign(self.asked(), slide, "")

    def export(self, kind: Kind, out: Path, which: Which = "all", **options: object) -> Exported:
        return export(kind, self.review.state, self.run, self.record, self.source, out, which=which, **options)


def write_fields(root: Path, names: Sequence[bytes]) -> dict[bytes, list[tuple[str, Box]]]:
    """Draw fields of three cells, and one without any; return label and box of each."""
    rng = np.random.default_rng(5)
    drawn: dict[bytes, list[tuple[str, Box]]] = {}
    for name in names:
        kinds = [] if b"empty" in name else rng.choice(CLASS_NAMES, 3).tolist()
        centres = [(90.0, 80.0), (230.0, 150.0), (420.0, 300.0)][: len(kinds)]
        rgb, cells = draw_smear(kinds, rng, width=480, height=360, centres=centres)
        path = os.path.join(os.fsencode(root), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as stream:
            Image.fromarray(rgb).save(stream, "JPEG" if name.endswith(b".jpg") else "PNG")
        drawn[name] = [(cell.kind, Box(*map(float, cell.box))) for cell in cells]
    return drawn


@pytest.fixture(scope="module")
def drawn_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[bytes, list[tuple[str, Box]]]]:
    """The fields with hostile names, drawn once."""
    root = tmp_path_factory.mktemp("drawn")
    return root, write_fields(root, HOSTILE)


def row(entry: object, number: int, label: str | None, box: Box | None, flag: str = "") -> dict[str, object]:
    given = {"label": label, "confidence": 0.8, "ood": -3.0, **{f"p_{name}": 0.25 for name in CLASS_NAMES}}
    return {
        "slide": entry.slide,
        "image": entry.image,
        "cell": number,
        "flag": flag,
        "width": 480,
        "height": 360,
        "bytes": 1,
        "bundle": BUNDLE,
        **(given if label else {}),
        **(box._asdict() if box else {}),
    }


def make_run(
    folder: Path, source: Folder, drawn: Mapping[bytes, list[tuple[str, Box]]], cells: str = "all"
) -> Reviewed:
    """Write a finished run as classify.py would, in parts of three images; its first cell's class is unidentified."""
    run = RunFolder(open_folder(str(folder / "run")))
    images = write_list(run, list_slides(source), 3, top=top_slide(source))
    for part in range(images.parts):
        rows = []
        for entry in run.read_list_part(part):
            found = drawn[entry.path[len(os.fsencode(source.path)) + 1 :]]
            found = found[:1] if cells == "one" else found
            rows += [row(entry, number, *cell) for number, cell in enumerate(found, start=1)]
            if not found:
                rows.append(row(entry, 0, None, None, NO_CELL))
        table = pa.Table.from_pylist(rows, schema=predictions_schema(CLASS_NAMES))
        run.write_part(part, table, pa.Table.from_pylist([], schema=ERRORS_SCHEMA))
    arguments = RunArguments(
        slides=source.shown, gradcam="none", colour_map="jet", batch_size=1, limit=None, part_size=None, cells=cells
    )
    record = RunRecord.begin(arguments, RunBundle(path="x", id=BUNDLE, classes=CLASS_NAMES))
    record = record.model_copy(update={"state": "finished"})
    run.write_record(record)
    log = ReviewLog(local_database(folder / "review"), "r", BUNDLE)
    return Reviewed(run, record, source, Review(read_cells(run, record), log, ["BASOPHIL"]))


@pytest.fixture
def fields(tmp_path: Path, drawn_once: tuple[Path, dict[bytes, list[tuple[str, Box]]]]) -> Reviewed:
    """Fields with hostile names; two cells corrected, one unidentified, one none, one added with a note."""
    shutil.copytree(os.fsencode(drawn_once[0]), os.fsencode(tmp_path / "slides"))
    reviewed = make_run(tmp_path, open_folder(str(tmp_path / "slides")), drawn_once[1])
    rows = reviewed.rows_of("Zelle Ü.png")
    for place, label in enumerate(("BASOPHIL", UNIDENTIFIED, NO_CELL)):
        reviewed.label(rows[place : place + 1], label)
    state = reviewed.review.state
    reviewed.review.add(
        reviewed.asked(), state.cells.slide_numbers["plain"], "Zelle Ü.png", Box(300, 20, 350, 70), "MONOCYTE"
    )
    reviewed.review.note(reviewed.asked(), len(state) - 1, '=cmd|" /C calc"!A0\r\nsecond line')
    return reviewed


@pytest.fixture
def crops(tmp_path: Path) -> Reviewed:
    """Images of one cell each, of two slides and one without an ending."""
    names = (b"a/1.png", b"a/2.jpg", b"a/3", b"b/1.png", b"b/x/1.png")
    drawn = write_fields(tmp_path / "slides", names)
    return make_run(tmp_path, open_folder(str(tmp_path / "slides")), drawn, cells="one")


def expected(reviewed: Reviewed, which: Which = "all") -> Counter[str]:
    return Counter(cell.label for cell in reviewed_cells(reviewed.review.state, which) if cell.label != NO_CELL)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("which", ["reviewed", "all"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_export_has_the_cells_of_the_review_and_is_the_same_again(
    fields: Reviewed, tmp_path: Path, kind: Kind, which: Which
) -> None:
    first, second = fields.export(kind, tmp_path / "1", which), fields.export(kind, tmp_path / "new" / "2", which)
    labels = Counter(first.labels)
    labels.pop("NO-CELL", None)
    assert labels == expected(fields, which)
    assert first == second
    assert contents(tmp_path / "1") == contents(tmp_path / "new" / "2") != {}
    assert first.left_out == ()
    inside = (tmp_path / "1").resolve()
    assert all(path.resolve().is_relative_to(inside) for path in inside.rglob("*"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "new", "review", "run", "slides"]


def test_counts_are_those_of_the_log(fields: Reviewed, tmp_path: Path) -> None:
    counted: Counter[str] = sum((slide.counts for slide in fields.review.state.slides), Counter())
    none = counted.pop(NO_CELL)
    done = fields.export("folders", tmp_path / "out")
    assert done.labels == counted
    assert done.passed_over == {"no-cell": none}
    assert done.cells == counted.total() == len(read_csv(tmp_path / "out" / "groups.csv"))


def test_kinds_are_all_there() -> None:
    assert get_args(Kind) == KINDS


def test_training_takes_cut_out_cells(fields: Reviewed, tmp_path: Path) -> None:
    out = tmp_path / "out"
    fields.export("folders", out)
    (laboratory,) = read_laboratories(out / "laboratories.yaml")
    assert laboratory.unknown == ["BASOPHIL", "UNIDENTIFIED"]
    data = laboratory.read(CLASS_NAMES)
    assert +Counter(data.counts()) == expected(fields) - Counter([UNIDENTIFIED]) + Counter(["UNIDENTIFIED"])
    for sample in data.samples:
        name = data.class_names[sample.label]
        assert sample.path.relative_to(out).parts[0] == name
        assert sample.path.suffix == ".png"
        assert sample.source is not None
    slides = {sample.path.relative_to(out).parts[1]: sample.source for sample in data.samples}
    assert sorted(slides.values()) == sorted({cell.key.slide for cell in reviewed_cells(fields.review.state)})
    assert TrainingData.read(DataSettings(data=out / "laboratories.yaml"), CLASS_NAMES).size == len(data.samples)
    options = {"groups": str(out / "groups.csv"), "unknown": ["BASOPHIL", "UNIDENTIFIED"]}
    plain = TrainingData.read(DataSettings(data=out, **options), CLASS_NAMES)
    assert {sample.path: sample.source for sample in plain.sets[0].samples} == {
        sample.path: sample.source for sample in data.samples
    }


def test_the_network_sees_a_cut_out_cell_as_in_its_field(fields: Reviewed, tmp_path: Path) -> None:
    out = tmp_path / "out"
    fields.export("folders", out)
    preprocessing = Preprocessing(cell=CellFinder(scale=2.5))
    (laboratory,) = read_laboratories(out / "laboratories.yaml")
    field = decode((tmp_path / "slides" / "plain" / "Zelle Ü.png").read_bytes()).rgb
    cells = [cell for cell in reviewed_cells(fields.review.state) if cell.key.image == "Zelle Ü.png"]
    named = {f"Zelle Ü.png.{cell.key.number}.png": cell for cell in cells if cell.label != NO_CELL}
    samples = [sample for sample in laboratory.read(CLASS_NAMES).samples if sample.path.name in named]
    assert len(samples) == 3
    for sample in samples:
        seen = preprocessing.prepare(decode(sample.path.read_bytes()).rgb, sample.box)
        meant = preprocessing.prepare(field, named[sample.path.name].box)
        assert np.array_equal(seen.pixels, meant.pixels)


def test_images_of_one_cell_are_the_files_themselves(crops: Reviewed, tmp_path: Path) -> None:
    out = tmp_path / "out"
    numbers = crops.review.state.cells.slide_numbers
    crops.review.add(crops.asked(), numbers["b"], "x/1.png", Box(200, 120, 260, 180), "MONOCYTE")
    done = crops.export("folders", out)
    assert done.labels == expected(crops)
    sources = {path.read_bytes() for path in (tmp_path / "slides").rglob("*") if path.is_file()}
    files = [path for path in out.rglob("*") if path.is_file() and path.suffix not in {".csv", ".yaml"}]
    added = [path for path in files if path.name == "1.png.2.png"]
    assert {path.read_bytes() for path in files} - {added[0].read_bytes()} == sources
    assert added[0].relative_to(out).as_posix() == "MONOCYTE/b/x/1.png.2.png"
    assert [path.name for path in files if path.name.startswith("3")] == ["3.png"]
    (laboratory,) = read_laboratories(out / "laboratories.yaml")
    data = laboratory.read(CLASS_NAMES)
    assert len(data.samples) == 6
    assert {sample.source for sample in data.samples} == {"a", "b"}


def test_training_finds_every_ending_that_is_left_as_it_is() -> None:
    assert TRAINED_ENDINGS == EXTENSIONS


def test_of_one_slide_an_image_is_a_source(tmp_path: Path) -> None:
    drawn = write_fields(tmp_path / "slides", [b"a/1.png", b"a/2.png"])
    fields = make_run(tmp_path, open_folder(str(tmp_path / "slides")), drawn)
    fields.export("folders", tmp_path / "out")
    assert {line["source"] for line in read_csv(tmp_path / "out" / "groups.csv")} == {"1.png", "2.png"}


def test_training_takes_boxes(fields: Reviewed, tmp_path: Path) -> None:
    out = tmp_path / "out"
    fields.sign_all()
    done = fields.export("boxes", out, "reviewed")
    (laboratory,) = read_laboratories(out / "laboratories.yaml")
    assert laboratory.not_white == ["NO-CELL"]
    data = laboratory.read(CLASS_NAMES)
    assert +Counter(data.counts()) == expected(fields) - Counter([UNIDENTIFIED]) + Counter(["UNIDENTIFIED"])
    assert {sample.source for sample in data.samples} == {
        cell.key.slide for cell in reviewed_cells(fields.review.state)
    }
    originals = {path.read_bytes() for path in (tmp_path / "slides").rglob("*") if path.is_file()}
    assert {path.read_bytes() for path in (out / "images").rglob("*") if path.is_file()} == originals
    found = {file.path: len(file.boxes or ()) for file in list_fields(laboratory)}
    assert len(found) == done.images == len(HOSTILE)
    assert found[out / "images" / "plain" / "empty.png"] == 0
    assert found[out / "images" / "plain" / "Zelle Ü.png"] == 3
    assert {line["complete"] for line in read_csv(out / "boxes.csv")} == {"yes"}


def test_a_finder_gets_only_images_of_which_every_cell_was_reviewed(fields: Reviewed, tmp_path: Path) -> None:
    fields.label(fields.rows_of("on top.png")[:2], "MONOCYTE")
    done = fields.export("boxes", tmp_path / "reviewed", "reviewed")
    lines = read_csv(tmp_path / "reviewed" / "boxes.csv")
    assert {line["image"] for line in lines} == {"plain/Zelle Ü.png"}
    assert done.passed_over == {"incomplete-image": 1}
    fields.export("boxes", tmp_path / "all")
    complete = {line["image"]: line["complete"] for line in read_csv(tmp_path / "all" / "boxes.csv")}
    assert [image for image, word in complete.items() if word == "yes"] == ["plain/Zelle Ü.png"]
    assert len(complete) == len(HOSTILE) - 1  # whether the empty one is empty, nobody has said


def test_the_table_has_every_name_and_note_as_it_is(fields: Reviewed, tmp_path: Path) -> None:
    fields.export("csv", tmp_path / "out")
    lines = read_csv(tmp_path / "out" / "cells.csv")
    cells = {cell.key: cell for cell in reviewed_cells(fields.review.state)}
    assert len(lines) == len(cells)
    for line in lines:
        cell = cells[line["slide"], line["image"], int(line["cell"])]
        assert (line["label"], line["note"], line["reviewer"]) == (cell.label, cell.note, cell.reviewer)
        assert line["reviewed"] == str(cell.reviewed).lower()
        assert line["bundle"] == BUNDLE
    names = {(line["slide"], line["image"]) for line in lines}
    assert {("new\r\nslide", "new\rline.png"), ("\\xff\\xfe", "\\xfd.png"), ("slides", "on top.png")} <= names
    assert [line["confidence"] for line in lines if line["added"] == "true"] == [""]


def test_qupath_gets_closed_polygons(fields: Reviewed, tmp_path: Path) -> None:
    shapely = pytest.importorskip("shapely.geometry")
    fields.export("geojson", tmp_path / "out")
    files = [json.loads(path.read_text("utf-8")) for path in (tmp_path / "out").rglob("*.geojson")]
    assert len(files) == len(HOSTILE)
    features = [feature for file in files for feature in file["features"]]
    assert Counter(one["properties"]["classification"]["name"] for one in features) == expected(fields)
    assert len({one["id"] for one in features}) == len(features)
    picture = shapely.box(0, 0, 480, 360)
    for one in features:
        polygon = shapely.shape(one["geometry"])
        assert polygon.is_valid
        assert polygon.area > 100
        assert picture.covers(polygon)
        assert polygon.exterior.is_ccw
        assert all(0 <= level <= 255 for level in one["properties"]["classification"]["color"])
    kinds = Counter(one["properties"]["objectType"] for one in features)
    assert kinds["annotation"] == expected(fields, "reviewed").total()


def test_pycocotools_loads_coco(fields: Reviewed, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    fields.export("coco", tmp_path / "out")
    data = coco.COCO(str(tmp_path / "out" / "coco.json"))
    names = {one["id"]: one["name"] for one in data.loadCats(data.getCatIds())}
    assert list(names.values()) == [*CLASS_NAMES, "BASOPHIL", UNIDENTIFIED]
    annotations = data.loadAnns(data.getAnnIds())
    assert Counter(names[one["category_id"]] for one in annotations) == expected(fields)
    assert all(one["area"] == pytest.approx(one["bbox"][2] * one["bbox"][3], abs=0.01) for one in annotations)
    files = {one["file_name"] for one in data.loadImgs(data.getImgIds())}
    assert len(files) == len(HOSTILE)
    assert sum((tmp_path / "slides" / name).is_file() for name in files) == len(HOSTILE) - 1
    assert "\\xff\\xfe/\\xfd.png" in files
    assert len(data.loadRes([one | {"score": 0.5} for one in annotations]).getAnnIds()) == len(annotations)


def test_label_studio_takes_tasks(fields: Reviewed, tmp_path: Path) -> None:
    fields.export("label-studio", tmp_path / "out")
    tasks = json.loads((tmp_path / "out" / "tasks.json").read_text("utf-8"))
    task = next(one for one in tasks if one["data"]["name"] == "Zelle Ü.png")
    assert task["data"]["image"] == "/data/local-files/?d=plain/Zelle%20%C3%9C.png"
    said = [region["value"]["rectanglelabels"] for region in task["annotations"][0]["result"]]
    assert said == [["BASOPHIL"], [UNIDENTIFIED], ["MONOCYTE"]]
    assert len(task["predictions"][0]["result"]) == 3
    assert sum(bool(one["annotations"]) for one in tasks) == 1
    assert "/data/local-files/?d=%FF%FE/%FD.png" in {one["data"]["image"] for one in tasks}
    fields.export("label-studio", tmp_path / "elsewhere", image_prefix="https://images.lab/")
    tasks = json.loads((tmp_path / "elsewhere" / "tasks.json").read_text("utf-8"))
    assert {one["data"]["image"][:19] for one in tasks} == {"https://images.lab/"}


LABEL_STUDIO = """
import json, sys
from label_studio_sdk.label_interface import LabelInterface
interface = LabelInterface(open(sys.argv[1] + "/config.xml", encoding="utf-8").read())
interface.validate()
tasks = json.load(open(sys.argv[1] + "/tasks.json", encoding="utf-8"))
for task in tasks:
    assert interface.validate_task({"data": task["data"]})
    assert all(interface.validate_prediction(one, return_errors=True) == [] for one in task["predictions"])
    assert all(interface.validate_annotation(one) for one in task["annotations"])
print(len(tasks), *interface.get_control("label").labels)
"""


@pytest.mark.slow
def test_label_studio_says_that_the_tasks_are_valid(fields: Reviewed, tmp_path: Path) -> None:
    """Label Studio's own code, in an environment of its own: it brings opencv-python, which would replace ours."""
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = environment / "bin" / "python"
    if subprocess.run([python, "-m", "pip", "install", "--quiet", "label-studio-sdk>=2"], check=False).returncode:
        pytest.skip("label-studio-sdk cannot be installed here")
    fields.label(fields.rows_of("on top.png"), "MONOCYTE")
    fields.export("label-studio", tmp_path / "out")
    done = subprocess.run([python, "-c", LABEL_STUDIO, tmp_path / "out"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    number, *labels = done.stdout.split()
    assert int(number) == len(json.loads((tmp_path / "out" / "tasks.json").read_text("utf-8")))
    assert labels == [*CLASS_NAMES, "BASOPHIL", UNIDENTIFIED]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class DocumentedDetection(_Strict):
    """One entry of labels.json, by FiftyOne's user guide, "FiftyOneImageDetectionDataset"."""

    label: int | str
    bounding_box: list[float] = Field(min_length=4, max_length=4)
    confidence: float | None = None
    attributes: dict[str, str | int | float | bool] = {}


class DocumentedLabels(_Strict):
    """labels.json, by the same."""

    classes: list[str] | None = None
    labels: dict[str, list[DocumentedDetection] | None]


def test_fiftyone_gets_what_it_documents(fields: Reviewed, tmp_path: Path) -> None:
    out = tmp_path / "out"
    fields.export("fiftyone", out)
    assert sorted(path.name for path in out.iterdir()) == ["data", "labels.json"]
    content = DocumentedLabels.model_validate_json((out / "labels.json").read_bytes())
    names = [os.path.splitext(path.name)[0] for path in (out / "data").iterdir()]
    assert sorted(names) == sorted(content.labels)
    assert len(names) == len(HOSTILE)
    detections = [one for found in content.labels.values() for one in found or ()]
    assert Counter((content.classes or [])[int(one.label)] for one in detections) == expected(fields)
    for one in detections:
        left, top, width, height = one.bounding_box
        assert min(left, top) >= 0
        assert min(width, height) > 0
        assert max(left + width, top + height) <= 1 + 1e-7
        assert not {"label", "confidence", "bounding_box", "id", "tags", "index"} & set(one.attributes)


def test_what_cannot_be_read_is_listed_and_the_rest_exported(fields: Reviewed, tmp_path: Path) -> None:
    (tmp_path / "slides" / "on top.png").unlink()
    (tmp_path / "slides" / "plain" / "Zelle Ü.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    done = fields.export("folders", tmp_path / "out")
    assert {(one.slide, one.image, one.code) for one in done.left_out} == {
        ("slides", "on top.png", "not-found"),
        ("plain", "Zelle Ü.png", "damaged"),
    }
    listed = read_csv(tmp_path / "out" / "left_out.csv")
    assert [(line["image"], line["code"]) for line in listed] == [(one.image, one.code) for one in done.left_out]
    assert done.cells == expected(fields).total() - 6
    assert len(read_laboratories(tmp_path / "out" / "laboratories.yaml")[0].read(CLASS_NAMES).samples) == done.cells


def test_a_cell_without_a_place_is_left_out_but_for_the_table(fields: Reviewed, tmp_path: Path) -> None:
    fields.label(fields.rows_of("empty.png"), "MONOCYTE")
    for kind in KINDS:
        done = fields.export(kind, tmp_path / kind)
        assert [one.code for one in done.left_out] == ([] if kind == "csv" else ["no-box"]), kind


def test_two_files_whose_names_print_alike_are_not_taken_for_one(tmp_path: Path) -> None:
    names = [b"a/\xff.png", b"a/\\xff.png", b"a/other.png"]
    drawn = write_fields(tmp_path / "slides", names)
    fields = make_run(tmp_path, open_folder(str(tmp_path / "slides")), drawn)
    done = fields.export("boxes", tmp_path / "out")
    assert [(one.image, one.code) for one in done.left_out] == [("\\xff.png", "two-files")]
    assert done.images == 1


def test_slides_may_have_moved_and_the_list_be_gone(fields: Reviewed, tmp_path: Path) -> None:
    (tmp_path / "slides").rename(tmp_path / "moved")
    with pytest.raises(DataError, match="does not exist"):
        fields.export("folders", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    fields.source = open_folder(str(tmp_path / "moved"))
    assert fields.export("folders", tmp_path / "out").left_out == ()
    shutil.rmtree(tmp_path / "run" / ".work")
    (tmp_path / "moved").rename(tmp_path / "slides")
    fields.source = open_folder(str(tmp_path / "slides"))
    done = fields.export("folders", tmp_path / "unlisted")
    assert {(one.image, one.code) for one in done.left_out} == {("\\xfd.png", "not-found")}


def test_a_list_that_leads_out_of_the_slides_is_not_followed(tmp_path: Path) -> None:
    drawn = write_fields(tmp_path / "slides", [b"a/1.png", b"a/2.png"])
    fields = make_run(tmp_path, open_folder(str(tmp_path / "slides")), drawn)
    (entry, other) = fields.run.read_list_part(0)
    bad = type(entry)(entry.slide, entry.image, b"/etc/../passwd")
    fields.run.write_list_part(0, [bad, other])
    assert [one.code for one in fields.export("boxes", tmp_path / "out").left_out] == ["not-listed"]


def test_an_export_is_complete_or_not_there(fields: Reviewed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(SettingsError, match="exists already"):
        fields.export("csv", tmp_path / "full")
    before = sorted(tmp_path.iterdir())

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fields.export("folders", tmp_path / "out", on_image=stop)
    assert sorted(tmp_path.iterdir()) == before
    (tmp_path / "out").mkdir()
    fields.export("csv", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["cells.csv"]


def test_nothing_to_export_is_said(tmp_path: Path) -> None:
    drawn = write_fields(tmp_path / "slides", [b"a/1.png", b"a/2.png"])
    fields = make_run(tmp_path, open_folder(str(tmp_path / "slides")), drawn)
    with pytest.raises(DataError, match="Nobody has reviewed") as none:
        fields.export("csv", tmp_path / "out", "reviewed")
    assert none.value.code == "nothing-to-export"
    fields.label([0], "MONOCYTE")
    with pytest.raises(DataError, match="No image has all its cells reviewed"):
        fields.export("boxes", tmp_path / "out", "reviewed")
    assert not (tmp_path / "out").exists()


def test_images_come_from_an_object_store(tmp_path: Path) -> None:
    drawn = write_fields(tmp_path / "slides", [b"a b#1/1 %.png", b"top.png"])
    with ObjectStore() as store:
        lab = open_folder(store.uri("lab") + "&allow_bucket_creation=true")
        lab.filesystem.create_dir("lab")
        for name in drawn:
            lab.write(f"my slides/{name.decode()}", (tmp_path / "slides" / name.decode()).read_bytes())
        fields = make_run(tmp_path, open_folder(store.uri("lab/my slides")), drawn)
        assert fields.export("boxes", tmp_path / "boxes").labels == expected(fields)
        assert (tmp_path / "boxes" / "images" / "a b#1" / "1 %.png").is_file()
        fields.export("label-studio", tmp_path / "tasks")
    tasks = json.loads((tmp_path / "tasks" / "tasks.json").read_text("utf-8"))
    assert [one["data"]["image"] for one in tasks] == ["s3://lab/my slides/a b#1/1 %.png", "s3://lab/my slides/top.png"]
    assert "SECRET" not in (tmp_path / "tasks" / "tasks.json").read_text("utf-8")


@pytest.mark.parametrize(
    ("folders", "name"),
    [
        (["..", "."], ".."),
        (["a\\..\\b"], "/etc/passwd"),
        ([""], ""),
        (["a" * 300], "b" * 300 + ".png"),
        (["x"] * 999, "1"),
    ],
)
def test_no_name_leads_out_of_an_export_or_is_too_long(folders: list[str], name: str, tmp_path: Path) -> None:
    path = Places().place(folders, name, ".png")
    assert not {"", ".", ".."} & set(path.split("/"))
    assert "\\" not in path
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_bytes(b"")
    assert (tmp_path / path).resolve().is_relative_to(tmp_path.resolve())


def test_no_two_files_of_an_export_have_one_name() -> None:
    paths = (
        "a/1.png", "A/1.PNG", "a/1.png", "a/x", "a/x/1.png", "a/1.png/2.png", "a/1.png", "a/y/1.png", "a/y",
        "a/u\u0308.png", "a/\u00fc.png", "a/\n.png", "a/\t.png",
    )  # fmt: skip
    asked = [(folders, name) for *folders, name in (path.split("/") for path in paths)]
    places = Places()
    found = [places.place(folders, name).casefold() for folders, name in asked]
    assert len(set(found)) == len(found)
    parents = {str(parent) for path in found for parent in Path(path).parents}
    assert not parents & set(found)
