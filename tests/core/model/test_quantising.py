"""8 bits: the same answers where it counts, or nothing is written."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from core.errors import SettingsError
from core.images.drawings import CLASS_NAMES, draw_field
from core.images.overlay import encode_jpeg
from core.model.bundle import load_bundle
from core.model.exported import load_exported
from core.model.quantising import LabelledImages, compare, unmet
from core.model.record import ComparedLaboratory
from pipelines.export import ExportSettings, export

if TYPE_CHECKING:
    from core.model.bundle import Bundle

GOOD = ComparedLaboratory(
    name="lab", home=True, images=100, accuracy_before=0.9, accuracy=0.9, agreement=1, peaks=1, flags=1
)


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of classes with drawn cells."""
    root, rng = tmp_path_factory.mktemp("cells"), np.random.default_rng(3)
    for kind in CLASS_NAMES:
        (root / kind).mkdir()
        for number in range(6):
            (root / kind / f"{number}.jpg").write_bytes(encode_jpeg(draw_field(kind, rng)))
    return root


def images(bundle: Bundle, *, home: bool) -> LabelledImages:
    rng, search = np.random.default_rng(1), bundle.cell_search()
    pixels = np.stack([search.prepare(draw_field(kind, rng)).pixels for kind in CLASS_NAMES for _ in range(3)])
    return LabelledImages("drawn", home, pixels, np.repeat(np.arange(len(CLASS_NAMES)), 3))


def test_an_engine_is_as_near_to_itself_as_can_be(bundle: Bundle) -> None:
    engine, count = bundle.engine("cpu"), len(bundle.class_names)
    found = compare(images(bundle, home=True), engine, engine, bundle.record.confidence, count)
    assert (found.agreement, found.peaks, found.flags, found.images) == (1, 1, 1, 12)
    assert found.accuracy == found.accuracy_before
    assert unmet(found) == []


@pytest.mark.parametrize(
    ("changes", "home", "missed"),
    [
        ({"accuracy": 0.895}, True, ["accuracy"]),
        ({"accuracy": 0.895}, False, []),
        ({"accuracy": 0.88}, False, ["accuracy"]),
        ({"accuracy": 0.95}, True, []),
        ({"agreement": 0.98}, True, ["label"]),
        ({"agreement": 0.98}, False, []),
        ({"peaks": 0.97, "flags": 0.96}, False, ["maps", "flag"]),
    ],
)
def test_what_is_not_good_enough_is_told(changes: dict[str, float], home: bool, missed: list[str]) -> None:
    told = unmet(GOOD.model_copy(update={**changes, "home": home}))
    assert len(told) == len(missed)
    for sentence, word in zip(told, missed, strict=True):
        assert sentence.startswith("lab: ")
        assert word in sentence


@pytest.mark.slow
def test_a_network_in_8_bits_is_written_where_it_says_the_same(field_bundle: Path, cells: Path, tmp_path: Path) -> None:
    pytest.importorskip("nncf", reason="NNCF is an extra")
    folder = Path(shutil.copytree(field_bundle, tmp_path / "bundle"))
    settings = {"bundle": folder, "engine": "openvino", "precision": "int8", "images": cells, "compare": cells}
    assert export(ExportSettings.model_validate(settings)) == 0
    bundle, exported = load_bundle(folder), load_exported(folder)
    assert exported.export.precision == "int8"
    (found,) = exported.export.laboratories
    assert (found.images, found.home) == (24, False)
    assert found.agreement >= 0.97
    pixels = images(bundle, home=True).pixels
    one, other = (
        bundle.record.confidence.probabilities(engine.answer(pixels, gradcam=False).logits)
        for engine in (bundle.engine("cpu"), exported.engine("cpu"))
    )
    np.testing.assert_allclose(other, one, atol=0.1)


@pytest.mark.slow
def test_nothing_is_written_where_it_says_something_else(
    field_bundle: Path, cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nncf", reason="NNCF is an extra")
    folder = Path(shutil.copytree(field_bundle, tmp_path / "bundle"))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    monkeypatch.setattr("core.model.quantising._LEAST_FLAGS", 1.1)
    settings = {"bundle": folder, "engine": "openvino", "precision": "int8", "images": cells, "compare": cells}
    with pytest.raises(SettingsError, match=r"cells0: .* the same flag.*Nothing was written"):
        export(ExportSettings.model_validate(settings))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "options",
    [
        {"engine": "openvino", "precision": "int8"},
        {"engine": "openvino", "precision": "int8", "images": "cells"},
        {"engine": "openvino", "images": "cells"},
        {"out": "x.onnx", "precision": "int8", "images": "cells", "compare": "cells"},
    ],
)
def test_options_that_contradict_each_other_are_refused(field_bundle: Path, options: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="--precision"):
        export(ExportSettings.model_validate({"bundle": field_bundle, **options}))


def test_without_the_package_a_sentence_says_so(
    field_bundle: Path, cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is an extra")
    monkeypatch.setitem(sys.modules, "nncf", None)
    folder = Path(shutil.copytree(field_bundle, tmp_path / "bundle"))
    settings = {"bundle": folder, "engine": "openvino", "precision": "int8", "images": cells, "compare": cells}
    with pytest.raises(SettingsError, match="pip install"):
        export(ExportSettings.model_validate(settings))
