"""``compare``: what changed between two runs, and what cannot be said."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from made_runs import CLASSES, MadeRun

from core.errors import BundleError, DataError, SettingsError
from core.images.drawings import CLASS_NAMES, draw_field
from core.images.reading import prepare_image
from core.model.bundle import load_bundle, save_bundle
from core.model.familiarity import fit_familiarity
from pipelines.classification.run_folder import RunFolder
from pipelines.classification.storage import open_folder
from pipelines.classify import ClassifySettings, classify
from pipelines.compare import SOMETHING_CHANGED, CompareSettings, compare, main
from pipelines.comparing.reading import open_finished, read_run
from pipelines.comparing.record import ComparisonRecord, Limits
from pipelines.comparing.runs import compare_runs
from pipelines.comparing.sample import CellSample, cell_keys

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page

    from pipelines.comparing.reading import RunData

BEFORE = MadeRun(seed=1, embeddings=True)
LIKE_BEFORE = replace(BEFORE, seed=2, source="/slides/b")
RESTAINED = replace(LIKE_BEFORE, stain=(0.8, 0.7, 0.9), unfamiliar=0.8, unlike=0.3, moved=0.5, confidence=5.0)


def compared(first: Path | str, second: Path, out: Path, **options: object) -> tuple[int, ComparisonRecord]:
    given = {"run_a": str(first), "run_b": str(second), "out": out, "resamples": 300} | options
    code = compare(CompareSettings.model_validate(given))
    return code, ComparisonRecord.model_validate_json((out / "compare.json").read_text())


def verdicts(record: ComparisonRecord) -> dict[str, str]:
    return {finding.name: finding.verdict for finding in record.findings}


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return BEFORE.write(tmp_path_factory.mktemp("made") / "before")


@pytest.fixture(scope="module")
def restained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return RESTAINED.write(tmp_path_factory.mktemp("made") / "restained")


def test_runs_that_are_alike_have_not_changed(before: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, record = compared(before, LIKE_BEFORE.write(tmp_path / "now"), tmp_path / "out")
    assert code == 0
    assert record.with_verdict("changed") == []
    assert len(record.with_verdict("same")) >= 5
    assert not record.paired
    assert (record.first.slides, record.first.cells, record.second.embeddings) == (8, 480, 480)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(record.findings) == 4 + 1 + 5 + 1 + 9 + 1
    assert all(line.startswith(("same ", "cannot say ")) for line in lines)


def test_another_stain_has_changed(before: Path, restained: Path, tmp_path: Path, page: Page) -> None:
    code, record = compared(before, restained, tmp_path / "out")
    assert code == SOMETHING_CHANGED == 3
    found = verdicts(record)
    changed = {finding.name for finding in record.with_verdict("changed")}
    assert {"cells of an unfamiliar stain", "cells unlike the training images", "confidence", "flagged"} <= changed
    assert sum(finding.group == "colours" for finding in record.with_verdict("changed")) == 9
    assert sum(finding.group == "embeddings" for finding in record.with_verdict("changed")) == 1
    assert "changed" not in {found[name.capitalize()] for name in CLASSES}
    green = next(finding for finding in record.findings if finding.name == "nucleus, green")
    assert (green.first, green.second) == (pytest.approx(70, abs=4), pytest.approx(49, abs=4))
    for finding in record.findings:
        assert finding.low is not None
        assert finding.high is not None
        assert finding.low <= (finding.effect or 0) <= finding.high
    page.goto((tmp_path / "out" / "index.html").as_uri())
    assert "Changed." in page.inner_text(".outcome")
    assert page.locator(".pill.changed").count() == len(changed)
    assert all(page.locator("img").nth(number).evaluate("image => image.naturalWidth > 0") for number in range(5))
    page.set_viewport_size({"width": 400, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


def test_a_changed_differential_is_seen_and_the_rest_is_not_blamed(before: Path, tmp_path: Path) -> None:
    other = replace(LIKE_BEFORE, shares=(0.4, 0.2, 0.05, 0.35))
    code, record = compared(before, other.write(tmp_path / "now"), tmp_path / "out", embeddings=0)
    assert code == 3
    assert {finding.name for finding in record.with_verdict("changed")} == {"Eosinophil", "Neutrophil"}
    assert record.second.embeddings == 0


def test_the_same_slides_are_drawn_in_pairs(before: Path, tmp_path: Path) -> None:
    """What slides have in common, such as rare classes, is no uncertainty of what changed between two looks at them."""
    code, record = compared(before, replace(BEFORE).write(tmp_path / "again"), tmp_path / "out")
    assert (code, record.verdict, record.paired) == (0, "same", True)
    for finding in record.findings:
        assert (finding.effect, finding.low, finding.high) == pytest.approx((0, 0, 0), abs=1e-9)
    assert any("drawn in pairs" in note for note in record.notes)


def test_of_few_slides_and_few_cells_nothing_is_said(before: Path, tmp_path: Path) -> None:
    few = replace(RESTAINED, slides=4).write(tmp_path / "few")
    code, record = compared(before, few, tmp_path / "out")
    assert (code, record.verdict) == (0, "cannot say")
    assert {finding.why for finding in record.findings} == {"4 slides with cells, fewer than 5"}
    assert all(finding.low is None for finding in record.findings)
    assert "Embeddings are not compared: 4 slides with cells, fewer than 5." in record.notes
    assert compared(before, few, tmp_path / "asked", fewest_slides=4)[0] == 3
    code, record = compared(before, replace(RESTAINED, cells=9).write(tmp_path / "small"), tmp_path / "cells")
    assert {finding.why for finding in record.findings} == {"72 cells, fewer than 100"}


def test_a_share_that_nobody_has_seen_is_as_sure_as_counting_makes_it(before: Path, tmp_path: Path) -> None:
    never = replace(BEFORE, unlike=0.0, slides=5, cells=21, source="/slides/never").write(tmp_path / "never")
    never_either = replace(LIKE_BEFORE, unlike=0.0, slides=5, cells=21).write(tmp_path / "either")
    _, record = compared(never, never_either, tmp_path / "out")
    finding = next(one for one in record.findings if one.name == "cells unlike the training images")
    assert (finding.first, finding.second, finding.effect, finding.verdict) == (0, 0, 0, "cannot say")


def test_another_bundle_is_said_and_what_is_its_own_is_left_out(before: Path, tmp_path: Path) -> None:
    other = replace(LIKE_BEFORE, bundle="c" * 64, classes=("BASOPHIL", *CLASSES[1:])).write(tmp_path / "now")
    _, record = compared(before, other, tmp_path / "out")
    assert {"Eosinophil", "Basophil", "out-of-distribution score"}.isdisjoint(verdicts(record))
    assert {"Lymphocyte", "confidence", "nucleus, red"} <= verdicts(record).keys()
    assert "different bundles" in record.notes[0]
    assert "only the first run knows EOSINOPHIL; only the second run knows BASOPHIL; the others" in record.notes[1]
    elsewhere = replace(LIKE_BEFORE, bundle="c" * 64, classes=("A", "B", "C", "D"), preprocessing="q", stains=0)
    _, record = compared(before, elsewhere.write(tmp_path / "elsewhere"), tmp_path / "none")
    assert "no class is in both" in " ".join(record.notes)
    assert not any(finding.group in {"classes", "colours"} for finding in record.findings)
    prepared = replace(LIKE_BEFORE, bundle="c" * 64, preprocessing="q").write(tmp_path / "prepared")
    assert "prepare cells in different ways" in " ".join(compared(before, prepared, tmp_path / "q")[1].notes)


def test_what_is_no_finished_run_is_refused_with_a_sentence(before: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    stopped = LIKE_BEFORE.write(tmp_path / "stopped", state="stopped")
    for other, error, said in (
        (tmp_path / "nowhere", DataError, r"no run at .*nowhere: it has no run\.json"),
        (tmp_path / "empty", DataError, "no run at"),
        (stopped, SettingsError, "not finished.*--resume"),
        (replace(BEFORE, cells=0).write(tmp_path / "no-cells"), DataError, "found no white cell"),
        (before, SettingsError, "given twice"),
    ):
        with pytest.raises(error, match=said):
            compared(before, other, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(SettingsError, match="exists already"):
        compared(before, stopped, tmp_path / "out")


def test_a_damaged_run_is_refused_with_a_sentence(before: Path, restained: Path, tmp_path: Path) -> None:
    def damaged(name: str) -> Path:
        return shutil.copytree(restained, tmp_path / name)

    missing, torn, short, lost = (damaged(name) for name in ("missing", "torn", "short", "lost"))
    parts = sorted(path.name for path in (restained / "predictions").iterdir())
    (missing / "predictions" / parts[3]).unlink()
    (torn / "predictions" / parts[3]).write_bytes(b"PAR1 and no more")
    shutil.copy(restained / "predictions" / parts[-1], short / "predictions" / parts[0])
    (lost / "embeddings" / parts[0]).unlink()
    for run, said in (
        (missing, "1 of its 10 parts are missing"),
        (torn, f"predictions/{parts[3]} cannot be read"),
        (short, r"its parts hold \d+ cells, and run.json says 480|rows where predictions/ has"),
        (lost, "cannot be read"),
    ):
        with pytest.raises(SettingsError, match=said) as caught:
            compared(before, run, tmp_path / "out")
        assert caught.value.code == "run-damaged"


def test_the_command_line_has_exit_codes(before: Path, restained: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    for second, code in ((restained, 3), (tmp_path / "nowhere", 2)):
        monkeypatch.setattr("sys.argv", ["compare", str(before), str(second), "--out", str(tmp_path / f"out-{code}")])
        assert main() == code
    assert re.search(r"error: There is no run at .*nowhere", capsys.readouterr().err)


def test_a_sample_is_the_same_whatever_the_parts_are(before: Path, tmp_path: Path) -> None:
    whole = replace(BEFORE, per_part=1000).write(tmp_path / "whole")
    samples = [read_run(*open_finished(str(run)), 100).sample for run in (before, whole)]
    for one, other in zip(*samples, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(samples[0][0]) == 100
    names = [("s", "i", number) for number in range(1000)]
    sample, reads = CellSample(10), 0

    def read(start: int) -> np.ndarray:
        nonlocal reads
        reads += 1
        return np.arange(start, start + 20, dtype=np.float16)[:, None]

    for start in range(0, 1000, 20):
        sample.add(cell_keys(names[start : start + 20]), np.zeros(20, np.int32), lambda start=start: read(start))
    assert sample.taken()[1].ravel().tolist() == np.argsort(cell_keys(names))[:10].tolist()
    assert reads < 40  # parts without a chosen cell are not read


def test_few_pairs_of_like_runs_are_called_changed() -> None:
    """Of 40 pairs of runs of one laboratory, whose slides differ among themselves, at most one has a changed share."""
    alarms = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        alarms += any(
            finding.verdict == "changed"
            for finding in compare_runs(*(drawn_data(rng) for _ in range(2)), Limits(), resamples=300, seed=0).findings
        )
    assert alarms <= 1


def drawn_data(rng: np.random.Generator) -> RunData:
    """What `read_run` gives of six slides, whose shares of classes and scores vary from slide to slide."""
    from core.settings import time_stamp
    from pipelines.classification.record import RunArguments, RunBundle, RunRecord
    from pipelines.comparing.reading import RunData

    cells = np.array([80.0] * 6)
    classes = np.stack([rng.multinomial(80, share) for share in rng.dirichlet((2, 10, 2, 20), 6)], 1).astype(float)
    counts = dict.fromkeys(("rows", "images", "cells", "identified"), cells) | {"empty": np.zeros(6)}
    for name in ("flagged", "unsure", "unlike", "unfamiliar"):
        counts[name] = rng.binomial(80, rng.beta(2, 30, 6)).astype(float)
    counts |= {f"class {name}": part for name, part in zip(CLASSES, classes, strict=True)}
    slide = np.repeat(np.arange(6, dtype=np.int32), 80)
    scores = (rng.normal(0, 1, 480) + rng.normal(0, 0.3, 6)[slide]).astype(np.float32)
    means = rng.normal(120, 4, (6, 9))
    colours = np.concatenate([cells[:, None], 80 * means, 80 * (means**2 + 64)], 1)
    arguments = RunArguments(
        slides=str(rng.random()), gradcam="none", colour_map="jet", batch_size=32, limit=None, part_size=None
    )
    bundle = RunBundle(path="", id="b", classes=CLASSES)
    record = RunRecord.begin(arguments, bundle).model_copy(update={"finished": time_stamp()})
    return RunData("made", record, list("abcdef"), counts, colours, slide, scores, scores, None)


@pytest.fixture(scope="module")
def familiar(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that knows drawn cells as they are drawn."""
    given, rng = load_bundle(small_bundle), np.random.default_rng(1)
    fields = [draw_field(CLASS_NAMES[number % 4], rng) for number in range(100)]
    inputs = [prepare_image(field, given.record.preprocessing)[1].pixels for field in fields]
    record = given.record.model_copy(update={"familiarity": fit_familiarity({"drawn": inputs})})
    folder = tmp_path_factory.mktemp("familiar") / "bundle"
    save_bundle(folder, given.network, given.class_names, record, None, "# A test\n")
    return folder


