"""Slides whose cells as a whole are unlike the training images are marked, with a sentence that says what to do."""

from __future__ import annotations

import csv
from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from core.images.drawings import CLASS_NAMES, draw_field
from core.images.reading import prepare_image
from core.model.bundle import load_bundle, save_bundle
from core.model.familiarity import fit_familiarity, stain_colours
from core.model.predictor import Predictor
from pipelines.classification.run_folder import RunFolder
from pipelines.classification.stains import COLOURS, colour_sums
from pipelines.classification.storage import open_folder
from pipelines.classification.summary import Slide
from pipelines.classify import ClassifySettings, classify

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page

pytestmark = pytest.mark.usefixtures("in_this_process")


@pytest.fixture(scope="module")
def bundle(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that knows drawn cells as they are drawn."""
    given, rng = load_bundle(small_bundle), np.random.default_rng(1)
    fields = [draw_field(CLASS_NAMES[number % 4], rng) for number in range(150)]
    inputs = [prepare_image(field, given.record.preprocessing)[1].pixels for field in fields]
    record = given.record.model_copy(update={"familiarity": fit_familiarity({"drawn": inputs})})
    folder = tmp_path_factory.mktemp("familiar") / "bundle"
    save_bundle(folder, given.network, given.class_names, record, None, "# A test\n")
    return folder


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty cells as they are drawn, and twenty of a greener stain."""
    root, rng = tmp_path_factory.mktemp("slides"), np.random.default_rng(2)
    for name, factors in (("same", (1, 1, 1)), ("greener", (0.6, 1, 0.75))):
        (root / name).mkdir()
        for number in range(20):
            rgb = draw_field(CLASS_NAMES[number % 4], rng) * np.array(factors)
            cv2.imwrite(str(root / name / f"{number}.png"), rgb[..., ::-1].astype(np.uint8))
    return root


def run(bundle: Path, slides: Path, out: Path, **options: object) -> dict[str, str]:
    settings = {"slides": str(slides), "out": str(out), "model": bundle, "gradcam": "none", "part_size": 7} | options
    assert classify(ClassifySettings.model_validate(settings)) == 0
    with (out / "slides.csv").open(newline="") as stream:
        return {row["slide"]: row["unfamiliar"] for row in csv.DictReader(stream)}


def test_only_the_other_stain_is_marked(bundle: Path, slides: Path, tmp_path: Path, page: Page) -> None:
    assert run(bundle, slides, tmp_path / "run") == {"same": "no", "greener": "yes"}
    page.goto((tmp_path / "run" / "report" / "index.html").as_uri())
    said = page.inner_text(".warning")
    assert "1 slide is unfamiliar" in said
    assert "--adapt" in said
    assert page.locator("td .note", has_text="unfamiliar").count() == 1
    page.click("text=greener")
    assert "stained unlike the training images" in page.inner_text("main, body")


def test_a_bundle_that_does_not_know_its_stains_marks_nothing(small_bundle: Path, slides: Path, tmp_path: Path) -> None:
    assert run(small_bundle, slides, tmp_path / "run") == {"same": "no", "greener": "no"}
    assert "unfamiliar" not in (tmp_path / "run" / "report" / "index.html").read_text()


def test_a_share_must_be_surely_large() -> None:
    slide = Slide("s")
    for n, unfamiliar, marked in ((20, 7, False), (20, 12, True), (200, 60, False), (200, 75, True), (0, 0, False)):
        slide.counts.clear()
        slide.counts["A"] = n
        assert replace(slide, n_unfamiliar=unfamiliar).unfamiliar is marked


def test_the_colours_of_each_slide_are_kept_beside_its_rows(bundle: Path, slides: Path, tmp_path: Path) -> None:
    run(bundle, slides, tmp_path / "run")
    predictor, folder = Predictor(load_bundle(bundle), "cpu"), RunFolder(open_folder(str(tmp_path / "run")))
    sums = np.zeros(1 + 2 * COLOURS)
    for _, name in folder.part_files("predictions"):
        sums += colour_sums(folder.read_table(name)).get("greener", 0)
    inputs = [predictor.prepare(path.read_bytes())[1].pixels for path in (slides / "greener").iterdir()]
    colours = np.stack([stain_colours(pixels) for pixels in inputs])
    assert sums[0] == len(colours) == 20
    np.testing.assert_allclose(sums[1:10] / 20, colours.mean(axis=0))
    np.testing.assert_allclose(np.sqrt(sums[10:] / 20 - (sums[1:10] / 20) ** 2), colours.std(axis=0), rtol=1e-6)
