"""``classify.py --cells all``: camera fields with any number of white cells."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import browsing

from core.errors import LeukorayError
from core.images.drawings import CLASS_NAMES, draw_smear
from core.model.bundle import load_bundle
from core.model.predictor import Predictor
from pipelines.classify import ClassifySettings, classify

if TYPE_CHECKING:
    from pathlib import Path

COUNTS = [3, 0, 1, 5, 2, 4]


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fields") / "slides"
    rng = np.random.default_rng(2)
    for number, count in enumerate(COUNTS):
        rgb, _ = draw_smear(rng.choice(CLASS_NAMES, count).tolist(), rng)
        target = folder / f"slide-{number % 2}"
        target.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(target / f"field-{number}.png"), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    return folder


def run(bundle: Path, slides: Path, out: Path, **options: object) -> Path:
    given = {"slides": str(slides), "out": str(out), "model": bundle, "part_size": 2, "cells": "all"}
    assert classify(ClassifySettings.model_validate(given | options)) == 0
    return out


@pytest.fixture(scope="module")
def done(field_bundle: Path, slides: Path, cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(field_bundle, slides, tmp_path_factory.mktemp("run") / "run")


def rows(folder: Path) -> pd.DataFrame:
    parts = [pd.read_parquet(path) for path in sorted((folder / "predictions").glob("*.parquet"))]
    return pd.concat(parts).sort_values(["slide", "image", "cell"]).reset_index(drop=True)


def test_every_cell_is_a_row(done: Path, slides: Path) -> None:
    table = rows(done)
    for number, count in enumerate(COUNTS):
        cells = table[table["image"] == f"field-{number}.png"]
        assert cells["cell"].tolist() == (list(range(1, count + 1)) or [0])
    empty = table[table["cell"] == 0].iloc[0]
    assert empty["flag"] == "no-cell"
    assert empty[["label", "gradcam", "left", "p_MONOCYTE"]].isna().all()


def test_the_rows_are_what_the_predictor_says(done: Path, slides: Path, field_bundle: Path) -> None:
    predictor = Predictor(load_bundle(field_bundle), "cpu")
    _, prepared = predictor.prepare_every((slides / "slide-1" / "field-3.png").read_bytes())
    predictions = predictor.predict(prepared)
    table = rows(done)
    table = table[table["image"] == "field-3.png"]
    assert table["label"].tolist() == [one.label for one in predictions]
    boxes = table[["left", "top", "right", "bottom"]].to_numpy()
    np.testing.assert_allclose(boxes, [one.cell for one in predictions], atol=1e-3)


def test_each_cell_and_each_field_has_a_picture(done: Path) -> None:
    table = rows(done)
    drawn = table[table["cell"] > 0]
    assert drawn["gradcam"].is_unique
    assert drawn["gradcam"].iloc[0] == "gradcam/slide-0/field-0.png.1.jpg"
    for path in drawn["gradcam"]:
        assert cv2.imread(str(done / path)) is not None
    assert cv2.imread(str(done / "gradcam" / "slide-0" / "field-0.png.jpg")).shape == (480, 640, 3)


def test_the_counts_add_up(done: Path) -> None:
    table = pd.read_csv(done / "slides.csv")
    assert table["n_images"].tolist() == [3, 3]
    assert table["n_empty"].sum() == 1
    assert table["n"].sum() == sum(COUNTS)
    assert (table["n"] == table["n_identified"] + table["n_unidentified"]).all()
    counts = json.loads((done / "run.json").read_text())["counts"]
    assert (counts["images"], counts["empty"], counts["cells"]) == (6, 1, sum(COUNTS))


def test_a_run_of_fields_continues_to_the_same_rows(
    done: Path, slides: Path, field_bundle: Path, in_this_process: None, tmp_path: Path
) -> None:
    again = run(field_bundle, slides, tmp_path / "run", batch_size=2)
    (sorted((again / "predictions").glob("*.parquet"))[1]).unlink()
    record = json.loads((again / "run.json").read_text())
    (again / "run.json").write_text(json.dumps(record | {"state": "running"}))
    run(field_bundle, slides, again, resume=True, batch_size=2)
    pd.testing.assert_frame_equal(rows(again), rows(done))


def test_openvino_gives_the_same_rows_and_a_run_keeps_its_engine(
    exported_bundle: Path, slides: Path, in_this_process: None, tmp_path: Path
) -> None:
    slow = run(exported_bundle, slides, tmp_path / "torch", engine="torch")
    fast = run(exported_bundle, slides, tmp_path / "fast")
    assert [json.loads((folder / "run.json").read_text())["engine"] for folder in (slow, fast)] == ["torch", "openvino"]
    ours, theirs = rows(slow), rows(fast)
    assert theirs["label"].tolist() == ours["label"].tolist()
    numbers = ["left", "top", "right", "bottom", "confidence", "ood"]
    np.testing.assert_allclose(theirs[numbers], ours[numbers], atol=1)
    np.testing.assert_allclose(theirs["confidence"], ours["confidence"], atol=0.01)
    record = json.loads((slow / "run.json").read_text())
    (slow / "run.json").write_text(json.dumps(record | {"state": "running"}))
    min((slow / "predictions").glob("*.parquet")).unlink()
    with pytest.raises(LeukorayError, match="engine = "):
        run(exported_bundle, slides, slow, engine="openvino", resume=True)
    run(exported_bundle, slides, slow, engine="torch", resume=True)
    pd.testing.assert_frame_equal(rows(slow), ours)


def test_one_cell_of_several_is_flagged(
    field_bundle: Path, slides: Path, in_this_process: None, tmp_path: Path
) -> None:
    table = rows(run(field_bundle, slides, tmp_path / "run", cells="one", gradcam="none"))
    assert len(table) == len(COUNTS)
    flags = dict(zip(table["image"], table["flag"], strict=True))
    assert flags["field-1.png"] == "no-cell"
    assert all(flags[f"field-{number}.png"] in {"several-cells", "low-confidence"} for number in (0, 3, 4, 5))
    assert flags["field-2.png"] in {"", "low-confidence"}


def test_the_report_shows_fields_and_cells(done: Path) -> None:
    with browsing("file:") as page:
        page.goto((done / "report" / "index.html").as_uri())
        assert f"{sum(COUNTS)}" in page.locator(".tile", has_text="white cells").inner_text()
        page.click("text=slide-1")
        assert "fewer than 100 identified cells" in page.inner_text("main")
        cells = page.locator(".cell")
        assert cells.count() == sum(COUNTS[1::2]) + 1
        cells.first.click()
        picture = page.locator("#viewer-field img.field")
        assert picture.evaluate("image => image.naturalWidth") == 640
        assert ", cell " in page.inner_text("#viewer-image")
        page.keyboard.press("Escape")
        page.locator(".cell", has_text="no cell").click()
        assert page.inner_text("#viewer-label") == "No cell"
