"""The drawn demo, through the bundle that ships."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from core.errors import SettingsError
from core.images.drawings import CLASS_NAMES, draw_field
from core.images.overlay import encode_jpeg
from core.model.bundle import load_bundle
from core.model.predictor import Predictor
from pipelines import demo
from pipelines.demo import DemoSettings, DrawnSlides, draw_slides

if TYPE_CHECKING:
    from core.model.prediction import Prediction


@pytest.fixture(scope="module")
def predictor(shipped: Path) -> Predictor:
    return Predictor(load_bundle(shipped), "cpu")


@pytest.mark.parametrize("kind", CLASS_NAMES)
def test_the_shipped_bundle_recognises_drawn_cells(kind: str, predictor: Predictor) -> None:
    rng = np.random.default_rng(21)
    drawn = [predictor.prepare(encode_jpeg(draw_field(kind, rng)))[1] for _ in range(40)]
    right = [prediction.label == kind for prediction in predictor.predict(drawn)]
    assert np.mean(right) >= 0.75


def odd(predictor: Predictor, oddity: str) -> list[Prediction]:
    rng = np.random.default_rng(22)
    drawn = [encode_jpeg(draw_field("NEUTROPHIL", rng, oddity=oddity)) for _ in range(10)]
    return predictor.predict([predictor.prepare(one)[1] for one in drawn])


@pytest.mark.parametrize("oddity", ["no-cell", "cut-off"])
def test_what_shows_no_whole_cell_is_flagged(predictor: Predictor, oddity: str) -> None:
    assert np.mean([one.flag != "" for one in odd(predictor, oddity)]) >= 0.8


def test_an_odd_stain_is_unfamiliar_and_its_cells_are_flagged_or_right(predictor: Predictor) -> None:
    found = odd(predictor, "odd-stain")
    assert all(one.unfamiliar for one in found)
    assert np.mean([one.flag != "" or one.label == "NEUTROPHIL" for one in found]) >= 0.8


def test_the_same_seed_draws_the_same_slides(tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert draw_slides(tmp_path / name, 20, seed=5) == 60
    for path in (tmp_path / "one").rglob("*.*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("drawn")
    demo._prepare_slides(out / "slides", DemoSettings(out=out, images=20))
    return out / "slides"


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["slides/patient-1/cell.jpg", "slides/.drawn", "slides/cell-0000.jpg", "slides"])
def test_slides_of_someone_else_are_left_alone(name: str, tmp_path: Path) -> None:
    (tmp_path / "lab" / name).parent.mkdir(parents=True)
    (tmp_path / "lab" / name).write_text("mine")
    before = snapshot(tmp_path)
    with pytest.raises(SettingsError, match=r"exists already.*another --out") as caught:
        demo._demo(DemoSettings(out=tmp_path / "lab"))
    assert caught.value.code == "demo-exists"
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("name", ["run/thesis.txt", "run/run.json"])
def test_a_run_of_someone_else_is_left_alone(name: str, drawn: Path, tmp_path: Path) -> None:
    shutil.copytree(drawn, tmp_path / "lab" / "slides")
    (tmp_path / "lab" / "run").mkdir()
    (tmp_path / "lab" / name).write_text("{}")
    with pytest.raises(SettingsError, match=r"choose another folder.*remove") as caught:
        demo._demo(DemoSettings(out=tmp_path / "lab", images=20))
    assert caught.value.code == "demo-exists"
    assert snapshot(tmp_path / "lab" / "run") == {Path(name).name: b"{}"}


def test_other_numbers_do_not_replace_what_was_drawn(drawn: Path, tmp_path: Path) -> None:
    slides = shutil.copytree(drawn, tmp_path / "slides")
    before = snapshot(slides)
    with pytest.raises(SettingsError, match="was not drawn with 21 cells"):
        demo._prepare_slides(slides, DemoSettings(out=tmp_path, images=21))
    demo._prepare_slides(slides, DemoSettings(out=tmp_path, images=20))
    assert snapshot(slides) == before


def test_drawing_that_was_interrupted_goes_on(drawn: Path, tmp_path: Path) -> None:
    slides = shutil.copytree(drawn, tmp_path / "slides")
    marker = slides / ".drawn.json"
    before = snapshot(slides)
    marker.write_text(DrawnSlides(images=20, seed=0, complete=False).model_dump_json())
    (slides / "smear-3-viral" / "cell-0003.jpg").unlink()
    demo._prepare_slides(slides, DemoSettings(out=tmp_path, images=20))
    assert snapshot(slides) == before
