"""`figures`, whole, on drawings laid out like the real data: evaluations end in the bundle, the table in the README."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from core.errors import DataError
from core.images.drawings import CLASS_NAMES, draw_field
from core.model.bundle import load_bundle, write_metrics
from tools.figures import _UNKNOWN, BARCELONA, TEHRAN, FiguresSettings, figures, readme_table

if TYPE_CHECKING:
    from pathlib import Path


def draw(folder: Path, kinds: tuple[str, ...], count: int, rng: np.random.Generator) -> None:
    for kind in kinds:
        (folder / kind).mkdir(parents=True)
        for number in range(count):
            rgb = draw_field(kind if kind in CLASS_NAMES else "MONOCYTE", rng)
            cv2.imwrite(str(folder / kind / f"{kind}{number}.png"), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))


@pytest.mark.slow
def test_one_command_writes_every_figure(shipped: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    images = tmp_path / "data" / "blood-cells" / "images"
    draw(images / "TEST", CLASS_NAMES, 4, rng)
    draw(images / "TEST_SIMPLE", CLASS_NAMES, 1, rng)
    rows = [f"TEST/{kind}/{kind}{number}.png,{kind}{number // 2}" for kind in CLASS_NAMES for number in range(4)]
    (images.parent / "sources.csv").write_text("\n".join(["path,source", *rows]) + "\n")
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- figures -->\nold\n<!-- end of figures -->\nafter\n")
    shutil.copytree(shipped, tmp_path / "bundle")
    settings = FiguresSettings(data=tmp_path / "data", out=tmp_path / "out", bundle=tmp_path / "bundle", readme=readme)
    with pytest.raises(DataError, match="holds no folder labs"):
        figures(settings)
    draw(tmp_path / "data" / "labs" / "pbc" / "test", (*CLASS_NAMES, *_UNKNOWN), 4, rng)
    draw(tmp_path / "data" / "labs" / "lisc", (*CLASS_NAMES, "BASOPHIL"), 4, rng)
    metrics = load_bundle(shipped).metrics
    assert metrics
    write_metrics(tmp_path / "bundle", metrics.model_copy(update={"evaluations": {}}))
    assert figures(settings) == 0
    metrics = load_bundle(tmp_path / "bundle").metrics
    assert metrics
    assert metrics.evaluations["TEST"].evaluation.source.n == 8
    assert metrics.evaluations[TEHRAN].evaluation.source.n == 4, "numbers from 0 to 9 are one source"
    unknown = metrics.evaluations[BARCELONA].unknown
    assert unknown
    assert unknown.classes == _UNKNOWN
    assert readme.read_text() == (f"before\n<!-- figures -->\n{readme_table(metrics)}<!-- end of figures -->\nafter\n")
    assert "8 |" in readme.read_text()
    readme.write_text("no place for figures\n")
    with pytest.raises(DataError, match="no place"):
        figures(settings)
