"""``classify.py --embeddings``: the network's features beside the rows of a run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.errors import SettingsError
from core.images.drawings import CLASS_NAMES, draw_smear
from core.model.bundle import load_bundle
from core.model.opening import open_bundle
from core.model.predictor import Predictor
from pipelines.classification.run_folder import RunFolder
from pipelines.classification.storage import open_folder
from pipelines.classify import ClassifySettings, classify
from pipelines.demo import draw_slides

if TYPE_CHECKING:
    from pathlib import Path

    from core.model.engine import Usable

pytestmark = pytest.mark.usefixtures("in_this_process")

KEYS = ["slide", "image", "cell"]


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four fields of two slides; a part of two of them has no cell at all."""
    folder, rng = tmp_path_factory.mktemp("fields") / "slides", np.random.default_rng(2)
    for number, count in enumerate((0, 0, 3, 1)):
        rgb, _ = draw_smear(rng.choice(CLASS_NAMES, count).tolist(), rng)
        target = folder / f"slide-{number // 2}"
        target.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(target / f"field-{number}.png"), rgb[..., ::-1])
    return folder


def run(bundle: Path, slides: Path, out: Path, **options: object) -> Path:
    given = {"slides": str(slides), "out": str(out), "model": bundle, "part_size": 2, "cells": "all"}
    assert classify(ClassifySettings.model_validate(given | {"gradcam": "none"} | options)) == 0
    return out


def folder_of(run: Path) -> RunFolder:
    return RunFolder(open_folder(str(run)))


def check(run: Path, slides: Path, bundle: Usable, *, every: bool) -> None:
    """Every part has the rows of its predictions, and what the engine says of each cell."""
    folder, predictor = folder_of(run), Predictor(bundle, "cpu", 1)
    parts = list(folder.part_files("predictions"))
    assert [part for part, _ in folder.part_files("embeddings")] == [part for part, _ in parts]
    for part, name in parts:
        table, predictions = folder.read_table(f"embeddings/part-{part:08d}.parquet"), folder.read_table(name)
        assert table.schema.field("embedding").type == pa.list_(pa.float16(), predictor.count_features())
        assert table.select(KEYS).to_pylist() == predictions.select(KEYS).to_pylist()
        values = folder.read_embeddings(part)
        assert values.shape == (len(predictions), predictor.count_features())
        for row, features in zip(predictions.to_pylist(), values, strict=True):
            if row["label"] is None:
                assert np.isnan(features).all()
                continue
            data = (slides / row["slide"] / row["image"]).read_bytes()
            cells = predictor.prepare_every(data)[1] if every else [predictor.prepare(data)[1]]
            pixels = cells[max(0, row["cell"] - 1)].pixels
            expected = predictor._engine.answer(np.stack([pixels]), gradcam=False).features[0]
            np.testing.assert_allclose(features, expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("cells", ["one", "all"])
def test_the_features_are_the_engines(field_bundle: Path, slides: Path, tmp_path: Path, cells: str) -> None:
    out = run(field_bundle, slides, tmp_path / "run", cells=cells, embeddings=True)
    check(out, slides, load_bundle(field_bundle), every=cells == "all")


def test_they_are_openvinos_where_it_runs_the_network(exported_bundle: Path, slides: Path, tmp_path: Path) -> None:
    out = run(exported_bundle, slides, tmp_path / "run", embeddings=True)
    check(out, slides, open_bundle(exported_bundle, "openvino"), every=True)


def test_without_the_option_there_are_none_and_the_rows_are_the_same(
    field_bundle: Path, slides: Path, tmp_path: Path
) -> None:
    without = run(field_bundle, slides, tmp_path / "without")
    assert not (without / "embeddings").exists()
    with_them = run(field_bundle, slides, tmp_path / "with", embeddings=True)
    assert pq.read_table(with_them / "predictions").equals(pq.read_table(without / "predictions"))
    with pytest.raises(OSError, match="part-00000000"):
        folder_of(without).read_embeddings(0)


def test_a_run_that_was_killed_goes_on_to_the_same_features(field_bundle: Path, slides: Path, tmp_path: Path) -> None:
    """A kill between the two files of a part leaves features without predictions; the part is done again."""
    out = run(field_bundle, slides, tmp_path / "run", embeddings=True)
    before = pq.read_table(out / "embeddings")
    predictions = sorted((out / "predictions").iterdir())
    predictions[0].unlink()  # its features are there
    predictions[1].unlink()
    (out / "embeddings" / predictions[1].name).unlink()
    record = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(record | {"state": "running"}))
    with pytest.raises(SettingsError, match="embeddings = True, not False"):
        run(field_bundle, slides, out, resume=True)
    run(field_bundle, slides, out, embeddings=True, resume=True)
    assert pq.read_table(out / "embeddings").equals(before)


def test_an_adapted_run_has_the_features_of_the_adapted_network(small_bundle: Path, tmp_path: Path) -> None:
    draw_slides(tmp_path / "slides", 20, broken=False)
    options = {"cells": "one", "adapt": True, "embeddings": True, "part_size": 20}
    out = run(small_bundle, tmp_path / "slides", tmp_path / "run", **options)
    check(out, tmp_path / "slides", load_bundle(out / "bundle"), every=False)