def classified(bundle: Path, folder: Path, seed: int, factors: tuple[float, float, float] = (1, 1, 1)) -> Path:
    """A run of five slides of drawn cells, each channel multiplied."""
    rng = np.random.default_rng(seed)
    for slide in range(5):
        (folder / "slides" / f"{slide}").mkdir(parents=True)
        for number in range(12):
            rgb = draw_field(CLASS_NAMES[number % 4], rng) * np.array(factors)
            cv2.imwrite(str(folder / "slides" / f"{slide}" / f"{number}.png"), rgb[..., ::-1].astype(np.uint8))
    options = {"model": bundle, "gradcam": "none", "embeddings": True}
    settings = {"slides": str(folder / "slides"), "out": str(folder / "run"), **options}
    assert classify(ClassifySettings.model_validate(settings)) == 0
    return folder / "run"


@pytest.mark.usefixtures("in_this_process")
def test_real_runs_of_one_stain_and_of_another(familiar: Path, small_bundle: Path, tmp_path: Path) -> None:
    first, second = (classified(familiar, tmp_path / str(seed), seed) for seed in (3, 4))
    greener = classified(familiar, tmp_path / "greener", 5, (0.6, 1, 0.75))
    assert compared(first, second, tmp_path / "same", fewest_cells=40)[0] == 0
    code, record = compared(first, greener, tmp_path / "changed", fewest_cells=40)
    assert code == 3
    assert verdicts(record)["cells of an unfamiliar stain"] == "changed"
    assert verdicts(record)["nucleus, red"] == "changed"

    code, record = compared("training", second, tmp_path / "home", fewest_cells=40)
    assert (code, record.first.kind) == (0, "training")
    assert verdicts(record).keys() >= {"cells of an unfamiliar stain", "nucleus, red"}
    assert "A bundle keeps no training image" in record.notes[0]
    code, record = compared(familiar, greener, tmp_path / "away", fewest_cells=40)
    assert code == 3
    assert verdicts(record)["cells of an unfamiliar stain"] == "changed"
    assert "laboratory drawn" in " ".join(record.notes)
    with pytest.raises(SettingsError, match="give the bundle that it was made with"):
        compared(small_bundle, greener, tmp_path / "other", fewest_cells=40)
    run = RunFolder(open_folder(str(greener)))
    made = run.read_record()
    moved = made.bundle.model_copy(update={"path": str(tmp_path / "gone")})
    run.write_record(made.model_copy(update={"bundle": moved}))
    with pytest.raises(BundleError, match=r"no bundle at .*gone"):
        compared("training", greener, tmp_path / "none", fewest_cells=40)
