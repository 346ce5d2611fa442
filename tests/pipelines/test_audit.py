"""`audit`, whole: leaks, duplicates and conflicts that were put there are found, and shown."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from core.data.groups import read_groups
from core.errors import DataError, SettingsError
from core.images.drawings import draw_field
from pipelines.audit import AuditSettings, audit
from runtime.command import run_command

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page


def save(path: Path, rgb: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))


def turned(rgb: np.ndarray, angle: float) -> np.ndarray:
    matrix = cv2.getRotationMatrix2D((160, 120), angle, 1)
    return np.asarray(cv2.warpAffine(rgb, matrix, (320, 240)), np.uint8)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """Two splits: field 0 leaks, field 1 has two labels, field 2 is there twice, one file is broken."""
    root = tmp_path_factory.mktemp("audit")
    rng = np.random.default_rng(6)
    fields = [draw_field("NEUTROPHIL", rng) for _ in range(6)]
    data = root / "data"
    save(data / "TRAIN" / "NEUTROPHIL" / "a.png", fields[0])
    save(data / "TEST" / "NEUTROPHIL" / "b.png", turned(fields[0], 12)[:, ::-1])
    save(data / "TRAIN" / "NEUTROPHIL" / "c.png", fields[1])
    save(data / "TRAIN" / "EOSINOPHIL" / "d.png", turned(fields[1], -9))
    save(data / "TRAIN" / "NEUTROPHIL" / "e.png", fields[2])
    save(data / "TRAIN" / "NEUTROPHIL" / "f.bmp", fields[2])
    save(data / "TRAIN" / "NEUTROPHIL" / "g.jpg", fields[3])
    cv2.imwrite(str(data / "TRAIN" / "NEUTROPHIL" / "h.jpg"), fields[3][..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 70])
    save(data / "TEST" / "EOSINOPHIL" / "i.png", fields[4])
    save(data / "TEST" / "NEUTROPHIL" / "j.png", fields[5])
    (data / "TEST" / "NEUTROPHIL" / "<b>broken.jpg").write_bytes(b"nothing")
    settings = AuditSettings.model_validate({"data": data, "out": root / "report"})
    assert audit(settings) == 0
    return root / "report", json.loads((root / "report" / "audit.json").read_text())


def test_what_was_put_there_is_found(report: tuple[Path, dict]) -> None:
    folder, record = report
    assert record["found"] == {
        "images": 10,
        "sources": 6,
        "sources_in_several_splits": 1,
        "sources_with_conflicting_labels": 1,
        "exact_duplicates": 1,
        "near_duplicates": 1,
        "unreadable": 1,
        "agreement": None,
    }
    with (folder / "pairs.csv").open() as stream:
        pairs = {row["kind"]: (row["one"], row["other"], row["reason"]) for row in csv.DictReader(stream)}
    assert set(pairs["shared"][:2]) == {"TRAIN/NEUTROPHIL/a.png", "TEST/NEUTROPHIL/b.png"}
    assert "mirrored" in pairs["shared"][2]
    assert set(pairs["conflicts"][:2]) == {"TRAIN/NEUTROPHIL/c.png", "TRAIN/EOSINOPHIL/d.png"}
    assert set(pairs["exact"][:2]) == {"TRAIN/NEUTROPHIL/e.png", "TRAIN/NEUTROPHIL/f.bmp"}
    assert set(pairs["near"][:2]) == {"TRAIN/NEUTROPHIL/g.jpg", "TRAIN/NEUTROPHIL/h.jpg"}


def test_the_groups_can_be_given_to_train_and_evaluate(report: tuple[Path, dict]) -> None:
    groups = read_groups(report[0] / "groups.csv")
    assert groups["TRAIN/NEUTROPHIL/a.png"] == groups["TEST/NEUTROPHIL/b.png"]
    assert len(set(groups.values())) == 6


def test_the_page_shows_the_pairs_and_escapes_names(report: tuple[Path, dict]) -> None:
    folder, _ = report
    page = (folder / "index.html").read_text()
    assert "&lt;b&gt;broken.jpg" in page
    assert "<b>broken" not in page
    pictures = list((folder / "pairs").glob("*.jpg"))
    assert len(pictures) == 4
    assert all(f"pairs/{picture.name}" in page for picture in pictures)
    picture = cv2.imread(str(pictures[0]))
    assert picture is not None
    assert picture.shape == (240, 640, 3)


def test_the_page_in_a_browser(report: tuple[Path, dict], page: Page) -> None:
    page.goto((report[0] / "index.html").as_uri())
    assert "For Research Use Only" in page.inner_text("body")
    page.evaluate("for (const image of document.images) image.loading = 'eager'")
    page.wait_for_function("[...document.images].every(image => image.complete)")
    assert page.evaluate("[...document.images].map(image => image.naturalWidth)") == [640] * 4
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_named_sources_are_compared(
    report: tuple[Path, dict], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = report[0].parent / "data"
    named = {  # one field under two names, and two fields under one
        "TRAIN/NEUTROPHIL/a.png": "first",
        "TEST/NEUTROPHIL/b.png": "second",
        "TRAIN/NEUTROPHIL/c.png": "third",
        "TRAIN/EOSINOPHIL/d.png": "third",
        "TEST/EOSINOPHIL/i.png": "fourth",
        "TEST/NEUTROPHIL/j.png": "fourth",
    }
    (tmp_path / "named.csv").write_text("path,source\n" + "".join(f"{k},{v}\n" for k, v in named.items()))
    (tmp_path / "linked.csv").write_text("source,same_as\nsecond,first\n")
    command = [str(data), "--pictures", "0", "--compare", str(tmp_path / "named.csv")]
    assert run_command(AuditSettings, audit, [*command, "--out", str(tmp_path / "r")]) == 0
    agreement = json.loads(capsys.readouterr().out)["agreement"]
    assert agreement == {"images": 6, "pairs": 15, "right": 13 / 15, "same_found": 0.5, "found_same": 0.5}
    linked = ["--linked-groups", str(tmp_path / "linked.csv"), "--out", str(tmp_path / "r2")]
    assert run_command(AuditSettings, audit, [*command, *linked]) == 0
    assert json.loads(capsys.readouterr().out)["agreement"]["right"] == 14 / 15


def test_copies_without_features_are_one_source(tmp_path: Path) -> None:
    smooth = np.tile(np.linspace(60, 200, 320, dtype=np.uint8)[None, :, None], (240, 1, 3))
    for number, split in enumerate(("train", "test")):
        save(tmp_path / "data" / split / "A" / "x.png", smooth)
        save(tmp_path / "data" / split / "B" / f"{number}.png", draw_field("MONOCYTE", np.random.default_rng(number)))
    assert audit(AuditSettings.model_validate({"data": tmp_path / "data", "out": tmp_path / "r"})) == 0
    found = json.loads((tmp_path / "r" / "audit.json").read_text())["found"]
    assert found["sources_in_several_splits"] == found["exact_duplicates"] == 1


def test_class_folders_with_folders_in_them_are_no_splits(tmp_path: Path) -> None:
    for number, name in enumerate(("A/patient-1/1.png", "A/patient-2/2.png", "B/patient-1/3.png")):
        save(tmp_path / "data" / name, draw_field("MONOCYTE", np.random.default_rng(number)))
    assert audit(AuditSettings.model_validate({"data": tmp_path / "data", "out": tmp_path / "r"})) == 0
    counts = json.loads((tmp_path / "r" / "audit.json").read_text())["counts"]
    assert [(row["class"], row["images"]) for row in counts] == [("A", 2), ("B", 1)]


def test_what_cannot_be_used_is_refused(report: tuple[Path, dict], tmp_path: Path) -> None:
    def run(data: Path, out: Path) -> int:
        return audit(AuditSettings.model_validate({"data": data, "out": out}))

    with pytest.raises(SettingsError, match="exists already"):
        run(report[0].parent / "data", report[0])
    with pytest.raises(DataError, match="does not exist"):
        run(tmp_path / "nowhere", tmp_path / "r")
    (tmp_path / "data" / "A").mkdir(parents=True)
    (tmp_path / "data" / "B").mkdir()
    for kind in "AB":
        (tmp_path / "data" / kind / "x.jpg").write_bytes(b"nothing")
    with pytest.raises(DataError, match="None of the 2 images"):
        run(tmp_path / "data", tmp_path / "r")


def test_what_two_laboratories_share_is_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    fields = [draw_field("NEUTROPHIL", rng) for _ in range(3)]
    save(tmp_path / "one" / "NEUTROPHIL" / "a.png", fields[0])
    save(tmp_path / "one" / "EOSINOPHIL" / "b.png", fields[1])
    save(tmp_path / "two" / "field.png", fields[0])
    save(tmp_path / "two" / "other.png", fields[2])
    (tmp_path / "two" / "broken.png").write_bytes(b"")
    (tmp_path / "boxes.csv").write_text(
        "image,label,left,top,right,bottom\n"
        "field.png,NEUTROPHIL,100,60,220,180\nfield.png,BASOPHIL,10,10,60,60\n"
        "other.png,NEUTROPHIL,100,60,220,180\nbroken.png,NEUTROPHIL,100,60,220,180\n"
    )
    (tmp_path / "labs.yaml").write_text(
        "laboratories:\n- {name: one, path: one}\n- {name: two, path: two, boxes: boxes.csv, unknown: [BASOPHIL]}\n"
    )
    assert audit(AuditSettings.model_validate({"data": tmp_path / "labs.yaml", "out": tmp_path / "r"})) == 0
    found = json.loads((tmp_path / "r" / "audit.json").read_text())["found"]
    assert (found["images"], found["sources_in_several_splits"], found["unreadable"]) == (4, 1, 1)
    with (tmp_path / "r" / "pairs.csv").open() as stream:
        shared = [row for row in csv.DictReader(stream) if row["kind"] == "shared"]
    assert [{row["one"], row["other"]} for row in shared] == [{"one/NEUTROPHIL/a.png", "two/field.png"}]
    assert "two/broken.png" in (tmp_path / "r" / "unreadable.csv").read_text()
