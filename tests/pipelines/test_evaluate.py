"""`evaluate` and `export`, whole: tables, page, protocol, comparison, unknown types; the ONNX file's numbers."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch
import yaml

from core.errors import BundleError, DataError, SettingsError
from core.images.drawings import CLASS_NAMES, draw_field
from core.model.bundle import Bundle, load_bundle
from core.model.engine import normalise_maps
from core.model.gradcam import one_pass_gradcam
from core.model.torch_engine import forward
from pipelines.evaluate import EvaluateSettings, evaluate
from pipelines.evaluating.record import EvaluationRecord
from pipelines.export import ExportSettings, export

if TYPE_CHECKING:
    from playwright.sync_api import Page

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of drawings, two views of each of five fields per class, debris, and one broken file."""
    root = tmp_path_factory.mktemp("evaluate")
    rng = np.random.default_rng(12)
    for kind in (*CLASS_NAMES, "DEBRIS"):
        (root / "cells" / kind).mkdir(parents=True)
        for field in range(5):
            rgb = draw_field("MONOCYTE", rng)[..., ::-1] if kind == "DEBRIS" else draw_field(kind, rng)
            for view, picture in enumerate((rgb, rgb[:, ::-1])):
                bgr = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2BGR)
                cv2.imwrite(str(root / "cells" / kind / f"{kind}{field}-{view}.png"), bgr)
    (root / "cells" / "MONOCYTE" / "broken.png").write_bytes(b"nothing")
    return root / "cells"


@pytest.fixture(scope="module")
def bundles(small_bundle: Path, shipped: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Copies of the shipped bundle and of one with random weights."""
    folder = tmp_path_factory.mktemp("bundles")
    for name, source in (("shipped", shipped), ("random", small_bundle)):
        shutil.copytree(source, folder / name)
    return folder / "shipped", folder / "random"


def settings(bundle: Path, data: Path, out: Path, **options: object) -> EvaluateSettings:
    given = {"bundle": bundle, "data": data, "out": out, "groups": r"name:^(\w+)-", "unknown": ["DEBRIS"]}
    return EvaluateSettings.model_validate(given | {"resamples": 100, "device": "cpu"} | options)


@pytest.fixture(scope="module")
def report(bundles: tuple[Path, Path], data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report") / "r"
    options = {"compare": bundles[1], "protocol": "notebook", "record": "drawings"}
    assert evaluate(settings(bundles[0], data, out, **options)) == 0
    return out


def read(folder: Path) -> EvaluationRecord:
    return EvaluationRecord.model_validate_json((folder / "evaluation.json").read_text())


def test_everything_is_measured_and_written(report: Path) -> None:
    record = read(report)
    assert record.evaluation.image.n == 40
    assert record.evaluation.source.n == record.evaluation.sources == 20
    assert record.data.unreadable == 1
    assert record.data.grouped
    assert record.unknown
    assert record.unknown.n == 10
    assert record.unknown.auroc.low is not None
    assert 0 <= record.unknown.auroc.low <= record.unknown.auroc.value <= 1
    assert record.comparison
    assert record.comparison.source_accuracy.value > 0
    assert record.heatmaps.n == 40
    assert {path.name for path in report.iterdir()} >= {
        "index.html",
        "predictions.csv",
        "scores.csv",
        "confusion.csv",
        "reliability.csv",
        "risk_coverage.csv",
        "confusion.png",
        "reliability.png",
        "risk_coverage.png",
        "ood.png",
    }
    with (report / "predictions.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 50
    assert {row["label"] for row in rows} == {*CLASS_NAMES, "DEBRIS"}
    known = [row for row in rows if row["label"] != "DEBRIS"]
    right = np.mean([row["label"] == row["predicted"] for row in known])
    assert right == pytest.approx(record.evaluation.image.accuracy.value)
    with (report / "reliability.csv").open() as stream:
        assert sum(float(row["count"]) for row in csv.DictReader(stream) if row["level"] == "image") == 40


def test_the_page_in_a_browser(report: Path, page: Page) -> None:
    page.goto((report / "index.html").as_uri())
    assert "of 20 sources right" in page.inner_text("body")
    page.evaluate("for (const image of document.images) image.loading = 'eager'")
    page.wait_for_function("[...document.images].every(image => image.complete)")
    assert all(page.evaluate("[...document.images].map(image => image.naturalWidth > 0)"))
    assert page.locator("figure").count() == len(list((report / "mistakes").glob("*.jpg")))
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_notebooks_split_is_stratified_and_warned_about(report: Path) -> None:
    part = read(report).notebook
    assert part
    assert (part.validation_images, part.test_images) == (12, 28)
    assert part.sources_also_in_validation > 0
    page = (report / "index.html").read_text()
    assert "also among its 12 validation images" in page
    assert "For Research Use Only. Not for use in diagnostic procedures." in page


@pytest.mark.slow
def test_the_notebooks_split_has_the_notebooks_supports(blood_cells: Path, shipped: Path, tmp_path: Path) -> None:
    groups = str(blood_cells / "sources.csv")
    options = {"groups": groups, "unknown": [], "protocol": "notebook", "resamples": 0, "mistakes": 2}
    assert evaluate(settings(shipped, blood_cells / "images" / "TEST", tmp_path / "r", **options)) == 0
    part = read(tmp_path / "r").notebook
    assert part
    assert [part.evaluation.image.per_class[name].support for name in CLASS_NAMES] == [436, 434, 434, 436]
    assert part.sources == 71
    assert len(list((tmp_path / "r" / "mistakes").glob("*.jpg"))) == 2


def test_an_evaluation_is_written_into_the_bundle(report: Path, bundles: tuple[Path, Path], data: Path) -> None:
    before = load_bundle(bundles[0])
    assert before.metrics
    recorded = before.metrics.evaluations["drawings"]
    assert recorded.times == 1
    assert recorded.evaluation == read(report).evaluation.without_curves()
    assert recorded.notebook
    assert recorded.notebook.evaluation.image.risk_coverage == []
    assert recorded.data.path is None
    assert recorded.data.fingerprint == read(report).data.fingerprint
    card = (bundles[0] / "README.md").read_text()
    assert "| drawings, images | 40 |" in card
    assert "- drawings: evaluated once with these weights." in card
    assert evaluate(settings(bundles[0], data, report.parent / "again", record="drawings", resamples=0)) == 0
    after = load_bundle(bundles[0])
    assert after.metrics
    assert after.metrics.evaluations["drawings"].times == 2
    assert after.id == before.id
    assert "- drawings: evaluated 2 times with these weights." in (bundles[0] / "README.md").read_text()


def test_what_cannot_be_recorded_is_refused_before_it_is_measured(
    bundles: tuple[Path, Path], data: Path, tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match=r"made by train\.py"):
        evaluate(settings(bundles[1], data, tmp_path / "r", record="drawings"))
    with pytest.raises(BundleError, match="other data"):
        evaluate(settings(bundles[0], data, tmp_path / "r", record="TEST"))
    assert not (tmp_path / "r").exists()


def test_every_laboratory_of_a_file_gets_a_report(
    bundles: tuple[Path, Path], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = {"name": "one", "path": str(data), "unknown": ["DEBRIS"]}
    two = {"name": "two", "path": str(data), "ignored": ["DEBRIS"], "half": "odd"}
    (tmp_path / "labs.yaml").write_text(yaml.safe_dump({"laboratories": [one, two]}))
    options = {"groups": None, "unknown": [], "resamples": 0}
    assert evaluate(settings(bundles[0], tmp_path / "labs.yaml", tmp_path / "r", **options)) == 0
    assert (read(tmp_path / "r" / "one").evaluation.image.n, read(tmp_path / "r" / "two").evaluation.image.n) == (
        40,
        20,
    )
    assert read(tmp_path / "r" / "two").unknown is None
    assert (tmp_path / "r" / "two" / "index.html").is_file()
    said = capsys.readouterr().out
    assert said.index("one:") < said.index("two:")


def test_unnamed_class_folders_and_other_mistakes_are_refused(
    bundles: tuple[Path, Path], data: Path, report: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="--unknown"):
        evaluate(settings(bundles[0], data, tmp_path / "r", unknown=[]))
    with pytest.raises(SettingsError, match="exists already"):
        evaluate(settings(bundles[0], data, report))
    with pytest.raises(DataError, match="no image"):
        evaluate(settings(bundles[0], data, tmp_path / "r", groups="name:zzz"))
    for kind in ("EOSINOPHIL", "LYMPHOCYTE"):
        (tmp_path / "bad" / kind).mkdir(parents=True)
        (tmp_path / "bad" / kind / "x.jpg").write_bytes(b"nothing")
    with pytest.raises(DataError, match="No readable image"):
        evaluate(settings(bundles[0], tmp_path / "bad", tmp_path / "r", groups=None, unknown=[]))
    with pytest.raises(DataError, match="holds no DEBRIS"):
        evaluate(settings(bundles[0], tmp_path / "bad", tmp_path / "r", groups=None))
    with pytest.raises(DataError, match="named twice"):
        evaluate(settings(bundles[0], data, tmp_path / "r", unknown=["MONOCYTE"]))
    assert not (tmp_path / "r").exists()


def test_the_onnx_file_gives_the_same_logits_and_maps(bundle: Bundle, small_bundle: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    command = [sys.executable, "pipelines/export.py", str(small_bundle), "--out", str(tmp_path / "b.onnx")]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "differs from PyTorch" in done.stderr
    with pytest.raises(SettingsError, match="exists already"):
        export(ExportSettings(bundle=small_bundle, out=tmp_path / "b.onnx"))
    session = onnxruntime.InferenceSession(tmp_path / "b.onnx", providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(3)
    pixels = np.stack([bundle.record.preprocessing.prepare(draw_field(kind, rng)).pixels for kind in CLASS_NAMES])
    logits, maps = session.run(["logits", "class_maps"], {"pixels": pixels})
    with torch.inference_mode():
        outputs = forward(bundle.network, bundle.record.preprocessing.normalise(torch.from_numpy(pixels)))
    np.testing.assert_allclose(logits, outputs.logits.numpy(), atol=1e-4)
    for label in range(len(CLASS_NAMES)):
        classes = torch.full((len(pixels),), label)
        expected = one_pass_gradcam(outputs.feature_map, bundle.network.get_classifier().weight.detach(), classes)
        found = normalise_maps(np.maximum(maps[:, label], 0))
        np.testing.assert_allclose(found, normalise_maps(expected.numpy()), atol=1e-4, rtol=0)
    record = json.loads(session.get_modelmeta().custom_metadata_map["leukoray"])
    assert record["bundle"] == bundle.id
    assert record["class_maps"] == {"stride": 32, "top": 0.0, "left": 0.0}
    assert record["class_names"] == list(CLASS_NAMES)
